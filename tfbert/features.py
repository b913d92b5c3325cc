"""THE table of record features: name, type, shape; parser and writer come from the same rows.

Names, types and shapes are those of google-research/bert's `create_pretraining_data.py`. The Model
Garden's second version renames two of them; `names_of` recognises which of the two a file uses.
"""

import dataclasses
import functools

import numpy as np
import tensorflow as tf

from tfbert import checks


@dataclasses.dataclass(frozen=True)
class Feature:
    """One row: `shape` is in the letters L (max_seq_length) and P (max_predictions_per_seq) or numbers."""

    name: str
    dtype: str  # in memory; on disk int32 is int64
    shape: tuple
    garden_name: str  # the Model Garden's version 2


PRETRAINING = (
    Feature("input_ids", "int32", ("L",), "input_word_ids"),
    Feature("input_mask", "int32", ("L",), "input_mask"),
    Feature("segment_ids", "int32", ("L",), "input_type_ids"),
    Feature("masked_lm_positions", "int32", ("P",), "masked_lm_positions"),
    Feature("masked_lm_ids", "int32", ("P",), "masked_lm_ids"),
    Feature("masked_lm_weights", "float32", ("P",), "masked_lm_weights"),
    Feature("next_sentence_labels", "int32", (1,), "next_sentence_labels"),
)


def shape_of(feature, max_seq_length, max_predictions_per_seq):
    """The shape in numbers, without the batch."""
    sizes = {"L": max_seq_length, "P": max_predictions_per_seq}
    return tuple(sizes.get(s, s) for s in feature.shape)


def stored_lengths(serialized):
    """{feature name: number of values} of one serialized tf.train.Example."""
    example = tf.train.Example.FromString(serialized)
    return {
        name: len(getattr(value, value.WhichOneof("kind")).value) if value.WhichOneof("kind") else 0
        for name, value in example.features.feature.items()
    }


def names_of(stored, where):
    """Which names a record uses: {our name: name on disk}.

    Args:
        stored: The names in the record, as of `stored_lengths`.
        where: The file, for the error.

    Raises:
        InputError: neither Google's nor the Model Garden's names are all there.
    """
    for kind in ("name", "garden_name"):
        names = {f.name: getattr(f, kind) for f in PRETRAINING}
        if set(names.values()) <= set(stored):
            return names
    missing = sorted({f.name for f in PRETRAINING} - set(stored))
    raise checks.error(
        "records must hold the seven features of BERT pre-training",
        f"{sorted(stored)}, without {missing}",
        where,
        "Make them with python -m data_prep.create_pretraining_data",
    )


def parse_batch(serialized, max_seq_length, max_predictions_per_seq, names=None):
    """Parses a batch of serialized examples.

    Args:
        serialized: string [B].
        max_seq_length: L.
        max_predictions_per_seq: P.
        names: {our name: name on disk}; Google's if None.

    Returns:
        {name: int32 or float32 [B, ...]}, under our names.
    """
    names = names or {f.name: f.name for f in PRETRAINING}
    spec = {}
    for f in PRETRAINING:
        kind = tf.int64 if f.dtype == "int32" else tf.float32
        spec[names[f.name]] = tf.io.FixedLenFeature(shape_of(f, max_seq_length, max_predictions_per_seq), kind)
    parsed = tf.io.parse_example(serialized, spec)
    return {f.name: tf.cast(parsed[names[f.name]], f.dtype) for f in PRETRAINING}


def _varint(value):
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    out.append(value)
    return bytes(out)


def _delimited(tag, payload):
    """A length-delimited field of the protocol buffer wire format."""
    return bytes([tag << 3 | 2]) + _varint(len(payload)) + payload


def _packed_varints(rows):
    """Each row of non-negative integers [N, K] as packed varints: a list of N byte strings."""
    largest = int(rows.max(initial=0))
    if largest < 128:  # one byte a value
        return [row.tobytes() for row in rows.astype(np.uint8)]
    groups = -(-largest.bit_length() // 7)
    rows = rows.astype(np.uint32 if largest < 1 << 32 else np.uint64)
    octets = np.empty((*rows.shape, groups), np.uint8)  # [N, K, groups]
    used = np.empty(octets.shape, bool)
    for g in range(groups):
        more = rows >= 1 << 7 * (g + 1)
        octets[:, :, g] = (rows >> 7 * g) & 127 | more.astype(np.uint8) << 7
        used[:, :, g] = rows >= 1 << 7 * g if g else True
    flat = octets[used].tobytes()
    ends = np.cumsum(used.sum((1, 2))).tolist()
    return [flat[a:b] for a, b in zip([0, *ends[:-1]], ends)]


@functools.lru_cache(maxsize=4096)
def _before_values(name, tag, size):
    """What stands before `size` bytes of values in a Features message: its map's entry opened, key and lengths."""
    # Features.feature is a map: entry {key = 1, value = 2}; a value is {float_list = 2 | int64_list = 3}.
    values = bytes(size)
    entry = _delimited(1, _delimited(1, name.encode()) + _delimited(2, _delimited(tag, _delimited(1, values))))
    return entry[: len(entry) - size]


def serialize_batch(batch):
    """Serializes examples as `tf.train.Example`, without building a message for each.

    Args:
        batch: {name: array [N, ...]} with every feature of `PRETRAINING`.

    Returns:
        A list of N byte strings.

    Raises:
        ValueError: a feature is missing, or an integer is negative.
    """
    if set(batch) != {f.name for f in PRETRAINING}:
        raise ValueError(f"features must be {[f.name for f in PRETRAINING]}; got {sorted(batch)}.")
    columns = []
    for f in PRETRAINING:
        values = np.asarray(batch[f.name])
        values = values.reshape(len(values), np.prod(values.shape[1:], dtype=int))
        if f.dtype == "float32":
            packed, tag = [row.tobytes() for row in values.astype("<f4")], 2
        else:
            if values.size and values.min() < 0:
                raise ValueError(f"{f.name} must not be negative; got {values.min()}.")
            packed, tag = _packed_varints(values), 3
        columns += [[_before_values(f.name, tag, len(p)) for p in packed], packed]
    return [_delimited(1, b"".join(row)) for row in zip(*columns)]
