"""Dropout whose masks are a function of a seed: Srivastava et al. 2014.

A run must end with the same weights whether or not it was interrupted, so the masks may not come from
a generator with hidden state. The training step opens `seeded(seed)` with a seed made of (run, step,
micro-batch, replica); each layer folds in a constant of its own path. Nothing has to be saved.
"""

import contextlib
import threading
import zlib

import keras
import tensorflow as tf

# Masks are drawn as 16-bit integers: two elements from each 32 random bits. Rates are kept to 1 / 65536.
_LEVELS = 1 << 16

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


def scaled_mask(shape, rate, seed, dtype):
    """Draws what dropout multiplies by.

    Args:
        shape: int32 [rank], a tensor.
        rate: Probability with which an element is dropped, in (0, 1).
        seed: integer [2].
        dtype: Of the mask.

    Returns:
        A tensor of that shape: 0 with probability `rate`, elsewhere the number that makes the mean 1.
    """
    dropped = min(round(rate * _LEVELS), _LEVELS - 1)
    size = tf.reduce_prod(shape)
    # The algorithm is named: "auto_select" may give other numbers on another device or under XLA.
    bits = tf.random.stateless_uniform([(size + 1) // 2], seed, None, None, tf.int32, alg="philox")
    halves = tf.reshape(tf.bitcast(bits, tf.uint16), [-1])[:size]
    kept = tf.reshape(halves, shape) >= tf.constant(dropped, tf.uint16)
    return tf.cast(kept, dtype) * tf.cast(_LEVELS / (_LEVELS - dropped), dtype)


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
        if not training or self.rate == 0:
            return x
        if self.rate == 1:
            return tf.zeros_like(x)
        # A product: its gradient is one more product, and cheaper than that of `where`.
        return x * scaled_mask(tf.shape(x), self.rate, self._seed(), x.dtype)

    def _seed(self):
        seed = getattr(_context, "seed", None)
        if seed is None:
            return tf.random.uniform([2], minval=tf.int32.min, maxval=tf.int32.max, dtype=tf.int32)
        return tf.random.experimental.stateless_fold_in(seed, self._constant, alg="philox")
