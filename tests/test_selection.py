"""Tests of tfbert.text.selection."""

import itertools
import math

import numpy as np
import pytest
import tensorflow as tf

from tests import chance
from tfbert.text import draws, selection
from tfbert.text.vocab import SPECIAL_TOKENS, Vocab

N, L = 37, 23
VOCAB = Vocab((*SPECIAL_TOKENS, "[unused0]", "a", "##b", "c", "##d", "##", "e"))
PAD, UNK, CLS, SEP, MASK, UNUSED, A, B_, C, D_, SHARP, E = range(len(VOCAB))
UNITS = ["token", "word", "ngram", "span"]


def seeds(n, seed=1):
    return draws.row_seeds(seed, tf.range(n, dtype=tf.int64))


def random_rows(n, length, seed, pieces=0.3, gaps=0.1):
    """(word_starts, maskable), bool [n, length]."""
    rng = np.random.default_rng(seed)
    return rng.random((n, length)) >= pieces, rng.random((n, length)) >= gaps


def runs(row):
    """A row of unit numbers as a list of lists of positions; each must be a run of neighbours, in order."""
    found = [[i for i, _ in run] for number, run in itertools.groupby(enumerate(row), lambda x: x[1]) if number >= 0]
    assert [row[run[0]] for run in found] == list(range(len(found)))
    return found


def words_of(word_starts, maskable):
    """The words of a row, in plain Python: lists of positions."""
    words = []
    for i, (start, may) in enumerate(zip(word_starts, maskable)):
        if may and (start or not words or i == 0 or not maskable[i - 1]):
            words.append([i])
        elif may:
            words[-1].append(i)
    return words


def greedy(units, words, budget, order):
    """The rule of `select` in plain Python: the positions taken of a row, given the order of the units."""
    taken = []
    for unit in order:
        for word in words:
            if units[word[0]] == unit:
                if len(taken) + len(word) > budget:
                    break
                taken += word
    return sorted(taken)


def make_units(name, word_starts, maskable, seed=1):
    starts, may = tf.constant(word_starts), tf.constant(maskable)
    units = selection.UNITS[name](starts, may, seeds(len(maskable), seed))
    words = selection.UNITS["token" if name == "token" else "word"](starts, may, None)
    return units, words


def test_every_token_is_a_unit():
    may = np.array([[False, True, True, False], [True, False, False, True]])
    units = selection.tokens(np.zeros_like(may), tf.constant(may), None)
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


def test_words_of_random_rows():
    word_starts, maskable = random_rows(N, L, 1)
    units = selection.whole_words(tf.constant(word_starts), tf.constant(maskable)).numpy()
    assert [runs(row) for row in units] == [words_of(*row) for row in zip(word_starts, maskable)]


@pytest.mark.parametrize(("name", "longest"), [("ngram", 3), ("span", 10)])
def test_groups_are_runs_of_whole_words_between_gaps(name, longest):
    word_starts, maskable = random_rows(200, 61, 2, gaps=0.05)
    units, words = (x.numpy() for x in make_units(name, word_starts, maskable))
    sizes = set()
    for row in range(len(units)):
        np.testing.assert_array_equal(units[row] >= 0, maskable[row])
        for unit in runs(units[row]):
            assert unit == list(range(unit[0], unit[-1] + 1))
            inside = np.isin(np.arange(units.shape[1]), unit)
            assert not np.isin(words[row][inside], words[row][~inside]).any()
            sizes.add(len(set(words[row][inside])))
    assert sizes == set(range(1, longest + 1))


