"""The transformer block with the norm after the residual: Vaswani et al. 2017, section 3.1."""

import functools

import keras
import tensorflow as tf

from tfbert.layers import activations, attention, compiled, dense, dropout, exported, initializers, tensor_parts

# google-research/bert's; the paper gives none.
LAYER_NORM_EPSILON = 1e-12


def _norm_of_rows(x, epsilon):
    """`normalized` of rows [R, D], as Keras 2 has it: a batch norm whose channels are the rows.

    TensorFlow's optimizer of graphs knows these operations, with a gamma and a beta after them, as one of oneDNN. It
    also knows those of Keras 3, x * scale + (beta - mean * scale), but takes an epsilon of 0.001 for them whatever it
    is (TensorFlow 2.21), so they are nowhere here.
    """
    shape, none = tf.shape(x), tf.constant([], tf.float32)
    ones, zeros = tf.fill(shape[:1], 1.0), tf.fill(shape[:1], 0.0)
    x = tf.reshape(x, tf.stack([1, shape[0], x.shape[1], 1]))
    normed = tf.raw_ops.FusedBatchNormV3(
        x=x, scale=ones, offset=zeros, mean=none, variance=none, epsilon=epsilon, data_format="NCHW", is_training=True
    )
    return tf.reshape(normed[0], shape)


class LayerNorm(keras.layers.LayerNormalization):
    """Ba et al. 2016 over the last axis."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self._in_rows = exported.is_building()

    def call(self, x):
        """float [..., D], or a list of such -> the same, in the layer's dtype."""
        gamma, beta = tf.convert_to_tensor(self.gamma), tf.convert_to_tensor(self.beta)  # read once for all
        if isinstance(x, list):
            return [self._normed(one, gamma, beta) for one in x]
        return self._normed(x, gamma, beta)

    def _normed(self, x, gamma, beta):
        x = tf.cast(x, self.compute_dtype)
        if not self._in_rows:
            centred, inverse = _centred(x, self.epsilon)
            # In this order: TFLite's converter multiplies a matrix that follows by a gamma that is a factor of its own,
            # and wrote the vocabulary's a second time for it.
            return centred * (inverse * gamma) + beta
        rows = _norm_of_rows(tf.reshape(x, [-1, x.shape[-1]]), self.epsilon) * gamma + beta
        return rows if len(x.shape) == 2 else tf.reshape(rows, tf.shape(x))


def layer_norm(epsilon=LAYER_NORM_EPSILON):
    """A `LayerNorm` in float32 whatever the policy."""
    return LayerNorm(epsilon=epsilon, dtype="float32", name="LayerNorm")


def _centred(x, epsilon):
    """x [..., D] without its mean, and 1 / deviation [..., 1]."""
    centred = x - tf.reduce_mean(x, -1, keepdims=True)
    return centred, tf.math.rsqrt(tf.reduce_mean(tf.square(centred), -1, keepdims=True) + epsilon)


def normalized(x, epsilon):
    """The part of `layer_norm` that has no weights, for compiled functions: ([..., D], 1 / deviation [..., 1])."""
    centred, inverse = _centred(x, epsilon)
    return centred * inverse, inverse


@functools.cache
def _residual_norm(rate, epsilon):
    """norm(residual + drop(x)) for training, in the dtype of x, as a function (x, residual, gamma, beta, words).

    x and residual are [..., D].
    """

    @compiled.compiled
    def forward(x, residual, gamma, beta, words):
        # The sum is a float32 number too: adding in bfloat16 would round what the norm then magnifies.
        summed = tf.cast(residual, tf.float32) + dropout.drop(tf.cast(x, tf.float32), rate, words)
        normed, inverse = normalized(summed, epsilon)
        return tf.cast(normed * gamma + beta, x.dtype), tf.cast(normed, x.dtype), inverse

    @compiled.compiled
    def backward(upstream, normed, inverse, gamma, words):
        upstream_32, normed_32 = tf.cast(upstream, tf.float32), tf.cast(normed, tf.float32)
        of_normed = upstream_32 * gamma
        of_scale = tf.reduce_mean(of_normed * normed_32, -1, keepdims=True)
        of_sum = inverse * (of_normed - tf.reduce_mean(of_normed, -1, keepdims=True) - normed_32 * of_scale)
        results = dropout.drop(of_sum, rate, words), of_sum, upstream_32 * normed_32
        return [tf.cast(result, upstream.dtype) for result in results]

    @tf.custom_gradient
    def residual_norm(x, residual, gamma, beta, words):
        y, normed, inverse = forward(x, residual, gamma, beta, words)

        def gradient(upstream):
            of_x, of_residual, of_gammas = backward(upstream, normed, inverse, gamma, words)
            of_gamma, of_beta = (tf.cast(dense.column_sums(z), gamma.dtype) for z in (of_gammas, upstream))
            return of_x, of_residual, of_gamma, of_beta, None

        return y, compiled.named(gradient)

    return residual_norm


