"""Tests of tfbert.encoder."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests import reference, tiny
from tests.tiny import LAYERS, B, D, L, N
from tfbert import config, encoder
from tfbert.layers import dropout, dtype_policy, initializers

FEATURES = tiny.features()
NAMES = ("input_ids", "input_mask", "segment_ids")
REAL = FEATURES["input_mask"].astype(bool)


def inputs(features=FEATURES):
    return {name: features[name] for name in NAMES}


def model(**overrides):
    return tiny.randomize(encoder.build_encoder(tiny.config(**overrides)))


@pytest.fixture(scope="module")
def plain():
    return model()


@pytest.mark.parametrize(
    "more, activation, epsilon",
    [
        ({}, "gelu", 1e-12),
        ({}, "relu", 1e-12),
        ({}, "gelu_erf", 1e-12),
        ({}, "gelu", 0.3),  # large, so that each norm's shows
        ({"embedding_size": 7}, "gelu_erf", 0.3),
    ],
)
def test_equals_reference(more, activation, epsilon):
    built = model(hidden_act=activation, layer_norm_eps=epsilon, **more)
    expected = reference.encoder(FEATURES, tiny.weights(built), LAYERS, N, activation, epsilon)
    found = built(inputs())
    assert set(found) == set(expected)
    for name in expected:
        np.testing.assert_allclose(found[name], expected[name], atol=1e-5, err_msg=name)


def test_is_functional_with_the_names_of_the_records(plain):
    assert set(plain.input) == set(NAMES)
    assert plain.output["sequence_output"].shape == (None, None, D)
    assert plain.output["pooled_output"].shape == (None, D)
    assert plain.get_layer("embeddings").word_embeddings.path == "bert/embeddings/word_embeddings"


@pytest.mark.slow
def test_factorised_embeddings_are_projected():
    """Where they are as wide as the encoder there is no projection, as in ALBERT and ELECTRA."""
    shapes = {v.path: tuple(v.shape) for v in model(embedding_size=7).variables}
    assert shapes["bert/encoder/embedding_hidden_mapping_in/kernel"] == (7, D)
    assert shapes["bert/encoder/embedding_hidden_mapping_in/bias"] == (D,)
    assert shapes["bert/embeddings/word_embeddings"] == (tiny.V, 7)
    assert shapes["bert/embeddings/LayerNorm/gamma"] == (7,)
    plain = {v.path: tuple(v.shape) for v in model().variables}
    assert plain == {v.path: tuple(v.shape) for v in model(embedding_size=D).variables}
    assert shapes.keys() - plain.keys() == {
        "bert/encoder/embedding_hidden_mapping_in/kernel",
        "bert/encoder/embedding_hidden_mapping_in/bias",
    }


@pytest.mark.parametrize("more", [{}, {"embedding_size": 7}])
def test_layer_outputs(more):
    built = model(**more)
    outputs = encoder.layer_outputs(built)
    expected = reference.hidden_states(FEATURES, tiny.weights(built), LAYERS, N)[1:]
    assert len(outputs) == len(expected) == LAYERS
    found = keras.Model(built.input, outputs)(inputs())
    for i in range(LAYERS):
        np.testing.assert_allclose(found[i], expected[i], atol=1e-5, err_msg=str(i))
    assert outputs[-1] is built.output["sequence_output"]
    first = keras.Model(built.input, outputs[:1])
    assert not [v.path for v in first.variables if "layer_1" in v.path or "pooler" in v.path]


def test_more_padding_changes_nothing(plain):
    longer = {k: np.pad(v, [(0, 0), (0, 5)]) for k, v in inputs().items()}
    short, long = plain(inputs()), plain(longer)
    np.testing.assert_allclose(long["sequence_output"][:, :L], short["sequence_output"], atol=1e-5)
    np.testing.assert_allclose(long["pooled_output"], short["pooled_output"], atol=1e-5)


def test_a_batch_equals_one_by_one(plain):
    together = plain(inputs())
    for b in range(B):
        n = REAL[b].sum()
        alone = plain({k: v[b : b + 1, :n] for k, v in inputs().items()})
        np.testing.assert_allclose(alone["sequence_output"][0], together["sequence_output"][b, :n], atol=1e-5)
        np.testing.assert_allclose(alone["pooled_output"][0], together["pooled_output"][b], atol=1e-5)


def test_what_is_masked_cannot_be_seen(plain):
    changed = inputs() | {
        "input_ids": np.where(REAL, FEATURES["input_ids"], 5),
        "segment_ids": np.where(REAL, FEATURES["segment_ids"], 1),
    }
    before, after = (plain(x)["sequence_output"].numpy() for x in (inputs(), changed))
    np.testing.assert_array_equal(before[REAL], after[REAL])
    assert (before[~REAL] != after[~REAL]).any()


@pytest.mark.slow
def test_every_real_token_is_seen(plain):
    """The opposite: each token, segment and place counts in the pooled output."""
    before = plain(inputs())["pooled_output"].numpy()[0]
    for name, value in (("input_ids", 7), ("segment_ids", 1)):
        for at in range(L):
            changed = FEATURES[name][:1].copy()
            changed[0, at] = value if changed[0, at] != value else 0
            after = plain({k: v[:1] for k, v in inputs().items()} | {name: changed})["pooled_output"].numpy()[0]
            assert np.abs(after - before).max() > 1e-6, (name, at)


def test_empty_rows_are_finite(plain):
    """Evaluation pads its last batch with examples of zeros."""
    nothing = {k: np.zeros((2, L), np.int32) for k in NAMES}
    for value in plain(nothing).values():
        assert np.isfinite(value).all()


def test_one_graph_for_all_lengths(plain):
    traces = []

    @tf.function(input_signature=[{k: tf.TensorSpec([None, None], tf.int32) for k in NAMES}])
    def run(x):
        traces.append(x)
        return plain(x)

    for length in (L, 8, 1):
        cut = {k: v[:, :length] for k, v in inputs().items()}
        np.testing.assert_allclose(run(cut)["sequence_output"], plain(cut)["sequence_output"], atol=1e-5)
    assert len(traces) == 1


def test_mixed_bfloat16_is_close_to_float32(plain):
    with dtype_policy.building_in("mixed_bfloat16"):
        mixed = model()
    assert {v.dtype for v in mixed.variables} == {"float32"}
    found, expected = mixed(inputs()), plain(inputs())
    for name in expected:
        assert found[name].dtype == tf.bfloat16
        error = np.asarray(found[name], np.float32) - np.asarray(expected[name])
        assert np.sqrt((error**2).mean()) < 0.02 * np.asarray(expected[name]).std(), name
        assert np.any(error), name


@pytest.mark.slow
def test_dropout_is_a_function_of_the_seed():
    """Also of the path: a model built again, as after a restart, draws the same."""
    rates = {"hidden_dropout_prob": 0.2, "attention_probs_dropout_prob": 0.3}

    def run(built, seed):
        @tf.function
        def step(x, seed):
            with dropout.seeded(seed):
                return built(x, training=True)["sequence_output"]

        return step(inputs(), tf.constant(seed)).numpy()

    first, again = model(**rates), model(**rates)
    np.testing.assert_array_equal(run(first, (1, 2)), run(again, (1, 2)))
    assert (run(first, (1, 2)) != run(first, (1, 3))).mean() > 0.9
    assert not first.non_trainable_variables


def test_each_dropout_has_its_own_path():
    layers = encoder.build_encoder(tiny.config())._flatten_layers()
    paths = [layer.path for layer in layers if isinstance(layer, dropout.Dropout)]
    assert len(paths) == 1 + 3 * LAYERS
    assert len({zlib_constant(p) for p in paths}) == len(paths)


def zlib_constant(path):
    layer = dropout.Dropout(0.5)
    layer._path = path
    layer.build(None)
    return layer._constant


@pytest.mark.slow
def test_dropout_stands_where_the_paper_says():
    """Rate 1 takes out exactly what the reference loses when the same branch is zero."""
    params = tiny.weights(model())
    no_context = params | {k: 0 * v for k, v in params.items() if "/value/" in k}
    lost = ("bert/embeddings/LayerNorm", "output/dense")
    no_branches = params | {k: 0 * v for k, v in params.items() if any(part in k for part in lost)}
    for rate, zeroed in (("attention_probs_dropout_prob", no_context), ("hidden_dropout_prob", no_branches)):
        found = model(**{rate: 1.0})(inputs(), training=True)
        for name, expected in reference.encoder(FEATURES, zeroed, LAYERS, N).items():
            np.testing.assert_allclose(found[name], expected, atol=1e-5, err_msg=f"{rate} {name}")


@pytest.mark.slow
@pytest.mark.parametrize("size, count", [("base", 109_482_240), ("large", 335_141_888)])
def test_parameters_of_the_published_sizes(size, count, monkeypatch):
    """Counted on one and two layers: every further layer has as many as the second."""
    monkeypatch.setattr(initializers, "truncated_normal", lambda stddev: "zeros")  # no minutes of random numbers
    one, two = (encoder.build_encoder(config.preset(size, num_hidden_layers=n)).count_params() for n in (1, 2))
    assert one + (config.preset(size).num_hidden_layers - 1) * (two - one) == count
