"""Rows of several lengths without their padding, for a model that is exported: see `exported.without_padding`.

Rows of a batch are filled up to its longest, and of real texts half of all slots and more are padding. All of a layer
but attention is about one token at a time. So tokens alone go through it, one after another on one axis; attention
alone lays them out in rows, as Zeng et al. 2022 ("Boosting distributed training performance of the unpadded BERT
model") do for training and Zhai et al. 2023 ("ByteTransformer") for serving.
"""

import keras
import tensorflow as tf


class Tokens(keras.layers.Layer):
    """int32 [B, L], 0 is padding -> (slots, numbers, is_token), which `InRows` and other layers take.

    slots: int32 [T], in which of the B L slots each token stands; ascending.
    numbers: int32 [B, L], which token stands in each slot; of padding, the last token before it in its row.
    is_token: bool [B, L]. The first slot of a row is a token, whatever the mask says: each row has a state of [CLS],
        and nothing of a row is ever taken from another.
    """

    def call(self, input_mask):
        """See the class."""
        is_first = tf.expand_dims(tf.equal(tf.range(tf.shape(input_mask)[1]), 0), 0)  # [1, L]
        is_token = tf.logical_or(tf.not_equal(input_mask, 0), is_first)
        flat = tf.reshape(is_token, [-1])
        slots = tf.cast(tf.reshape(tf.where(flat), [-1]), tf.int32)
        numbers = tf.cumsum(tf.cast(flat, tf.int32)) - 1
        return slots, tf.reshape(numbers, tf.shape(input_mask)), is_token


class Asked(keras.layers.Layer):
    """Which tokens stand at places of rows, for a last layer that is computed for them alone.

    All but the last layer are about all tokens, since a token looks at all others. Of the last one hardly any head
    takes more than a few states: those of [CLS], or of masks.

    Call args:
        tokens: What `Tokens` gives.
        places: int32 [B, F], of tokens; None for the first of each row, F = 1.

    Returns:
        (which: int32 [B F], the tokens in order; numbers: int32 [B, F], the same).
    """

    def call(self, tokens, places=None):
        """See the class."""
        _, numbers, _ = tokens
        asked = numbers[:, :1] if places is None else tf.gather(numbers, places, batch_dims=1)
        return tf.reshape(asked, [-1]), asked


class OfAsked(keras.layers.Layer):
    """States of the tokens that were asked for [B F, D], or a list of copies of them, -> [B, F, D]."""

    def call(self, states, asked):
        """See the class; `asked` is what `Asked` gives."""
        states = states[0] if isinstance(states, list) else states
        return tf.reshape(states, tf.concat([tf.shape(asked[1]), [states.shape[-1]]], 0))


class InRows(keras.layers.Layer):
    """States of tokens [T, D] or a list of copies of them (see `tensor_parts`) -> [B, L, D], 0 in padding."""

    def call(self, states, tokens):
        """See the class; `tokens` is what `Tokens` gives."""
        _, numbers, is_token = tokens
        states = states[0] if isinstance(states, list) else states
        filled = tf.concat([states, tf.zeros([1, states.shape[-1]], states.dtype)], 0)
        return tf.gather(filled, tf.where(is_token, numbers, tf.shape(states)[0]))
