"""Tests of tfbert.loop.faults and of going back in tfbert.loop.train_loop, on a small model."""

import itertools

import numpy as np
import pytest

from tests.test_train_loop import Reports, Run, batch, values
from tfbert import checks
from tfbert.loop import batch_ramp, checkpoints, faults, spikes
from tfbert.watching import hooks

STEPS, SIZE = 12, 4  # a step takes four examples
BAD = np.nan


def data(bad_parts=(), value=BAD):
    """20 batches; those of `bad_parts` have an example that spoils the loss."""
    features = batch(20 * SIZE)
    for part in bad_parts:
        features["x"][part * SIZE + 1, 0] = value
    return features


def without_rows(features, parts):
    return {
        n: np.concatenate([x[i * SIZE : (i + 1) * SIZE] for i in range(20) if i not in parts])
        for n, x in features.items()
    }


def run(folder, features, steps=STEPS, on_spike="rollback", **plan):
    folder.mkdir(exist_ok=True)
    return Run(folder, steps, features, on_spike, **{"save_checkpoints_steps": 4, "eval_steps": 0, **plan})


def assert_same(model, other):
    for name, value in values(model).items():
        np.testing.assert_array_equal(value, values(other)[name], err_msg=name)


@pytest.mark.slow
class TestGoesBack:
    # The second step, before any checkpoint but the first; two batches one after another; right after a checkpoint
    # and right before one; three between two checkpoints.
    @pytest.mark.parametrize("bad", [(1,), (5, 6), (4, 8), (8, 10, 12)], ids=str)
    def test_ends_as_a_run_that_never_had_the_bad_records(self, tmp_path, bad):
        some, clean = run(tmp_path / "some", data(bad)), run(tmp_path / "clean", without_rows(data(), bad))
        assert some(evaluate=None) == clean(evaluate=None) == STEPS
        assert_same(some.model, clean.model)
        assert some.faults.left_out == tuple((part, 1) for part in bad)
        assert checkpoints.saved_steps(str(tmp_path / "some")) == [0, 4, 8, 12]

    def test_tells_it_in_the_order_of_steps(self, tmp_path):
        some = run(tmp_path, data((5, 6)), log_steps=3)
        some(evaluate=None)
        start = [("save", 0), ("train", 3), ("save", 4), ("rewind", 4), ("rollback", 4)]
        again = [("not_finite", 6), ("rewind", 4), ("rollback", 4)]
        end = [
            ("not_finite", 6),
            ("not_finite", 6),
            ("train", 6),
            ("save", 8),
            ("train", 9),
            ("train", 12),
            ("save", 12),
        ]
        assert some.events == start + again + end

    def test_an_evaluation_is_not_repeated(self, tmp_path):
        some = run(tmp_path, data((5,)), eval_steps=4)
        some()
        assert [event for event in some.events if event[0] == "held_out"] == [("held_out", s) for s in (0, 4, 8, 12)]

    @pytest.mark.parametrize("seed", range(3))
    def test_killed_at_any_moment_it_ends_the_same(self, tmp_path, seed):
        """Weights, what is left out, and the metrics file, to the byte."""
        bad, rng = (1, 5, 6, 10), np.random.default_rng(seed)

        def go(folder, deaths):
            folder.mkdir()
            path = folder / "metrics.jsonl"
            for death in (*deaths, 10**6):
                some = run(folder, data(bad), log_steps=2, iterations_per_loop=3)
                step = some.saver.restore_latest()
                reports = Written(path, step, death)
                some.reports = reports
                try:
                    some(evaluate=lambda: {"loss": 1.5}, evaluate_first=step is None)
                    return some, path.read_bytes()
                except Killed:
                    pass

        class Killed(BaseException):
            pass

        class Written(Reports):
            """Writes a metrics file, and dies at a certain call."""

            def __init__(self, path, step, death):
                super().__init__([])
                self.path, self.file = path, hooks.metrics_file(path, step)
                self.calls, self.death = itertools.count(), death

            def live(self):
                if next(self.calls) == self.death:
                    raise Killed

            def __call__(self, step, metrics, split):
                self.live()
                self.file(step, metrics, split)

            def event(self, step, name, text):
                self.live()
                self.file.event(step, name, text)

            def rewind(self, step):
                self.live()
                self.file = hooks.metrics_file(self.path, step)

        whole, lines = go(tmp_path / "whole", ())
        killed, again = go(tmp_path / "killed", rng.integers(1, 9, 5))
        assert again == lines and lines.count(b"not_finite") == len(bad)
        assert_same(killed.model, whole.model)
        assert str(killed.faults.known) == str(whole.faults.known)  # NaN is not NaN

    def test_gives_up_and_tells_all(self, tmp_path):
        some = run(tmp_path, data((5, 6, 7, 8)))
        with pytest.raises(checks.InputError) as e:
            some(evaluate=None)
        text = str(e.value)
        for part in ("loss and gradient must be finite", "at step 6, records 32 to 35", "after 3 rollbacks to step 4"):
            assert part in text
        for records in ("20 to 23", "24 to 27", "28 to 31"):
            assert f"without records {records}" in text
        assert some.events[-2:] == [("not_finite", 6), ("gave_up", 6)]
        assert checkpoints.saved_steps(str(tmp_path)) == [0, 4]

    def test_bad_steps_that_lie_apart_do_not_add_up(self, tmp_path):
        some = run(tmp_path, data((1, 4, 6, 9, 12, 13)), steps=14, save_checkpoints_steps=2)
        assert some(evaluate=None) == 14

    def test_a_spike(self, tmp_path, monkeypatch):
        monkeypatch.setattr(spikes, "WINDOW", 3)
        some = run(tmp_path, data((7,), value=60.0))
        watch = spikes.SpikeWatch(10.0)
        some.watch_by(watch)
        some(evaluate=None)
        [fault] = some.faults.known
        assert (fault.step, fault.part, fault.name) == (8, 7, "spike")
        assert fault.loss > fault.bound > 0
        assert fault.text.startswith(f"loss {fault.loss:.6g}, above {fault.bound:.6g}: records 28 to 31")
        assert ("spike", 8) in some.events


