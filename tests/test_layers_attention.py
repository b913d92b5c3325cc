"""Tests of tfbert.layers.attention, attention_masks and transformer."""

import numpy as np
import pytest
import tensorflow as tf

from tests import reference, tiny
from tests.tiny import B, D, I, L, N
from tfbert import checks
from tfbert.layers import attention, attention_masks, dtype_policy, transformer

HIDDEN = np.random.default_rng(1).normal(size=(B, L, D)).astype(np.float32)
LENGTHS = np.array([11, 7, 1, 5])
PADDING = (np.arange(L) < LENGTHS[:, None]).astype(np.int32)
PATTERNS = {
    "all": np.ones((B, 1, L)),
    "padding": PADDING[:, None],
    "causal": np.tril(np.ones((B, L, L))),
    "one by one": np.tile(np.eye(L), (B, 1, 1)),
}


def bias(pattern):
    return attention_masks.bias(tf.constant(pattern, tf.float32))


def visible(pattern):
    return np.broadcast_to(pattern, (B, L, L)) != 0


def self_attention(**kwargs):
    layer = attention.SelfAttention(D, N, name="self", **kwargs)
    layer.build((None, None, D))
    return tiny.randomize(layer)


def block(activation="gelu", **kwargs):
    layer = transformer.TransformerBlock(D, N, I, activation, name="layer_0", **kwargs)
    layer.build((None, None, D))
    return tiny.randomize(layer)


@pytest.mark.parametrize("name", PATTERNS)
def test_attention_equals_reference(name):
    layer, pattern = self_attention(), PATTERNS[name]
    expected = [
        reference.self_attention(h, v, tiny.weights(layer), "self", N) for h, v in zip(HIDDEN, visible(pattern))
    ]
    found = layer(HIDDEN, bias(pattern))
    assert found.shape == (B, L, D)
    np.testing.assert_allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize("activation", reference.ACTIVATIONS)
def test_block_equals_reference(activation):
    layer, pattern = block(activation), PATTERNS["padding"]
    expected = [
        reference.block(h, v, tiny.weights(layer), "layer_0", N, activation) for h, v in zip(HIDDEN, visible(pattern))
    ]
    np.testing.assert_allclose(layer(HIDDEN, bias(pattern)), expected, atol=1e-5)


def test_block_with_a_mask_for_each_query_equals_reference():
    layer, pattern = block(), PATTERNS["causal"]
    expected = [
        reference.block(h, v, tiny.weights(layer), "layer_0", N, "gelu") for h, v in zip(HIDDEN, visible(pattern))
    ]
    np.testing.assert_allclose(layer(HIDDEN, bias(pattern)), expected, atol=1e-5)


def test_what_is_masked_cannot_be_seen():
    layer = self_attention()
    changed = HIDDEN + 1000.0 * (1 - PADDING)[:, :, None].astype(np.float32)
    before, after = (layer(h, bias(PATTERNS["padding"])).numpy() for h in (HIDDEN, changed))
    real = PADDING.astype(bool)
    np.testing.assert_array_equal(before[real], after[real])
    assert (before[~real] != after[~real]).any()


def test_nothing_visible_attends_as_if_all_were():
    layer = self_attention()
    none, every = (layer(HIDDEN, bias(np.full((B, 1, L), value))) for value in (0.0, 1.0))
    np.testing.assert_allclose(none, every, atol=0.01)  # 10000 leaves few digits to the scores


def test_attention_dropout_1_leaves_no_context():
    layer = self_attention(dropout_rate=1.0)
    np.testing.assert_array_equal(layer(HIDDEN, bias(PATTERNS["all"]), training=True), np.zeros((B, L, D)))
    assert np.any(layer(HIDDEN, bias(PATTERNS["all"]), training=False))


def test_block_dropout_1_leaves_the_norms():
    layer = block(hidden_dropout=1.0)
    params = tiny.weights(layer)
    expected = reference.layer_norm(HIDDEN, params, "layer_0/attention/output/LayerNorm")
    expected = reference.layer_norm(expected, params, "layer_0/output/LayerNorm")
    np.testing.assert_allclose(layer(HIDDEN, bias(PATTERNS["all"]), training=True), expected, atol=1e-5)


