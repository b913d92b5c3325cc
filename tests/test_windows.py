"""Tests of tfbert.tasks.windows."""

import numpy as np
import pytest

from tfbert.tasks import windows


def slow_cut(length, room, stride):
    """The loop of run_squad.py, in words: go on by the stride until a window reaches the end."""
    found, begin = [], 0
    while True:
        size = min(length - begin, room)
        found.append((begin, begin + size))
        if begin + size == length:
            return found
        begin += min(size, stride)


def slow_best(found, place):
    scores = {}
    for i, (begin, end) in enumerate(found):
        if begin <= place < end:
            scores[i] = min(place - begin, end - 1 - place) + 0.01 * (end - begin)
    return max(scores, key=lambda i: (round(scores[i], 6), -i))


@pytest.mark.parametrize("room, stride", [(1, 1), (7, 3), (7, 7), (7, 11), (5, 4), (12, 1)])
def test_equals_the_loop(room, stride):
    for length in range(31):
        found = windows.cut(length, room, stride)
        assert [tuple(w) for w in found] == slow_cut(length, room, stride)
        best = windows.best(found, length)
        assert best.tolist() == [slow_best(slow_cut(length, room, stride), p) for p in range(length)]


def test_the_example_of_run_squad():
    """Its comment: in windows of 5 every 3 the word "bought" has the most context in the second."""
    words = ["the", "man", "went", "to", "the", "store", "and", "bought", "a", "gallon", "of", "milk"]
    found = windows.cut(len(words), 5, 3)
    spans = [" ".join(words[a:b]) for a, b in found]
    assert spans[:3] == ["the man went to the", "to the store and bought", "and bought a gallon of"]
    assert spans[windows.best(found, len(words))[words.index("bought")]] == "and bought a gallon of"


def test_an_empty_text_has_one_window():
    np.testing.assert_array_equal(windows.cut(0, 5, 2), [[0, 0]])
    assert windows.best(windows.cut(0, 5, 2), 0).shape == (0,)
