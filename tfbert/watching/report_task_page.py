"""What the page of a report shows of a fine-tuned run, and what of several that are compared."""

import dataclasses

import numpy as np

from tfbert.watching import matrix_image, report_page, report_task_texts, report_texts
from tfbert.watching.report_figures import (
    BEST,
    COLOURS,
    COLUMNS,
    MARGIN,
    REFERENCE,
    WIDTH,
    Curve,
    Matrix,
    Panel,
    Row,
    Style,
    Text,
    page,
)
from tfbert.watching.run_logs import HELD_OUT, TRAIN

_CELLS = ((4, 0.75), (8, 0.55), (15, 0.36), (30, 0.24), (60, 0.17), (matrix_image.MOST_CLASSES, 0.125))
_ROOM = WIDTH - 2 * MARGIN
_BESIDE, _NARROWEST = 4.6, 4.2  # inches: height, and least width, of what stands beside a confusion matrix
_STEPS = "optimizer step"
_PERCENT = ("exact", "HasAns", "NoAns", "best")  # scores of questions are in percent


class Panels(report_page.Panels):
    """Makes panels of fine-tuned runs.

    Args:
        runs: `report_task_texts.TaskRun`s.
    """

    def _unit(self, name):
        if name == "loss":
            return "mean squared error" if self._runs[0].about["kind"] == "regress" else "nats"
        of_questions = self._runs[0].about["kind"] == "answer"
        return "%" if of_questions or name.startswith(_PERCENT) else "correlation" if _correlates(name) else "score"

    def score(self, name, over_time=False):
        """The panel of a loss or a score, in training and held out, with the best evaluation of the best metric."""
        curves = [
            Curve(*xy, self.styles(i)[split])
            for split in (TRAIN, HELD_OUT)
            for i, xy in enumerate(self._over(name, split, over_time))
            if len(xy[0])
        ]
        for i, run in enumerate(self._runs):
            if name == run.best_metric[0] and run.best is not None:
                step, value = run.best
                x = float(run.logs.seconds_at(step)) / self._second if over_time else step
                colour = COLOURS[i] if len(self._runs) > 1 else BEST.colour
                curves.append(Curve(np.array([x]), np.array([value]), dataclasses.replace(BEST, colour=colour)))
        over = self.over_time if over_time else _STEPS
        title, falling = report_task_texts.called(name), name == "loss"
        return Panel(title, self._unit(name), over, tuple(curves), falling=falling)

    def types(self):
        """The panel of the F1 of each type of entities of the first run, or of some if they are many; None without."""
        names = report_task_texts.types_of(self._runs[0])[: len(COLOURS)]
        if not names:
            return None
        points = [self._runs[0].logs.series(name, HELD_OUT) for name in names]
        curves = tuple(Curve(*xy, Style(COLOURS[i], mark="o")) for i, xy in enumerate(points))
        names = tuple(name.removeprefix("f1_") for name in names)
        return Panel("F1 of each type", "score", _STEPS, curves, names=names, most_height=_BESIDE)


def _correlates(name):
    return name in ("pearson", "spearman", "matthews")


def _precision_recall(curves):
    """The panel of precision-recall curves."""
    drawn = []
    for i, curve in enumerate(curves):
        answered = curve.counts[:2].sum(0) > 0  # where nothing is predicted there is no precision
        style = Style(COLOURS[i % len(COLOURS)], dashed=i >= len(COLOURS))
        drawn.append(Curve(curve.recall[answered], curve.precision[answered], style))
    names = tuple(f"{report_texts.fitted(c.name, min(28, len(c.name)))}  {c.average:.3f}" for c in curves)
    title, limits = "Precision and recall (average precision)", (-0.02, 1.02, -0.02, 1.02)
    return Panel(title, "precision", "recall", tuple(drawn), names=names, limits=limits, most_height=_BESIDE)


def _scatter(points):
    """The panel of predicted scores over true ones."""
    both = np.concatenate(points)
    ends = np.array([both.min(), both.max()])
    room = 0.04 * float(np.ptp(ends)) or 1.0
    style = Style(COLOURS[0], mark="o", alpha=0.35, mark_size=4.5, joined=False)
    curves = (Curve(ends, ends, REFERENCE), Curve(points.truth, points.predicted, style))
    limits = (ends[0] - room, ends[1] + room) * 2
    return Panel("Predicted score over true score", "predicted", "truth", curves, limits=limits)


