"""A product with a matrix and a sum with a bias: in training with a gradient of its own, and without."""

import tensorflow as tf

from tfbert.layers import compiled


@tf.custom_gradient
def _product(x, kernel, bias):
    """[R, D] x [D, I] + [I] -> [R, I]."""

    def gradient(upstream):
        return (
            tf.matmul(upstream, kernel, transpose_b=True),
            tf.matmul(x, upstream, transpose_a=True),
            column_sums(upstream),
        )

    return tf.nn.bias_add(tf.matmul(x, kernel), bias), compiled.named(gradient)


@tf.custom_gradient
def _product_with_rows(x, table, bias):
    """[R, D] x [V, D] transposed + [V] -> [R, V]."""

    def gradient(upstream):
        return tf.matmul(upstream, table), tf.matmul(upstream, x, transpose_a=True), column_sums(upstream)

    return tf.nn.bias_add(tf.matmul(x, table, transpose_b=True), bias), compiled.named(gradient)


def column_sums(x):
    """[..., I] -> [I]: by a product with ones, which adds in float32 whatever the dtype, and with all cores."""
    rows = tf.reshape(x, [-1, x.shape[-1]])
    return tf.squeeze(tf.matmul(tf.ones([1, tf.shape(rows)[0]], x.dtype), rows), 0)


def dense(x, kernel, bias, product=_product):
    """x kernel + bias, in their dtype.

    Args:
        x: float [..., D].
        kernel: float [D, I].
        bias: float [I].

    Returns:
        float [..., I].
    """
    rows = product(tf.reshape(x, [-1, x.shape[-1]]), kernel, bias)
    shape = tf.concat([tf.shape(x)[:-1], tf.shape(bias)], 0)
    return tf.ensure_shape(tf.reshape(rows, shape), [*x.shape[:-1], *bias.shape])


def scores(x, table, bias):
    """x table^T + bias: float [..., D], [V, D], [V] -> [..., V]."""
    return dense(x, table, bias, _product_with_rows)


def rows(x, layer):
    """x kernel + bias without training, as the two operations that TensorFlow's optimizer of graphs makes one of.

    It does so with an activation after them and with a sum too, but not with a reshape between them, as
    `keras.layers.Dense` has it where x is not a matrix.

    Args:
        x: float [..., D].
        layer: The `keras.layers.Dense`, which may have no bias.

    Returns:
        float [..., I].
    """
    flat = x if len(x.shape) == 2 else tf.reshape(x, [-1, x.shape[-1]])
    y = tf.matmul(flat, tf.convert_to_tensor(layer.kernel))
    y = tf.nn.bias_add(y, tf.convert_to_tensor(layer.bias)) if layer.use_bias else y
    return y if len(x.shape) == 2 else tf.reshape(y, tf.concat([tf.shape(x)[:-1], [layer.units]], 0))
