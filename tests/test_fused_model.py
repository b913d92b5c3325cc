"""Tests of the model that is exported: the answers of the run's own, and the operations that TensorFlow makes of it."""

import collections
import contextlib

import numpy as np
import pytest
import tensorflow as tf
from tensorflow.python.framework import convert_to_constants
from tensorflow.python.util import _pywrap_util_port  # whether oneDNN is on has no public name

from export import fused_model
from tests import reference, tiny
from tfbert import heads
from tfbert.layers import exported, transformer


def build(model, **form):
    return fused_model.build(lambda: heads.build_pretrainer(tiny.config()), model, **form)


@pytest.fixture(scope="module")
def models():
    """(the run's model, what is served)."""
    model = tiny.randomize(heads.build_pretrainer(tiny.config()))
    return model, build(model)


def test_answers_are_those_of_the_run(models):
    model, served = models
    inputs = tiny.inputs(tiny.features())
    for name, want in model(inputs).items():
        np.testing.assert_allclose(served(inputs)[name], want, atol=2e-5, err_msg=name)


def test_projections_are_joined_and_nothing_else_is_new(models):
    model, served = models
    joined = {v.path for v in served.variables} - {v.path for v in model.variables}
    scopes = [f"bert/encoder/layer_{i}/attention/self/query_key_value" for i in range(tiny.LAYERS)]
    assert joined == {f"{scope}/{name}" for scope in scopes for name in ("kernel", "bias")}
    assert sum(np.prod(v.shape) for v in served.variables) == sum(np.prod(v.shape) for v in model.variables)
    assert not exported.is_building()


def test_bfloat16_kernels_are_stored_so(models):
    model, _ = models
    made = build(model, dtype="bfloat16")
    halves = {v.path.split("/")[-2] for v in made.variables if v.dtype == "bfloat16"}
    assert halves == {"query_key_value", "dense"}
    want, found = (m(tiny.inputs(tiny.features()))["next_sentence_logits"] for m in (model, made))
    assert 0 < np.abs(want - found).max() < 0.2


@pytest.mark.parametrize("epsilon", [1e-12, 1e-5])
@pytest.mark.parametrize("served", [False, True])
def test_epsilon_of_a_norm_survives_the_optimizer(served, epsilon):
    """As a constant graph, where TensorFlow 2.21 takes 0.001 for it in Keras 3's own formula."""
    rng = np.random.default_rng(0)
    x, gamma, beta = (rng.normal(0, 0.01, s).astype(np.float32) for s in ((7, tiny.D), tiny.D, tiny.D))

    with exported.building() if served else contextlib.nullcontext():
        layer = transformer.layer_norm(epsilon)
    layer.build((None, tiny.D))
    layer.gamma.assign(gamma), layer.beta.assign(beta)
    function = tf.function(lambda x: tf.identity(layer(x + x)))
    concrete = function.get_concrete_function(tf.TensorSpec([None, tiny.D]))
    constant = convert_to_constants.convert_variables_to_constants_v2(concrete)
    params = {"n/gamma": gamma.astype(float), "n/beta": beta.astype(float)}
    np.testing.assert_allclose(
        constant(tf.constant(x))[0], reference.layer_norm(x + x, params, "n", epsilon), atol=1e-5
    )


@pytest.mark.skipif(not _pywrap_util_port.IsMklEnabled(), reason="oneDNN is what makes one operation of several")
def test_a_server_makes_one_operation_of_several(models, tmp_path):
    module, (_, served) = tf.Module(), models
    module.held = [v.value for v in served.variables]
    specs = {name: tf.TensorSpec([None, None], tf.int32, name) for name in tiny.inputs(tiny.features())}
    module.run = tf.function(lambda **x: served(x, training=False)).get_concrete_function(**specs)
    tf.saved_model.save(module, str(tmp_path), signatures=module.run)
    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        loaded = tf.compat.v1.saved_model.load(session, ["serve"], str(tmp_path)).signature_def["serving_default"]
        feeds = {loaded.inputs[n].name: x for n, x in tiny.inputs(tiny.features()).items()}
        about, options = tf.compat.v1.RunMetadata(), tf.compat.v1.RunOptions(output_partition_graphs=True)
        fetches = [x.name for x in loaded.outputs.values()]
        session.run(fetches, feeds, options=options, run_metadata=about)
    nodes = [node for graph in about.partition_graphs for node in graph.node]
    fused = collections.Counter(b"+".join(node.attr["fused_ops"].list.s) for node in nodes)
    assert fused[b"BiasAdd+GeluApproximate"] == tiny.LAYERS and fused[b"BiasAdd+Add"] == 2 * tiny.LAYERS
    assert fused[b"Mul+Add"] == tiny.LAYERS
    norms = [node.attr["epsilon"].f for node in nodes if node.op == "_MklLayerNorm"]
    # Two a layer, and those of the embeddings and of the head.
    assert norms == [pytest.approx(tiny.config().layer_norm_eps)] * (2 * tiny.LAYERS + 2)
