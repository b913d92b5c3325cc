"""Lists the ops of a SavedModel and says from which TensorFlow Serving release on it loads.

    python -m export.audit --saved_model=/tmp/bert --serving_version=2.13

A server that lacks one op of any signature does not load the model at all, and says so when it is deployed. So all
graphs are searched, and all functions that they call, whether a signature reaches them or not. What is known of each op
stands in op_history.txt; `export.op_history` says where that comes from. With --serving_version the program fails, and
with it the export that asks it, if that release lacks an op, or an attribute that the graph sets: a server ignores
attributes that it does not know (and says so in its log), so it would compute something else.
"""

from tfbert import quiet  # isort: skip  # noqa: F401 (first: it holds back start-up noise)

import collections
import dataclasses
import os
import re
from typing import NamedTuple

from tensorflow.core.protobuf import saved_model_pb2

from export import loaders
from tfbert import checks, config

# Set on every variable, and of no consequence where it is ignored: seen with the libraries of TensorFlow 2.12.
HARMLESS = ("debug_name",)
HISTORY = os.path.join(os.path.dirname(os.path.abspath(__file__)), "op_history.txt")


class Known(NamedTuple):
    """What op_history.txt says of an op.

    Attributes:
        since: The first release that has it, as (2, 12).
        origin: "core" or "text", TensorFlow or tensorflow-text.
        attrs: {attribute: release} of those that came later than the op.
    """

    since: tuple
    origin: str
    attrs: dict


class Use(NamedTuple):
    """How a SavedModel uses an op.

    Attributes:
        op: Its name.
        nodes: The number of nodes.
        origin: "core", "text", or "unknown".
        since: The first release in which all of these nodes mean what they say; None if there is none.
        why: The attribute that makes `since` later than the op, or "".
    """

    op: str
    nodes: int
    origin: str
    since: tuple | None
    why: str


@dataclasses.dataclass(frozen=True)
class AuditConfig:
    """Flags of this program."""

    saved_model: str = config.field("", "A SavedModel, or the folder with its numbered versions.")
    serving_version: str = config.field("", "Release of TensorFlow Serving that must load it, as 2.13.")

    def __post_init__(self):
        config.check_bounds(self)
        checks.require(self.saved_model, "--saved_model must be given", "none")
        release(self.serving_version)


def _number(text):
    return tuple(int(part) for part in text.split("."))


def named(number):
    """(2, 12) as "2.12"."""
    return ".".join(map(str, number))


def history():
    """op_history.txt: {op: Known}."""
    known = {}
    with open(HISTORY, encoding="utf-8") as f:
        for line in f:
            if not line.startswith("#"):
                op, since, origin, *attrs = line.split()
                later = (attr.rsplit(":", 1) for attr in attrs)
                known[op] = Known(_number(since), origin, {name: _number(since) for name, since in later})
    return known


def releases():
    """The first and the last release that op_history.txt knows: ((2, 12), (2, 20))."""
    with open(HISTORY, encoding="utf-8") as f:
        return tuple(map(_number, re.search(r"Releases: (\S+) to (\d+\.\d+)", f.readline()).groups()))


def release(text):
    """A release that was given as "2.13" or "2.13.1", as (2, 13); the newest one of "".

    Raises:
        InputError: it is none of those that are known.
    """
    first, last = releases()
    found = re.fullmatch(r"(\d+\.\d+)(\.\d+)?", text)
    number = _number(found[1]) if found else None
    checks.require(
        not text or (number and first <= number <= last),
        f"serving_version must be a release of TensorFlow Serving from {named(first)} to {named(last)}",
        f"serving_version={text!r}",
        do="Releases before 2.12 have no FastBertNormalize, and no export of this project loads there",
    )
    return number or last


def nodes(folder):
    """Yields every node (NodeDef) of a SavedModel's graphs and functions, but for calls of its own functions."""
    path = os.path.join(folder, "saved_model.pb")
    checks.require(os.path.isfile(path), "a SavedModel is a folder with saved_model.pb", "no such file", path)
    with open(path, "rb") as f:
        saved = saved_model_pb2.SavedModel.FromString(f.read())
    for meta in saved.meta_graphs:
        functions = meta.graph_def.library.function
        own = {function.signature.name for function in functions}
        for part in (meta.graph_def.node, *(function.node_def for function in functions)):
            yield from (node for node in part if node.op not in own)


def audit(folder):
    """What a SavedModel asks of a server: a list of `Use`, the most demanding first.

    Args:
        folder: The SavedModel.

    Raises:
        InputError: there is none.
    """
    known, counts, attrs = history(), collections.Counter(), collections.defaultdict(set)
    for node in nodes(folder):
        counts[node.op] += 1
        attrs[node.op] |= {name for name in node.attr if name not in HARMLESS}
    uses = []
    for op, count in counts.items():
        if op not in known:
            uses.append(Use(op, count, "unknown", None, ""))
            continue
        later = {known[op].attrs[name]: name for name in sorted(attrs[op]) if name in known[op].attrs}
        since = max([known[op].since, *later])
        uses.append(Use(op, count, known[op].origin, since, later.get(since, "")))
    never = (10**6,)
    return sorted(uses, key=lambda use: ([-n for n in use.since or never], use.origin == "core", use.op))


def require_loads(folder, serving_version=""):
    """The first release that loads a SavedModel, as "2.12".

    Args:
        folder: The SavedModel.
        serving_version: The release that must load it, "" for the newest that is known.

    Raises:
        InputError: that release lacks an op or an attribute.
    """
    wanted, uses = release(serving_version), audit(folder)
    lacking = [
        f"{use.op}{f' with {use.why}' if use.why else ''} ({f'since {named(use.since)}' if use.since else 'unknown'})"
        for use in uses
        if use.since is None or use.since > wanted
    ]
    checks.require(
        not lacking,
        f"TensorFlow Serving {named(wanted)} must have every op of the model",
        f"{len(lacking)} that it lacks: {', '.join(lacking)}",
        folder,
        "Choose a newer --serving_version, or leave out what needs them",
    )
    return named(max(use.since for use in uses))


def table(uses):
    """The lines that people read: the ops that are not everywhere, then a count of the others."""
    first = releases()[0]
    lines = [f"{'op':40} {'nodes':>6}  {'from':8} origin"]
    rare = [use for use in uses if use.origin != "core" or use.since > first]
    for use in rare:
        since = named(use.since) if use.since else "never"
        lines.append(f"{use.op:40} {use.nodes:6}  {since:8} {use.origin}{f', for {use.why}' if use.why else ''}")
    others = [use for use in uses if use not in rare]
    lines.append(f"and {len(others)} ops of TensorFlow's own, known since {named(first)} at the latest:")
    lines.append(", ".join(f"{use.op} {use.nodes}" for use in others))
    return lines


def run(cfg):
    """Prints the table; returns the first release that loads the model."""
    folder = loaders.newest_version(cfg.saved_model)
    print("\n".join(table(audit(folder))))
    since = require_loads(folder, cfg.serving_version)
    print(f"{folder} loads in TensorFlow Serving from {since} on, by its ops; the server itself was not run.")
    return since


def main(argv):
    """The program."""
    del argv
    loaders.hush()
    run(config.from_flags(AuditConfig))


if __name__ == "__main__":
    config.define_flags(AuditConfig)
    checks.run_program(main)
