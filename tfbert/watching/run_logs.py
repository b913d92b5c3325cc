"""Reads what a run has told while it trained: metrics.jsonl, speed.jsonl and config.json of its folder."""

import dataclasses
import json
import os

import numpy as np

from tfbert import checks, run_folder
from tfbert.watching import hooks

TRAIN, HELD_OUT = "train", "held_out"
_WRITTEN_BY = "Give the output_dir of a run of tfbert.pretrain or tfbert.finetune that has made its first report"


@dataclasses.dataclass(frozen=True)
class RunLogs:
    """The logs of one run.

    Attributes:
        dir: The run folder.
        config: All of config.json.
        metrics: {split: rows}; a row is {"step": ..., name: number, or None where it was not finite}.
        speed: Rows of speed.jsonl, none if the run made no report of training yet.
        notes: What a reader should know of the files.
    """

    dir: str
    config: dict
    metrics: dict
    speed: tuple
    notes: tuple

    def series(self, name, split=TRAIN):
        """(steps, values) of a metric, float64 [n] each; empty where it was not reported."""
        rows = self.speed if split is None else self.metrics[split]
        found = [(row["step"], row[name]) for row in rows if name in row]
        points = np.array([(s, np.nan if x is None else x) for s, x in found], np.float64).reshape(-1, 2)
        return points[:, 0], points[:, 1]

    def speeds(self, name):
        """(steps, values) of what speed.jsonl holds."""
        return self.series(name, None)

    def seconds_at(self, steps):
        """Seconds of training until each step: the sum of the laps in speed.jsonl, evaluations left out.

        Between two reports time passes evenly. Steps that no lap covers, such as those between a run's last
        report and the checkpoint that it went on from, took no time that anybody knows of.
        """
        laps, seconds = self.speeds("seconds")
        return np.interp(steps, np.append(0, laps), np.append(0, np.cumsum(np.nan_to_num(seconds))))

    @property
    def flags(self):
        """{flag: value} of the program that trained; {} if the folder does not say."""
        return self.config.get("finetune") or self.config.get("pretrain") or {}

    @property
    def last_step(self):
        """The last step that was reported."""
        return max(row["step"] for rows in self.metrics.values() for row in rows)


def _rows(path):
    """(rows of a file of JSON lines, whether a torn last line was left out).

    Raises:
        InputError: it cannot be read, or a whole line is no JSON object with a step.
    """
    try:
        with open(path, "rb") as f:
            lines = f.read().splitlines(keepends=True)
    except OSError as e:
        must = f"a run folder must hold a readable {os.path.basename(path)}"
        raise checks.error(must, e.strerror, path, _WRITTEN_BY) from e
    torn = bool(lines) and not lines[-1].endswith(b"\n")  # the run is writing it, or was killed then
    return [_row(line, f"{path}, line {n}") for n, line in enumerate(lines[: len(lines) - torn], 1)], torn


def _row(line, where):
    try:
        row = json.loads(line)
        known = isinstance(row, dict) and isinstance(row.get("step"), int)
    except ValueError:
        known = False
    got = repr(line[:80].decode("utf-8", "replace"))
    checks.require(known, "each line of a log must be a JSON object with a step", got, where)
    return row


def read(run_dir):
    """The `RunLogs` of a run folder, of one that is training too.

    Raises:
        InputError: it is not a run folder, has no metrics yet, or holds files of another hand.
    """
    content = run_folder.read(run_dir).config
    notes = []

    def rows_of(name):
        rows, torn = _rows(os.path.join(run_dir, name))
        if torn:
            notes.append(f"{name}: the last line is not whole, and was left out")
        return rows

    rows = rows_of(hooks.METRICS_FILE)
    where = os.path.join(run_dir, hooks.METRICS_FILE)
    checks.require(rows, "metrics.jsonl must hold at least one report", "none", where, _WRITTEN_BY)
    metrics = {split: [row for row in rows if row.get("split") == split] for split in (TRAIN, HELD_OUT)}
    others = [row for row in rows if row.get("split") not in metrics and "event" not in row]
    splits = f"the split of each report must be {TRAIN} or {HELD_OUT}"
    checks.require(not others, splits, f"{others[:1]}", where)
    if os.path.exists(os.path.join(run_dir, hooks.SPEED_FILE)):
        speed = rows_of(hooks.SPEED_FILE)
    else:
        speed = []
        notes.append(f"{hooks.SPEED_FILE} is not there: nothing is known about time")
    return RunLogs(run_dir, content, metrics, tuple(speed), tuple(notes))


def labels(run_dirs):
    """Short names of run folders: as many of the last parts of their paths as tell them apart.

    >>> labels(["out/a/run", "out/b/run"])
    ['a/run', 'b/run']
    """
    paths = [os.path.abspath(d).strip(os.sep).split(os.sep) for d in run_dirs]
    for count in range(1, max(map(len, paths)) + 1):
        names = ["/".join(path[-count:]) for path in paths]
        if len(set(names)) == len(names):
            break
    return names
