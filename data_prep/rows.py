"""Fills rows with several examples each, so that little of a batch is padding.

Krell et al. 2021, "Efficient sequence packing without cross-contamination", section 3.2, work on the
histogram of lengths, since examples of one length are alike: the search is over a few hundred numbers,
however many examples there are. So does this. It looks for one combination of lengths that fills a row
exactly, makes as many rows of it as there are examples for, and goes on with the rest. Best fit, which
takes the longest that fits, ends up at gaps of 2 and 3 %; here a length is taken only if what is then left
can be filled too.

Sets of lengths are integers whose bit n says whether n is in the set.
"""

import collections

import numpy as np

from tfbert import checks


def _sums(lengths, size):
    """The set of all numbers up to `size` that are sums of the lengths, each taken any number of times."""
    below, sums = (2 << size) - 1, 1
    for length in lengths:
        while length <= size:
            sums |= sums << length & below
            length *= 2
    return sums


def _combination(counts, available, sums, mirrored, size, places, short_first):
    """One row: {length: how often}, the longest length among them.

    Args:
        counts: {length: examples left}.
        available: The set of the lengths.
        sums: Of `_sums`.
        mirrored: `sums` from the other end: bit n says whether size - n is in it.
        size: L.
        places: M.
        short_first: Whether to take the shortest lengths that can fill the row within its places, or the longest.
    """
    row, left = collections.Counter(), size
    longest = available.bit_length() - 1
    length = longest
    while True:
        row[length] += 1
        left, places = left - length, places - 1
        if row[length] == counts[length]:
            available &= ~(1 << length)
        fitting = available & (2 << left) - 1
        if not places or not fitting:
            return row
        goal = (sums & (2 << left) - 1).bit_length() - 1  # the most tokens of `left` that can be used
        exact = fitting & mirrored >> size - goal  # lengths n with goal - n in sums
        if short_first:
            least = max(0, goal - (places - 1) * longest)  # a shorter one would leave too much for the other places
            wide = exact >> least << least
            length = (wide & -wide).bit_length() - 1 if wide else fitting.bit_length() - 1
        else:
            length = (exact or fitting).bit_length() - 1


def _combinations(lengths, counts, size, places, short_first):
    """[({length: how often}, number of rows)] that use up all examples."""
    counts = dict(zip(lengths, counts))
    found, available, sums = [], sum(1 << n for n in counts), None
    while available:
        if sums is None:
            sums = _sums([n for n in counts if counts[n]], size)
            mirrored = int(f"{sums:0{size + 1}b}"[::-1], 2)
        row = _combination(counts, available, sums, mirrored, size, places, short_first)
        times = min(counts[n] // often for n, often in row.items())
        found.append((row, times))
        for n, often in row.items():
            counts[n] -= often * times
            if not counts[n]:
                available &= ~(1 << n)
                sums = None
    return found


def fill(lengths, max_seq_length, max_sequences_per_pack):
    """Puts examples into as few rows as it can find.

    Taking long examples first leaves the short ones, which fill gaps best, for the end. If the last rows then
    have too few places for them, taking the short ones first is tried too.

    Args:
        lengths: int [N], tokens of each example, [CLS] and [SEP]s included.
        max_seq_length: L.
        max_sequences_per_pack: M, the most examples in a row.

    Returns:
        (row int64 [N], place int64 [N]): the row of each example, from 0 to the number of rows less 1, and its
        ordinal in that row, 0 to M - 1. A function of the arguments alone; rows of the same lengths follow one
        another.

    Raises:
        InputError: an example is longer than a row, or empty.
    """
    lengths = np.asarray(lengths, np.int64)
    low, high = lengths.min(initial=max_seq_length), lengths.max(initial=1)
    checks.require(
        low >= 1 and high <= max_seq_length,
        "an example must have from 1 to max_seq_length tokens",
        f"{low} to {high} tokens, max_seq_length={max_seq_length}",
    )
    checks.require(max_sequences_per_pack >= 1, "a row must hold an example", f"{max_sequences_per_pack=}")
    values, counts = np.unique(lengths, return_counts=True)
    arguments = values.tolist(), counts.tolist(), max_seq_length, max_sequences_per_pack
    found = _combinations(*arguments, short_first=False)
    least = max(-(-int(lengths.sum()) // max_seq_length), -(-len(lengths) // max_sequences_per_pack))
    if _rows_of(found) > 1.005 * least:
        found = min(found, _combinations(*arguments, short_first=True), key=_rows_of)
    return _assign(lengths, found)


def _rows_of(found):
    return sum(times for _, times in found)


def _assign(lengths, found):
    """Rows and places: the examples of a length are given out in their order."""
    order = np.argsort(lengths, kind="stable")
    first = np.searchsorted(lengths[order], np.arange(lengths.max(initial=0) + 1)).tolist()  # in `order`, not given out
    row, place = np.empty(len(lengths), np.int64), np.empty(len(lengths), np.int64)
    rows = 0
    for combination, times in found:
        at = 0
        for n, often in combination.items():
            indices = order[first[n] : first[n] + often * times]
            first[n] += len(indices)
            row[indices] = np.repeat(np.arange(rows, rows + times), often)
            place[indices] = np.tile(np.arange(at, at + often), times)
            at += often
        rows += times
    return row, place
