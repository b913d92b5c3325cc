"""Heads on the encoder, and the models that they make: Devlin et al. 2019, section 3.1."""

import keras
import tensorflow as tf

from tfbert.config import EncoderConfig
from tfbert.encoder import build_encoder
from tfbert.layers import activations, initializers, transformer


class Transform(keras.layers.Layer):
    """LayerNorm(activation(dense(x))), [B, P, D] -> [B, P, D]; `cls/predictions/transform`."""

    def __init__(self, hidden_size, activation, initializer_range, **kwargs):
        super().__init__(**kwargs)
        self.dense = keras.layers.Dense(
            hidden_size, kernel_initializer=initializers.truncated_normal(initializer_range), name="dense"
        )
        self.activation = activations.BY_NAME[activation]
        self.LayerNorm = transformer.layer_norm()

    def build(self, shape):
        """Builds the sublayers for [B, P, D]."""
        self.dense.build(shape)
        self.LayerNorm.build(shape)

    def call(self, x):
        """See the class."""
        return tf.cast(self.LayerNorm(self.activation(self.dense(x))), self.compute_dtype)


class MaskedLanguageModel(keras.layers.Layer):
    """Scores every wordpiece at each masked position (task 1).

    The states of the masked positions are gathered first: the vocabulary is the widest axis of the
    model, and about six positions in seven need no scores. The output matrix is the word embedding
    table (Press & Wolf 2017); only its bias is the head's own.

    Args:
        embeddings: The encoder's `Embeddings` layer, which is built already.
        activation: Name of the transform's activation.
        initializer_range: Deviation of the transform's initialiser.

    Call args:
        sequence_output: float [B, L, D].
        masked_lm_positions: int32 [B, P].

    Returns:
        float32 [B, P, V].
    """

    def __init__(self, embeddings, activation="gelu", initializer_range=0.02, **kwargs):
        super().__init__(**kwargs)
        self.embeddings = embeddings
        vocab_size, hidden_size = embeddings.word_embeddings.shape
        self.vocab_size = vocab_size
        self.transform = Transform(hidden_size, activation, initializer_range, name="transform")

    def build(self, sequence_output_shape, masked_lm_positions_shape):
        """Builds the transform for [B, P, D] and makes the bias."""
        batch, predictions = masked_lm_positions_shape
        self.transform.build((batch, predictions, sequence_output_shape[-1]))
        self.output_bias = self.add_weight(
            name="output_bias", shape=(self.vocab_size,), initializer="zeros", autocast=False
        )

    def call(self, sequence_output, masked_lm_positions):
        """See the class."""
        states = tf.gather(sequence_output, masked_lm_positions, batch_dims=1)  # [B, P, D]
        states = self.transform(states)
        table = tf.cast(self.embeddings.word_embeddings, self.compute_dtype)  # [V, D]
        logits = tf.matmul(states, table, transpose_b=True)  # [B, P, V]
        return tf.cast(logits, tf.float32) + self.output_bias


class NextSentence(keras.layers.Layer):
    """Scores whether the second segment follows the first (task 2): [..., D] -> float32 [..., 2].

    Class 0 is "is next" and 1 is "random". The matrix is stored [2, D], as Google's code stores it.
    """

    def __init__(self, initializer_range=0.02, **kwargs):
        super().__init__(**kwargs)
        self.initializer_range = initializer_range

    def build(self, shape):
        """Makes the weights for [..., D]."""
        self.output_weights = self.add_weight(
            name="output_weights",
            shape=(2, shape[-1]),
            initializer=initializers.truncated_normal(self.initializer_range),
            autocast=False,
        )
        self.output_bias = self.add_weight(name="output_bias", shape=(2,), initializer="zeros", autocast=False)

    def call(self, pooled_output):
        """See the class."""
        pooled_output = tf.cast(pooled_output, tf.float32)
        return tf.matmul(pooled_output, self.output_weights, transpose_b=True) + self.output_bias  # [..., 2]


def freeze_next_sentence(model: keras.Model) -> None:
    """Takes what only next sentence prediction trains out of `trainable_variables` of a pre-trainer.

    Without that task (Liu et al. 2019, section 4.2) they would have no gradient, and weight decay would shrink them.
    """
    for name in ("pooler", "seq_relationship"):
        model.get_layer(name).trainable = False


def build_pretrainer(config: EncoderConfig, packed: bool = False) -> keras.Model:
    """Builds the encoder with both heads of pre-training.

    Args:
        config: The encoder's sizes and rates.
        packed: Whether a row holds several examples: see `encoder.build_encoder`. "next_sentence_logits" are
            [B, M, 2] then.

    Returns:
        A model from the encoder's inputs and "masked_lm_positions" int32 [B, P] to
        {"masked_lm_logits": float32 [B, P, V], "next_sentence_logits": float32 [B, 2]} and the
        encoder's outputs. The tied table is one variable: `bert/embeddings/word_embeddings`.
    """
    encoder = build_encoder(config, packed)
    positions = keras.Input((None,), dtype="int32", name="masked_lm_positions")
    outputs = dict(encoder.output)
    with keras.name_scope("cls"):
        outputs["masked_lm_logits"] = MaskedLanguageModel(
            encoder.get_layer("embeddings"), config.hidden_act, config.initializer_range, name="predictions"
        )(outputs["sequence_output"], positions)
        outputs["next_sentence_logits"] = NextSentence(config.initializer_range, name="seq_relationship")(
            outputs["pooled_output"]
        )
    return keras.Model({**encoder.input, "masked_lm_positions": positions}, outputs, name="pretrainer")