@pytest.mark.slow
@pytest.mark.parametrize(("name", "law"), [("ngram", selection.NGRAM_LAW), ("span", selection.SPAN_LAW)])
def test_sizes_of_groups_follow_the_law(name, law):
    rows, length = 4000, 97
    units, _ = make_units(name, np.ones((rows, length), bool), np.ones((rows, length), bool))
    groups = [runs(row) for row in units.numpy()]
    assert math.isclose(sum(law), 1)
    # What is cut at the row's beginning is left of a group that a random place lies in.
    mean = sum(k * p for k, p in enumerate(law, 1))
    left = [sum(law[k:]) / mean for k in range(len(law))]
    first = np.bincount([len(row[0]) for row in groups], minlength=len(law) + 1)[1:]
    assert chance.chi_square(first, left)
    # All others that begin before the end can reach them.
    whole = [len(unit) for row in groups for unit in row[1:] if unit[0] <= length - len(law)]
    assert chance.chi_square(np.bincount(whole, minlength=len(law) + 1)[1:], law)
    # Each place is as likely to be the beginning of a group.
    begins = np.zeros(length, int)
    for row in groups:
        begins[[unit[0] for unit in row[1:]]] += 1
    assert all(chance.within(count, rows, 1 / mean) for count in begins[1:])
    # Neighbouring groups know nothing of one another.
    pairs = np.array([(len(row[3]), len(row[4])) for row in groups])
    assert abs(np.corrcoef(pairs.T)[0, 1]) < 5 / math.sqrt(rows)


def test_the_laws_are_the_papers():
    np.testing.assert_allclose(np.array(selection.NGRAM_LAW) * [1, 2, 3], 6 / 11)
    assert sum(selection.SPAN_LAW) == pytest.approx(1)
    np.testing.assert_allclose(np.array(selection.SPAN_LAW[1:]) / selection.SPAN_LAW[:-1], 0.8)
    assert sum(n * p for n, p in enumerate(selection.SPAN_LAW, 1)) == pytest.approx(3.8, abs=0.005)


@pytest.mark.parametrize("p", [0.0, 0.05, 0.1, 0.15, 0.25, 0.3, 0.5, 1.0])
def test_the_number_to_mask_is_pythons_rounding(p):
    n = np.arange(3, 513)
    expected = [min(20, max(1, round(int(i) * p))) for i in n]
    np.testing.assert_array_equal(selection.num_to_mask(n, p, 20), expected)


def test_halves_round_to_even():
    np.testing.assert_array_equal(selection.num_to_mask([10, 30, 50, 70], 0.05, 99), [1, 2, 2, 4])  # .5 1.5 2.5 3.5


@pytest.mark.parametrize("name", UNITS)
def test_units_are_drawn_in_a_random_order_by_the_rule(name):
    word_starts, maskable = random_rows(N, L, 3, pieces=0.4)
    units, words = make_units(name, word_starts, maskable)
    budget = np.random.default_rng(4).integers(0, 13, N).astype(np.int32)
    budget[:2] = 0, L
    taken = selection.select(units, words, tf.constant(budget), seeds(N)).numpy()
    random_bits = draws.bits(seeds(N), draws.ORDER, tf.range(L)).numpy()
    for row in range(N):
        order = np.argsort(-random_bits[row].astype(np.int64), kind="stable").tolist()
        all_words = (
            [[i] for i in np.flatnonzero(maskable[row])]
            if name == "token"
            else words_of(word_starts[row], maskable[row])
        )
        expected = greedy(units[row].numpy(), all_words, budget[row], order)
        assert np.flatnonzero(taken[row]).tolist() == expected
    assert taken[1].sum() == maskable[1].sum()
    assert not taken[0].any()


def test_the_quick_way_for_tokens_takes_the_same():
    _, maskable = random_rows(N, L, 5, gaps=0.3)
    maskable[3] = False
    budget = tf.constant(np.random.default_rng(6).integers(0, 9, N).astype(np.int32))
    units, words = make_units("token", maskable, maskable)
    taken = selection.select(units, words, budget, seeds(N)).numpy()
    for most in (8, L, L + 3):
        positions = selection.select_tokens(tf.constant(maskable), budget, most, seeds(N)).numpy()
        for row in range(N):
            expected = np.flatnonzero(taken[row]).tolist()
            assert positions[row].tolist() == expected + [-1] * (most - len(expected))


def test_a_word_longer_than_the_budget_is_skipped_for_a_shorter_one():
    units = tf.constant([[0, 0, 0, 1, -1]] * N)
    taken = selection.select(units, units, tf.fill([N], 2), seeds(N))
    np.testing.assert_array_equal(taken, [[False, False, False, True, False]] * N)


def test_a_group_longer_than_the_budget_gives_its_first_words():
    units, words = tf.constant([[-1, 0, 0, 0, 0, 0, -1]] * N), tf.constant([[-1, 0, 1, 1, 2, 3, -1]] * N)
    for budget, expected in [(1, [1]), (2, [1]), (3, [1, 2, 3]), (4, [1, 2, 3, 4])]:
        taken = selection.select(units, words, tf.fill([N], budget), seeds(N)).numpy()
        assert all(np.flatnonzero(row).tolist() == expected for row in taken)


