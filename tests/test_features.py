"""Tests of tfbert.features."""

import numpy as np
import pytest
import tensorflow as tf

from tests import tiny
from tfbert import checks, features

NAMES = [f.name for f in features.PRETRAINING]


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
    assert set(parsed) == set(batch) == set(NAMES)
    for name in NAMES:
        assert parsed[name].dtype == batch[name].dtype, name
        np.testing.assert_array_equal(parsed[name], batch[name], name)


def test_what_is_serialized_is_what_the_message_holds():
    batch = tiny.features()
    ours = [tf.train.Example.FromString(r) for r in features.serialize_batch(batch)]
    assert ours == [tf.train.Example.FromString(r) for r in examples(batch)]


def test_serialized_records_are_no_longer_than_the_messages():
    batch = tiny.features()
    assert [len(r) for r in features.serialize_batch(batch)] == [len(r) for r in examples(batch)]


@pytest.mark.parametrize("largest", [0, 1, 127, 128, 16383, 16384, 30521, (1 << 21) - 1, 1 << 21, (1 << 31) - 1])
def test_integers_of_every_width_come_back(largest):
    batch = tiny.features()
    batch["input_ids"] = np.random.default_rng(0).integers(0, largest + 1, (tiny.B, tiny.L)).astype(np.int32)
    batch["input_ids"][0, :3] = largest, 0, max(0, largest - 1)
    batch["masked_lm_ids"][-1, -1] = largest
    assert_same(features.parse_batch(features.serialize_batch(batch), tiny.L, tiny.P), batch)


def test_int64_beyond_32_bits_are_written_whole():
    batch = tiny.features()
    batch["input_ids"] = batch["input_ids"].astype(np.int64)
    batch["input_ids"][1, 2] = (1 << 62) + 5
    got = tf.train.Example.FromString(features.serialize_batch(batch)[1]).features.feature["input_ids"]
    assert list(got.int64_list.value) == batch["input_ids"][1].tolist()


def test_a_batch_equals_one_by_one():
    batch = tiny.features()
    whole = features.serialize_batch(batch)
    assert whole == [features.serialize_batch({k: v[i : i + 1] for k, v in batch.items()})[0] for i in range(tiny.B)]


def test_no_examples_give_no_records():
    assert features.serialize_batch({k: v[:0] for k, v in tiny.features().items()}) == []


@pytest.mark.parametrize("kind", ["name", "garden_name"])
def test_records_of_google_and_of_the_model_garden_parse(kind):
    batch = tiny.features()
    records = examples(batch, {f.name: getattr(f, kind) for f in features.PRETRAINING})
    lengths = features.stored_lengths(records[0])
    assert lengths[{"name": "input_ids", "garden_name": "input_word_ids"}[kind]] == tiny.L
    assert lengths["masked_lm_positions"] == tiny.P
    assert lengths["next_sentence_labels"] == 1
    names = features.names_of(lengths, "a.tfrecord")
    assert_same(features.parse_batch(records, tiny.L, tiny.P, names), batch)


def test_features_beyond_the_seven_do_not_disturb():
    batch = tiny.features()
    assert features.names_of([*NAMES, "position_ids"], "a")["input_ids"] == "input_ids"
    records = examples({**batch, "position_ids": batch["input_ids"]})
    assert_same(features.parse_batch(records, tiny.L, tiny.P), batch)


def test_names_of_neither_kind_are_refused():
    with pytest.raises(checks.InputError, match=r"without \['masked_lm_ids'\] \(at some.tfrecord\)"):
        features.names_of([n for n in NAMES if n != "masked_lm_ids"], "some.tfrecord")
    with pytest.raises(checks.InputError, match="seven features"):
        features.names_of([], "empty.tfrecord")


def test_a_feature_without_values_has_length_zero():
    empty = tf.train.Example(features=tf.train.Features(feature={"x": tf.train.Feature()}))
    assert features.stored_lengths(empty.SerializeToString()) == {"x": 0}


def test_wrong_batches_are_refused():
    batch = tiny.features()
    with pytest.raises(ValueError, match="features must be"):
        features.serialize_batch({k: v for k, v in batch.items() if k != "input_mask"})
    batch["segment_ids"][2, 3] = -1
    with pytest.raises(ValueError, match="segment_ids must not be negative; got -1"):
        features.serialize_batch(batch)
