"""WHAT to mask: positions drawn at random, unit by unit, up to a budget.

A masking unit is a grouping function: `unit(word_starts, maskable) -> int32 [N, L]` gives each
position the number of the unit that it belongs to, and -1 to what must never be masked. Units are
masked whole or not at all. `select` draws them. All is batched TF, with stateless seeds, so that the
same code masks records once (static) and batches inside a tf.data pipeline (dynamic).
"""

import tensorflow as tf

from tfbert.text.vocab import SUFFIX


def tokens(word_starts, maskable):
    """Every token is a unit: BERT's first masking (Devlin et al. 2019, section 3.1).

    Args:
        word_starts: bool [N, L], not looked at.
        maskable: bool [N, L].

    Returns:
        int32 [N, L].
    """
    del word_starts
    return tf.where(maskable, tf.range(tf.shape(maskable)[1])[tf.newaxis, :], -1)  # [N, L]


def whole_words(word_starts, maskable):
    """A word with all its pieces is a unit: google-research/bert's `do_whole_word_mask`.

    A piece whose beginning was cut off, or that follows something that is not maskable, begins a
    unit of its own: a unit never reaches over a [SEP].

    Args:
        word_starts: bool [N, L].
        maskable: bool [N, L].

    Returns:
        int32 [N, L].
    """
    breaks = tf.pad(~maskable[:, :-1], [[0, 0], [1, 0]], constant_values=True)  # [N, L]
    begins = maskable & (word_starts | breaks)
    return tf.where(maskable, tf.cumsum(tf.cast(begins, tf.int32), axis=1) - 1, -1)


def word_starts(input_ids, vocab):
    """Where words begin: everywhere but at the `##` pieces.

    Args:
        input_ids: int32 [N, L].
        vocab: The `Vocab` of the ids.

    Returns:
        bool [N, L].
    """
    begins = tf.constant([t == SUFFIX or not t.startswith(SUFFIX) for t in vocab.tokens])
    return tf.gather(begins, input_ids)


def maskable(input_ids, vocab):
    """What may be masked: all that stands for text, thus no padding, [CLS], [SEP] nor [UNK].

    Google's code masks [UNK] like a word; here it is spared, as a model that learns to answer
    [UNK] has learned nothing.

    Args:
        input_ids: int32 [N, L].
        vocab: The `Vocab` of the ids.

    Returns:
        bool [N, L].
    """
    special = set(vocab.special_ids)
    return tf.gather(tf.constant([i not in special for i in range(len(vocab))]), input_ids)


def num_to_mask(num_tokens, masked_lm_prob, max_predictions_per_seq):
    """min(max_predictions_per_seq, max(1, round(n * p))), rounded half to even as Python does.

    Args:
        num_tokens: int [N]; tokens of each sequence, [CLS] and [SEP] counted, padding not.
        masked_lm_prob: p.
        max_predictions_per_seq: P.

    Returns:
        int32 [N].
    """
    share = tf.round(tf.cast(num_tokens, tf.float64) * tf.constant(masked_lm_prob, tf.float64))
    return tf.minimum(tf.maximum(tf.cast(share, tf.int32), 1), max_predictions_per_seq)


def select(units, budget, seed):
    """Draws units in random order while they fit the budget; one that would overflow it is skipped.

    The rule is google-research/bert's (`create_masked_lm_predictions`). Where there are fewer
    positions than the budget, all are taken.

    Args:
        units: int32 [N, L], numbers below L, as a masking unit's function gives them.
        budget: int32 [N]; the most positions to take in each sequence.
        seed: int [2], stateless.

    Returns:
        bool [N, L]: the positions taken.
    """
    n, length = tf.unstack(tf.shape(units))
    rows = tf.range(n) * length  # [N]: where each begins in a flat array
    flat = tf.boolean_mask(units + rows[:, tf.newaxis], units >= 0)
    sizes = tf.reshape(tf.math.bincount(flat, minlength=n * length, maxlength=n * length), [n, length])
    keys = tf.random.stateless_uniform([n, length], seed)
    keys = tf.where(sizes > 0, keys, 2.0)  # numbers that no position has come last
    order = tf.argsort(keys, axis=1, stable=True)  # [N, L]: unit numbers in the order drawn
    drawn = tf.gather(sizes, order, batch_dims=1)  # [N, L]

    def not_full(turn, used, _):
        return (turn < length) & tf.reduce_any(used < budget)

    def take(turn, used, taken):
        size = drawn[:, turn]  # [N]
        fits = (size > 0) & (used + size <= budget)
        unit = tf.where(fits, rows + order[:, turn], n * length)  # the last place is for those that do not fit
        return turn + 1, used + tf.where(fits, size, 0), taken.write(turn, unit)

    taken = tf.TensorArray(tf.int32, size=length, element_shape=[None])
    turns, _, taken = tf.while_loop(not_full, take, [0, tf.zeros_like(budget), taken])
    places = tf.reshape(taken.gather(tf.range(turns)), [-1, 1])
    of_unit = tf.scatter_nd(places, tf.ones_like(places[:, 0]), [n * length + 1]) > 0
    return (units >= 0) & tf.gather(of_unit, rows[:, tf.newaxis] + tf.maximum(units, 0))
