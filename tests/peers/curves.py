"""Draws held-out curves over training time: our run folders, and peers' saves as tests/peers/score.py scored them.

    python -m tests.peers.curves --run=out/google/run --run=out/efficient/run --saves=out/transformers \
        --output=curves.png

It prints a table too: what each ended with, and when each reached the loss that all reached.
"""

from tfbert import quiet  # noqa: F401 (first: it imports TensorFlow without its start-up noise)

# isort: split
import json
import os
import typing

import numpy as np
from absl import flags

from tfbert import checks
from tfbert.watching import report_figures, report_texts, run_logs

LOSS, ACCURACY = "masked_lm_loss", "masked_lm_accuracy"


class Held(typing.NamedTuple):
    """A run's results on held-out records: float64 [n] each."""

    name: str
    seconds: np.ndarray
    loss: np.ndarray
    accuracy: np.ndarray
    sequences: int
    steps: int


def of_run(run_dir):
    """The `Held` of a run folder of ours."""
    logs = run_logs.read(run_dir)
    steps, loss = logs.series(LOSS, run_logs.HELD_OUT)
    _, accuracy = logs.series(ACCURACY, run_logs.HELD_OUT)
    checks.require(len(steps), "a run must have been evaluated", "no held-out results", run_dir)
    sequences = logs.last_step * logs.config["pretrain"]["train_batch_size"]
    return Held(_name(run_dir), logs.seconds_at(steps), loss, accuracy, sequences, logs.last_step)


def of_saves(folder):
    """The `Held` of a peer."""
    path = os.path.join(folder, "curve.jsonl")
    checks.require(os.path.isfile(path), "--saves must be scored", "no curve.jsonl", folder, "Run tests.peers.score")
    with open(path, encoding="utf-8") as f:
        rows = [json.loads(line) for line in f]
    columns = (np.array([row[name] for row in rows], np.float64) for name in ("seconds", LOSS, ACCURACY))
    return Held(_name(folder), *columns, rows[-1]["sequences"], rows[-1]["steps"])


def _name(folder):
    return os.path.normpath(folder).removesuffix(os.sep + "run").rsplit(os.sep)[-1]


def seconds_to(held, loss):
    """Training seconds until a loss was reached, evenly between two evaluations; None if it never was."""
    reached = np.flatnonzero(held.loss <= loss)
    if not len(reached):
        return None
    i = reached[0]
    if i == 0:
        return float(held.seconds[0])
    before, after = held.loss[i - 1], held.loss[i]
    return float(held.seconds[i - 1] + (before - loss) / (before - after) * (held.seconds[i] - held.seconds[i - 1]))


def results(all_held):
    """Lines of a table."""
    worst = max(held.loss[-1] for held in all_held)
    rows = [["", "loss", "accuracy", "steps", "sequences", "minutes", f"minutes to {worst:.2f}"]]
    for held in all_held:
        until = seconds_to(held, worst)
        numbers = f"{held.loss[-1]:.3f}", f"{100 * held.accuracy[-1]:.1f} %", f"{held.steps:,}", f"{held.sequences:,}"
        minutes = f"{held.seconds[-1] / 60:.2f}", "never" if until is None else f"{until / 60:.2f}"
        rows.append([held.name, *numbers, *minutes])
    return report_texts.table(rows, report_figures.COLUMNS)


def draw(all_held):
    """The matplotlib `Figure`."""
    styles = [
        report_figures.Style(colour, mark=mark) for colour, mark in zip(report_figures.COLOURS, report_figures.MARKS)
    ]

    def panel(title, unit, values, falling):
        curves = [report_figures.Curve(held.seconds / 60, values(held), style) for held, style in zip(all_held, styles)]
        return report_figures.Panel(title, unit, "minutes of training", tuple(curves), falling=falling)

    panels = (
        panel("Masked-LM loss, held out", "nats", lambda held: held.loss, True),
        panel("Masked-LM accuracy, held out", "%", lambda held: 100 * held.accuracy, False),
    )
    table = report_figures.Text("", results(all_held), dict(enumerate(styles[: len(all_held)], 1)))
    return report_figures.page("The same ten minutes", [table, report_figures.Row(panels, 4.5)])


def main(argv):
    """The program."""
    del argv
    values = flags.FLAGS
    all_held = [*map(of_run, values.run or ()), *map(of_saves, values.saves or ())]
    checks.require(all_held, "--run or --saves must be given", "neither")
    print("\n".join(results(all_held)))
    draw(all_held).savefig(values.output)


if __name__ == "__main__":
    flags.DEFINE_multi_string("run", None, "A run folder of ours; may be repeated.")
    flags.DEFINE_multi_string("saves", None, "A folder that tests/peers/score.py scored; may be repeated.")
    flags.DEFINE_string("output", "curves.png", "The PNG file to write.")
    checks.run_program(main)
