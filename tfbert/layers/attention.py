"""Multi-head self-attention: Vaswani et al. 2017, section 3.2."""

import functools

import keras
import tensorflow as tf

from tfbert import checks
from tfbert.layers import compiled, dense, dropout, exported, initializers, tensor_parts

# The projections to queries, keys and values side by side of a layer that is exported, one for each of its parts:
# query_key_value_0, ... See `tfbert.layers.exported`.
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
        hidden: float [B, L, D], or without training its rows [B L, D]; without padding, states of tokens [T, D];
            exported, a list of copies of those (see `tensor_parts`).
        attention_bias: float [B, 1, 1 or L, L], added to the scores.
        tokens: Without padding, what `padding_free.Tokens` gives.
        asked: What `padding_free.Asked` gives: only these tokens look at others. None for all.
        training: Whether to drop.

    Returns:
        As `hidden`; exported, a list of its parts: [T, some of the heads]. Of tokens that were asked for, [B F, D].

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
        widths = dict.fromkeys(("query", "key", "value"), hidden_size)
        self.widths = None  # of the parts of the context, where it is in parts
        if exported.is_building():
            checks.require(
                exported.parts() <= num_attention_heads,
                f"tensor_parallelism must be at most num_attention_heads {num_attention_heads}",
                f"tensor_parallelism={exported.parts()}",
            )
            heads = tensor_parts.lengths(num_attention_heads, exported.parts())
            self.widths = [n * self.size_per_head for n in heads]
            widths = dict(zip(tensor_parts.names(JOINED, heads), [3 * width for width in self.widths]))
        self.projections = [
            keras.layers.Dense(width, kernel_initializer=initializers.truncated_normal(initializer_range), name=name)
            for name, width in widths.items()
        ]
        self.dropout = dropout.Dropout(dropout_rate, name="dropout")

    def build(self, hidden_shape, attention_bias_shape=None):
        """Builds the three projections of [B, L, D]."""
        for projection in self.projections:
            projection.build(hidden_shape)
        self.dropout.build(None)

    def call(self, hidden, attention_bias, tokens=None, asked=None, training=False):
        """See the class."""
        if training:
            return self._train(hidden, attention_bias)
        if self.widths:
            projected = [dense.rows(rows, p) for rows, p in zip(hidden, self.projections)]
            return [self._of_tokens([x], attention_bias, tokens, asked) for x in projected]
        if tokens is not None:
            return self._of_tokens([dense.rows(hidden, p) for p in self.projections], attention_bias, tokens, asked)
        query, key, value = self._heads(hidden, attention_bias)
        context = tf.transpose(self._context(query, key, value, attention_bias), [0, 2, 1, 3])  # [B, L, N, H]
        return tf.reshape(context, tf.shape(hidden))

    def shares(self, hidden, attention_bias):
        """The share of its attention that each query gives each key, float32 [B, N, F, T].

        Args:
            hidden: As of `call`; not of a layer that is exported.
            attention_bias: As of `call`.
        """
        query, key, _ = self._heads(hidden, attention_bias)
        return self._shares(query, key, attention_bias)

    def _shares(self, query, key, attention_bias):
        scores = tf.matmul(query, key, transpose_b=True)  # [B, N, F, T]
        # Softmax in float32: bfloat16 has 8 bits, and the sum is over hundreds of terms.
        scores = tf.cast(scores, tf.float32) * self.size_per_head**-0.5 + tf.cast(attention_bias, tf.float32)
        return tf.nn.softmax(scores)

    def _context(self, query, key, value, attention_bias):
        """What queries find: all [B, N, L, H]."""
        return tf.matmul(tf.cast(self._shares(query, key, attention_bias), self.compute_dtype), value)

    def _heads(self, hidden, attention_bias):
        """Queries, keys and values, each [B, N, L, H]."""
        batch, length = tf.unstack(tf.gather(tf.shape(attention_bias), [0, 3]))
        shape = tf.stack([batch, length, self.num_attention_heads, self.size_per_head])
        rows = tf.reshape(hidden, [-1, hidden.shape[-1]])
        return [tf.transpose(tf.reshape(dense.rows(rows, p), shape), [0, 2, 1, 3]) for p in self.projections]

    def _of_tokens(self, projected, attention_bias, tokens, asked):
        """What n heads find: [T, n H], or [B F, n H].

        Heads are laid out by gathering vectors of H numbers, which is to copy memory; a transpose is an operation of
        oneDNN's, which takes its time to begin and to wake up threads. Places are the same in all layers, and the
        optimizers of graphs compute them once.

        Args:
            projected: Queries, keys and values of these heads side by side, [T, 3 n H], or each, [T, n H]: a list.
            attention_bias, tokens, asked: As of `call`.
        """
        slots, numbers, _ = tokens
        queries = numbers
        if asked is not None:
            which, queries = asked
            slots = tf.range(tf.size(which))
        length = tf.shape(queries)[1]
        side_by_side = 3 // len(projected)
        heads = projected[0].shape[-1] // (side_by_side * self.size_per_head)
        vectors = [tf.reshape(x, [-1, self.size_per_head]) for x in projected]  # [T n, H] or [T 3 n, H]
        first, of_queries = (
            side_by_side * heads * tf.expand_dims(x, 1) + tf.reshape(tf.range(heads), [heads, 1])
            for x in (numbers, queries)
        )
        if side_by_side == 1:
            heads_of = [tf.gather(x, places) for x, places in zip(vectors, (of_queries, first, first))]
        else:
            heads_of = [tf.gather(vectors[0], places) for places in (of_queries, first + heads, first + 2 * heads)]
        # Each is [B, n, L, H] now, or [B, n, F, H]. In padding stands a token, which no other one looks at.
        context = tf.reshape(self._context(*heads_of, attention_bias), [-1, self.size_per_head])  # [B n L, H]
        # Of L, or F, queries a row: row b begins n L b vectors from the first one, and L b slots.
        of_first_head = slots + (heads - 1) * length * (slots // length)
        places = tf.expand_dims(of_first_head, 1) + length * tf.range(heads)  # [T, n]
        # TensorFlow's optimizer of graphs must see that rows are as many as those that the projection of this is added
        # to: it follows a piece of a shape through a concatenation, and not an element of it.
        rows = [-1] if asked else tf.shape(projected[0])[:1]  # few of those that are asked for: no matter
        shape = tf.concat([rows, [heads * self.size_per_head]], 0)
        return tf.reshape(tf.gather(context, places), shape)

    def _train(self, hidden, attention_bias):
        """`call` with dropout, as one product for queries, keys and values, and compiled functions between products."""
        kernel = tf.concat([tf.convert_to_tensor(p.kernel) for p in self.projections], 1)  # [D, 3 D]
        bias = tf.concat([tf.convert_to_tensor(p.bias) for p in self.projections], 0)
        query, key, value = _split(self.num_attention_heads)(dense.dense(hidden, kernel, bias))  # [B, N, L, H]
        scores = tf.matmul(query, key, transpose_b=True)  # [B, N, F, T]
        weigh = _weights(self.size_per_head**-0.5, self.dropout.rate)
        weights = weigh(scores, tf.cast(attention_bias, tf.float32), self.dropout.words())
        return _merge(tf.matmul(weights, value))  # [B, F, D]
