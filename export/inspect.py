"""Says what an export is (signatures, ops, sizes, where it comes from) and whether its files are as they were written.

    python -m export.inspect --saved_model=/tmp/bert
    python -m export.inspect --tflite=/tmp/bert.tflite --json

Nothing of the model is run. The checksums of parity.json find damage and mix-ups on the way to a server; they are no
signature, since who changes a file can change them too.
"""

from tfbert import quiet  # isort: skip  # noqa: F401 (first: it holds back start-up noise)

import dataclasses
import hashlib
import json
import os
import zipfile

import tensorflow as tf

from export import audit, loaders, parity
from tfbert import checks, config
from tfbert.text import vocab as vocab_lib

# Of parity.json: shown in their own places, or too long for people.
_ELSEWHERE = ("loaders", "files", "ops", "compared", "tolerance", "texts", "bytes")


@dataclasses.dataclass(frozen=True)
class InspectConfig:
    """Flags of this program."""

    saved_model: str = config.field("", "A SavedModel, or the folder with its numbered versions.")
    tflite: str = config.field("", "A .tflite file, with its .parity.json beside it.")
    json: bool = config.field(False, "Print one JSON object for programs.")

    def __post_init__(self):
        config.check_bounds(self)
        given = bool(self.saved_model) + bool(self.tflite)
        checks.require(given == 1, "--saved_model or --tflite must be given", "both" if given else "neither")


def sizes(folder):
    """{relative path: bytes} of all files below a folder, in the order of their names."""
    found = {}
    for parent, _, names in os.walk(folder):
        for name in names:
            path = os.path.join(parent, name)
            found[os.path.relpath(path, folder).replace(os.sep, "/")] = os.path.getsize(path)
    return dict(sorted(found.items()))


def _digest(path):
    digest = hashlib.sha256()
    with open(path, "rb") as f:
        while block := f.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def verify(folder, files, present):
    """Compares files with what parity.json says of them.

    Args:
        folder: Where they are.
        files: {relative path: {"bytes", "sha256"}} of parity.json.
        present: Relative paths of the files that should be those, without parity.json.

    Raises:
        InputError: a file is missing, is not listed, or has other contents. All of them are named.
    """
    wrong = [f"{name} is missing" for name in sorted(set(files) - set(present))]
    wrong += [f"{name} is not listed" for name in sorted(set(present) - set(files))]
    for name in sorted(set(files) & set(present)):
        path = os.path.join(folder, name)
        if os.path.getsize(path) != files[name]["bytes"]:
            wrong.append(f"{name} has {os.path.getsize(path)} bytes instead of {files[name]['bytes']}")
        elif _digest(path) != files[name]["sha256"]:
            wrong.append(f"{name} has other contents")
    checks.require(
        not wrong,
        "an export's files must be those that parity.json lists",
        "; ".join(wrong),
        folder,
        "Copy the export again, or export anew",
    )


def _about(path):
    """The contents of a parity.json."""
    do = "Was it written by this project?"
    checks.require(os.path.isfile(path), "an export must have its parity.json", "no such file", path, do)
    try:
        with open(path, encoding="utf-8") as f:
            about = json.load(f)
    except ValueError as e:
        raise checks.error("parity.json must be JSON", str(e), path) from e
    checks.require(isinstance(about, dict), "parity.json must be an object", type(about).__name__, path)
    return about


def _tensors(infos):
    """{name: "int32 [?, 5]"} of the inputs or outputs of a SignatureDef."""
    told = {}
    for name, info in sorted(infos.items()):
        sizes = (
            "..."
            if info.tensor_shape.unknown_rank
            else ", ".join("?" if d.size < 0 else str(d.size) for d in info.tensor_shape.dim)
        )
        told[name] = f"{tf.as_dtype(info.dtype).name} [{sizes}]"
    return told


