"""Tests of tfbert.largest: what `tf.math.top_k` gives, in a graph and in TFLite."""

import numpy as np
import pytest
import tensorflow as tf

from tfbert import largest

WIDE = largest.WORTH_IT * largest.BLOCK  # the least width of one answer that is cut into blocks


def assert_same(scores, k):
    for found, wanted in zip(largest.top_k(tf.constant(scores), k), tf.math.top_k(scores, k)):
        assert found.dtype == wanted.dtype
        np.testing.assert_array_equal(found, wanted)


@pytest.mark.parametrize("k, width", [(1, WIDE), (3, 3 * WIDE + 1), (5, 5 * WIDE + 127), (5, 30522), (5, 5 * WIDE - 1)])
def test_it_is_top_k(k, width):
    assert_same(np.random.default_rng(k).normal(size=(7, width)).astype(np.float32), k)


@pytest.mark.parametrize("values", [1, 2, 40])
def test_equal_scores_stand_in_the_order_of_their_places(values):
    rng = np.random.default_rng(values)
    for _ in range(20):
        assert_same(rng.integers(0, values, (3, 4 * WIDE + 5)).astype(np.float32), 4)


@pytest.mark.parametrize("least", [0.0, -np.inf, np.finfo(np.float32).min])
def test_what_a_row_is_filled_up_with_is_never_among_them(least):
    scores = np.full([2, 2 * WIDE + 3], least, np.float32)
    scores[1, -1] = 1.0
    assert_same(scores, 2)


def test_no_rows():
    assert [x.shape for x in largest.top_k(tf.zeros([0, 2 * WIDE]), 2)] == [(0, 2), (0, 2)]


def test_blocks_are_in_the_graph_of_wide_rows_alone():
    for width, blocks in ((WIDE, True), (WIDE - 1, False)):
        function = tf.function(lambda x: largest.top_k(x, 1)).get_concrete_function(tf.TensorSpec([None, width]))
        assert any(node.op == "Max" for node in function.graph.as_graph_def().node) == blocks


def test_tflite_gives_the_same():
    function = tf.function(lambda x: dict(zip("vi", largest.top_k(x, 3))))
    concrete = function.get_concrete_function(tf.TensorSpec([None, 3 * WIDE + 9], name="x"))
    content = tf.lite.TFLiteConverter.from_concrete_functions([concrete]).convert()
    model = tf.lite.Interpreter(model_content=content)
    scores = np.random.default_rng(0).integers(0, 50, (2, 3 * WIDE + 9)).astype(np.float32)
    model.resize_tensor_input(model.get_input_details()[0]["index"], scores.shape)
    model.allocate_tensors()
    model.set_tensor(model.get_input_details()[0]["index"], scores)
    model.invoke()
    found = {x.dtype.name: x for x in (model.get_tensor(o["index"]) for o in model.get_output_details())}
    for name, wanted in zip(("float32", "int32"), tf.math.top_k(scores, 3)):
        np.testing.assert_array_equal(found[name], wanted)
