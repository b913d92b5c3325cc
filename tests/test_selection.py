"""Tests of tfbert.text.selection."""

import math

import numpy as np
import pytest
import tensorflow as tf

from tfbert.text import selection
from tfbert.text.vocab import SPECIAL_TOKENS, Vocab

N, L = 37, 23
VOCAB = Vocab((*SPECIAL_TOKENS, "[unused0]", "a", "##b", "c", "##d", "##", "e"))
PAD, UNK, CLS, SEP, MASK, UNUSED, A, B_, C, D_, SHARP, E = range(len(VOCAB))


def random_units(seed, longest=5):
    """[N, L] units of 1 to `longest` neighbours, with gaps; and the same as lists of positions."""
    rng = np.random.default_rng(seed)
    units, lists = np.full((N, L), -1, np.int32), []
    for row in range(N):
        position, found = 0, []
        while position < L:
            size = int(rng.integers(1, longest + 1))
            unit = list(range(position, min(L, position + size)))
            if rng.random() < 0.8:
                units[row, unit] = len(found)
                found.append(unit)
            position += size
        lists.append(found)
    return units, lists


def test_every_token_is_a_unit():
    may = np.array([[False, True, True, False], [True, False, False, True]])
    units = selection.tokens(np.zeros_like(may), tf.constant(may))
    np.testing.assert_array_equal(units, [[-1, 1, 2, -1], [0, -1, -1, 3]])


def test_pieces_belong_to_their_word():
    ids = tf.constant([[CLS, A, B_, D_, C, SEP, E, B_, SEP, PAD]])
    units = selection.whole_words(selection.word_starts(ids, VOCAB), selection.maskable(ids, VOCAB))
    np.testing.assert_array_equal(units, [[-1, 0, 0, 0, 1, -1, 2, 2, -1, -1]])


def test_a_piece_after_a_special_token_is_a_unit_of_its_own():
    ids = tf.constant([[CLS, B_, D_, A, SEP, D_, UNK, B_, A, SEP]])
    units = selection.whole_words(selection.word_starts(ids, VOCAB), selection.maskable(ids, VOCAB))
    np.testing.assert_array_equal(units, [[-1, 0, 0, 1, -1, 2, -1, 3, 4, -1]])


def test_word_starts_are_the_entries_without_hashes_before_them():
    np.testing.assert_array_equal(
        selection.word_starts(tf.constant([[A, B_, C, D_, SHARP, E]]), VOCAB), [[True, False, True, False, True, True]]
    )


def test_nothing_special_is_maskable():
    ids = tf.range(len(VOCAB))[tf.newaxis]
    np.testing.assert_array_equal(selection.maskable(ids, VOCAB)[0], np.arange(len(VOCAB)) > UNUSED)


@pytest.mark.parametrize("p", [0.0, 0.05, 0.1, 0.15, 0.25, 0.3, 0.5, 1.0])
def test_the_number_to_mask_is_pythons_rounding(p):
    n = np.arange(3, 513)
    expected = [min(20, max(1, round(int(i) * p))) for i in n]
    np.testing.assert_array_equal(selection.num_to_mask(n, p, 20), expected)


def test_halves_round_to_even():
    np.testing.assert_array_equal(selection.num_to_mask([10, 30, 50, 70], 0.05, 99), [1, 2, 2, 4])  # .5 1.5 2.5 3.5


@pytest.mark.parametrize("longest", [1, 5])
def test_units_are_taken_whole_and_until_none_fits(longest):
    units, lists = random_units(1, longest)
    budget = np.random.default_rng(2).integers(0, 9, N).astype(np.int32)
    budget[:2] = 0, L
    taken = selection.select(tf.constant(units), tf.constant(budget), (3, 4)).numpy()
    for row in range(N):
        left = budget[row] - taken[row].sum()
        assert left >= 0
        assert not taken[row][units[row] < 0].any()
        for unit in lists[row]:
            assert taken[row][unit].all() or not taken[row][unit].any()
            # What was not taken did not fit at its turn, so it cannot fit at the end.
            assert taken[row][unit].all() or len(unit) > left
    assert taken[1].sum() == sum(map(len, lists[1]))


def test_a_word_longer_than_the_budget_is_skipped_for_a_shorter_one():
    units = tf.constant([[0, 0, 0, 1, -1]] * N)
    taken = selection.select(units, tf.fill([N], 2), (0, 1))
    np.testing.assert_array_equal(taken, [[False, False, False, True, False]] * N)


def test_nothing_to_take():
    taken = selection.select(tf.fill([N, L], -1), tf.fill([N], 5), (0, 1)).numpy()
    assert taken.shape == (N, L)
    assert not taken.any()


def test_every_position_is_as_likely():
    rows, length, budget = 4000, 11, 3
    units = selection.tokens(None, tf.ones([rows, length], bool))
    counts = selection.select(units, tf.fill([rows], budget), (5, 6)).numpy().sum(0)
    p = budget / length
    assert counts.sum() == rows * budget
    assert np.abs(counts - rows * p).max() < 5 * math.sqrt(rows * p * (1 - p))


def test_the_order_does_not_ask_for_the_size():
    # Of a word of two pieces and one of one, a budget of two takes whichever comes first.
    rows = 4000
    long_first = selection.select(tf.constant([[0, 0, 1]] * rows), tf.fill([rows], 2), (7, 8)).numpy()[:, 0]
    assert abs(long_first.sum() - rows / 2) < 5 * math.sqrt(rows / 4)


def test_positions_are_drawn_independently_of_one_another():
    rows = 4000
    units = selection.tokens(None, tf.ones([rows, 10], bool))
    taken = selection.select(units, tf.fill([rows], 5), (9, 10)).numpy()
    p = 5 / 10 * 4 / 9  # two given positions of ten, when five are drawn
    assert abs((taken[:, 0] & taken[:, 1]).sum() - rows * p) < 5 * math.sqrt(rows * p * (1 - p))


def test_a_seed_is_a_result():
    units, _ = random_units(3)
    budget = tf.fill([N], 4)
    first, again, other = (selection.select(tf.constant(units), budget, s).numpy() for s in [(1, 2), (1, 2), (1, 3)])
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()
    compiled = tf.function(selection.select, autograph=False)(tf.constant(units), budget, tf.constant((1, 2)))
    np.testing.assert_array_equal(first, compiled)
