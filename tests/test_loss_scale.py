"""Tests of tfbert.loop.loss_scale: float16 gradients that are too large, and what a step does with them."""

import json
import os

import numpy as np
import pytest
import tensorflow as tf

from tests import test_pretrain, tiny_records
from tests import test_train_loop as fixtures
from tfbert import pretrain
from tfbert.loop import loss_scale

OVERFLOWS = 2.0**72  # times the gradients of the fixtures, squared, this is infinite in float32


def numbers(scale):
    return {name: v.numpy() for name, v in scale.state.items()}


def step(trainer, strategy=fixtures.DEFAULT, size=12, count=1):
    return trainer.run(fixtures.feed(strategy, fixtures.batch(), size), count, fixtures.Stop())


@pytest.mark.parametrize("micro_batches", [1, 3])
def test_a_scale_changes_nothing_but_the_scale(micro_batches):
    model, trainer, _ = fixtures.make(micro_batches=micro_batches, loss_scale=loss_scale.LossScale(2.0**15))
    expected, loss, norm = fixtures.reference(fixtures.batch())
    np.testing.assert_allclose(step(trainer, size=12 // micro_batches), (loss, norm), rtol=1e-5)
    fixtures.assert_close(fixtures.values(model), expected)
    report = trainer.take_report()
    assert report["gradient_norm"] == pytest.approx(norm, rel=1e-5)
    assert (report["loss_scale"], report["skipped_updates"]) == (2.0**15, 0)


def skips(strategy):
    scale = loss_scale.LossScale(OVERFLOWS)
    model, trainer, optimizer = fixtures.make(strategy, loss_scale=scale)
    before = fixtures.values(model)
    loss, norm = step(trainer, strategy, 12 // strategy.num_replicas_in_sync)
    assert np.isfinite(loss) and norm == 0.0
    assert numbers(scale) == {"loss_scale": OVERFLOWS / 2, "loss_scale_steps": 0, "skipped_updates": 1}
    assert (trainer.step, int(optimizer.iterations.numpy())) == (1, 0)
    assert [n for n, v in fixtures.values(model).items() if not np.array_equal(v, before[n])] == []
    # The scale falls until the gradients fit; from there on the loss does.
    first, _ = loss, step(trainer, strategy, 12 // strategy.num_replicas_in_sync, 30)
    report = trainer.take_report()
    assert report["skipped_updates"] == np.log2(OVERFLOWS / report["loss_scale"]) > 1
    assert trainer.step == 31 == report["skipped_updates"] + int(optimizer.iterations.numpy())
    assert 0 < report["gradient_norm"] < np.inf and report["loss"] < first


def test_gradients_that_are_too_large_change_no_weight():
    skips(fixtures.DEFAULT)


@pytest.mark.slow
def test_two_replicas_skip_alike(mirrored):
    skips(mirrored)


def test_without_a_smaller_scale_it_is_a_fault():
    features = fixtures.batch()
    features["x"] = features["x"] * np.float32(3e30)  # the square of the gradient is infinite, the loss is as well
    _, trainer, _ = fixtures.make(loss_scale=loss_scale.LossScale(1.0))
    result = trainer.run(fixtures.feed(fixtures.DEFAULT, features, 12), 3, fixtures.Stop())
    assert not np.isfinite(result[1]) and trainer.step == 1


def test_grows_after_good_steps_and_falls_to_one_at_least():
    scale = loss_scale.LossScale(2.0, growth_steps=3)
    seen = []
    for finite in (True, True, True, True, True, False, False, False, False, True, True, True):
        scale.update(tf.constant(finite))
        seen.append(float(scale.value()))
    assert seen == [2, 2, 4, 4, 4, 2, 1, 1, 1, 1, 1, 2]
    assert numbers(scale)["skipped_updates"] == 4
    largest = loss_scale.LossScale(loss_scale.LARGEST, growth_steps=1)
    largest.update(tf.constant(True))
    assert float(largest.value()) == loss_scale.LARGEST


@pytest.mark.slow
class TestPretraining:
    """The program with --mixed_precision=float16."""

    @pytest.fixture(scope="class")
    def records(self, tmp_path_factory):
        folder = str(tmp_path_factory.mktemp("records"))
        tiny_records.make(folder, num_hidden_layers=1)
        return folder

    def flags(self, records, folder, **overrides):
        fixed = {"log_steps": 1, "mixed_precision": "float16", "eval_input_file": ()}
        return tiny_records.flags(records, folder, **fixed, **overrides)

    @pytest.fixture(scope="class")
    def finished(self, records, tmp_path_factory):
        flags = self.flags(records, tmp_path_factory.mktemp("finished"))
        assert pretrain.run(flags) == 0
        return flags.output_dir

    def test_learns_as_float32_does(self, finished, records, tmp_path):
        flags = self.flags(records, tmp_path)
        with pytest.MonkeyPatch.context() as patch:
            patch.setitem(pretrain.training_config.POLICIES, "float16", "float32")
            assert pretrain.run(flags) == 0
        for row, exact in zip(test_pretrain.metrics_of(finished), test_pretrain.metrics_of(tmp_path), strict=True):
            assert row["loss"] == pytest.approx(exact["loss"], rel=2e-4)
            assert row.get("gradient_norm", 0) == pytest.approx(exact.get("gradient_norm", 0), rel=5e-3)

    def test_resumes_to_the_bit(self, finished, records, tmp_path):
        flags = self.flags(records, tmp_path / "run")
        tiny_records.cut_back(finished, flags.output_dir, 8)
        assert pretrain.run(flags) == 0
        test_pretrain.assert_same_to_the_bit(flags.output_dir, finished, 15)
        with open(os.path.join(finished, "metrics.jsonl")) as f:
            rows = [json.loads(line) for line in f]
        assert {r["loss_scale"] for r in rows if r["split"] == "train"} == {2.0**15}
        weights = test_pretrain.weights_of(finished, 15)
        assert (weights["loop/loss_scale_steps"], weights["loop/skipped_updates"]) == (15, 0)
