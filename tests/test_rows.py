"""Tests of data_prep.rows: examples into rows."""

import itertools

import numpy as np
import pytest

from data_prep import rows
from tfbert import checks


def drawn(kind, count, size):
    """Lengths as they come about; the same each time."""
    rng = np.random.default_rng(7)
    lengths = {
        "glosses": lambda: rng.integers(15, 61, count),
        "short glosses": lambda: rng.integers(5, 41, count),
        "documents": lambda: rng.lognormal(3.3, 0.5, count).astype(int).clip(8, size),
        "mixed": lambda: np.where(
            rng.random(count) < 0.8, rng.integers(10, 80, count), rng.integers(100, size + 1, count)
        ),
        "any": lambda: rng.integers(5, size + 1, count),
        "full, some short": lambda: np.where(rng.random(count) < 0.9, size, rng.integers(5, size + 1, count)),
        "all full": lambda: np.full(count, size),
    }
    return np.minimum(lengths[kind](), size)


def check(lengths, size, most):
    """Fills rows, asserts that they are rows, and returns (row, place, share of slots that are filled)."""
    row, place = rows.fill(lengths, size, most)
    assert row.dtype == place.dtype == np.int64 and row.shape == place.shape == (len(lengths),)
    number = row.max() + 1
    examples = np.bincount(row, minlength=number)
    assert examples.min() >= 1 and examples.max() <= most  # dense
    assert np.bincount(row, lengths).max() <= size
    assert len(np.unique(row * most + place)) == len(lengths) and (place < examples[row]).all()
    return row, place, lengths.sum() / (number * size)


@pytest.mark.parametrize("size, most", [(128, 16), (512, 64)])
@pytest.mark.parametrize(
    "kind", ["glosses", "short glosses", "documents", "mixed", "any", "full, some short", "all full"]
)
def test_rows_are_full(kind, size, most):
    assert check(drawn(kind, 20_000, size), size, most)[2] >= 0.99


@pytest.mark.parametrize("size", [128, 512])
def test_examples_that_are_all_long_get_rows_of_their_own(size):
    lengths = np.random.default_rng(1).integers(size // 2 + 1, size + 1, 5000)
    row, place, _ = check(lengths, size, 8)
    assert row.max() + 1 == 5000 and not place.any()


@pytest.mark.parametrize("most", [1, 2, 3, 5])
def test_rows_hold_no_more_examples_than_they_may(most):
    lengths = drawn("short glosses", 3000, 512)
    row, place, _ = check(lengths, 512, most)
    assert row.max() + 1 == 3000 // most and place.max() == most - 1


def test_few_places_leave_the_last_rows_no_emptier():
    """16 examples are 600 tokens on average, for 512: the short ones have to be spread over the rows."""
    lengths = drawn("glosses", 20_000, 512)
    assert 512 / lengths.mean() < 14
    assert check(lengths, 512, 16)[2] >= 0.99


def least_rows(lengths, size, most):
    """The least number of rows, by trying all."""

    def fits(rest, bins):
        if not rest:
            return True
        tried = set()
        for i, (left, places) in enumerate(bins):
            if left >= rest[0] and places and (left, places) not in tried:
                tried.add((left, places))
                if fits(rest[1:], [*bins[:i], (left - rest[0], places - 1), *bins[i + 1 :]]):
                    return True
        return False

    return next(n for n in itertools.count(1) if fits(sorted(lengths, reverse=True), [(size, most)] * n))


@pytest.mark.parametrize("most", [2, 4])
def test_few_examples_take_at_most_one_row_more_than_the_least(most):
    rng, more = np.random.default_rng(3), 0
    for _ in range(60):
        lengths = rng.integers(3, 18, rng.integers(1, 9))
        row, _, _ = check(lengths, 20, most)
        more += row.max() + 1 - least_rows(lengths.tolist(), 20, most)
    assert 0 <= more <= 3


def test_is_a_function_of_the_lengths_in_their_order():
    lengths = drawn("mixed", 5000, 512)
    first, second = (rows.fill(lengths.astype(kind), 512, 32) for kind in (np.int64, np.int32))
    for a, b in zip(first, second):
        np.testing.assert_array_equal(a, b)
    order = np.random.default_rng(5).permutation(5000)
    row, _ = rows.fill(lengths[order], 512, 32)
    assert row.max() == first[0].max()  # as many rows, whatever the order

    def in_rows(numbers, sizes):
        return sorted(tuple(sorted(sizes[numbers == r])) for r in range(numbers.max() + 1))

    assert in_rows(row, lengths[order]) == in_rows(first[0], lengths)


def test_examples_of_a_length_are_given_out_in_their_order():
    row, place = rows.fill(np.array([4, 4, 4, 6, 4]), 8, 2)
    assert row.tolist() == [1, 1, 2, 0, 2]
    assert place.tolist() == [0, 1, 0, 0, 1]


def test_a_worked_example():
    """60 and 60 leave 8 of 128 that nothing fills; 60, 38 and 30 leave none."""
    row, _ = rows.fill([60, 60, 38, 38, 30, 30], 128, 16)
    assert row.max() == 1 and row[0] != row[1]


def test_no_examples():
    row, place = rows.fill([], 128, 4)
    assert len(row) == len(place) == 0


@pytest.mark.parametrize("lengths, most", [([5, 129], 4), ([5, 0], 4), ([5], 0)])
def test_what_fits_no_row_is_refused(lengths, most):
    with pytest.raises(checks.InputError, match=r"0 to 5 tokens|5 to 129 tokens|must hold an example"):
        rows.fill(lengths, 128, most)
