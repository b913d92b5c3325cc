"""The biases and norms of a model that is exported, as one variable.

A server has three operations for each variable before a request can begin: its handle, which is passed on, and what
reads it. Of a tiny model's single request all of them together took a tenth of its time, and most variables are vectors
of a few hundred numbers. So vectors lie one after another in one variable, which one operation takes apart.
"""

import contextlib
import functools

import keras
import numpy as np
import tensorflow as tf

LONGEST = 4096


class Vectors(tf.Module):
    """The vectors of a model, one variable for each of their types.

    Args:
        model: The Keras model. The longest vectors, as the vocabulary's bias, stay variables of their own: they are
            copied.

    Attributes:
        others: {path: tf.Variable} of all that is not in here.
    """

    def __init__(self, model):
        super().__init__(name="vectors")
        kinds, others = {}, {}
        for v in model.variables:
            if len(v.shape) == 1 and v.shape[0] <= LONGEST:
                kinds.setdefault(v.dtype, []).append(v)
            else:
                others[v.path] = v.value
        self.others, self._of_types = others, lambda: kinds.values()  # what a function returns is not tracked
        self.values = [
            tf.Variable(np.concatenate([v.numpy() for v in group]), name=f"vectors_{dtype}")
            for dtype, group in kinds.items()
        ]

    @contextlib.contextmanager
    def read(self):
        """Inside, while a function is traced, the model's vectors are pieces of the variables in here."""
        found = []
        for value, group in zip(self.values, self._of_types()):
            pieces = tf.split(value, [v.shape[0] for v in group])
            # Each has to be an operation of its own: where the optimizer of graphs makes a layer norm one operation, it
            # takes the first output of what gamma and beta come from, whichever they were. It does not know a norm
            # whose gamma comes from a reshape, and leaves an identity out.
            found += [(v, tf.ensure_shape(piece, v.shape)) for v, piece in zip(group, pieces)]
        with keras.StatelessScope(state_mapping=found):
            yield

    def reading(self, function):
        """The function, which computes inside `read`."""

        @functools.wraps(function)
        def run(*args, **kwargs):
            with self.read():
                return function(*args, **kwargs)

        return run
