"""How a server makes one batch of waiting requests: the values, and TensorFlow Serving's file of them."""

import dataclasses
import os
import re
import string

from tfbert import checks

TEMPLATE = os.path.join(os.path.dirname(os.path.abspath(__file__)), "deployment", "batching_parameters.txt")
_FIELDS = {
    "max_batch_size": "batch_size",
    "batch_timeout_micros": "batch_timeout_micros",
    "num_batch_threads": "num_batch_threads",
    "max_enqueued_batches": "max_enqueued_batches",
}


@dataclasses.dataclass(frozen=True)
class Batching:
    """Parameters of TensorFlow Serving's batch scheduler.

    Attributes:
        batch_size: Rows of a batch, of one request or of several.
        batch_timeout_micros: How long the first request of a batch waits for others, in microseconds.
        num_batch_threads: Batches that are answered at the same time.
        max_enqueued_batches: Batches that may wait; requests beyond are refused (UNAVAILABLE).
    """

    batch_size: int = 32
    batch_timeout_micros: int = 1000
    num_batch_threads: int = 2
    max_enqueued_batches: int = 64

    def __post_init__(self):
        for f in dataclasses.fields(self):
            low, value = int(f.name != "batch_timeout_micros"), getattr(self, f.name)
            checks.require(value >= low, f"{f.name} must be at least {low}", f"{f.name}={value}")


def text(batching, origin):
    """The file's text.

    Args:
        batching: A `Batching`.
        origin: Where its values are from: lines for people.
    """
    with open(TEMPLATE, encoding="utf-8") as f:
        template = string.Template(f.read())
    said = "\n".join(f"# {line}" for line in origin.split("\n"))
    return template.substitute(dataclasses.asdict(batching), origin=said)


def read(path):
    """The `Batching` of a file.

    Raises:
        InputError: it cannot be read, or lacks a value.
    """
    try:
        with open(path, encoding="utf-8") as f:
            lines = [line.split("#")[0] for line in f]
    except (OSError, UnicodeDecodeError) as e:
        do = "Make one with python -m export.batching"
        raise checks.error("batching must be a file that can be read", str(e), path, do) from e
    found = dict(re.findall(r"\b(\w+)\s*:?\s*\{\s*value\s*:\s*(\d+)\s*\}", "".join(lines)))
    missing = sorted(set(_FIELDS) - set(found))
    must = f"batching parameters must have {', '.join(_FIELDS)}"
    checks.require(not missing, must, f"no {', '.join(missing)}", path, "Make them with python -m export.batching")
    return Batching(**{ours: int(found[theirs]) for theirs, ours in _FIELDS.items()})
