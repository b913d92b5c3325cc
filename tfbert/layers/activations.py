"""Activations under the names that `bert_config.json` uses."""

import tensorflow as tf


def gelu(x):
    """x * P(X <= x) in its tanh approximation: Hendrycks & Gimpel 2016, section 2.

    BERT was trained with the approximation; the exact form differs by up to 4.8e-4.
    """
    return tf.nn.gelu(x, approximate=True)


def gelu_erf(x):
    """x * P(X <= x): Hendrycks & Gimpel 2016, section 2, in its exact form, which PyTorch calls gelu."""
    return tf.nn.gelu(x, approximate=False)


BY_NAME = {"gelu": gelu, "gelu_erf": gelu_erf, "relu": tf.nn.relu, "tanh": tf.math.tanh, "linear": tf.identity}
