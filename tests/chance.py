"""Bounds for tests of what is drawn at random: a right program is within them all but once in a million runs."""

import math


def within(count, n, p, sigmas=5):
    """Whether a count of n trials is within so many standard deviations of the binomial law."""
    return abs(count - n * p) <= sigmas * math.sqrt(n * p * (1 - p))


def chi_square(counts, probabilities):
    """Whether counts agree with a law: Pearson's statistic below its mean + 5 deviations (and a tail for few bins)."""
    n, bins = sum(counts), len(counts)
    assert bins == len(probabilities) and min(probabilities) * n >= 5
    statistic = sum((c - n * p) ** 2 / (n * p) for c, p in zip(counts, probabilities))
    # Wilson and Hilferty 1931: the cube root of chi-square / k is close to normal.
    k = bins - 1
    return statistic <= k * (1 - 2 / (9 * k) + 5 * math.sqrt(2 / (9 * k))) ** 3
