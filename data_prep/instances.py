"""Documents -> tokenized blocks -> windows -> pairs of segments -> packed sequences.

Everything a token passes through is NumPy on concatenated arrays: a sentence, a document and a segment
are ranges of one token array, and a pair is four numbers. Python's loop runs once a pair.
Memory is bounded by the window, whatever the size of the corpus.
"""

import bisect
import collections
import hashlib
import itertools
import random
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from tfbert import checks

BATCH_BYTES = 1 << 20  # of text that is tokenized at once
WINDOW_TOKENS = 1 << 22  # of new documents in a window, a longer last document aside


class Block(NamedTuple):
    """Tokenized documents of one split."""

    tokens: np.ndarray  # int32 [T], of all documents on end
    sentence_lengths: np.ndarray  # int64 [S] tokens of each sentence, none 0
    document_lengths: np.ndarray  # int64 [D] sentences of each document, none 0
    digests: np.ndarray  # uint64 [D]; equal for documents of equal tokens


class Window(NamedTuple):
    """The documents that pairs are drawn from: new ones, and before them those of the window before."""

    tokens: np.ndarray  # int32 [T]
    sentence_splits: list  # [S + 1]: sentence s is tokens[sentence_splits[s]:sentence_splits[s + 1]]
    document_splits: list  # [D + 1]: document d is the sentences document_splits[d] to [d + 1]
    digests: list  # [D]
    first_new: int  # documents before this one only lend random segments


class Pairs(NamedTuple):
    """N pairs of segments, as ranges of a window's tokens."""

    a_begin: np.ndarray  # int64 [N]
    a_end: np.ndarray
    b_begin: np.ndarray
    b_end: np.ndarray
    is_random: np.ndarray  # bool [N]: segment B is of another document


def _batches(documents):
    """Groups documents of one split until they hold BATCH_BYTES: yields (held_out, their sentences)."""
    waiting = {False: ([], 0), True: ([], 0)}
    for document in documents:
        group, size = waiting[document.held_out]
        group.append(document.sentences)
        size += sum(map(len, document.sentences))
        if size >= BATCH_BYTES:
            yield document.held_out, group
            group, size = [], 0
        waiting[document.held_out] = group, size
    yield from ((held_out, group) for held_out, (group, _) in waiting.items() if group)


def _block(tokens, sentence_lengths, document_lengths):
    """The `Block` without empty sentences and documents, and the number of documents left out."""
    document_of = np.repeat(np.arange(len(document_lengths)), document_lengths)[sentence_lengths > 0]
    document_lengths = np.bincount(document_of, minlength=len(document_lengths))
    sentence_lengths = sentence_lengths[sentence_lengths > 0]
    empty = int((document_lengths == 0).sum())
    document_lengths = document_lengths[document_lengths > 0]
    ends = np.cumsum(sentence_lengths)[np.cumsum(document_lengths) - 1].tolist()
    digests = [
        hashlib.blake2b(tokens[a:b].tobytes(), digest_size=8).digest() for a, b in itertools.pairwise([0, *ends])
    ]
    digests = np.frombuffer(b"".join(digests), np.uint64)
    return Block(tokens, sentence_lengths, document_lengths, digests), empty


def tokenize(documents, tokenizer):
    """Tokenizes a stream of documents in batches, through tf.data.

    Args:
        documents: Iterable of `data_prep.corpus.Document`.
        tokenizer: `tfbert.text.tokenizer.Tokenizer`.

    Yields:
        (held_out, `Block`, number of documents without a single token, which are left out).

    Raises:
        InputError: what reading the documents raised.
    """
    raised = []

    def batches():
        # tf.data would make an error of its own of it, with a traceback in place of the sentence that helps.
        try:
            for held_out, group in _batches(documents):
                yield list(itertools.chain.from_iterable(group)), [len(s) for s in group], held_out
        except checks.InputError as e:
            raised.append(e)

    @tf.autograph.experimental.do_not_convert
    def to_ids(sentences, document_lengths, held_out):
        ids = tokenizer.tokenize(sentences)
        return ids.flat_values, ids.row_lengths(), document_lengths, held_out

    signature = (
        tf.TensorSpec([None], tf.string),
        tf.TensorSpec([None], tf.int64),
        tf.TensorSpec([], tf.bool),
    )
    dataset = tf.data.Dataset.from_generator(batches, output_signature=signature)
    dataset = dataset.map(to_ids, num_parallel_calls=2, deterministic=True).prefetch(2)
    for tokens, sentence_lengths, document_lengths, held_out in dataset.as_numpy_iterator():
        yield bool(held_out), *_block(tokens, sentence_lengths, document_lengths)
    if raised:
        raise raised[0]


