"""What TensorBoard's projector shows: points with labels, in a folder that it finds by a `projector_config.pbtxt`."""

import os
import unicodedata

import numpy as np
import tensorflow as tf

from tfbert import checks
from tfbert.text import vocab as vocab_lib

# What the folder holds; the names of the points' files begin with POINTS.
POINTS, METADATA, PROJECTOR, STATE = "embeddings", "metadata.tsv", "projector_config.pbtxt", "checkpoint"
# TensorBoard shows no more points than the first; a browser turns some ten thousand without a pause.
MOST_POINTS, MOST_WORDPIECES, MOST_CHARACTERS = 100_000, 10_000, 300


def check_folder(folder):
    """Raises an `InputError` if a folder holds anything but a projector: nothing else is written over."""
    if not os.path.isdir(folder):
        return
    ours = (STATE, POINTS, METADATA, PROJECTOR)
    others = sorted(name for name in os.listdir(folder) if not name.startswith(ours))
    checks.require(
        not others, "projector_dir must be new, empty, or a projector's", f"a folder with {others[0:3]}", folder
    )


def _label(value):
    """A cell of the metadata, in which tabs and ends of lines would begin another."""
    text = value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)
    return " ".join(text.split())[:MOST_CHARACTERS]


def _replace(folder, name, lines):
    """Writes a text file in one go: TensorBoard may be reading."""
    path = os.path.join(folder, name)
    with open(path + ".unfinished", "w", encoding="utf-8") as file:
        file.writelines(f"{line}\n" for line in lines)
    os.replace(path + ".unfinished", path)


def _rows(columns, count):
    """Lines of the metadata: a heading if there are several columns, for the projector takes none for one."""
    if len(columns) > 1:
        yield "\t".join(columns)
    for _, *values in zip(range(count), *columns.values()):
        # The projector leaves empty lines out, and the labels after one would be those of other points.
        yield "\t".join(_label(value) or "(empty)" for value in values)


def write(folder, name, points, columns):
    """Writes the points and their labels; those that were in the folder before are taken away.

    Args:
        folder: It is made if it is not there.
        name: What the points are, as a file may be named. TensorBoard keeps what it read under a name, so points
            that have changed need another.
        points: float32 [N, D]; the first MOST_POINTS are written.
        columns: {title: iterable of at least N values, bytes or anything that can be printed}. The first is the
            label; by columns of numbers or of few values points can be coloured.

    Returns:
        How many points were written.

    Raises:
        OSError, tf.errors.OpError: the folder cannot be written, or its disk is full.
    """
    count, prefix = min(len(points), MOST_POINTS), f"{POINTS}-{name}"
    os.makedirs(folder, exist_ok=True)
    before = [file for file in os.listdir(folder) if file.startswith(POINTS)]
    with tf.device("CPU:0"):
        tf.raw_ops.SaveV2(
            prefix=os.path.join(folder, prefix),
            tensor_names=[name],
            shape_and_slices=[""],
            tensors=[tf.constant(points[:count])],
        )
    _replace(folder, METADATA, _rows(columns, count))
    _replace(folder, STATE, [f'model_checkpoint_path: "{prefix}"'])
    _replace(folder, PROJECTOR, ["embeddings {", f'  tensor_name: "{name}"', f'  metadata_path: "{METADATA}"', "}"])
    for file in before:
        if not file.startswith(f"{prefix}."):
            os.remove(os.path.join(folder, file))
    return count


def _kind(piece):
    """What a wordpiece is, in a few words that points can be coloured by."""
    if piece.startswith("[") and piece.endswith("]") and len(piece) > 2:
        return "special"
    start, text = ("inside a word: ", piece[2:]) if piece.startswith(vocab_lib.SUFFIX) else ("", piece)
    if all(c.isdigit() for c in text):
        return start + "number"
    if all(unicodedata.category(c)[0] in "PS" for c in text):
        return start + "sign"
    return start + ("letter" if len(text) == 1 else "letters" if start else "word")


def wordpieces(tokens, counts):
    """The wordpieces worth a point, the most frequent first, and what is known of them.

    Args:
        tokens: The vocabulary's wordpieces.
        counts: int [up to V], how often each occurs.

    Returns:
        (their ids, the `columns` of `write`): how often each occurs, also as a logarithm, since a few wordpieces
        are most of any text; 0 stands for none.
    """
    counts = np.concatenate([counts, np.zeros(len(tokens) - len(counts), np.int64)]).astype(np.int64)
    ids = np.argsort(-counts, kind="stable")[:MOST_WORDPIECES]
    columns = {
        "wordpiece": [tokens[i] for i in ids],
        "log10 of frequency": [f"{np.log10(1 + counts[i]):.3f}" for i in ids],
        "frequency": [counts[i] for i in ids],
        "rank": range(1, len(ids) + 1),
        "kind": [_kind(tokens[i]) for i in ids],
    }
    return ids, columns
