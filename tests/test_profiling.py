"""Tests of tfbert.loop.profiling: the profile of some steps, which changes nothing else."""

import dataclasses
import glob
import os
import re

import pytest
import tensorflow as tf
from tensorflow.tsl.profiler.protobuf import xplane_pb2

from tests import tiny_records
from tests.test_pretrain import assert_same_to_the_bit
from tests.test_train_loop import DEFAULT, Stop, batch, feed, make
from tfbert import checks, pretrain
from tfbert.loop import profiling


def profiles(folder):
    """The parsed planes of each profile below a folder."""
    found = []
    for path in sorted(glob.glob(os.path.join(folder, "**", "*.xplane.pb"), recursive=True)):
        space = xplane_pb2.XSpace()
        with open(path, "rb") as f:
            space.ParseFromString(f.read())
        assert re.search(r"/profile/plugins/profile/[^/]+/[^/]+\.xplane\.pb$", path)
        found.append(space)
    return found


def steps_of(space):
    """Numbers of the steps that a profile names, in the order of time."""
    steps = []
    for plane in space.planes:
        for line in plane.lines:
            for event in line.events:
                if plane.event_metadata[event.metadata_id].name == "train":
                    stats = {plane.stat_metadata[s.metadata_id].name: s.int64_value for s in event.stats}
                    assert stats["_r"] == 1  # what the plugin takes for a step
                    steps.append((line.timestamp_ns * 1000 + event.offset_ps, stats["step_num"]))
    return [number for _, number in sorted(steps)]


@pytest.mark.parametrize(("text", "expected"), [("", (0, 0)), ("0:1", (0, 1)), ("100:105", (100, 105))])
def test_steps(text, expected):
    assert profiling.parse_steps(text, 105) == expected


@pytest.mark.parametrize(
    "text", ["5", "5:", ":5", "5:5", "6:5", "-1:5", "1:2:3", "a:b", "1.5:2", " 1:2", "100:106", "0:0"]
)
def test_bad_steps(text):
    with pytest.raises(checks.InputError, match="profile_steps must be FIRST:LAST"):
        profiling.parse_steps(text, 105)


def test_a_run_without_an_end_takes_any_steps():
    assert profiling.parse_steps("7:1000") == (7, 1000)


class Counted:
    """The calls that a `Profiled` makes of its trainer."""

    def __init__(self, step=0, stop_at=None):
        self.step, self.calls, self._stop_at = step, [], stop_at

    def run(self, iterator, count, stop):
        self.calls.append((self.step, count))
        self.step += count if self._stop_at is None else min(count, self._stop_at - self.step)
        return iterator, stop


