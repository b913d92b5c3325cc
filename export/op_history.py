"""Writes op_history.txt: since which TensorFlow Serving each op can be loaded. Only whoever adds a release needs it.

    pip download --no-deps --only-binary :all: --python-version 3.11 -d wheels tensorflow-cpu==2.12.0  # and later ones
    pip download --no-deps --only-binary :all: --python-version 3.11 -d wheels tensorflow-text==2.12.1  # and 2.20.0
    python -m export.op_history --wheels=wheels

TensorFlow Serving 2.N is linked against TensorFlow 2.N, so an op of TensorFlow's own loads from the first 2.N whose
wheel registers it: the libraries of each wheel are asked for their op list through the C API. tensorflow-text is
another matter. By `tensorflow_serving/workspace.bzl` of each tag, releases 2.12.0 to 2.19.1 are linked against its
2.12.1, and 2.20.0 against 2.20.0. Releases before 2.12 have no FastBertNormalize,
so no export of this project loads there.
"""

from tfbert import quiet  # isort: skip  # noqa: F401 (first: it holds back start-up noise)

import dataclasses
import glob
import os
import re
import subprocess
import sys
import tempfile
import zipfile

from tensorflow.core.framework import op_def_pb2

from export import audit
from tfbert import checks, config

# tensorflow-text's release -> TensorFlow Serving's first release that links it.
TEXT_RELEASES = {"2.12": "2.12", "2.20": "2.20"}


@dataclasses.dataclass(frozen=True)
class OpHistoryConfig:
    """Flags of this program."""

    wheels: str = config.field("", "Folder with wheels of tensorflow-cpu (or tensorflow) and of tensorflow-text.")
    output: str = config.field(audit.HISTORY, "The file to write.")

    def __post_init__(self):
        config.check_bounds(self)
        checks.require(self.wheels, "--wheels must be given", "none")


# Run in a process that has no TensorFlow but that of the wheel. TF_GetAllOpList gives a TF_Buffer: data, length.
_TELL = """
import ctypes, sys
from export import c_api
folder, *plugins = sys.argv[1:]
libraries = [f"{folder}/libtensorflow_{name}.so.2" for name in ("framework", "cc")]
library = c_api.Library(libraries, plugins)
found = library.call("TF_GetAllOpList", ctypes.POINTER(ctypes.c_size_t * 2)).contents
sys.stdout.buffer.write(ctypes.string_at(*found))
"""


def _ops(folder, plugins=()):
    """{op: names of its attributes} of TensorFlow's libraries in a folder and of plugins."""
    root = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    command = [sys.executable, "-c", _TELL, folder, *plugins]
    done = subprocess.run(command, capture_output=True, check=False, cwd=root)
    said = done.stderr.decode("utf-8", "replace")
    checks.require(done.returncode == 0, "the libraries of a wheel must load", said, folder)
    return {op.name: {attr.name for attr in op.attr} for op in op_def_pb2.OpList.FromString(done.stdout).op}


def _releases(folder, package):
    """{(2, minor): path of a wheel}, oldest first."""
    found = {}
    for path in glob.glob(os.path.join(folder, package + "-2.*.whl")):
        found[2, int(re.search(r"-2\.(\d+)\.", os.path.basename(path))[1])] = path
    return dict(sorted(found.items()))


def _extract(wheel, pattern, folder):
    """Extracts the files of a wheel whose names match, without their folders; returns their paths."""
    paths = []
    with zipfile.ZipFile(wheel) as archive:
        for name in archive.namelist():
            if re.fullmatch(pattern, name):
                paths.append(os.path.join(folder, os.path.basename(name)))
                with archive.open(name) as source, open(paths[-1], "wb") as f:
                    while block := source.read(1 << 24):
                        f.write(block)
    return sorted(paths)


def _enter(history, ops, release, kind):
    """Enters ops, and attributes that they did not have before, under a release."""
    for op, attrs in ops.items():
        known = history.setdefault(op, {"kind": kind, "since": release, "attrs": dict.fromkeys(attrs, release)})
        for attr in attrs:
            known["attrs"].setdefault(attr, release)


def run(cfg):
    """Reads all wheels and writes the file; returns the number of ops."""
    cores = {**_releases(cfg.wheels, "tensorflow"), **_releases(cfg.wheels, "tensorflow_cpu")}
    texts = _releases(cfg.wheels, "tensorflow_text")
    checks.require(cores and texts, "the folder must hold wheels of both packages", sorted(os.listdir(cfg.wheels)))
    history = {}
    for release in sorted(cores):
        with tempfile.TemporaryDirectory() as folder:
            _extract(cores[release], r"tensorflow/libtensorflow_(framework|cc)\.so\.2", folder)
            named = "{}.{}".format(*release)
            _enter(history, _ops(folder), named, "core")
            if named in TEXT_RELEASES:
                plugins = _extract(texts[release], r"tensorflow_text/python/(ops|metrics)/_.*\.so", folder)
                every = _ops(folder, plugins)
                _enter(history, {op: every[op] for op in set(every) - set(history)}, TEXT_RELEASES[named], "text")
        print(f"TensorFlow {named}: {len(history)} ops so far")
    lines = []
    for op, known in sorted(history.items()):
        later = sorted(f"{attr}:{since}" for attr, since in known["attrs"].items() if since != known["since"])
        lines.append(" ".join([op, known["since"], known["kind"], *later]))
    head = "# op, first TensorFlow Serving that knows it, origin, attributes that came later. "
    head += f"Releases: 2.{min(cores)[1]} to 2.{max(cores)[1]}. Made by python -m export.op_history."
    with open(cfg.output, "w", encoding="utf-8") as f:
        f.write("\n".join([head, *lines]) + "\n")
    return len(history)


def main(argv):
    """The program."""
    del argv
    print(f"{run(config.from_flags(OpHistoryConfig))} ops")


if __name__ == "__main__":
    config.define_flags(OpHistoryConfig)
    checks.run_program(main)
