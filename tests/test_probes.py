import math

import numpy as np
import pytest

from tests import reference, tiny, tiny_packed
from tests.tiny import LAYERS, H, N
from tfbert import heads
from tfbert.layers import dtype_policy
from tfbert.watching import probes


def reference_entropies(features, weights):
    """Entropy over its logarithm's bound of every query that is text, one example at a time, from the definition."""
    states = reference.hidden_states(features, weights, LAYERS, N)
    found = np.zeros((LAYERS, N))
    queries = 0
    for row, mask in enumerate(features["input_mask"]):
        seen = np.flatnonzero(mask)
        queries += len(seen)
        for i in range(LAYERS):
            scope = f"bert/encoder/layer_{i}/attention/self"
            query, key = (reference.dense(states[i][row], weights, f"{scope}/{name}") for name in ("query", "key"))
            for n in range(N):
                head = slice(n * H, (n + 1) * H)
                for f in seen:
                    shares = reference.softmax(np.array([query[f, head] @ key[t, head] / math.sqrt(H) for t in seen]))
                    found[i, n] -= sum(p * math.log(p) for p in shares) / math.log(len(seen))
    return found / queries


def model_of(packed=False, seed=0):
    return tiny.randomize(heads.build_pretrainer(tiny.config(), packed=packed), seed)


class TestAttention:
    def test_equals_reference(self):
        model, features = model_of(), tiny.features()
        found = probes.AttentionProbe(model).entropies(features)
        assert found.shape == (LAYERS, N) and found.dtype == np.float32
        expected = reference_entropies(features, tiny.weights(model))
        assert np.ptp(expected) > 0.02  # heads differ: one taken for another would be seen
        np.testing.assert_allclose(found, expected, rtol=2e-5)

    def test_follows_the_weights(self):
        """The probe is built once in a run, whose weights move on."""
        model, features = model_of(), tiny.features()
        probe = probes.AttentionProbe(model)
        probe.entropies(features)
        tiny.randomize(model, seed=1)
        np.testing.assert_allclose(
            probe.entropies(features), reference_entropies(features, tiny.weights(model)), rtol=2e-5
        )

    def test_padding_changes_nothing(self):
        model, features = model_of(), tiny.features()
        longer = {name: np.pad(x, ((0, 0), (0, 7))) if x.shape[1] == tiny.L else x for name, x in features.items()}
        probe = probes.AttentionProbe(model)
        np.testing.assert_allclose(probe.entropies(longer), probe.entropies(features), rtol=1e-5)

    def test_packed_rows_are_as_their_examples_alone(self):
        features = tiny.features()
        together = tiny_packed.pack(features, [[1, 0], [2], [3]])
        alone = probes.AttentionProbe(model_of()).entropies(features)
        np.testing.assert_allclose(probes.AttentionProbe(model_of(packed=True)).entropies(together), alone, rtol=1e-5)

    def test_bounds(self):
        """All keys alike is 1; one key alone is 0."""
        model, features = model_of(), tiny.features()
        attention = model.get_layer("layer_0").attention.self_attention
        attention.projections[0].kernel.assign(np.zeros(attention.projections[0].kernel.shape))
        attention.projections[0].bias.assign(np.zeros(attention.projections[0].bias.shape))
        np.testing.assert_allclose(probes.AttentionProbe(model).entropies(features)[0], 1.0, rtol=1e-6)
        attention.projections[0].bias.assign(np.full(attention.projections[0].bias.shape, 1e4))
        np.testing.assert_allclose(probes.AttentionProbe(model).entropies(features)[0], 0.0, atol=1e-3)

    @pytest.mark.parametrize("length", [0, 1])
    def test_rows_without_a_choice_do_not_count(self, length):
        """A row of one token, or of padding alone, as the last batch of an evaluation has them."""
        model, features = model_of(), tiny.features()
        fewer = {name: x[1:] for name, x in features.items()}
        features["input_mask"][0, length:] = 0
        probe = probes.AttentionProbe(model)
        np.testing.assert_allclose(probe.entropies(features), probe.entropies(fewer), rtol=1e-5)

    def test_bfloat16(self):
        features = tiny.features()
        with dtype_policy.building_in("mixed_bfloat16"):
            model = model_of()
        expected = reference_entropies(features, tiny.weights(model))
        np.testing.assert_allclose(probes.AttentionProbe(model).entropies(features), expected, atol=0.02)

    def test_the_model_is_as_it_was(self):
        model, features = model_of(), tiny.features()
        before = model(tiny.inputs(features))
        names = [v.path for v in model.trainable_variables]
        probes.AttentionProbe(model).entropies(features)
        assert [v.path for v in model.trainable_variables] == names
        for name, value in model(tiny.inputs(features)).items():
            np.testing.assert_array_equal(value, before[name])


class TestParts:
    @pytest.mark.parametrize("width", [None, 7])
    def test_every_variable_is_in_one(self, width):
        model = heads.build_pretrainer(tiny.config(embedding_size=width))
        paths = [v.path for v in model.trainable_variables]
        names, places = probes.parts_of(paths)
        assert names == ("embeddings", "layer_00", "layer_01", "pooler", "heads")
        for path, place in zip(paths, places, strict=True):
            start = ("bert/emb", "bert/encoder/layer_0/", "bert/encoder/layer_1/", "bert/pooler/", "cls/")[place]
            assert path.startswith(start) or path.startswith("bert/encoder/embedding_hidden_mapping_in/")

    def test_names_are_sorted_as_layers_are(self):
        paths = [f"bert/encoder/layer_{i}/output/dense/kernel" for i in range(12)]
        assert list(probes.parts_of(paths)[0]) == sorted(probes.parts_of(paths)[0])

    def test_a_part_that_is_not_trained_is_not_there(self):
        assert probes.parts_of(["bert/encoder/layer_7/output/dense/bias", "classifier/kernel"]) == (
            ("layer_07", "heads"),
            [0, 1],
        )

    @pytest.mark.parametrize("policy", ["float32", "mixed_bfloat16"])
    def test_weight_norms(self, policy):
        with dtype_policy.building_in(policy):
            model = model_of()
        norms = probes.weight_norms(model.trainable_variables)
        assert list(norms) == ["embeddings", "layer_00", "layer_01", "pooler", "heads"]
        for part, norm in norms.items():
            numbers = [np.ravel(v) for v in model.trainable_variables if probes.part_of(v.path) == part]
            assert norm == pytest.approx(np.linalg.norm(np.concatenate(numbers).astype(np.float64)), rel=1e-5)
