"""Tests of tfbert.layers.layer_mix against NumPy, and of the models that mix their layers."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests import reference, tiny
from tests.tiny import LAYERS, N
from tfbert import encoder, heads
from tfbert.layers import dropout, dtype_policy, layer_mix
from tfbert.optimizers import param_groups

SHAPE, COUNT = (2, 3, 5), 4
STATES = [np.random.default_rng(i).normal(size=SHAPE).astype(np.float32) for i in range(COUNT)]
FEATURES = tiny.features()
INPUTS = {name: FEATURES[name] for name in ("input_ids", "input_mask", "segment_ids")}


def layer(rate, weights=(0.02, -0.03, 0.05, 0.0), scale=1.7):
    made = layer_mix.LayerMix(rate, name="mix")
    made.build([SHAPE] * COUNT)
    made.mix_weights.assign(weights)
    made.scale.assign(scale)
    return made


def expected(weights, states, scale=1.7, kept=slice(None)):
    """Peters et al. 2018, equation 1, with 25 times the weights."""
    powers = np.exp(25 * np.asarray(weights, np.float64))[kept]
    return scale * np.tensordot(powers / powers.sum(), np.array(states)[kept], 1)


def test_equals_numpy_and_begins_as_the_mean():
    made = layer(0.4)
    np.testing.assert_allclose(made(STATES), expected((0.02, -0.03, 0.05, 0.0), STATES), rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(layer(0.0)(STATES, training=True), made(STATES))
    fresh = layer_mix.LayerMix(0.0, name="mix")
    np.testing.assert_allclose(fresh(STATES), np.mean(STATES, 0), rtol=1e-5, atol=1e-6)


def test_layers_are_left_out_in_training_alone():
    made, rate, counts = layer(0.4), 0.4, np.zeros(COUNT)
    every = {
        kept: expected((0.02, -0.03, 0.05, 0.0), STATES, kept=[i for i in range(COUNT) if kept >> i & 1])
        for kept in range(1, 2**COUNT)
    }
    every[0] = 1.7 * np.mean(STATES, 0)  # none left: all have the same share
    tries = 300
    for seed in range(tries):
        with dropout.seeded(tf.constant([seed, 1])):
            found = made(STATES, training=True).numpy()
        kept = min(every, key=lambda k: np.abs(every[k] - found).max())
        np.testing.assert_allclose(found, every[kept], rtol=1e-4, atol=1e-5)
        counts += [kept >> i & 1 for i in range(COUNT)]
        with dropout.seeded(tf.constant([seed, 1])):
            np.testing.assert_array_equal(made(STATES, training=True), found)
    assert np.abs(counts / tries - (1 - rate)).max() < 4.5 * np.sqrt(rate * (1 - rate) / tries)
    np.testing.assert_allclose(layer(1.0)(STATES, training=True), every[0], rtol=1e-5, atol=1e-6)


def test_sums_in_float32():
    with dtype_policy.building_in("mixed_bfloat16"):
        made = layer(0.0)
        states = [tf.cast(x, tf.bfloat16) for x in STATES]
        found = made(states)
    assert found.dtype == tf.bfloat16
    exact = expected((0.02, -0.03, 0.05, 0.0), [np.asarray(tf.cast(x, tf.float32)) for x in states])
    np.testing.assert_array_equal(found, tf.cast(exact, tf.bfloat16))


def test_groups():
    paths = [v.path for v in layer(0.1).trainable_variables]
    assert paths == ["mix/weights", "mix/scale"]
    assert not any(param_groups.decay_mask(paths).values())
    assert set(param_groups.rate_scales(paths, 2, 0.5).values()) == {1.0}


@pytest.mark.parametrize("more", [{}, {"embedding_size": 7}], ids=["plain", "factorised"])
def test_an_encoder_mixes_all_of_its_layers(more):
    built = tiny.randomize(encoder.build_encoder(tiny.config(**more), layer_dropout=0.9), scale=0.2)
    weights = tiny.weights(built)
    states = reference.hidden_states(FEATURES, weights, LAYERS, N)
    assert len(states) == LAYERS + 1 == len(weights["mix/weights"])
    mixed = expected(weights["mix/weights"], states, weights["mix/scale"])
    found = built(INPUTS)
    np.testing.assert_allclose(found["sequence_output"], mixed, atol=2e-5)
    pooled = np.tanh(mixed[:, 0] @ weights["bert/pooler/dense/kernel"] + weights["bert/pooler/dense/bias"])
    np.testing.assert_allclose(found["pooled_output"], pooled, atol=2e-5)
    plain = encoder.build_encoder(tiny.config(**more))
    assert {v.path for v in built.variables} - {v.path for v in plain.variables} == {"mix/weights", "mix/scale"}


@pytest.mark.parametrize(
    "build, head",
    [
        (lambda c, **more: heads.build_classifier(c, 3, pooling="mean", **more), "classifier"),
        (lambda c, **more: heads.build_tagger(c, 3, **more), "tokens"),
        (heads.build_span_finder, "squad"),
    ],
    ids=["classify", "tag", "answer"],
)
def test_each_head_has_the_mix(build, head):
    built = tiny.randomize(build(tiny.config(), layer_dropout=0.0))
    taken = keras.Model(built.input, built.get_layer(head).input)(INPUTS)
    mixed = built(INPUTS)["sequence_output"]
    if head == "classifier":
        mask = INPUTS["input_mask"][..., None]
        mixed = (mixed * mask).numpy().sum(1) / mask.sum(1)
    np.testing.assert_allclose(taken, mixed, atol=1e-5)
    weights = {v.path: v for v in built.variables}
    before = built(INPUTS)["logits"].numpy()
    weights["mix/weights"].assign([1.0, 0.0, 0.0])
    assert np.abs(built(INPUTS)["logits"] - before).max() > 1e-3