def test_heads_must_divide_hidden_size():
    with pytest.raises(checks.InputError, match="hidden_size=10, num_attention_heads=4"):
        attention.SelfAttention(10, 4)


def test_layer_norm_survives_a_constant_row():
    """Padding of a degenerate model: variance 0 and the smallest epsilon in use."""
    layer = transformer.layer_norm()
    x = tf.constant(np.full((2, D), 3.0, np.float32))
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = layer(x)
    np.testing.assert_allclose(y, np.zeros((2, D)), atol=1e-3)
    assert np.isfinite(tape.gradient(y, x)).all()


def test_every_matrix_starts_with_numbers_of_its_own():
    layer = transformer.TransformerBlock(D, N, I, initializer_range=0.02, name="layer_0")
    layer.build((None, None, D))
    kernels = [np.asarray(v) for v in layer.variables if v.path.endswith("kernel")]
    assert len(kernels) == 6
    for i, a in enumerate(kernels):
        assert 0.014 < a.std() < 0.022 and np.abs(a).max() <= 0.0401
        assert all(a.shape != b.shape or (a != b).any() for b in kernels[:i])


def test_padding_bias():
    mask = np.array([[1, 1, 0], [2, 0, 0]], np.int32)  # any number that is not 0 is a token
    found = attention_masks.AttentionBias()(mask)
    assert found.dtype == tf.float32 and found.shape == (2, 1, 1, 3)
    np.testing.assert_array_equal(found[:, 0, 0], [[0, 0, -10000], [0, -10000, -10000]])


def test_packed_pattern():
    mask = np.array([[1, 1, 2, 3, 3, 0], [2, 1, 1, 0, 0, 1]], np.int32)
    expected = [[[float(k == q != 0) for k in row] for q in row] for row in mask]
    found = attention_masks.packed(mask)
    assert found.dtype == tf.float32 and found.shape == (2, 6, 6)
    np.testing.assert_array_equal(found, expected)
    biases = attention_masks.AttentionBias(attention_masks.packed)(mask)
    np.testing.assert_array_equal(biases, (np.array(expected)[:, None] - 1) * 10000)


def test_packed_examples_do_not_see_one_another():
    layer, numbers = self_attention(), np.array([[1] * 4 + [2] * 5 + [0] * 2])
    changed = HIDDEN[:1] + 1000.0 * (numbers != 2)[..., None].astype(np.float32)
    before, after = (layer(h, bias(attention_masks.packed(numbers))).numpy() for h in (HIDDEN[:1], changed))
    np.testing.assert_array_equal(before[0, 4:9], after[0, 4:9])
    alone = layer(HIDDEN[:1, 4:9], bias(np.ones((1, 1, 5))))
    np.testing.assert_allclose(before[:, 4:9], alone, atol=1e-5)


def test_block_computes_in_its_dtype_and_norms_in_float32():
    with dtype_policy.building_in("mixed_bfloat16"):
        layer = transformer.TransformerBlock(D, N, I, name="layer_0")
    graph = tf.function(lambda x: layer(x, bias(PATTERNS["padding"]))).get_concrete_function(
        tf.TensorSpec([B, L, D], tf.bfloat16)
    )
    types = {(op.type, op.outputs[0].dtype) for op in graph.graph.get_operations() if op.outputs}
    assert graph.structured_outputs.dtype == tf.bfloat16
    products = {d for t, d in types if t in ("MatMul", "BatchMatMulV2", "Einsum", "Tensordot")}
    assert products == {tf.bfloat16}
    assert {d for t, d in types if t in ("Softmax", "Rsqrt", "Sqrt", "Mean", "SquaredDifference")} == {tf.float32}
    assert ("Softmax", tf.float32) in types and ("Mean", tf.float32) in types
    assert {v.dtype for v in layer.variables} == {"float32"}
