"""Learning rates as functions of the step."""

import keras
import tensorflow as tf

from tfbert import checks


class LinearWarmupLinearDecay(keras.optimizers.schedules.LearningRateSchedule):
    """Rises from 0 and falls to 0; see `linear_warmup_linear_decay`."""

    def __init__(self, learning_rate, num_warmup_steps, num_train_steps):
        super().__init__()
        self.learning_rate = learning_rate
        self.num_warmup_steps = num_warmup_steps
        self.num_train_steps = num_train_steps

    def __call__(self, step):
        """The learning rate, float32 scalar, of the update that follows `step` updates."""
        step = tf.cast(step, tf.float32)
        done = tf.minimum(step / self.num_train_steps, 1.0)
        rate = self.learning_rate * (1.0 - done)
        if not self.num_warmup_steps:
            return rate
        warming = self.learning_rate * (step / self.num_warmup_steps)
        return tf.where(step < self.num_warmup_steps, warming, rate)

    def get_config(self):
        """The arguments."""
        return {
            "learning_rate": self.learning_rate,
            "num_warmup_steps": self.num_warmup_steps,
            "num_train_steps": self.num_train_steps,
        }


def linear_warmup_linear_decay(learning_rate, num_warmup_steps, num_train_steps):
    """BERT's schedule (Devlin et al. 2019, appendix A.2).

    Warm-up replaces the first steps of the decay and does not delay it: step `s` has
    `learning_rate * s / num_warmup_steps` while `s < num_warmup_steps`, and
    `learning_rate * (1 - s / num_train_steps)` from there. So the first update has rate 0, and the
    rate falls at the end of warm-up from nearly `learning_rate` to the line.

    Args:
        learning_rate: The rate that the line starts from.
        num_warmup_steps: 0 for none.
        num_train_steps: Where the rate reaches 0, and stays there.

    Returns:
        A Keras LearningRateSchedule.

    Raises:
        InputError: there are fewer steps in all than warm-up steps.
    """
    checks.require(
        0 <= num_warmup_steps <= num_train_steps and num_train_steps > 0,
        "num_warmup_steps must lie between 0 and num_train_steps, and that be positive",
        f"num_warmup_steps={num_warmup_steps}, num_train_steps={num_train_steps}",
    )
    return LinearWarmupLinearDecay(learning_rate, num_warmup_steps, num_train_steps)
