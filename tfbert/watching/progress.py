"""What programs say while they work: live on a terminal, plain lines elsewhere; and the clock of training's speed.

`ProgressLine` is of training, which reports by steps; `WorkLine` of all other long work.
"""

import collections
import dataclasses
import os
import sys
import time
import typing
from collections.abc import Callable

# Time left is taken from the last so many reports: recent enough to follow the machine, and enough
# to hold an evaluation now and then.
WINDOW = 50
# The first report holds the tracing and compiling of the step; speed is read from it only if it took so many
# seconds that this is a small part.
LONG_FIRST_LAP = 120
# Scores of tasks from 0 to 1 or, of questions, in percent; the most telling first. Correlations begin at -1.
SCORES = (
    *("f1", "exact_match", "exact", "micro_f1", "macro_f1", "matthews", "pearson", "spearman", "precision", "recall"),
    *("HasAns_exact", "HasAns_f1", "NoAns_exact", "NoAns_f1", "best_exact", "best_f1"),
)
BAR = 24  # characters of a `WorkLine`'s bar


@dataclasses.dataclass(frozen=True)
class Watched:
    """A run, as those see it that tell of it.

    Attributes:
        run_dir: The run folder.
        num_train_steps: Optimizer steps that the run will have at its end; None if the time decides.
        rows: Rows in an optimizer step, over all replicas; or a function that gives those before a step.
        resume_step: Step of the restored checkpoint; None for a new run.
        hparams: {name: value} of the configuration, for the HParams panel; what is not set is left out.
        model: If given, each held-out report also brings histograms of its weights.
        guess_features: If given, features of a handful of held-out records: each held-out report also
            brings what the model guesses on them, and how its attention is spread there.
        vocab: The run's `Vocab`; goes with `guess_features` and `wordpiece_counts`.
        wordpiece_counts: If given, int [up to V], how frequent each wordpiece is: each held-out report also brings
            the word embeddings for the projector.
        max_seq_length: Tokens in a row. If given, the speed is also reported in tokens that are no padding.
        train_seconds: Training time that the run will have at its end, if the time decides.
        waited: As of `Clock`.
        view: If given, () -> a `views.View` of what the last evaluation answered to the task's examples, or None: it is
            shown with each held-out report.
    """

    run_dir: str
    num_train_steps: int | None
    rows: int | Callable
    resume_step: int | None = None
    hparams: dict | None = None
    model: typing.Any = None
    guess_features: dict | None = None
    vocab: typing.Any = None
    wordpiece_counts: typing.Any = None
    max_seq_length: int | None = None
    train_seconds: float | None = None
    waited: Callable | None = None
    view: Callable | None = None


class Lap(typing.NamedTuple):
    """What the time between two reports of training tells.

    Attributes:
        rows_per_second: Sequences a second.
        seconds: Of training; evaluation is left out.
        input_wait_share: The part of them that steps waited for input; None where that is not measured.
    """

    rows_per_second: float
    seconds: float
    input_wait_share: float | None


class Clock:
    """Measures the speed of training from the calls that a hook gets.

    Args:
        batch_size: Sequences in an optimizer step, over all replicas; or a function that gives those before a step.
        start_step: Optimizer steps that were done before; they took none of this process's time.
        now: A clock in seconds.
        waited: () -> seconds that training has waited for input so far; None if nobody measures it.
    """

    def __init__(self, batch_size, start_step=0, now=time.perf_counter, waited=None):
        self._rows = batch_size if callable(batch_size) else lambda step: step * batch_size
        self._now, self._waited = now, waited
        self._waited_before = 0.0
        self._step, self._time = start_step, now()  # of the last report, of whatever split
        self._trained_step, self._training = start_step, 0.0  # step of the last "train", seconds since
        self._reports = collections.deque([(start_step, self._time)], maxlen=WINDOW)
        self._compiled = False

    def lap(self, step, split):
        """Notes a report; for "train" returns the `Lap` since the last.

        Time between two reports of one step is evaluation, and is not counted as training.
        """
        now = self._now()
        if step > self._step:
            self._training += now - self._time
        self._step, self._time = step, now
        if split != "train":
            return None
        seconds, rows = self._training, self._rows(step) - self._rows(self._trained_step)
        self._training, self._trained_step = 0.0, step
        if not self._compiled and len(self._reports) == 2:
            self._reports.popleft()
            self._compiled = True
        self._reports.append((step, now))
        return Lap(rows / seconds if seconds > 0 else 0.0, seconds, self._wait_share(seconds))

    def _wait_share(self, seconds):
        if self._waited is None:
            return None
        before, self._waited_before = self._waited_before, self._waited()
        # Two clocks, and that of the graph may be set while it runs.
        return min(1.0, max(0.0, (self._waited_before - before) / seconds)) if seconds > 0 else 0.0

    def skip(self):
        """Leaves the time since the last report out of the training: it was spent in reporting."""
        self._time = self._now()

    @property
    def is_known(self):
        """Whether there is a lap that tells the speed."""
        first, last = self._reports[0][1], self._reports[-1][1]
        return self._compiled or last - first >= LONG_FIRST_LAP

    def seconds_left(self, num_train_steps):
        """Seconds until the last step, evaluations included; None while the speed is not known."""
        (first_step, first), (last_step, last) = self._reports[0], self._reports[-1]
        if not self.is_known or last_step <= first_step:
            return None
        return max(0, num_train_steps - last_step) * (last - first) / (last_step - first_step)


