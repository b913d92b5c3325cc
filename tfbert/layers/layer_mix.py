"""A learned mix of what all layers give: Peters et al. 2018 (ELMo), section 3.2."""

import keras
import tensorflow as tf

from tfbert.layers import dropout

# What is stored times this is what softmax takes. Adam moves each number by about the learning rate a step, and at
# 2e-5 shares would stay as they begin; UDify (Kondratyuk and Straka 2019) has 1e-3 for the mix beside 4e-5 for BERT.
RATE_RATIO = 25.0


class LayerMix(keras.layers.Layer):
    """scale * sum of share_j * h_j, with shares = softmax(25 weights): it begins as the mean of all layers.

    In training, and only there, each layer is left out of the softmax with probability `rate`, so that not all hangs
    on one of them, as UDify has it. If all are left out, all have the same share.

    Args:
        rate: In [0, 1].

    Call args:
        states: List of float [B, L, D]: what the embeddings give, and each layer.
        training: Whether layers are left out.

    Returns:
        float [B, L, D].
    """

    def __init__(self, rate, **kwargs):
        super().__init__(**kwargs)
        self.dropout = dropout.Dropout(rate, name="dropout")

    def build(self, shapes):
        """Makes a weight for each of the states, and the scale."""
        self.mix_weights = self.add_weight(name="weights", shape=(len(shapes),), initializer="zeros", autocast=False)
        self.scale = self.add_weight(name="scale", shape=(), initializer="ones", autocast=False)
        self.dropout.build(None)

    def call(self, states, training=False):
        """See the class."""
        scores = RATE_RATIO * tf.convert_to_tensor(self.mix_weights)  # [layers]
        if training and self.dropout.rate:
            kept = dropout.drop(tf.ones_like(scores), self.dropout.rate, self.dropout.words()) > 0
            scores = tf.where(kept, scores, -1e9)
        shares = tf.unstack(tf.nn.softmax(scores) * tf.convert_to_tensor(self.scale))
        # In float32: what small shares add would be lost in bfloat16.
        mixed = tf.add_n([share * tf.cast(h, tf.float32) for share, h in zip(shares, states, strict=True)])
        return tf.cast(mixed, states[-1].dtype)