def _join(blocks):
    return Block(*(np.concatenate(arrays) for arrays in zip(*blocks)))


def windows(blocks, size=WINDOW_TOKENS):
    """Gathers blocks into windows of at least `size` new tokens, each with the window before it behind.

    Args:
        blocks: Iterable of `Block`.
        size: Tokens.

    Yields:
        `Window`s. Every block is new in exactly one. Each holds at least two different documents
        if the blocks do: one is not closed before it has two new ones.
    """

    def window(before, new):
        both = _join([*before, new])
        return Window(
            both.tokens,
            [0, *np.cumsum(both.sentence_lengths).tolist()],
            [0, *np.cumsum(both.document_lengths).tolist()],
            both.digests.tolist(),
            sum(len(b.digests) for b in before),
        )

    before, new = [], []
    tokens, digests = 0, set()
    for block in blocks:
        new.append(block)
        tokens += len(block.tokens)
        if len(digests) < 2:
            digests.update(block.digests.tolist())
        if tokens >= size and len(digests) >= 2:
            current = _join(new)
            yield window(before, current)
            before, new, tokens, digests = [current], [], 0, set()
    if new:
        yield window(before, _join(new))


class _Others:
    """Draws a document that differs from a given one, all different documents being equally likely."""

    def __init__(self, digests, rng):
        self._digests, self._rng = digests, rng
        self._documents = []  # the first of each content
        self._place = {}  # of a content in that list
        for document, digest in enumerate(digests):
            if self._place.setdefault(digest, len(self._documents)) == len(self._documents):
                self._documents.append(document)
        if len(self._documents) < 2:
            raise ValueError("Random next segments need two different documents.")

    def draw(self, document):
        i = int(self._rng.random() * (len(self._documents) - 1))
        return self._documents[i + (i >= self._place[self._digests[document]])]


def draw_pairs(window, max_tokens, short_seq_prob, seed):
    """Cuts the new documents of a window into pairs for next-sentence prediction.

    Devlin et al. 2019, appendix A.2: sentences are gathered until they hold a target number of
    tokens, then split at a random sentence. Segment B is the rest (is next) in half of the pairs and
    a segment of another document (random) in the others; the rest then goes back and is used again.

    As in google-research/bert, a last sentence that stands alone can only have a random next. There
    that leaves fewer than half of the pairs with their real next (a quarter, for short documents);
    here each such pair is made up for by a real next in the pair that can choose, as far as there are any.
    And the shorter targets are drawn pair by pair, not document by document, so that `short_seq_prob`
    is the share of the sequences.

    Args:
        window: A `Window` with at least two different documents.
        max_tokens: Target number of tokens of both segments.
        short_seq_prob: Probability of a shorter target, uniform from 2 to `max_tokens`.
        seed: int.

    Returns:
        `Pairs` in document order, not yet truncated: a pair can hold more than `max_tokens`.
    """
    rng = random.Random(seed)
    uniform, others = rng.random, _Others(window.digests, rng)
    ends, documents = window.sentence_splits, window.document_splits
    rows, forced = [], 0
    for document in range(window.first_new, len(documents) - 1):
        sentence, last = documents[document], documents[document + 1]
        while sentence < last:
            target = max_tokens
            if uniform() < short_seq_prob:
                target = 2 + int(uniform() * (max_tokens - 1))
            stop = bisect.bisect_left(ends, ends[sentence] + target, sentence + 1, last)
            middle = sentence + 1 + int(uniform() * (stop - sentence - 1))
            if stop - sentence == 1:
                is_random, middle = True, stop
                forced += 1
            elif forced:
                is_random = False
                forced -= 1
            else:
                is_random = uniform() < 0.5
            if is_random:
                other = others.draw(document)
                b, end = documents[other], documents[other + 1]
                b += int(uniform() * (end - b))
                wanted = max(1, target - ends[middle] + ends[sentence])
                b_stop = bisect.bisect_left(ends, ends[b] + wanted, b + 1, end)
                rows.append((ends[sentence], ends[middle], ends[b], ends[b_stop], True))
                sentence = middle
            else:
                rows.append((ends[sentence], ends[middle], ends[middle], ends[stop], False))
                sentence = stop
    columns = np.array(rows, np.int64).reshape(-1, 5).T
    return Pairs(*columns[:4], columns[4].astype(bool))


