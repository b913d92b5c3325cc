"""Tests of the model that is exported: the answers of the run's own, and the operations that TensorFlow makes of it."""

import collections
import contextlib
import dataclasses

import numpy as np
import pytest
import tensorflow as tf
from tensorflow.python.framework import convert_to_constants
from tensorflow.python.util import _pywrap_util_port  # whether oneDNN is on has no public name

from export import fused_model, parity, prepared, saved_model, serving, signatures
from tests import reference, tiny, tiny_run
from tfbert import checks, heads, largest
from tfbert.layers import exported, transformer


def build(model, **form):
    return fused_model.build(lambda: heads.build_pretrainer(tiny.config()), model, **form)


@pytest.fixture(scope="module")
def models():
    """(the run's model, what is served)."""
    model = tiny.randomize(heads.build_pretrainer(tiny.config()))
    return model, build(model)


def of_wordpieces(logits):
    """Scores [..., more than V], without those that fill them up to a whole block."""
    assert np.isneginf(logits[..., tiny.V :]).all()
    return logits[..., : tiny.V]


def assert_same_but_in_padding(model, served, inputs):
    """What both give, of tokens and of rows that have any: in padding is nothing, where the run's model has a state."""
    mask, positions = inputs["input_mask"] > 0, inputs["masked_lm_positions"]
    first = np.arange(mask.shape[1])[np.newaxis] == 0
    rows = mask.any(1)
    of = {
        "sequence_output": (mask | first) & rows[:, np.newaxis],
        "masked_lm_logits": np.take_along_axis(mask | first, positions, 1) & rows[:, np.newaxis],
    }
    found = {name: x.numpy() for name, x in served(inputs).items()}
    found["masked_lm_logits"] = of_wordpieces(found["masked_lm_logits"])
    for name, want in model(inputs).items():
        compared = of.get(name, rows)
        np.testing.assert_allclose(found[name][compared], want.numpy()[compared], atol=2e-5, err_msg=name)
        assert np.isfinite(found[name]).all(), name
    assert not found["sequence_output"][~(mask | first)].any()


@pytest.fixture(params=["TensorFlow", "TFLite"])
def exported_model(request, models):
    """What is exported for one of them."""
    if request.param == "TensorFlow":
        return models[1]
    return fused_model.build_lite(lambda: heads.build_pretrainer(tiny.config()), models[0])


def test_answers_are_those_of_the_run(models, exported_model):
    model, served = models[0], exported_model
    inputs = tiny.inputs(tiny.features())
    assert (inputs["input_mask"] == 0).any()
    assert_same_but_in_padding(model, served, inputs)


def test_nothing_of_a_row_comes_from_another(exported_model):
    """Rows of all lengths, with holes and without any token, give what each gives alone."""
    mask = np.array([[1, 1, 1, 1, 1, 1, 1], [1, 0, 1, 1, 0, 0, 1], [0] * 7, [0, 0, 1, 0, 0, 0, 0], [1] + [0] * 6])
    rng = np.random.default_rng(4)
    inputs = {name: rng.integers(0, 2, mask.shape, np.int32) for name in tiny.inputs(tiny.features())}
    inputs |= {"input_ids": rng.integers(0, tiny.V, mask.shape, np.int32), "input_mask": mask.astype(np.int32)}
    together = exported_model(inputs)
    for i in range(len(mask)):
        alone = exported_model({name: x[i : i + 1] for name, x in inputs.items()})
        for name, x in together.items():
            np.testing.assert_allclose(x[i], alone[name][0], atol=1e-5, err_msg=f"{name} of row {i}")


@pytest.mark.parametrize("places", [1, 3])
def test_the_last_layer_can_be_asked_for_places(models, exported_model, places):
    """In any order and several times; rows differ in length."""
    inputs = tiny.inputs(tiny.features())
    lengths = inputs["input_mask"].sum(1, keepdims=True)
    asked = np.random.default_rng(places).integers(0, 1000, (len(lengths), places)) % lengths
    found = exported_model({**inputs, "masked_lm_positions": asked.astype(np.int32)})["asked_output"]
    states = models[0](inputs)["sequence_output"].numpy()
    np.testing.assert_allclose(found, np.take_along_axis(states, asked[..., np.newaxis], 1), atol=2e-5)


