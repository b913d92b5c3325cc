"""Tests of what layers compute in training, where compiled functions take the place of plain operations.

Values are those of the NumPy reference; gradients are held against differences of it, one variable at a time.
"""

import numpy as np
import pytest
import tensorflow as tf

from tests import reference, tiny
from tests.tiny import MAX_L, SEGMENTS, B, D, I, L, N, P, V
from tfbert.layers import (
    activations,
    attention,
    attention_masks,
    compiled,
    dense,
    dropout,
    dtype_policy,
    embeddings,
    transformer,
)

RNG = np.random.default_rng(5)
HIDDEN = RNG.normal(size=(B, L, D))
OUTER = RNG.normal(size=(B, L, D))  # of a weighted sum of outputs, so that each has a gradient of its own
PADDING = (np.arange(L) < np.array([11, 7, 2, 5])[:, None]).astype(np.int32)
VISIBLE = np.broadcast_to(PADDING[:, None] != 0, (B, L, L))
WORDS = tf.constant([12345, -67890])
RATE = 0.25


def differences(function, arrays, step=1e-5):
    """{name: (direction, derivative of function(arrays) along it)}: a random direction in each array."""
    found = {}
    for i, (name, array) in enumerate(arrays.items()):
        direction = np.random.default_rng(i).normal(size=array.shape)
        ends = [function({**arrays, name: array + sign * step * direction}) for sign in (1, -1)]
        found[name] = direction, (ends[0] - ends[1]) / (2 * step)
    return found


def check_gradients(gradients, function, arrays):
    for name, (direction, expected) in differences(function, arrays).items():
        got = np.sum(np.asarray(gradients[name], np.float64) * direction)
        np.testing.assert_allclose(got, expected, rtol=2e-4, atol=2e-4, err_msg=name)


def of_tensors(function, arrays):
    """(value, {name: gradient}) of a function of {name: tensor}."""
    tensors = {name: tf.constant(array, tf.float32) for name, array in arrays.items()}
    with tf.GradientTape() as tape:
        tape.watch(tensors)
        y = function(tensors)
    return y, tape.gradient(y, tensors)


def kept(shape, rate=RATE):
    """The mask of `WORDS`, scaled."""
    return dropout.drop(tf.ones(shape), rate, WORDS).numpy().astype(np.float64)


@pytest.mark.parametrize("activation", ["gelu", "gelu_erf"])
def test_block(activation):
    layer = transformer.TransformerBlock(D, N, I, activation, name="layer_0")
    layer.build((None, None, D))
    tiny.randomize(layer)

    def plain(arrays):
        rows = [
            reference.block(h, v, arrays, "layer_0", N, activation, 1e-12) for h, v in zip(arrays["hidden"], VISIBLE)
        ]
        return np.sum(OUTER * rows)

    hidden = tf.constant(HIDDEN, tf.float32)
    with tf.GradientTape() as tape:
        tape.watch(hidden)
        y = layer(hidden, attention_masks.bias(attention_masks.padding(PADDING)), training=True)
        loss = tf.reduce_sum(OUTER.astype(np.float32) * y)
    arrays = {"hidden": HIDDEN, **tiny.weights(layer)}
    np.testing.assert_allclose(loss, plain(arrays), rtol=1e-5)
    gradients = tape.gradient(loss, [hidden, *(v.value for v in layer.variables)])
    check_gradients(dict(zip(arrays, gradients)), plain, arrays)


def test_residual_norm_with_dropout():
    arrays = {"x": HIDDEN, "residual": HIDDEN[::-1], "n/gamma": RNG.normal(1, 0.3, D), "n/beta": RNG.normal(size=D)}
    mask = kept(HIDDEN.shape)

    def plain(a):
        return np.sum(OUTER * reference.layer_norm(a["residual"] + mask * a["x"], a, "n"))

    function = transformer._residual_norm(RATE, 1e-12)
    y, gradients = of_tensors(lambda t: tf.reduce_sum(OUTER.astype(np.float32) * function(*t.values(), WORDS)), arrays)
    np.testing.assert_allclose(y, plain(arrays), rtol=1e-5)
    check_gradients(gradients, plain, arrays)


