"""What answers to questions look like: see `tfbert.watching.views`."""

import numpy as np

from tfbert.tasks import squad_metrics
from tfbert.watching import views

_LENGTHS = ((1, "1"), (2, "2"), (4, "3 to 4"), (8, "5 to 8"))  # (words at most, how it is called)
_AROUND = 120  # letters of the context on both sides of where its answer stands
_NONE = "(no answer)"


def of(with_negative, answers, questions):
    """The `views.View` of answers to questions whose answers are known.

    Args:
        with_negative: Whether questions may have no answer, as in SQuAD 2.0.
        answers: `spans.Answer`s.
        questions: As many `squad_files.Question`s.
    """
    each = np.array([_scored(with_negative, a, q) for a, q in zip(answers, questions, strict=True)])  # [N, 2]
    return views.View((_worst(each, answers, questions), _by_length(each, questions)))


def _scored(with_negative, answer, question):
    """(exact match, F1) of one answer, in percent."""
    found = squad_metrics.score([answer.text], [[a.text for a in question.answers]], [0.0] if with_negative else None)
    return found["exact" if with_negative else "exact_match"], found["f1"]


def _probability(answer):
    """What the model gives to its answer, among its n best."""
    return next((p for span, p in answer.n_best if span.text == answer.text), 0.0)


def _passage(question):
    """What stands around the first right answer, or how the context begins."""
    start = question.answers[0].start if question.answers else 0
    place = len(question.context.encode("utf-8")[: max(0, start)].decode("utf-8", "ignore"))
    begin = max(0, place - _AROUND)
    return ("…" if begin else "") + views.shortened(question.context[begin:], 2 * _AROUND)


def _worst(each, answers, questions):
    """The table of the questions with the lowest F1; of those, what the model was surest of first."""
    sure = np.array([_probability(a) for a in answers])
    rows = []
    for i in np.lexsort((-sure, each[:, 1]))[: views.WORST]:
        golds = dict.fromkeys(a.text for a in questions[i].answers)
        cells = f"{each[i, 1]:.1f}", f"{100 * sure[i]:.1f} %", " / ".join(golds) or _NONE, answers[i].text or _NONE
        texts = (*cells[2:], questions[i].question, _passage(questions[i]))
        rows.append((*cells[:2], *map(views.shortened, texts)))
    head = ("F1", "probability", "truth", "answer", "question", "context")
    title = "Worst questions: the lowest F1, and of those what the model was surest of"
    return views.Table("worst_questions", title, head, tuple(rows))


def _length(question):
    """How long the shortest right answer is, as the table calls it; its place in the table before that."""
    words = min((len(a.text.split()) for a in question.answers), default=0)
    if not words:
        return len(_LENGTHS) + 1, _NONE
    return next(((i, name) for i, (most, name) in enumerate(_LENGTHS) if words <= most), (len(_LENGTHS), "more"))


def _by_length(each, questions):
    """The table of scores by the length of the right answer."""
    lengths = [_length(q) for q in questions]
    rows = []
    for length in sorted(set(lengths)):
        mine = np.array([other == length for other in lengths])
        rows.append((f"{mine.sum():,}", *(f"{x:.1f}" for x in each[mine].mean(0)), length[1]))
    head = ("questions", "exact match", "F1", "words of the right answer")
    return views.Table("lengths", "By the length of the right answer", head, tuple(rows))
