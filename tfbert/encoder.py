"""BERT's encoder as a functional Keras model: Devlin et al. 2019, section 3."""

import functools

import keras

from tfbert.config import EncoderConfig
from tfbert.layers import (
    attention_masks,
    chunks,
    embeddings,
    exported,
    initializers,
    layer_mix,
    packs,
    padding_free,
    pooler,
    tensor_parts,
    transformer,
)

PACKED_INPUTS = ("position_ids", "next_sentence_positions")


def build_encoder(
    config: EncoderConfig,
    packed: bool = False,
    rematerialize: bool = False,
    layer_dropout: float | None = None,
    chunk_length: int | None = None,
    unpacks: bool = False,
    asked_places=None,
    pools_asked: bool = False,
) -> keras.Model:
    """Builds the encoder.

    The scopes and layer names are those of google-research/bert, so `variable.path` of each variable is
    its name in Google's checkpoints (`bert/encoder/layer_0/attention/self/query/kernel`).

    Args:
        config: Its sizes and rates.
        packed: Whether a row holds several examples; variables are the same either way. There are two more
            inputs then, "position_ids" [B, L] and "next_sentence_positions" [B, M] where the [CLS] of each
            example lies; "input_mask" numbers the examples, and "pooled_output" is [B, M, D].
        rematerialize: Whether training saves memory for time: see `layers.transformer.TransformerBlock`.
        layer_dropout: Mixes what all layers give, embeddings included, into "sequence_output", and leaves layers out
            of the mix at this rate in training: see `layers.layer_mix`. None: it is what the last layer gives.
        chunk_length: Takes rows of chunks [B, n chunk_length], and gives the outputs of all chunks, [B n, ...]: see
            `layers.chunks`. The input mask of chunks is what the layer "chunks_of_input_mask" gives then.
        unpacks: Whether rows are packed for the encoder alone: the outputs are those of rows, [B, ...], and the inputs
            those of packs, [N, P], with `packs.INPUTS` beside them: see `layers.packs`.
        asked_places: A `keras.Input` int32 [B, F], which becomes one of the model's: "asked_output" [B, F, D] is what
            the last layer gives at these places of tokens. It costs less than "sequence_output" where that is not
            needed. For models that take tokens alone: see `exported.takes_tokens`.
        pools_asked: Whether "pooled_output" is made likewise, of [CLS] alone, by models that take tokens alone.

    Returns:
        A model from {"input_ids", "input_mask", "segment_ids"}, int32 [B, L] each with any L up to
        `max_position_embeddings`, to {"sequence_output": [B, L, D], "pooled_output": [B, D]}. Its layer
        "embeddings" gives the table that the masked language model is tied to as its second output.
    """
    names = ("input_ids", "input_mask", "segment_ids", *(PACKED_INPUTS if packed else packs.INPUTS if unpacks else ()))
    inputs = {name: keras.Input((None,), dtype="int32", name=name) for name in names}
    position_ids, pooled_positions = (inputs.get(name) for name in PACKED_INPUTS)
    features = inputs
    if chunk_length:
        features = {n: chunks.ToChunks(chunk_length, name=f"chunks_of_{n}")(x) for n, x in inputs.items()}
    width = config.embedding_size or config.hidden_size
    pattern = attention_masks.packed if packed or unpacks else attention_masks.padding
    tokens, in_rows = None, lambda x, _: x
    if exported.takes_tokens():
        tokens = padding_free.Tokens(name="tokens_of_rows")(features["input_mask"])
        in_rows = padding_free.InRows(name="in_rows")
    with keras.name_scope("bert"):
        hidden, _ = embeddings.Embeddings(
            config.vocab_size,
            width,
            config.max_position_embeddings,
            config.type_vocab_size,
            config.hidden_dropout_prob,
            config.initializer_range,
            config.layer_norm_eps,
            name="embeddings",
        )(features["input_ids"], features["segment_ids"], position_ids, tokens)
        attention_bias = attention_masks.AttentionBias(pattern, name="attention_bias")(features["input_mask"])
        with keras.name_scope("encoder"):
            if width != config.hidden_size:
                # Lan et al. 2019, section 3.1, under the name that it has there.
                hidden = keras.layers.Dense(
                    config.hidden_size,
                    kernel_initializer=initializers.truncated_normal(config.initializer_range),
                    name="embedding_hidden_mapping_in",
                )(hidden)  # [B, L, D], or of tokens [T, D]
            states = [in_rows(hidden, tokens)]
            if exported.is_building():
                hidden = tensor_parts.Copies(exported.parts(), name="copies")(hidden)
            for i in range(config.num_hidden_layers):
                before, block = (
                    hidden,
                    transformer.TransformerBlock(
                        config.hidden_size,
                        config.num_attention_heads,
                        config.intermediate_size,
                        config.hidden_act,
                        config.hidden_dropout_prob,
                        config.attention_probs_dropout_prob,
                        config.initializer_range,
                        config.layer_norm_eps,
                        rematerialize,
                        name=f"layer_{i}",
                    ),
                )
                hidden = block(hidden, attention_bias, tokens)
                # Those that nothing takes are no part of the model.
                states.append(in_rows(hidden, tokens))
    hidden = states[-1]
    if layer_dropout is not None:
        hidden = layer_mix.LayerMix(layer_dropout, name="mix")(states)
    if unpacks:
        hidden = packs.Rows(name="rows")(hidden, inputs[packs.ROW_PLACES])
    outputs = {"sequence_output": hidden}
    states_at = functools.partial(_states_at, block, before, attention_bias, tokens)
    if asked_places is not None:
        inputs[asked_places.name] = asked_places
        outputs["asked_output"] = states_at(asked_places, "asked_tokens")
    if pools_asked and tokens is not None and layer_dropout is None and not unpacks:
        hidden = states_at(None, "first_tokens")
    with keras.name_scope("bert"):
        pooled = pooler.Pooler(config.hidden_size, config.initializer_range, name="pooler")(hidden, pooled_positions)
    return keras.Model(inputs, {**outputs, "pooled_output": pooled}, name="bert")


def _states_at(block, hidden, attention_bias, tokens, places, name):
    """What the last layer gives at places of rows, [B, F, D]: see `padding_free.Asked`."""
    asked = padding_free.Asked(name=name)(tokens, places)
    return padding_free.OfAsked(name=f"states_of_{name}")(block(hidden, attention_bias, tokens, asked), asked)


def layer_outputs(model: keras.Model) -> list:
    """What each transformer layer gives, from the first to the last.

    Args:
        model: Of `build_encoder` or of `tfbert.heads`; nothing in it changes.

    Returns:
        A list of symbolic tensors [B, L, D], for `keras.Model(model.input, ...)`; the last is "sequence_output", if
        layers are not mixed.
    """
    names = {layer.name for layer in model.layers}
    found = []
    while (name := f"layer_{len(found)}") in names:
        found.append(model.get_layer(name).output)
    return found
