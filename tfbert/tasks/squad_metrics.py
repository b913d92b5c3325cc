"""How answers are counted: exact match and F1, by the rules of SQuAD 1.1 and 2.0.

Rajpurkar et al. 2016, section 6.1, and 2018: case, punctuation, the articles a, an, the and white space do not
count; the F1 of an answer is that of its words as a bag; the best of the answers that people gave counts. All scores
are in percent.
"""

import collections
import re
import string

_ARTICLES = re.compile(r"\b(a|an|the)\b")
_PUNCTUATION = str.maketrans("", "", string.punctuation)


def normalize(text):
    """What counts of an answer: "The  Panthers'" -> "panthers"."""
    return " ".join(_ARTICLES.sub(" ", text.lower().translate(_PUNCTUATION)).split())


def exact_match(predicted, gold):
    """Whether two answers are the same: 0.0 or 1.0."""
    return float(normalize(predicted) == normalize(gold))


def f1(predicted, gold, empty_counts):
    """F1 of the words of a predicted answer.

    Args:
        predicted: An answer.
        gold: One that a person gave.
        empty_counts: Whether two answers without words are the same, as in SQuAD 2.0. By the rules of 1.1 answers
            have words, and what shares none has 0.

    Returns:
        From 0.0 to 1.0.
    """
    predicted, gold = normalize(predicted).split(), normalize(gold).split()
    if empty_counts and not (predicted and gold):
        return float(predicted == gold)
    shared = sum((collections.Counter(predicted) & collections.Counter(gold)).values())
    return 2.0 * shared / (len(predicted) + len(gold)) if shared else 0.0


def _best(predicted, golds, with_negative):
    """(exact match, F1) of a prediction with the nearest of the answers."""
    if with_negative:
        golds = [g for g in golds if normalize(g)] or [""]
    return (
        max(exact_match(predicted, g) for g in golds),
        max(f1(predicted, g, with_negative) for g in golds),
    )


def best_threshold(null_odds, scores, has_answer, predicted):
    """The best mean score that a threshold of null odds can give, and the threshold.

    A question whose odds are above the threshold counts as answered by nothing.

    Args:
        null_odds: How much likelier no answer is than the predicted one, one a question.
        scores: Of the predictions, one a question.
        has_answer: Whether the question has an answer.
        predicted: The texts of the predictions.

    Returns:
        (percent, threshold). Of equal scores the lowest threshold counts, and 0.0 if none is better than to answer
        nothing.
    """
    score = best = sum(not has for has in has_answer)  # answering nothing
    threshold = 0.0
    for i in sorted(range(len(scores)), key=null_odds.__getitem__):
        if has_answer[i]:
            score += scores[i]
        elif predicted[i]:
            score -= 1
        if score > best:
            best, threshold = score, null_odds[i]
    return 100.0 * best / len(scores), threshold


def _mean(values):
    values = list(values)
    return 100.0 * sum(values) / len(values)


def score(predicted, golds, null_odds=None):
    """The figures of the official evaluation, under its names.

    Args:
        predicted: A text for each question; "" for none.
        golds: For each question a list of the texts that people gave; empty if it has no answer.
        null_odds: One number a question for SQuAD 2.0's figures; None for 1.1's.

    Returns:
        {"exact_match", "f1"} of SQuAD 1.1, or of 2.0 {"exact", "f1", "total", "HasAns_exact", "HasAns_f1",
        "HasAns_total", "NoAns_...", "best_exact", "best_exact_thresh", "best_f1", "best_f1_thresh"}.
    """
    with_negative = null_odds is not None
    exact, f1s = zip(*(_best(p, g, with_negative) for p, g in zip(predicted, golds, strict=True)))
    if not with_negative:
        return {"exact_match": _mean(exact), "f1": _mean(f1s)}
    has_answer = [bool(g) for g in golds]
    found = {"exact": _mean(exact), "f1": _mean(f1s), "total": float(len(golds))}
    for name, wanted in (("HasAns", True), ("NoAns", False)):
        chosen = [i for i, has in enumerate(has_answer) if has == wanted]
        if chosen:
            found[f"{name}_exact"] = _mean(exact[i] for i in chosen)
            found[f"{name}_f1"] = _mean(f1s[i] for i in chosen)
            found[f"{name}_total"] = float(len(chosen))
    for name, scores in (("exact", exact), ("f1", f1s)):
        found[f"best_{name}"], found[f"best_{name}_thresh"] = best_threshold(null_odds, scores, has_answer, predicted)
    return found
