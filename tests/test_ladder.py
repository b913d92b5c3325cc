"""The lengths that batches are filled up to."""

import itertools

import numpy as np
import pytest

from tfbert.tasks import batches, ladder

TOP = 28  # of choices 8, 12, ..., 28
OPERATIONS = 2e6


@pytest.fixture(autouse=True)
def short_pools(monkeypatch):
    monkeypatch.setattr(batches, "POOL", 5)


def lengths_of(seed, most=TOP, count=90):
    return np.clip(np.random.default_rng(seed).gamma(2.0, 5.0, count).astype(int), 1, most)


def cost(chosen, longest, part, steps):
    """Operations of a training whose batches have such longest rows, written plainly."""
    filled = [min(n for n in chosen if n >= row) for row in longest]
    return ladder.COMPILING * len(set(filled)) + OPERATIONS * part * steps * float(np.mean(filled))


@pytest.mark.parametrize("by_length", [False, True])
@pytest.mark.parametrize("steps", [10, 300, 20000])
def test_no_ladder_costs_less(by_length, steps):
    lengths, part = lengths_of(steps), 6
    chosen = ladder.choose(lengths, part, by_length, steps, OPERATIONS, TOP)
    assert chosen[-1] == TOP and list(chosen) == sorted(set(chosen))
    longest = ladder._longest(lengths, part, by_length)
    others = [
        (*some, TOP) for size in range(6) for some in itertools.combinations((8, 12, 16, 20, 24), size)
    ]  # all that there are
    least = min(cost(c, longest, part, steps) for c in others)
    np.testing.assert_allclose(cost(chosen, longest, part, steps), least, rtol=1e-12)


def test_more_steps_or_a_larger_model_pay_for_more_lengths():
    lengths = lengths_of(1, 60, 400)

    def count(steps, operations):
        return len(ladder.choose(lengths, 8, True, steps, operations, 64))

    assert count(500, OPERATIONS) < count(5000, OPERATIONS) < count(50000, OPERATIONS)
    assert count(50, 100 * OPERATIONS) == count(5000, OPERATIONS)


def test_rows_alike_need_one_length_and_chunks_are_whole():
    alike = np.full(40, 17)
    assert ladder.choose(alike, 4, True, 1000, OPERATIONS, 64) == (20, 64)
    assert ladder.choose(alike, 4, True, 1000, OPERATIONS, 17, 3) == (17, 34, 51)
    long = np.array([17, 30, 51] * 20)  # chunks of texts
    assert ladder.choose(long, 4, False, 1000, OPERATIONS, 20, 3) == (20, 40, 60)
    assert ladder.choose(np.array([3]), 4, True, 10, OPERATIONS, 5) == (5,)


def test_a_function_of_what_it_is_told():
    lengths = lengths_of(3, 60, 300)
    once, again = (ladder.choose(lengths, 4, True, 300, OPERATIONS, 64) for _ in range(2))
    assert once == again
    # Which row comes first does not matter to the batches of a large set, nor, nearly, to the ladder.
    assert abs(len(ladder.choose(lengths[::-1], 4, True, 300, OPERATIONS, 64)) - len(once)) <= 1
