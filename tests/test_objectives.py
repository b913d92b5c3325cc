"""Tests of tfbert.objectives."""

import math

import numpy as np
import pytest
import tensorflow as tf

from tests import reference, tiny
from tests.tiny import B, P, V
from tfbert import objectives

FEATURES = tiny.features(seed=3)
NAMES = ("masked_lm_loss", "next_sentence_loss")


def random_outputs(seed=0, scale=3.0):
    rng = np.random.default_rng(seed)
    outputs = {
        "masked_lm_logits": rng.normal(scale=scale, size=(B, P, V)).astype(np.float32),
        "next_sentence_logits": rng.normal(scale=scale, size=(B, 2)).astype(np.float32),
    }
    # Make some of the answers right, or accuracy would be tested on zeros.
    for b in range(B):
        outputs["masked_lm_logits"][b, 0, FEATURES["masked_lm_ids"][b, 0]] += 20.0
    return outputs


OUTPUTS = random_outputs()


def both(outputs, features):
    outputs = {k: tf.constant(v) for k, v in outputs.items()}
    return objectives.pretraining_losses(outputs, features) | objectives.pretraining_metrics(outputs, features)


def numbers(pairs):
    return {name: tuple(float(x) for x in pair) for name, pair in pairs.items()}


@pytest.mark.parametrize("weights", [None, [1, 1, 1, 1], [1, 0, 1, 0], [0.5, 2, 0, 1]])
def test_equal_reference(weights):
    features = FEATURES if weights is None else FEATURES | {"example_weights": np.array(weights, np.float32)}
    found, expected = numbers(both(OUTPUTS, features)), reference.pretraining_losses(OUTPUTS, features)
    assert set(found) == set(expected)
    for name, pair in expected.items():
        np.testing.assert_allclose(found[name], pair, rtol=1e-5, err_msg=name)
    assert found["masked_lm_accuracy"][0] > 0


def test_a_worked_example():
    """Even scores: log V nats a masked position, log 2 a sequence."""
    outputs = {k: np.zeros_like(v) for k, v in OUTPUTS.items()}
    found = numbers(both(outputs, FEATURES))
    masked = FEATURES["masked_lm_weights"].sum()
    np.testing.assert_allclose(found["masked_lm_loss"], (masked * math.log(V), masked), rtol=1e-5)
    np.testing.assert_allclose(found["next_sentence_loss"], (B * math.log(2), B), rtol=1e-5)


def test_slots_of_weight_0_do_not_count():
    outputs, empty = {k: v.copy() for k, v in OUTPUTS.items()}, FEATURES["masked_lm_weights"] == 0
    assert empty.any()
    outputs["masked_lm_logits"][empty] = 1000.0 * np.random.default_rng(1).normal(size=(empty.sum(), V))
    assert numbers(both(outputs, FEATURES)) == numbers(both(OUTPUTS, FEATURES))


def test_what_has_no_weight_may_be_anything():
    """An example of padding may overflow; it must not reach the sums of an evaluation."""
    features = FEATURES | {"example_weights": np.array([1, 1, 1, 0], np.float32)}
    outputs = {k: v.copy() for k, v in OUTPUTS.items()}
    for value in outputs.values():
        value[3] = np.inf
    expected = numbers(both(OUTPUTS, features))
    for name, pair in numbers(both(outputs, features)).items():
        assert pair == pytest.approx(expected[name]), name


def test_padded_batch_equals_the_short_batch():
    short_features = {k: v[:3] for k, v in FEATURES.items()}
    short_outputs = {k: v[:3] for k, v in OUTPUTS.items()}
    padded = {k: np.concatenate([v[:3], np.zeros_like(v[:1])]) for k, v in FEATURES.items()}
    padded["example_weights"] = np.array([1, 1, 1, 0], np.float32)
    expected = numbers(both(short_outputs, short_features))
    for name, pair in numbers(both(OUTPUTS, padded)).items():
        assert pair == pytest.approx(expected[name], rel=1e-6), name


def test_parts_add_up_to_the_whole():
    """Micro-batches of different weight: sums and weights add, and means would not."""
    whole = numbers(both(OUTPUTS, FEATURES))
    parts = [
        numbers(both({k: v[at] for k, v in OUTPUTS.items()}, {k: v[at] for k, v in FEATURES.items()}))
        for at in (slice(0, 1), slice(1, 4))
    ]
    for name, pair in whole.items():
        np.testing.assert_allclose(np.sum([p[name] for p in parts], 0), pair, rtol=1e-5, err_msg=name)
    means = [p["masked_lm_loss"][0] / p["masked_lm_loss"][1] for p in parts]
    assert np.mean(means) != pytest.approx(whole["masked_lm_loss"][0] / whole["masked_lm_loss"][1], rel=1e-3)


