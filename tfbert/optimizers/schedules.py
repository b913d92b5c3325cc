"""Learning rates as functions of how far training is, in steps or in seconds.

A shape is a pure function: the share of the peak at a position, float32, from the end of warm-up on. `position`,
`warmup` and `total` are counted in one unit, whichever. `Schedule` adds the warm-up, the peak and the floor;
`TimeKeyed` puts the seconds of a clock in the place of the step.
"""

import math

import keras
import tensorflow as tf

from tfbert import checks

SHAPES = ("polynomial", "triangle", "cosine", "wsd")


def _way(position, begin, end):
    """The share of the way from `begin` to `end`, between 0 and 1."""
    return tf.clip_by_value((position - begin) / max(end - begin, 1e-9), 0.0, 1.0)


def polynomial(position, total, power=1.0):
    """(1 - position / total) ^ power: BERT's (Devlin et al. 2019, appendix A.2), and at 0.5 NVIDIA's LAMB recipe.

    It falls from the first step on: warm-up takes the place of its beginning, and the rate drops at the end of
    warm-up from the peak to the curve.
    """
    left = 1.0 - tf.minimum(position / total, 1.0)
    return left if power == 1.0 else tf.pow(left, power)


def triangle(position, warmup, total):
    """Straight from the peak at the end of warm-up to the end: RoBERTa's, and with a long warm-up one cycle."""
    return 1.0 - _way(position, warmup, total)


def cosine(position, warmup, total):
    """Half a cosine from the peak at the end of warm-up to the end (Loshchilov and Hutter 2017, equation 5)."""
    return 0.5 * (1.0 + tf.cos(math.pi * _way(position, warmup, total)))


def wsd(position, total, decay_share):
    """Warm-up, stable, decay: the peak until the last `decay_share` of training, then 1 - sqrt of the way through
    it (Haegele et al. 2024, section 4)."""
    return 1.0 - tf.sqrt(_way(position, total * (1.0 - decay_share), total))


class Schedule(keras.optimizers.schedules.LearningRateSchedule):
    """A linear warm-up to the peak, and a shape from there.

    Args:
        learning_rate: The peak.
        warmup: Where warm-up ends; 0 for none.
        total: Where training ends; the rate stays what it is there.
        shape: One of SHAPES.
        power: Of `polynomial`.
        decay_share: Of `wsd`: the share of training in which the rate falls.
        initial_ratio: The share of the peak that warm-up begins with.
        min_ratio: The floor, as a share of the peak: the rate is peak (min_ratio + (1 - min_ratio) shape).

    Raises:
        InputError: there is no such shape, warm-up does not fit into training, or it and `wsd`'s decay do not.
    """

    def __init__(
        self,
        learning_rate,
        warmup,
        total,
        shape="polynomial",
        power=1.0,
        decay_share=0.1,
        initial_ratio=0.0,
        min_ratio=0.0,
    ):
        super().__init__()
        checks.require(shape in SHAPES, f"lr_schedule must be one of {', '.join(SHAPES)}", f"lr_schedule={shape!r}")
        checks.require(
            0 <= warmup <= total and total > 0,
            "num_warmup_steps must lie between 0 and num_train_steps, and that be positive",
            f"num_warmup_steps={warmup}, num_train_steps={total}",
        )
        checks.require(
            shape != "wsd" or (decay_share > 0 and warmup <= total * (1 - decay_share)),
            "warm-up and decay_proportion must fit into training with lr_schedule=wsd",
            f"{warmup} of {total} in warm-up, decay_proportion={decay_share}",
        )
        self.learning_rate, self.warmup, self.total = learning_rate, warmup, total
        self.shape, self.power, self.decay_share = shape, power, decay_share
        self.initial_ratio, self.min_ratio = initial_ratio, min_ratio

    def _share(self, position):
        if self.shape == "polynomial":
            return polynomial(position, self.total, self.power)
        if self.shape == "triangle":
            return triangle(position, self.warmup, self.total)
        if self.shape == "cosine":
            return cosine(position, self.warmup, self.total)
        return wsd(position, self.total, self.decay_share)

    def __call__(self, step):
        """The learning rate, float32 scalar, of the update at a position: after so many steps, or seconds."""
        position = tf.cast(step, tf.float32)
        rate = self.learning_rate * (self.min_ratio + (1.0 - self.min_ratio) * self._share(position))
        if not self.warmup:
            return rate
        share = self.initial_ratio + (1.0 - self.initial_ratio) * (position / self.warmup)
        return tf.where(position < self.warmup, self.learning_rate * share, rate)

    def get_config(self):
        """The arguments."""
        names = ("learning_rate", "warmup", "total", "shape", "power", "decay_share", "initial_ratio", "min_ratio")
        return {name: getattr(self, name) for name in names}


class TimeKeyed(keras.optimizers.schedules.LearningRateSchedule):
    """A schedule that follows a clock instead of the step.

    Args:
        schedule: A `Schedule` in seconds.
        clock: Of `training_clock.TrainingClock`: `clock.at_update` holds the seconds before the present update.
    """

    def __init__(self, schedule, clock):
        super().__init__()
        self._schedule, self._clock = schedule, clock

    def __call__(self, step):
        """The learning rate, float32 scalar, of the present update; after it and before the next, that of the last."""
        del step
        return self._schedule(self._clock.at_update.read_value())
