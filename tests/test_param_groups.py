"""Tests of tfbert.optimizers.param_groups: layer-wise decay and freezing, on the real model."""

import re

import pytest

from tests import tiny
from tfbert import checks, heads
from tfbert.optimizers import param_groups


@pytest.fixture
def model():
    return heads.build_pretrainer(tiny.config())


class TestRateScales:
    def test_falls_by_one_factor_a_level(self, model):
        scales = param_groups.rate_scales([v.path for v in model.trainable_variables], tiny.LAYERS, 0.5)
        assert len(scales) == len(model.trainable_variables)
        for path, scale in scales.items():
            if path.startswith(("cls/", "bert/pooler/")):
                level = 0
            elif path.startswith("bert/embeddings/"):
                level = tiny.LAYERS + 1
            else:
                level = tiny.LAYERS - int(re.match(r"bert/encoder/layer_(\d+)/", path)[1])
            assert scale == 0.5**level, path
        assert {scales[f"bert/encoder/layer_{i}/output/dense/kernel"] for i in range(tiny.LAYERS)} == {
            0.5 ** (i + 1) for i in range(tiny.LAYERS)
        }

    def test_a_projection_of_the_embeddings_lies_below_the_layers(self):
        model = heads.build_pretrainer(tiny.config(embedding_size=7))
        scales = param_groups.rate_scales([v.path for v in model.trainable_variables], tiny.LAYERS, 0.5)
        projection = [p for p in scales if "embedding_hidden_mapping_in" in p]
        assert len(projection) == 2 and {scales[p] for p in projection} == {0.5 ** (tiny.LAYERS + 1)}

    def test_layers_of_two_digits(self):
        scales = param_groups.rate_scales([f"bert/encoder/layer_{i}/output/dense/bias" for i in (1, 11)], 12, 0.5)
        assert list(scales.values()) == [0.5**11, 0.5]

    def test_refuses_what_lies_nowhere(self):
        with pytest.raises(checks.InputError, match="1 that do not: adapter/kernel"):
            param_groups.rate_scales(["cls/predictions/output_bias", "adapter/kernel"], 2, 0.8)


class TestFreeze:
    def test_takes_out_what_the_patterns_match_and_nothing_else(self, model):
        before = [v.path for v in model.trainable_variables]
        frozen = param_groups.freeze(model, ("bert/embeddings/*", "*/layer_0/*"))
        assert frozen and all(p.startswith(("bert/embeddings/", "bert/encoder/layer_0/")) for p in frozen)
        left = [v.path for v in model.trainable_variables]
        assert sorted(frozen + left) == sorted(before)
        assert not any(p.startswith(("bert/embeddings/", "bert/encoder/layer_0/")) for p in left)
        assert len(model.variables) == len(before)

    def test_no_pattern_freezes_nothing(self, model):
        before = len(model.trainable_variables)
        assert param_groups.freeze(model, ()) == [] and len(model.trainable_variables) == before

    @pytest.mark.parametrize("pattern", ["embeddings/*", "bert/encoder/layer_9/*", "Bert/*"])
    def test_a_pattern_that_matches_nothing_is_an_error(self, model, pattern):
        before = len(model.trainable_variables)
        with pytest.raises(checks.InputError, match=re.escape(f"freeze={pattern}")):
            param_groups.freeze(model, ("bert/embeddings/*", pattern))
        assert len(model.trainable_variables) == before

    def test_something_must_be_left(self, model):
        with pytest.raises(checks.InputError, match=r"must train something; got freeze=\*"):
            param_groups.freeze(model, ("*",))