@pytest.mark.parametrize("budget", [0, 5])
def test_nothing_to_take(budget):
    units = tf.fill([N, L], -1)
    for compiled in (False, True):
        select = tf.function(selection.select, autograph=False) if compiled else selection.select
        taken = select(units, units, tf.fill([N], budget), seeds(N)).numpy()
        assert taken.shape == (N, L)
        assert not taken.any()
        none = selection.select_tokens(units >= 0, tf.fill([N], budget), 7, seeds(N)).numpy()
        np.testing.assert_array_equal(none, np.full((N, 7), -1))


@pytest.mark.parametrize("name", UNITS)
def test_every_position_is_as_likely(name):
    rows, length, budget = 4000, 61, 11
    units, words = make_units(name, np.ones((rows, length), bool), np.ones((rows, length), bool))
    counts = selection.select(units, words, tf.fill([rows], budget), seeds(rows)).numpy().sum(0)
    assert counts.sum() == rows * budget
    edge = {"token": 0, "word": 0, "ngram": 3, "span": 10}[name]
    mean = counts[edge:].mean() / rows
    assert all(chance.within(count, rows, mean) for count in counts[edge:])
    # The words of the group that the row's beginning cuts off are rather the first of their group.
    assert all(mean * 0.95 < count / rows < mean * 1.3 for count in counts[:edge])


@pytest.mark.parametrize(("name", "least"), [("ngram", 0.985), ("span", 0.96)])
def test_the_sizes_of_what_is_taken_are_close_to_the_law(name, least):
    rows, length, budget = 500, 512, 77
    units, words = make_units(name, np.ones((rows, length), bool), np.ones((rows, length), bool))
    taken = selection.select(units, words, tf.fill([rows], budget), seeds(rows)).numpy()
    law = {"ngram": selection.NGRAM_LAW, "span": selection.SPAN_LAW}[name]
    groups = sum(len(set(row[t])) for row, t in zip(units.numpy(), taken))
    assert least < taken.sum() / groups / sum(n * p for n, p in enumerate(law, 1)) < 1


def test_the_order_does_not_ask_for_the_size():
    # Of a word of two pieces and one of one, a budget of two takes whichever comes first.
    rows = 4000
    units = tf.constant([[0, 0, 1]] * rows)
    long_first = selection.select(units, units, tf.fill([rows], 2), seeds(rows)).numpy()[:, 0]
    assert chance.within(long_first.sum(), rows, 0.5)


def test_positions_are_drawn_independently_of_one_another():
    rows = 4000
    taken = selection.select_tokens(tf.ones([rows, 10], bool), tf.fill([rows], 5), 5, seeds(rows)).numpy()
    pairs = np.zeros((10, 10), int)
    for row in taken:
        pairs[np.ix_(row, row)] += 1
    p = 5 / 10 * 4 / 9  # two given positions of ten, when five are drawn
    assert all(chance.within(pairs[i, j], rows, p) for i, j in itertools.combinations(range(10), 2))


@pytest.mark.parametrize("name", UNITS)
def test_a_seed_is_a_result_and_a_row_knows_nothing_of_its_batch(name):
    word_starts, maskable = random_rows(N, L, 7)
    budget = tf.fill([N], 6)

    def select(starts, may, row_seeds, most):
        units = selection.UNITS[name](starts, may, row_seeds)
        return selection.select(units, selection.whole_words(starts, may), most, row_seeds)

    rows = tf.constant(word_starts), tf.constant(maskable), seeds(N), budget
    whole = select(*rows).numpy()
    np.testing.assert_array_equal(whole, select(*rows))
    assert (whole != select(*rows[:2], seeds(N, 2), budget).numpy()).any()
    unknown_shape = [tf.TensorSpec([None] * x.shape.rank, x.dtype) for x in rows]
    compiled = tf.function(select, autograph=False, input_signature=unknown_shape)
    for some in (np.arange(N), np.arange(11, 19), np.random.default_rng(8).permutation(N)):
        np.testing.assert_array_equal(whole[some], compiled(*(tf.gather(x, some) for x in rows)))
