"""A tiny model and batch for tests: no two sizes alike, so that a swapped axis cannot pass."""

import numpy as np

from tfbert.config import EncoderConfig

B, L, P = 4, 11, 6  # batch, length, predictions a sequence
N, H, V = 3, 5, 97  # heads, size per head, vocabulary
D, I = N * H, 17  # noqa: E741
MAX_L, SEGMENTS, LAYERS = 23, 2, 2


def config(**overrides):
    """An `EncoderConfig` of the sizes above, without dropout unless asked for."""
    sizes = {
        "vocab_size": V,
        "hidden_size": D,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": N,
        "intermediate_size": I,
        "hidden_dropout_prob": 0.0,
        "attention_probs_dropout_prob": 0.0,
        "max_position_embeddings": MAX_L,
        "type_vocab_size": SEGMENTS,
    }
    return EncoderConfig(**{**sizes, **overrides})


def randomize(model, seed=0, scale=0.3):
    """Gives every variable random numbers, biases and norms too, and returns the model.

    Fresh weights would hide faults: biases are zeros, gammas ones, and all scores nearly alike.
    """
    rng = np.random.default_rng(seed)
    for v in model.variables:
        v.assign(rng.normal(1.0 if v.path.endswith("gamma") else 0.0, scale, v.shape))
    return model


def weights(model):
    """{path: float64 array} of a model's variables, as `tests.reference` takes them."""
    return {v.path: np.asarray(v, np.float64) for v in model.variables}


def features(seed=0, batch=B, length=L, predictions=P, vocab_size=V):
    """Random pre-training features; rows differ in length and in their number of masked positions."""
    rng = np.random.default_rng(seed)
    lengths = rng.integers(predictions + 1, length + 1, batch)
    lengths[0] = length
    masked = np.linspace(predictions, 1, batch).round()
    mask = np.arange(length) < lengths[:, None]
    slots = np.arange(predictions) < masked[:, None]
    positions = np.stack([np.sort(rng.permutation(np.arange(1, n))[:predictions]) for n in lengths])
    boundary = rng.integers(1, lengths)
    return {
        "input_ids": np.where(mask, rng.integers(1, vocab_size, (batch, length)), 0).astype(np.int32),
        "input_mask": mask.astype(np.int32),
        "segment_ids": (mask & (np.arange(length) > boundary[:, None])).astype(np.int32),
        "masked_lm_positions": np.where(slots, positions, 0).astype(np.int32),
        "masked_lm_ids": np.where(slots, rng.integers(1, vocab_size, (batch, predictions)), 0).astype(np.int32),
        "masked_lm_weights": slots.astype(np.float32),
        "next_sentence_labels": rng.integers(0, 2, (batch, 1)).astype(np.int32),
    }


def inputs(features):
    """The part of the features that the model takes."""
    return {k: features[k] for k in ("input_ids", "input_mask", "segment_ids", "masked_lm_positions")}
