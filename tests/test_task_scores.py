"""Scores of fine-tuning against their definitions, written out one example at a time."""

import math

import numpy as np
import pytest

from tfbert.tasks import scores


def random_answers(seed, count=97, classes=5):
    rng = np.random.default_rng(seed)
    truth = rng.integers(0, classes - 1, count)  # the last class is never right
    return truth, np.where(rng.random(count) < 0.5, truth, rng.integers(0, classes, count))


def f1_by_counting(truth, said, of):
    right = sum(t == s == of for t, s in zip(truth, said))
    precision = right / max(1, sum(s == of for s in said))
    recall = right / max(1, sum(t == of for t in truth))
    return 2 * precision * recall / (precision + recall) if right else 0.0


@pytest.mark.parametrize("seed", range(3))
def test_classes(seed):
    truth, said = random_answers(seed)
    counts = scores.confusion(truth, said, 6)
    assert counts.sum() == 97 and counts[2, 3] == sum((t, s) == (2, 3) for t, s in zip(truth, said))
    assert scores.accuracy(counts) == pytest.approx(np.mean(truth == said))
    by_class = [f1_by_counting(truth, said, c) for c in range(5)]
    assert [scores.f1(counts, c) for c in range(5)] == pytest.approx(by_class)
    assert scores.macro_f1(counts) == pytest.approx(np.mean(by_class))  # class 5 is nowhere, class 4 only predicted
    # Matthews' correlation is Pearson's of the indicators of all classes.
    one_hot = [np.eye(6)[x] - np.eye(6)[x].mean(0) for x in (truth, said)]
    expected = (one_hot[0] * one_hot[1]).sum() / math.sqrt((one_hot[0] ** 2).sum() * (one_hot[1] ** 2).sum())
    assert scores.matthews(counts) == pytest.approx(expected)


def test_two_classes_by_hand():
    counts = scores.confusion([1, 1, 1, 0, 0, 1], [1, 0, 1, 1, 0, 1], 2)
    assert counts.tolist() == [[1, 1], [1, 3]]
    assert scores.accuracy(counts) == pytest.approx(4 / 6) and scores.f1(counts, 1) == pytest.approx(3 / 4)
    assert scores.matthews(counts) == pytest.approx((3 * 1 - 1 * 1) / math.sqrt(4 * 4 * 2 * 2))


def test_constant_answers_correlate_with_nothing():
    assert scores.matthews(scores.confusion([0, 1, 1], [1, 1, 1], 2)) == 0.0
    assert scores.pearson([1, 2, 3], [2, 2, 2]) == 0.0 and scores.spearman([4, 4], [1, 2]) == 0.0


def test_correlations():
    rng = np.random.default_rng(0)
    x = rng.integers(0, 7, 83) / 2  # many are equal
    y = x + rng.normal(0, 1, 83)
    assert scores.pearson(x, y) == pytest.approx(np.corrcoef(x, y)[0, 1])
    ranks = [sum(b < a for b in x) + (sum(b == a for b in x) + 1) / 2 for a in x]
    order = np.argsort(np.argsort(y)) + 1
    assert scores.spearman(x, y) == pytest.approx(np.corrcoef(ranks, order)[0, 1])
    assert scores.spearman(x, np.exp(x)) == pytest.approx(1.0) and scores.spearman(x, -(x**3)) == pytest.approx(-1.0)
