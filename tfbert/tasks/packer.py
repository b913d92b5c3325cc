"""Which row of a batch lies where in which pack: see `tfbert.layers.packs`.

Rows go, the longest first, each into the first pack that has room for it (first fit decreasing): a batch is packed
while others are trained on. `data_prep.rows.fill` packs all examples of a set once, and may search for it. How large
packs are is chosen in `tfbert.tasks.ladder`.
"""

from typing import NamedTuple

import numpy as np


class Shapes(NamedTuple):
    """What packs of a training look like.

    Attributes:
        width: P, their wordpieces; no row is longer.
        counts: How many of them a batch may be, N, ascending; the last is as many as it has rows.
    """

    width: int
    counts: tuple[int, ...]


def first_fit(lengths, width):
    """Puts rows into packs.

    Args:
        lengths: int [B], of each row, at most `width`.
        width: Of a pack.

    Returns:
        (int64 [B], the pack of each row; int64 [B], the place in it where the row begins).
    """
    pack, begin = np.zeros(len(lengths), np.int64), np.zeros(len(lengths), np.int64)
    used = []
    for row in np.argsort(-lengths, kind="stable"):
        length = lengths[row]
        chosen = next((i for i, end in enumerate(used) if end + length <= width), len(used))
        if chosen == len(used):
            used.append(0)
        pack[row], begin[row] = chosen, used[chosen]
        used[chosen] += length
    return pack, begin


def lay_out(lengths, shapes):
    """Where the wordpieces of a batch of rows are.

    Args:
        lengths: int [B], of each row.
        shapes: The `Shapes`.

    Returns:
        (row: int32 [N, P], 1 + the number of the row that has each place, 0 for none; position: int32 [N, P], in its
        row; places: int32 [B, P], what `packs.ROW_PLACES` is).
    """
    pack, begin = first_fit(lengths, shapes.width)
    count = shapes.counts[np.searchsorted(shapes.counts, pack.max() + 1)]
    number = np.repeat(np.arange(len(lengths)), lengths)  # [T]
    column = np.arange(len(number)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    place = (pack * shapes.width + begin)[number] + column
    row, position = np.zeros((2, count * shapes.width), np.int32)
    row[place], position[place] = number + 1, column
    places = np.zeros((len(lengths), shapes.width), np.int32)
    places[number, column] = place + 1
    return row.reshape(count, -1), position.reshape(count, -1), places
