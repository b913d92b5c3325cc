"""Scores of beginnings and ends -> answers: the likeliest spans of a text, as text with its place.

The rules are those of google-research/bert's run_squad.py: a beginning counts in the window in which it has the most
context, a span is no longer than `max_answer_length`, and of spans with the same text the likeliest counts. Text and
place come from the byte offsets of the tokenizer: nothing is put together from wordpieces. Unlike there all spans are
looked at, not only those of the 20 best beginnings and ends.
"""

from typing import NamedTuple

import numpy as np


class Span(NamedTuple):
    """A piece of the context.

    Attributes:
        text: Its text; "" for no answer.
        start: The character of the context at which it begins; -1 for no answer.
        start_logit: Score of its first wordpiece to begin an answer.
        end_logit: Score of its last wordpiece to end one.
    """

    text: str
    start: int
    start_logit: float
    end_logit: float

    @property
    def score(self):
        """By which spans are ranked."""
        return self.start_logit + self.end_logit


class Answer(NamedTuple):
    """What a model answers to one question.

    Attributes:
        text: The answer; "" for none.
        n_best: (`Span`, probability among them) pairs. The likeliest is first; in SQuAD 2.0 no answer is last.
        null_odds: How far the score of no answer is above that of the likeliest span; None in SQuAD 1.1.
    """

    text: str
    n_best: list
    null_odds: float | None = None


class Window(NamedTuple):
    """One row that a model saw.

    Attributes:
        logits: float [T, 2], of beginnings and ends.
        starts: int [T], byte of the context at which each wordpiece begins; -1 for those that are not of the context.
        ends: int [T], likewise its end (exclusive).
        is_best: bool [T], whether no other window has more context of the wordpiece.
    """

    logits: np.ndarray
    starts: np.ndarray
    ends: np.ndarray
    is_best: np.ndarray


def _ranked(scores, count):
    """Numbers of the `count` largest scores that are finite, largest first, and the first of equal ones first."""
    if count < scores.size:
        chosen = np.argpartition(-scores, count - 1)[:count]
        # All that equal the least of them, so that which of those are taken does not hang on the partition.
        chosen = np.flatnonzero(scores >= scores[chosen].min())
    else:
        chosen = np.arange(scores.size)
    chosen = chosen[np.isfinite(scores[chosen])]
    return chosen[np.argsort(-scores[chosen], kind="stable")][:count]


def of_window(window, context, count, max_answer_length):
    """The likeliest spans of one window, with different texts.

    Args:
        window: A `Window`.
        context: The text, as bytes.
        count: The most spans.
        max_answer_length: The most wordpieces of a span.

    Returns:
        List of `Span`, likeliest first.
    """
    inside = window.starts >= 0
    starts, ends, is_best = (x[inside] for x in (window.starts, window.ends, window.is_best))
    begin, end = window.logits[inside].astype(np.float64).T  # [n]
    width = min(max_answer_length, len(begin))
    if not width:
        return []
    ends_after = np.lib.stride_tricks.sliding_window_view(np.pad(end, (0, width - 1), constant_values=-np.inf), width)
    scores = (np.where(is_best, begin, -np.inf)[:, np.newaxis] + ends_after).ravel()  # [n * width]
    looked_at = count
    while True:
        found = {}
        ranked = _ranked(scores, looked_at)
        for first, more in zip(*divmod(ranked, width)):
            last = first + more
            text = context[starts[first] : ends[last]].decode("utf-8")
            if text not in found:
                place = len(context[: starts[first]].decode("utf-8"))
                found[text] = Span(text, place, float(begin[first]), float(end[last]))
        if len(found) >= count or looked_at >= scores.size:
            return list(found.values())[:count]
        looked_at *= 4


def answer(windows, context, n_best_size, max_answer_length, null_threshold=None):
    """The answer to a question from all windows of its context.

    Args:
        windows: List of `Window`, whose first wordpiece is [CLS].
        context: The text.
        n_best_size: The most spans of `Answer.n_best`.
        max_answer_length: The most wordpieces of an answer.
        null_threshold: What `null_odds` must be above for the answer to be none, as SQuAD 2.0 allows; None if every
            question has an answer.

    Returns:
        An `Answer`. A context without any wordpiece has the answer "".
    """
    encoded = context.encode("utf-8")
    spans = {}
    for window in windows:
        for span in of_window(window, encoded, n_best_size, max_answer_length):
            if span.text not in spans or span.score > spans[span.text].score:
                spans[span.text] = span
    spans = sorted(spans.values(), key=lambda span: -span.score)[:n_best_size]
    text, odds = spans[0].text if spans else "", None
    if null_threshold is not None:
        null = min((w.logits[0].astype(np.float64) for w in windows), key=np.sum)
        null = Span("", -1, *map(float, null))
        odds = null.score - (spans[0].score if spans else 0.0)
        spans.append(null)
        text = "" if odds > null_threshold else text
    spans = spans or [Span("", -1, 0.0, 0.0)]
    powers = np.exp(np.array([s.score for s in spans]) - max(s.score for s in spans))
    return Answer(text, list(zip(spans, (powers / powers.sum()).tolist())), odds)