def test_weights_are_known_from_features_alone():
    for features in (FEATURES, FEATURES | {"example_weights": np.array([1, 0, 0.5, 1], np.float32)}):
        weights = objectives.pretraining_weights(features)
        losses = objectives.pretraining_losses({k: tf.constant(v) for k, v in OUTPUTS.items()}, features)
        assert list(weights) == list(losses) == list(NAMES)
        for name in NAMES:
            assert float(weights[name]) == float(losses[name][1])


def test_all_are_float32_scalars_also_from_bfloat16():
    outputs = {k: tf.cast(v, tf.bfloat16) for k, v in OUTPUTS.items()}
    pairs = objectives.pretraining_losses(outputs, FEATURES) | objectives.pretraining_metrics(outputs, FEATURES)
    for pair in pairs.values():
        assert all(x.dtype == tf.float32 and x.shape == () for x in pair)


def test_labels_may_have_one_axis():
    flat = FEATURES | {"next_sentence_labels": FEATURES["next_sentence_labels"][:, 0]}
    assert numbers(both(OUTPUTS, flat)) == numbers(both(OUTPUTS, FEATURES))


def test_no_masked_position_gives_zeros():
    nothing = FEATURES | {"masked_lm_weights": np.zeros((B, P), np.float32)}
    found = numbers(both(OUTPUTS, nothing))
    assert found["masked_lm_loss"] == found["masked_lm_accuracy"] == (0.0, 0.0)


def test_gradients_are_zero_where_the_weight_is():
    logits = tf.constant(OUTPUTS["masked_lm_logits"])
    with tf.GradientTape() as tape:
        tape.watch(logits)
        losses = objectives.pretraining_losses(OUTPUTS | {"masked_lm_logits": logits}, FEATURES)
        total = losses["masked_lm_loss"][0]
    gradient = tape.gradient(total, logits).numpy()
    used = FEATURES["masked_lm_weights"] != 0
    assert not gradient[~used].any()
    assert (np.abs(gradient[used]).max(-1) > 0).all()
    np.testing.assert_allclose(gradient.sum(-1), 0, atol=1e-5)  # softmax minus one-hot


SLOTS = 3
PACKED = {k: v for k, v in FEATURES.items() if k != "next_sentence_labels"} | {
    "next_sentence_labels": np.array([[1, 0, 1], [0, 1, 0], [1, 0, 0], [0, 0, 0]], np.int32),
    "next_sentence_weights": np.array([[1, 1, 1], [1, 1, 0], [1, 0, 0], [0, 0, 0]], np.float32),
}
PACKED_OUTPUTS = OUTPUTS | {
    "next_sentence_logits": np.random.default_rng(4).normal(scale=3, size=(B, SLOTS, 2)).astype(np.float32)
}


@pytest.mark.parametrize("weights", [None, [1, 0, 1, 1]])
def test_examples_of_packed_rows_count_one_each(weights):
    features = PACKED if weights is None else PACKED | {"example_weights": np.array(weights, np.float32)}
    found = numbers(both(PACKED_OUTPUTS, features))
    expected = np.zeros((2, 2))
    for b in range(B):
        for m in range(SLOTS):
            if PACKED["next_sentence_weights"][b, m] and (weights is None or weights[b]):
                logits, label = PACKED_OUTPUTS["next_sentence_logits"][b, m], PACKED["next_sentence_labels"][b, m]
                expected[0] += reference.negative_log_likelihood(logits.astype(float), label), 1
                expected[1] += float(logits.argmax() == label), 1
    assert expected[0, 1] == (6 if weights is None else 4)
    np.testing.assert_allclose(found["next_sentence_loss"], expected[0], rtol=1e-5)
    np.testing.assert_allclose(found["next_sentence_accuracy"], expected[1])
    assert float(objectives.pretraining_weights(features)["next_sentence_loss"]) == expected[0, 1]
    masked = numbers(both(OUTPUTS, FEATURES | {k: v for k, v in features.items() if k == "example_weights"}))
    assert found["masked_lm_loss"] == masked["masked_lm_loss"]


def test_a_task_without_labels_is_left_out():
    features = {k: v for k, v in FEATURES.items() if k != "next_sentence_labels"}
    found, whole = numbers(both(OUTPUTS, features)), numbers(both(OUTPUTS, FEATURES))
    assert found == {n: whole[n] for n in ("masked_lm_loss", "masked_lm_accuracy")}
    assert list(objectives.pretraining_weights(features)) == ["masked_lm_loss"]
