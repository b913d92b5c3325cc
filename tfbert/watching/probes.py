"""What goes on inside a model while it learns: which part moves how much, and where its attention goes."""

import re

import keras
import numpy as np
import tensorflow as tf

from tfbert.layers import attention_masks
from tfbert.optimizers import param_groups

EMBEDDINGS, HEADS = "embeddings", "heads"


def part_of(path):
    """The part of the model that a variable belongs to, by its path; names are sorted from the bottom up.

    >>> part_of("bert/encoder/layer_3/attention/self/query/kernel")
    'layer_03'
    >>> part_of("bert/embeddings/word_embeddings"), part_of("bert/pooler/dense/bias")
    ('embeddings', 'pooler')
    >>> part_of("cls/predictions/output_bias")
    'heads'
    """
    if layer := param_groups.LAYER.search(path):
        return f"layer_{int(layer[1]):02}"
    if param_groups.BELOW.search(path):
        return EMBEDDINGS
    return "pooler" if path.startswith("bert/pooler/") else HEADS


def parts_of(paths):
    """The parts that variables belong to.

    Args:
        paths: `.path` of each variable.

    Returns:
        (names of the parts in the order of their first variable, for each path the place of its part there).
    """
    parts = [part_of(path) for path in paths]
    names = tuple(dict.fromkeys(parts))
    return names, [names.index(part) for part in parts]


def weight_norms(variables):
    """{part: Euclidean norm of all its numbers together} of Keras variables."""
    names, places = parts_of([v.path for v in variables])
    squares = np.zeros(len(names))
    for variable, place in zip(variables, places):
        squares[place] += 2.0 * float(tf.nn.l2_loss(variable.value))
    return dict(zip(names, np.sqrt(squares).tolist()))


class AttentionProbe:
    """Asks each layer of a model where its attention goes.

    Training keeps no shares of attention, and nothing of it changes: what goes into each layer is computed as in
    evaluation, and the layer is asked for the shares alone.

    Args:
        model: Of `encoder.build_encoder` or `heads.build_pretrainer`.
    """

    def __init__(self, model):
        count = sum(bool(re.fullmatch(r"layer_\d+", layer.name)) for layer in model.layers)
        self._layers = [model.get_layer(f"layer_{i}") for i in range(count)]
        hidden = [layer.input[0] for layer in self._layers]
        self._inputs = keras.Model(model.inputs, [*hidden, model.get_layer("attention_bias").output])

    def entropies(self, features):
        """How evenly each head spreads its attention over what it may look at.

        A query that gives the share p_t to key t has the entropy -sum p_t log p_t (Clark et al. 2019, section 3.1, of
        BERT's heads). It is divided by the logarithm of the number of keys that the query may look at, so that
        rows of different lengths can be told in one number: 0 is one key alone, 1 all keys alike.

        Args:
            features: {name: [B, ...]} with the model's inputs.

        Returns:
            float32 [layers, N]: means over the queries of all rows that are no padding and have a choice.
        """
        inputs = {x.name: tf.convert_to_tensor(features[x.name]) for x in self._inputs.inputs}
        *hidden, bias = self._inputs(inputs, training=False)
        visible = tf.reduce_sum(tf.cast(bias > attention_masks.BLOCKED_SCORE / 2, tf.float32), -1)  # [B, 1, 1 or F]
        most = tf.math.log(visible)
        is_text = tf.cast(tf.convert_to_tensor(features["input_mask"])[:, tf.newaxis] > 0, tf.float32)  # [B, 1, F]
        counted = is_text * tf.cast(most > 0, tf.float32)
        return np.stack([_entropies(layer, x, bias, most, counted) for layer, x in zip(self._layers, hidden)])


def _entropies(layer, hidden, bias, most, counted):
    """float32 [N] of one layer: [B, F, D], [B, 1, 1 or F, T], [B, 1, 1 or F] and weights of the queries [B, 1, F]."""
    shares = layer.attention.self_attention.shares(hidden, bias)  # [B, N, F, T]
    entropy = -tf.reduce_sum(tf.math.xlogy(shares, shares), -1)  # [B, N, F]
    even = tf.math.divide_no_nan(entropy, most)
    return (tf.reduce_sum(even * counted, [0, 2]) / tf.maximum(tf.reduce_sum(counted), 1.0)).numpy()
