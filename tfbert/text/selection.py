"""WHAT to mask: positions drawn at random, unit by unit, up to a budget.

A masking unit is a grouping function: `unit(word_starts, maskable, seeds) -> int32 [N, L]` gives each position
the number of the unit that it belongs to, and -1 to what must never be masked. A unit is a run of neighbours.
All is batched TF, with a stateless seed for each row, so that the same code masks records once (static) and
batches inside a tf.data pipeline (dynamic): what is drawn for a row hangs on its tokens and its seed alone.

One rule serves all units: they are drawn in random order, none twice, and each gives as many of its words, from
its first, as still fit the budget whole. A token or a word thus fits or is passed over, as in
google-research/bert's `create_masked_lm_predictions`; an n-gram backs off to a shorter one, as in ALBERT.
"""

import tensorflow as tf

from tfbert.text import draws
from tfbert.text.vocab import SUFFIX

# ALBERT (Lan et al. 2020, section 4.1): n-grams of 1 to 3 words, p(n) proportional to 1/n.
NGRAM_LAW = (6 / 11, 3 / 11, 2 / 11)
# SpanBERT (Joshi et al. 2020, section 3.1): words of a span ~ Geo(0.2), no more than 10: 3.8 on average.
SPAN_LAW = tuple(0.2 * 0.8**n / (1 - 0.8**10) for n in range(10))
_LOW_BITS = 16  # of a sorting key: a place in the row, so rows have less than 2^16 positions
_LOW = (1 << _LOW_BITS) - 1


def tokens(word_starts, maskable, seeds):
    """Every token is a unit: BERT's first masking (Devlin et al. 2019, section 3.1).

    Args:
        word_starts: bool [N, L], not looked at.
        maskable: bool [N, L].
        seeds: int32 [N, 2], not looked at.

    Returns:
        int32 [N, L].
    """
    del word_starts, seeds
    return tf.where(maskable, tf.range(sizes(maskable)[1])[tf.newaxis, :], -1)  # [N, L]


def whole_words(word_starts, maskable, seeds=None):
    """A word with all its pieces is a unit: google-research/bert's `do_whole_word_mask`.

    A piece whose beginning was cut off, or that follows something that is not maskable, begins a
    unit of its own: a unit never reaches over a [SEP].

    Args:
        word_starts: bool [N, L].
        maskable: bool [N, L].
        seeds: int32 [N, 2], not looked at.

    Returns:
        int32 [N, L].
    """
    del seeds
    return _numbered(maskable & (word_starts | _after_gap(maskable)), maskable)


def ngrams(word_starts, maskable, seeds):
    """One to three words in a row are a unit: ALBERT's n-grams, by `NGRAM_LAW`.

    Args:
        word_starts: bool [N, L].
        maskable: bool [N, L].
        seeds: int32 [N, 2].

    Returns:
        int32 [N, L].
    """
    return _groups(word_starts, maskable, seeds, NGRAM_LAW)


def spans(word_starts, maskable, seeds):
    """One to ten words in a row are a unit: SpanBERT's spans, by `SPAN_LAW`.

    Args:
        word_starts: bool [N, L].
        maskable: bool [N, L].
        seeds: int32 [N, 2].

    Returns:
        int32 [N, L].
    """
    return _groups(word_starts, maskable, seeds, SPAN_LAW)


UNITS = {"token": tokens, "word": whole_words, "ngram": ngrams, "span": spans}


def sizes(x):
    """The shape of a tensor, in numbers where they are known before it runs."""
    dynamic = tf.shape(x)
    return [dynamic[i] if size is None else size for i, size in enumerate(x.shape)]


def largest(x, k, filler):
    """The k largest values of each row in descending order, then `filler` where a row is shorter: [N, k]."""
    length = sizes(x)[1]
    missing = max(0, k - length) if isinstance(length, int) else tf.maximum(0, k - length)
    return tf.math.top_k(tf.pad(x, [[0, 0], [0, missing]], constant_values=filler), k).values


def _after_gap(maskable):
    """Whether the position before is not maskable: bool [N, L]."""
    return tf.pad(~maskable[:, :-1], [[0, 0], [1, 0]], constant_values=True)


