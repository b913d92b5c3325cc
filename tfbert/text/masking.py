"""HOW to mask: 80/10/10 at the chosen positions; static and dynamic masking alike."""

import tensorflow as tf

from tfbert import checks
from tfbert.text import selection

# Devlin et al. 2019, section 3.1: of the chosen positions 80 % become [MASK], 10 % stay, 10 % become a random word.
MASK_RATE, KEEP_RATE = 0.8, 0.1


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


def replace(input_ids, chosen, vocab, seed):
    """Replaces the chosen positions: 80 % by [MASK], 10 % by a random word, 10 % by themselves.

    Args:
        input_ids: int32 [N, L].
        chosen: bool [N, L].
        vocab: The `Vocab` of the ids.
        seed: int [2], stateless.

    Returns:
        int32 [N, L].
    """
    words = tf.constant(ordinary_ids(vocab), tf.int32)
    how_seed, word_seed = tf.unstack(tf.random.split(seed, 2))
    shape = tf.shape(input_ids)
    how = tf.random.stateless_uniform(shape, how_seed)
    drawn = tf.random.stateless_uniform(shape, word_seed, 0, tf.size(words), tf.int32)
    new = tf.where(how < MASK_RATE, vocab.mask_id, tf.gather(words, drawn))  # [N, L]
    return tf.where(chosen & ((how < MASK_RATE) | (how >= MASK_RATE + KEEP_RATE)), new, input_ids)


def targets(input_ids, chosen, max_predictions_per_seq):
    """What the model has to find, in the shape of the record features.

    Args:
        input_ids: int32 [N, L], before masking.
        chosen: bool [N, L], at most P in a row.
        max_predictions_per_seq: P.

    Returns:
        {"masked_lm_positions": int32 [N, P] in ascending order, "masked_lm_ids": int32 [N, P],
        "masked_lm_weights": float32 [N, P]}; 0 where there are fewer than P.
    """
    length = tf.shape(chosen)[1]
    # From the left, each chosen position has a larger number than the next; top_k sorts them.
    from_end = tf.where(chosen, length - tf.range(length), 0)  # [N, L]
    from_end = tf.pad(from_end, [[0, 0], [0, tf.maximum(0, max_predictions_per_seq - length)]])
    top = tf.math.top_k(from_end, max_predictions_per_seq).values  # [N, P]
    positions = tf.where(top > 0, length - top, 0)
    return {
        "masked_lm_positions": positions,
        "masked_lm_ids": tf.where(top > 0, tf.gather(input_ids, positions, batch_dims=1), 0),
        "masked_lm_weights": tf.cast(top > 0, tf.float32),
    }


def mask(input_ids, input_mask, vocab, unit, masked_lm_prob, max_predictions_per_seq, seed):
    """Chooses positions and masks them: a batch of whole sequences -> what MLM trains on.

    Args:
        input_ids: int32 [N, L].
        input_mask: int32 [N, L].
        vocab: The `Vocab` of the ids.
        unit: A grouping function of `selection`: `selection.tokens` or `selection.whole_words`.
        masked_lm_prob: Share of the tokens to choose.
        max_predictions_per_seq: P, the most positions in a sequence.
        seed: int [2], stateless: the same seed masks the same batch in the same way.

    Returns:
        {"input_ids": int32 [N, L] after masking} and what `targets` returns.
    """
    which_seed, how_seed = tf.unstack(tf.random.split(seed, 2))
    may = selection.maskable(input_ids, vocab) & (input_mask > 0)
    units = unit(selection.word_starts(input_ids, vocab), may)
    budget = selection.num_to_mask(tf.reduce_sum(input_mask, axis=1), masked_lm_prob, max_predictions_per_seq)
    chosen = selection.select(units, budget, which_seed)
    return {
        "input_ids": replace(input_ids, chosen, vocab, how_seed),
        **targets(input_ids, chosen, max_predictions_per_seq),
    }
