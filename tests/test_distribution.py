"""Tests of tfbert.loop.distribution: devices, and which replica gets which records."""

import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf

from tests import test_input_pipeline as fixtures
from tests import test_pretrain, tiny_records
from tfbert import checks, input_pipeline, pretrain, record_sets
from tfbert.loop import distribution


def test_default_is_one_device():
    strategy = distribution.make_strategy("default")
    assert strategy.num_replicas_in_sync == 1
    with strategy.scope():
        assert tf.Variable(1.0).device.endswith("GPU:0" if tf.config.list_logical_devices("GPU") else "CPU:0")


def test_mirrored_takes_all_devices_and_is_one_object():
    strategy = distribution.make_strategy("mirrored")
    assert strategy.num_replicas_in_sync == 2
    assert distribution.make_strategy("mirrored") is strategy


@pytest.mark.parametrize("name", ["", "local", "no-such-tpu"])
def test_tpu_that_is_not_there(name):
    with pytest.raises(checks.InputError, match=f"TPU that can be reached; got tpu_name='{name}'.*--strategy=default"):
        distribution.make_strategy("tpu", name)


def test_other_names_are_refused():
    with pytest.raises(checks.InputError, match="default, mirrored, multi_worker, tpu; got strategy='mirror'"):
        distribution.make_strategy("mirror")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["default", "mirrored"])
def test_replicas_take_the_elements_by_turns(tmp_path, name):
    pattern = fixtures.write_set(tmp_path, (11, 6, 7))
    records = record_sets.open_records(pattern, fixtures.L, fixtures.P)
    strategy = distribution.make_strategy(name)
    replicas = strategy.num_replicas_in_sync

    def make_dataset(num_pipelines, pipeline_index, replicas_per_pipeline):
        assert (num_pipelines, pipeline_index, replicas_per_pipeline) == (1, 0, replicas)
        return input_pipeline.train_dataset(
            records, 8, 2, 5, 1, 6, num_pipelines, pipeline_index, replicas_per_pipeline
        )

    iterator = iter(distribution.distribute(strategy, make_dataset))

    @tf.function
    def micro_batch(iterator):
        return strategy.run(lambda features: features["input_ids"][:, 0], (next(iterator),))

    want = fixtures.stream(records, 5, batch_size=8, start=1)
    got = [strategy.experimental_local_results(micro_batch(iterator)) for _ in range(10)]
    assert [len(g) for g in got] == [replicas] * 10
    assert np.concatenate([np.concatenate(g) for g in got]).tolist() == want


@pytest.mark.parametrize("name", ["default", "mirrored"])
def test_evaluation_ends_on_all_replicas_at_once(tmp_path, name):
    records = record_sets.open_records(fixtures.write_set(tmp_path, (5, 4)), fixtures.L, fixtures.P)
    strategy = distribution.make_strategy(name)
    dataset = distribution.distribute(
        strategy, lambda *pipeline: input_pipeline.eval_dataset(records, 4, None, *pipeline)
    )
    batches = [strategy.experimental_local_results(b["example_weights"]) for b in dataset]
    assert np.concatenate([np.concatenate(b) for b in batches]).tolist() == [1.0] * 9 + [0.0] * 3


# A process of its own, since the number of devices is fixed once TensorFlow has started.
ON_DEVICES = """
import sys
import tensorflow as tf
from tfbert import config, pretrain

[cpu] = tf.config.list_physical_devices("CPU")
devices = [tf.config.LogicalDeviceConfiguration()] * int(sys.argv.pop(1))
tf.config.set_logical_device_configuration(cpu, devices)
config.define_flags(pretrain.PretrainConfig)
pretrain.checks.run_program(pretrain.main)
"""


@pytest.mark.slow
def test_four_devices_train_as_one(tmp_path):
    """Without dropout, whose masks are each device's own."""
    tiny_records.make(tmp_path, num_hidden_layers=1)
    rates = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0, "eval_input_file": ()}
    one = tiny_records.flags(tmp_path, tmp_path / "one", **rates)
    assert pretrain.run(one) == 0
    four = tiny_records.flags(tmp_path, tmp_path / "four", strategy="mirrored", **rates)
    command = [sys.executable, "-c", ON_DEVICES, "4", *test_pretrain.arguments(four)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "4 replicas" in done.stderr
    test_pretrain.assert_close(four.output_dir, one.output_dir, 15)


def test_alone_a_process_is_the_chief_and_everyone():
    strategy = distribution.make_strategy("default")
    assert distribution.is_chief(strategy) and distribution.members(strategy) is None
    assert distribution.everyones(strategy, 7) == [7] and distribution.of_chief(strategy, -1) == -1
    with pytest.raises(checks.InputError, match="of mine"), distribution.together(strategy):
        raise checks.InputError("of mine")


def test_several_workers_are_told_what_the_environment_must_say(monkeypatch):
    monkeypatch.delenv("TF_CONFIG", raising=False)
    monkeypatch.delenv("SLURM_PROCID", raising=False)
    with pytest.raises(checks.InputError, match=r"needs to know who trains together.*TF_CONFIG="):
        distribution.make_strategy("multi_worker")
