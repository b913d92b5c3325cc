"""A profile of a few training steps, for TensorBoard's profile plugin (the package xprof)."""

import re

import tensorflow as tf

from tfbert import checks
from tfbert.watching import summaries

# Beside the folders of the summaries; TensorBoard calls the profile `profile/TIME` by it.
FOLDER = "profile"


def parse_steps(text, num_train_steps=None):
    """(FIRST, LAST) of `FIRST:LAST`; (0, 0) of an empty text.

    Args:
        text: The flag.
        num_train_steps: Steps of the whole run; None if that is not known.

    Raises:
        InputError: it is of another form, or holds no step of the run.
    """
    if not text:
        return 0, 0
    found = re.fullmatch(r"([0-9]{1,15}):([0-9]{1,15})", text)
    checks.require(
        found, "profile_steps must be FIRST:LAST, two numbers of steps", f"profile_steps={text!r}", do="E.g. 100:105"
    )
    first, last = int(found[1]), int(found[2])
    end = "" if num_train_steps is None else f" <= num_train_steps {num_train_steps}"
    checks.require(
        first < last and (num_train_steps is None or last <= num_train_steps),
        f"profile_steps must be FIRST:LAST with FIRST < LAST{end}",
        f"profile_steps={text}",
    )
    return first, last


class Profiled:
    """A `trainer.Trainer` that profiles some of its steps, and else does as it would.

    The profiled steps come one a call of the graph: only so can the profile say where each begins and ends. What
    is computed does not change by that. A run that goes on behind LAST has nothing to profile.

    Args:
        trainer: The `Trainer`.
        steps: Of `parse_steps`: what leads from step FIRST to step LAST is profiled.
        folder: The run's folder of TensorBoard; the profile goes to `profile/plugins/profile/TIME` in it.

    Attributes:
        folder: Where the profile is written.
        profiled: (FIRST, LAST) of what was written, or None.
    """

    def __init__(self, trainer, steps, folder):
        self._trainer, (self._first, self._last) = trainer, steps
        self.folder, self.profiled, self._start = f"{folder}/{FOLDER}", None, None

    def __getattr__(self, name):
        return getattr(self._trainer, name)

    def run(self, iterator, count, stop):
        """`Trainer.run`, of fewer steps than `count` where a profile begins or goes on.

        Raises:
            InputError: the profile cannot be written, or another profiler is at work in this process.
        """
        step = self._trainer.step
        if step >= self._last:
            return self._trainer.run(iterator, count, stop)
        if step < self._first:
            return self._trainer.run(iterator, min(count, self._first - step), stop)
        if self._start is None:
            self._begin(step)
        with tf.profiler.experimental.Trace("train", step_num=step + 1, _r=1):
            result = self._trainer.run(iterator, 1, stop)
        if self._trainer.step >= self._last:
            self.close()
        return result

    def _begin(self, step):
        try:
            with summaries.writing(self.folder):
                tf.io.gfile.makedirs(self.folder)
            tf.profiler.experimental.start(self.folder)
        except tf.errors.AlreadyExistsError as e:
            must = "only one profile at a time can be taken of a process"
            raise checks.error(must, e.message, do="Leave --profile_steps out") from e
        self._start = step

    def close(self):
        """Writes the profile, if one has begun."""
        if self._start is not None:
            first, self._start = self._start, None
            with summaries.writing(self.folder):
                tf.profiler.experimental.stop()
            self.profiled = first, self._trainer.step
