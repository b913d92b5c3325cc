"""Tests of tfbert.text.draws."""

import numpy as np
import pytest
import tensorflow as tf

from tests import chance
from tfbert.text import draws

N, K = 1021, 127
PURPOSES = (draws.ORDER, draws.GROUP_SIZE, draws.FIRST_GROUP_SIZE, draws.REPLACEMENT, draws.RANDOM_WORD)


def bits(seeds, purpose=draws.ORDER, places=K):
    return draws.bits(seeds, purpose, tf.range(places)).numpy()


def row_seeds(seed=0, first=0, n=N):
    return draws.row_seeds(seed, tf.range(first, first + n, dtype=tf.int64))


def plain_bits(seed, purpose, place):
    """The same in Python's integers."""

    def mix(x):
        for shift, factor in ((16, 0x7FEB352D), (15, 0x846CA68B)):
            x = (x ^ x >> shift) * factor % 2**32
        return x ^ x >> 16

    low, high = (int(word) % 2**32 for word in seed)
    low = mix((low + purpose * 0x9E3779B9) % 2**32)
    high = mix(high ^ (low + 0x9E3779B9) % 2**32)
    return mix(mix((low + place) % 2**32) ^ high)


def bit_columns(numbers):
    """uint32 [...] -> float [..., 32] of -1 and 1."""
    return (numbers[..., None] >> np.arange(32, dtype=np.uint32) & 1) * 2.0 - 1


def uncorrelated(a, b):
    """Whether every bit of `a` agrees with every bit of `b` in half of the cases."""
    a, b = (bit_columns(x.reshape(-1)) for x in (a, b))
    return np.abs(a.T @ b).max() < 6 * np.sqrt(len(a))  # 1,024 pairs


def test_bits_are_what_plain_integers_give():
    seeds = np.array([[0, 0], [1, -1], [-(2**31), 2**31 - 1]], np.int32)
    places = [[0, 1], [5, 2**31 - 1], [7, 7]]
    got = draws.bits(seeds, draws.RANDOM_WORD, tf.constant(places)).numpy()
    assert got.tolist() == [[plain_bits(s, draws.RANDOM_WORD, p) for p in row] for s, row in zip(seeds, places)]


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["of rows", "low word counted", "high word counted", "both counted", "sparse"])
def test_bits_are_uniform_and_uncorrelated_whatever_the_seeds(kind):
    count = np.arange(N, dtype=np.int32)
    seeds = {
        "of rows": row_seeds().numpy(),
        "low word counted": np.stack([count, 0 * count], axis=1),
        "high word counted": np.stack([0 * count, count], axis=1),
        "both counted": np.stack([count, count], axis=1),
        "sparse": np.stack([count << 20, count << 12], axis=1),
    }[kind]
    x = bits(seeds)
    assert all(chance.within(ones, x.size, 0.5) for ones in ((bit_columns(x) + 1) / 2).sum((0, 1)))
    for shift in (24, 12, 0):
        assert chance.chi_square(np.bincount((x >> shift & 255).reshape(-1), minlength=256), [1 / 256] * 256)
    assert uncorrelated(x[1:], x[:-1])
    assert uncorrelated(x[:, 1:], x[:, :-1])
    assert uncorrelated(x[:, 64:], x[:, : K - 64])
    assert uncorrelated(x, bits(seeds, draws.REPLACEMENT))
    # Rows and places differ among themselves no more and no less than chance has it.
    for axis, size, others in ((1, K, N), (0, N, K)):
        spread = (x >> 31).sum(axis).var() / (size / 4)
        assert abs(spread - 1) < 5 * np.sqrt(2 / others)


def test_purposes_and_places_have_numbers_of_their_own():
    seeds = row_seeds(3, n=29)
    x = np.stack([bits(seeds, purpose, 61) for purpose in PURPOSES])
    assert len(np.unique(x)) > x.size - 5  # of 2^32, by chance
    assert len(set(PURPOSES)) == len(PURPOSES)


def test_orders_are_each_as_likely():
    x = bits(row_seeds(4, n=12000), places=4)
    orders = np.argsort(x, axis=1) @ [64, 16, 4, 1]
    assert chance.chi_square(np.unique(orders, return_counts=True)[1], [1 / 24] * 24)


def test_row_seeds_are_different():
    numbers = np.concatenate([np.arange(5000), 2**32 + np.arange(50), -np.arange(1, 50), [2**62]])
    seeds = draws.row_seeds(5, numbers).numpy()
    assert len(np.unique(seeds, axis=0)) == len(numbers)
    for seed in (0, 6, -1, 5 + 2**32):
        assert not (draws.row_seeds(seed, numbers).numpy() == seeds).all(1).any()
    np.testing.assert_array_equal(draws.row_seeds(5 + 2**64, numbers), seeds)
    words = seeds[:4000].view(np.uint32)
    assert uncorrelated(words[:, 0], words[:, 1])
    assert uncorrelated(words[1:], words[:-1])
    assert uncorrelated(words, draws.row_seeds(6, numbers).numpy()[:4000].view(np.uint32))


@pytest.mark.parametrize("bound", [1, 3, 89, 2**31 - 1])
def test_integers_below_a_bound(bound):
    x = bits(row_seeds(8))
    drawn = draws.below(tf.constant(x), bound)
    assert drawn.dtype == tf.int32
    assert (drawn.numpy() == x.astype(object) * bound // 2**32).all()
    if bound == 89:
        assert chance.chi_square(np.bincount(drawn.numpy().reshape(-1)), [1 / bound] * bound)


@pytest.mark.parametrize("law", [(1.0,), (1.0, 0.0), (0.0, 1.0), (0.5, 0.0, 0.5), (0.8, 0.1, 0.1)])
def test_choices_from_a_law(law):
    possible = [i for i, p in enumerate(law) if p]
    edges = tf.constant([0, 2**31 - 1, 2**31, 2**32 - 1], tf.uint32)
    assert draws.choose(edges, law).numpy()[[0, -1]].tolist() == [possible[0], possible[-1]]
    assert draws.choose(edges, (0.5, 0.5)).numpy().tolist() == [0, 0, 1, 1]
    drawn = draws.choose(tf.constant(bits(row_seeds(9))), law).numpy()
    counts = np.bincount(drawn.reshape(-1), minlength=len(law))
    assert all(chance.within(c, drawn.size, p) for c, p in zip(counts, law))


def test_eager_compiled_and_by_xla_agree():
    seeds = row_seeds(10, n=13)
    expected = bits(seeds)
    for options in ({}, {"jit_compile": True}):
        compiled = tf.function(lambda s: draws.bits(s, draws.ORDER, tf.range(K)), **options)
        np.testing.assert_array_equal(compiled(seeds), expected)
        compiled = tf.function(lambda n: draws.row_seeds(10, n), **options)
        np.testing.assert_array_equal(compiled(tf.range(13, dtype=tf.int64)), seeds)
