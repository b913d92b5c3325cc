"""Packing against the loops of google-research/bert."""

import numpy as np
import pytest
import tensorflow as tf

from tfbert import checks
from tfbert.tasks import windows
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


class TestRows:
    """`pack_rows` against a loop, and against `tasks.windows` for the windows."""

    LENGTHS = (0, 1, 7, 0, 8, 9, 10, 31, 0)
    QUESTIONS = (3, 0, 1, 2, 3, 3, 0, 2, 1)

    def expected(self, ids, length, head, stride, questions):
        found = []
        for i, row in enumerate(ids):
            before = [CLS] if questions is None else [CLS, *questions[i], SEP]
            room, places = length - 1 - len(before), np.arange(len(row))
            cuts = [places]
            if stride is None and len(row) > room:
                kept = room if head is None else head
                cuts = [np.concatenate([places[:kept], places[len(row) - (room - kept) :]])]
            elif stride is not None:
                cuts = [places[a:b] for a, b in windows.cut(len(row), room, stride)]
                number = windows.best(windows.cut(len(row), room, stride), len(row))
            for n, cut in enumerate(cuts):
                best = [True] * len(cut) if stride is None else (number[cut] == n).tolist()
                found.append((i, [*before, *np.array(row, int)[cut], SEP], len(before), cut, best))
        return found

    @pytest.mark.parametrize("asked", [False, True])
    @pytest.mark.parametrize("how", [{}, {"head": 0}, {"head": 2}, {"stride": 1}, {"stride": 3}, {"stride": 5}])
    def test_equals_a_loop(self, how, asked):
        ids, length = rows(self.LENGTHS, 10), 10
        questions = rows(self.QUESTIONS, 90) if asked else None
        got = packing.pack_rows(ids, length, VOCAB, **how, question=questions)
        listed = questions.to_list() if asked else None
        want = self.expected(ids.to_list(), length, how.get("head"), how.get("stride"), listed)
        assert got.text.numpy().tolist() == [i for i, *_ in want]
        longest = max(len(row) for _, row, *_ in want)
        assert got.place.shape == (len(want), longest) and {x.shape for x in got.features.values()} == {got.place.shape}
        for n, (i, row, first, cut, best) in enumerate(want):
            pad = longest - len(row)
            assert got.features["input_ids"][n].numpy().tolist() == row + [PAD] * pad
            assert got.features["input_mask"][n].numpy().tolist() == [1] * len(row) + [0] * pad
            of_text = [0] * first + [int(asked)] * (len(row) - first) + [0] * pad
            assert got.features["segment_ids"][n].numpy().tolist() == of_text
            places, after = (cut + int(ids.row_splits[i])).tolist(), [-1] * (pad + 1)
            assert got.place[n].numpy().tolist() == [-1] * first + places + after
            assert got.is_best[n].numpy().tolist() == [False] * first + best + [False] * (pad + 1)
        room = [length - 2 - (0 if not asked else n + 1) for n in self.QUESTIONS]
        cut_off = [n > r and "stride" not in how for n, r in zip(self.LENGTHS, room)]
        assert got.truncated.numpy().tolist() == cut_off

    @pytest.mark.parametrize("stride", [128, 64, 250])
    def test_windows_of_real_sizes(self, stride):
        lengths = (0, 381, 382, 509, 510, 1000, 4321)
        got = packing.pack_rows(rows(lengths, 10), 384, VOCAB, stride=stride)
        for i, length in enumerate(lengths):
            cuts = windows.cut(length, 382, stride)
            mine = np.flatnonzero(got.text == i)
            assert len(mine) == len(cuts)
            best = windows.best(cuts, length)
            for n, (row, (a, b)) in enumerate(zip(mine, cuts)):
                assert got.is_best[row, 1 : 1 + b - a].numpy().tolist() == (best[a:b] == n).tolist()

    def test_no_texts(self):
        for how in ({}, {"stride": 2}):
            got = packing.pack_rows(rows([], 0), 9, VOCAB, **how)
            assert got.place.shape == (0, 2) and got.truncated.shape == (0,)

    def test_a_long_text_beside_many_short_ones(self):
        got = packing.pack_rows(rows([1_000_000, *[0] * 100_000], 0), 9, VOCAB, head=0)
        assert got.features["input_ids"].shape == (100_001, 9) and int(got.place[0, 7]) == 999_999
