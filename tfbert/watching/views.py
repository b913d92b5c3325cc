"""What a model's answers to held-out examples of a task look like: a confusion matrix, curves, points and tables.

A task makes a `View` of its predictions (`tfbert.tasks.sentence_views`, `tag_views`, `answer_views`). TensorBoard shows
it after each evaluation; eval_view.json of a run folder keeps that of eval_results.txt, and tfbert.report draws it.
"""

import dataclasses
import json
import os
from typing import NamedTuple

import numpy as np

from tfbert import checks
from tfbert.watching import guesses

VIEW_FILE = "eval_view.json"
THRESHOLDS = np.linspace(0, 1, 101)  # of precision-recall curves
WORST, PAIRS = 20, 20  # rows of tables, at most
MOST_LETTERS = 300  # of a text in a table
# Okabe and Ito's blue and vermilion: what is right, and what is not.
RIGHT, WRONG = np.array([0x00, 0x72, 0xB2]), np.array([0xD5, 0x5E, 0x00])


class Confusion(NamedTuple):
    """How often each label was taken for each.

    Attributes:
        labels: The C labels.
        counts: int64 [C, C]; rows are the truth, columns what was predicted.
        of: What is counted, such as "examples".
    """

    labels: tuple
    counts: np.ndarray
    of: str


class PrecisionRecall(NamedTuple):
    """Precision and recall of one label, or of all of them, by the probability from which on it counts as predicted.

    Attributes:
        name: Of the label.
        counts: int64 [4, T]: true positives, false positives, true negatives and false negatives at `THRESHOLDS`.
        average: Average precision: the sum over all probabilities, from the highest on, of the precision there times
            what the recall grows by.
    """

    name: str
    counts: np.ndarray
    average: float

    @property
    def precision(self):
        """float64 [T]; 1.0 where nothing counts as predicted."""
        right, wrong = self.counts[:2].astype(np.float64)
        return np.divide(right, right + wrong, out=np.ones_like(right), where=right + wrong > 0)

    @property
    def recall(self):
        """float64 [T]."""
        right, missed = self.counts[[0, 3]].astype(np.float64)
        return np.divide(right, right + missed, out=np.zeros_like(right), where=right + missed > 0)


class Points(NamedTuple):
    """Scores of examples.

    Attributes:
        truth: float64 [N].
        predicted: float64 [N].
    """

    truth: np.ndarray
    predicted: np.ndarray


class Table(NamedTuple):
    """Rows of text.

    Attributes:
        name: Short, of letters and "_": it is the name of the page in TensorBoard.
        title: What it shows, and in what order.
        head: Names of the columns.
        rows: Tuples of text; the last column may be long.
    """

    name: str
    title: str
    head: tuple
    rows: tuple


@dataclasses.dataclass(frozen=True)
class View:
    """All that is shown; a task leaves out what it does not have.

    Attributes:
        tables: `Table`s.
        confusion: A `Confusion` or None.
        curves: `PrecisionRecall`s.
        points: `Points` or None.
    """

    tables: tuple = ()
    confusion: Confusion | None = None
    curves: tuple = ()
    points: Points | None = None


def precision_recall(name, truth, probabilities):
    """The `PrecisionRecall` of N cases.

    Args:
        name: Of the label.
        truth: bool [N], whether each is a case of it.
        probabilities: float [N] from 0 to 1.
    """
    truth, probabilities = np.asarray(truth, bool), np.asarray(probabilities, np.float64)
    place = np.searchsorted(THRESHOLDS, probabilities, side="right") - 1  # the last threshold that is passed
    passed = [np.bincount(place[of], minlength=len(THRESHOLDS))[::-1].cumsum()[::-1] for of in (truth, ~truth)]
    counts = np.stack([*passed, (~truth).sum() - passed[1], truth.sum() - passed[0]]).astype(np.int64)
    order = np.argsort(-probabilities, kind="stable")
    right = truth[order].cumsum()
    # Equal probabilities are told apart by no threshold: they count at the last of them.
    last = np.append(np.diff(probabilities[order]) != 0, True)
    precision = (right / np.arange(1, len(truth) + 1))[last]
    grown = np.diff(right[last], prepend=0)
    return PrecisionRecall(name, counts, float(precision @ grown / max(1, truth.sum())))


