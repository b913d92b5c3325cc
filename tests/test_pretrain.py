import contextlib
import dataclasses
import itertools
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from typing import ClassVar

import numpy as np
import pytest
import tensorflow as tf

from tests import tiny, tiny_records, tiny_run
from tests.test_checkpoints import small_disk
from tfbert import checks, config, evaluate, held_out, pretrain
from tfbert.loop import checkpoints
from tfbert.text import vocab as vocab_lib
from tfbert.watching import hooks

FOUR = ("masked_lm_accuracy", "masked_lm_loss", "next_sentence_accuracy", "next_sentence_loss")


@pytest.fixture(scope="module")
def records(tmp_path_factory):
    folder = str(tmp_path_factory.mktemp("records"))
    tiny_records.make(folder, num_hidden_layers=1)
    return folder


@pytest.fixture(scope="module")
def finished(records, tmp_path_factory):
    """(flags, run folder) of an uninterrupted run."""
    flags = tiny_records.flags(records, tmp_path_factory.mktemp("finished"))
    assert pretrain.run(flags) == 0
    return flags, flags.output_dir


def metrics_of(run_dir):
    with open(os.path.join(run_dir, "metrics.jsonl")) as f:
        return [json.loads(line) for line in f]


def weights_of(run_dir, step):
    reader = tf.train.load_checkpoint(checkpoints.prefix_of(run_dir, step))
    return {name: reader.get_tensor(name) for name in reader.get_variable_to_shape_map()}


def assert_same_to_the_bit(run_dir, other, step):
    a, b = weights_of(run_dir, step), weights_of(other, step)
    assert a.keys() == b.keys()
    assert [n for n in a if not np.array_equal(a[n], b[n], equal_nan=True)] == []
    with open(os.path.join(run_dir, "metrics.jsonl"), "rb") as f, open(os.path.join(other, "metrics.jsonl"), "rb") as g:
        assert f.read() == g.read()


def assert_close(run_dir, other, step, rtol=1e-4):
    for a, b in zip(metrics_of(run_dir), metrics_of(other), strict=True):
        for text in ("split", "event", "text"):
            assert a.pop(text, None) == b.pop(text, None)
        assert a == pytest.approx(b, rel=rtol, abs=1e-5)
    a, b = weights_of(run_dir, step), weights_of(other, step)
    for name in a:
        np.testing.assert_allclose(a[name], b[name], rtol=1e-2, atol=1e-4, err_msg=name)


