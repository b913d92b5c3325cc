"""Tests of tfbert.tasks.spans against trying every span of every window."""

import itertools
import math

import numpy as np
import pytest

from tfbert.tasks import spans, windows

CONTEXT = "aé b cc 東 the The dd b"
# (start, end) in bytes of "aé", "b", ... and, as a second piece of the first word, "é" alone.
PIECES = [(0, 1), (1, 3), (4, 5), (6, 8), (9, 12), (13, 16), (17, 20), (21, 23), (24, 25)]


def make_windows(logits, room, stride):
    """Windows of [CLS] q [SEP] ... [SEP] over PIECES; `logits` is [len(PIECES) + 1, 2], of [CLS] first."""
    found = []
    cuts = windows.cut(len(PIECES), room, stride)
    best = windows.best(cuts, len(PIECES))
    rng = np.random.default_rng(1)
    for number, (a, b) in enumerate(cuts):
        around = [(-1, -1)]
        offsets = np.array(around * 3 + PIECES[a:b] + around)
        of_row = rng.normal(size=(len(offsets), 2)) + 50  # question and [SEP] score high, and must not count
        of_row[0] = logits[0] + number
        of_row[3:-1] = logits[1 + a : 1 + b] + 0.1 * number
        is_best = np.array([False] * 3 + [best[i] == number for i in range(a, b)] + [False])
        found.append(spans.Window(of_row.astype(np.float32), offsets[:, 0], offsets[:, 1], is_best))
    return found


def slow_answer(found, n_best, longest):
    """Every span of every window: [(text, score)], likeliest first, each text once."""
    scores = {}
    for w in found:
        for i, j in itertools.product(range(len(w.starts)), repeat=2):
            if w.starts[i] < 0 or w.starts[j] < 0 or not w.is_best[i] or not i <= j < i + longest:
                continue
            text = CONTEXT.encode()[w.starts[i] : w.ends[j]].decode()
            score = float(w.logits[i, 0]) + float(w.logits[j, 1])
            scores[text] = max(score, scores.get(text, -math.inf))
    return sorted(scores.items(), key=lambda pair: -pair[1])[:n_best]


@pytest.mark.parametrize("n_best", [1, 2, 3, 7, 500])
@pytest.mark.parametrize("room, stride, longest", [(9, 9, 4), (4, 2, 30), (3, 1, 1), (5, 3, 2)])
def test_equals_trying_every_span(n_best, room, stride, longest):
    for seed in range(5):
        logits = np.random.default_rng(seed).normal(size=(len(PIECES) + 1, 2))
        found = make_windows(logits, room, stride)
        answer = spans.answer(found, CONTEXT, n_best, longest)
        expected = slow_answer(found, n_best, longest)
        assert [s.text for s, _ in answer.n_best] == [text for text, _ in expected]
        np.testing.assert_allclose([s.score for s, _ in answer.n_best], [score for _, score in expected], rtol=1e-6)
        assert answer.text == expected[0][0] and answer.null_odds is None
        assert all(CONTEXT.startswith(s.text, s.start) for s, _ in answer.n_best)
        powers = np.exp([score for _, score in expected])
        np.testing.assert_allclose([p for _, p in answer.n_best], powers / powers.sum(), rtol=1e-5)


def test_no_answer():
    logits = np.random.default_rng(0).normal(size=(len(PIECES) + 1, 2))
    found = make_windows(logits, 4, 2)
    best = slow_answer(found, 1, 30)[0]
    null = float(found[0].logits[0].sum())  # the lowest of the windows'
    assert null == min(w.logits[0].sum() for w in found) and len(found) > 2
    for threshold in (null - best[1] - 0.01, null - best[1] + 0.01):
        answer = spans.answer(found, CONTEXT, 3, 30, threshold)
        assert answer.null_odds == pytest.approx(null - best[1], rel=1e-5)
        assert answer.text == ("" if answer.null_odds > threshold else best[0])
        texts = [s.text for s, _ in answer.n_best]
        assert texts[0] == best[0] and texts[-1] == "" and len(texts) == 4
        assert sum(p for _, p in answer.n_best) == pytest.approx(1)
        assert answer.n_best[-1][0].start == -1


def test_a_context_without_wordpieces():
    empty = spans.Window(np.array([[1, 2], [9, 9], [9, 9]], np.float32), *[np.full(3, -1)] * 2, np.zeros(3, bool))
    assert spans.answer([empty], "", 5, 30) == spans.Answer("", [(spans.Span("", -1, 0.0, 0.0), 1.0)])
    answer = spans.answer([empty], " ", 5, 30, null_threshold=0.0)
    assert (answer.text, answer.null_odds) == ("", 3.0)


def test_texts_that_come_again_leave_room_for_others():
    """The two likeliest spans are "b"; of three answers two others are there nevertheless."""
    logits = np.zeros((len(PIECES) + 1, 2))
    for i in (3, 9):
        logits[i] = 5
    logits[5] = 3
    answer = spans.answer(make_windows(logits, 9, 9), CONTEXT, 3, 1)
    assert [s.text for s, _ in answer.n_best] == ["b", "東", "a"]
    assert answer.n_best[0][0].start == CONTEXT.index("b")
