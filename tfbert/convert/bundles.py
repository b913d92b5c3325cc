"""TensorFlow's checkpoints as named tensors: `PREFIX.index` and `PREFIX.data-*`, in one shard or several."""

import contextlib
import os
import re

import numpy as np
import tensorflow as tf

from tfbert import checks
from tfbert.convert import sources

OBJECT_GRAPH = "_CHECKPOINTABLE_OBJECT_GRAPH"
_SUFFIX = re.compile(r"\.(index|meta|data-\d{5}-of-\d{5})$")


@contextlib.contextmanager
def _naming_damage(prefix):
    try:
        yield
    except (tf.errors.OpError, ValueError, RuntimeError, IndexError) as e:  # what the reader makes of its status codes
        message = getattr(e, "message", None) or str(e)
        raise checks.error("a checkpoint must be whole", message, prefix, "Fetch all of its files again") from e


def prefix_of(path):
    """The prefix of the one checkpoint at a path: a prefix, one of its files, or a folder that holds it.

    Returns:
        The prefix; None if there is no checkpoint.

    Raises:
        InputError: a folder holds several and no file `checkpoint` that says which.
    """
    if not os.path.isdir(path):
        prefix = _SUFFIX.sub("", path)
        return prefix if os.path.isfile(prefix + ".index") else None
    latest = _latest(path)
    if latest:
        return latest
    found = sorted(name.removesuffix(".index") for name in os.listdir(path) if name.endswith(".index"))
    if not found:
        return None
    checks.require(
        len(found) == 1,
        "a folder must hold one checkpoint, or a file named checkpoint that says which",
        ", ".join(found),
        path,
        "Give the prefix of one, the path without .index",
    )
    return os.path.join(path, found[0])


def _latest(folder):
    """The prefix that the file `checkpoint` of a folder names, if it is one of the folder; None otherwise."""
    try:
        with open(os.path.join(folder, "checkpoint"), encoding="utf-8") as f:
            named = re.search(r'^model_checkpoint_path: "([^"]*)"', f.read(), re.MULTILINE)
    except (OSError, UnicodeDecodeError):
        return None
    # Folders move: whatever path was written, the file is beside.
    prefix = named and os.path.join(folder, os.path.basename(named[1]))
    return prefix if prefix and os.path.isfile(prefix + ".index") else None


def read(prefix):
    """The tensors of a checkpoint; only its index is read.

    Returns:
        {name: `sources.Tensor`}.

    Raises:
        InputError: it is damaged, or some of its shards are not there.
    """
    with _naming_damage(prefix):
        reader = tf.train.load_checkpoint(prefix)
        dtypes, shapes = reader.get_variable_to_dtype_map(), reader.get_variable_to_shape_map()

    def reading(name):
        def read_one():
            with _naming_damage(f"{prefix}, {name}"):
                return np.asarray(reader.get_tensor(name))

        return read_one

    return {name: sources.Tensor(tuple(shape), dtypes[name].name, reading(name)) for name, shape in shapes.items()}


def write(prefix, tensors):
    """Writes {name: `sources.Tensor`} as a checkpoint, in the format of `tf.compat.v1.train.Saver`.

    Raises:
        InputError: it could not be written (a full disk, say).
    """
    with tf.device("CPU:0"):
        # The op wants all at once. identity: a constant alone keeps NumPy's memory beside its own.
        held = [tf.identity(tf.constant(tensor.read())) for tensor in tensors.values()]
        slices = [""] * len(tensors)
        try:
            tf.raw_ops.SaveV2(prefix=prefix, tensor_names=list(tensors), shape_and_slices=slices, tensors=held)
        except tf.errors.OpError as e:
            raise checks.error("a checkpoint must be written whole", e.message, prefix) from e