@pytest.mark.slow
class TestFinished:
    def test_metrics_have_the_known_names(self, finished):
        rows = metrics_of(finished[1])
        places = [(0, "held_out"), (5, "train"), (6, "held_out"), (10, "train")]
        places += [(12, "held_out"), (15, "train"), (15, "held_out")]
        assert [(r["step"], r["split"]) for r in rows] == places
        held_out_names = {"step", "split", "loss", *FOUR}
        for row in rows:
            more = {"learning_rate", "gradient_norm", "padding_share"}
            more |= {f"gradient_norm/{part}" for part in ("embeddings", "layer_00", "pooler", "heads")}
            assert row.keys() == held_out_names | (more if row["split"] == "train" else {"masked_lm_unigram_accuracy"})
            assert row["loss"] == pytest.approx(row["masked_lm_loss"] + row["next_sentence_loss"], rel=1e-5)
        # 3e-3 falling to 0 at step 15; the rate of the update that made step 5 is that of 4 steps before it.
        assert rows[1]["learning_rate"] == pytest.approx(3e-3 * (1 - 4 / 15), rel=1e-5)
        assert rows[0]["masked_lm_loss"] == pytest.approx(np.log(tiny.V), rel=0.05)

    def test_run_folder_is_complete(self, finished):
        names = set(os.listdir(finished[1]))
        assert {"config.json", "vocab.txt", "tokenizer.json", "metrics.jsonl", "speed.jsonl", "tensorboard"} <= names
        assert checkpoints.saved_steps(finished[1]) == [0, 4, 8, 12, 15]
        with open(os.path.join(finished[1], "config.json")) as f:
            content = json.load(f)
        assert content["pretrain"] == config.to_dict(finished[0])
        assert content["records"]["train"]["files"] == {"train-0.tfrecord": 20, "train-1.tfrecord": 33}
        assert content["records"]["max_seq_length"] == tiny.L

    def test_the_same_command_says_that_it_is_finished(self, finished, capfd):
        before = {n: os.stat(os.path.join(finished[1], n)).st_mtime_ns for n in os.listdir(finished[1])}
        assert pretrain.run(finished[0]) == 0
        assert "is finished" in capfd.readouterr().err
        assert {n: os.stat(os.path.join(finished[1], n)).st_mtime_ns for n in before} == before

    @pytest.mark.parametrize(
        ("change", "named"),
        [
            ({"learning_rate": 1e-3}, "pretrain.learning_rate: 0.003 -> 0.001"),
            ({"train_batch_size": 6, "random_seed": 1}, "pretrain.train_batch_size: 12 -> 6; pretrain.random_seed"),
            ({"hidden_dropout_prob": 0.3}, "encoder.hidden_dropout_prob: 0.1 -> 0.3"),
            ({"eval_input_file": ()}, "records.held_out"),
        ],
        ids=lambda x: next(iter(x)) if isinstance(x, dict) else "",
    )
    def test_a_changed_flag_is_named(self, finished, change, named):
        with pytest.raises(checks.InputError) as e:
            pretrain.run(dataclasses.replace(finished[0], **change))
        assert named in str(e.value)

    def test_evaluate_says_the_same(self, finished, records, capsys):
        flags = evaluate.EvaluateConfig(finished[1], (os.path.join(records, "held_out*"),), eval_batch_size=5)
        results = evaluate.run(flags)
        last = metrics_of(finished[1])[-1]
        for name in ("loss", *FOUR, "masked_lm_unigram_accuracy"):
            assert results[name] == pytest.approx(last[name], rel=1e-5)
        assert f"masked_lm_accuracy = {results['masked_lm_accuracy']:.6f}\n" in capsys.readouterr().out
        assert (results["step"], results["instances"]) == (15, tiny_records.HELD_OUT)
        earlier = evaluate.evaluate(dataclasses.replace(flags, checkpoint="ckpt-12"))
        assert earlier["loss"] == pytest.approx(metrics_of(finished[1])[4]["loss"], rel=1e-5)

    def test_evaluate_refuses_records_of_other_lengths(self, finished, tmp_path):
        tiny_records.write(tmp_path / "x", tiny.features(length=tiny.L + 2))
        with pytest.raises(checks.InputError, match=f"max_seq_length={tiny.L}, and {tiny.L + 2} values"):
            evaluate.run(evaluate.EvaluateConfig(finished[1], (str(tmp_path / "x"),)))

    def test_weights_of_another_run_begin_a_new_one(self, finished, records, tmp_path, monkeypatch):
        stop_at(monkeypatch, (0, "held_out"))  # no step of training is needed to see the weights
        for i, (path, row) in enumerate(((finished[1], -1), (os.path.join(finished[1], "ckpt-12"), 4))):
            flags = tiny_records.flags(records, tmp_path / str(i), init_checkpoint=path, num_train_steps=2)
            pretrain.run(flags)
            [first] = metrics_of(flags.output_dir)
            assert first["step"] == 0
            assert first["loss"] == pytest.approx(metrics_of(finished[1])[row]["loss"], rel=1e-5)


def stop_at(monkeypatch, place):
    """Lets SIGTERM come with the report of a place, (step, split), in this process."""
    of_run = hooks.of_run

    class Killer:
        def __call__(self, step, metrics, split):
            if (step, split) == place:
                os.kill(os.getpid(), signal.SIGTERM)
                time.sleep(0.3)

        def event(self, *_):
            pass

        def close(self):
            pass

    monkeypatch.setattr(hooks, "of_run", lambda *a, **kw: [*of_run(*a, **kw), Killer()])