def of_saved_model(folder):
    """What a SavedModel is: a dict for JSON.

    Args:
        folder: The SavedModel.

    Raises:
        InputError: it has no parity.json, or its files are not those that are listed there.
    """
    about, files = _about(os.path.join(folder, parity.FILE)), sizes(folder)
    if "files" in about:
        verify(folder, about["files"], set(files) - {parity.FILE})
    assets = os.path.join(folder, "assets")
    if os.path.isfile(os.path.join(assets, vocab_lib.VOCAB_FILE)):
        digest, said = vocab_lib.load(assets).digest, about.get("tokenizer_digest")
        checks.require(
            digest == said, "the vocabulary must be that of parity.json", f"{digest[:12]}, not {said}", assets
        )
    uses = audit.audit(folder)
    return {
        "path": folder,
        "signatures": {
            name: {"inputs": _tensors(d.inputs), "outputs": _tensors(d.outputs)}
            for name, d in sorted(loaders.signatures(folder).items())
        },
        "ops": {use.op: use.nodes for use in uses},
        "ops_of_tensorflow_text": sorted(use.op for use in uses if use.origin == "text"),
        "serving_version": audit.require_loads(folder),
        "files": files,
        "checksums": "verified" if "files" in about else "none in parity.json",
        "parity": about,
    }


def _archived(path):
    """Names of the files that are associated with a .tflite: it is a zip archive too, then."""
    if not zipfile.is_zipfile(path):
        return []
    with zipfile.ZipFile(path) as archive:
        return archive.namelist()


def of_tflite(path):
    """What a .tflite is: a dict for JSON; raises as `of_saved_model`."""
    model = loaders.Lite(path)
    about = _about(path.removesuffix(".tflite") + "." + parity.FILE)
    folder, name = os.path.split(os.path.abspath(path))
    if "files" in about:
        verify(folder, about["files"], [name])
    return {
        "path": path,
        "signatures": model.signatures(),
        "ops": model.ops(),
        "associated_files": _archived(path),
        "files": {name: os.path.getsize(path)},
        "checksums": "verified" if "files" in about else "none in parity.json",
        "parity": about,
    }


def _flat(value):
    return ", ".join(f"{k} {v}" for k, v in value.items()) if isinstance(value, dict) else str(value)


def lines(told):
    """The lines that people read."""
    yield told["path"]
    for name, about in told["signatures"].items():
        yield f"  signature {name}"
        for direction in ("inputs", "outputs"):
            mark = "<-" if direction == "inputs" else "->"
            tensors = about[direction]
            for tensor in tensors:
                yield f"    {mark} {tensor}{f' {tensors[tensor]}' if isinstance(tensors, dict) else ''}"
    if "serving_version" in told:
        foreign = ", ".join(told["ops_of_tensorflow_text"])
        yield f"  ops: {len(told['ops'])} kinds in {sum(told['ops'].values())} nodes"
        yield f"  of tensorflow-text: {foreign or 'none'}"
        yield f"  loads in TensorFlow Serving from {told['serving_version']} on, by its ops"
    else:
        yield f"  ops: {', '.join(told['ops'])}"
        if told["associated_files"]:
            yield f"  associated files: {', '.join(told['associated_files'])}"
    total = sum(told["files"].values())
    yield f"  {total / 1e6:.2f} MB in {len(told['files'])} files, checksums: {told['checksums']}"
    for name, size in told["files"].items():
        yield f"    {size:12,d}  {name}"
    for name, value in told["parity"].items():
        if name not in _ELSEWHERE:
            yield f"  {name}: {_flat(value)}"
    for loader, signatures in told["parity"].get("loaders", {}).items():
        for signature, differences in signatures.items():
            said = ", ".join(f"{k.removeprefix('max_')} {v:.3g}" for k, v in differences.items())
            yield f"  compared through {loader}, {signature}: {said}"


def run(cfg):
    """Prints and returns what an export is."""
    told = of_tflite(cfg.tflite) if cfg.tflite else of_saved_model(loaders.newest_version(cfg.saved_model))
    print(json.dumps(told, indent=2) if cfg.json else "\n".join(lines(told)))
    return told


def main(argv):
    """The program."""
    del argv
    loaders.hush()
    run(config.from_flags(InspectConfig))


if __name__ == "__main__":
    config.define_flags(InspectConfig)
    checks.run_program(main)
