"""A loss that leaps, told from noise inside the graph, where many steps run in one call.

With m and d the running mean and standard deviation of the loss over about the last 100 steps, a loss is a spike if

    loss > m + factor max(d, |m| / 20, 0.1)

A deviation counts as a twentieth of the mean and as 0.1 at least: where the loss hardly varies, or has come near to
zero, d alone would make a spike of any hard batch. Losses that fall, as they do at first, are never one. In the first
100 steps nothing is, and what is one is not added to m and d. All of it is a function of the losses, and its state is
in each checkpoint: a run that was killed and resumed finds the same spikes.
"""

import tensorflow as tf

WINDOW = 100
LEAST_SHARE, LEAST_DEVIATION = 1 / 20, 0.1


class SpikeWatch:
    """Looks at the loss of each step.

    Args:
        factor: As above; 0: nothing is a spike.
    """

    def __init__(self, factor):
        self._factor = factor
        with tf.device("CPU:0"):
            self._seen = tf.Variable(0, dtype=tf.int64, trainable=False)
            self._mean, self._variance = (tf.Variable(0.0, dtype=tf.float64, trainable=False) for _ in range(2))
            self._bound = tf.Variable(float("inf"), dtype=tf.float64, trainable=False)
            self._found = tf.Variable(False, trainable=False)

    @property
    def state(self):
        """{name: tf.Variable} for checkpoints."""
        return {"losses_seen": self._seen, "loss_mean": self._mean, "loss_variance": self._variance}

    @property
    def found(self):
        """bool tf.Variable: whether the last step was a spike."""
        return self._found

    @property
    def bound(self):
        """What the last loss was held against; infinity in the first steps."""
        return float(self._bound.numpy())

    def begin(self):
        """Called before each call of the graph."""
        self._found.assign(False)

    def look(self, loss):
        """In the graph, after a step: notes its loss, a float32 scalar."""
        loss = tf.cast(loss, tf.float64)
        seen, mean, variance = self._seen.read_value(), self._mean.read_value(), self._variance.read_value()
        deviation = tf.maximum(tf.sqrt(variance), tf.maximum(LEAST_SHARE * tf.abs(mean), LEAST_DEVIATION))
        armed = (seen >= WINDOW) & (self._factor > 0)
        bound = tf.where(armed, mean + self._factor * deviation, float("inf"))
        is_usual = loss <= bound  # not so of NaN; and infinity, which a first loss may be, would stay in the mean
        counts = is_usual & tf.math.is_finite(loss)
        share = 1.0 / tf.cast(tf.minimum(seen + 1, WINDOW), tf.float64)
        off = loss - mean
        self._bound.assign(bound)
        self._found.assign(tf.math.is_finite(loss) & ~is_usual)
        self._mean.assign(tf.where(counts, mean + share * off, mean))
        self._variance.assign(tf.where(counts, (1.0 - share) * (variance + share * off * off), variance))
        self._seen.assign(seen + tf.cast(counts, tf.int64))