def truncate(pairs, max_tokens, rng):
    """Cuts the pairs to `max_tokens`: from the longer segment, one by one, at its front or its back.

    Each token that has to go is taken from the front or the back with even odds (Google's
    `truncate_seq_pair`); how many go from the front is thus binomial, and drawn at once.

    Args:
        pairs: `Pairs`, every segment at least one token long.
        max_tokens: M, at least 2.
        rng: numpy Generator.

    Returns:
        `Pairs`.
    """
    a, b = pairs.a_end - pairs.a_begin, pairs.b_end - pairs.b_begin
    keep_a = np.where(a + b > max_tokens, np.minimum(a, np.maximum(max_tokens - b, (max_tokens + 1) // 2)), a)
    keep_b = np.minimum(b, max_tokens - keep_a)
    front_a, front_b = rng.binomial(a - keep_a, 0.5), rng.binomial(b - keep_b, 0.5)
    a_begin, b_begin = pairs.a_begin + front_a, pairs.b_begin + front_b
    return Pairs(a_begin, a_begin + keep_a, b_begin, b_begin + keep_b, pairs.is_random)


def pack(tokens, pairs, max_seq_length, vocab):
    """[CLS] A [SEP] B [SEP], padded to L.

    Args:
        tokens: int32 [T], the window's.
        pairs: `Pairs` of N, truncated to L - 3.
        max_seq_length: L.
        vocab: `Vocab`.

    Returns:
        {"input_ids", "input_mask", "segment_ids": int32 [N, L], "next_sentence_labels": int32 [N, 1]}.
    """
    a = (pairs.a_end - pairs.a_begin)[:, None]  # [N, 1]
    b = (pairs.b_end - pairs.b_begin)[:, None]
    position = np.arange(max_seq_length)[None, :]  # [1, L]
    in_a = (position >= 1) & (position <= a)  # [N, L]
    in_b = (position >= a + 2) & (position <= a + 1 + b)
    place = np.where(in_a, pairs.a_begin[:, None] + position - 1, 0)
    place = np.where(in_b, pairs.b_begin[:, None] + position - a - 2, place)
    ids = np.where(in_a | in_b, tokens[place], vocab.pad_id)
    ids[:, 0] = vocab.cls_id
    np.put_along_axis(ids, np.concatenate([a + 1, a + b + 2], axis=1), vocab.sep_id, axis=1)
    return {
        "input_ids": ids.astype(np.int32),
        "input_mask": (position <= a + b + 2).astype(np.int32),
        "segment_ids": ((position >= a + 2) & (position <= a + b + 2)).astype(np.int32),
        "next_sentence_labels": pairs.is_random[:, None].astype(np.int32),
    }


def take(pairs, rows):
    """The rows of `Pairs`."""
    return Pairs(*(column[rows] for column in pairs))


def count(features, cut):
    """What a batch of masked features holds, as numbers that add up over batches."""
    n, length = features["input_ids"].shape
    random_next, real = int(features["next_sentence_labels"].sum()), int(features["input_mask"].sum())
    return collections.Counter(
        instances=n,
        next_is_real=n - random_next,
        next_is_random=random_next,
        masked_positions=int(features["masked_lm_weights"].sum()),
        real_positions=real,
        padding_positions=n * length - real,
        truncated_tokens=cut,
    )
