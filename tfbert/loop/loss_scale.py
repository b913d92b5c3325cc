"""The scale of the loss under float16: Micikevicius et al. 2018, section 3.2.

Most gradients of a large model are smaller than what float16 can hold. So the loss is multiplied before it is
differentiated and the gradients are divided after. The scale doubles after many steps that went well, and halves
at a step whose gradients were too large for float16: that step changes no weight.
"""

import tensorflow as tf

LARGEST = 2.0**24


class LossScale:
    """A scale that finds its size itself.

    Args:
        initial: What it begins with.
        growth_steps: Good steps in a row after which it doubles.
    """

    def __init__(self, initial=2.0**15, growth_steps=2000):
        self._growth_steps = growth_steps
        with tf.device("CPU:0"):
            self._scale = tf.Variable(initial, dtype=tf.float32, trainable=False)
            self._good_steps, self._skipped = (tf.Variable(0, dtype=tf.int64, trainable=False) for _ in range(2))

    @property
    def state(self):
        """{name: tf.Variable} for checkpoints."""
        return {"loss_scale": self._scale, "loss_scale_steps": self._good_steps, "skipped_updates": self._skipped}

    @property
    def report(self):
        """{name: number} for logs: the scale, and how many updates the run has skipped."""
        return {"loss_scale": float(self._scale.numpy()), "skipped_updates": int(self._skipped.numpy())}

    def value(self):
        """float32 [], in the graph: the scale of the present step."""
        return self._scale.read_value()

    def may_skip(self):
        """bool [], in the graph: whether a smaller scale is left to try."""
        return self._scale.read_value() > 1.0

    def update(self, finite):
        """In the graph, after a step: takes note of whether its gradients were finite (bool [])."""
        scale = self._scale.read_value()
        good = tf.where(finite, self._good_steps.read_value() + 1, 0)
        grows = good >= self._growth_steps
        grown = tf.where(grows & (scale < LARGEST), 2.0 * scale, scale)
        self._scale.assign(tf.where(finite, grown, tf.maximum(scale / 2.0, 1.0)))
        self._good_steps.assign(tf.where(grows, tf.zeros_like(good), good))
        self._skipped.assign_add(tf.cast(~finite, tf.int64))
