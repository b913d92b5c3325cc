"""A layer's matrices in parts, which a server computes side by side: tensor parallelism, of one machine's cores.

TensorFlow divides each operation among threads, and after each all wait for one another: of a request of one text that
is as much time as the work itself. Layers that are exported in parts have a chain of operations for each part instead,
which one thread goes through (Shoeybi et al. 2019, section 3): of attention for some of the heads, of the feed-forward
network for some of its columns. They meet twice a layer, at the sum of what a second matrix makes of each part. So each
thread reads its part of the weights and no others. What is not in parts, as that sum and its norm, each chain computes
for itself: a thread that has to wait goes to sleep, and takes its time to wake.

Such layers take a list of copies of the states of tokens (see `padding_free`), and give one.
"""

import itertools

import keras
import tensorflow as tf


def lengths(size, count):
    """How long the parts of `size` are: a list of `count`, as equal as can be."""
    ends = [size * i // count for i in range(count + 1)]
    return [end - begin for begin, end in itertools.pairwise(ends)]


def names(name, parts):
    """Those of a layer that is in parts, as `dense_0`, of `parts` of anything; of None, the name itself."""
    return [name] if parts is None else [f"{name}_{i}" for i in range(len(parts))]


def joined(parts, axis):
    """The parts as one; of one part, itself."""
    return tf.concat(parts, axis) if len(parts) > 1 else parts[0]


class Copies(keras.layers.Layer):
    """States of tokens [T, D] -> a list of them, so many times.

    All but the first are multiplied by a weight that is one: TensorFlow's optimizer of graphs would see that chains do
    the same, and let them wait for one.
    """

    def __init__(self, count, **kwargs):
        super().__init__(**kwargs)
        self.count = count

    def build(self, shape):
        """Makes what copies are multiplied by."""
        self.ones = [self.add_weight(name=f"one_{i}", shape=(), initializer="ones") for i in range(1, self.count)]

    def call(self, x):
        """See the class."""
        return [x, *[x * tf.convert_to_tensor(one) for one in self.ones]]