def _numbered(begins, maskable):
    """Numbers the runs that begin where `begins` says: int32 [N, L], -1 where not maskable."""
    return tf.where(maskable, _running_sum(tf.cast(begins, tf.int32)) - 1, -1)


def _running_sum(x):
    """tf.cumsum(x, axis=1); where the length is known by doubling steps, which takes half the time."""
    length = x.shape[1]
    if length is None:
        return tf.cumsum(x, axis=1)
    step = 1
    while step < length:
        x += tf.pad(x[:, :-step], [[0, 0], [step, 0]])
        step *= 2
    return x


def _cells(columns, width):
    """Places in [N, width] as places in a flat array; -1 stays: int32 [N * K] from int32 [N, K]."""
    rows = tf.range(sizes(columns)[0])[:, tf.newaxis] * width
    return tf.reshape(tf.where(columns >= 0, rows + columns, -1), [-1])


def _groups(word_starts, maskable, seeds, law):
    """Cuts the words of each row into consecutive groups whose sizes are drawn from a law.

    The cuts are a renewal process in equilibrium: all groups have independent sizes from the law but the first,
    which is what a reader who opens an endless row of such groups at a random place finds left of one: k words
    with probability P(size >= k) / E[size]. So every word begins a group with the same probability, 1 / E[size],
    and which neighbours share its group hangs on no position. `select` takes groups in an order that does not
    ask for their sizes, so the sizes of those taken follow the law too. (The papers draw a start and a length
    for each span, and then have to deal with overlaps and with starts near the end.)

    Two things bend the law. A group ends where the text does (at [SEP] or [UNK]), and the last one taken is cut
    to what the budget leaves. Measured for 15 % of pairs of segments in words of 1.25 pieces: spans of 3.1
    words instead of 3.8 on average at L = 128 (19 positions, thus some four spans), 3.6 at L = 512; n-grams of
    1.56 instead of 1.64, and 1.62. To pass a group over that does not fit bends it further (spans of 2.8
    words at L = 128). As groups are cut at their ends, the first word after a [CLS] or [SEP], which is always
    the first of its group, is masked at 17.7 % with spans and 15.9 % with n-grams at L = 128.

    Args:
        word_starts: bool [N, L].
        maskable: bool [N, L].
        seeds: int32 [N, 2].
        law: Probabilities of 1, 2, ... words.

    Returns:
        int32 [N, L].
    """
    words = whole_words(word_starts, maskable)
    n, length = sizes(words)
    mean = sum(size * p for size, p in enumerate(law, 1))
    left = [sum(law[k:]) / mean for k in range(len(law))]
    number = tf.range(length)
    first = draws.choose(draws.bits(seeds, draws.FIRST_GROUP_SIZE, number[:1]), left)  # [N, 1]
    rest = draws.choose(draws.bits(seeds, draws.GROUP_SIZE, number[1:]), law)  # [N, L - 1]
    cuts = _running_sum(tf.concat([first, rest], axis=1) + 1)  # [N, L], the words at which the next groups begin
    cuts = _cells(tf.where(cuts < length, cuts, -1), length)
    is_cut = tf.math.unsorted_segment_sum(tf.ones_like(cuts), cuts, n * length) > 0  # of each word
    at_cut = tf.reshape(tf.gather(is_cut, tf.maximum(_cells(words, length), 0)), [n, length])
    gap = _after_gap(maskable)
    return _numbered(maskable & (gap | (word_starts & at_cut)), maskable)


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


def select_tokens(maskable, budget, max_predictions_per_seq, seeds):
    """Draws tokens up to the budget: what `select` takes of units of one token, without looking at units.

    Args:
        maskable: bool [N, L].
        budget: int32 [N], at most P; the most positions to take in each sequence.
        max_predictions_per_seq: P.
        seeds: int32 [N, 2].

    Returns:
        int32 [N, P]: the positions taken in ascending order, then -1.
    """
    length = sizes(maskable)[1]
    places = tf.range(length)
    keys = _keys(draws.bits(seeds, draws.ORDER, places), _LOW - places)  # [N, L]
    keys = tf.where(maskable, keys, -1)
    drawn = largest(keys, max_predictions_per_seq, -1)  # [N, P], in the order drawn
    taken = (drawn >= 0) & (tf.range(max_predictions_per_seq) < budget[:, tf.newaxis])
    # What is left of a position from the row's end: the larger, the further to the left.
    from_end = tf.where(taken, tf.cast(tf.bitwise.bitwise_and(drawn, _LOW), tf.int32), -1)
    from_end = tf.math.top_k(from_end, max_predictions_per_seq).values
    return tf.where(from_end >= 0, _LOW - from_end, -1)


