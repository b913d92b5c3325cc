"""The one initialiser of BERT's matrices."""

import contextlib
import threading

import keras

_context = threading.local()


@contextlib.contextmanager
def left_out():
    """Inside, in this thread, matrices begin as zeros: what is built is given all of its weights afterwards.

    To draw the numbers of BERT-base takes a core seconds.
    """
    outer = getattr(_context, "left_out", False)
    _context.left_out = True
    try:
        yield
    finally:
        _context.left_out = outer


def truncated_normal(stddev):
    """Normal with deviation `stddev`, cut at two deviations: Devlin et al. 2019, published code.

    A new object each time, on purpose: a Keras initialiser without a seed draws one when it is made
    and then gives the same numbers to every variable of the same shape.
    """
    if getattr(_context, "left_out", False):
        return keras.initializers.Zeros()
    return keras.initializers.TruncatedNormal(stddev=stddev)
