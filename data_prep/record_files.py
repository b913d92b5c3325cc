"""The files of a records folder: written aside, renamed at the end, records.json last."""

import contextlib
import json
import os
import re
import shutil

import numpy as np
import tensorflow as tf

from data_prep.instances import Block
from tfbert import checks

RECORDS_FILE = "records.json"
UNFINISHED = ".unfinished"  # where everything is written until it is whole
_SHARD = re.compile(r"(train|held_out)-\d{5}-of-\d{5}\.tfrecord")


@contextlib.contextmanager
def _writing(folder):
    """Words what the file system says when it cannot be written to."""
    try:
        yield
    except (OSError, tf.errors.OpError) as e:
        reason = getattr(e, "strerror", None) or getattr(e, "message", None) or str(e)
        raise checks.error(
            "output_dir must be a folder that can be written to, with space left",
            reason,
            folder,
            "Nothing that was there before has changed. Free some space or choose another --output_dir",
        ) from e


def _made_before(folder):
    names = os.listdir(folder) if os.path.isdir(folder) else []
    return sorted(n for n in names if n == RECORDS_FILE or _SHARD.fullmatch(n))


@contextlib.contextmanager
def unfinished(folder, overwrite):
    """A folder inside `folder` to write in; it is gone when the block is left, however that comes about.

    Raises:
        InputError: `folder` holds records already and `overwrite` is false, or cannot be written to.
    """
    checks.require(folder, "output_dir must be given", "an empty name", "--output_dir")
    found = _made_before(folder)
    checks.require(
        overwrite or not found,
        "output_dir must not hold records of another run",
        ", ".join(found[:3]) + (f" and {len(found) - 3} more" if len(found) > 3 else ""),
        folder,
        "Choose another folder, or pass --overwrite to replace them",
    )
    scratch = os.path.join(folder, UNFINISHED)
    with _writing(folder):
        shutil.rmtree(scratch, ignore_errors=True)  # a killed run leaves it behind
        os.makedirs(scratch)
    try:
        yield scratch
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


class Shards:
    """The TFRecord files of a split; records go to them in turn."""

    def __init__(self, folder, split, num_shards):
        self._folder, self._split = folder, split
        self._paths = [os.path.join(folder, f"{split}-{i:05}") for i in range(num_shards)]
        self._written = 0
        with _writing(folder):
            self._writers = [tf.io.TFRecordWriter(path) for path in self._paths]

    def write(self, records):
        """Appends serialized records."""
        with _writing(self._folder):
            n = len(self._writers)
            for i, record in enumerate(records, self._written):
                self._writers[i % n].write(record)
        self._written += len(records)

    def close(self):
        """Ends writing."""
        with _writing(self._folder):
            for writer in self._writers:
                writer.close()

    def finished(self):
        """{final name: (path it has now, instances)} of the files that are not empty."""
        n = len(self._paths)
        used = min(n, self._written)
        return {
            f"{self._split}-{i:05}-of-{used:05}.tfrecord": (path, len(range(i, self._written, n)))
            for i, path in enumerate(self._paths[:used])
        }


def publish(folder, shards, about):
    """Gives finished shards their names, in place of those of an earlier run, and writes records.json last.

    Args:
        folder: The records folder.
        shards: {name: path it has now}.
        about: What records.json is to hold.
    """
    with _writing(folder):
        path = os.path.join(folder, UNFINISHED, RECORDS_FILE)
        with open(path, "w", encoding="utf-8") as f:
            f.write(json.dumps(about, indent=2, ensure_ascii=False) + "\n")
        # records.json goes first and comes last: with one in it, a folder is whole.
        for name in sorted(_made_before(folder), key=lambda n: n != RECORDS_FILE):
            os.remove(os.path.join(folder, name))
        for name, written in shards.items():
            os.replace(written, os.path.join(folder, name))
        os.replace(path, os.path.join(folder, RECORDS_FILE))


class TokenFile:
    """Tokenized documents on disk, so that each of `dupe_factor` passes need not tokenize anew."""

    def __init__(self, folder, split):
        self._folder, self._path = folder, os.path.join(folder, f"tokens-{split}")
        with _writing(folder):
            self._file = open(self._path, "wb")  # noqa: SIM115

    def append(self, block):
        """Writes a `Block`."""
        with _writing(self._folder):
            for array in block:
                np.save(self._file, array, allow_pickle=False)

    def close(self):
        """Ends writing."""
        with _writing(self._folder):
            self._file.close()

    def blocks(self):
        """Yields the blocks in the order they were written, one at a time."""
        size = os.path.getsize(self._path)
        with open(self._path, "rb") as f:
            while f.tell() < size:
                yield Block(*(np.load(f, allow_pickle=False) for _ in Block._fields))