class ResidualOutput(keras.layers.Layer):
    """LayerNorm(residual + dropout(dense(x))): how both halves of a block end.

    Args:
        hidden_size: D.
        dropout_rate: Rate in [0, 1] at which the projection is dropped.
        initializer_range: Deviation of the kernel's initialiser.
        layer_norm_epsilon: What the norm adds to the variance.
        widths: Of the parts of x, where it is exported (see `tensor_parts`); None otherwise.

    Call args:
        x: float [B, L, any], or without training its rows [B L, any]; exported, a list of parts of those.
        residual: float [B, L, D], or without training its rows; exported, a list of copies of those.
        training: Whether to drop.

    Returns:
        As `residual`.
    """

    def __init__(
        self,
        hidden_size,
        dropout_rate,
        initializer_range=0.02,
        layer_norm_epsilon=LAYER_NORM_EPSILON,
        widths=None,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.widths = widths
        initializer = initializers.truncated_normal(initializer_range)
        self.denses = [
            keras.layers.Dense(hidden_size, use_bias=i == 0, kernel_initializer=initializer, name=name)
            for i, name in enumerate(tensor_parts.names("dense", widths))
        ]
        self.dropout = dropout.Dropout(dropout_rate, name="dropout")
        self.LayerNorm = layer_norm(layer_norm_epsilon)

    def build(self, x_shape, residual_shape):
        """Builds the sublayers for x [B, L, any] and residual [B, L, D]."""
        for layer, width in zip(self.denses, self.widths or x_shape[-1:], strict=True):
            layer.build((*residual_shape[:-1], width))
        self.dropout.build(None)
        self.LayerNorm.build(residual_shape)

    def call(self, x, residual, training=False):
        """See the class."""
        if training:
            (layer,) = self.denses
            x = dense.dense(x, tf.convert_to_tensor(layer.kernel), tf.convert_to_tensor(layer.bias))
            gamma, beta = (tf.convert_to_tensor(v) for v in (self.LayerNorm.gamma, self.LayerNorm.beta))
            residual_norm = _residual_norm(self.dropout.rate, self.LayerNorm.epsilon)
            return residual_norm(x, residual, gamma, beta, self.dropout.words())
        parts, residuals = (x, residual) if self.widths else ([x], [residual])
        # Sums are float32 numbers too: adding in bfloat16 would round what the norm then magnifies.
        products = [tf.cast(dense.rows(part, layer), tf.float32) for part, layer in zip(parts, self.denses)]
        sums = [functools.reduce(tf.add, [products[0], tf.cast(x, tf.float32), *products[1:]]) for x in residuals]
        copies = [tf.cast(x, self.compute_dtype) for x in self.LayerNorm(sums)]
        return copies if self.widths else copies[0]


class Attention(keras.layers.Layer):
    """Self-attention, projected back and normed; `attention/{self,output}` of Google's checkpoints.

    Call args and result as of `TransformerBlock`, but that without training `hidden` may be rows [B L, D].
    """

    def __init__(
        self,
        hidden_size,
        num_attention_heads,
        hidden_dropout,
        attention_dropout,
        initializer_range,
        layer_norm_epsilon,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.self_attention = attention.SelfAttention(
            hidden_size, num_attention_heads, attention_dropout, initializer_range, name="self"
        )
        widths = self.self_attention.widths
        self.projection = ResidualOutput(
            hidden_size, hidden_dropout, initializer_range, layer_norm_epsilon, widths, name="output"
        )

    def build(self, hidden_shape, attention_bias_shape=None):
        """Builds the sublayers for [B, L, D]."""
        self.self_attention.build(hidden_shape)
        self.projection.build(hidden_shape, hidden_shape)

    def call(self, hidden, attention_bias, tokens=None, asked=None, training=False):
        """See the class."""
        context = self.self_attention(hidden, attention_bias, tokens, asked, training=training)
        if asked is not None:
            which, _ = asked
            copies = [tf.gather(x, which) for x in (hidden if isinstance(hidden, list) else [hidden])]
            hidden = copies if isinstance(hidden, list) else copies[0]
        return self.projection(context, hidden, training=training)


class Intermediate(keras.layers.Layer):
    """activation(dense(x)), [B, L, D] -> [B, L, I], or rows -> rows: Vaswani et al. 2017, section 3.3, first half.

    Exported, it gives a list of the rows of parts of I (see `tensor_parts`), as wide as `widths`.
    """

    def __init__(self, intermediate_size, activation, initializer_range, **kwargs):
        super().__init__(**kwargs)
        self.widths = exported.intermediate_sizes(intermediate_size)
        initializer = initializers.truncated_normal(initializer_range)
        self.denses = [
            keras.layers.Dense(width, kernel_initializer=initializer, name=name)
            for name, width in zip(tensor_parts.names("dense", self.widths), self.widths or [intermediate_size])
        ]
        self.activation_name, self.activation = activation, activations.BY_NAME[activation]

    def build(self, shape):
        """Builds the dense layers for [B, L, D]."""
        for layer in self.denses:
            layer.build(shape)

    def call(self, x, training=False):
        """See the class."""
        if not training:
            copies = x if self.widths else [x]
            parts = [self.activation(dense.rows(rows, layer)) for rows, layer in zip(copies, self.denses)]
            return parts if self.widths else parts[0]
        (layer,) = self.denses
        x = dense.dense(x, tf.convert_to_tensor(layer.kernel), tf.convert_to_tensor(layer.bias))
        return activations.compiled_by_name(self.activation_name)(x)


class TransformerBlock(keras.layers.Layer):
    """Attention and a feed-forward network, each with its residual and its norm.

    Args:
        hidden_size: D, a multiple of `num_attention_heads`.
        num_attention_heads: N.
        intermediate_size: I.
        activation: Name of the feed-forward activation, as in `bert_config.json`.
        hidden_dropout: Rate in [0, 1] before both residual sums.
        attention_dropout: Rate in [0, 1] of attention probabilities.
        initializer_range: Deviation of the kernels' initialiser.
        layer_norm_epsilon: What both norms add to the variance.
        rematerialize: Whether training keeps nothing but the block's input for the backward pass, and computes the
            block once more there (Chen et al. 2016, section 3): about a third more time for less memory.

    Call args:
        hidden: float [B, L, D]; without padding, states of tokens [T, D]; exported, a list of copies of those (see
            `tensor_parts`).
        attention_bias: float [B, 1, 1 or L, L], added to the scores.
        tokens: Without padding, what `padding_free.Tokens` gives.
        asked: What `padding_free.Asked` gives, for a last layer; None for all tokens.
        training: Whether to drop.

    Returns:
        As `hidden`; of tokens that were asked for, [B F, D].

    Raises:
        InputError: `hidden_size` is not a multiple of `num_attention_heads`.
    """

    def __init__(
        self,
        hidden_size,
        num_attention_heads,
        intermediate_size,
        activation="gelu",
        hidden_dropout=0.0,
        attention_dropout=0.0,
        initializer_range=0.02,
        layer_norm_epsilon=LAYER_NORM_EPSILON,
        rematerialize=False,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.intermediate_size = intermediate_size
        self.rematerialize = rematerialize
        self.attention = Attention(
            hidden_size,
            num_attention_heads,
            hidden_dropout,
            attention_dropout,
            initializer_range,
            layer_norm_epsilon,
            name="attention",
        )
        self.intermediate = Intermediate(intermediate_size, activation, initializer_range, name="intermediate")
        self.projection = ResidualOutput(
            hidden_size, hidden_dropout, initializer_range, layer_norm_epsilon, self.intermediate.widths, name="output"
        )

    def build(self, hidden_shape, attention_bias_shape=None):
        """Builds the sublayers for [B, L, D], or a list of copies."""
        hidden_shape = hidden_shape[0] if isinstance(hidden_shape, list) else hidden_shape
        self.attention.build(hidden_shape)
        self.intermediate.build(hidden_shape)
        self.projection.build((*hidden_shape[:-1], self.intermediate_size), hidden_shape)

    def call(self, hidden, attention_bias, tokens=None, asked=None, training=False):
        """See the class."""
        if training and self.rematerialize:
            return self._rematerialized(hidden, attention_bias)
        return self._compute(hidden, attention_bias, training, tokens, asked)

    def _compute(self, hidden, attention_bias, training, tokens=None, asked=None):
        # Without training, everything is done in rows: a reshape between a product, its bias, activation and residual
        # would keep TensorFlow's optimizer of graphs from making one operation of them.
        as_it_is = training or tokens is not None
        x = hidden if as_it_is else tf.reshape(hidden, [-1, hidden.shape[-1]])  # [B L, D]
        x = self.attention(x, attention_bias, tokens, asked, training=training)
        wide = self.intermediate(x, training=training)  # [B L, I]
        x = self.projection(wide, x, training=training)  # [B L, D]
        return x if as_it_is else tf.reshape(x, tf.shape(hidden))  # [B, L, D]

    def _rematerialized(self, hidden, attention_bias):
        """`_compute` in training; the same masks of dropout are drawn when it is done again."""
        seed = dropout.current_seed()

        def compute(hidden, *values):
            with keras.StatelessScope(list(zip(self.trainable_variables, values))), dropout.seeded(seed):
                return self._compute(hidden, attention_bias, training=True)

        @tf.custom_gradient
        def run(*arguments):
            def gradient(upstream):
                # TensorFlow would find the second pass equal to the first and keep the first one's results, if the
                # second did not begin after the gradient has come.
                with tf.control_dependencies([upstream]):
                    inputs = [tf.identity(x) for x in arguments]
                with tf.GradientTape() as tape:
                    tape.watch(inputs)
                    y = compute(*inputs)
                return tape.gradient(y, inputs, upstream)

            return compute(*arguments), gradient

        with tf.name_scope("rematerialized"):
            return run(hidden, *(v.value for v in self.trainable_variables))
