"""Fine-tuning by the same batches cut in other ways: the same run, up to the rounding of sums."""

import contextlib
import dataclasses
import os
import subprocess
import sys

import keras
import numpy as np
import pytest

from tests import tiny_task
from tests.test_finetune import metrics_of, results_of, weights_of
from tfbert import finetune
from tfbert.launch import local
from tfbert.loop import checkpoints

STEPS = 7
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    keras.utils.set_random_seed(1)  # of the weights to begin with
    return tiny_task.make(tmp_path_factory.mktemp("task"), num_hidden_layers=1)


def flags_of(data, folder, **overrides):
    no_dropout = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0, "num_train_steps": STEPS}
    return tiny_task.flags(data, folder / "run", **no_dropout, train_batch_size=12, learning_rate=1e-3, **overrides)


@pytest.fixture(scope="module")
def plain(data, tmp_path_factory):
    flags = flags_of(data, tmp_path_factory.mktemp("plain"), test_file=str(data / "dev.tsv"))
    assert finetune.run(flags) == 0
    return flags.output_dir


def assert_close(run_dir, other):
    for a, b in zip(metrics_of(run_dir), metrics_of(other), strict=True):
        assert a.pop("split") == b.pop("split")
        for row in (a, b):
            row.pop("padding_share", None)  # parts of a step are all filled up to one length
        assert a == pytest.approx(b, rel=1e-4, abs=1e-5)
    a, b = weights_of(run_dir, STEPS), weights_of(other, STEPS)
    for name in a:
        if name != "loop/sums":
            np.testing.assert_allclose(a[name], b[name], rtol=1e-2, atol=1e-4, err_msg=name)
    assert results_of(run_dir) == pytest.approx(results_of(other), rel=1e-4)
    assert checkpoints.read_best(run_dir).step == checkpoints.read_best(other).step


def test_two_devices_accumulation_and_rematerialize(plain, data, tmp_path):
    ways = {"strategy": "mirrored", "gradient_accumulation_steps": 2, "rematerialize": True}
    flags = flags_of(data, tmp_path, **ways)
    finetune.run(flags)
    assert_close(flags.output_dir, plain)


def test_bfloat16(plain, data, tmp_path):
    flags = flags_of(data, tmp_path, mixed_precision="bfloat16")
    finetune.run(flags)
    a, b = metrics_of(flags.output_dir), metrics_of(plain)
    assert [r["loss"] for r in a] == pytest.approx([r["loss"] for r in b], rel=0.05)


def test_two_processes(plain, data, tmp_path):
    """The first of them writes all; both have all of an evaluation's answers, and so come to the same decisions."""
    flags = flags_of(data, tmp_path, test_file=str(data / "dev.tsv"), strategy="multi_worker")
    given = {k: v for k, v in dataclasses.asdict(flags).items() if v not in (None, "", ())}
    command = [sys.executable, "-m", "tfbert.finetune", *(f"--{name}={value}" for name, value in given.items())]
    logs, processes = [tmp_path / "log0", tmp_path / "log1"], []
    for environment, log in zip(local.environments(local.free_addresses(2)), logs):
        with open(log, "w") as file:
            processes.append(subprocess.Popen(command, env=environment, stdout=file, stderr=file))
    try:
        assert [p.wait(480) for p in processes] == [0, 0], logs[0].read_text() + logs[1].read_text()
    finally:
        for p in processes:
            with contextlib.suppress(ProcessLookupError):
                p.kill()
    said = [log.read_text() for log in logs]
    assert "accuracy = " in said[0] and "accuracy = " not in said[1]
    assert_close(flags.output_dir, plain)
    for name in ("eval_predictions.tsv", "test_predictions.tsv"):
        with open(os.path.join(flags.output_dir, name)) as f, open(os.path.join(plain, name)) as g:
            assert f.read() == g.read()
