"""What a run tells while it trains: the progress line, metrics.jsonl, speed.jsonl, and TensorBoard.

A hook is a callable `hook(step, metrics, split)`: `metrics` is {name: number} of optimizer step `step`,
`split` is "train" or "held_out". `hook.event(step, name, text)` tells that something happened that is no number, such
as a fault. `hook.close()` ends it. Only the chief makes hooks, after it has restored.

Events are of two kinds. Those of the run are functions of (config, seed, step), as metrics are, and stand in
metrics.jsonl between them: `spike` and `not_finite` (records were left out for a bad step), `skipped_records` (they
were damaged). Those of the machine tell what this process met: `restart`, `damaged_checkpoint`, `rollback`,
`gave_up`, `early_stop` (with more patience the run goes on). They stand in events.jsonl with the time of day, in the
order in which they happened, and nothing takes a line back.
"""

import dataclasses
import datetime
import json
import math
import os

import numpy as np

from tfbert import checks
from tfbert.watching import progress, summaries

METRICS_FILE, SPEED_FILE, EVENTS_FILE = "metrics.jsonl", "speed.jsonl", summaries.EVENTS_FILE
EVENTS_OF_THE_RUN = ("spike", "not_finite", "skipped_records")
EVENTS_OF_THE_MACHINE = ("restart", "damaged_checkpoint", "rollback", "gave_up", "early_stop")

progress_line = progress.ProgressLine
tensorboard = summaries.TensorBoard


def _failed(error, path):
    """The `InputError` of a log that cannot be written."""
    return checks.error(
        "the run folder must be writable and its disk must have space left",
        error.strerror or str(error),
        path,
        summaries.GO_ON,
    )


def _kept_bytes(path, resume_step):
    """How long a log of JSON lines is up to and including `resume_step`, without a line torn by a kill."""
    size = 0
    with open(path, "rb") as f:
        for number, line in enumerate(f, 1):
            if not line.endswith(b"\n"):
                break  # the process was killed, or the disk filled, while this line was written
            try:
                step = json.loads(line)["step"]
            except (ValueError, KeyError, TypeError) as e:
                raise checks.error(
                    "each line of a log must be a JSON object with a step",
                    repr(line[:80].decode("utf-8", "replace")),
                    f"{path}, line {number}",
                    "Move the file away to go on without the lines before",
                ) from e
            if step > resume_step:
                break
            size += len(line)
    return size


def _plain(value):
    """A number as JSON holds it: the shortest that reads back as the same float32; None if not finite."""
    value = float(value)
    if not math.isfinite(value):
        return None  # JSON has no NaN
    short = float(str(np.float32(value)))
    return int(short) if short.is_integer() and abs(short) < 2**24 else short


class JsonLines:
    """An append-only file of JSON objects, one a line and each with its step.

    Args:
        path: The file.
        resume_step: Step of the restored checkpoint: lines of later steps go, since they will be written
            again. None starts the file anew.

    Raises:
        InputError: the file cannot be written, or a line of it was not written by this class.
    """

    def __init__(self, path, resume_step=None):
        self._path = path
        try:
            kept = _kept_bytes(path, resume_step) if resume_step is not None and os.path.exists(path) else 0
            # Unbuffered: a line is in the file when `write` returns, and a kill leaves at most one torn.
            self._file = open(path, "ab", buffering=0)  # noqa: SIM115
            if os.path.getsize(path) > kept:
                self._file.truncate(kept)
        except OSError as e:
            raise _failed(e, path) from e

    def write(self, **fields):
        """Appends a line."""
        line = (json.dumps(fields) + "\n").encode()
        try:
            while line:
                line = line[self._file.write(line) :]
        except OSError as e:
            raise _failed(e, self._path) from e

    def close(self):
        """Closes the file."""
        self._file.close()


