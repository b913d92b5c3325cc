"""Packs examples into rows as a person would, one at a time: what packed batches are tested against."""

import numpy as np


def pack(features, rows, length=None, slots=None, predictions=None):
    """A packed batch of the examples of an unpacked one.

    Args:
        features: Of `tiny.features`: {name: array [B, ...]}.
        rows: For each row, the numbers of its examples.
        length: L of the rows; by default what the longest takes, and one of padding.
        slots: M; by default one more than the most examples of a row.
        predictions: P of the rows; by default what the fullest takes, and one more.

    Returns:
        {name: array [rows, ...]}.
    """
    sizes = features["input_mask"].astype(bool).sum(1)
    masked = features["masked_lm_weights"].astype(bool).sum(1)
    length = length or max(sum(sizes[e] for e in row) for row in rows) + 1
    slots = slots or max(map(len, rows)) + 1
    predictions = predictions or max(sum(masked[e] for e in row) for row in rows) + 1
    widths = dict.fromkeys(("input_ids", "input_mask", "segment_ids", "position_ids"), length)
    widths |= dict.fromkeys(("masked_lm_positions", "masked_lm_ids", "masked_lm_weights"), predictions)
    widths |= dict.fromkeys(("next_sentence_positions", "next_sentence_labels", "next_sentence_weights"), slots)
    batch = {
        name: np.zeros((len(rows), width), np.float32 if name.endswith("weights") else np.int32)
        for name, width in widths.items()
    }
    for r, row in enumerate(rows):
        start = predicted = 0
        for number, e in enumerate(row):
            n, p = sizes[e], masked[e]
            for name in ("input_ids", "segment_ids"):
                batch[name][r, start : start + n] = features[name][e, :n]
            batch["input_mask"][r, start : start + n] = number + 1
            batch["position_ids"][r, start : start + n] = np.arange(n)
            here = slice(predicted, predicted + p)
            batch["masked_lm_positions"][r, here] = features["masked_lm_positions"][e, :p] + start
            batch["masked_lm_ids"][r, here] = features["masked_lm_ids"][e, :p]
            batch["masked_lm_weights"][r, here] = 1
            batch["next_sentence_positions"][r, number] = start
            batch["next_sentence_labels"][r, number] = features["next_sentence_labels"][e, 0]
            batch["next_sentence_weights"][r, number] = 1
            start, predicted = start + n, predicted + p
    return batch
