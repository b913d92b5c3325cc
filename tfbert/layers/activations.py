"""Activations under the names that `bert_config.json` uses."""

import functools

import tensorflow as tf

from tfbert.layers import compiled


def gelu(x):
    """x * P(X <= x) in its tanh approximation: Hendrycks & Gimpel 2016, section 2.

    BERT was trained with the approximation; the exact form differs by up to 4.8e-4.
    """
    return tf.nn.gelu(x, approximate=True)


def gelu_erf(x):
    """x * P(X <= x): Hendrycks & Gimpel 2016, section 2, in its exact form, which PyTorch calls gelu."""
    return tf.nn.gelu(x, approximate=False)


BY_NAME = {"gelu": gelu, "gelu_erf": gelu_erf, "relu": tf.nn.relu, "tanh": tf.math.tanh, "linear": tf.identity}


@functools.cache
def compiled_by_name(name):
    """An activation for training: one pass over memory, computed in float32 and given in the dtype of x."""
    activation = BY_NAME[name]
    return compiled.differentiable(1)(lambda x: tf.cast(activation(tf.cast(x, tf.float32)), x.dtype))
