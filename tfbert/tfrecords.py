"""TFRecord files: found by globs, counted, and what is wrong with one told by file and record."""

import contextlib
import os
import re
import typing

import numpy as np
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
        "The file is truncated, damaged, compressed or of another format. Copy or make it again; tfbert.pretrain "
        "leaves damaged records out with --skip_corrupt_records",
    )


class Run(typing.NamedTuple):
    """Whole records of a file that follow one another: where the first begins, in bytes, and how many they are."""

    offset: int
    count: int


def _from(file, offset):
    """The records of a file from a byte on; TensorFlow's dataset class has no such argument."""

    def open_at(offset):
        variant = tf.raw_ops.TFRecordDatasetV2(
            filenames=[file], compression_type="", buffer_size=CHUNK, byte_offsets=tf.reshape(offset, [1])
        )
        return tf.data.experimental.from_variant(variant, tf.TensorSpec([], tf.string))

    # In a function: outside of one the operation forgets the offset when TensorFlow rewrites the pipeline.
    return tf.data.Dataset.from_tensors(tf.cast(offset, tf.int64)).flat_map(open_at)


def reader(runs):
    """The function file -> its records, a dataset: all, or the runs that it is said to have.

    Args:
        runs: {file: (Run, ...)}, of all files or of none.
    """
    if not runs:
        return tf.data.TFRecordDataset
    rows = [(file, *run) for file, some in runs.items() for run in some]
    files, offsets, counts = (tf.constant(column) for column in zip(*rows))

    def read(file):
        mine = tf.where(files == file)[:, 0]
        mine = tf.data.Dataset.from_tensor_slices((tf.gather(offsets, mine), tf.gather(counts, mine)))
        return mine.flat_map(lambda offset, count: _from(file, offset).take(tf.cast(count, tf.int64)))

    return read


def whole_runs(file):
    """Finds the whole records of a file that may be damaged, by every checksum in it.

    A record whose content has not its checksum is left out alone. Behind a broken header, which no longer tells where
    the next record begins, the next header that has its checksum is looked for.

    Returns:
        ((Run, ...), [text of each damage: which record, counted from 0 with the damaged ones, and which bytes]).

    Raises:
        InputError: nothing in it is whole: it is no TFRecord file.
    """
    size, runs, damages = tf.io.gfile.stat(file).length, [], []
    position = 0
    while position < size:
        lengths = _from(file, position).map(lambda record: tf.strings.length(record, unit="BYTE"))
        count, length = lengths.ignore_errors().reduce(
            (np.int64(0), np.int64(0)), lambda total, n: (total[0] + 1, total[1] + 16 + tf.cast(n, tf.int64))
        )
        if count:
            runs.append(Run(position, int(count)))
            position += int(length)
        if position < size:
            number = sum(run.count for run in runs) + len(damages)
            following = _following(file, position, size)
            damages.append(f"record {number} of {os.path.basename(file)}, bytes {position:,} to {following - 1:,}")
            position = following
    if damages and not runs:
        raise damage(file) or _damaged(file, 0, "the file ends within its header")
    return tuple(runs), damages


def _following(file, position, size):
    """Where the next record begins behind a damaged one; the size of the file if there is none."""
    with tf.io.gfile.GFile(file, "rb") as f:
        f.seek(position)
        content = np.frombuffer(f.read(), np.uint8)
    if len(content) < 16:
        return size
    # Any place may be a header, a length in 8 bytes and its checksum in 4; lengths are below 4 GB.
    zero, count = content == 0, len(content) - 15
    places = np.flatnonzero(zero[4 : 4 + count] & zero[5 : 5 + count] & zero[6 : 6 + count] & zero[7 : 7 + count])
    headers = np.lib.stride_tricks.sliding_window_view(content, 12)[places]
    lengths, _, checksums = np.ascontiguousarray(headers).view("<u4").T
    good = (places + lengths + 16 <= len(content)) & (_masked_crc32c(headers[:, :8]) == checksums)
    if not good.any():
        return size
    first = int(places[good][0])
    # A good header at once: it is the content of this record that is damaged.
    return position + (16 + int(lengths[good][0]) if first == 0 else first)


def _masked_crc32c(rows):
    """The checksum that a TFRecord has of each row: uint8 [N, bytes] -> uint32 [N]."""
    table = np.arange(256, dtype=np.uint32)
    for _ in range(8):
        table = np.where(table & 1, (table >> 1) ^ np.uint32(0x82F63B78), table >> 1)
    crc = np.full(len(rows), 0xFFFFFFFF, np.uint32)
    for column in rows.T:
        crc = table[(crc ^ column) & 0xFF] ^ (crc >> 8)
    crc = ~crc
    return ((crc >> 15) | (crc << 17)) + np.uint32(0xA282EAD8)


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
