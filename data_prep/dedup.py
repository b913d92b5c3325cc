"""Exact duplicates across a corpus of any size, by the digests that reading it left on disk.

The digests of every span lie sorted. So those of all spans that begin with the same bits are a slice of each
file, and the duplicates among them are found in memory, slice after slice. The first in the order of the
corpus stays.
"""

import numpy as np

from data_prep import token_files

AT_ONCE = 1 << 21  # digests in memory


def find(folder, num_spans):
    """Finds what comes twice and writes, for each span, the numbers to drop.

    Args:
        folder: Where `token_files.write` wrote to.
        num_spans: Spans 0 to this.

    Returns:
        How many are dropped.
    """
    files = [token_files.digests(folder, span) for span in range(num_spans)]
    slices = max(1, -(-sum(f.shape[1] for f in files) // AT_ONCE))
    found = [[] for _ in files]
    total, begins = 0, [0] * num_spans
    for number in range(1, slices + 1):
        last = number == slices  # its bound, 2**64, is no uint64
        bound = None if last else np.uint64((number << 64) // slices)
        ends = [f.shape[1] if last else int(np.searchsorted(f[0], bound)) for f in files]
        parts = [f[:, a:b] for f, a, b in zip(files, begins, ends)]
        span = np.repeat(np.arange(num_spans), [p.shape[1] for p in parts])
        spans, numbers = _again(np.concatenate(parts, axis=1), span)
        for s in np.unique(spans).tolist():
            found[s].append(numbers[spans == s])
        total += len(numbers)
        begins = ends
    for s, numbers in enumerate(found):
        if numbers:
            token_files.write_dropped(folder, s, np.sort(np.concatenate(numbers)))
    return total


def _again(digests, span):
    """Spans and numbers of all but the first of each digest: int64 [N] each."""
    high, low, number = digests
    order = np.lexsort((number, span, low, high))
    same = (high[order][1:] == high[order][:-1]) & (low[order][1:] == low[order][:-1])
    again = order[1:][same]
    return span[again], number[again].astype(np.int64)
