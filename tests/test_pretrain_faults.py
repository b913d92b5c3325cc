"""What goes wrong while a whole run trains, and what a person finds of it afterwards."""

import dataclasses
import json
import os
import pathlib
import re
import shutil
import subprocess

import numpy as np
import pytest
from tensorboard.backend.event_processing import event_accumulator

from tests import tiny_records
from tests.test_checkpoints import small_disk
from tests.test_pretrain import assert_same_to_the_bit, metrics_of, weights_of
from tfbert import checks, pretrain, run_folder
from tfbert.loop import checkpoints, spikes
from tfbert.watching import hooks


@pytest.fixture(scope="module")
def poisoned(tmp_path_factory):
    """A folder of records of which one, number 17, has a weight that is not a number."""
    folder = str(tmp_path_factory.mktemp("poisoned"))
    tiny_records.make(folder, num_hidden_layers=1)
    batch = tiny_records.examples(1, 20)
    batch["masked_lm_weights"][17, 0] = np.nan
    tiny_records.write(os.path.join(folder, "train-0.tfrecord"), batch)
    return folder


@pytest.fixture(scope="module")
def healed(poisoned, tmp_path_factory):
    """(flags, run folder) of a run on them that nobody interrupted: three epochs and a bit.

    Beside the folder stands `killed`, as SIGKILL would have left it while the run had gone back for the second time and
    not yet saved what it leaves out.
    """
    folder = tmp_path_factory.mktemp("healed")
    flags = tiny_records.flags(poisoned, folder / "run")
    of_run, bad = hooks.of_run, []

    class Copier:
        def __call__(self, *_):
            pass

        def event(self, step, name, text):
            if name == "not_finite" and text not in bad:
                bad.append(text)
                if len(bad) == 2:  # nothing is being written: going back has waited for the checkpoints
                    shutil.copytree(flags.output_dir, folder / "killed")

        def close(self):
            pass

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(hooks, "of_run", lambda watched: [*of_run(watched), Copier()])
        assert pretrain.run(flags) == 0
    return flags, flags.output_dir


def events_of(run_dir, name="events.jsonl"):
    with open(os.path.join(run_dir, name)) as f:
        return [row for row in map(json.loads, f) if "event" in row]


@pytest.mark.slow
class TestPoisonedRecords:
    def test_are_left_out_wherever_they_come(self, healed):
        """Once an epoch; losses are finite, and the run has all of its steps."""
        rows = metrics_of(healed[1])
        trained = [row for row in rows if row.get("split") == "train"]
        assert [row["step"] for row in trained] == [5, 10, 15] and None not in [row["loss"] for row in trained]
        found = [row for row in rows if "event" in row]
        assert 3 <= len(found) <= 4 and {row["event"] for row in found} == {"not_finite"}
        assert all(row["text"].startswith("loss nan, gradient norm nan: records ") for row in found)
        assert [row["step"] for row in rows] == sorted(row["step"] for row in rows)

    def test_a_person_finds_it(self, healed):
        assert [row["event"] for row in events_of(healed[1])] == ["rollback"] * 4
        folder = os.path.join(healed[1], "tensorboard", "train")
        tags = event_accumulator.EventAccumulator(folder).Reload().Tags()["tensors"]
        assert any("rollback" in tag for tag in tags) and any("not_finite" in tag for tag in tags)

    def test_interrupted_it_ends_with_the_same_bits(self, healed, tmp_path):
        """Also if it saves after each step from there on, so that no step is done again but the bad ones."""
        changes = {"save_checkpoints_steps": 1, "keep_checkpoint_max": 0, "iterations_per_loop": 1}
        flags = dataclasses.replace(healed[0], output_dir=str(tmp_path / "run"), **changes)
        tiny_records.cut_back(healed[1], flags.output_dir, 8)
        before = events_of(flags.output_dir)
        assert pretrain.run(flags) == 0
        assert_same_to_the_bit(flags.output_dir, healed[1], 15)
        events = [row["event"] for row in events_of(flags.output_dir)[len(before) :]]
        assert events[0] == "restart" and "rollback" in events[1:]

    def test_other_ways_of_training_too(self, poisoned, tmp_path):
        """In parts, with a batch that grows; of several devices in test_multi_worker."""
        changes = {"batch_ramp": 0.8, "gradient_accumulation_steps": 2}
        whole = tiny_records.flags(poisoned, tmp_path / "whole", eval_input_file=(), **changes)
        assert pretrain.run(whole) == 0
        assert len(events_of(whole.output_dir, "metrics.jsonl")) >= 2
        parts = dataclasses.replace(whole, output_dir=str(tmp_path / "parts"), iterations_per_loop=1)
        tiny_records.cut_back(whole.output_dir, parts.output_dir, 8)
        assert pretrain.run(parts) == 0
        assert_same_to_the_bit(parts.output_dir, whole.output_dir, 15)

    def test_killed_at_once_after_it(self, healed, tmp_path):
        """SIGKILL while the run has gone back and not yet saved what it leaves out."""
        killed = os.path.join(os.path.dirname(healed[1]), "killed")
        run_dir = str(tmp_path / "run")
        shutil.copytree(killed, run_dir)
        [*_, saved] = checkpoints.saved_steps(run_dir)
        known = [row["step"] for row in metrics_of(run_dir) if "event" in row]
        assert len(known) == 2 and min(known) > saved > 0
        assert not np.any(weights_of(run_dir, saved)["loop/fault_places"])
        assert pretrain.run(dataclasses.replace(healed[0], output_dir=run_dir)) == 0
        assert_same_to_the_bit(run_dir, healed[1], 15)

    def test_stop_names_the_step_and_its_records(self, poisoned, tmp_path):
        flags = tiny_records.flags(poisoned, tmp_path, on_spike="stop", eval_input_file=())
        with pytest.raises(checks.InputError, match=r"must be finite; got loss=nan.*at step \d+, records \d+ to \d+"):
            pretrain.run(flags)
        # And the same run goes on when it is told to leave them out.
        assert pretrain.run(dataclasses.replace(flags, on_spike="rollback")) == 0


