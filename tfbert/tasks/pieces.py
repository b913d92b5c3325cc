"""Wordpieces of many texts, in memory: the one in-graph tokenizer, run over batches of texts."""

from typing import NamedTuple

import numpy as np
import tensorflow as tf

_TEXTS_AT_ONCE = 1024


class Pieces(NamedTuple):
    """Wordpieces of N texts, T in all.

    Attributes:
        splits: int64 [N + 1], where each text begins among the pieces.
        ids: int32 [T].
        word_starts: bool [T], whether the piece begins a word.
        starts: int32 [T], the byte of its text (UTF-8) at which the piece begins.
        ends: int32 [T], the byte at which it ends (exclusive).
    """

    splits: np.ndarray
    ids: np.ndarray
    word_starts: np.ndarray
    starts: np.ndarray
    ends: np.ndarray


def batches(texts):
    """Slices of a list of texts (str), each as string tensor [up to 1024]; bytes of a command line that are not UTF-8
    (surrogates in a str) are what they were."""
    for first in range(0, len(texts), _TEXTS_AT_ONCE):
        yield tf.constant(
            [t.encode("utf-8", "surrogateescape") for t in texts[first : first + _TEXTS_AT_ONCE]], tf.string
        )


def tokenize(tokenizer, texts):
    """The `Pieces` of texts.

    Args:
        tokenizer: A `tfbert.text.tokenizer.Tokenizer`.
        texts: List of str; what spells a special token is ordinary text.
    """
    splits, columns = [np.zeros(1, np.int64)], ([], [], [], [])
    for batch in batches(texts):
        tokens = tokenizer.tokenize_with_offsets(batch)
        splits.append(tokens.ids.row_splits.numpy()[1:] + splits[-1][-1])
        for column, ragged in zip(columns, tokens):
            column.append(ragged.flat_values.numpy())
    dtypes = (np.int32, np.bool_, np.int32, np.int32)
    return Pieces(np.concatenate(splits), *(np.concatenate([np.zeros(0, t), *c]) for t, c in zip(dtypes, columns)))
