"""Initial weights with which each head looks at one neighbour: at the word before, the one after, two before, ...

BERT's random tables give each position a vector that has nothing to do with those beside it, so "the word before" has
to be learned for every position by itself; a small model sits at guessing by frequency until it has. Here positions
begin as waves (Vaswani et al. 2017, section 3.5, with other frequencies), among which "k further on" is one rotation
for all positions, and queries ask through that rotation for what keys say. Initial weights that imitate what is learned
anyhow are the idea of Trockman and Kolter 2023 (https://arxiv.org/abs/2305.09828). All of it is then trained as ever,
and the model is a BERT like any other.
"""

import numpy as np

from tfbert import checks

SCORE = 4.5  # of the position that is looked at, in the first layer; the others' are about 0
# Share of a normed embedding's square that is the position's: its rms is 1 where the truncated normals of word and
# segment have 0.88.
POSITION_SHARE = 1 / (1 + 2 * 0.88**2)

_SEED = 0  # of what is drawn here: the same for all runs


def frequencies(count):
    """float64 [count], rising, one drawn from each of `count` equal parts of (0, pi).

    Evenly spaced ones would give the same vector to positions that are 4 `count` apart.
    """
    return np.pi * (np.arange(count) + np.random.default_rng(_SEED).random(count)) / count


def waves(positions, width):
    """float64 [positions, width]: sines of each frequency, then cosines; the mean square of a row is 1."""
    angles = np.arange(positions)[:, None] * frequencies(width // 2)
    return np.sqrt(2) * np.concatenate([np.sin(angles), np.cos(angles)], 1)


def rotation(width, offset):
    """float64 [width, width]: `waves(n, width)[i] @ rotation` is `waves(n, width)[i + offset]`."""
    turn = offset * frequencies(width // 2)
    sin, cos = np.diag(np.sin(turn)), np.diag(np.cos(turn))
    return np.block([[cos, -sin], [sin, cos]])


def offset_of(layer, head, heads):
    """What a head looks at: -1, 1, -2, 2, ... counted through the heads of a layer, and on in the next layer."""
    number = layer * heads + head
    return (number // 2 + 1) * (1 if number % 2 else -1)


def kernels(width, heads, layer):
    """(query, key) float64 [width, width]: what is added to a layer's kernels.

    Each head reads frequencies of its own, dealt at random, and gives the position at its offset the score `SCORE`.
    """
    size = width // heads
    dealt = np.random.default_rng(_SEED).permutation(width // 2).reshape(heads, size // 2)
    query, key = np.zeros((2, width, width))
    scale = np.sqrt(SCORE / (POSITION_SHARE * np.sqrt(size)))
    for head in range(heads):
        read = np.concatenate([dealt[head], width // 2 + dealt[head]])  # sines and cosines
        own = np.zeros((width, size))
        own[read, np.arange(size)] = scale
        columns = slice(head * size, (head + 1) * size)
        query[:, columns], key[:, columns] = rotation(width, offset_of(layer, head, heads)) @ own, own
    return query, key


def look_at_neighbours(model, encoder):
    """Gives a fresh model waves for positions, and attention that looks at neighbours.

    Args:
        model: A built Keras model of `tfbert.heads`; the kernels of queries and keys are added to, the table of
            positions is replaced by waves of the deviation `initializer_range`.
        encoder: Its `EncoderConfig`.

    Raises:
        InputError: embeddings are not as wide as the encoder, or the width of a head is odd.
    """
    width, heads = encoder.hidden_size, encoder.num_attention_heads
    checks.require(
        encoder.embedding_size in (None, width),
        "attention_init=neighbours needs embeddings as wide as the encoder",
        f"embedding_size={encoder.embedding_size}, hidden_size={width}",
    )
    checks.require(
        width // heads % 2 == 0,
        "attention_init=neighbours needs heads of even width",
        f"hidden_size={width}, num_attention_heads={heads}",
    )
    variables = {v.path: v for v in model.variables}
    positions = variables["bert/embeddings/position_embeddings"]
    positions.assign(encoder.initializer_range * waves(*positions.shape))
    for layer in range(encoder.num_hidden_layers):
        for name, added in zip(("query", "key"), kernels(width, heads, layer)):
            kernel = variables[f"bert/encoder/layer_{layer}/attention/self/{name}/kernel"]
            kernel.assign_add(added)
