"""Heads on the encoder, and the models that they make: Devlin et al. 2019, section 3.1."""

import keras
import tensorflow as tf

from tfbert import checks, largest
from tfbert.config import EncoderConfig
from tfbert.encoder import build_encoder
from tfbert.layers import (
    activations,
    chunks,
    dense,
    dropout,
    exported,
    initializers,
    packs,
    tensor_parts,
    transformer,
)

DECODER = "decoder"  # layers of the output matrix of a masked language model that is exported: decoder_0, ...


class Transform(keras.layers.Layer):
    """LayerNorm(activation(dense(x))), [..., D] -> [..., E]; `cls/predictions/transform`."""

    def __init__(self, width, activation, initializer_range, layer_norm_epsilon, **kwargs):
        super().__init__(**kwargs)
        self.dense = keras.layers.Dense(
            width, kernel_initializer=initializers.truncated_normal(initializer_range), name="dense"
        )
        self.activation = activations.BY_NAME[activation]
        self.LayerNorm = transformer.layer_norm(layer_norm_epsilon)
        self._in_rows = exported.is_building()

    def build(self, shape):
        """Builds the sublayers for [..., D]."""
        self.dense.build(shape)
        self.LayerNorm.build((*shape[:-1], self.dense.units))

    def call(self, x):
        """See the class."""
        x = dense.rows(x, self.dense) if self._in_rows else self.dense(x)
        return tf.cast(self.LayerNorm(self.activation(x)), self.compute_dtype)


