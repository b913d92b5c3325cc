"""Packing against the loops of google-research/bert."""

import numpy as np
import pytest
import tensorflow as tf

from tfbert import checks
from tfbert.text import packing
from tfbert.text.vocab import Vocab

VOCAB = Vocab(("x", "[UNK]", "[CLS]", "y", "[SEP]", "[MASK]", "[PAD]"))  # [PAD] is not 0
CLS, SEP, PAD = VOCAB.cls_id, VOCAB.sep_id, VOCAB.pad_id


def truncate(a, b, room):
    """run_classifier.py: `_truncate_seq_pair`."""
    a, b = list(a), list(b)
    while len(a) + len(b) > room:
        (a if len(a) > len(b) else b).pop()
    return a, b


def rows(lengths, first):
    return tf.RaggedTensor.from_row_lengths(np.arange(first, first + sum(lengths), dtype=np.int32), lengths)


def packed(segments, length):
    ids, kinds = [CLS], [0]
    for kind, segment in enumerate(segments):
        ids += [*segment, SEP]
        kinds += [kind] * (len(segment) + 1)
    pad = length - len(ids)
    return ids + [PAD] * pad, [1] * len(ids) + [0] * pad, kinds + [0] * pad


def check(got, want, length):
    for value, column in zip((got["input_ids"], got["input_mask"], got["segment_ids"]), zip(*want)):
        assert value.dtype == tf.int32
        assert value.shape == (len(want), length)
        np.testing.assert_array_equal(value, column)


@pytest.mark.parametrize("length", [2, 3, 7, 11, 40])
def test_single(length):
    ids = rows([0, 1, 4, 5, 6, 9, 30], 10)
    want = [packed([row[: length - 2]], length) for row in ids.to_list()]
    check(packing.pack_single(ids, length, VOCAB), want, length)


@pytest.mark.parametrize("length", [3, 4, 8, 9, 17])
def test_pair_of_all_lengths(length):
    sizes = [(n, m) for n in range(16) for m in range(16)]
    a, b = rows([n for n, _ in sizes], 10), rows([m for _, m in sizes], 5000)
    want = [packed(truncate(x, y, length - 3), length) for x, y in zip(a.to_list(), b.to_list())]
    check(packing.pack_pair(a, b, length, VOCAB), want, length)


def test_empty_batch():
    empty = rows([], 0)
    assert packing.pack_single(empty, 5, VOCAB)["input_ids"].shape == (0, 5)
    assert packing.pack_pair(empty, empty, 5, VOCAB)["segment_ids"].shape == (0, 5)


def test_length_must_hold_the_frame():
    ids = rows([1], 0)
    with pytest.raises(checks.InputError, match=r"\[CLS\] and \[SEP\]; got max_seq_length=1"):
        packing.pack_single(ids, 1, VOCAB)
    with pytest.raises(checks.InputError, match=r"two \[SEP\]; got max_seq_length=2"):
        packing.pack_pair(ids, ids, 2, VOCAB)


@pytest.mark.parametrize("most", [1, 2, 4])
def test_chunks(most):
    lengths, chunk = [0, 1, 3, 4, 6, 7, 20], 5
    ids = rows(lengths, 10)
    got = packing.pack_chunks(ids, chunk, most, VOCAB)
    count = min(most, 7)  # 20 pieces in chunks of 3
    want = []
    for whole in ids.to_list():
        parts = [whole[i : i + 3] for i in range(0, max(len(whole), 1), 3)][:most]
        row, mask = [], []
        for part in parts:
            values = [CLS, *part, SEP]
            row += values + [PAD] * (chunk - len(values))
            mask += [1] * len(values) + [0] * (chunk - len(values))
        left = count * chunk - len(row)
        want.append((row + [PAD] * left, mask + [0] * left, [0] * count * chunk))
    check(got, want, count * chunk)


def test_chunks_are_no_more_than_are_wanted():
    for lengths, count in (([1, 7], 3), ([0], 1), ([], 1)):
        got = packing.pack_chunks(rows(lengths, 10), 5, 8, VOCAB)
        assert {tuple(x.shape) for x in got.values()} == {(len(lengths), 5 * count)}
    with pytest.raises(checks.InputError, match=r"must hold \[CLS\], a piece and \[SEP\]; got chunk_length=2"):
        packing.pack_chunks(rows([1], 10), 2, 8, VOCAB)
