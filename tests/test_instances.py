"""Tests of data_prep.instances."""

import collections
import itertools
import math
import random

import numpy as np
import pytest

from data_prep import blocks, instances
from tfbert.text.vocab import SPECIAL_TOKENS, Vocab

VOCAB = Vocab((*SPECIAL_TOKENS, *(f"w{i}" for i in range(50))))


def block(*documents):
    """A `Block` of documents, each a list of sentences, each a list of tokens."""
    sentences = [s for d in documents for s in d]
    tokens = np.array([t for s in sentences for t in s], np.int32)
    counts = np.array([len(s) for s in sentences]), np.array([len(d) for d in documents])
    made, _ = blocks.make(tokens, np.zeros(0, bool), *counts, 0, 0)
    return made


def window(*documents):
    (made,) = instances.windows([block(*documents)])
    return made


def numbered(num_documents, num_sentences, lengths, seed=0):
    """Documents with no token twice, so that a range of tokens tells where it is from."""
    rng = np.random.default_rng(seed)
    number = iter(range(1 << 30))
    return [
        [[next(number) for _ in range(rng.integers(*lengths))] for _ in range(rng.integers(*num_sentences))]
        for _ in range(num_documents)
    ]


def within(count, n, p, sigmas=5):
    """Whether a count of n trials is within so many standard deviations of the binomial law."""
    return abs(count - n * p) <= sigmas * math.sqrt(n * p * (1 - p))


# Windows.


def test_each_document_is_new_in_one_window_and_the_window_before_stays():
    documents = numbered(40, (1, 6), (1, 9))
    made = list(instances.windows((block(d) for d in documents), size=60))
    assert len(made) > 3
    new = []
    for before, w in zip([None, *made], made):
        texts = [
            w.tokens[w.sentence_splits[a] : w.sentence_splits[b]].tolist()
            for a, b in zip(w.document_splits, w.document_splits[1:])
        ]
        if before:
            assert texts[: w.first_new] == new[-w.first_new :]
        new += texts[w.first_new :]
        assert len(w.contents) == len(texts)
        assert sum(map(len, texts[w.first_new :])) < 60 + 6 * 9
    assert new == [[t for s in d for t in s] for d in documents]


def test_a_window_waits_for_a_second_document():
    giant, small = [[1] * 50], [[2]]
    (w,) = instances.windows([block(giant), block(giant), block(small)], size=10)
    assert len(set(w.contents)) == 2


# Pairs.


def check_pairs(w, pairs, documents):
    """Asserts what must hold of every pair; returns the document of each A and B."""
    ends = np.cumsum([sum(map(len, d)) for d in documents])
    of_a, of_b = (np.searchsorted(ends, x, side="right") for x in (pairs.a_begin, pairs.b_begin))
    assert (pairs.a_begin < pairs.a_end).all() and (pairs.b_begin < pairs.b_end).all()
    assert (pairs.a_end <= ends[of_a]).all() and (pairs.b_end <= ends[of_b]).all()  # in one document each
    splits = np.array(w.sentence_splits)
    for bounds in pairs[:4]:
        assert np.isin(bounds, splits).all()  # whole sentences
    real = pairs.labels == 0
    assert (pairs.b_begin[real] == pairs.a_end[real]).all()
    assert (of_a[real] == of_b[real]).all()
    assert (of_a[~real] != of_b[~real]).all()
    return of_a, of_b


def test_pairs_use_every_sentence_once_and_random_ones_are_of_other_documents():
    documents = numbered(300, (1, 12), (1, 30))
    w = window(*documents)
    pairs = instances.draw_pairs(w, 61, 0.1, 1)
    check_pairs(w, pairs, documents)
    used = np.zeros(len(w.tokens), int)
    for a, b, c, d, is_random in zip(*pairs):
        used[a:b] += 1
        if not is_random:
            used[c:d] += 1
    assert (used == 1).all()  # sentences behind a random next go back and are used again


