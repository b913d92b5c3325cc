"""HOW to mask: 80/10/10 at the chosen positions; static and dynamic masking alike."""

import tensorflow as tf

from tfbert import checks
from tfbert.text import draws, selection

# Devlin et al. 2019, section 3.1: of the chosen positions 80 % become [MASK], 10 % stay, 10 % become a random word.
MASK_RATE, KEEP_RATE = 0.8, 0.1
_TO_MASK, _TO_RANDOM, _KEEP = range(3)

row_seeds = draws.row_seeds


def ordinary_ids(vocab):
    """Ids of the entries that stand for text: what a random replacement is drawn from.

    Google's code draws from the whole vocabulary, so that [PAD], [SEP] and [unused] turn up in the
    middle of sentences.

    Returns:
        A list of ints, not empty.

    Raises:
        InputError: the vocabulary has none.
    """
    special = set(vocab.special_ids)
    ids = [i for i in range(len(vocab)) if i not in special]
    checks.require(
        ids,
        "a vocabulary must have entries beside its special tokens",
        f"{len(vocab)} entries, all special",
        do="Learn one with python -m data_prep.learn_vocab",
    )
    return ids


def replacements(ids, places, groups, vocab, seeds):
    """What the model sees at the chosen positions: 80 % [MASK], 10 % a random word, 10 % what was there.

    Args:
        ids: int32 [N, K], what was there.
        places: int32 [N, K], the positions: each has a random word of its own.
        groups: int32 [N, K]; equal numbers in a row share one draw of the three. The positions again for
            BERT and ALBERT, the spans for SpanBERT (section 3.1), which masks a span at all its tokens.
        vocab: The `Vocab` of the ids.
        seeds: int32 [N, 2].

    Returns:
        int32 [N, K].
    """
    words = ordinary_ids(vocab)
    law = (MASK_RATE, 1 - MASK_RATE - KEEP_RATE, KEEP_RATE)
    how = draws.choose(draws.bits(seeds, draws.REPLACEMENT, groups), law)
    word = draws.below(draws.bits(seeds, draws.RANDOM_WORD, places), len(words))
    changed = tf.where(how == _TO_MASK, vocab.mask_id, tf.gather(words, word))
    return tf.where(how == _KEEP, ids, changed)


def positions_of(chosen, max_predictions_per_seq):
    """Where `chosen` holds, as a list of fixed length.

    Args:
        chosen: bool [N, L], at most P in a row.
        max_predictions_per_seq: P.

    Returns:
        int32 [N, P]: the positions in ascending order, then -1.
    """
    length = selection.sizes(chosen)[1]
    # From the left, each chosen position has a larger number than the next; top_k sorts them.
    from_end = tf.where(chosen, length - tf.range(length), 0)  # [N, L]
    top = selection.largest(from_end, max_predictions_per_seq, 0)  # [N, P]
    return tf.where(top > 0, length - top, -1)


def mask(
    input_ids,
    input_mask,
    vocab,
    unit,
    masked_lm_prob,
    max_predictions_per_seq,
    seeds,
    word_starts=None,
):
    """Chooses positions and masks them: a batch of whole sequences -> what MLM trains on.

    A row's masks hang on its tokens and its seed alone, not on the batch that it lies in.

    Args:
        input_ids: int32 [N, L].
        input_mask: int32 [N, L]; 0 is padding, all above is text.
        vocab: The `Vocab` of the ids.
        unit: A key of `selection.UNITS`: token, word, ngram or span.
        masked_lm_prob: Share of a row's tokens, [CLS] and [SEP] counted, to choose.
        max_predictions_per_seq: P, the most positions in a row.
        seeds: int32 [N, 2], as of `row_seeds`.
        word_starts: bool or int [N, L], whether a token begins a word; None: all do but the ## pieces.

    Returns:
        {"input_ids": int32 [N, L] after masking, "masked_lm_positions": int32 [N, P] in ascending order,
        "masked_lm_ids": int32 [N, P], what stood there, "masked_lm_weights": float32 [N, P]}; the three are 0
        where a row has fewer than P.
    """
    real = input_mask > 0
    may = selection.maskable(input_ids, vocab) & real
    num_tokens = tf.reduce_sum(tf.cast(real, tf.int32), axis=1)
    budget = selection.num_to_mask(num_tokens, masked_lm_prob, max_predictions_per_seq)
    groups = None
    if unit == "token":
        positions = selection.select_tokens(may, budget, max_predictions_per_seq, seeds)
    else:
        starts = selection.word_starts(input_ids, vocab) if word_starts is None else tf.cast(word_starts, tf.bool)
        units = selection.UNITS[unit](starts, may, seeds)
        words = units if unit == "word" else selection.whole_words(starts, may)
        chosen = selection.select(units, words, budget, seeds)
        positions = positions_of(chosen, max_predictions_per_seq)
        groups = units if unit == "span" else None
    taken = positions >= 0  # [N, P]
    positions = tf.maximum(positions, 0)
    groups = positions if groups is None else tf.gather(groups, positions, batch_dims=1)
    ids = tf.gather(input_ids, positions, batch_dims=1)  # [N, P]
    seen = replacements(ids, positions, groups, vocab, seeds)
    n, length = selection.sizes(input_ids)
    # Added up, as several places without a position all point at position 0, with nothing to change.
    places = tf.range(n)[:, tf.newaxis] * length + positions
    change = tf.math.unsorted_segment_sum(tf.where(taken, seen - ids, 0), places, n * length)
    return {
        "input_ids": input_ids + tf.reshape(change, [n, length]),
        "masked_lm_positions": positions,
        "masked_lm_ids": tf.where(taken, ids, 0),
        "masked_lm_weights": tf.cast(taken, tf.float32),
    }
