"""Tests of the vectors of an export, which lie in one variable."""

import numpy as np
import pytest
import tensorflow as tf

from export import fused_model, vectors
from tests import tiny
from tfbert import heads


@pytest.fixture(scope="module")
def model():
    return tiny.randomize(heads.build_pretrainer(tiny.config()))


@pytest.mark.parametrize("dtype", fused_model.DTYPES)
def test_a_function_has_the_answers_of_the_model_from_few_variables(model, dtype):
    served = fused_model.build(lambda: heads.build_pretrainer(tiny.config()), model, dtype)
    made, inputs = vectors.Vectors(served), tiny.inputs(tiny.features())
    want = served(inputs)
    for value in made.values:  # what is read while a function runs is what is in them then
        value.assign(2 * value)
    function = tf.function(made.reading(lambda: served(inputs)), autograph=False)
    function()
    for value in made.values:
        value.assign(value / 2)
    for name, x in function().items():
        np.testing.assert_allclose(x, want[name], atol=2e-5 if dtype == "float32" else 0.05, err_msg=name)
    read = {v.ref() for v in function.get_concrete_function().variables}
    assert {v.ref() for v in made.values} < read
    assert all(len(v.deref().shape) != 1 for v in read - {v.ref() for v in made.values})
    assert len(made.values) == (1 if dtype == "float32" else 2)


def test_others_are_all_that_is_no_short_vector(model, monkeypatch):
    monkeypatch.setattr(vectors, "LONGEST", tiny.D)
    made = vectors.Vectors(model)
    short = {v.path for v in model.variables if len(v.shape) == 1 and v.shape[0] <= tiny.D}
    assert set(made.others) == {v.path for v in model.variables} - short
    assert "cls/predictions/output_bias" in made.others  # of the vocabulary
    assert sum(v.shape[0] for v in made.values) == sum(v.shape[0] for v in model.variables if v.path in short)
    assert model.get_layer("pooler").dense.bias.value is not made.values[0]


def test_each_piece_is_an_operation_of_its_own(model):
    """TensorFlow's optimizer takes the first output of what gamma and beta come from, whichever they are."""
    made = vectors.Vectors(model)

    def scales():
        return [layer.LayerNorm.gamma + layer.LayerNorm.beta for layer in [model.get_layer("embeddings")]]

    graph = tf.function(made.reading(scales), autograph=False).get_concrete_function().graph
    (added,) = [op for op in graph.get_operations() if op.type == "AddV2"]
    assert [x.op.type for x in added.inputs] == ["EnsureShape", "EnsureShape"]
    assert added.inputs[0].op is not added.inputs[1].op