def speeds(lap, metrics, max_seq_length):
    """{name: value} of the speed: rows a second, and where they can be told tokens that are no padding, and the
    share of the time that steps waited for input.

    Rows alone mislead: a packed row takes as long as one that is mostly padding, and teaches several times as much.

    Args:
        lap: Of `Clock.lap`.
        metrics: Of the report, with the share of padding or not.
        max_seq_length: Tokens in a row, or None.
    """
    known = {"sequences_per_second": lap.rows_per_second}
    if max_seq_length and "padding_share" in metrics:
        known["tokens_per_second"] = lap.rows_per_second * max_seq_length * (1 - metrics["padding_share"])
    if lap.input_wait_share is not None:
        known["input_wait_share"] = lap.input_wait_share
    return known


def duration(seconds):
    """`0:07`, `12:05`, `3:04:09` or `2d 03:04`: how people write spans of time."""
    seconds = round(seconds)
    minutes, s = divmod(seconds, 60)
    hours, m = divmod(minutes, 60)
    if hours >= 48:
        return f"{hours // 24}d {hours % 24:02}:{m:02}"
    return f"{hours}:{m:02}:{s:02}" if hours else f"{m}:{s:02}"


def _percent(share):
    return f"{100 * share:.1f} %"


def _speed(value):
    return f"{value:.1f} seq/s" if value < 100 else f"{value:,.0f} seq/s"


def _fitting(parts, width):
    """Joins (importance, text) parts; the least important go first when they do not fit in `width`."""
    parts = [p for p in parts if p[1]]
    while True:
        line = "  ".join(text for _, text in parts)
        if width is None or len(line) <= width or len(parts) == 1:
            return line[:width]
        parts.remove(min(parts))


def _quality(metrics):
    """The parts of losses, accuracies and scores; a metric that was not reported has no part."""
    rows = [
        (8, "loss", "loss {:.3f}"),
        (7, "masked_lm_accuracy", "MLM {}"),
        (6, "next_sentence_accuracy", "NSP {}"),
        *((6.9, name, name.replace("_", " ") + " {}") for name in ("accuracy", "tag_accuracy", "span_accuracy")),
        # Scores keep the numbers of their papers: from 0 to 1, or percent for SQuAD's.
        *((6.8 - i / 100, name, name.replace("_", " ") + " {:.4g}") for i, name in enumerate(SCORES)),
    ]
    return [
        (rank, text.format(_percent(metrics[name]) if "accuracy" in name else metrics[name]))
        for rank, name, text in rows
        if name in metrics
    ]


def _width(stream):
    """Columns of the terminal that a stream writes to; None if it is not a terminal."""
    try:
        return os.get_terminal_size(stream.fileno()).columns if stream.isatty() else None
    except (AttributeError, OSError, ValueError):  # a notebook's or a test's stream has no descriptor
        return None


