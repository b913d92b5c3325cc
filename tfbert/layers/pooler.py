"""One vector for a whole sequence: Devlin et al. 2019, section 3.1, task 2."""

import keras
import tensorflow as tf

from tfbert.layers import initializers


class Pooler(keras.layers.Layer):
    """tanh(dense(h)) of [CLS].

    Args:
        hidden_size: D.
        initializer_range: Deviation of the kernel's initialiser.

    Call args:
        sequence_output: float [B, L, D].
        positions: int32 [B, M], where the [CLS] of each example of a row lies; None if it is the first token.

    Returns:
        float [B, D], or [B, M, D] with positions.
    """

    def __init__(self, hidden_size, initializer_range=0.02, **kwargs):
        super().__init__(**kwargs)
        self.dense = keras.layers.Dense(
            hidden_size, kernel_initializer=initializers.truncated_normal(initializer_range), name="dense"
        )

    def build(self, sequence_output_shape, positions_shape=None):
        """Builds the dense layer for [B, L, D]."""
        self.dense.build((None, sequence_output_shape[-1]))

    def call(self, sequence_output, positions=None):
        """See the class."""
        if positions is None:
            return tf.math.tanh(self.dense(tf.gather(sequence_output, 0, axis=1)))  # [B, D]
        return tf.math.tanh(self.dense(tf.gather(sequence_output, positions, batch_dims=1)))  # [B, M, D]
