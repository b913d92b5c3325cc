"""The transformer block with the norm after the residual: Vaswani et al. 2017, section 3.1."""

import keras
import tensorflow as tf

from tfbert.layers import activations, attention, dropout, initializers

# google-research/bert's; the paper gives none.
LAYER_NORM_EPSILON = 1e-12


def layer_norm(epsilon=LAYER_NORM_EPSILON):
    """Ba et al. 2016 over the last axis, in float32 whatever the policy."""
    return keras.layers.LayerNormalization(epsilon=epsilon, dtype="float32", name="LayerNorm")


class ResidualOutput(keras.layers.Layer):
    """LayerNorm(residual + dropout(dense(x))): how both halves of a block end.

    Args:
        hidden_size: D.
        dropout_rate: Rate in [0, 1] at which the projection is dropped.
        initializer_range: Deviation of the kernel's initialiser.
        layer_norm_epsilon: What the norm adds to the variance.

    Call args:
        x: float [B, L, any].
        residual: float [B, L, D].
        training: Whether to drop.

    Returns:
        float [B, L, D].
    """

    def __init__(
        self, hidden_size, dropout_rate, initializer_range=0.02, layer_norm_epsilon=LAYER_NORM_EPSILON, **kwargs
    ):
        super().__init__(**kwargs)
        self.dense = keras.layers.Dense(
            hidden_size, kernel_initializer=initializers.truncated_normal(initializer_range), name="dense"
        )
        self.dropout = dropout.Dropout(dropout_rate, name="dropout")
        self.LayerNorm = layer_norm(layer_norm_epsilon)

    def build(self, x_shape, residual_shape):
        """Builds the sublayers for x [B, L, any] and residual [B, L, D]."""
        self.dense.build(x_shape)
        self.dropout.build(None)
        self.LayerNorm.build(residual_shape)

    def call(self, x, residual, training=False):
        """See the class."""
        x = self.dropout(self.dense(x), training=training)
        # The sum is a float32 number too: adding in bfloat16 would round what the norm then magnifies.
        x = self.LayerNorm(tf.cast(x, tf.float32) + tf.cast(residual, tf.float32))
        return tf.cast(x, self.compute_dtype)


class Attention(keras.layers.Layer):
    """Self-attention, projected back and normed; `attention/{self,output}` of Google's checkpoints.

    Call args and result as of `TransformerBlock`.
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
        self.projection = ResidualOutput(
            hidden_size, hidden_dropout, initializer_range, layer_norm_epsilon, name="output"
        )

    def build(self, hidden_shape, attention_bias_shape=None):
        """Builds the sublayers for [B, L, D]."""
        self.self_attention.build(hidden_shape)
        self.projection.build(hidden_shape, hidden_shape)

    def call(self, hidden, attention_bias, training=False):
        """See the class."""
        context = self.self_attention(hidden, attention_bias, training=training)
        return self.projection(context, hidden, training=training)


class Intermediate(keras.layers.Layer):
    """activation(dense(x)), [B, L, D] -> [B, L, I]: Vaswani et al. 2017, section 3.3, first half."""

    def __init__(self, intermediate_size, activation, initializer_range, **kwargs):
        super().__init__(**kwargs)
        self.dense = keras.layers.Dense(
            intermediate_size, kernel_initializer=initializers.truncated_normal(initializer_range), name="dense"
        )
        self.activation = activations.BY_NAME[activation]

    def build(self, shape):
        """Builds the dense layer for [B, L, D]."""
        self.dense.build(shape)

    def call(self, x):
        """See the class."""
        return self.activation(self.dense(x))


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

    Call args:
        hidden: float [B, L, D].
        attention_bias: float [B, 1, 1 or L, L], added to the scores.
        training: Whether to drop.

    Returns:
        float [B, L, D].

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
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.intermediate_size = intermediate_size
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
            hidden_size, hidden_dropout, initializer_range, layer_norm_epsilon, name="output"
        )

    def build(self, hidden_shape, attention_bias_shape=None):
        """Builds the sublayers for [B, L, D]."""
        self.attention.build(hidden_shape)
        self.intermediate.build(hidden_shape)
        self.projection.build((*hidden_shape[:-1], self.intermediate_size), hidden_shape)

    def call(self, hidden, attention_bias, training=False):
        """See the class."""
        hidden = self.attention(hidden, attention_bias, training=training)  # [B, L, D]
        wide = self.intermediate(hidden)  # [B, L, I]
        return self.projection(wide, hidden, training=training)  # [B, L, D]
