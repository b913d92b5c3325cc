"""Blocks of tokenized documents -> windows -> examples -> rows of records.

Everything a token passes through is NumPy on concatenated arrays: a sentence, a document and a segment
are ranges of one token array, and an example is two such ranges. Python's loop runs once an example.
Memory is bounded by the window, whatever the size of the corpus.
"""

import bisect
import collections
import random
from typing import NamedTuple

import numpy as np

from data_prep import blocks as blocks_lib
from data_prep.blocks import ranges, sums_before

WINDOW_TOKENS = 1 << 20  # of new documents in a window, a longer last document aside


class Window(NamedTuple):
    """The documents that examples are drawn from: new ones, and before them some that only lend segments."""

    tokens: np.ndarray  # [T]
    word_starts: np.ndarray  # bool [T], or [0]
    sentence_splits: list  # [S + 1]: sentence s is tokens[sentence_splits[s]:sentence_splits[s + 1]]
    document_splits: list  # [D + 1]: document d is the sentences document_splits[d] to [d + 1]
    contents: list  # [D]
    first_new: int  # documents before this one only lend random segments


class Pairs(NamedTuple):
    """N examples of two segments, as ranges of a window's tokens; B is empty where there is one segment."""

    a_begin: np.ndarray  # int64 [N]
    a_end: np.ndarray
    b_begin: np.ndarray
    b_end: np.ndarray
    labels: np.ndarray  # int64 [N], next_sentence_labels


def windows(blocks, size=None, lenders=()):
    """Gathers blocks into windows of at least `size` new tokens, each with the window before it behind.

    Args:
        blocks: Iterable of `Block`.
        size: Tokens; `WINDOW_TOKENS` if None.
        lenders: `Block`s that stand behind the first window.

    Yields:
        `Window`s. Every block is new in exactly one. Each holds at least two different documents
        if the blocks do: one is not closed before it has two new ones.
    """
    size = WINDOW_TOKENS if size is None else size

    def window(before, new):
        both = blocks_lib.join([*before, new])
        return Window(
            both.tokens,
            both.word_starts,
            sums_before(both.sentence_lengths).tolist(),
            sums_before(both.document_lengths).tolist(),
            both.contents.tolist(),
            sum(len(b.contents) for b in before),
        )

    before, new = list(lenders), []
    tokens, contents = 0, set()
    for block in blocks:
        new.append(block)
        tokens += len(block.tokens)
        if len(contents) < 2:
            contents.update(block.contents.tolist())
        if tokens >= size and len(contents) >= 2:
            current = blocks_lib.join(new)
            yield window(before, current)
            before, new, tokens, contents = [current], [], 0, set()
    if new:
        yield window(before, blocks_lib.join(new))


class _Others:
    """Draws a document that differs from a given one, all different documents being equally likely."""

    def __init__(self, contents, rng):
        self._rng = rng
        _, first, content = np.unique(np.array(contents, np.uint64), return_index=True, return_inverse=True)
        if len(first) < 2:
            raise ValueError("Random next segments need two different documents.")
        self._documents = first.tolist()  # the first of each content
        self._place = content.tolist()  # of each document's content in that list

    def draw(self, document):
        i = int(self._rng.random() * (len(self._documents) - 1))
        return self._documents[i + (i >= self._place[document])]