@pytest.mark.slow
class TestInterrupted:
    def test_sigterm_saves_and_goes_on_to_the_same_bits(self, finished, records, tmp_path, monkeypatch):
        """SIGINT in an evaluation, between lines of the log, leaves it for later; SIGTERM comes right after one."""
        flags = tiny_records.flags(records, tmp_path, iterations_per_loop=1)
        of_evaluation, evaluations = held_out.HeldOut.evaluate, itertools.count()

        def interrupted(self, stop):
            if next(evaluations) == 1:
                os.kill(os.getpid(), signal.SIGINT)
                while stop.signal is None:
                    time.sleep(0.01)
            return of_evaluation(self, stop)

        monkeypatch.setattr(held_out.HeldOut, "evaluate", interrupted)
        assert pretrain.run(flags) == 128 + signal.SIGINT
        assert [(r["step"], r["split"]) for r in metrics_of(flags.output_dir)] == [(0, "held_out"), (5, "train")]
        assert checkpoints.saved_steps(flags.output_dir) == [0, 4, 6]
        monkeypatch.undo()
        stop_at(monkeypatch, (12, "held_out"))
        assert pretrain.run(flags) == 0
        assert checkpoints.saved_steps(flags.output_dir)[-1] == 12
        monkeypatch.undo()
        assert pretrain.run(flags) == 0
        assert_same_to_the_bit(flags.output_dir, finished[1], 15)

    def test_a_damaged_newest_checkpoint_costs_steps_and_no_bits(self, finished, tmp_path, caplog):
        folder = str(tmp_path / "copy")
        shutil.copytree(finished[1], folder)
        os.truncate(os.path.join(folder, "ckpt-15.data-00000-of-00001"), 1000)
        flags = dataclasses.replace(finished[0], output_dir=folder)
        with pytest.raises(checkpoints.DamagedCheckpoint, match="ckpt-15"):
            evaluate.run(evaluate.EvaluateConfig(folder, flags.eval_input_file))
        with caplog.at_level("WARNING", logger="absl"):
            assert pretrain.run(flags) == 0
        assert "ckpt-15" in caplog.text and "Going back to the one before" in caplog.text
        assert_same_to_the_bit(folder, finished[1], 15)


@pytest.mark.slow
class TestOtherWays:
    """The same batches cut in other ways give the same run, up to the rounding of sums."""

    @pytest.fixture(scope="class")
    def plain(self, records, tmp_path_factory):
        flags = self.flags(records, tmp_path_factory.mktemp("plain"))
        pretrain.run(flags)
        return flags.output_dir

    def flags(self, records, folder, **overrides):
        no_dropout = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0, "num_train_steps": 6}
        return tiny_records.flags(records, folder, **no_dropout, **overrides)

    def test_accumulation_and_rematerialize(self, plain, records, tmp_path):
        flags = self.flags(records, tmp_path, gradient_accumulation_steps=3, rematerialize=True)
        pretrain.run(flags)
        assert_close(flags.output_dir, plain, 6)

    def test_two_devices_and_all_of_this(self, plain, records, tmp_path):
        parts = {"strategy": "mirrored", "gradient_accumulation_steps": 2, "rematerialize": True}
        flags = self.flags(records, tmp_path, **parts)
        pretrain.run(flags)
        assert_close(flags.output_dir, plain, 6)

    def test_bfloat16(self, plain, records, tmp_path):
        flags = self.flags(records, tmp_path, mixed_precision="bfloat16")
        pretrain.run(flags)
        a, b = metrics_of(flags.output_dir), metrics_of(plain)
        assert [r["loss"] for r in a] == pytest.approx([r["loss"] for r in b], rel=0.02)
        assert {v.dtype for v in weights_of(flags.output_dir, 6).values()} <= {
            np.dtype(t) for t in ("float32", "float64", "int64", "int32")
        }