def _histogram(points):
    """The panel of how far predictions are off."""
    counts, edges = np.histogram(points.predicted - points.truth, 31)
    middles = (edges[:-1] + edges[1:]) / 2
    curve = Curve(middles, counts.astype(float), Style(COLOURS[0], stepped=True))
    return Panel("How far predictions are off", "examples", "predicted - truth", (curve,), from_zero=True)


def _pictures(view, types):
    """The rows of what is drawn of a view; `types` is the panel of types of entities, or None."""
    if view.points is not None:
        return [Row((_scatter(view.points), _histogram(view.points)), 5.2, (6.2, _ROOM - 6.2))]
    curves = _precision_recall(view.curves) if view.curves else types
    alone = [Row((curves,), _BESIDE, (8.0,))] if curves else []
    confusion = view.confusion
    if confusion is None or len(confusion.labels) > matrix_image.MOST_CLASSES:
        return alone
    cell = next(inches for most, inches in _CELLS if len(confusion.labels) <= most)
    matrix = Matrix("Confusion matrix", confusion, cell)
    left = _ROOM - matrix.width
    if not curves or left < _NARROWEST:
        return [Row((matrix,), matrix.height, (matrix.width,)), *alone]
    return [Row((matrix, curves), max(matrix.height, _BESIDE), (matrix.width, min(left, 7.5)))]


def _answers(run, types, room):
    """Blocks of what one run answered; `types` as of `_pictures`."""
    if run.view is None:
        do = "python -m tfbert.evaluate --run_dir=RUN --input_file=DEV_FILE --output_dir=RUN writes it"
        return [
            Text("What it answers", (f"eval_view.json is not there yet: it is written at the end of the run, or {do}",))
        ]
    blocks = _pictures(run.view, types)
    place = len(blocks)  # of what belongs to the labels: below the pictures
    tables = {table.name: table for table in run.view.tables}
    pair = [tables.pop(name) for name in ("most_confused", "labels") if name in tables]
    halves = [(t.title, *report_task_texts.table(t, room // 2 - 2)) for t in pair]
    for table in tables.values():
        if table.head[-1] == "context":  # a line has room for the question, and for no passage beside it
            table = table._replace(head=table.head[:-1], rows=tuple(row[:-1] for row in table.rows))
        heading = f"{table.title} (step {run.view_step:,})"
        blocks.append(Text(heading, report_task_texts.table(table, room)))
    if len(halves) == 2:
        blocks.insert(place, Text("Labels", report_task_texts.beside(*halves, room)))
    elif halves:
        blocks.insert(place, Text(halves[0][0], halves[0][1:]))
    return blocks


def _curves(panels, runs):
    """The key and the rows of panels."""
    scores = report_task_texts.scores_of(runs)
    best = f"best evaluation by {runs[0].best_metric[0].replace('_', ' ')}"
    if len(runs) > 1:
        key = Text("", (f"curves with marks: held out; pale ones: in training; {report_page.LOSSES}", best), {1: BEST})
        rows = [Row((panels.score(n), panels.score(n, True)), 3.4) for n in ("loss", *scores[:1])]
        if scores[1:]:
            rows.append(Row(tuple(panels.score(name) for name in scores[1:5])))
        return [key, *rows, Row(panels.speed())]
    styles = panels.styles(0)
    key = Text(
        "", ("in training", f"held out ({report_page.LOSSES})", best), {0: styles[TRAIN], 1: styles[HELD_OUT], 2: BEST}
    )
    return [key, Row(tuple(panels.score(name) for name in ("loss", *scores[:4]))), Row(panels.speed())]


def draw(runs):
    """The matplotlib `Figure` of a page about fine-tuned runs.

    Args:
        runs: `report_task_texts.TaskRun`s of one kind of task, as many as there are colours at most.
    """
    panels, room, several = Panels(runs), COLUMNS, len(runs) > 1
    samples = {i + 1: panels.styles(i)[HELD_OUT] for i in range(len(runs))} if several else {}
    blocks = [
        Text(
            "Results (loss and scores: held out, of the best evaluation)",
            report_task_texts.results(runs, room),
            samples,
        ),
        *_curves(panels, runs),
        *([] if several else _answers(runs[0], panels.types(), room)),
        Text("Recipe", report_texts.recipe(runs, room, report_task_texts.data)),
        Text("Environment", report_texts.environment(runs, room)),
    ]
    return page(report_task_texts.title(runs), blocks)