@pytest.mark.parametrize("parts", [1, 2])
def test_classes_are_those_of_the_run_though_the_last_layer_is_of_cls_alone(parts):
    def make():
        return heads.build_classifier(tiny.config(), 5)

    model = tiny.randomize(make())
    inputs = {name: x for name, x in tiny.inputs(tiny.features()).items() if name in signatures.IDS}
    made = [fused_model.build(make, model, parts=parts), *([fused_model.build_lite(make, model)] if parts == 1 else [])]
    for served in made:
        for name in ("logits", "pooled_output"):
            np.testing.assert_allclose(served(inputs)[name], model(inputs)[name], atol=2e-5)


def test_projections_are_joined_the_table_has_a_copy_and_nothing_else_is_new(models):
    model, served = models
    new = {v.path for v in served.variables} - {v.path for v in model.variables}
    names = ("attention/self/query_key_value", "attention/output/dense", "intermediate/dense", "output/dense")
    scopes = [f"bert/encoder/layer_{i}/{name}_0" for i in range(tiny.LAYERS) for name in names]
    scopes.append("cls/predictions/decoder_0")
    assert new == {f"{scope}/{name}" for scope in scopes for name in ("kernel", "bias")}
    sizes = [sum(np.prod(v.shape) for v in m.variables) for m in (served, model)]
    columns = -(-tiny.V // largest.BLOCK) * largest.BLOCK
    assert sizes[0] - sizes[1] == columns * tiny.D + (columns - tiny.V)
    assert not exported.is_building()


@pytest.mark.parametrize("parts", [2, 3])
@pytest.mark.parametrize("batch, length", [(tiny.B, tiny.L), (1, 5), (2, 2), (3, 1), (0, 7)])
def test_layers_in_parts_give_the_same(models, parts, batch, length):
    """Of all lengths, and parts that differ by one."""
    model, _ = models
    rng = np.random.default_rng(length)
    inputs = {name: rng.integers(0, 2, (batch, length), np.int32) for name in ("input_mask", "segment_ids")}
    inputs["input_ids"] = rng.integers(0, tiny.V, (batch, length), np.int32)
    inputs["masked_lm_positions"] = rng.integers(0, length, (batch, 2), np.int32)
    made = build(model, parts=parts)
    for name in ("query_key_value", "attention/output/dense", "intermediate/dense"):  # a kernel for each part
        assert len([v for v in made.variables if f"/{name}_" in v.path and v.name == "kernel"]) == parts * tiny.LAYERS
    assert_same_but_in_padding(model, made, inputs)


def test_a_model_for_tflite_has_the_variables_of_the_run(models):
    made = fused_model.build_lite(lambda: heads.build_pretrainer(tiny.config()), models[0])
    assert [v.path for v in made.variables] == [v.path for v in models[0].variables]
    assert not exported.takes_tokens()


def test_a_mix_of_layers_takes_their_parts_together():
    def make():
        return heads.build_tagger(tiny.config(), 3, layer_dropout=0.1)

    model = tiny.randomize(make())
    made = fused_model.build(make, model, parts=2)
    inputs = {name: x for name, x in tiny.inputs(tiny.features()).items() if name in signatures.IDS}
    real = inputs["input_mask"] > 0
    np.testing.assert_allclose(made(inputs)["logits"][real], model(inputs)["logits"][real], atol=2e-5)


def test_the_vocabulary_is_in_as_many_parts(models):
    kernels = [v.shape[1] for v in build(models[0], parts=3).variables if "/decoder_" in v.path and "kernel" in v.path]
    kernels[-1] -= -tiny.V % largest.BLOCK  # what fills it up
    assert sum(kernels) == tiny.V and len(kernels) == 3 and max(kernels) - min(kernels) <= 1


def test_no_more_parts_than_heads(models):
    with pytest.raises(checks.InputError, match=f"at most num_attention_heads {tiny.N}; got tensor_parallelism=4"):
        build(models[0], parts=tiny.N + 1)


def test_rows_of_a_matrix_are_no_whole_pages():
    """Zeros beside them change no answer, whatever the activation."""
    for activation in ("gelu", "gelu_erf", "relu"):
        config = dataclasses.replace(tiny.config(), intermediate_size=1024, hidden_act=activation)
        model = tiny.randomize(heads.build_pretrainer(config))
        made = fused_model.build(lambda config=config: heads.build_pretrainer(config), model)
        shapes = {v.path: v.shape for v in made.variables}
        assert shapes["bert/encoder/layer_0/intermediate/dense_0/kernel"] == (tiny.D, 1056)
        assert shapes["bert/encoder/layer_0/output/dense_0/kernel"] == (1056, tiny.D)
        inputs = tiny.inputs(tiny.features())
        found = of_wordpieces(made(inputs)["masked_lm_logits"].numpy())
        np.testing.assert_allclose(found, model(inputs)["masked_lm_logits"], atol=5e-5)


def test_a_matrix_that_is_not_tied_is_turned_round():
    config = dataclasses.replace(tiny.config(), tie_word_embeddings=False)
    model = tiny.randomize(heads.build_pretrainer(config))
    made = fused_model.build(lambda: heads.build_pretrainer(config), model)
    inputs = tiny.inputs(tiny.features())
    want, found = (m(inputs)["masked_lm_logits"].numpy() for m in (model, made))
    np.testing.assert_allclose(of_wordpieces(found), want, atol=2e-5)
    assert [v.shape for v in made.variables if v.path.endswith("decoder_0/kernel")] == [(tiny.D, found.shape[-1])]


def test_bfloat16_kernels_are_stored_so(models):
    model, _ = models
    made = build(model, dtype="bfloat16")
    halves = {v.path.split("/")[-2] for v in made.variables if v.dtype == "bfloat16"}
    assert halves == {"query_key_value_0", "dense_0", "dense", "decoder_0"}
    want, found = (m(tiny.inputs(tiny.features())) for m in (model, made))
    for name in ("next_sentence_logits", "masked_lm_logits"):
        assert found[name].dtype == tf.float32
        scores = found[name].numpy()
        scores = of_wordpieces(scores) if name == "masked_lm_logits" else scores
        assert 0 < np.abs(want[name] - scores).max() < 0.2


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


def operations(folder, signature, **inputs):
    """The nodes that TensorFlow makes of a signature when it runs in a session."""
    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        loaded = tf.compat.v1.saved_model.load(session, ["serve"], str(folder)).signature_def[signature]
        feeds = {loaded.inputs[n].name: x for n, x in inputs.items()}
        about, options = tf.compat.v1.RunMetadata(), tf.compat.v1.RunOptions(output_partition_graphs=True)
        fetches = [x.name for x in loaded.outputs.values()]
        session.run(fetches, feeds, options=options, run_metadata=about)
    return [node for graph in about.partition_graphs for node in graph.node]


def assert_layers_are_fused(nodes, head, parts=1, asked=False):
    """One operation of several in all layers.

    Args:
        nodes: Of `operations`.
        head: Whether masks are scored.
        parts: Of layers.
        asked: Whether the last layer is computed for masks alone. It has sums of few rows, which are left as they are.
    """
    fused = collections.Counter(b"+".join(node.attr["fused_ops"].list.s) for node in nodes)
    layers = parts * tiny.LAYERS
    assert fused[b"Mul+Add"] == layers
    # Two a layer and copy, of which the last layer's first is taken alone.
    sums = 2 * layers - (parts - 1)
    if parts == 1:
        assert fused[b"BiasAdd+Add"] == sums - asked
    else:  # of the three embeddings; of the residual and what each part gives
        added = [len(node.input) for node in nodes if node.op == "AddN"]
        assert sorted(added) == sorted([3, *[1 + parts] * (sums - (2 * parts - 1) * asked)])
    norms = [node.attr["epsilon"].f for node in nodes if node.op == "_MklLayerNorm"]
    # And those of the embeddings and of the head.
    assert norms == [pytest.approx(tiny.config().layer_norm_eps)] * (sums + 1 + head)
    return fused


only_with_onednn = pytest.mark.skipif(
    not _pywrap_util_port.IsMklEnabled(), reason="oneDNN is what makes one operation of several"
)


@only_with_onednn
def test_a_server_makes_one_operation_of_several(models, tmp_path):
    module, (_, served) = tf.Module(), models
    module.held = [v.value for v in served.variables]
    specs = {name: tf.TensorSpec([None, None], tf.int32, name) for name in tiny.inputs(tiny.features())}
    # Without what is asked of the last layer, which is computed as a whole here.
    outputs = ("sequence_output", "next_sentence_logits")
    run = tf.function(lambda **x: {name: y for name, y in served(x, training=False).items() if name in outputs})
    module.run = run.get_concrete_function(**specs)
    tf.saved_model.save(module, str(tmp_path), signatures=module.run)
    fused = assert_layers_are_fused(operations(tmp_path, "serving_default", **tiny.inputs(tiny.features())), False)
    assert fused[b"BiasAdd+GeluApproximate"] == tiny.LAYERS


@pytest.fixture(scope="module")
def exported_run(tmp_path_factory):
    """A SavedModel of a pre-trained run."""
    run, folder = tmp_path_factory.mktemp("run"), tmp_path_factory.mktemp("export")
    tiny_run.make(run)
    made = prepared.prepare(saved_model.SavedModelConfig(run_dir=str(run)), 1000)
    module = signatures.Served(made.answering, made.model, str(run))
    tf.saved_model.save(module, str(folder), signatures=module.signatures())
    return folder


@only_with_onednn
@pytest.mark.parametrize("signature", ["serving_default", "choose", "embed", "from_ids"])
def test_each_signature_is_one_operation_of_several(exported_run, signature):
    """With what goes before and comes after the model, on which it hangs what the optimizer of graphs finds."""
    text = np.array([b"the [MASK] returns", b"a fox"], object)
    inputs = {"text": text}
    if signature == "choose":
        inputs["candidates"] = np.array([[b"dog"], [b"list"]], object)
    if signature == "from_ids":
        inputs = {name: np.ones([2, 7], np.int32) for name in signatures.IDS}
    head, asked = signature != "embed", signature in ("serving_default", "choose")
    fused = assert_layers_are_fused(operations(exported_run, signature, **inputs), head, asked=asked)
    assert fused[b"BiasAdd+GeluApproximate"] == tiny.LAYERS + head
    assert fused[b"BiasAdd"] >= tiny.LAYERS + head  # queries, keys and values; the scores of the vocabulary


@pytest.mark.slow
@only_with_onednn
def test_layers_in_parts_are_exported_so_and_served_with_a_thread_each(tmp_path):
    run, folder = tmp_path / "run", tmp_path / "export"
    tiny_run.make(run)
    cfg = saved_model.SavedModelConfig(run_dir=str(run), output_dir=str(folder), tensor_parallelism=2)
    version = saved_model.run(cfg)  # which compares all signatures through servers' loaders
    nodes = operations(version, "serving_default", text=np.array([b"the [MASK] returns", b"a fox"], object))
    fused = assert_layers_are_fused(nodes, head=True, parts=2, asked=True)
    assert fused[b"BiasAdd+GeluApproximate"] == 2 * tiny.LAYERS + 1
    # A variable is read once for all parts of it.
    read = [node.input[0] for node in nodes if node.op == "ReadVariableOp"]
    # Matrices of the parts of layers and of the vocabulary; three tables, all vectors, what copies are multiplied by,
    # and the transform.
    assert len(read) == len(set(read)) == 2 * (4 * tiny.LAYERS + 1) + 3 + 1 + 1 + 1

    assert [parity.threads(version, cores) for cores in (1, 2, 5)] == [(1, 1), (1, 2), (2, 5)]
    serving.run(serving.ServingConfig(saved_model=str(folder), output_dir=str(tmp_path / "deployment"), cpus=4))
    for name in ("docker-compose.yaml", "Dockerfile", "kubernetes.yaml"):
        text = (tmp_path / "deployment" / name).read_text()
        for flag in ("--tensorflow_intra_op_parallelism=2", "--tensorflow_inter_op_parallelism=4"):
            assert text.count(flag) == 1, name
