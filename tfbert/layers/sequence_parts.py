"""A row's positions in parts, which a server computes side by side: sequence parallelism, of one machine's cores.

TensorFlow divides each operation among threads, and after each all wait for one another: of a request of one text that
is as much time as the work itself. Layers that are exported in parts have a chain of operations for each part instead,
which one thread goes through, and meet once a layer, where each part looks at the keys and values of all. Where layers
take rows [B L, D], they take a list of the rows of parts too, and give one.
"""

import itertools

import keras
import tensorflow as tf


def lengths(size, count):
    """How long the parts of `size`, an int or a tensor, are: a list of `count`, as equal as can be."""
    ends = [size * (i + 1) // count for i in range(count - 1)] + [size]
    return [ends[0], *(end - begin for begin, end in itertools.pairwise(ends))]


def each(function, *xs):
    """What a function gives: of xs, or of each part, where xs are lists of parts."""
    return [function(*parts) for parts in zip(*xs, strict=True)] if isinstance(xs[0], list) else function(*xs)


def joined(parts, axis):
    """The parts as one; of one part, itself."""
    return tf.concat(parts, axis) if len(parts) > 1 else parts[0]


class Split(keras.layers.Layer):
    """[B, L, D] -> a list of the rows of parts [B L / count, D], as long as `lengths` says.

    Args:
        count: How many; where L is less, some are empty.
    """

    def __init__(self, count, **kwargs):
        super().__init__(**kwargs)
        self.count = count

    def call(self, x):
        """See the class."""
        parts = tf.split(x, tf.stack(lengths(tf.shape(x)[1], self.count)), 1, self.count)
        return [tf.reshape(part, [-1, x.shape[-1]]) for part in parts]


class Join(keras.layers.Layer):
    """The reverse of `Split`: a list of rows, and any tensor [B, L] -> [B, L, D]."""

    def call(self, parts, like):
        """See the class."""
        batch, length = tf.unstack(tf.shape(like))
        sizes = [tf.stack([batch, n, parts[0].shape[-1]]) for n in lengths(length, len(parts))]
        return joined([tf.reshape(part, size) for part, size in zip(parts, sizes)], 1)