def _columns(rows):
    return Pairs(*np.array(rows, np.int64).reshape(-1, len(Pairs._fields)).T)


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
        `Pairs` in document order, not yet truncated: a pair can hold more than `max_tokens`. Label 1 is random.
    """
    rng = random.Random(seed)
    uniform, others = rng.random, _Others(window.contents, rng)
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
                rows += (ends[sentence], ends[middle], ends[b], ends[b_stop], 1)
                sentence = middle
            else:
                rows += (ends[sentence], ends[middle], ends[middle], ends[stop], 0)
                sentence = stop
    return _columns(rows)


def draw_ordered(window, max_tokens, short_seq_prob, seed):
    """Cuts the new documents of a window into pairs for sentence-order prediction.

    Lan et al. 2020, section 3.1: B follows A in the same document, and half of the pairs are swapped. A
    sentence that stands alone is cut in two at a random token.

    Args:
        window: A `Window`.
        max_tokens: As of `draw_pairs`.
        short_seq_prob: As of `draw_pairs`.
        seed: int.

    Returns:
        `Pairs` in document order, not yet truncated. Label 1 is swapped. A sentence of a single token that
        stands alone makes no pair: it is the only text that is left out.
    """
    uniform = random.Random(seed).random
    ends, documents = window.sentence_splits, window.document_splits
    rows = []
    for document in range(window.first_new, len(documents) - 1):
        sentence, last = documents[document], documents[document + 1]
        while sentence < last:
            target = max_tokens
            if uniform() < short_seq_prob:
                target = 2 + int(uniform() * (max_tokens - 1))
            stop = bisect.bisect_left(ends, ends[sentence] + target, sentence + 1, last)
            begin, end = ends[sentence], ends[stop]
            if stop - sentence > 1:
                middle = ends[sentence + 1 + int(uniform() * (stop - sentence - 1))]
            else:
                middle = begin + 1 + int(uniform() * (end - begin - 1))
            if begin < middle < end:
                swapped = uniform() < 0.5
                rows += (middle, end, begin, middle, 1) if swapped else (begin, middle, middle, end, 0)
            sentence = stop
    return _columns(rows)


def draw_sentences(window, max_tokens, short_seq_prob, seed, sep_id):
    """Cuts the new documents of a window into single segments of full sentences, across documents.

    Liu et al. 2019 (RoBERTa), section 4.2, FULL-SENTENCES: sentences follow one another until no more
    fit; where a document ends within a segment, a [SEP] stands. A sentence that is longer than a segment
    is cut and goes on in the next one, so no token is lost.

    Args:
        window: A `Window`.
        max_tokens: Most tokens of a segment.
        short_seq_prob: As of `draw_pairs`.
        seed: int.
        sep_id: The id of [SEP].

    Returns:
        The `Window` of the new documents with a [SEP] after each, and `Pairs` with empty B and label 0.
    """
    uniform = random.Random(seed).random
    window = _with_separators(window, sep_id)
    ends, document_ends = window.sentence_splits, {window.sentence_splits[s] for s in window.document_splits[1:]}
    rows, begin = [], 0
    while begin < ends[-1]:
        target = max_tokens
        if uniform() < short_seq_prob:
            target = 2 + int(uniform() * (max_tokens - 1))
        # The [SEP] of a document that ends with the segment is the segment's own: it takes no room.
        end = ends[bisect.bisect_right(ends, begin + target + 1) - 1]
        if end - (end in document_ends) - begin > target:
            end = ends[bisect.bisect_right(ends, begin + target) - 1]
        if end <= begin:
            end = begin + target  # within a sentence
        rows += (begin, end - (end in document_ends), end, end, 0)
        begin = end
    return window, _columns(rows)


def _with_separators(window, sep_id):
    """The new documents of a `Window`, each with a [SEP] behind its last sentence."""
    first = window.document_splits[window.first_new]
    ends = np.array(window.sentence_splits[first:], np.int64)
    splits = np.array(window.document_splits[window.first_new :], np.int64) - first  # [D + 1]
    document_ends = ends[splits[1:]] - ends[0]
    tokens = np.insert(window.tokens[ends[0] :], document_ends, sep_id)
    word_starts = window.word_starts
    if len(word_starts):
        word_starts = np.insert(word_starts[ends[0] :], document_ends, True)
    lengths = np.diff(ends)
    lengths[splits[1:] - 1] += 1
    return Window(
        tokens, word_starts, sums_before(lengths).tolist(), splits.tolist(), window.contents[window.first_new :], 0
    )


def truncate(pairs, max_tokens, rng):
    """Cuts the pairs to `max_tokens`: from the longer segment, one by one, at its front or its back.

    Each token that has to go is taken from the front or the back with even odds (Google's
    `truncate_seq_pair`); how many go from the front is thus binomial, and drawn at once.

    Args:
        pairs: `Pairs`, every segment at least one token long.
        max_tokens: M, at least 2.
        rng: numpy Generator.

    Returns:
        `Pairs`, and int64 [N], how many tokens went from each.
    """
    a, b = pairs.a_end - pairs.a_begin, pairs.b_end - pairs.b_begin
    keep_a = np.where(a + b > max_tokens, np.minimum(a, np.maximum(max_tokens - b, (max_tokens + 1) // 2)), a)
    keep_b = np.minimum(b, max_tokens - keep_a)
    cut_a, cut_b = a - keep_a, b - keep_b
    front_a, front_b = np.zeros_like(a), np.zeros_like(b)
    front_a[cut_a > 0] = rng.binomial(cut_a[cut_a > 0], 0.5)
    front_b[cut_b > 0] = rng.binomial(cut_b[cut_b > 0], 0.5)
    a_begin, b_begin = pairs.a_begin + front_a, pairs.b_begin + front_b
    return Pairs(a_begin, a_begin + keep_a, b_begin, b_begin + keep_b, pairs.labels), cut_a + cut_b


def lengths(pairs):
    """Tokens of each example with its [CLS] and [SEP]s: int64 [N]."""
    b = pairs.b_end - pairs.b_begin
    return pairs.a_end - pairs.a_begin + b + 2 + (b > 0)


def take(pairs, rows):
    """The rows of `Pairs`."""
    return Pairs(*(column[rows] for column in pairs))


def pack(window, pairs, row, place, num_rows, max_seq_length, vocab, max_sequences_per_pack=0):
    """Rows of [CLS] A [SEP] B [SEP], or [CLS] A [SEP] where B is empty, one example behind the other.

    Args:
        window: The `Window` of the pairs.
        pairs: `Pairs` of N.
        row: int64 [N], ascending: the row that each goes to. The examples of a row fit in L.
        place: int64 [N]: 0, 1, ... within each row.
        num_rows: R, every row with one example at least.
        max_seq_length: L.
        vocab: `Vocab`.
        max_sequences_per_pack: M; 0 if every row has one example.

    Returns:
        {"input_ids", "input_mask", "segment_ids": int32 [R, L], "next_sentence_labels": int32 [R, 1]}; with
        M the labels are [R, M], `input_mask` numbers the examples 1, 2, ..., and there are "position_ids"
        [R, L], "next_sentence_positions" [R, M] and "next_sentence_weights" float32 [R, M]. Where the window
        has `word_starts`, so have the rows: bool [R, L].
    """
    a, b = pairs.a_end - pairs.a_begin, pairs.b_end - pairs.b_begin
    two, size = b > 0, lengths(pairs)
    begin = sums_before(size)[:-1]
    offset = begin - begin[np.searchsorted(row, row)]  # of each [CLS] in its row
    cls = row * max_seq_length + offset
    in_a, in_b, whole = ranges(cls + 1, a), ranges(cls + a + 2, b), ranges(cls, size)
    shape = (num_rows, max_seq_length)

    def filled(dtype, value=0):
        return np.full(num_rows * max_seq_length, value, dtype)

    ids, mask, segments = filled(np.int32, vocab.pad_id), filled(np.int32), filled(np.int32)
    ids[cls], ids[cls + a + 1], ids[(cls + size - 1)[two]] = vocab.cls_id, vocab.sep_id, vocab.sep_id
    from_a, from_b = ranges(pairs.a_begin, a), ranges(pairs.b_begin, b)
    ids[in_a], ids[in_b] = window.tokens[from_a], window.tokens[from_b]
    mask[whole] = np.repeat(place + 1, size)
    segments[in_b], segments[(cls + size - 1)[two]] = 1, 1
    out = {"input_ids": ids.reshape(shape), "input_mask": mask.reshape(shape), "segment_ids": segments.reshape(shape)}
    if len(window.word_starts):
        begins = filled(np.bool_, True)
        begins[in_a], begins[in_b] = window.word_starts[from_a], window.word_starts[from_b]
        out["word_starts"] = begins.reshape(shape)
    if not max_sequences_per_pack:
        return {**out, "next_sentence_labels": pairs.labels.astype(np.int32)[:, None]}
    positions = filled(np.int32)
    positions[whole] = ranges(np.zeros_like(size), size)
    out["position_ids"] = positions.reshape(shape)
    for name, values, dtype in (
        ("next_sentence_positions", offset, np.int32),
        ("next_sentence_labels", pairs.labels, np.int32),
        ("next_sentence_weights", np.ones_like(row), np.float32),
    ):
        out[name] = np.zeros((num_rows, max_sequences_per_pack), dtype)
        out[name][row, place] = values
    return out


def count(features, num_examples, cut):
    """What a batch of rows holds, as numbers that add up over batches."""
    n, length = features["input_ids"].shape
    real = int(np.count_nonzero(features["input_mask"]))
    ones = int(features["next_sentence_labels"].sum())
    return collections.Counter(
        rows=n,
        instances=num_examples,
        label_0=num_examples - ones,
        label_1=ones,
        masked_positions=int(features["masked_lm_weights"].sum()) if "masked_lm_weights" in features else 0,
        real_positions=real,
        padding_positions=n * length - real,
        truncated_tokens=cut,
    )
