"""Tests of tfbert.layers.embeddings, pooler, activations and initializers."""

import math

import numpy as np
import pytest
import tensorflow as tf

from tests import reference, tiny
from tests.tiny import MAX_L, SEGMENTS, B, D, L, V
from tfbert import checks
from tfbert.layers import activations, embeddings, initializers, pooler

FEATURES = tiny.features()


def made(**kwargs):
    layer = embeddings.Embeddings(V, D, MAX_L, SEGMENTS, name="embeddings", **kwargs)
    layer.build()
    return tiny.randomize(layer)


def test_embeddings_equal_reference():
    layer = made()
    expected = [
        reference.embed(ids, segments, tiny.weights(layer), "embeddings")
        for ids, segments in zip(FEATURES["input_ids"], FEATURES["segment_ids"])
    ]
    found, table = layer(FEATURES["input_ids"], FEATURES["segment_ids"])
    np.testing.assert_array_equal(table, layer.word_embeddings)
    assert found.shape == (B, L, D)
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_dropout_comes_last():
    layer = made(dropout_rate=1.0)
    found, _ = layer(FEATURES["input_ids"], FEATURES["segment_ids"], training=True)
    np.testing.assert_array_equal(found, np.zeros((B, L, D)))


def test_longest_sequence_and_one_more():
    layer = made()
    longest = np.ones((1, MAX_L), np.int32)
    assert layer(longest, longest * 0)[0].shape == (1, MAX_L, D)
    longer = np.ones((1, MAX_L + 1), np.int32)
    with pytest.raises(checks.InputError, match="24 tokens, max_position_embeddings=23"):
        layer(longer, longer * 0)

    @tf.function(input_signature=[tf.TensorSpec([None, None], tf.int32)])
    def any_length(ids):
        return layer(ids, ids * 0)[0]

    assert any_length(longest).shape == (1, MAX_L, D)
    with pytest.raises(tf.errors.InvalidArgumentError):
        any_length(longer)


def test_pooler_reads_the_first_token_alone():
    layer = pooler.Pooler(D, name="pooler")
    hidden = np.random.default_rng(2).normal(size=(B, L, D)).astype(np.float32)
    layer.build(hidden.shape)
    tiny.randomize(layer)
    expected = np.tanh(reference.dense(hidden[:, 0], tiny.weights(layer), "pooler/dense"))
    found = layer(hidden)
    assert found.shape == (B, D)
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_position_ids_look_positions_up():
    layer, ids, segments = made(), FEATURES["input_ids"], FEATURES["segment_ids"]

    def embedded(*args):
        return layer(*args)[0]

    counted = np.tile(np.arange(L), (B, 1))
    np.testing.assert_array_equal(embedded(ids, segments, counted), embedded(ids, segments))
    begin = 7  # what stands there with positions from 0 is what would stand at the front
    restarting = np.where(counted < begin, counted, counted - begin)
    found, front = embedded(ids, segments, restarting), embedded(ids[:, begin:], segments[:, begin:])
    np.testing.assert_allclose(found[:, begin:], front, atol=1e-6)
    np.testing.assert_array_equal(found[:, :begin], embedded(ids, segments)[:, :begin])


def test_a_row_of_several_examples_may_be_longer_than_one_example():
    row = np.ones((1, MAX_L + 5), np.int32)
    assert made()(row, row * 0, np.arange(MAX_L + 5)[None] % 9)[0].shape == (1, MAX_L + 5, D)


def test_pooler_reads_the_given_tokens():
    layer = pooler.Pooler(D, name="pooler")
    hidden = np.random.default_rng(2).normal(size=(B, L, D)).astype(np.float32)
    layer.build(hidden.shape)
    tiny.randomize(layer)
    positions = np.random.default_rng(3).integers(0, L, (B, 3))
    found = layer(hidden, positions)
    assert found.shape == (B, 3, D)
    for b in range(B):
        for m in range(3):
            alone = layer(hidden[b : b + 1, positions[b, m] :])
            np.testing.assert_allclose(found[b, m], alone[0], atol=1e-6)


@pytest.mark.parametrize("name", activations.BY_NAME)
def test_activations_equal_reference(name):
    x = np.linspace(-8, 8, 1001)
    np.testing.assert_allclose(activations.BY_NAME[name](x), reference.ACTIVATIONS[name](x), atol=1e-7)


def test_gelu_is_the_approximation_and_not_the_exact_form():
    x = np.linspace(-4, 4, 801)
    exact = np.array([0.5 * v * (1 + math.erf(v / math.sqrt(2))) for v in x])
    assert 4e-4 < np.abs(activations.gelu(x) - exact).max() < 5e-4


def test_truncated_normal():
    drawn = np.asarray(initializers.truncated_normal(0.02)((500, 400)))
    assert np.abs(drawn).max() <= 0.04 + 1e-7
    assert abs(drawn.mean()) < 3e-4
    # Cut at two deviations, a normal keeps 0.8796 of its deviation; google-research/bert does not make up for it.
    assert drawn.std() == pytest.approx(0.02 * 0.8796, rel=0.01)