class MaskedLanguageModel(keras.layers.Layer):
    """Scores every wordpiece at each masked position (task 1).

    The states of the masked positions are gathered first: the vocabulary is the widest axis of the
    model, and about six positions in seven need no scores. The output matrix is the word embedding
    table (Press & Wolf 2017) unless they are not tied; only its bias is the head's own then. A head that is exported
    (see `tfbert.layers.exported`) has the matrix turned round, [E, V], in as many parts as the layers have: the layers
    `decoders`. One mask is the most common request, and a product of one row with it reads memory two to four times as
    fast as with a table of rows. After the vocabulary's it has columns whose scores are -infinity, up to a whole block
    of `tfbert.largest`.

    Args:
        vocab_size: V.
        width: E, of the embeddings.
        activation: Name of the transform's activation.
        initializer_range: Deviation of the initialiser of what is the head's own.
        layer_norm_epsilon: What the transform's norm adds to the variance.
        tied: Whether the output matrix is the word embedding table.

    Call args:
        sequence_output: float [B, L, D].
        masked_lm_positions: int32 [B, P]; None if the states are those of the masked positions, [B, P, D].
        word_table: float [V, E], the word embeddings, if the output matrix is tied to them.

    Returns:
        float32 [B, P, V]; in training in the dtype of its policy.
    """

    def __init__(
        self,
        vocab_size,
        width,
        activation="gelu",
        initializer_range=0.02,
        layer_norm_epsilon=transformer.LAYER_NORM_EPSILON,
        tied=True,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.vocab_size, self.width, self.initializer_range = vocab_size, width, initializer_range
        self.transform = Transform(self.width, activation, initializer_range, layer_norm_epsilon, name="transform")
        widths = exported.vocabulary_sizes(vocab_size, largest.BLOCK) or []
        self.decoders = [keras.layers.Dense(n, name=f"{DECODER}_{i}") for i, n in enumerate(widths)]
        self.tied = tied and not self.decoders

    def build(self, sequence_output_shape, masked_lm_positions_shape=None, word_table_shape=None):
        """Builds the transform for [B, P, D], and makes the bias and, if it is not tied, the matrix."""
        self.transform.build((None, None, sequence_output_shape[-1]))
        for decoder in self.decoders:
            decoder.build((None, self.width))
        if self.decoders:
            return
        self.output_bias = self.add_weight(
            name="output_bias", shape=(self.vocab_size,), initializer="zeros", autocast=False
        )
        if not self.tied:
            self.output_weights = self.add_weight(
                name="output_weights",
                shape=(self.vocab_size, self.width),
                initializer=initializers.truncated_normal(self.initializer_range),
                autocast=False,
            )

    def call(self, sequence_output, masked_lm_positions=None, word_table=None, training=False):
        """See the class."""
        states = sequence_output
        if masked_lm_positions is not None:
            states = tf.gather(states, masked_lm_positions, batch_dims=1)  # [B, P, D]
        return self.score(states, word_table, training)

    def score(self, states, word_table=None, training=False):
        """The scores of states, float [..., D] -> [..., V]; the other arguments as of the call."""
        states = self.transform(states)  # [..., E]
        if self.decoders:
            # A plain sum: `tf.nn.bias_add` becomes one operation with the product too, but where it is the last one
            # TensorFlow's optimizer of graphs then knows no shapes, and leaves the scores of attention in three.
            pairs = [(tf.convert_to_tensor(d.kernel), tf.convert_to_tensor(d.bias)) for d in self.decoders]
            return tf.cast(tensor_parts.joined([states @ kernel + bias for kernel, bias in pairs], -1), tf.float32)
        table = tf.cast(word_table if self.tied else self.output_weights, self.compute_dtype)  # [V, E]
        if training:
            # The widest tensor of all is not written down twice: the loss casts what it reads.
            return dense.scores(states, table, tf.cast(self.output_bias, self.compute_dtype))
        logits = tf.matmul(states, table, transpose_b=True)
        return tf.cast(logits, tf.float32) + self.output_bias


class Classes(keras.layers.Layer):
    """Scores classes of whole sequences: [..., D] -> float32 [..., C].

    The matrix is stored [C, D], as Google's code stores it.

    Args:
        num_classes: C. Next sentence prediction (task 2) has two: 0 is "is next" and 1 is "random".
        initializer_range: Deviation of the matrix's initialiser.
    """

    def __init__(self, num_classes, initializer_range=0.02, **kwargs):
        super().__init__(**kwargs)
        self.num_classes, self.initializer_range = num_classes, initializer_range

    def build(self, shape):
        """Makes the weights for [..., D]."""
        self.output_weights = self.add_weight(
            name="output_weights",
            shape=(self.num_classes, shape[-1]),
            initializer=initializers.truncated_normal(self.initializer_range),
            autocast=False,
        )
        self.output_bias = self.add_weight(
            name="output_bias", shape=(self.num_classes,), initializer="zeros", autocast=False
        )

    def call(self, pooled_output):
        """See the class."""
        pooled_output = tf.cast(pooled_output, tf.float32)
        return tf.matmul(pooled_output, self.output_weights, transpose_b=True) + self.output_bias  # [..., C]


def freeze_next_sentence(model: keras.Model) -> None:
    """Takes what only next sentence prediction trains out of `trainable_variables` of a pre-trainer.

    Without that task (Liu et al. 2019, section 4.2) they would have no gradient, and weight decay would shrink them.
    """
    for name in ("pooler", "seq_relationship"):
        model.get_layer(name).trainable = False


def build_pretrainer(config: EncoderConfig, packed: bool = False, rematerialize: bool = False) -> keras.Model:
    """Builds the encoder with both heads of pre-training.

    Args:
        config: The encoder's sizes and rates.
        packed: Whether a row holds several examples: see `encoder.build_encoder`. "next_sentence_logits" are
            [B, M, 2] then.
        rematerialize: Likewise.

    Returns:
        A model from the encoder's inputs and "masked_lm_positions" int32 [B, P] to
        {"masked_lm_logits": float32 [B, P, V], "next_sentence_logits": float32 [B, 2]} and the
        encoder's outputs; where the last layer can be asked for some places, "asked_output" [B, P, D] are the states
        of those. A tied table is one variable, `bert/embeddings/word_embeddings`; the other matrix of one that is not
        tied is `cls/predictions/output_weights`.
    """
    positions = keras.Input((None,), dtype="int32", name="masked_lm_positions")
    asked = exported.takes_tokens()
    encoder = build_encoder(config, packed, rematerialize, asked_places=positions if asked else None)
    outputs = dict(encoder.output)
    _, word_table = encoder.get_layer("embeddings").output
    with keras.name_scope("cls"):
        outputs["masked_lm_logits"] = MaskedLanguageModel(
            config.vocab_size,
            config.embedding_size or config.hidden_size,
            config.hidden_act,
            config.initializer_range,
            config.layer_norm_eps,
            config.tie_word_embeddings,
            name="predictions",
        )(
            outputs["asked_output" if asked else "sequence_output"],
            None if asked else positions,
            word_table if config.tie_word_embeddings else None,
        )
        outputs["next_sentence_logits"] = Classes(2, config.initializer_range, name="seq_relationship")(
            outputs["pooled_output"]
        )
    return keras.Model({**encoder.input, "masked_lm_positions": positions}, outputs, name="pretrainer")


POOLINGS = ("pooled", "cls", "mean")


class Pooling(keras.layers.Layer):
    """One vector of a row's states: float [B, L, D] and mask int32 [B, L] -> [B, D].

    Args:
        how: "cls" takes the state of [CLS], "mean" the mean of all wordpieces that are no padding.
    """

    def __init__(self, how, **kwargs):
        super().__init__(**kwargs)
        self.how = how

    def call(self, sequence_output, input_mask):
        """See the class."""
        if self.how == "cls":
            return sequence_output[:, 0]
        weights = tf.expand_dims(tf.cast(input_mask > 0, tf.float32), -1)  # [B, L, 1]
        # In float32: a sum of hundreds of terms has no place in bfloat16.
        total = tf.reduce_sum(tf.cast(sequence_output, tf.float32) * weights, 1)  # [B, D]
        # A row that only fills up a batch has no wordpiece at all.
        return tf.cast(total / tf.maximum(tf.reduce_sum(weights, 1), 1.0), sequence_output.dtype)


def build_classifier(
    config: EncoderConfig,
    num_labels: int,
    rematerialize: bool = False,
    pooling: str = "pooled",
    layer_dropout: float | None = None,
    chunk_length: int | None = None,
    chunk_pooling: str = "mean",
    unpacks: bool = False,
) -> keras.Model:
    """Builds the encoder with a classifier of texts or pairs of texts: Devlin et al. 2019, section 4.1.

    Args:
        config: The encoder's sizes and rates; the pooled output is dropped at `hidden_dropout_prob`.
        num_labels: C; 1 for a regression.
        rematerialize: Whether training saves memory for time: see `encoder.build_encoder`.
        pooling: What is classified: the "pooled" output, as published; or, of the states, that of [CLS] ("cls") or
            their "mean". Then the pooler is there and not trained, since it has no part in the logits.
        layer_dropout: Makes the states a mix of all layers: see `encoder.build_encoder`.
        chunk_length: Rows are chunks of this length, [B, n chunk_length]: see `layers.chunks`.
        chunk_pooling: With chunk_length, one of `chunks.POOLINGS`: how the chunks of a row become one; their own
            vectors are what `pooling` says.
        unpacks: Whether rows are packed for the encoder: see `encoder.build_encoder`. Not with chunk_length.

    Returns:
        A model from the encoder's inputs to {"logits": float32 [B, C]} and the encoder's outputs. The head's
        variables are `classifier/output_weights` [C, D] and `classifier/output_bias` [C], and those of attention over
        chunks `chunks/hidden/...` and `chunks/score/kernel`.

    Raises:
        InputError: there is no label, or no such pooling.
    """
    checks.require(num_labels >= 1, "num_labels must be at least 1", f"num_labels={num_labels}")
    checks.require(pooling in POOLINGS, f"pooling must be one of {', '.join(POOLINGS)}", f"pooling={pooling!r}")
    known = chunks.POOLINGS
    checks.require(
        not chunk_length or chunk_pooling in known,
        f"chunk_pooling must be one of {', '.join(known)}",
        f"chunk_pooling={chunk_pooling!r}",
    )
    checks.require(not (unpacks and chunk_length), "chunks of texts are not packed", f"chunk_length={chunk_length}")
    encoder = build_encoder(
        config,
        rematerialize=rematerialize,
        layer_dropout=layer_dropout,
        chunk_length=chunk_length,
        unpacks=unpacks,
        pools_asked=True,
    )
    outputs, input_mask = dict(encoder.output), encoder.input[packs.ROW_PLACES if unpacks else "input_mask"]
    pooled = outputs["pooled_output"]
    if pooling != "pooled":
        encoder.get_layer("pooler").trainable = False
        mask = encoder.get_layer("chunks_of_input_mask").output if chunk_length else input_mask
        pooled = Pooling(pooling, name="pooling")(outputs["sequence_output"], mask)
    if chunk_length:
        pooled = chunks.ChunkPooling(chunk_length, chunk_pooling, config.initializer_range, name="chunks")(
            pooled, input_mask
        )
    pooled = dropout.Dropout(config.hidden_dropout_prob, name="classifier_dropout")(pooled)
    outputs["logits"] = Classes(num_labels, config.initializer_range, name="classifier")(pooled)
    return keras.Model(encoder.input, outputs, name="classifier_model")


def build_tagger(
    config: EncoderConfig,
    num_labels: int,
    rematerialize: bool = False,
    layer_dropout: float | None = None,
    unpacks: bool = False,
) -> keras.Model:
    """Builds the encoder with a classifier of each wordpiece: Devlin et al. 2019, section 5.3.

    Args:
        config: The encoder's sizes and rates; the states are dropped at `hidden_dropout_prob`.
        num_labels: C.
        rematerialize: See `encoder.build_encoder`.
        layer_dropout: Likewise.
        unpacks: Likewise.

    Returns:
        A model from the encoder's inputs to {"logits": float32 [B, L, C], "sequence_output": [B, L, D]}. The head's
        variables are `tokens/output_weights` [C, D] and `tokens/output_bias` [C]; there is no pooler, which would
        learn nothing.

    Raises:
        InputError: there is no label.
    """
    checks.require(num_labels >= 1, "num_labels must be at least 1", f"num_labels={num_labels}")
    encoder = build_encoder(config, rematerialize=rematerialize, layer_dropout=layer_dropout, unpacks=unpacks)
    states = encoder.output["sequence_output"]
    dropped = dropout.Dropout(config.hidden_dropout_prob, name="tokens_dropout")(states)
    logits = Classes(num_labels, config.initializer_range, name="tokens")(dropped)
    return keras.Model(encoder.input, {"logits": logits, "sequence_output": states}, name="tagger")


def build_span_finder(
    config: EncoderConfig, rematerialize: bool = False, layer_dropout: float | None = None, unpacks: bool = False
) -> keras.Model:
    """Builds the encoder with two scores of each wordpiece, to begin and to end an answer: ibid., section 4.2.

    Args:
        config: The encoder's sizes and rates.
        rematerialize: See `encoder.build_encoder`.
        layer_dropout: Likewise.
        unpacks: Likewise.

    Returns:
        A model from the encoder's inputs to {"logits": float32 [B, L, 2], "sequence_output": [B, L, D]}; the
        first score is that of a beginning. The head's variables are `cls/squad/output_weights` [2, D] and
        `cls/squad/output_bias` [2]; there is no pooler, which would learn nothing.
    """
    encoder = build_encoder(config, rematerialize=rematerialize, layer_dropout=layer_dropout, unpacks=unpacks)
    states = encoder.output["sequence_output"]
    with keras.name_scope("cls"):
        logits = Classes(2, config.initializer_range, name="squad")(states)
    return keras.Model(encoder.input, {"logits": logits, "sequence_output": states}, name="span_finder")
