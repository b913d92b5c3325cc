"""Tokenized spans on disk: one file a span, cut into parts by the shard that each document goes to.

`dupe_factor` passes read a shard's documents again and again, so text is read and tokenized once. A
file is whole when its counts are there, which are written last.
"""

import json
import os

import numpy as np

from data_prep import blocks


def _path(folder, span, kind):
    return os.path.join(folder, f"{kind}-{span:06}")


def write(folder, span, parts, digests, counts):
    """Writes what was made of a span.

    Args:
        folder: Where to.
        span: Its number.
        parts: Iterable of {shard code: `Block`}.
        digests: A function that gives uint64 [3, N] when `parts` has come to its end: of what may come twice, the
            two halves of its digest and its number.
        counts: A function that gives what JSON can hold, likewise.
    """
    tokens, about = _path(folder, span, "tokens"), _path(folder, span, "counts")
    places, at = [], 0
    with open(tokens + ".part", "wb") as f:
        for part in parts:
            for code, block in part.items():
                data = blocks.to_bytes(block)
                f.write(data)
                places.append((code, at, len(data)))
                at += len(data)
    os.replace(tokens + ".part", tokens)
    np.save(_path(folder, span, "places") + ".npy", np.array(places, np.int64).reshape(-1, 3))
    found = digests()
    np.save(_path(folder, span, "digests") + ".npy", found[:, np.argsort(found[0], kind="stable")])
    with open(about + ".part", "w", encoding="utf-8") as f:
        json.dump(counts(), f)
    os.replace(about + ".part", about)


def counts(folder, span):
    """What `write` was told of a span; None if it was not finished."""
    try:
        with open(_path(folder, span, "counts"), encoding="utf-8") as f:
            return json.load(f)
    except FileNotFoundError:
        return None


def codes(folder, span):
    """The codes of the shards that have documents of a span: a set."""
    return set(np.load(_path(folder, span, "places") + ".npy")[:, 0].tolist())


def digests(folder, span):
    """What `write` was given of a span, sorted by the first row: uint64 [3, N], mapped and not read."""
    return np.load(_path(folder, span, "digests") + ".npy", mmap_mode="r")


def write_dropped(folder, span, numbers):
    """Writes which documents or sentences of a span are not to be used: ascending int64."""
    np.save(_path(folder, span, "dropped") + ".npy", numbers)


def dropped(folder, span):
    """What `write_dropped` wrote; nothing if it did not."""
    try:
        return np.load(_path(folder, span, "dropped") + ".npy")
    except FileNotFoundError:
        return np.zeros(0, np.int64)


def read(folder, num_spans, code, by_sentence):
    """Yields the `Block`s of a shard in corpus order, without what is dropped and never an empty one.

    Args:
        folder: Where `write` wrote to.
        num_spans: Spans 0 to this.
        code: The shard's.
        by_sentence: Whether the dropped are sentences, not documents.
    """
    for span in range(num_spans):
        places = np.load(_path(folder, span, "places") + ".npy")
        places = places[places[:, 0] == code].tolist()
        if not places:
            continue
        without = dropped(folder, span)
        with open(_path(folder, span, "tokens"), "rb") as f:
            for _, offset, size in places:
                f.seek(offset)
                block = without_dropped(blocks.from_bytes(f.read(size)), without, by_sentence)
                if len(block.document_lengths):
                    yield block


def without_dropped(block, numbers, by_sentence):
    """A `Block` without the documents, or sentences, of these numbers."""
    if not len(numbers):
        return block
    keep = ~np.isin(block.sentences if by_sentence else block.documents, numbers)
    if keep.all():
        return block
    return blocks.drop_sentences(block, keep) if by_sentence else blocks.take(block, np.flatnonzero(keep))