def test_half_of_the_nexts_are_real():
    for seed, num_sentences in enumerate([(1, 4), (2, 12), (200, 300)]):
        documents = numbered(3000 // num_sentences[0], num_sentences, (1, 9))
        pairs = instances.draw_pairs(window(*documents[:700]), 33, 0.1, seed)
        n = len(pairs.labels)
        assert n > 600
        assert within(pairs.labels.sum(), n, 0.5), num_sentences


def test_labels_of_long_documents_are_drawn_independently():
    documents = numbered(3, (30000, 30001), (1, 2))
    is_random = instances.draw_pairs(window(*documents), 10, 0.0, 1).labels
    assert len(is_random) > 9000
    assert within(is_random.sum(), len(is_random), 0.5)
    assert within((is_random[1:] == is_random[:-1]).sum(), len(is_random) - 1, 0.5)


def test_a_lone_sentence_has_a_random_next():
    documents = [[[i]] for i in range(50)]
    pairs = instances.draw_pairs(window(*documents), 33, 0.1, 1)
    assert len(pairs.labels) == 50
    assert pairs.labels.all()


def test_pairs_hold_the_target_or_all_there_is():
    documents = numbered(4, (5000, 5001), (1, 2))  # sentences of one token, so that no pair is too long
    pairs = instances.draw_pairs(window(*documents), 100, 0.0, 1)
    lengths = pairs.a_end - pairs.a_begin + pairs.b_end - pairs.b_begin
    check_pairs(window(*documents), pairs, documents)
    at_end = np.isin(pairs.a_end, 5000 * np.arange(1, 5)) | np.isin(pairs.b_end, 5000 * np.arange(1, 5))
    assert (lengths[~at_end] == 100).all()
    assert at_end.mean() < 0.05
    assert lengths.max() == 100


@pytest.mark.parametrize("p", [0.0, 0.1, 1.0])
def test_the_share_of_short_sequences(p):
    documents = numbered(4, (20000, 20001), (1, 2))
    pairs = instances.draw_pairs(window(*documents), 40, p, 2)
    lengths = pairs.a_end - pairs.a_begin + pairs.b_end - pairs.b_begin
    lengths = lengths[: len(lengths) - 1]
    inside = lengths[~np.isin(pairs.b_end[:-1], 20000 * np.arange(1, 5))]
    # A shorter target is one of 2 to 40, so that one in 39 of them is not shorter.
    assert within((inside < 40).sum(), len(inside), p * 38 / 39) if p else (inside == 40).all()
    if p == 1.0:
        assert within((inside <= 20).sum(), len(inside), 19 / 39)
        assert inside.min() == 2


def test_other_documents_are_drawn_as_often_as_one_another():
    documents = numbered(9, (60, 61), (1, 2))
    w, drawn = window(*documents), collections.Counter()
    for seed in range(60):
        pairs = instances.draw_pairs(w, 7, 0.0, seed)
        of_a, of_b = check_pairs(w, pairs, documents)
        drawn.update((int(a), int(b)) for a, b, r in zip(of_a, of_b, pairs.labels) if r)
    for a in range(9):
        of = [drawn[a, b] for b in range(9) if b != a]
        assert all(within(count, sum(of), 1 / 8) for count in of)


def test_a_duplicate_is_never_the_random_next():
    twin = [[7, 8, 9], [10, 11]]
    documents = [twin, [[1]], twin, [[2], [3]], twin]
    w = window(*documents)
    for seed in range(200):
        pairs = instances.draw_pairs(w, 9, 0.0, seed)
        for a, c, is_random in zip(pairs.a_begin, pairs.b_begin, pairs.labels):
            assert not (is_random and w.tokens[a] >= 7 and w.tokens[c] >= 7)


def test_documents_of_the_window_before_lend_segments_only():
    first, second = numbered(6, (4, 9), (1, 4)), numbered(5, (4, 9), (1, 4), seed=1)
    *_, w = instances.windows([block(*first), block(*second)], size=1)
    assert w.first_new == 6
    borders = w.sentence_splits[w.document_splits[6]]
    lent = 0
    for seed in range(20):
        pairs = instances.draw_pairs(w, 9, 0.1, seed)
        assert (pairs.a_begin >= borders).all()
        lent += (pairs.b_begin < borders).sum()
        assert (pairs.b_begin >= borders)[(pairs.labels == 0)].all()
    assert lent > 0


def test_one_document_has_no_random_next():
    with pytest.raises(ValueError, match="two different documents"):
        instances.draw_pairs(window([[1, 2], [3]], [[1, 2, 3]]), 9, 0.1, 1)


def test_the_same_seed_draws_the_same_pairs_and_another_others():
    w = window(*numbered(30, (1, 12), (1, 9)))
    first, again, other = (instances.draw_pairs(w, 33, 0.1, seed) for seed in (1, 1, 2))
    for a, b in zip(first, again):
        np.testing.assert_array_equal(a, b)
    assert not all(np.array_equal(a, b) for a, b in zip(first, other))


# Truncation.


def reference_truncation(a, b, max_tokens, rng):
    """Lengths and front cuts, token by token, as google-research/bert describes it."""
    front_a = front_b = 0
    while a + b > max_tokens:
        front = rng.random() < 0.5
        if a > b:
            a, front_a = a - 1, front_a + front
        else:
            b, front_b = b - 1, front_b + front
    return a, b, front_a, front_b


def pairs_of_lengths(a, b):
    a, b = np.array(a), np.array(b)
    return instances.Pairs(np.full_like(a, 1000), 1000 + a, np.full_like(b, 5000), 5000 + b, np.zeros(len(a), int))


@pytest.mark.parametrize("max_tokens", [2, 7, 8])
def test_truncation_leaves_the_lengths_of_the_reference(max_tokens):
    lengths = [(a, b) for a in range(1, 21) for b in range(1, 21)]
    got, cut = instances.truncate(pairs_of_lengths(*zip(*lengths)), max_tokens, np.random.default_rng(0))
    for (a, b), a0, a1, b0, b1, gone in zip(lengths, *got[:4], cut):
        assert gone == max(0, a + b - max_tokens)
        assert (a1 - a0, b1 - b0) == reference_truncation(a, b, max_tokens, random.Random(0))[:2], (a, b)
        assert 1000 <= a0 < a1 <= 1000 + a
        assert 5000 <= b0 < b1 <= 5000 + b


def test_truncation_takes_from_both_ends_alike():
    n, a, b = 3000, 9, 3  # six of A have to go
    got, cut = instances.truncate(pairs_of_lengths([a] * n, [b] * n), 6, np.random.default_rng(1))
    rng = random.Random(1)
    assert reference_truncation(a, b, 6, rng)[:2] == (3, 3)
    assert (cut == 6).all()
    cuts = np.bincount(got.a_begin - 1000, minlength=7)
    assert all(within(cuts[k], n, math.comb(6, k) / 2**6) for k in range(7))


def test_short_pairs_stay():
    before = pairs_of_lengths([1, 4, 7], [7, 4, 1])
    after, cut = instances.truncate(before, 8, np.random.default_rng(0))
    assert not cut.any()
    for x, y in zip(before, after):
        np.testing.assert_array_equal(x, y)


# Packing.


def of_tokens(tokens, word_starts=()):
    return instances.Window(np.asarray(tokens), np.array(word_starts, bool), [], [], [], 0)


def test_packing_is_cls_a_sep_b_sep():
    tokens = np.arange(5, 40, dtype=np.int32)
    pairs = instances.Pairs(*np.array([[0, 3, 9, 11], [10, 11, 0, 4], [20, 24, 30, 34]]).T, np.array([0, 1, 0]))
    got = instances.pack(of_tokens(tokens), pairs, np.arange(3), np.zeros(3, int), 3, 11, VOCAB)
    cls, sep, pad = VOCAB.cls_id, VOCAB.sep_id, VOCAB.pad_id
    np.testing.assert_array_equal(
        got["input_ids"],
        [
            [cls, 5, 6, 7, sep, 14, 15, sep, pad, pad, pad],
            [cls, 15, sep, 5, 6, 7, 8, sep, pad, pad, pad],
            [cls, 25, 26, 27, 28, sep, 35, 36, 37, 38, sep],
        ],
    )
    np.testing.assert_array_equal(got["input_mask"], [[1] * 8 + [0] * 3, [1] * 8 + [0] * 3, [1] * 11])
    np.testing.assert_array_equal(
        got["segment_ids"], [[0] * 5 + [1] * 3 + [0] * 3, [0] * 3 + [1] * 5 + [0] * 3, [0] * 6 + [1] * 5]
    )
    np.testing.assert_array_equal(got["next_sentence_labels"], [[0], [1], [0]])
    assert {v.dtype for v in got.values()} == {np.dtype(np.int32)}


def test_the_same_vocabulary_in_another_order_packs_its_own_ids():
    vocab = Vocab(("a", "b", "[SEP]", "[MASK]", "[UNK]", "[CLS]", "[PAD]"))
    pairs = instances.Pairs(*np.array([[0, 1, 1, 2]]).T, np.array([1]))
    got = instances.pack(of_tokens(np.array([0, 1])), pairs, np.array([0]), np.array([0]), 1, 6, vocab)
    np.testing.assert_array_equal(got["input_ids"], [[5, 0, 2, 1, 2, 6]])


def test_rows_are_taken_from_every_column():
    pairs = pairs_of_lengths([1, 2, 3], [4, 5, 6])
    taken = instances.take(pairs, np.array([2, 0]))
    np.testing.assert_array_equal(taken.a_end - taken.a_begin, [3, 1])
    np.testing.assert_array_equal(taken.b_end - taken.b_begin, [6, 4])


def test_rows_of_several_examples():
    starts = np.arange(40) % 3 == 0
    pairs = instances.Pairs(
        *np.array([[0, 3, 9, 11], [10, 11, 0, 4], [20, 24, 30, 30], [7, 9, 5, 6]]).T, np.array([0, 1, 0, 1])
    )
    row, place = np.array([0, 0, 1, 1]), np.array([0, 1, 0, 1])
    got = instances.pack(of_tokens(np.arange(5, 45), starts), pairs, row, place, 2, 17, VOCAB, 3)
    cls, sep, pad = VOCAB.cls_id, VOCAB.sep_id, VOCAB.pad_id
    want = {
        "input_ids": [
            [cls, 5, 6, 7, sep, 14, 15, sep, cls, 15, sep, 5, 6, 7, 8, sep, pad],
            [cls, 25, 26, 27, 28, sep, cls, 12, 13, sep, 10, sep, *[pad] * 5],
        ],
        "input_mask": [[1] * 8 + [2] * 8 + [0], [1] * 6 + [2] * 6 + [0] * 5],
        "segment_ids": [[0] * 5 + [1] * 3 + [0] * 3 + [1] * 5 + [0], [0] * 10 + [1] * 2 + [0] * 5],
        "position_ids": [[*range(8), *range(8), 0], [*range(6), *range(6), *[0] * 5]],
        "next_sentence_positions": [[0, 8, 0], [0, 6, 0]],
        "next_sentence_labels": [[0, 1, 0], [0, 1, 0]],
        "next_sentence_weights": [[1, 1, 0], [1, 1, 0]],
    }
    for name, values in want.items():
        np.testing.assert_array_equal(got[name], values, name)
    begins = np.ones((2, 17), bool)
    begins[0, [1, 2, 3, 5, 6, 9, 11, 12, 13, 14]] = starts[[0, 1, 2, 9, 10, 10, 0, 1, 2, 3]]
    begins[1, [1, 2, 3, 4, 7, 8, 10]] = starts[[20, 21, 22, 23, 7, 8, 5]]
    np.testing.assert_array_equal(got["word_starts"], begins)
    assert got.keys() == want.keys() | {"word_starts"}


# Sentence order, and full sentences.


def test_ordered_pairs_follow_one_another_and_half_are_swapped():
    documents = numbered(400, (1, 12), (2, 30))
    w = window(*documents)
    pairs = instances.draw_ordered(w, 61, 0.1, 1)
    swapped = pairs.labels == 1
    first, second = np.where(swapped, pairs.b_begin, pairs.a_begin), np.where(swapped, pairs.b_end, pairs.a_end)
    then, last = np.where(swapped, pairs.a_begin, pairs.b_begin), np.where(swapped, pairs.a_end, pairs.b_end)
    np.testing.assert_array_equal(second, then)
    assert (first < second).all() and (then < last).all()
    np.testing.assert_array_equal(first, [0, *last[:-1]])  # every token is used, once
    assert last[-1] == len(w.tokens)
    ends = np.cumsum([sum(map(len, d)) for d in documents])
    np.testing.assert_array_equal(
        np.searchsorted(ends, first, side="right"), np.searchsorted(ends, last - 1, side="right")
    )
    assert within(swapped.sum(), len(swapped), 0.5)


def test_a_lone_sentence_is_cut_in_two_for_its_order():
    pairs = instances.draw_ordered(window([[1, 2, 3, 4]], [[5]], [[6, 7]]), 33, 0.0, 1)
    assert sorted(zip(np.minimum(pairs.a_begin, pairs.b_begin), np.maximum(pairs.a_end, pairs.b_end))) == [
        (0, 4),
        (5, 7),
    ]


@pytest.mark.parametrize("max_tokens", [2, 7, 40])
def test_full_sentences_lose_no_token_and_end_at_sentences(max_tokens):
    documents = numbered(50, (1, 7), (1, 13))
    numbers = {t for d in documents for s in d for t in s}
    sep = max(numbers) + 1
    w, pairs = instances.draw_sentences(window(*documents), max_tokens, 0.0, 3, sep)
    assert (pairs.b_begin == pairs.b_end).all()
    assert (pairs.labels == 0).all()
    segments = [w.tokens[a:b].tolist() for a, b in zip(pairs.a_begin, pairs.a_end)]
    assert all(1 <= len(s) <= max_tokens for s in segments)
    assert all(s[0] != sep and s[-1] != sep for s in segments)
    assert [t for s in segments for t in s if t != sep] == [t for d in documents for s in d for t in s]
    last = {s[-1] for d in documents for s in d}
    of_document = {d[-1][-1] for d in documents}
    sentence_of = {t: i for i, s in enumerate(s for d in documents for s in d) for t in s}
    for s, following in itertools.pairwise(segments):
        long = sum(sentence_of[t] == sentence_of[s[-1]] for t in numbers) > max_tokens
        assert s[-1] in last or long
        for before, at in itertools.pairwise(s):
            assert (at == sep) == (before in of_document)  # a [SEP] between documents and nowhere else
        # No sentence more would have fitted.
        if s[-1] in last and following[-1] in last:
            next_sentence = [t for t in following if sentence_of.get(t) == sentence_of[following[0]]]
            assert len(s) + (s[-1] in of_document) + len(next_sentence) > max_tokens