class ProgressLine:
    """A hook that shows how training goes: see `hooks.progress_line`."""

    def __init__(
        self,
        num_train_steps,
        batch_size,
        start_step=0,
        stream=None,
        now=time.perf_counter,
        train_seconds=None,
        waited=None,
    ):
        self._total, self._stream = num_train_steps, stream or sys.stderr
        self._train_seconds = train_seconds
        self._clock = Clock(batch_size, start_step, now, waited)
        self._live = ""  # the line that stands on the terminal and will be rewritten

    def __call__(self, step, metrics, split):
        """Shows a report: training rewrites the live line, held-out figures stay above it."""
        lap = self._clock.lap(step, split)
        width = _width(self._stream)
        # The last column stays free: a line that fills it wraps on some terminals, and then piles up.
        room = None if width is None else max(1, width - 1)
        if split == "train":
            line = _fitting(self._training_parts(step, metrics, lap), room)
            self._write(line, width, stays=False)
        else:
            line = _fitting([(10, f"held out at step {step:,}:"), *_quality(metrics)], room)
            self._write(line, width, stays=True)

    def _how_far(self, step, metrics):
        """(where the run is, its share of the training, seconds left or None), by steps or by training time."""
        if self._train_seconds:
            done = metrics.get("training_seconds", 0.0)
            return f"step {step:,}", min(1.0, done / self._train_seconds), max(0.0, self._train_seconds - done)
        digits = len(f"{self._total:,}")
        where = f"step {step:>{digits},}/{self._total:,}"
        return where, step / max(1, self._total), self._clock.seconds_left(self._total)

    def _training_parts(self, step, metrics, lap):
        where, share, left = self._how_far(step, metrics)
        rate = metrics.get("learning_rate")
        return [
            (10, where),
            (4, f"{100 * share:3.0f} %"),
            *_quality(metrics),
            (3, "" if rate is None else f"lr {rate:.2e}"),
            (5, _speed(lap.rows_per_second) if self._clock.is_known else ""),
            (1, f"padding {_percent(metrics['padding_share'])}" if "padding_share" in metrics else ""),
            (2, "" if lap.input_wait_share is None else f"input wait {_percent(lap.input_wait_share)}"),
            (9, "" if left is None else f"{duration(left)} left"),
        ]

    def _write(self, line, width, stays):
        if width is None:
            text = line + "\n"
        elif stays:
            # Over the live line, which is written again beneath.
            text = f"\r{line}\x1b[K\n{self._live}"
        else:
            self._live = line
            text = f"\r{line}\x1b[K"
        self._stream.write(text)
        self._stream.flush()

    def event(self, step, name, text):
        """Shows what happened; it stays above the live line."""
        self._write(f"{name} at step {step:,}: {text}", _width(self._stream), stays=True)

    def close(self):
        """Leaves the live line on the terminal and the cursor beneath it."""
        if self._live:
            self._stream.write("\n")
            self._stream.flush()
            self._live = ""


class WorkLine:
    """Says every few seconds how far a piece of work is; on a terminal the line is written over.

    Args:
        seconds: Least time between two lines; on a terminal one at most.
        stream: Where to; stderr by default.
        now: A clock in seconds.
    """

    def __init__(self, seconds=5.0, stream=None, now=time.monotonic):
        self._stream, self._now = stream or sys.stderr, now
        self._every = seconds if _width(self._stream) is None else min(seconds, 1.0)
        self._started = self._last = now()
        self._work = self._began = None
        self._is_live = False

    def __call__(self, text, done=None, total=None):
        """Writes a line if it is time for one.

        Args:
            text: What is at work, and how fast. What stands before a colon names the work: time left is taken
                from the first call of that name on.
            done: How much of it is done, in any measure; None if nobody can tell.
            total: How much there is.
        """
        now = self._now()
        work = text.split(":")[0]
        if work != self._work:
            self._work, self._began = work, (now, done or 0)
        if now - self._last < self._every:
            return
        self._last, width = now, _width(self._stream)
        line = f"{duration(now - self._started):>7}  {self._bar(done, total, now) if total else ''}{text}"
        # As of the progress line: the last column stays free.
        self._stream.write(line + "\n" if width is None else f"\r{line[: max(1, width - 1)]}\x1b[K")
        self._stream.flush()
        self._is_live = width is not None

    def _bar(self, done, total, now):
        """`[######------]  42 %, 0:35 left  `."""
        began, done_then = self._began
        share = min(1.0, done / total)
        full = int(share * BAR)
        left = ""
        if done > done_then:
            left = f", {duration(max(0, total - done) * (now - began) / (done - done_then))} left"
        return f"[{'#' * full}{'-' * (BAR - full)}] {100 * share:3.0f} %{left}  "

    def seconds(self):
        """Since the start."""
        return self._now() - self._started

    def close(self):
        """Takes the line off the terminal: what the program says of its results comes in its place."""
        if self._is_live:
            self._stream.write("\r\x1b[K")
            self._stream.flush()
            self._is_live = False