@pytest.mark.slow
def test_a_spike_is_left_out(tmp_path, monkeypatch):
    """Where a loss that rises by 0.06 from one step to the next counts as one, a run that is well has spikes."""
    monkeypatch.setattr(spikes, "WINDOW", 1)
    monkeypatch.setattr(spikes, "LEAST_SHARE", 0.0)
    monkeypatch.setattr(spikes, "LEAST_DEVIATION", 0.06)
    tiny_records.make(tmp_path / "records", num_hidden_layers=1)
    bound = {"spike_factor": 1.0, "max_rollbacks": 30, "num_train_steps": 16, "eval_input_file": ()}
    whole = tiny_records.flags(str(tmp_path / "records"), tmp_path / "whole", **bound)
    assert pretrain.run(whole) == 0
    found = events_of(whole.output_dir, "metrics.jsonl")
    assert found and {row["event"] for row in found} == {"spike"} and ", above " in found[0]["text"]
    parts = dataclasses.replace(whole, output_dir=str(tmp_path / "parts"))
    tiny_records.cut_back(whole.output_dir, parts.output_dir, 8)
    assert pretrain.run(parts) == 0
    assert_same_to_the_bit(parts.output_dir, whole.output_dir, 16)


@pytest.mark.slow
class TestCheckpointsOfARun:
    def test_the_best_is_kept_and_can_be_asked_for(self, healed, tmp_path):
        changes = {"keep_best_metric": "masked_lm_loss", "keep_checkpoint_max": 1, "eval_steps": 2}
        flags = dataclasses.replace(healed[0], output_dir=str(tmp_path), learning_rate=0.3, **changes)
        assert pretrain.run(flags) == 0
        losses = {r["step"]: r["masked_lm_loss"] for r in metrics_of(str(tmp_path)) if r.get("split") == "held_out"}
        del losses[0]  # what was not trained is not the best
        best = min(losses, key=losses.get)
        assert checkpoints.saved_steps(str(tmp_path)) == sorted({best, 15})
        assert checkpoints.read_best(str(tmp_path)).step == best
        assert run_folder.checkpoint_prefix(str(tmp_path), "best") == checkpoints.prefix_of(str(tmp_path), best)


@pytest.mark.slow
def test_a_folder_that_cannot_be_written(healed, tmp_path):
    with small_disk(tmp_path / "disk", 4 << 20) as mounted:
        if not mounted:
            pytest.skip("needs the right to mount a small file system")
        flags = dataclasses.replace(healed[0], output_dir=str(tmp_path / "disk" / "run"))
        tiny_records.cut_back(healed[1], flags.output_dir, 8)
        subprocess.check_call(["mount", "-o", "remount,ro", str(tmp_path / "disk")])
        with pytest.raises(checks.InputError, match="Read-only file system"):
            pretrain.run(flags)
        subprocess.check_call(["mount", "-o", "remount,rw", str(tmp_path / "disk")])
        assert pretrain.run(flags) == 0
        assert_same_to_the_bit(flags.output_dir, healed[1], 15)


@pytest.mark.slow
def test_damaged_records_are_left_out(tmp_path):
    folder = str(tmp_path / "records")
    tiny_records.make(folder, num_hidden_layers=1)
    path = os.path.join(folder, "train-1.tfrecord")
    with open(path, "r+b") as f:
        size = os.path.getsize(path) // 33
        f.seek(7 * size + 40)
        f.write(b"\xff" * 5)
        f.truncate(32 * size + 50)
    plain = tiny_records.flags(folder, tmp_path / "whole", eval_input_file=())
    with pytest.raises(checks.InputError, match=r"TFRecord files must be whole.*--skip_corrupt_records"):
        pretrain.run(plain)
    whole = dataclasses.replace(plain, skip_corrupt_records=True)
    assert pretrain.run(whole) == 0
    first = metrics_of(whole.output_dir)[0]
    assert (first["step"], first["event"]) == (0, "skipped_records")
    assert first["text"].startswith("2 that are damaged: record 7 of train-1.tfrecord, bytes ")
    with open(os.path.join(whole.output_dir, "config.json")) as f:
        about = json.load(f)["records"]["train"]
    assert about["files"] == {"train-0.tfrecord": 20, "train-1.tfrecord": 31} and len(about["skipped"]) == 2
    parts = dataclasses.replace(whole, output_dir=str(tmp_path / "parts"))
    tiny_records.cut_back(whole.output_dir, parts.output_dir, 8)
    assert pretrain.run(parts) == 0
    assert_same_to_the_bit(parts.output_dir, whole.output_dir, 15)


def test_the_table_of_faults_names_tests_that_exist():
    root = pathlib.Path(__file__).parents[1]
    rows = re.search(r"^\| fault \|.*?\n\n", (root / "BUILD.md").read_text(encoding="utf-8"), re.S | re.M).group()
    for row in rows.strip().splitlines()[2:]:
        named = re.findall(r"`(tests/\w+\.py)::(\w+)`", row)
        assert named, row
        for path, test in named:
            assert f"def {test}(" in (root / path).read_text(encoding="utf-8"), row