class MetricsFile(JsonLines):
    """A hook that writes what is a function of (config, seed, step) alone, so that a resumed run's file
    is byte for byte that of an uninterrupted one."""

    def __call__(self, step, metrics, split):
        """Appends {"step": ..., "split": ..., and the metrics}."""
        self.write(step=int(step), split=split, **{name: _plain(value) for name, value in metrics.items()})

    def event(self, step, name, text):
        """Appends {"step", "event", "text"} of an event of the run."""
        if name in EVENTS_OF_THE_RUN:
            self.write(step=int(step), event=name, text=text)


class EventsFile(JsonLines):
    """A hook that keeps the events of the machine, whatever is done again.

    Args:
        path: The file.
    """

    def __init__(self, path):
        super().__init__(path, resume_step=math.inf)

    def __call__(self, step, metrics, split):
        """Metrics are no events."""

    def event(self, step, name, text):
        """Appends {"time", "step", "event", "text"}."""
        if name not in EVENTS_OF_THE_MACHINE:
            return
        now = datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")
        self.write(time=now, step=int(step), event=name, text=text)


class SpeedFile(JsonLines):
    """A hook that writes what depends on the machine: no part of the promise of exact resumption.

    Args:
        path: The file.
        batch_size: Rows in an optimizer step, over all replicas.
        resume_step: As of `JsonLines`.
        max_seq_length: Tokens in a row; None leaves tokens a second out.
        waited: As of `progress.Clock`.
    """

    def __init__(self, path, batch_size, resume_step=None, max_seq_length=None, waited=None):
        super().__init__(path, resume_step)
        self._max_seq_length = max_seq_length
        self._clock = progress.Clock(batch_size, resume_step or 0, waited=waited)

    def __call__(self, step, metrics, split):
        """Appends {"step", what `progress.speeds` gives, "seconds"} of the steps since the line before."""
        lap = self._clock.lap(step, split)
        if lap:
            values = {**progress.speeds(lap, metrics, self._max_seq_length), "seconds": lap.seconds}
            self.write(step=int(step), **{name: round(value, 3) for name, value in values.items()})

    def event(self, step, name, text):
        """Events take no time."""


metrics_file, speed_file = MetricsFile, SpeedFile


def of_run(watched):
    """All hooks of a training run, a `progress.Watched`, to be called in this order.

    TensorBoard's is slow after an evaluation; the two that measure speed come after it, so that they do
    not take it for training.
    """
    run_dir, rows, resume_step = watched.run_dir, watched.rows, watched.resume_step
    return [
        metrics_file(os.path.join(run_dir, METRICS_FILE), resume_step),
        tensorboard(watched),
        speed_file(os.path.join(run_dir, SPEED_FILE), rows, resume_step, watched.max_seq_length, watched.waited),
        progress_line(
            watched.num_train_steps,
            rows,
            resume_step or 0,
            train_seconds=watched.train_seconds,
            waited=watched.waited,
        ),
        EventsFile(os.path.join(run_dir, EVENTS_FILE)),
    ]


class Logs:
    """All hooks of a run as one, which can also be taken back to an earlier step.

    Args:
        watched: The `progress.Watched`.
        make: watched -> hooks; None for `of_run`.
    """

    def __init__(self, watched, make=None):
        self._watched, self._make = watched, make or of_run
        self._hooks = self._make(watched)

    def __call__(self, step, metrics, split):
        """Reports to each."""
        for hook in self._hooks:
            hook(step, metrics, split)

    def event(self, step, name, text):
        """Tells each that something happened at a step."""
        for hook in self._hooks:
            hook.event(step, name, text)

    def rewind(self, step):
        """Forgets what was reported after a step, as a run forgets it that goes on from there in a new process."""
        self.close()
        waited = self._watched.waited
        before = waited() if waited else 0.0
        since = waited and (lambda: waited() - before)
        self._hooks = self._make(dataclasses.replace(self._watched, resume_step=step, waited=since))

    def close(self):
        """Closes each."""
        for hook in self._hooks:
            hook.close()
