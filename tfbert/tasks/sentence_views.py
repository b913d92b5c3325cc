"""What classes and scores of texts look like: see `tfbert.watching.views`."""

import numpy as np

from tfbert.tasks import scores
from tfbert.tasks.sentence_files import CLASSIFY, REGRESS
from tfbert.watching import views

FEW_CLASSES = 10  # of which each has a precision-recall curve; more share one
MOST_POINTS = 2000  # that a diagram of scores shows
_LEAST = 1e-12  # a probability of 0 would have an infinite loss


def of(settings, predictions, examples):
    """The `views.View` of predictions on examples with labels.

    Args:
        settings: `sentence_files.Settings`.
        predictions: `targets.Prediction`s.
        examples: As many `sentence_files.Example`s.
    """
    if settings.kind == REGRESS:
        return _of_scores(predictions, examples)
    labels = settings.labels
    probabilities = np.stack([p.probabilities for p in predictions])  # [N, C]
    if settings.kind == CLASSIFY:
        truth = np.array([[label == e.label for label in labels] for e in examples])
        said = np.array([[label == p.label for label in labels] for p in predictions])
        losses = -np.log(np.maximum(probabilities[truth], _LEAST))
        confusion = views.Confusion(labels, truth.T.astype(np.int64) @ said.astype(np.int64), "examples")
    else:
        truth = np.array([[label in e.label for label in labels] for e in examples])
        said = np.array([[label in p.label for label in labels] for p in predictions])
        losses = -np.log(np.maximum(np.where(truth, probabilities, 1 - probabilities), _LEAST)).mean(1)
        confusion = None
    tables = (
        _worst(losses, predictions, examples),
        confusion and views.most_confused(confusion),
        by_label(labels, truth, said, "examples", probabilities),
    )
    return views.View(tuple(filter(None, tables)), confusion, _curves(labels, truth, probabilities))


def by_label(labels, truth, said, of_what, probabilities=None):
    """The table of labels with what each is found by.

    Args:
        labels: C labels.
        truth: bool [N, C].
        said: bool [N, C].
        of_what: What N counts, such as "examples".
        probabilities: float [N, C]; if given, average precision (AP) stands beside the others.
    """
    found = []
    for i, (label, wanted, given) in enumerate(zip(labels, truth.T, said.T, strict=True)):
        right, n = int((wanted & given).sum()), int(wanted.sum())
        precision, recall = right / max(1, given.sum()), right / max(1, n)
        f1 = scores.f1(scores.confusion(wanted.astype(int), given.astype(int), 2), 1)
        figures = [precision, recall, f1]
        if probabilities is not None:
            figures.append(views.precision_recall(label, wanted, probabilities[:, i]).average)
        found.append((f1, (f"{n:,}", f"{int(given.sum()):,}", *(f"{x:.3f}" for x in figures), label)))
    return label_table([row for _, row in sorted(found, key=lambda pair: pair[0])], of_what)


def label_table(rows, of_what):
    """The `views.Table` of rows (examples, predicted, precision, recall, F1, ..., label), the lowest F1 first."""
    cut = f", the lowest {views.PAIRS} of {len(rows)}" if len(rows) > views.PAIRS else ", the lowest F1 first"
    head = (of_what, "predicted", "precision", "recall", "F1", "AP", "label")
    head = head if rows and len(rows[0]) == len(head) else (*head[:5], head[-1])
    return views.Table("labels", f"Label by label{cut}", head, tuple(rows[: views.PAIRS]))


def _curves(labels, truth, probabilities):
    """A curve for each of few labels that have examples, or one for all of many."""
    if len(labels) > FEW_CLASSES:
        return (views.precision_recall("all labels (micro-average)", truth.ravel(), probabilities.ravel()),)
    return tuple(
        views.precision_recall(label, truth[:, i], probabilities[:, i])
        for i, label in enumerate(labels)
        if truth[:, i].any()
    )


def _text(example):
    """An example's text or texts, in one line."""
    return views.shortened(" ||| ".join(text for text in (example.text, example.text_pair) if text is not None))


def _said(label):
    return ", ".join(label) or "(none)" if isinstance(label, tuple) else label


def _worst(losses, predictions, examples):
    """The table of the examples with the highest losses."""
    rows = []
    for i in np.argsort(-losses, kind="stable")[: views.WORST]:
        label, probabilities, labels = predictions[i]
        sure = "" if isinstance(label, tuple) else f"{100 * probabilities[labels.index(label)]:.1f} %"
        rows.append((f"{losses[i]:.3f}", _said(examples[i].label), _said(label), sure, _text(examples[i])))
    head = ("loss", "truth", "predicted", "probability", "text")
    return views.Table("worst_examples", "Worst examples: the highest losses", head, tuple(rows))


def _of_scores(predictions, examples):
    """The view of a regression: truth beside prediction, and the examples that are furthest off."""
    truth, said = np.array([[e.label, p.label] for e, p in zip(examples, predictions, strict=True)], np.float64).T
    rows = tuple(
        (f"{(said[i] - truth[i]) ** 2:.3f}", f"{truth[i]:.3f}", f"{said[i]:.3f}", _text(examples[i]))
        for i in np.argsort(-np.abs(said - truth), kind="stable")[: views.WORST]
    )
    head = ("loss", "truth", "predicted", "text")
    table = views.Table("worst_examples", "Worst examples: the highest losses", head, rows)
    # Evenly from all, where there are more than can be told apart.
    some = np.unique(np.linspace(0, len(truth) - 1, min(len(truth), MOST_POINTS)).astype(int))
    return views.View((table,), points=views.Points(truth[some], said[some]))
