"""Tests of tfbert.loop.input_wait: how long steps wait for their input, and that measuring changes nothing."""

import json
import os
import subprocess
import sys
import time

import pytest
import tensorflow as tf

from tests.test_train_loop import DEFAULT, Stop, batch, endless, feed, make
from tfbert.loop import input_wait

DELAY = 0.03


def slowly(number):
    time.sleep(DELAY)
    return number


def after(number, tensors):
    """{name: tensor} that are there `DELAY` seconds later; `number` is an int64 tensor of no meaning."""
    with tf.control_dependencies([tf.numpy_function(slowly, [number], tf.int64)]):
        return {name: tf.identity(value) for name, value in tensors.items()}


class TestInputWait:
    def test_gives_the_elements_in_their_order(self):
        wait, iterator = input_wait.InputWait(), iter(tf.data.Dataset.range(20))

        @tf.function
        def take(iterator):
            return wait.take(iterator, 3)

        assert [int(x) for x in take(iterator)] == [0, 1, 2]
        assert [int(x) for x in take(iterator)] == [3, 4, 5]
        assert 0 < wait.seconds < 1

    def test_input_that_is_ready_costs_next_to_nothing(self):
        _, trainer, _ = make()
        trainer.run(feed(DEFAULT, batch(), 12), 200, Stop())
        assert 0 < trainer.input_wait_seconds < 0.2

    @pytest.mark.slow
    @pytest.mark.parametrize(
        ("strategy", "micro_batches"),
        [("default", 1), ("default", 3), ("mirrored", 1), ("mirrored", 3)],
    )
    def test_waiting_is_measured_and_nothing_else(self, strategy, micro_batches, request):
        """Steps of 0 seconds that wait, then steps that take their time and do not wait."""
        strategy = request.getfixturevalue("mirrored") if strategy == "mirrored" else DEFAULT
        replicas = strategy.num_replicas_in_sync
        size, steps = 12 // micro_batches // replicas, 7
        _, trainer, _ = make(strategy, micro_batches)
        dataset = endless(batch(), size).enumerate().map(after)
        iterator = iter(strategy.distribute_datasets_from_function(lambda _: dataset))
        trainer.run(iterator, 1, Stop())
        before, start = trainer.input_wait_seconds, time.monotonic()
        trainer.run(iterator, steps, Stop())
        waited, whole = trainer.input_wait_seconds - before, time.monotonic() - start
        least = DELAY * (steps - 1) * micro_batches * replicas  # one batch may be under way already
        assert 0.7 * least < waited <= whole

    def test_work_is_not_waiting(self):
        """A slow step in place of slow input: what the step itself takes is not counted."""
        _, trainer, _ = make()
        replica_step = trainer._replica_step

        def worked(batches, step, stop):
            return replica_step(tuple(after(step, features) for features in batches), step, stop)

        trainer._replica_step = worked
        iterator = feed(DEFAULT, batch(), 12)
        trainer.run(iterator, 1, Stop())
        before, start = trainer.input_wait_seconds, time.monotonic()
        trainer.run(iterator, 10, Stop())
        assert time.monotonic() - start > 10 * DELAY
        assert trainer.input_wait_seconds - before < 2 * DELAY

    @pytest.mark.slow
    @pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="this system cannot bind a process to a core")
    def test_tracing_and_compiling_are_not_waiting_on_one_core(self, tmp_path):
        """One thread runs all operations there, and the second reading of the clock came after most of the step."""
        program = (
            "import os, pathlib, sys\n"
            "os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})\n"
            "from tests import tiny_task\n"
            "from tfbert import finetune\n"
            "folder = pathlib.Path(sys.argv[1])\n"
            "data = tiny_task.make(folder / 'data', num_hidden_layers=1)\n"
            "less = {'dev_file': '', 'save_checkpoints_steps': 10}\n"
            "finetune.run(tiny_task.flags(data, folder / 'run', num_train_steps=10, log_steps=10, **less))\n"
        )
        subprocess.run([sys.executable, "-c", program, str(tmp_path)], check=True, timeout=300)
        with open(tmp_path / "run" / "speed.jsonl") as f:
            assert json.loads(f.readline())["input_wait_share"] < 0.2  # it was 0.6

    def test_it_is_no_part_of_a_checkpoint(self):
        _, trainer, _ = make()
        assert set(trainer.state) == {"step", "sums"}
