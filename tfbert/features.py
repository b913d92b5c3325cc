"""THE table of record features: name, type, shape; parser and writer come from the same rows.

Names, types and shapes are those of google-research/bert's `create_pretraining_data.py`. The Model
Garden's second version renames two of them; `recognize` finds out which of the two a file uses.

Two more kinds of record are ours. In unmasked ones, which are masked anew each time they are read (Liu et
al. 2019, section 4.1), `word_starts` takes the place of what was masked. In packed ones a row holds several
examples, which `input_mask` numbers 1, 2, ... (Krell et al. 2021).
"""

import dataclasses
import functools
import itertools

import numpy as np
import tensorflow as tf

from tfbert import checks


@dataclasses.dataclass(frozen=True)
class Feature:
    """One row of the table.

    Attributes:
        name: Ours, which is Google's.
        dtype: In memory; on disk int32 is int64.
        shape: In numbers and the letters L (max_seq_length), P (max_predictions_per_seq) and M
            (max_sequences_per_pack).
        garden_name: Of the Model Garden's version 2, where it differs.
    """

    name: str
    dtype: str
    shape: tuple
    garden_name: str | None = None


_TOKENS = (
    Feature("input_ids", "int32", ("L",), "input_word_ids"),
    Feature("input_mask", "int32", ("L",)),
    Feature("segment_ids", "int32", ("L",), "input_type_ids"),
)
_MASKED = (
    Feature("masked_lm_positions", "int32", ("P",)),
    Feature("masked_lm_ids", "int32", ("P",)),
    Feature("masked_lm_weights", "float32", ("P",)),
)
_UNMASKED = (Feature("word_starts", "int32", ("L",)),)  # 1 where a word begins: what whole words are made of
_SENTENCES = (Feature("next_sentence_labels", "int32", (1,)),)
_PACKED_SENTENCES = (
    Feature("position_ids", "int32", ("L",)),  # from 0 in each example
    Feature("next_sentence_positions", "int32", ("M",)),  # of each example's [CLS]
    Feature("next_sentence_labels", "int32", ("M",)),
    Feature("next_sentence_weights", "float32", ("M",)),  # 0 in the slots that no example uses
)

# The seven of google-research/bert.
PRETRAINING = _TOKENS + _MASKED + _SENTENCES


@dataclasses.dataclass(frozen=True)
class Layout:
    """Which features records have, and their sizes.

    Attributes:
        max_seq_length: L.
        max_predictions_per_seq: P, of a row.
        masked: Whether the records are masked (static masking) or are to be masked as they are read.
        max_sequences_per_pack: M, the most examples in a row; 0 if every row is one example, as Google's.
    """

    max_seq_length: int
    max_predictions_per_seq: int
    masked: bool = True
    max_sequences_per_pack: int = 0

    @property
    def features(self):
        """The `Feature`s, in the order that they are written in."""
        return (
            _TOKENS
            + (_MASKED if self.masked else _UNMASKED)
            + (_PACKED_SENTENCES if self.max_sequences_per_pack else _SENTENCES)
        )

    def shape_of(self, feature):
        """A feature's shape in numbers, without the batch."""
        sizes = {"L": self.max_seq_length, "P": self.max_predictions_per_seq, "M": self.max_sequences_per_pack}
        return tuple(sizes.get(s, s) for s in feature.shape)


def stored_lengths(serialized):
    """{feature name: number of values} of one serialized tf.train.Example."""
    example = tf.train.Example.FromString(serialized)
    return {
        name: len(getattr(value, value.WhichOneof("kind")).value) if value.WhichOneof("kind") else 0
        for name, value in example.features.feature.items()
    }


def recognize(lengths, where):
    """Which of our layouts a record has, and under which names.

    Args:
        lengths: {name on disk: number of values}, as of `stored_lengths`. Features beyond ours do not matter.
        where: The record, for the error.

    Returns:
        (`Layout`, {our name: name on disk}). An unmasked record does not tell P: it is 0 in its layout.

    Raises:
        InputError: the features of no layout are all there.
    """
    for packed, masked, kind in itertools.product((True, False), (True, False), ("name", "garden_name")):
        layout = Layout(0, 0, masked, int(packed))
        names = {f.name: getattr(f, kind) or f.name for f in layout.features}
        if set(names.values()) <= set(lengths):
            sizes = {f.shape[0]: lengths[names[f.name]] for f in reversed(layout.features)}
            return Layout(sizes["L"], sizes.get("P", 0), masked, sizes.get("M", 0)), names
    missing = sorted({f.name for f in PRETRAINING} - set(lengths))
    raise checks.error(
        "records must hold the seven features of BERT pre-training",
        f"{sorted(lengths)}, without {missing}",
        where,
        "Make them with python -m data_prep.create_pretraining_data",
    )