@pytest.mark.parametrize("packed", [False, True])
def test_attention_weights_with_dropout(packed):
    visible = VISIBLE & VISIBLE.swapaxes(1, 2) if packed else VISIBLE
    visible = visible | np.eye(L, dtype=bool)
    outer, mask = RNG.normal(size=(B, N, L, L)), kept((B, N, L, L))

    def plain(a):
        scores = np.where(visible[:, None], 0.5 * a["scores"], -np.inf)
        shares = [[[reference.softmax(row) for row in head] for head in heads] for heads in scores]
        return np.sum(outer * mask * np.array(shares))

    bias = attention_masks.bias(tf.constant(visible, tf.float32))
    function, arrays = attention._weights(0.5, RATE), {"scores": RNG.normal(size=(B, N, L, L))}
    y, gradients = of_tensors(
        lambda t: tf.reduce_sum(outer.astype(np.float32) * function(t["scores"], bias, WORDS)), arrays
    )
    np.testing.assert_allclose(y, plain(arrays), rtol=1e-4)
    check_gradients(gradients, plain, arrays)


@pytest.mark.parametrize("both", [True, False])
def test_embeddings(both):
    """The table has two uses, and one gradient; or one use, where nothing is tied to it."""
    layer = embeddings.Embeddings(V, D, MAX_L, SEGMENTS, name="embeddings")
    layer.build()
    tiny.randomize(layer)
    features = tiny.features()
    ids, segments = features["input_ids"].copy(), features["segment_ids"]
    ids[:, 1:4] = ids[0, 0]  # one word many times
    of_table = both * RNG.normal(size=(V, D))

    def plain(arrays):
        table = arrays["embeddings/word_embeddings"]
        embedded = [reference.embed(i, s, arrays, "embeddings") for i, s in zip(ids, segments)]
        return np.sum(OUTER * embedded) + np.sum(of_table * np.square(table))

    with tf.GradientTape() as tape:
        y, table = layer(ids, segments, training=True)
        loss = tf.reduce_sum(OUTER.astype(np.float32) * y)
        if both:
            loss += tf.reduce_sum(of_table.astype(np.float32) * tf.square(table))
    gradients = tape.gradient(loss, [v.value for v in layer.variables])
    arrays = tiny.weights(layer)
    np.testing.assert_allclose(loss, plain(arrays), rtol=1e-5)
    check_gradients(dict(zip(arrays, gradients)), plain, arrays)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_gradient_of_a_table_is_the_sum_over_its_uses(dtype):
    """To the bit, in numbers whose sums are exact: halves of small integers."""
    table, ids = tf.constant(RNG.integers(-8, 8, (V, D)) / 2, tf.float32), RNG.integers(0, 5, (B, L)).astype(np.int32)
    of_words, of_table = (RNG.integers(-8, 8, shape) / 2 for shape in ((B, L, D), (V, D)))
    with tf.GradientTape() as tape:
        tape.watch(table)
        words, cast = embeddings.look_up(table, ids, dtype)
    np.testing.assert_array_equal(words, table.numpy()[ids])
    np.testing.assert_array_equal(cast, tf.cast(table, dtype))
    found = tape.gradient((words, cast), table, (tf.constant(of_words, tf.float32), tf.constant(of_table, dtype)))
    np.add.at(of_table, ids, of_words)
    np.testing.assert_array_equal(found, of_table)
    assert found.dtype == tf.float32


@pytest.mark.parametrize("product", [dense.dense, dense.scores])
def test_dense(product):
    arrays = {"x": RNG.normal(size=(B, P, D)), "kernel": RNG.normal(size=(D, I)), "bias": RNG.normal(size=I)}
    outer = RNG.normal(size=(B, P, I))

    def plain(a):
        return np.sum(outer * (a["x"] @ a["kernel"] + a["bias"]))

    def ours(t):
        kernel = tf.transpose(t["kernel"]) if product is dense.scores else t["kernel"]
        return tf.reduce_sum(outer.astype(np.float32) * product(t["x"], kernel, t["bias"]))

    y, gradients = of_tensors(ours, arrays)
    np.testing.assert_allclose(y, plain(arrays), rtol=1e-5)
    check_gradients(gradients, plain, arrays)


@pytest.mark.parametrize("name", activations.BY_NAME)
def test_activations(name):
    x = np.linspace(-5.05, 5, 41)  # no 0: relu has a corner there
    y, gradients = of_tensors(lambda t: tf.reduce_sum(activations.compiled_by_name(name)(t["x"])), {"x": x})
    np.testing.assert_allclose(y, reference.ACTIVATIONS[name](x).sum(), rtol=1e-5)
    np.testing.assert_allclose(
        gradients["x"],
        [
            differences(lambda a: reference.ACTIVATIONS[name](a["x"]), {"x": np.array(z)})["x"][1]
            / differences(lambda a: a["x"], {"x": np.array(z)})["x"][1]
            for z in x
        ],
        rtol=1e-4,
        atol=1e-4,
    )


