"""Dropout whose masks are a function of a seed: Srivastava et al. 2014.

A run must end with the same weights whether or not it was interrupted, so the masks may not come from
a generator with hidden state. The training step opens `seeded(seed)` with a seed made of (run, step,
micro-batch, replica); each layer folds in a constant of its own path. Nothing has to be saved.
"""

import contextlib
import functools
import threading
import zlib

import keras
import tensorflow as tf

from tfbert.layers import compiled

_LEVELS = 1 << 32  # of a random number

# MirroredStrategy traces each replica in a thread of its own, at the same time.
_context = threading.local()


@contextlib.contextmanager
def seeded(seed):
    """Inside, in this thread, dropout masks are a pure function of (seed, path of the layer, shape).

    To be opened inside the `tf.function` that calls the model: opened around it, the first seed would be
    traced into the graph and used for ever.

    Args:
        seed: int32 or int64 [2], a tensor. The caller makes it differ by step, micro-batch and replica.
    """
    outer = getattr(_context, "seed", None)
    _context.seed = tf.convert_to_tensor(seed)
    try:
        yield
    finally:
        _context.seed = outer


def current_seed():
    """The seed of `seeded` in this thread, or one drawn afresh: for a layer that computes something twice."""
    seed = getattr(_context, "seed", None)
    if seed is None:
        return tf.random.uniform([2], minval=tf.int32.min, maxval=tf.int32.max, dtype=tf.int32)
    return seed


def random_bits(shape, words):
    """Numbers that depend on the element's place and on `words`, and on nothing else.

    A counter goes through two rounds of multiply and shift, with the constants of Wellons 2018 (`lowbias32`), which
    were searched for so that each bit of the input flips each bit of the output half of the time. No cipher, but
    good enough for masks, and a few integer operations in the loop that uses them: nothing is stored.

    Args:
        shape: Tuple of ints or int32 [rank].
        words: int32 [2], random.

    Returns:
        uint32 of that shape.
    """
    low, high = tf.unstack(tf.bitcast(words, tf.uint32))
    # low + place * odd, so no two places are alike; odd has an inverse modulo 2^32. It is written as
    # (low / odd + place) * odd, with the reshape last, since a product of places alone is a constant in the compiled
    # program that is as large as what is dropped; places as they are XLA counts in the loop.
    odd, inverse = (tf.constant(n, tf.uint32) for n in (0x9E3779B9, 0x144CBC89))
    places = tf.bitcast(tf.range(tf.reduce_prod(shape)), tf.uint32)
    x = tf.reshape((places + low * inverse) * odd, shape)
    for shift, factor in ((16, 0x7FEB352D), (15, 0x846CA68B)):
        x = tf.bitwise.bitwise_xor(x, tf.bitwise.right_shift(x, tf.constant(shift, tf.uint32)))
        x = x * tf.constant(factor, tf.uint32) + high
    return tf.bitwise.bitwise_xor(x, tf.bitwise.right_shift(x, tf.constant(16, tf.uint32)))


def drop(x, rate, words):
    """Zeroes elements with probability `rate` and scales the others up to the same mean.

    To be called inside a compiled function, where it costs no pass over memory.

    Args:
        x: float, any shape.
        rate: In [0, 1], a number; it is kept to 1 / 2^32.
        words: int32 [2], random.
    """
    dropped = round(rate * _LEVELS)
    if dropped in (0, _LEVELS):
        return x if dropped == 0 else tf.zeros_like(x)
    kept = random_bits(tf.shape(x), words) >= tf.constant(dropped, tf.uint32)
    return tf.where(kept, x * tf.cast(_LEVELS / (_LEVELS - dropped), x.dtype), tf.zeros_like(x))


@functools.cache
def _dropping(rate):
    """The compiled function (x, words) -> x with elements dropped."""
    return compiled.differentiable(1)(lambda x, words: drop(x, rate, words))


class Dropout(keras.layers.Layer):
    """Zeroes elements with probability `rate` when training and scales the others up to the same mean.

    Has no variables. Outside `seeded` every call with `training=True` draws afresh.

    Args:
        rate: In [0, 1]; 1 gives zeros.

    Call args:
        x: float, any shape.
        training: Whether to drop.

    Returns:
        As `x`.
    """

    def __init__(self, rate, **kwargs):
        super().__init__(**kwargs)
        self.rate = rate

    def build(self, shape):
        """Takes the layer's constant from its path, which is the same in every process."""
        self._constant = zlib.crc32(self.path.encode()) & 0x7FFFFFFF

    def call(self, x, training=False):
        """See the class."""
        return _dropping(self.rate)(x, self.words()) if training and self.rate else x

    def words(self):
        """int32 [2]: what the mask of this call is made of."""
        seed = tf.random.experimental.stateless_fold_in(current_seed(), self._constant, alg="philox")
        # The algorithm is named: "auto_select" may give other numbers on another device or under XLA.
        return tf.random.stateless_uniform([2], seed, None, None, tf.int32, alg="philox")
