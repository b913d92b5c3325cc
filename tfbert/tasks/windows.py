"""Texts that are longer than a model: overlapping windows, and which of them knows most about a place."""

import numpy as np


def cut(length, room, stride):
    """Cuts wordpieces into windows that overlap, as google-research/bert's run_squad.py does.

    Args:
        length: Wordpieces of the text.
        room: The most wordpieces of a window, at least 1.
        stride: Wordpieces from one window's beginning to the next one's, at least 1; no more than `room` counts, so
            that nothing is left out between windows.

    Returns:
        int64 [W, 2], beginnings and ends (exclusive); one window for an empty text.
    """
    stride = min(stride, room)
    begins = np.arange(0, max(length - room, 0) + stride, stride)  # the last is the first that reaches the end
    return np.stack([begins, np.minimum(begins + room, length)], 1)


def best(windows, length):
    """Which window holds each place with the most context: the lesser of what is left and right of it.

    The score is run_squad.py's: min(left, right) + 0.01 * the window's length; of equal ones the first counts.

    Args:
        windows: As `cut` gives them.
        length: Wordpieces of the text.

    Returns:
        int64 [length], numbers of windows.
    """
    place = np.arange(length)
    begin, end = windows[:, :1], windows[:, 1:]
    context = np.minimum(place - begin, end - 1 - place)  # [W, length], negative outside
    # In hundredths, so that equal scores are equal numbers.
    return np.argmax(np.where(context >= 0, 100 * context + end - begin, -1), 0)
