"""Tests of several processes that train one model: equal to one process, and what happens when one of them is gone.

Each test is of real processes on this machine, as `tfbert.launch.local` starts them.
"""

import contextlib
import dataclasses
import os
import re
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from tests import test_pretrain, tiny_records
from tfbert import pretrain
from tfbert.launch import local
from tfbert.loop import checkpoints, lost_worker

STEPS = 32
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def records(tmp_path_factory):
    """A folder of records of which one has a weight that is not a number: once an epoch, all must go back together."""
    folder = str(tmp_path_factory.mktemp("records"))
    tiny_records.make(folder, num_hidden_layers=1)
    batch = tiny_records.examples(1, 20)
    batch["masked_lm_weights"][17, 0] = np.nan
    tiny_records.write(os.path.join(folder, "train-0.tfrecord"), batch)
    return folder


def flags_of(records, run_dir, **overrides):
    fields = {"num_train_steps": STEPS, "save_checkpoints_steps": 5, "log_steps": 4, "eval_steps": 16}
    fields["max_rollbacks"] = 30
    return tiny_records.flags(records, run_dir, **{**fields, **overrides})


class Workers:
    """Processes that train together; `said(i)` is what the i-th wrote."""

    def __init__(self, flags, folder, count=2):
        os.makedirs(folder, exist_ok=True)
        self._logs = [os.path.join(folder, f"log{i}") for i in range(count)]
        self.processes = []
        for environment, log in zip(local.environments(local.free_addresses(count)), self._logs):
            with open(log, "w") as file:
                command = [sys.executable, "-m", "tfbert.pretrain", *test_pretrain.arguments(flags)]
                command.append("--strategy=multi_worker")
                self.processes.append(subprocess.Popen(command, env=environment, stdout=file, stderr=file))

    def said(self, index):
        with open(self._logs[index]) as f:
            return f.read()

    def wait_for_lines(self, run_dir, count):
        """Waits until metrics.jsonl has so many lines, while all are at work."""
        deadline = time.monotonic() + 480
        while test_pretrain.lines_of(run_dir) < count:
            assert [p.poll() for p in self.processes] == [None, None], self.said(0) + self.said(1)
            assert time.monotonic() < deadline
            time.sleep(0.002)

    def wait(self, seconds=480):
        """The statuses."""
        try:
            return [p.wait(seconds) for p in self.processes]
        finally:
            for p in self.processes:
                with contextlib.suppress(ProcessLookupError):
                    p.kill()


def test_killed_and_stopped_and_resumed(records, tmp_path):
    """Two processes end as two devices of one that nobody interrupts, to the bit: of two numbers the sum is one."""
    flags = flags_of(records, tmp_path / "run")
    workers = Workers(flags, tmp_path / "killed")
    workers.wait_for_lines(flags.output_dir, 3)
    workers.processes[1].kill()
    killed_at = time.monotonic()
    assert workers.wait(60) == [lost_worker.STATUS, -signal.SIGKILL]
    assert time.monotonic() - killed_at < 60
    newest = checkpoints.prefix_of(flags.output_dir, checkpoints.saved_steps(flags.output_dir)[-1])
    last = workers.said(0).splitlines()[-1]
    assert re.match(r"error: all workers must be there to train; got no answer from worker 1 \(localhost:\d+\)", last)
    assert f"The last good checkpoint is {newest}." in last and "the same command" in last
    assert "Traceback" not in workers.said(0)

    workers = Workers(flags, tmp_path / "stopped")
    workers.wait_for_lines(flags.output_dir, 7)
    workers.processes[1].send_signal(signal.SIGTERM)
    assert workers.wait() == [lost_worker.STATUS, 0]
    assert workers.said(0).endswith("Another worker was asked to stop.\n")
    stopped = re.search(r"Stopped at step (\d+), saved", workers.said(0))
    assert stopped[0] in workers.said(1)
    step = int(stopped[1])
    assert checkpoints.saved_steps(flags.output_dir)[-1] == step < STEPS

    workers = Workers(flags, tmp_path / "resumed")
    assert workers.wait() == [0, 0]
    assert f"going on from ckpt-{step}" in workers.said(0)
    assert_only_the_chief_reports(workers)

    whole = flags_of(records, tmp_path / "whole", strategy="mirrored")
    assert pretrain.run(whole) == 0
    assert len([row for row in test_pretrain.metrics_of(whole.output_dir) if "event" in row]) >= 2
    test_pretrain.assert_same_to_the_bit(flags.output_dir, whole.output_dir, STEPS)


def assert_only_the_chief_reports(workers):
    chief, other = workers.said(0), workers.said(1)
    assert f"Finished {STEPS} steps" in chief and f"Finished {STEPS} steps" in other
    assert "held out at step" in chief and "held out at step" not in other
    assert re.match(r"worker 1 \(localhost:\d+\) of 2: waiting for the others\n4,061 parameters", other)
    assert other.count("\n") == 3


def test_sigterm_ends_a_worker_that_waits_for_the_others(records, tmp_path):
    """TensorFlow's own wait is deaf to it."""
    command = [sys.executable, "-m", "tfbert.pretrain", *test_pretrain.arguments(flags_of(records, tmp_path / "run"))]
    command.append("--strategy=multi_worker")
    environment = local.environments(local.free_addresses(2))[0]
    with subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True) as process:
        try:
            while "waiting for the others" not in process.stderr.readline():
                assert process.poll() is None
            time.sleep(1)
            process.send_signal(signal.SIGTERM)
            assert process.wait(20) == -signal.SIGTERM
        finally:
            process.kill()


def test_workers_of_other_flags_end_all(records, tmp_path):
    """One worker was given another learning rate: both end with a sentence, and nothing is trained."""
    flags = flags_of(records, tmp_path / "run")
    environments = local.environments(local.free_addresses(2))
    logs, processes = [tmp_path / "log0", tmp_path / "log1"], []
    for i, rate in enumerate((1e-3, 2e-3)):
        arguments = test_pretrain.arguments(dataclasses.replace(flags, learning_rate=rate, strategy="multi_worker"))
        command = [sys.executable, "-m", "tfbert.pretrain", *arguments]
        with open(logs[i], "w") as file:
            processes.append(subprocess.Popen(command, env=environments[i], stdout=file, stderr=file))
    assert [p.wait(120) for p in processes] == [2, 2]
    assert "error: every worker must be able to go on; got an error of worker 1 (localhost:" in logs[0].read_text()
    assert "every worker must be given the flags" in logs[1].read_text()
    assert "pretrain.learning_rate: 0.001 -> 0.002" in logs[1].read_text()
    assert not checkpoints.saved_steps(flags.output_dir)
