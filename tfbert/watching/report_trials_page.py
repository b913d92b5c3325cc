"""What the page of a report shows of trials, folds or a sweep: each point of the grid with its mean and deviation."""

import dataclasses

from tfbert.watching import report_task_texts, report_texts
from tfbert.watching.report_figures import (
    COLOURS,
    COLUMNS,
    GREY,
    MARGIN,
    WIDTH,
    Curve,
    Dots,
    Panel,
    Row,
    Style,
    Text,
    page,
)
from tfbert.watching.run_logs import HELD_OUT

_CURVES_WIDTH = 6.6
_SCORES = 6  # in the table


def _called(group):
    """The point of a group, in words."""
    return ", ".join(f"{name}={value}" for name, value in group["point"].items()) or "all runs"


def _results(groups, scores, room):
    """A table of the points, the best first: how many runs, and mean ± deviation of each score."""
    rows = [["point", "runs", *(name.replace("_", " ") for name in scores)]]
    for group in groups:
        figures = (f"{group['mean'][s]:.4g} ± {group['deviation'][s]:.2g}" for s in scores)
        rows.append([_called(group), str(len(group["runs"])), *figures])
    return report_texts.table(rows, room)


def _curves(groups, runs, name):
    """The panel of a held-out score of all runs over the steps: a colour for each of the best points, else grey."""
    places = {run: i for i, group in enumerate(groups) for run in group["runs"]}
    curves = []
    for run in runs:
        steps, values = run.logs.series(name, HELD_OUT)
        place = places[run.name]
        pale = place >= len(COLOURS)
        style = Style(GREY, 0.8, alpha=0.4) if pale else Style(COLOURS[place], 1.4, alpha=0.8)
        if len(steps):
            curves.append((place, Curve(steps, values, style)))
    ordered = [curve for _, curve in sorted(curves, key=lambda pair: -pair[0])]
    title = f"{report_task_texts.called(name)} of each run"
    return Panel(title, name.replace("_", " "), "optimizer step", tuple(ordered), falling=name == "loss")


def draw(folder, groups, runs):
    """The matplotlib `Figure` of a page about trials.

    Args:
        folder: Their folder.
        groups: As of `tasks.trials.summarise`.
        runs: `report_task_texts.TaskRun`s of all runs of the groups, in their order.
    """
    # By their folder's name, which is the run's in the groups.
    runs = [run._replace(name=name) for run, name in zip(runs, [n for g in groups for n in g["runs"]], strict=True)]
    metric = runs[0].best_metric[0]
    scores = [n for n in dict.fromkeys((metric, *report_task_texts.scores_of(runs), "loss")) if n in groups[0]["mean"]]
    described = [
        (_called(g), [scored[metric] for scored in g["runs"].values()], g["mean"][metric], g["deviation"][metric])
        for g in groups
    ]
    dots = Dots(f"{report_task_texts.called(metric)}: runs, mean and deviation", metric, tuple(described))
    height = max(dots.height, 3.4)
    widths = (WIDTH - 2 * MARGIN - _CURVES_WIDTH, _CURVES_WIDTH)
    samples = {i + 1: Style(COLOURS[i]) for i in range(min(len(groups), len(COLOURS)))}
    heading = "Results of each point, the best first (mean ± deviation of a sample)"
    best = dataclasses.replace(runs[0].logs, notes=())
    blocks = [
        Text(heading, _results(groups, scores[:_SCORES], COLUMNS), samples),
        Row((dots, _curves(groups, runs, metric)), height, widths),
        Text(
            "Recipe of the first run of the best point", report_texts.recipe(runs[:1], COLUMNS, report_task_texts.data)
        ),
        Text("Environment", report_texts.environment([runs[0]._replace(logs=best)], COLUMNS)),
    ]
    count = sum(len(group["runs"]) for group in groups)
    return page(report_texts.fitted(f"{count} runs of {folder}", 100).rstrip(), blocks)
