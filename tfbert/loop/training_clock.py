"""The seconds that a run has trained: what `--train_hours` is a budget of.

Training time is what passes while the loop's graph runs, its tracing in the first call included, and waiting for
input. Evaluation, checkpoints and reports are not counted: how often a run looks at itself is no part of how it is
trained. The seconds are in each checkpoint, so that a run that was killed goes on with the rest of its budget;
time whose steps were lost with the process is not counted either.

A run that is keyed to time is no function of (config, seed, step): how many steps fit, and the learning rate of
each, hang on the machine and what else it does. Its records, masks and dropout still follow the step alone.
"""

import tensorflow as tf

from tfbert.loop import checkpoints

SECONDS = "training_seconds"


class TrainingClock:
    """Counts training time inside the graph, where many steps run in one call.

    The time of a step ends when the next one could begin, weights updated.

    Args:
        budget: Seconds after which training is over.
        now: () -> float64 scalar, seconds, in the graph or out of it.

    Attributes:
        at_update: float64 tf.Variable, the seconds before the present update: the learning rate's position.
    """

    def __init__(self, budget, now=tf.timestamp):
        self.budget, self._now = budget, now
        with tf.device("CPU:0"):
            self._seconds, self._since, self.at_update = (
                tf.Variable(0.0, dtype=tf.float64, trainable=False) for _ in range(3)
            )

    @property
    def state(self):
        """{name: tf.Variable} for checkpoints."""
        return {SECONDS: self._seconds}

    @property
    def seconds(self):
        """Training time until now."""
        return float(self._seconds.numpy())

    @property
    def is_over(self):
        """Whether the budget is used up."""
        return self.seconds >= self.budget

    def resume(self):
        """Begins to count: called before the graph is."""
        self._since.assign(self._now())

    def tick(self):
        """In the graph, before each step and after the last: adds the time since; returns whether any is left.

        Returns:
            bool scalar.
        """
        now = self._now()
        # The system's clock may be set back while a run trains.
        self._seconds.assign_add(tf.maximum(now - self._since.read_value(), 0.0))
        self._since.assign(now)
        return self._seconds.read_value() < self.budget

    def begin_update(self):
        """In the graph, at the beginning of a step: its learning rate follows the time that has passed."""
        self.at_update.assign(self._seconds.read_value())


def seconds_in(prefix):
    """The training time of a checkpoint of a run that is keyed to time."""
    return float(tf.train.load_checkpoint(prefix).get_tensor(checkpoints.LOOP + SECONDS))
