import json

import numpy as np
import pytest

from tests.reports import HELD_OUT, TRAIN
from tfbert import checks
from tfbert.watching import hooks, progress


def lines_of(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


class TestMetricsFile:
    def steps(self, path, resume_step, steps):
        hook = hooks.metrics_file(path, resume_step)
        for step in steps:
            hook(step, {"loss": np.float32(1 / step)}, "train")
            if step % 4 == 0:
                hook(step, {"loss": np.float32(2 / step)}, "held_out")
        hook.close()

    def test_lines(self, tmp_path):
        path = tmp_path / "metrics.jsonl"
        hook = hooks.metrics_file(path)
        hook(np.int64(3), {"loss": np.float32(0.1), "next_sentence_accuracy": 1.0, "learning_rate": 1e-7}, "train")
        # What was written is there before the file is closed.
        assert path.read_text() == (
            '{"step": 3, "split": "train", "loss": 0.1, "next_sentence_accuracy": 1, "learning_rate": 1e-07}\n'
        )
        hook(4, {"loss": float("nan"), "gradient_norm": float("inf")}, "train")
        assert lines_of(path)[1] == {"step": 4, "split": "train", "loss": None, "gradient_norm": None}

    def test_numbers_keep_every_bit_of_float32(self, tmp_path):
        rng = np.random.default_rng(0)
        values = rng.integers(0, 2**32, 2000, dtype=np.uint32).view(np.float32)
        values = values[np.isfinite(values)]
        hook = hooks.metrics_file(tmp_path / "m")
        for i, value in enumerate(values):
            hook(i, {"x": value}, "train")
        np.testing.assert_array_equal(np.float32([row["x"] for row in lines_of(tmp_path / "m")]), values)

    @pytest.mark.parametrize("torn", [0, 1, 30])
    @pytest.mark.parametrize("checkpoint", [None, 4, 8])
    def test_a_killed_run_ends_with_the_file_of_one_that_was_not(self, tmp_path, checkpoint, torn):
        whole, killed = tmp_path / "whole", tmp_path / "killed"
        self.steps(whole, None, range(1, 13))
        self.steps(killed, None, range(1, 11))
        if torn:
            killed.write_bytes(killed.read_bytes()[:-torn])
        self.steps(killed, checkpoint, range((checkpoint or 0) + 1, 13))
        assert killed.read_bytes() == whole.read_bytes()

    @pytest.mark.parametrize("torn", [1, 20])
    def test_killed_in_the_first_line_after_the_checkpoint(self, tmp_path, torn):
        whole, killed = tmp_path / "whole", tmp_path / "killed"
        self.steps(whole, None, range(1, 13))
        self.steps(killed, None, range(1, 10))
        killed.write_bytes(killed.read_bytes()[:-torn])
        self.steps(killed, 8, range(9, 13))
        assert killed.read_bytes() == whole.read_bytes()

    def test_a_last_line_without_its_end_is_not_kept(self, tmp_path):
        path = tmp_path / "m"
        path.write_text('{"step": 1}\n{"step": 2}')
        hooks.metrics_file(path, 2).close()
        assert path.read_text() == '{"step": 1}\n'

    def test_resuming_at_the_end_keeps_all(self, tmp_path):
        path = tmp_path / "m"
        self.steps(path, None, range(1, 9))
        before = path.read_bytes()
        hooks.metrics_file(path, 8).close()
        assert path.read_bytes() == before

    def test_a_line_of_another_hand_is_refused(self, tmp_path):
        path = tmp_path / "m"
        path.write_text('{"step": 1}\nhello\n{"step": 2}\n')
        with pytest.raises(checks.InputError, match=r"JSON object with a step; got 'hello\\n' \(at .*m, line 2\)"):
            hooks.metrics_file(path, 2)

    def test_full_disk(self):
        hook = hooks.metrics_file("/dev/full", None)
        with pytest.raises(checks.InputError, match=r"disk must have space left; got No space left on device .*/full"):
            hook(1, TRAIN, "train")

    def test_no_folder(self, tmp_path):
        with pytest.raises(checks.InputError, match=r"No such file.*absent/m"):
            hooks.metrics_file(tmp_path / "absent" / "m")


def test_speed_file(tmp_path):
    path = tmp_path / "speed.jsonl"
    hook = hooks.speed_file(path, 32)
    for step in (10, 20, 30):
        hook(step, TRAIN, "train")
    hook(30, HELD_OUT, "held_out")
    hook.close()
    hook = hooks.speed_file(path, 32, resume_step=20)
    hook(40, TRAIN, "train")
    rows = lines_of(path)
    assert [row["step"] for row in rows] == [10, 20, 40]
    assert set(rows[0]) == {"step", "sequences_per_second", "seconds"}
    assert all(row["sequences_per_second"] > 0 for row in rows)


def test_speed_in_tokens_leaves_padding_out(tmp_path):
    path = tmp_path / "speed.jsonl"
    hook = hooks.speed_file(path, 32, max_seq_length=100)
    hook(10, {**TRAIN, "padding_share": 0.25}, "train")
    hook.close()
    (row,) = lines_of(path)
    assert row["tokens_per_second"] == pytest.approx(75 * row["sequences_per_second"], rel=1e-3)


def test_waiting_for_input_is_part_of_the_speed_and_not_of_the_metrics(tmp_path, capfd):
    made = hooks.of_run(progress.Watched(tmp_path, 10, 32, waited=lambda: 1e9))
    for hook in made:
        hook(5, TRAIN, "train")
        hook.close()
    assert lines_of(tmp_path / "speed.jsonl")[0]["input_wait_share"] == 1
    assert lines_of(tmp_path / "metrics.jsonl") == [{"step": 5, "split": "train", **TRAIN}]
    assert "input wait 100.0 %" in capfd.readouterr().err


def test_of_run(tmp_path, capfd):
    made = hooks.of_run(progress.Watched(tmp_path, 10, 32))
    for hook in made:
        hook(5, TRAIN, "train")
        hook(5, HELD_OUT, "held_out")
    for hook in made:
        hook.close()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["events.jsonl", "metrics.jsonl", "speed.jsonl", "tensorboard"]
    assert [row["split"] for row in lines_of(tmp_path / "metrics.jsonl")] == ["train", "held_out"]
    assert "step  5/10   50 %" in capfd.readouterr().err


class TestEvents:
    def test_those_of_the_run_stand_among_the_metrics(self, tmp_path):
        for name in hooks.EVENTS_OF_THE_RUN + hooks.EVENTS_OF_THE_MACHINE:
            hook = hooks.metrics_file(tmp_path / name)
            hook.event(np.int64(3), name, "so it was")
            of_the_run = name in hooks.EVENTS_OF_THE_RUN
            assert lines_of(tmp_path / name) == [{"step": 3, "event": name, "text": "so it was"}] * of_the_run

    def test_all_are_kept_with_their_time_whatever_is_done_again(self, tmp_path):
        for step, torn in ((9, b'{"time": "20'), (4, b"")):
            hook = hooks.EventsFile(tmp_path / "events.jsonl")
            hook.event(step, "rollback", "once more")
            hook.event(step, "spike", "is a matter of the run")
            hook.close()
            (tmp_path / "events.jsonl").write_bytes((tmp_path / "events.jsonl").read_bytes() + torn)
        rows = lines_of(tmp_path / "events.jsonl")
        assert [row["step"] for row in rows] == [9, 4]
        assert rows[0].keys() == {"time", "step", "event", "text"} and rows[0]["time"].endswith("+00:00")

    def test_are_shown(self, tmp_path, capfd):
        logs = hooks.Logs(progress.Watched(tmp_path, 10, 32))
        logs(5, TRAIN, "train")
        logs.event(6, "spike", "it leapt")
        logs.close()
        assert "spike at step 6: it leapt\n" in capfd.readouterr().err

    def test_logs_go_back_as_at_a_restart(self, tmp_path, capfd):
        """What is written after going back follows what is kept, and the wait for input begins anew."""
        waited = [0.0]
        logs = hooks.Logs(progress.Watched(tmp_path, 20, 32, waited=lambda: waited[0]))
        for step in (5, 10, 15):
            logs(step, {**TRAIN, "loss": float(step)}, "train")
        waited[0] = 1e9
        logs.rewind(10)
        logs.event(10, "rollback", "from 17")
        logs(15, TRAIN, "train")
        logs.close()
        assert [row["step"] for row in lines_of(tmp_path / "metrics.jsonl")] == [5, 10, 15]
        speed = lines_of(tmp_path / "speed.jsonl")
        assert [row["step"] for row in speed] == [5, 10, 15] and speed[-1]["input_wait_share"] == 0
        assert [row["event"] for row in lines_of(tmp_path / "events.jsonl")] == ["rollback"]
