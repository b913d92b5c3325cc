"""TFRecord files: found by globs, counted, and what is wrong with one told by file and record."""

import contextlib
import os
import re

import tensorflow as tf

from tfbert import checks

CHUNK = 1 << 22  # bytes that are read at once to find headers


def find(patterns):
    """The files that globs match, sorted, each once.

    Args:
        patterns: A sequence of globs, or one string with commas between them.

    Raises:
        InputError: a glob matches nothing, or a folder.
    """
    if isinstance(patterns, str):
        patterns = patterns.split(",")
    patterns = [p.strip() for p in patterns if p.strip()]
    checks.require(patterns, "the pattern of record files must not be empty", repr(patterns))
    files = set()
    for pattern in patterns:
        matches = [os.fspath(m) for m in tf.io.gfile.glob(pattern)]
        checks.require(
            matches,
            "a pattern of record files must match at least one file",
            f"{pattern!r}, which matches nothing",
            do="Make records with python -m data_prep.create_pretraining_data",
        )
        for match in matches:
            checks.require(
                not tf.io.gfile.isdir(match),
                "a pattern of record files must match files",
                "a folder",
                match,
                f"Name its files, such as {os.path.join(match, 'train-*.tfrecord')}",
            )
        files.update(matches)
    return sorted(files)


def count(file):
    """Counts the records of a file by their headers.

    Raises:
        InputError: the file ends within a record.
    """
    size = tf.io.gfile.stat(file).length
    number = position = 0
    with tf.io.gfile.GFile(file, "rb") as f:
        while position < size:
            f.seek(position)
            chunk = f.read(CHUNK)
            at = 0
            while at + 12 <= len(chunk):  # length and its checksum, then the record and its checksum
                at += 16 + int.from_bytes(chunk[at : at + 8], "little")
                number += 1
            position += at
            if at == 0 or position > size:
                # TensorFlow takes part of a header at the end of a file for the end.
                raise damage(file) or _damaged(file, number, "the file ends within its header")
    return number


def damage(file):
    """The `InputError` of the first record of a file that TensorFlow cannot read, or None."""
    raw = tf.data.TFRecordDataset(file)
    read = 0
    with contextlib.suppress(tf.errors.DataLossError):
        for batch in raw.batch(1024):
            read += len(batch)
        return None
    try:
        for _ in raw.skip(read):
            read += 1
    except tf.errors.DataLossError as e:
        return _damaged(file, read, first_line(e))


def _damaged(file, number, what):
    return checks.error(
        "TFRecord files must be whole",
        what,
        f"record {number}, counted from 0, of {file}",
        "The file is truncated, damaged, compressed or of another format. Copy or make it again",
    )


def miscounted(file, stated):
    """The `InputError` of a file that holds other than its count, or None."""
    found = count(file)
    if found == stated:
        return None
    return checks.error(
        "a record file must hold as many instances as when it was made",
        f"{found}, not {stated}",
        file,
        "Copy it again or make the records again",
    )


def first_line(error):
    """The first line of an error of TensorFlow, without the names of its nodes."""
    return re.sub(r"{{.*?}} ?|\[Op:.*", "", error.message).strip().splitlines()[0]