@pytest.mark.slow
class TestErrors:
    """Each before the first step, and naming what to change."""

    def refused(self, match, records, folder, **overrides):
        with pytest.raises(checks.InputError, match=match):
            pretrain.run(tiny_records.flags(records, folder, **overrides))

    def test_flags(self, records, tmp_path):
        for match, overrides in (
            ("one of --model and --bert_config_file", {"model": "tiny"}),
            ("one of --model and --bert_config_file", {"bert_config_file": ""}),
            ("--input_file must be given", {"input_file": ()}),
            ("--vocab_file must be given", {"vocab_file": ""}),
            ("train_batch_size must be a multiple of gradient_acc", {"gradient_accumulation_steps": 5}),
            ("multiples of the number of replicas", {"strategy": "mirrored", "gradient_accumulation_steps": 4}),
            ("multiples of the number of replicas", {"strategy": "mirrored", "eval_batch_size": 3}),
            ("num_warmup_steps must lie between 0 and num_train_steps", {"num_warmup_steps": 16}),
            ("strategy must be one of", {"strategy": "horovod"}),
        ):
            self.refused(match, records, tmp_path / "run", **overrides)
        assert not checkpoints.saved_steps(str(tmp_path / "run"))

    def test_records(self, records, tmp_path):
        self.refused("must match at least one file", records, tmp_path / "run", input_file=("/no/such*",))
        self.refused("Pass --max_seq_length=11", records, tmp_path / "run", max_seq_length=12)
        self.refused("Pass --max_predictions_per_seq=6", records, tmp_path / "run", max_predictions_per_seq=5)
        tiny_records.make(tmp_path / "other")
        (tmp_path / "other" / "records.json").write_text(json.dumps({"tokenizer_digest": "0123", "files": {}}))
        match = "records must be made with the tokenizer of the run"
        self.refused(match, tmp_path / "other", tmp_path / "run")
        assert os.listdir(tmp_path) == ["other"]

    def test_vocabulary(self, records, tmp_path):
        small = vocab_lib.Vocab(tiny_records.vocab().tokens[:50])
        small.write(tmp_path)
        self.refused("must be at least 0 and less than 50", records, tmp_path / "run", vocab_file=str(tmp_path))
        vocab_lib.Vocab((*tiny_records.vocab().tokens, "more")).write(tmp_path)
        match = "vocab_size of the model must hold the vocabulary; got vocab_size=97, and 98 entries"
        self.refused(match, records, tmp_path / "run", vocab_file=str(tmp_path))
        self.refused("max_position_embeddings=23", records, tmp_path / "run", max_seq_length=24)

    def test_init_checkpoint(self, records, finished, tmp_path):
        (tmp_path / "empty").mkdir()
        match = "weights must be a run folder, a TensorFlow checkpoint .*; got none of these"
        self.refused(match, records, tmp_path / "a", init_checkpoint=str(tmp_path / "empty"))
        missing = os.path.join(finished[1], "ckpt-7")
        self.refused("weights must be there; got no file", records, tmp_path / "b", init_checkpoint=missing)
        with open(tmp_path / "other.json", "w") as f:
            json.dump(config.to_dict(tiny.config(num_hidden_layers=1, intermediate_size=18)), f)
        match = r"bert/encoder/layer_0/intermediate/dense/kernel \[15, 17\], and \[15, 18\]"
        self.refused(
            match, records, tmp_path / "c", init_checkpoint=finished[1], bert_config_file=str(tmp_path / "other.json")
        )
        assert not checkpoints.saved_steps(str(tmp_path / "c"))

    def test_output_dir(self, records, tmp_path):
        (tmp_path / "file").write_text("")
        self.refused("output_dir must be a folder that can be written", records, tmp_path / "file")

    def test_divergence_names_the_last_good_checkpoint(self, records, tmp_path):
        flags = tiny_records.flags(records, tmp_path, learning_rate=1e30, save_checkpoints_steps=1)
        with pytest.raises(checks.InputError, match="loss and gradient must be finite") as e:
            pretrain.run(flags)
        newest = checkpoints.saved_steps(str(tmp_path))[-1]
        assert f"The last good checkpoint is {checkpoints.prefix_of(str(tmp_path), newest)}" in str(e.value)
        assert f"(at step {newest + 1}, " in str(e.value) and f"after 3 rollbacks to step {newest}" in str(e.value)

    def test_full_disk_loses_no_finished_checkpoint(self, records, finished, tmp_path):
        with small_disk(tmp_path / "disk", 3 << 20) as mounted:
            if not mounted:
                pytest.skip("needs the right to mount a small file system")
            folder = tmp_path / "disk" / "run"
            flags = tiny_records.flags(records, folder)
            tiny_records.cut_back(finished[1], folder, 8)
            free = os.statvfs(folder).f_bavail * os.statvfs(folder).f_frsize
            (tmp_path / "disk" / "filler").write_bytes(b"x" * (free - 100_000))
            with pytest.raises(checks.InputError, match="No space left on device"):
                pretrain.run(flags)
            assert checkpoints.saved_steps(str(folder))[:3] == [0, 4, 8]
            os.remove(tmp_path / "disk" / "filler")
            assert pretrain.run(flags) == 0
            assert_same_to_the_bit(str(folder), finished[1], 15)