def test_several_outputs_and_arguments_without_gradient():
    @compiled.differentiable(2)
    def function(a, b, c):
        return a * b, a + c

    a, b, c = (tf.constant(x) for x in (2.0, 3.0, 5.0))
    with tf.GradientTape() as tape:
        tape.watch([a, b, c])
        product, total = function(a, b, c)
        y = 7.0 * product + total
    assert (float(product), float(total)) == (6.0, 7.0)
    assert [g and float(g) for g in tape.gradient(y, [a, b, c])] == [22.0, 14.0, None]


@pytest.mark.slow
def test_bfloat16_is_near_float32():
    """Between products numbers are float32; what is written down has eight bits."""
    results = []
    for policy in ("float32", "mixed_bfloat16"):
        with dtype_policy.building_in(policy):
            layer = transformer.TransformerBlock(D, N, I, hidden_dropout=RATE, attention_dropout=RATE, name="layer_0")
            layer.build((None, None, D))
        tiny.randomize(layer)
        with dropout.seeded(tf.constant([1, 2])), tf.GradientTape() as tape:
            y = layer(tf.constant(HIDDEN, tf.float32), attention_masks.bias(tf.ones([B, 1, L])), training=True)
            loss = tf.reduce_sum(OUTER.astype(np.float32) * tf.cast(y, tf.float32))
        gradients = tape.gradient(loss, [v.value for v in layer.variables])
        assert {g.dtype for g in gradients} == {tf.float32}
        results.append([y, *gradients])
    for exact, rounded in zip(*results):
        scale = np.sqrt(np.mean(np.square(exact))) + 0.5  # the gradient of the keys' bias is 0
        assert np.sqrt(np.mean(np.square(exact - tf.cast(rounded, tf.float32)))) < 0.05 * scale


def test_a_graph_of_inference_has_no_compiled_function():
    """TFLite and servers load plain operations only."""
    layer = transformer.TransformerBlock(D, N, I, hidden_dropout=RATE, attention_dropout=RATE, name="layer_0")
    bias = attention_masks.bias(tf.ones([B, 1, L]))
    for training in (False, True):
        graph = tf.function(lambda x: layer(x, bias, training=training)).get_concrete_function(  # noqa: B023
            tf.TensorSpec([B, L, D])
        )
        compiled_calls = [op for op in graph.graph.get_operations() if "PartitionedCall" in op.type]
        assert bool(compiled_calls) == training


def test_a_profile_can_tell_whose_an_operation_is():
    layer = transformer.TransformerBlock(D, N, I, "gelu", RATE, RATE, name="layer_0")

    @tf.function
    def step(hidden):
        with tf.GradientTape() as tape:
            tape.watch(hidden)
            y = layer(hidden, attention_masks.bias(tf.ones([B, 1, L])), training=True)
        return tape.gradient(y, hidden)

    costly = ("MatMul", "BatchMatMulV2", "StatefulPartitionedCall", "PartitionedCall")
    operations = step.get_concrete_function(tf.TensorSpec([B, L, D])).graph.get_operations()
    names = [op.name for op in operations if op.type in costly]
    assert len(names) > 20
    assert [name for name in names if "layer_0" not in name] == []


@pytest.mark.slow
@pytest.mark.parametrize("policy", ["float32", "mixed_bfloat16"])
def test_rematerialized_block_gives_the_same(policy):
    found, products = [], []
    for rematerialize in (False, True):
        with dtype_policy.building_in(policy):
            layer = transformer.TransformerBlock(
                D, N, I, "gelu", RATE, RATE, rematerialize=rematerialize, name="layer_0"
            )
            layer.build((None, None, D))
        tiny.randomize(layer)

        @tf.function
        def step(hidden, layer=layer):
            with tf.GradientTape() as tape:
                tape.watch(hidden)
                with dropout.seeded(tf.constant([3, 4])):
                    y = layer(hidden, attention_masks.bias(attention_masks.padding(PADDING)), training=True)
                loss = tf.reduce_sum(OUTER.astype(np.float32) * tf.cast(y, tf.float32))
            return [y, *tape.gradient(loss, [hidden, *(v.value for v in layer.variables)])]

        found.append(step(tf.constant(HIDDEN, tf.float32)))
        products.append(
            sum(
                "MatMul" in op.type
                for op in step.get_concrete_function(tf.TensorSpec([B, L, D])).graph.get_operations()
            )
        )
    for plain, again in zip(*found):
        np.testing.assert_array_equal(plain, again)
    assert products[1] == products[0] + 6  # the second pass
