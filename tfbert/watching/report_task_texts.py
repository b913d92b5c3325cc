"""The lines of a report of fine-tuned runs: scores, tables of what they answer, and what they were trained on."""

import os
import typing
import unicodedata

import numpy as np

from tfbert.watching import progress, report_texts, run_logs, views
from tfbert.watching.report_texts import duration, fitted, last, shown, typical

_CELL = 34  # letters of a cell, but for the last one of a row


class TaskRun(typing.NamedTuple):
    """A fine-tuned run as a report shows it.

    Attributes:
        name: Short, and its own among the runs of the report.
        logs: Its `RunLogs`.
        parameters: Numbers that the model learns; None without a checkpoint.
        about: What config.json says of the task; `about["kind"]` is its kind.
        best_metric: (a score or "loss", "max" or "min"), by which its evaluations are compared.
        view_step: The step of the weights that answered what `view` shows; None without a view.
        view: The `views.View`, or None.
    """

    name: str
    logs: run_logs.RunLogs
    parameters: int | None
    about: dict
    best_metric: tuple
    view_step: int | None
    view: views.View | None

    @property
    def best(self):
        """(step, value) of the best evaluation; None if there is none."""
        name, towards = self.best_metric
        steps, values = self.logs.series(name, run_logs.HELD_OUT)
        if not np.isfinite(values).any():
            return None
        place = np.nanargmin(values) if towards == "min" else np.nanargmax(values)
        return int(steps[place]), float(values[place])

    def at(self, name, step):
        """A held-out figure at a step; None if it was not reported."""
        steps, values = self.logs.series(name, run_logs.HELD_OUT)
        found = values[steps == step]
        return float(found[0]) if len(found) and np.isfinite(found[0]) else None


def scores_of(runs):
    """Names of the held-out scores that all runs have, the best metric first, the most telling before the others."""
    reported = [{name for row in run.logs.metrics[run_logs.HELD_OUT] for name in row} for run in runs]
    known = [runs[0].best_metric[0], "accuracy", *progress.SCORES]
    return [n for n in dict.fromkeys(known) if n != "loss" and all(n in names for names in reported)]


def called(name):
    """A score as a heading says it.

    >>> called("macro_f1")
    'Macro F1'
    """
    text = name.replace("_", " ").replace("f1", "F1")
    return text[:1].upper() + text[1:]


def types_of(run):
    """Names of the F1 of each type of entities, the types that a run has."""
    rows = run.logs.metrics[run_logs.HELD_OUT]
    return sorted({name for row in rows for name in row if name.startswith("f1_")})


def results(runs, room):
    """A table of what came out of each run: its heading, then one line a run.

    Loss and scores are those of the evaluation that was best by the best metric.
    """
    scores = scores_of(runs)[:7]
    heads = ["run", "parameters", "steps", "trained for", "seq/s", "padding", "best at step", "loss"]
    rows = [heads + [name.replace("_", " ") for name in scores]]
    for run in runs:
        logs, best = run.logs, run.best
        figures = [None if best is None else run.at(name, best[0]) for name in ("loss", *scores)]
        rows.append(
            [
                run.name,
                shown(run.parameters, "{:,}"),
                f"{logs.last_step:,}",
                duration(logs.seconds_at(logs.last_step)),
                shown(typical(logs, "sequences_per_second"), "{:,.1f}"),
                shown(last(logs, "padding_share", run_logs.TRAIN), "{:.1f} %", 100),
                "-" if best is None else f"{best[0]:,}",
                *(shown(figure, "{:.4g}") for figure in figures),
            ]
        )
    held_out = {str((run.logs.config.get("records") or {}).get("held_out")) for run in runs}
    unlike = ("note: held-out examples differ from run to run: scores do not compare",) if len(held_out) > 1 else ()
    return (*report_texts.table(rows, room), *unlike)


# --- What the model answers ---------------------------------------------------------------------------


def _letters(text):
    """Places that a text takes in a font of one width: letters of East Asia take two."""
    return sum(2 if unicodedata.east_asian_width(letter) in "WF" else 1 for letter in text)


def cut(text, room):
    """A text whose end is cut so that it takes at most so many places."""
    if _letters(text) <= room:
        return text
    kept, places = [], 1
    for letter in text:
        places += _letters(letter)
        if places > room:
            break
        kept.append(letter)
    return "".join(kept) + "…"


def table(shown_table, room):
    """The lines of a `views.Table`: columns as wide as they must be, numbers to the right, the last one cut."""
    rows = [shown_table.head, *shown_table.rows]
    last_column = len(shown_table.head) - 1
    if not shown_table.rows:
        return ("none",)
    cells = [[cut(" ".join(c.split()), _CELL) for c in row[:last_column]] for row in rows]
    widths = [max(_letters(row[i]) for row in cells) for i in range(last_column)]
    are_numbers = [all(row[i][:1].isdigit() or not row[i] for row in cells[1:]) for i in range(last_column)]
    lines = []
    for row, texts in zip(rows, cells):
        padded = [
            " " * (w - _letters(c)) + c if number else c + " " * (w - _letters(c))
            for c, w, number in zip(texts, widths, are_numbers)
        ]
        lines.append(cut("  ".join([*padded, " ".join(row[last_column].split())]), room).rstrip())
    return tuple(lines)


def beside(left, right, room):
    """Two blocks of lines side by side, each cut to its half."""
    half = (room - 4) // 2
    count = max(len(left), len(right))
    pairs = zip(*(lines + ("",) * (count - len(lines)) for lines in (left, right)))
    texts = [(cut(a, half), cut(b, half)) for a, b in pairs]
    return tuple((a + " " * (half + 4 - _letters(a)) + b).rstrip() for a, b in texts)


# --- Recipe -------------------------------------------------------------------------------------------


def data(run):
    """The task and its files in a line."""
    about, flags = run.about, run.logs.flags
    labels = about.get("labels") or []
    columns = [about.get(f"{name}_column") for name in ("text", "text_pair", "label")]
    files = [(name, flags.get(f"{name}_file") or "") for name in ("train", "dev")]
    parts = [
        f"task {about['kind']}",
        f"{len(labels)} labels" if labels else "",
        "columns " + ", ".join(filter(None, columns)) if any(columns) else "",
        *(f"{name} {os.path.basename(file)}" for name, file in files if file),
        f"set {flags['tfds']}" if flags.get("tfds") else "",
        f"at most {flags['max_seq_length']} wordpieces a row" if "max_seq_length" in flags else "",
    ]
    return ", ".join(filter(None, parts))


def title(runs):
    """The heading of the page."""
    what = f"{len(runs)} fine-tuned runs compared" if len(runs) > 1 else f"Fine-tuned run {runs[0].logs.dir}"
    return fitted(what, 100).rstrip()
