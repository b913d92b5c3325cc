"""Tests of tfbert.loop.training_clock: what counts as training time, and how a loop ends by it."""

import os
import signal

import numpy as np
import pytest
import tensorflow as tf

from tests import test_train_loop
from tests.test_train_loop import CLIP, DEFAULT, OBJECTIVE, SGD, Stop, batch, feed, values
from tfbert.loop import checkpoints, train_loop, training_clock
from tfbert.loop import trainer as trainer_lib
from tfbert.optimizers import schedules

BUDGET = 8.0


class Time:
    """A clock of which each look takes a second."""

    def __init__(self):
        with tf.device("CPU:0"):
            self.seconds = tf.Variable(100.0, dtype=tf.float64)

    def __call__(self):
        return self.seconds.assign_add(1.0) + 0.0


class Keyed:
    """A trainer whose rate and end follow a clock; SGD, so that weights tell the rates."""

    def __init__(self, strategy=DEFAULT, budget=BUDGET):
        self.clock = training_clock.TrainingClock(budget, Time())
        self.schedule = schedules.TimeKeyed(schedules.Schedule(0.5, 2.0, budget, "triangle"), self.clock)
        with strategy.scope():
            self.model = test_train_loop.build()
            self.optimizer = SGD(self.schedule)
            self.optimizer.build(self.model.trainable_variables)
        arguments = strategy, self.model, self.optimizer, OBJECTIVE
        self.trainer = trainer_lib.Trainer(*arguments, clip_norm=CLIP, clock=self.clock)


class TestClock:
    def test_counts_between_looks_and_not_between_calls(self):
        time = Time()
        clock = training_clock.TrainingClock(BUDGET, time)
        clock.resume()
        assert bool(clock.tick()) and bool(clock.tick())
        assert clock.seconds == 2 and not clock.is_over
        time.seconds.assign_add(1000)  # an evaluation
        clock.resume()
        assert bool(clock.tick()) and clock.seconds == 3

    def test_is_over_at_the_budget(self):
        clock = training_clock.TrainingClock(2.0, Time())
        clock.resume()
        assert bool(clock.tick()) and not bool(clock.tick()) and clock.is_over

    def test_a_clock_that_is_set_back_takes_nothing_away(self):
        time = Time()
        clock = training_clock.TrainingClock(BUDGET, time)
        clock.resume()
        clock.tick()
        time.seconds.assign_sub(50)
        clock.tick()
        assert clock.seconds == 1
        clock.tick()
        assert clock.seconds == 2

    def test_the_real_one_counts_seconds(self):
        clock = training_clock.TrainingClock(60.0)
        clock.resume()
        assert clock.tick() and 0 <= clock.seconds < 5


class TestTrainer:
    def test_ends_within_one_call_of_the_graph(self):
        keyed = Keyed()
        keyed.trainer.run(feed(DEFAULT, batch(), 4), 1000, Stop())
        # Looks after the first see 1, 2, ... seconds; the one that sees 8 allows no further step.
        assert keyed.trainer.step == 7 and keyed.clock.seconds == BUDGET
        assert keyed.trainer.time_is_over
        assert keyed.trainer.take_report()["training_seconds"] == BUDGET

    def test_each_update_has_the_rate_of_its_time(self):
        keyed, model = Keyed(), test_train_loop.build()
        iterator, rates = feed(DEFAULT, batch(), 12), []
        while not keyed.trainer.time_is_over:
            keyed.trainer.run(iterator, 1, Stop())
            rates.append(float(keyed.schedule(99)))
        # Of the two looks of each call the first is before the update.
        assert rates == pytest.approx([0.5 * min(s / 2, 1 - (s - 2) / 6) for s in (1, 3, 5, 7)], rel=1e-5)
        # The rates that are told are those that were used.
        other = SGD(0.0)
        other.build(model.trainable_variables)
        trainer = trainer_lib.Trainer(DEFAULT, model, other, OBJECTIVE, clip_norm=CLIP)
        iterator = feed(DEFAULT, batch(), 12)
        for rate in rates:
            other.learning_rate = rate
            trainer.run(iterator, 1, Stop())
        for name, value in values(keyed.model).items():
            np.testing.assert_allclose(value, values(model)[name], rtol=1e-5, atol=1e-6)

    def test_two_replicas_follow_one_clock(self, mirrored):
        ends = []
        for strategy in (DEFAULT, mirrored):
            keyed = Keyed(strategy)
            keyed.trainer.run(feed(strategy, batch(), 12 // strategy.num_replicas_in_sync), 1000, Stop())
            assert keyed.trainer.step == 7
            ends.append([np.asarray(v) for v in keyed.model.variables])
        for one, two in zip(*ends):
            np.testing.assert_allclose(two, one, rtol=1e-4, atol=1e-5)


class Run(test_train_loop.Run):
    """`train` on the small model until the time is over."""

    def __init__(self, folder, **keyed):
        super().__init__(folder)
        self.keyed = Keyed(**keyed)
        self.model, self.trainer = self.keyed.model, self.keyed.trainer
        self.saver = checkpoints.Checkpoints(str(folder), self.model, self.keyed.optimizer, self.trainer.state)
        save = self.saver.save
        self.saver.save = lambda step: (self.events.append(("save", step)), save(step))
        self.plan = train_loop.Plan(None, 3, 4, 4, 100)


class TestTrain:
    def test_the_end_is_reported_evaluated_and_saved(self, tmp_path):
        # Each call's last look costs a second too: 3 steps until the report, 1 until the evaluation, 1 until the end.
        run = Run(tmp_path)
        assert run() == 5
        assert run.events == [
            ("held_out", 0),
            ("train", 3),
            ("held_out", 4),
            ("save", 4),
            ("train", 5),
            ("held_out", 5),
            ("save", 5),
        ]
        assert training_clock.seconds_in(checkpoints.prefix_of(str(tmp_path), 5)) == BUDGET

    def test_an_end_at_a_step_that_was_evaluated_is_not_evaluated_again(self, tmp_path):
        run = Run(tmp_path, budget=6.5)
        assert run() == 4
        assert run.events == [("held_out", 0), ("train", 3), ("held_out", 4), ("save", 4), ("train", 4)]

    def test_a_run_that_goes_on_has_the_rest_of_its_time(self, tmp_path):
        class StopAfterEvaluation(Stop):
            def __call__(self):
                if run.trainer.step == 4:
                    self.signal = signal.SIGTERM
                return {"loss": 1.0}

        run = Run(tmp_path)
        stop = StopAfterEvaluation()
        assert run(stop, stop) == 4
        spent = run.keyed.clock.seconds
        run = Run(tmp_path)
        assert run.saver.restore_latest() == 4
        assert run.keyed.clock.seconds == spent < BUDGET
        assert run(evaluate_first=False) > 4
        assert run.keyed.clock.seconds == BUDGET

    def test_a_finished_one_does_nothing_more(self, tmp_path):
        Run(tmp_path)()
        run = Run(tmp_path)
        run.saver.restore_latest()
        assert run(evaluate_first=False) == 5 and run.events == []
        assert os.path.exists(tmp_path / "ckpt-5.index")