def parse_batch(serialized, layout, names=None):
    """Parses a batch of serialized examples.

    Args:
        serialized: string [B].
        layout: Their `Layout`.
        names: {our name: name on disk}; ours if None.

    Returns:
        {name: int32 or float32 [B, ...]}, under our names.
    """
    names = names or {f.name: f.name for f in layout.features}
    spec = {}
    for f in layout.features:
        kind = tf.int64 if f.dtype == "int32" else tf.float32
        spec[names[f.name]] = tf.io.FixedLenFeature(layout.shape_of(f), kind)
    parsed = tf.io.parse_example(serialized, spec)
    return {f.name: tf.cast(parsed[names[f.name]], f.dtype) for f in layout.features}


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


def _varints(rows):
    """Rows of non-negative integers [N, K] as varints: (bytes of all rows, one after another; sizes of the rows)."""
    groups = -(-int(rows.max()).bit_length() // 7)
    rows = rows.astype(np.uint32 if groups < 5 else np.uint64)
    octets = np.empty((*rows.shape, groups), np.uint8)  # [N, K, groups]
    used = np.ones(octets.shape, bool)
    for g in range(groups):
        group = (rows >> 7 * g).astype(np.uint8) & 127
        if g + 1 < groups:
            more = rows >= 1 << 7 * (g + 1)
            used[:, :, g + 1] = more
            group |= more.view(np.uint8) << 7
        octets[:, :, g] = group
    # np.compress takes a third of the time of octets[used].
    return np.compress(used.ravel(), octets.ravel()).tobytes(), np.count_nonzero(used, axis=(1, 2)).tolist()


def _cut(octets, sizes):
    """Byte strings of the given sizes."""
    return [octets[end - n : end] for n, end in zip(sizes, itertools.accumulate(sizes))]


@functools.lru_cache(maxsize=4096)
def _before_values(name, tag, size):
    """What stands before `size` bytes of values in a Features message: its map's entry opened, key and lengths."""
    # Features.feature is a map: entry {key = 1, value = 2}; a value is {float_list = 2 | int64_list = 3}.
    values = bytes(size)
    entry = _delimited(1, _delimited(1, name.encode()) + _delimited(2, _delimited(tag, _delimited(1, values))))
    return entry[: len(entry) - size]


def serialize_batch(batch, layout):
    """Serializes examples as `tf.train.Example`, without building a message for each.

    Args:
        batch: {name: array [N, ...]} with every feature of the layout.
        layout: The `Layout`.

    Returns:
        A list of N byte strings.

    Raises:
        ValueError: a feature is missing, or an integer is negative.
    """
    if set(batch) != {f.name for f in layout.features}:
        raise ValueError(f"features must be {[f.name for f in layout.features]}; got {sorted(batch)}.")
    count = len(batch[layout.features[0].name])
    fixed = [np.empty((count, 0), np.uint8)]  # blocks [N, any] of what takes as many bytes in every row
    columns = []  # lists of N byte strings
    for f in layout.features:
        values = np.asarray(batch[f.name])
        values = values.reshape(count, np.prod(values.shape[1:], dtype=int))
        if f.dtype == "float32":
            tag, octets = 2, np.ascontiguousarray(values, "<f4").view(np.uint8)
        else:
            low, high = values.min(initial=0), values.max(initial=0)
            if low < 0:
                raise ValueError(f"{f.name} must not be negative; got {low}.")
            tag, octets = 3, values.astype(np.uint8) if high < 128 else None  # one byte a value
        if octets is None:
            octets, sizes = _varints(values)
            before = {n: _before_values(f.name, tag, n) for n in set(sizes)}
            columns += [[before[n] for n in sizes], _cut(octets, sizes)]
        else:
            before = np.frombuffer(_before_values(f.name, tag, octets.shape[1]), np.uint8)
            fixed += [np.broadcast_to(before, (count, len(before))), octets]
    fixed = np.concatenate(fixed, axis=1)
    columns.append(_cut(fixed.tobytes(), [fixed.shape[1]] * count))
    rows = list(map(b"".join, zip(*columns)))
    before = {n: bytes([1 << 3 | 2]) + _varint(n) for n in set(map(len, rows))}
    return [before[len(row)] + row for row in rows]