class TestCalls:
    def drive(self, folder, trainer, steps, until, at_once=10):
        profiled = profiling.Profiled(trainer, steps, str(folder))
        while profiled.step < until:
            assert profiled.run("iterator", min(at_once, until - profiled.step), "stop") == ("iterator", "stop")
        profiled.close()
        return profiled

    def test_calls_are_cut_at_the_profiled_steps(self, tmp_path):
        trainer = Counted()
        profiled = self.drive(tmp_path, trainer, (13, 16), 27)
        assert trainer.calls == [(0, 10), (10, 3), (13, 1), (14, 1), (15, 1), (16, 10), (26, 1)]
        assert profiled.profiled == (13, 16)
        (space,) = profiles(tmp_path)
        assert steps_of(space) == [14, 15, 16]

    def test_without_steps_nothing_is_cut_or_written(self, tmp_path):
        trainer = Counted()
        assert self.drive(tmp_path, trainer, (0, 0), 27).profiled is None
        assert trainer.calls == [(0, 10), (10, 10), (20, 7)]
        assert os.listdir(tmp_path) == []

    def test_a_run_that_goes_on_behind_them_has_none(self, tmp_path):
        trainer = Counted(step=16)
        assert self.drive(tmp_path, trainer, (13, 16), 27).profiled is None
        assert trainer.calls == [(16, 10), (26, 1)] and os.listdir(tmp_path) == []

    def test_a_run_that_goes_on_among_them_has_the_rest(self, tmp_path):
        assert self.drive(tmp_path, Counted(step=14), (13, 16), 20).profiled == (14, 16)
        assert steps_of(*profiles(tmp_path)) == [15, 16]

    def test_a_run_that_ends_among_them_leaves_what_there_was(self, tmp_path):
        profiled = profiling.Profiled(Counted(13, stop_at=14), (13, 16), str(tmp_path))
        profiled.run("iterator", 5, "stop")
        profiled.close()
        assert profiled.profiled == (13, 14)
        assert steps_of(*profiles(tmp_path)) == [14]
        profiled.close()  # once more does nothing
        assert len(profiles(tmp_path)) == 1

    def test_another_profiler(self, tmp_path):
        tf.profiler.experimental.start(str(tmp_path / "other"))
        try:
            with pytest.raises(checks.InputError, match="only one profile at a time"):
                profiling.Profiled(Counted(), (0, 2), str(tmp_path)).run("iterator", 5, "stop")
        finally:
            tf.profiler.experimental.stop()

    def test_a_folder_that_cannot_be_written(self, tmp_path):
        (tmp_path / "profile").write_text("")
        with pytest.raises(checks.InputError, match=r"must be writable.*profile"):
            profiling.Profiled(Counted(), (0, 2), str(tmp_path)).run("iterator", 5, "stop")


def test_a_real_step_has_its_operations_inside(tmp_path):
    _, trainer, _ = make()
    iterator = feed(DEFAULT, batch(), 12)
    profiled = profiling.Profiled(trainer, (2, 4), str(tmp_path))
    while profiled.step < 5:
        profiled.run(iterator, 5 - profiled.step, Stop())
    assert set(trainer.state) == set(profiled.state)  # all else is the trainer's own
    (space,) = profiles(tmp_path)
    assert steps_of(space) == [3, 4]
    names = {m.name for plane in space.planes for m in plane.event_metadata.values()}
    assert any("MatMul" in name for name in names)


@pytest.fixture(scope="module")
def records(tmp_path_factory):
    folder = str(tmp_path_factory.mktemp("records"))
    tiny_records.make(folder, num_hidden_layers=1)
    return folder


@pytest.mark.slow
def test_whole_runs(records, tmp_path, capfd):
    """A flag that may change, and changes no bit; not again behind LAST."""
    plain = tiny_records.flags(records, tmp_path / "plain", eval_input_file=())
    assert pretrain.run(plain) == 0
    flags = dataclasses.replace(plain, output_dir=str(tmp_path / "run"), profile_steps="9:11")
    tiny_records.cut_back(plain.output_dir, flags.output_dir, 8)
    assert pretrain.run(flags) == 0
    folder = os.path.join(flags.output_dir, "tensorboard")
    assert f"profile of steps 9 to 11: {folder}/profile\n" in capfd.readouterr().err
    assert [steps_of(space) for space in profiles(folder)] == [[10, 11]]
    assert_same_to_the_bit(flags.output_dir, plain.output_dir, 15)
    behind = dataclasses.replace(flags, output_dir=str(tmp_path / "behind"))
    tiny_records.cut_back(flags.output_dir, behind.output_dir, 12)
    assert pretrain.run(behind) == 0
    assert len(profiles(behind.output_dir)) == 1 and "profile of" not in capfd.readouterr().err
    assert_same_to_the_bit(behind.output_dir, plain.output_dir, 15)


def test_the_program_refuses_bad_steps(records, tmp_path):
    with pytest.raises(checks.InputError, match=r"FIRST < LAST <= num_train_steps 15; got profile_steps=3:16"):
        tiny_records.flags(records, tmp_path, profile_steps="3:16")