class TestStops:
    def test_at_a_spike(self, tmp_path, monkeypatch):
        monkeypatch.setattr(spikes, "WINDOW", 3)
        some = run(tmp_path, data((7,), value=60.0), on_spike="stop")
        some.watch_by(spikes.SpikeWatch(10.0))
        with pytest.raises(checks.InputError, match=r"the loss must not leap; got .*above .*step 8, records 28 to 31"):
            some(evaluate=None)
        assert some.events[-2:] == [("spike", 8), ("gave_up", 8)]
        assert checkpoints.saved_steps(str(tmp_path)) == [4]


class TestPlaces:
    def fault(self, step, part, parts):
        return faults.Fault(step, part, parts, 4, float("nan"), 1.0, float("inf"))

    def test_where_steps_begin_while_the_batch_grows(self):
        """Against the row of parts with those left out crossed off."""
        ramp = batch_ramp.BatchRamp(3, 6)  # 1 1 2 2 3 3 3 ...
        some = faults.Faults(ramp, 4)
        some.leave_out([self.fault(7, 14, 3), self.fault(3, 2, 2), self.fault(7, 17, 3)])
        left = {2, 3, *range(14, 20)}
        row = [part for part in range(60) if part not in left]
        assert [some.part_at(step) for step in range(12)] == [row[ramp.before(step)] for step in range(12)]
        assert some.left_out == ((2, 2), (14, 3), (17, 3))
        assert [f.part for f in some.between(3)] == [14, 17] and [f.part for f in some.between(2, 3)] == [2]
        assert (some.of_last_step(7, 1.0, np.inf).part, some.of_last_step(7, 1.0, np.inf).parts) == (20, 3)
        assert some.of_last_step(7, 1.0, 2.0) is None

    def test_state_is_all_of_it(self):
        some, other = (faults.Faults(batch_ramp.BatchRamp(1), 4) for _ in range(2))
        some.leave_out([self.fault(3, 2, 2), faults.Fault(9, 8, 1, 4, 0.5, 0.25, 0.375)])
        for name, variable in other.state.items():
            variable.assign(some.state[name])
        assert str(other.known) == str(some.known) and other.known[1] == some.known[1]
