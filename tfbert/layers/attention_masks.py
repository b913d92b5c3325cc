"""Who may look at whom. A pattern is a function to [B, 1 or F, T]; `bias` turns it into what scores add."""

import keras
import tensorflow as tf

# What google-research/bert adds to the score of a blocked key. exp(-10000) is 0 in float32, and the
# number fits float16, whose largest is 65504.
BLOCKED_SCORE = -10000.0


def padding(input_mask):
    """Every query sees every key that is not padding.

    Args:
        input_mask: number [B, T]; 0 is padding.

    Returns:
        float32 [B, 1, T].
    """
    # expand_dims and not [:, None]: TFLite has no strided slice that adds an axis of unknown length.
    return tf.expand_dims(tf.cast(tf.not_equal(input_mask, 0), tf.float32), 1)


def packed(input_mask):
    """Every query sees its own example in a row of several: Krell et al. 2021, section 3.2.2.

    Args:
        input_mask: number [B, L]; 1 in the first example of a row, 2 in the second, ...; 0 is padding.

    Returns:
        float32 [B, F, T].
    """
    same = tf.equal(tf.expand_dims(input_mask, 2), tf.expand_dims(input_mask, 1))  # [B, F, T]
    return tf.cast(same, tf.float32) * padding(input_mask)


class AttentionBias(keras.layers.Layer):
    """A pattern as a number to add to attention scores; made once, used by every layer.

    Args:
        pattern: A function of this module, from `input_mask` to [B, 1 or F, T].

    Call args:
        input_mask: int32 [B, T].

    Returns:
        float32 [B, 1, 1 or F, T]: 0 where a query may look, `BLOCKED_SCORE` elsewhere. A query that may look
        nowhere attends as if nothing were blocked: the same number is added to every score.
    """

    def __init__(self, pattern=padding, **kwargs):
        super().__init__(dtype="float32", **kwargs)
        self.pattern = pattern

    def call(self, input_mask):
        """See the class."""
        return bias(self.pattern(input_mask))


def bias(mask):
    """[B, 1 or F, T] of 0 and 1 -> float32 [B, 1, 1 or F, T] to add to scores."""
    # A difference and not a product, which TensorFlow's optimizer of graphs takes for the scaled scores in their sum.
    return BLOCKED_SCORE - BLOCKED_SCORE * tf.expand_dims(mask, 1)
