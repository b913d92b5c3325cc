"""Scores of classification and regression, as GLUE defines them; NumPy, float64."""

import numpy as np


def _ratio(a, b):
    """a / b, 0.0 where b is 0."""
    return float(a / b) if b else 0.0


def confusion(labels, predictions, classes):
    """How often each label (row) was given each prediction (column): int64 [C, C] of int [N] twice."""
    counts = np.zeros([classes, classes], np.int64)
    np.add.at(counts, (labels, predictions), 1)
    return counts


def accuracy(counts):
    """Share of the examples on the diagonal of a confusion matrix [C, C]."""
    return _ratio(np.trace(counts), counts.sum())


def f1(counts, of):
    """Harmonic mean of precision and recall of one class; 0.0 if it neither is there nor was predicted."""
    return _ratio(2 * counts[of, of], counts[of].sum() + counts[:, of].sum())


def macro_f1(counts):
    """Mean of `f1` over the classes that are there or were predicted."""
    seen = [c for c in range(len(counts)) if counts[c].any() or counts[:, c].any()]
    return _ratio(sum(f1(counts, c) for c in seen), len(seen))


def matthews(counts):
    """Matthews' correlation of a confusion matrix [C, C], from -1 to 1; 0.0 if one side is constant.

    For C > 2 it is Gorodkin's (2004): (n tr(K) - t p) / sqrt((n^2 - p^2) (n^2 - t^2)), t and p the row and column sums.
    """
    counts = counts.astype(np.float64)
    n, truth, predicted = counts.sum(), counts.sum(1), counts.sum(0)
    covariance = n * np.trace(counts) - truth @ predicted
    return _ratio(covariance, np.sqrt(n * n - predicted @ predicted) * np.sqrt(n * n - truth @ truth))


def pearson(x, y):
    """Correlation of float [N] and float [N]; 0.0 if one of them is constant."""
    x, y = (np.asarray(v, np.float64) - np.mean(v, dtype=np.float64) for v in (x, y))
    return _ratio(x @ y, np.sqrt(x @ x) * np.sqrt(y @ y))


def _ranks(values):
    """Ranks of float [N], equal values having the mean of theirs: float64 [N]."""
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    return (last - (counts - 1) / 2)[inverse]


def spearman(x, y):
    """Correlation of the ranks."""
    return pearson(_ranks(x), _ranks(y))