def _keys(random_bits, low):
    """Sorting keys, int64, not negative: 31 random bits above the low ones."""
    high = tf.cast(tf.bitwise.right_shift(random_bits, tf.constant(1, tf.uint32)), tf.int64)
    return tf.bitwise.bitwise_or(tf.bitwise.left_shift(high, 2 * _LOW_BITS), tf.cast(low, tf.int64))


def select(units, words, budget, seeds):
    """Draws units in random order; each gives as many of its words, from its first, as fit the budget.

    Where there are fewer positions than the budget, all are taken.

    Args:
        units: int32 [N, L], as a masking unit's function gives them.
        words: int32 [N, L]: the same for `whole_words`. With `words` also for the units, or `tokens`
            for both, units are taken whole or not at all.
        budget: int32 [N]; the most positions to take in each sequence.
        seeds: int32 [N, 2].

    Returns:
        bool [N, L]: the positions taken.
    """
    n, length = sizes(units)
    cells = _cells(words, length)
    size = tf.reshape(tf.math.unsorted_segment_sum(tf.ones_like(cells), cells, n * length), [n, length])
    number = tf.range(length)
    unit = number  # of each word
    if units is not words:
        unit = tf.reshape(tf.math.unsorted_segment_max(tf.reshape(units, [-1]), cells, n * length), [n, length])
    # In order: by unit at random, then from left to right; numbers that no word has come last.
    low = (_LOW - tf.cast(number, tf.int64)) * (1 << _LOW_BITS) + tf.cast(size, tf.int64)
    keys = _keys(draws.bits(seeds, draws.ORDER, unit), low)
    keys = tf.where(size > 0, keys, 0)
    drawn = tf.math.top_k(keys, length).values  # [N, L]
    places = _take(drawn, budget)
    of_word = tf.math.unsorted_segment_sum(tf.ones_like(places), places, n * length) > 0
    return (words >= 0) & tf.reshape(tf.gather(of_word, tf.maximum(cells, 0)), [n, length])


def _take(drawn, budget):
    """Goes through words in the order drawn and takes those that fit.

    Args:
        drawn: int64 [N, L], sorting keys of words; 0 where there are no more.
        budget: int32 [N].

    Returns:
        int32: the words taken as places in a flat array of [N, L], among them any number of -1.
    """
    n, length = sizes(drawn)
    rows = tf.range(n) * length

    def more(turn, left, *_):
        some = tf.reduce_any((left > 0) & (drawn[:, tf.minimum(turn, length - 1)] > 0))
        return (turn == 0) | (turn < length) & some  # once at least, as TensorFlow stacks no fewer

    def take(turn, left, closed, taken):
        unit, word, size = _unpacked(drawn[:, turn])
        fits = (size > 0) & (size <= left) & (unit != closed)
        closed = tf.where(fits, closed, unit)  # a unit gives no more after a word that it could not
        return turn + 1, tf.where(fits, left - size, left), closed, taken.write(turn, tf.where(fits, rows + word, -1))

    taken = tf.TensorArray(tf.int32, size=length, element_shape=[None])
    turns, *_, taken = tf.while_loop(more, take, [0, budget, tf.fill([n], -1), taken])
    return tf.reshape(taken.gather(tf.range(turns)), [-1])


def _unpacked(keys):
    """What `select` made sorting keys of: numbers that tell units apart, the words, and their sizes, all int32."""
    keys = (keys, tf.bitwise.right_shift(keys, _LOW_BITS), tf.bitwise.right_shift(keys, 2 * _LOW_BITS))
    size, word, unit = (tf.cast(k, tf.int32) for k in keys)
    return unit, _LOW - tf.bitwise.bitwise_and(word, _LOW), tf.bitwise.bitwise_and(size, _LOW)