def most_confused(confusion):
    """The `Table` of pairs that were taken for one another, the most frequent first; None if all is right.

    The share is that of all cases of the true label.
    """
    wrong = confusion.counts * ~np.eye(len(confusion.labels), dtype=bool)
    found = [divmod(int(i), len(confusion.labels)) for i in np.argsort(-wrong, axis=None, kind="stable")[:PAIRS]]
    rows = tuple(
        (
            f"{wrong[pair]:,}",
            f"{100 * wrong[pair] / confusion.counts[pair[0]].sum():.1f} %",
            confusion.labels[pair[0]],
            confusion.labels[pair[1]],
        )
        for pair in found
        if wrong[pair]
    )
    head = (confusion.of, "share", "truth", "predicted")
    return Table("most_confused", "Most confused pairs", head, rows) if rows else None


def shares(counts):
    """float64 [C, C]: counts of a confusion matrix as shares of their row; 0 in a row that holds nothing."""
    total = counts.sum(1, keepdims=True)
    return np.divide(counts, total, out=np.zeros(counts.shape), where=total > 0)


def cell_colours(counts):
    """uint8 [C, C, 3] for a confusion matrix: blue for what is right, vermilion for what is not, by `shares`.

    The square root makes rare confusions visible.
    """
    depth = np.sqrt(shares(counts))[..., np.newaxis]
    colours = np.where(np.eye(len(counts), dtype=bool)[..., np.newaxis], RIGHT, WRONG)
    return np.round(255 + depth * (colours - 255.0)).astype(np.uint8)


def brief(count):
    """A count in few letters.

    >>> brief(12), brief(9_999), brief(12_345), brief(3_400_000)
    ('12', '9999', '12k', '3M')
    """
    if count >= 1_000_000:
        return f"{count // 1_000_000}M"
    return f"{count // 1000}k" if count >= 10_000 else str(count)


def shortened(text, letters=MOST_LETTERS):
    """A text as a cell of a table: in one line, its end cut."""
    text = " ".join(text.split())
    return text if len(text) <= letters else text[: letters - 1] + "…"


def as_markdown(table):
    """A `Table` as Markdown, in which texts are texts: what looks like HTML or Markdown in them does nothing."""
    rows = [table.head, *table.rows]
    lines = [f"| {' | '.join(guesses.escaped(shortened(cell)) for cell in row)} |" for row in rows]
    lines.insert(1, f"|{'---|' * len(table.head)}")
    return "\n".join([f"### {guesses.escaped(table.title)}", "", *lines, ""])


# --- eval_view.json -----------------------------------------------------------------------------------


def _as_json(value):
    """Arrays as lists, numbers in four digits behind the point; all else as it is."""
    if isinstance(value, np.ndarray):
        return np.round(value, 4).tolist()
    if hasattr(value, "_asdict"):
        return {name: _as_json(part) for name, part in value._asdict().items()}
    return [_as_json(part) for part in value] if isinstance(value, tuple) else value


def write(folder, step, view):
    """Writes eval_view.json into a folder: the step of the weights, and the `View`."""
    fields = {f.name: _as_json(getattr(view, f.name)) for f in dataclasses.fields(View)}
    path = os.path.join(folder, VIEW_FILE)
    with open(path + ".unfinished", "w", encoding="utf-8") as f:
        f.write(json.dumps({"step": step, **fields}, ensure_ascii=False) + "\n")
    os.replace(path + ".unfinished", path)


def _of_json(content):
    """(step, `View`) of what `write` has written."""
    confusion, points = content["confusion"], content["points"]
    view = View(
        tuple(Table(t["name"], t["title"], tuple(t["head"]), tuple(map(tuple, t["rows"]))) for t in content["tables"]),
        confusion and Confusion(tuple(confusion["labels"]), np.array(confusion["counts"], np.int64), confusion["of"]),
        tuple(PrecisionRecall(**{**c, "counts": np.array(c["counts"], np.int64)}) for c in content["curves"]),
        points and Points(*(np.array(points[name], np.float64) for name in Points._fields)),
    )
    return content["step"], view


def read(folder):
    """(step, `View`) of a folder's eval_view.json; None if there is no such file.

    Raises:
        InputError: it holds something else.
    """
    path = os.path.join(folder, VIEW_FILE)
    if not os.path.exists(path):
        return None
    try:
        with open(path, encoding="utf-8") as f:
            return _of_json(json.load(f))
    except (ValueError, TypeError, KeyError) as e:
        do = "Delete it; tfbert.evaluate --output_dir=RUN_DIR writes it anew"
        raise checks.error(f"{VIEW_FILE} must be as tfbert wrote it", repr(e), path, do) from e
