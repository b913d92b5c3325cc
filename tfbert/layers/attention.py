"""Multi-head self-attention: Vaswani et al. 2017, section 3.2."""

import functools

import keras
import tensorflow as tf

from tfbert import checks
from tfbert.layers import compiled, dense, dropout, exported, initializers, sequence_parts

# The projection to queries, keys and values side by side of a layer that is exported: see `tfbert.layers.exported`.
JOINED = "query_key_value"


@functools.cache
def _split(heads):
    """The compiled function from queries, keys and values side by side, [B, L, 3 D], to three of [B, N, L, H]."""

    @compiled.differentiable(1)
    def split(x):
        batch, length = tf.unstack(tf.shape(x)[:2])  # known when it is compiled, once for each length
        x = tf.reshape(x, [batch, length, 3, heads, x.shape[-1] // (3 * heads)])  # [B, L, 3, N, H]
        return tuple(tf.unstack(tf.transpose(x, [2, 0, 3, 1, 4])))

    return split


@compiled.differentiable(1)
def _merge(x):
    """[B, N, L, H] -> [B, L, D]."""
    batch, heads, length, size = tf.unstack(tf.shape(x))  # as above
    merged = tf.reshape(tf.transpose(x, [0, 2, 1, 3]), [batch, length, heads * size])
    return tf.ensure_shape(merged, [x.shape[0], x.shape[2], x.shape[1] * x.shape[3]])


@functools.cache
def _weights(scale, rate):
    """The function from products of queries and keys to the weights of the values, for training.

    (scores [B, N, F, T], attention_bias [B, 1, 1 or F, T], words of dropout) -> [B, N, F, T], in the scores' dtype.
    """

    @compiled.compiled
    def forward(scores, attention_bias, words):
        scores_32 = tf.cast(scores, tf.float32) * scale + attention_bias
        powers = tf.exp(scores_32 - tf.reduce_max(scores_32, -1, keepdims=True))
        shares = powers / tf.reduce_sum(powers, -1, keepdims=True)
        return tf.cast(dropout.drop(shares, rate, words), scores.dtype), tf.cast(shares, scores.dtype)

    @compiled.compiled
    def backward(upstream, shares, words):
        shares_32 = tf.cast(shares, tf.float32)
        products = dropout.drop(tf.cast(upstream, tf.float32), rate, words) * shares_32
        gradient = products - shares_32 * tf.reduce_sum(products, -1, keepdims=True)
        return tf.cast(scale * gradient, upstream.dtype)

    @tf.custom_gradient
    def weights(scores, attention_bias, words):
        # The shares are kept, since to compute them again takes as long as all the rest.
        dropped, shares = forward(scores, attention_bias, words)
        return dropped, compiled.named(lambda upstream: (backward(upstream, shares, words), None, None))

    return weights


def _sizes(parts, attention_bias):
    """(B, F) of each part of rows, of which there is one if it is not in parts; see `SelfAttention`."""
    batch, length = tf.unstack(tf.gather(tf.shape(attention_bias), [0, 3]))
    return [(batch, n) for n in sequence_parts.lengths(length, len(parts))]


class SelfAttention(keras.layers.Layer):
    """Attends within one sequence and returns its heads side by side.

    The projection back to the hidden size, the residual and the layer norm are the block's (see
    `tfbert.layers.transformer`).

    Args:
        hidden_size: D, a multiple of `num_attention_heads`.
        num_attention_heads: N.
        dropout_rate: Rate in [0, 1] at which attention probabilities are dropped.
        initializer_range: Deviation of the kernels' initialiser.

    Call args:
        hidden: float [B, L, D], or without training its rows [B L, D], or a list of the rows of its parts (see
            `sequence_parts`).
        attention_bias: float [B, 1, 1 or L, L], added to the scores; in parts [B, 1, 1, L].
        training: Whether to drop.

    Returns:
        As `hidden`.

    Raises:
        InputError: `hidden_size` is not a multiple of `num_attention_heads`.
    """

    def __init__(self, hidden_size, num_attention_heads, dropout_rate=0.0, initializer_range=0.02, **kwargs):
        super().__init__(**kwargs)
        checks.require(
            hidden_size % num_attention_heads == 0,
            "hidden_size must be a multiple of num_attention_heads",
            f"hidden_size={hidden_size}, num_attention_heads={num_attention_heads}",
        )
        self.num_attention_heads = num_attention_heads
        self.size_per_head = hidden_size // num_attention_heads
        names, width = ("query", "key", "value"), hidden_size
        self.joined = exported.is_building()
        if self.joined:
            names, width = (JOINED,), 3 * hidden_size
        self.projections = [
            keras.layers.Dense(width, kernel_initializer=initializers.truncated_normal(initializer_range), name=name)
            for name in names
        ]
        self.dropout = dropout.Dropout(dropout_rate, name="dropout")

    def build(self, hidden_shape, attention_bias_shape=None):
        """Builds the three projections of [B, L, D]."""
        for projection in self.projections:
            projection.build(hidden_shape)
        self.dropout.build(None)

    def call(self, hidden, attention_bias, training=False):
        """See the class."""
        if training:
            return self._train(hidden, attention_bias)
        parts = hidden if isinstance(hidden, list) else [hidden]
        sizes = _sizes(parts, attention_bias)
        queries, key, value = self._heads(parts, sizes)
        contexts = [self._context(query, key, value, attention_bias, size) for query, size in zip(queries, sizes)]
        # To the shape of what is added to them: TensorFlow's optimizer of graphs must see that both are of one shape.
        contexts = [tf.reshape(context, tf.shape(part)) for context, part in zip(contexts, parts)]
        return contexts if isinstance(hidden, list) else contexts[0]

    def _context(self, query, key, value, attention_bias, size):
        """What queries [B, N, F, H] find: [B, F, N, H]."""
        weights = tf.cast(self._shares(query, key, attention_bias), self.compute_dtype)  # [B, N, F, T]
        context = tf.matmul(weights, value)  # [B, N, F, H]
        if not self.joined:
            return tf.transpose(context, [0, 2, 1, 3])
        return tf.gather(tf.reshape(context, [-1, self.size_per_head]), self._places_of_context(*size))

    def shares(self, hidden, attention_bias):
        """The share of its attention that each query gives each key, float32 [B, N, F, T].

        Args:
            hidden: As of `call`, not in parts.
            attention_bias: As of `call`.
        """
        (query,), key, _ = self._heads([hidden], _sizes([hidden], attention_bias))
        return self._shares(query, key, attention_bias)

    def _shares(self, query, key, attention_bias):
        scores = tf.matmul(query, key, transpose_b=True)  # [B, N, F, T]
        # Softmax in float32: bfloat16 has 8 bits, and the sum is over hundreds of terms.
        scores = tf.cast(scores, tf.float32) * self.size_per_head**-0.5 + tf.cast(attention_bias, tf.float32)
        return tf.nn.softmax(scores)

    def _heads(self, parts, sizes):
        """Queries of each part, a list of [B, N, F, H], and keys and values of all parts [B, N, T, H]."""
        rows = [tf.reshape(x, [-1, x.shape[-1]]) for x in parts]
        projected = zip(*[dense.rows(rows, p) for p in self.projections])  # of each part
        heads = self._gathered if self.joined else self._transposed
        queries, keys, values = zip(*[heads(p, *size) for p, size in zip(projected, sizes)])
        return queries, sequence_parts.joined(keys, 2), sequence_parts.joined(values, 2)

    def _transposed(self, projected, batch, length):
        """Queries, keys and values of rows, each [B L, D], as [B, N, L, H]."""
        shape = tf.stack([batch, length, self.num_attention_heads, self.size_per_head])
        return [tf.transpose(tf.reshape(x, shape), [0, 2, 1, 3]) for x in projected]

    def _gathered(self, projected, batch, length):
        """The same of rows that have them side by side, one of [B L, 3 D]."""
        vectors = tf.reshape(projected[0], [-1, self.size_per_head])  # [B L 3 N, H]
        return [tf.gather(vectors, places) for places in self._places_of_heads(batch, length)]

    # A layer that is exported lays its heads out by gathering vectors of H numbers, which is to copy memory; a
    # transpose is an operation of oneDNN's, which takes its time to begin and to wake up threads. Places are the same
    # in all layers, and TensorFlow's optimizer of graphs computes them once.

    def _places_of_heads(self, batch, length):
        """Where queries, keys and values are among the vectors [B, L, 3, N]: three of int32 [B, N, L]."""
        heads = self.num_attention_heads
        token = tf.reshape(3 * heads * tf.range(batch * length), tf.stack([batch, 1, length]))
        query = token + tf.reshape(tf.range(heads), [heads, 1])
        return query, query + heads, query + 2 * heads

    def _places_of_context(self, batch, length):
        """Where the heads of each token are among the vectors [B, N, L]: int32 [B, L, N]."""
        heads = self.num_attention_heads
        row = tf.reshape(heads * length * tf.range(batch), [-1, 1, 1])
        return row + tf.expand_dims(tf.range(length), 1) + length * tf.range(heads)

    def _train(self, hidden, attention_bias):
        """`call` with dropout, as one product for queries, keys and values, and compiled functions between products."""
        kernel = tf.concat([tf.convert_to_tensor(p.kernel) for p in self.projections], 1)  # [D, 3 D]
        bias = tf.concat([tf.convert_to_tensor(p.bias) for p in self.projections], 0)
        query, key, value = _split(self.num_attention_heads)(dense.dense(hidden, kernel, bias))  # [B, N, L, H]
        scores = tf.matmul(query, key, transpose_b=True)  # [B, N, F, T]
        weigh = _weights(self.size_per_head**-0.5, self.dropout.rate)
        weights = weigh(scores, tf.cast(attention_bias, tf.float32), self.dropout.words())
        return _merge(tf.matmul(weights, value))  # [B, F, D]
