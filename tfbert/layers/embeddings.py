"""The sum of word, segment and position embeddings: Devlin et al. 2019, section 3, figure 2."""

import functools

import keras
import tensorflow as tf

from tfbert import checks
from tfbert.layers import compiled, dropout, initializers, transformer


@functools.cache
def _normed(rate, epsilon, dtype):
    """The compiled function (words [B, L, E], segments, positions, gamma, beta, words of dropout) -> [B, L, E]."""

    @compiled.differentiable(5)
    def normed(words, segments, positions, gamma, beta, random_words):
        normed, _ = transformer.normalized(words + segments + positions, epsilon)
        return tf.cast(dropout.drop(normed * gamma + beta, rate, random_words), dtype)

    return normed


@compiled.compiled
def _table_gradient(of_table, of_words, ids):
    """The sum of what both uses of the table give: float32 [V, E].

    A dense tensor of the looked-up rows, which are few, and a sum with it would be three passes over the table's size.
    """
    rows = tf.reshape(tf.cast(of_words, tf.float32), [-1, of_words.shape[-1]])
    return tf.tensor_scatter_nd_add(tf.cast(of_table, tf.float32), tf.reshape(ids, [-1, 1]), rows)


def look_up(table, ids, dtype):
    """(rows of a table, the table in another dtype), as one operation with one gradient.

    Args:
        table: float32 [V, E].
        ids: int32 [B, L].
        dtype: Of the table that is given.

    Returns:
        float32 [B, L, E], `dtype` [V, E].
    """

    @tf.custom_gradient
    def run(table):
        def gradient(of_words, of_table):
            return _table_gradient(of_table, of_words, ids)

        return (tf.gather(table, ids), tf.cast(table, dtype)), gradient

    return run(table)


class Embeddings(keras.layers.Layer):
    """LayerNorm(word + segment + position), with dropout.

    Args:
        vocab_size: V.
        embedding_size: E, the width of the tables.
        max_position_embeddings: Longest sequence.
        type_vocab_size: Number of segments.
        dropout_rate: Rate in [0, 1].
        initializer_range: Deviation of the tables' initialiser.
        layer_norm_epsilon: What the norm adds to the variance.

    Call args:
        input_ids: int32 [B, L].
        segment_ids: int32 [B, L].
        position_ids: int32 [B, L], less than `max_position_embeddings`; None for 0, 1, 2, ... in each row.
        tokens: Without padding, what `padding_free.Tokens` gives: position_ids are None then.
        training: Whether to drop.

    Returns:
        (float [B, L, E], or of tokens [T, E], the table of words in the same dtype [V, E], which scores may be computed
        with).

    Raises:
        InputError: L is known when the graph is built, and longer than `max_position_embeddings`.
        tf.errors.InvalidArgumentError: L turns out to be longer when the graph runs.
    """

    def __init__(
        self,
        vocab_size,
        embedding_size,
        max_position_embeddings,
        type_vocab_size,
        dropout_rate=0.0,
        initializer_range=0.02,
        layer_norm_epsilon=transformer.LAYER_NORM_EPSILON,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.table_shapes = {
            "word_embeddings": (vocab_size, embedding_size),
            "token_type_embeddings": (type_vocab_size, embedding_size),
            "position_embeddings": (max_position_embeddings, embedding_size),
        }
        self.initializer_range = initializer_range
        self.LayerNorm = transformer.layer_norm(layer_norm_epsilon)
        self.dropout = dropout.Dropout(dropout_rate, name="dropout")

    def build(self, *input_shapes):
        """Makes the three tables."""

        def table(name):
            # Not cast as a whole to the compute dtype: a batch looks up a few of many rows.
            return self.add_weight(
                name=name,
                shape=self.table_shapes[name],
                initializer=initializers.truncated_normal(self.initializer_range),
                autocast=False,
            )

        self.word_embeddings = table("word_embeddings")  # [V, E]
        self.token_type_embeddings = table("token_type_embeddings")
        self.position_embeddings = table("position_embeddings")
        self.LayerNorm.build((None, None, self.table_shapes["word_embeddings"][1]))
        self.dropout.build(None)

    def call(self, input_ids, segment_ids, position_ids=None, tokens=None, training=False):
        """See the class."""
        slots = None
        if tokens is not None:
            slots, length = tokens[0], tf.shape(input_ids)[1]
            input_ids, segment_ids = (tf.gather(tf.reshape(x, [-1]), slots) for x in (input_ids, segment_ids))  # [T]
        table = tf.convert_to_tensor(self.word_embeddings)
        if training:
            words, table = look_up(table, input_ids, self.compute_dtype)  # [B, L, E], [V, E]
        else:
            words, table = tf.gather(table, input_ids), tf.cast(table, self.compute_dtype)
        # Few rows: a product with one-hot vectors has a cheaper gradient than a lookup.
        segments = tf.one_hot(segment_ids, self.table_shapes["token_type_embeddings"][0])
        segments = tf.matmul(segments, self.token_type_embeddings)  # [B, L, E]
        if slots is not None:
            positions = tf.gather(self.position_embeddings, slots % length)  # [T, E], of no place beyond the table
        elif position_ids is None:
            positions = self._first_positions(input_ids)  # [L, E]
        else:
            positions = tf.gather(self.position_embeddings, position_ids)  # [B, L, E]
        if training:
            normed = _normed(self.dropout.rate, self.LayerNorm.epsilon, self.compute_dtype)
            gamma, beta = (tf.convert_to_tensor(v) for v in (self.LayerNorm.gamma, self.LayerNorm.beta))
            return normed(words, segments, positions, gamma, beta, self.dropout.words()), table
        return tf.cast(self.LayerNorm(words + segments + positions), self.compute_dtype), table

    def _first_positions(self, input_ids):
        """Embeddings of the positions 0, 1, 2, ...: [L, E]."""
        longest, width = self.table_shapes["position_embeddings"]
        static_length = input_ids.shape[1]
        checks.require(
            static_length is None or static_length <= longest,
            "a sequence must not be longer than max_position_embeddings",
            f"{static_length} tokens, max_position_embeddings={longest}",
        )
        # slice fails on a length beyond the table, where [:length] would give fewer rows.
        return tf.slice(self.position_embeddings, [0, 0], [tf.shape(input_ids)[1], width])
