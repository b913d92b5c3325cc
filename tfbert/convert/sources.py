"""What a file or folder of weights gives: named tensors that are read when they are asked for.

Converters turn each foreign format into a `Source` and write one out as a foreign format. A tensor's numbers
are read one tensor at a time, so that the largest model needs little more memory than its own.
"""

import json
import os
import types
from collections.abc import Callable
from typing import NamedTuple

import ml_dtypes
import numpy as np

from tfbert import checks
from tfbert.config import EncoderConfig
from tfbert.text import vocab as vocab_lib

FLOATS = {
    "float32": np.dtype(np.float32),
    "float16": np.dtype(np.float16),
    "bfloat16": np.dtype(ml_dtypes.bfloat16),
}

# What a model has beside the encoder. "pretraining" is "masked_lm" with next sentence prediction.
HEADS = ("pretraining", "masked_lm", "none", "classify", "tokens", "span")


class Tensor(NamedTuple):
    """One tensor of a file; nothing is read until `read` is called.

    Attributes:
        shape: As stored.
        dtype: NumPy's name for its type, "float32"; or "bfloat16".
        read: Gives the numbers as stored. What it gives may lie in a mapped file: it is not to be written to.
    """

    shape: tuple
    dtype: str
    read: Callable[[], np.ndarray]


class Source(NamedTuple):
    """What a file or folder of weights holds.

    Attributes:
        kind: "tfbert" (our names), "google", "garden", "huggingface" or "keras_hub".
        where: Its path, for errors.
        tensors: {name in the file: Tensor}.
        encoder: Its sizes.
        head: One of HEADS.
        vocab: The vocabulary of its tokenizer files; None if there are none that hold a WordPiece vocabulary.
        labels: Names of the classes of a head that has classes.
        layout: How its names are written, a key of `spellings.ALIASES`.
        groups: Of layers that share weights, in ALBERT.
        unlike: What its configuration asks for and tfbert cannot do, {"strip_accents": False}. It is accounted for
            as tensors are, under the name config/strip_accents=False.
    """

    kind: str
    where: str
    tensors: dict
    encoder: EncoderConfig
    head: str
    vocab: vocab_lib.Vocab | None = None
    labels: tuple = ()
    layout: str = ""
    groups: int = 1
    unlike: dict = types.MappingProxyType({})


def values(name, tensor, where):
    """Reads a tensor of weights as float32; every bit of float16 and bfloat16 is kept.

    Raises:
        InputError: it is of another type, or holds numbers that are not finite.
    """
    checks.require(
        tensor.dtype in FLOATS, f"weights must be of type {', '.join(FLOATS)}", f"{tensor.dtype} in {name}", where
    )
    numbers = np.asarray(tensor.read(), np.float32)
    if not np.isfinite(numbers.sum(dtype=np.float64)):  # one pass without a temporary; a sum hides no NaN
        bad = np.argwhere(~np.isfinite(numbers))
        checks.require(
            not len(bad),
            "weights must be finite numbers",
            f"{len(bad)} in {name} that are not, the first at {bad[0].tolist() if len(bad) else None}",
            where,
            "The file is damaged, or the training that wrote it had diverged",
        )
    return numbers


def labels(stated, count):
    """Names of `count` classes: those that a file states if they are that many, LABEL_0, LABEL_1, ... if not."""
    whole = isinstance(stated, list | tuple) and len(stated) == count and all(isinstance(s, str) for s in stated)
    return tuple(stated) if whole else tuple(f"LABEL_{i}" for i in range(count))


def read_json(path):
    """The JSON object in a file.

    Raises:
        InputError: it cannot be read or is no JSON object.
    """
    try:
        with open(path, encoding="utf-8") as f:
            raw = json.load(f)
    except OSError as e:
        raise checks.error(f"{os.path.basename(path)} must be a readable file", e.strerror, path) from e
    except (ValueError, RecursionError) as e:  # not JSON, or not UTF-8
        raise checks.error(f"{os.path.basename(path)} must hold JSON", str(e), path) from e
    checks.require(isinstance(raw, dict), f"{os.path.basename(path)} must hold a JSON object", type(raw).__name__, path)
    return raw


def inside(folder, name, where):
    """The path of a file that another file names; it must be the plain name of a file of the same folder.

    Raises:
        InputError: the name climbs out of the folder, or there is no such file.
    """
    plain = isinstance(name, str) and name == os.path.basename(name) and name not in ("", ".", "..")
    checks.require(
        plain and "\\" not in name and "\0" not in name,
        "files must be named without a path, in the same folder",
        repr(name),
        where,
    )
    path = os.path.join(folder, name)
    checks.require(os.path.isfile(path), "a file that is named must be there", f"no {name}", where)
    return path
