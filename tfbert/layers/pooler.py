"""One vector for a whole sequence: Devlin et al. 2019, section 3.1, task 2."""

import keras
import tensorflow as tf

from tfbert.layers import initializers


class Pooler(keras.layers.Layer):
    """tanh(dense(h)) of the first token, [CLS]: [B, L, D] -> [B, D]."""

    def __init__(self, hidden_size, initializer_range=0.02, **kwargs):
        super().__init__(**kwargs)
        self.dense = keras.layers.Dense(
            hidden_size, kernel_initializer=initializers.truncated_normal(initializer_range), name="dense"
        )

    def build(self, shape):
        """Builds the dense layer for [B, L, D]."""
        self.dense.build((shape[0], shape[-1]))

    def call(self, sequence_output):
        """See the class."""
        return tf.math.tanh(self.dense(tf.gather(sequence_output, 0, axis=1)))  # [B, D]
