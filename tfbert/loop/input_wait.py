"""How long the training step waits for its input, measured inside the graph that runs many steps a call."""

import tensorflow as tf


def _where_it_is(x):
    """The tensor, as an operation of its own that copies nothing."""
    with tf.device(x.device):
        return tf.identity(x)


class InputWait:
    """Takes elements from an iterator and adds up the seconds until they were there.

    Input that is ready costs microseconds; input that is not is a step that stands still. The sum is no part of
    a checkpoint: like every measured time it is none of what a resumed run repeats.
    """

    def __init__(self):
        with tf.device("CPU:0"):
            self._seconds = tf.Variable(0.0, dtype=tf.float64, trainable=False)

    @property
    def seconds(self):
        """Seconds waited since this process began to train."""
        return float(self._seconds.numpy())

    def take(self, iterator, count):
        """The next `count` elements, as a tuple; called inside a `tf.function`.

        The two readings of the clock stand right before and right after the iterator's own ops, and what uses the
        elements waits for the second: without control dependencies the graph could read it at any time, and where one
        thread runs all operations it reads it after most of the step.
        """
        with tf.device("CPU:0"):
            before = tf.timestamp()
        with tf.control_dependencies([before]):
            elements = tuple(next(iterator) for _ in range(count))
        with tf.control_dependencies(tf.nest.flatten(elements, expand_composites=True)), tf.device("CPU:0"):
            after = tf.timestamp()
            self._seconds.assign_add(after - before)
        with tf.control_dependencies([after]):
            return tf.nest.map_structure(_where_it_is, elements, expand_composites=True)
