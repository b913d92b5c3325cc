"""Tokenized documents as a few arrays: what lies between reading text and making instances."""

import hashlib
import itertools
from typing import NamedTuple

import numpy as np


class Block(NamedTuple):
    """D documents of S sentences and T tokens; a sentence is a range of tokens, a document one of sentences."""

    tokens: np.ndarray  # uint16 or int32 [T], of all documents on end
    word_starts: np.ndarray  # bool [T]; [0] if the vocabulary's ## pieces tell
    sentence_lengths: np.ndarray  # int64 [S] tokens of each sentence, none 0
    document_lengths: np.ndarray  # int64 [D] sentences of each document, none 0
    contents: np.ndarray  # uint64 [D]; equal for documents of equal tokens
    documents: np.ndarray  # int64 [D], their numbers in the span, ascending
    sentences: np.ndarray  # int64 [S], likewise, ascending


_DTYPES = (None, np.bool_, np.int64, np.int64, np.uint64, np.int64, np.int64)


def token_dtype(vocab_size):
    """The narrowest type that holds every id."""
    return np.uint16 if vocab_size <= 1 << 16 else np.int32


def ranges(begins, lengths):
    """The numbers of all ranges on end: [2, 9], [3, 1] -> [2, 3, 4, 9]."""
    ends = np.cumsum(lengths)
    total = int(ends[-1]) if len(ends) else 0
    return np.arange(total) + np.repeat(begins - ends + lengths, lengths)


def sums_before(lengths):
    """int64 [N] -> [N + 1]: the sum of all before each place, and of all."""
    out = np.zeros(len(lengths) + 1, np.int64)
    np.cumsum(lengths, out=out[1:])
    return out


def make(tokens, word_starts, sentence_lengths, document_lengths, first_document, first_sentence):
    """The `Block` of documents, without sentences and documents that have no token.

    Args:
        tokens: [T].
        word_starts: bool [T] or [0].
        sentence_lengths: int64 [S], 0 allowed.
        document_lengths: int64 [D], 0 allowed.
        first_document: Number of the first of them in its span.
        first_sentence: Likewise.

    Returns:
        The `Block`, and the number of documents left out.
    """
    has_tokens = sentence_lengths > 0
    document_of = np.repeat(np.arange(len(document_lengths)), document_lengths)[has_tokens]
    lengths = np.bincount(document_of, minlength=len(document_lengths))
    kept = lengths > 0
    sentence_lengths = sentence_lengths[has_tokens].astype(np.int64)
    ends = np.cumsum(sentence_lengths)[np.cumsum(lengths[kept]) - 1].tolist() if kept.any() else []
    contents = b"".join(
        hashlib.blake2b(tokens[a:b].tobytes(), digest_size=8).digest() for a, b in itertools.pairwise([0, *ends])
    )
    block = Block(
        tokens,
        word_starts,
        sentence_lengths,
        lengths[kept].astype(np.int64),
        np.frombuffer(contents, np.uint64),
        first_document + np.flatnonzero(kept),
        first_sentence + np.flatnonzero(has_tokens),
    )
    return block, int(len(kept) - kept.sum())


def join(blocks):
    """One `Block` of several, in their order."""
    blocks = list(blocks)
    return blocks[0] if len(blocks) == 1 else Block(*(np.concatenate(arrays) for arrays in zip(*blocks)))


def take(block, rows):
    """The documents `rows` (int [N]) of a `Block`, in that order."""
    sentence_splits = sums_before(block.document_lengths)
    sentences = ranges(sentence_splits[rows], block.document_lengths[rows])
    return _of_sentences(block, sentences, block.document_lengths[rows], rows)


def drop_sentences(block, keep):
    """A `Block` of the sentences where `keep` (bool [S]) is true; documents without any are gone."""
    document_of = np.repeat(np.arange(len(block.document_lengths)), block.document_lengths)[keep]
    lengths = np.bincount(document_of, minlength=len(block.document_lengths))
    rows = np.flatnonzero(lengths)
    return _of_sentences(block, np.flatnonzero(keep), lengths[rows], rows)


def _of_sentences(block, sentences, document_lengths, rows):
    lengths = block.sentence_lengths[sentences]
    places = ranges(sums_before(block.sentence_lengths)[sentences], lengths)
    return Block(
        block.tokens[places],
        block.word_starts[places] if len(block.word_starts) else block.word_starts,
        lengths,
        np.asarray(document_lengths, np.int64),
        block.contents[rows],
        block.documents[rows],
        block.sentences[sentences],
    )


def to_bytes(block):
    """A `Block` as bytes."""
    head = np.array([block.tokens.dtype.itemsize, *map(len, block)], np.int64)
    return b"".join([head.tobytes(), *(array.tobytes() for array in block)])


def from_bytes(data):
    """The `Block` that `to_bytes` gave, without copying."""
    width, *sizes = np.frombuffer(data, np.int64, 1 + len(Block._fields)).tolist()
    at, arrays = 8 * (1 + len(sizes)), []
    for dtype, size in zip(_DTYPES, sizes):
        dtype = np.dtype(dtype or {2: np.uint16, 4: np.int32}[width])
        arrays.append(np.frombuffer(data, dtype, size, at))
        at += size * dtype.itemsize
    return Block(*arrays)
