"""Tests of tfbert.features."""

import dataclasses

import numpy as np
import pytest
import tensorflow as tf

from tests import tiny
from tfbert import checks, features

NAMES = [f.name for f in features.PRETRAINING]
STATIC = features.Layout(tiny.L, tiny.P)
LAYOUTS = [features.Layout(tiny.L, tiny.P, masked, m) for masked in (True, False) for m in (0, 3)]


def layout_id(layout):
    return f"{'masked' if layout.masked else 'unmasked'}-{layout.max_sequences_per_pack}"


def batch_of(layout, seed=0, count=tiny.B):
    """Random numbers in the layout's shapes."""
    rng = np.random.default_rng(seed)
    return {
        f.name: rng.integers(0, 200 if "ids" in f.name else 2, (count, *layout.shape_of(f))).astype(f.dtype)
        for f in layout.features
    }


def examples(batch, names=None):
    """The batch as google-research/bert writes it: one tf.train.Example message a record."""
    records = []
    for i in range(len(batch["input_ids"])):
        feature = {}
        for name, values in batch.items():
            row = np.ravel(values[i]).tolist()
            if values.dtype == np.float32:
                value = tf.train.Feature(float_list=tf.train.FloatList(value=row))
            else:
                value = tf.train.Feature(int64_list=tf.train.Int64List(value=row))
            feature[(names or {}).get(name, name)] = value
        records.append(tf.train.Example(features=tf.train.Features(feature=feature)).SerializeToString())
    return records


def assert_same(parsed, batch):
    assert set(parsed) == set(batch)
    for name in batch:
        assert parsed[name].dtype == batch[name].dtype, name
        np.testing.assert_array_equal(parsed[name], batch[name], name)


def test_the_static_layout_is_googles():
    assert STATIC.features == features.PRETRAINING
    shapes = {f.name: STATIC.shape_of(f) for f in STATIC.features}
    tokens = dict.fromkeys(("input_ids", "input_mask", "segment_ids"), (tiny.L,))
    masked = dict.fromkeys(("masked_lm_positions", "masked_lm_ids", "masked_lm_weights"), (tiny.P,))
    assert shapes == {**tokens, **masked, "next_sentence_labels": (1,)}


def test_the_other_layouts_replace_and_add():
    unmasked, packed = features.Layout(11, 6, masked=False), features.Layout(11, 6, max_sequences_per_pack=3)
    names = [{f.name: layout.shape_of(f) for f in layout.features} for layout in (STATIC, unmasked, packed)]
    masked = {"masked_lm_positions", "masked_lm_ids", "masked_lm_weights"}
    assert names[0].keys() - names[1].keys() == masked and names[1].keys() - names[0].keys() == {"word_starts"}
    assert names[0].keys() < names[2].keys()
    more = {n: s for n, s in names[2].items() if n not in names[0] or s != names[0][n]}
    slots = dict.fromkeys(("next_sentence_positions", "next_sentence_labels", "next_sentence_weights"), (3,))
    assert more == {"position_ids": (11,), **slots}


@pytest.mark.parametrize("layout", LAYOUTS, ids=layout_id)
def test_what_is_serialized_is_what_the_message_holds(layout):
    batch = batch_of(layout)
    records = features.serialize_batch(batch, layout)
    assert [tf.train.Example.FromString(r) for r in records] == [
        tf.train.Example.FromString(r) for r in examples(batch)
    ]
    assert [len(r) for r in records] == [len(r) for r in examples(batch)]
    assert_same(features.parse_batch(records, layout), batch)


@pytest.mark.parametrize("layout", LAYOUTS, ids=layout_id)
def test_a_record_tells_its_layout(layout):
    (record,) = features.serialize_batch(batch_of(layout, count=1), layout)
    found, names = features.recognize(features.stored_lengths(record), "a.tfrecord")
    assert found == (layout if layout.masked else dataclasses.replace(layout, max_predictions_per_seq=0))
    assert names == {f.name: f.name for f in layout.features}


@pytest.mark.parametrize("largest", [0, 1, 127, 128, 16383, 16384, 30521, (1 << 21) - 1, 1 << 21, (1 << 31) - 1])
def test_integers_of_every_width_come_back(largest):
    batch = tiny.features()
    batch["input_ids"] = np.random.default_rng(0).integers(0, largest + 1, (tiny.B, tiny.L)).astype(np.int32)
    batch["input_ids"][0, :3] = largest, 0, max(0, largest - 1)
    batch["masked_lm_ids"][-1, -1] = largest
    assert_same(features.parse_batch(features.serialize_batch(batch, STATIC), STATIC), batch)


def test_int64_beyond_32_bits_are_written_whole():
    batch = tiny.features()
    batch["input_ids"] = batch["input_ids"].astype(np.int64)
    batch["input_ids"][1, 2] = (1 << 62) + 5
    got = tf.train.Example.FromString(features.serialize_batch(batch, STATIC)[1]).features.feature["input_ids"]
    assert list(got.int64_list.value) == batch["input_ids"][1].tolist()


def test_a_batch_equals_one_by_one():
    batch = tiny.features()
    whole = features.serialize_batch(batch, STATIC)
    rows = [{k: v[i : i + 1] for k, v in batch.items()} for i in range(tiny.B)]
    assert whole == [features.serialize_batch(row, STATIC)[0] for row in rows]


def test_no_examples_give_no_records():
    assert features.serialize_batch({k: v[:0] for k, v in tiny.features().items()}, STATIC) == []


@pytest.mark.parametrize("kind", ["name", "garden_name"])
def test_records_of_google_and_of_the_model_garden_parse(kind):
    batch = tiny.features()
    records = examples(batch, {f.name: getattr(f, kind) or f.name for f in features.PRETRAINING})
    lengths = features.stored_lengths(records[0])
    assert lengths[{"name": "input_ids", "garden_name": "input_word_ids"}[kind]] == tiny.L
    assert lengths["masked_lm_positions"] == tiny.P
    assert lengths["next_sentence_labels"] == 1
    layout, names = features.recognize(lengths, "a.tfrecord")
    assert layout == STATIC
    assert_same(features.parse_batch(records, layout, names), batch)


def test_features_beyond_the_seven_do_not_disturb():
    batch = tiny.features()
    records = examples({**batch, "position_ids": batch["input_ids"]})
    layout, names = features.recognize(features.stored_lengths(records[0]), "a")
    assert layout == STATIC and list(names) == NAMES
    assert_same(features.parse_batch(records, layout, names), batch)


def test_names_of_neither_kind_are_refused():
    with pytest.raises(checks.InputError, match=r"without \['masked_lm_ids'\] \(at some.tfrecord\)"):
        features.recognize({n: 1 for n in NAMES if n != "masked_lm_ids"}, "some.tfrecord")
    with pytest.raises(checks.InputError, match="seven features"):
        features.recognize({}, "empty.tfrecord")


def test_a_feature_without_values_has_length_zero():
    empty = tf.train.Example(features=tf.train.Features(feature={"x": tf.train.Feature()}))
    assert features.stored_lengths(empty.SerializeToString()) == {"x": 0}


def test_wrong_batches_are_refused():
    batch = tiny.features()
    with pytest.raises(ValueError, match="features must be"):
        features.serialize_batch({k: v for k, v in batch.items() if k != "input_mask"}, STATIC)
    batch["segment_ids"][2, 3] = -1
    with pytest.raises(ValueError, match="segment_ids must not be negative; got -1"):
        features.serialize_batch(batch, STATIC)