def pretrain_until(flags, step):
    """Runs up to the report of a step, as a run that was ended by SIGTERM there."""
    tiny_run.run_until(pretrain, flags, step)


def arguments(flags):
    """A configuration as flags of a command line."""
    given = {name: value for name, value in dataclasses.asdict(flags).items() if value is not None}
    return [f"--{name}={','.join(value) if isinstance(value, tuple) else value}" for name, value in given.items()]


def start(flags, log):
    """Starts the program in a process of its own."""
    return subprocess.Popen([sys.executable, "-m", "tfbert.pretrain", *arguments(flags)], stderr=log, stdout=log)


def lines_of(run_dir):
    with contextlib.suppress(FileNotFoundError), open(os.path.join(run_dir, "metrics.jsonl"), "rb") as f:
        return f.read().count(b"\n")
    return 0


def wait_for_lines(process, run_dir, count):
    """Waits until metrics.jsonl has so many lines; a process that ends before is a failure."""
    deadline = time.monotonic() + 480
    while lines_of(run_dir) < count:
        assert process.poll() is None, f"ended early with status {process.returncode}"
        assert time.monotonic() < deadline
        time.sleep(0.002)


@pytest.mark.slow
class TestProcess:
    """The program as a person starts it."""

    LONG: ClassVar = {"num_train_steps": 80, "save_checkpoints_steps": 9, "log_steps": 4, "eval_steps": 30}

    @pytest.fixture(scope="class")
    def interrupted(self, records, tmp_path_factory):
        """(run folder, what they said) of a process that was killed in the midst of work, and one that was stopped."""
        folder, said = tmp_path_factory.mktemp("interrupted"), []
        flags = tiny_records.flags(records, folder / "run", **self.LONG)
        rng, reached = random.Random(5), 0
        for number in (signal.SIGKILL, signal.SIGTERM):
            with open(folder / "log", "w+") as log:
                process = start(flags, log)
                reached += rng.randrange(3, 8)
                wait_for_lines(process, flags.output_dir, reached)
                time.sleep(rng.random() * 0.1)
                process.send_signal(number)
                assert process.wait() == (0 if number == signal.SIGTERM else -signal.SIGKILL)
                log.seek(0)
                said.append(log.read())
            assert checkpoints.saved_steps(flags.output_dir)
        return flags.output_dir, said

    def test_says_nothing_but_its_own(self, interrupted):
        killed, stopped = (text.splitlines() for text in interrupted[1])
        first = "4,061 parameters, 53 records, 14 held out, 1 replicas"
        assert killed[0] == stopped[0] == first
        assert [line for line in killed if not line.startswith((first, "held out at step", "step "))] == []
        assert stopped[1].startswith("restart at step ") and stopped[-1].startswith("Stopped at step ")
        ours = (first, "restart", "held out at step", "step ", "SIGTERM: saving after this step", "Stopped at step ")
        assert [line for line in stopped if line and not line.startswith(ours)] == []

    def test_killed_and_stopped(self, interrupted, records, tmp_path, capfd):
        """The end may be done by any process, so it is done by this one; so is the run that nobody interrupted."""
        whole = tiny_records.flags(records, tmp_path / "whole", **self.LONG)
        assert pretrain.run(whole) == 0
        assert capfd.readouterr().err.splitlines()[-1].startswith("Finished 80 steps")
        assert pretrain.run(dataclasses.replace(whole, output_dir=interrupted[0])) == 0
        assert_same_to_the_bit(interrupted[0], whole.output_dir, 80)

    def test_input_error_is_a_sentence_and_status_2(self, tmp_path):
        command = [sys.executable, "-m", "tfbert.pretrain", "--input_file=/none*", f"--output_dir={tmp_path}"]
        command += ["--model=tiny", f"--vocab_file={tmp_path}"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 2 and done.stdout == ""
        assert done.stderr.startswith("error: vocab_file must be") and done.stderr.count("\n") == 1
