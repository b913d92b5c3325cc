"""Fine-tuning as a whole program: from a pre-trained run folder to scores, predictions and answers."""

import dataclasses
import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import tensorflow as tf

from export import loaders, saved_model, tflite
from tests import tiny_task
from tfbert import checkpoints, checks, evaluate, finetune, predict
from tfbert.convert import formats
from tfbert.tasks import batches


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return tiny_task.make(tmp_path_factory.mktemp("task"))


@pytest.fixture(autouse=True)
def short_lengths(monkeypatch):
    """Several lengths of batches for texts as short as these."""
    monkeypatch.setattr(batches, "LENGTHS", (7, 10))


@pytest.fixture(scope="module")
def finished(data, tmp_path_factory):
    """(flags, run folder) of an uninterrupted run."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(batches, "LENGTHS", (7, 10))
        flags = tiny_task.flags(
            data, tmp_path_factory.mktemp("finished") / "run", test_file=str(data / "dev.tsv"), num_train_epochs=8.0
        )
        assert finetune.run(flags) == 0
    return flags, flags.output_dir


def metrics_of(run_dir):
    with open(os.path.join(run_dir, "metrics.jsonl")) as f:
        return [json.loads(line) for line in f]


def weights_of(run_dir, step):
    reader = tf.train.load_checkpoint(checkpoints.prefix_of(str(run_dir), step))
    return {name: reader.get_tensor(name) for name in reader.get_variable_to_shape_map()}


def assert_same_to_the_bit(run_dir, other, step):
    a, b = weights_of(run_dir, step), weights_of(other, step)
    assert a.keys() == b.keys()
    assert [n for n in a if not np.array_equal(a[n], b[n])] == []
    with open(os.path.join(run_dir, "metrics.jsonl"), "rb") as f, open(os.path.join(other, "metrics.jsonl"), "rb") as g:
        assert f.read() == g.read()


def lines_of(folder, name):
    with open(os.path.join(folder, name), encoding="utf-8") as f:
        return f.read().splitlines()


def results_of(folder):
    return {name: float(value) for name, value in (line.split(" = ") for line in lines_of(folder, "eval_results.txt"))}


def probabilities_in(folder):
    return np.array([line.split("\t") for line in lines_of(folder, "test_results.tsv")], float)


@pytest.mark.slow
class TestFinished:
    def test_learns(self, finished):
        held_out = [row for row in metrics_of(finished[1]) if row["split"] == "held_out"]
        assert [row["step"] for row in held_out] == [*range(0, 49, 6), 49]
        assert set(held_out[0]) == {"step", "split", "loss", "classification_loss"} | {
            "accuracy",
            "f1",
            "macro_f1",
            "matthews",
        }
        assert held_out[-1]["accuracy"] >= 0.9 and held_out[-1]["loss"] < held_out[0]["loss"]

    def test_files_have_the_known_form(self, finished, data):
        results = results_of(finished[1])
        assert results["global_step"] == 49
        last = metrics_of(finished[1])[-1]
        assert results["eval_accuracy"] == pytest.approx(last["accuracy"], abs=1e-6)
        assert results["eval_loss"] == pytest.approx(last["loss"], rel=1e-4)
        probabilities = probabilities_in(finished[1])
        assert probabilities.shape == (tiny_task.DEV, 2)
        np.testing.assert_allclose(probabilities.sum(1), 1, rtol=1e-6)
        header, *rows = [line.split("\t") for line in lines_of(finished[1], "test_predictions.tsv")]
        assert header == ["index", "prediction", "label"]
        assert [row[1] for row in rows] == [("animal", "thing")[i] for i in probabilities.argmax(1)]
        assert [row[2] for row in rows] == [label for _, label in tiny_task.examples(2, tiny_task.DEV)]
        assert results["eval_accuracy"] == pytest.approx(np.mean([row[1] == row[2] for row in rows]), abs=1e-6)

    def test_evaluate_and_predict_need_the_run_folder_alone(self, finished, data, tmp_path, capsys):
        dev = str(data / "dev.tsv")
        scores = evaluate.run(evaluate.EvaluateConfig(finished[1], (dev,), output_dir=str(tmp_path / "scores")))
        assert scores["examples"] == tiny_task.DEV and scores["step"] == 49
        assert results_of(tmp_path / "scores") == pytest.approx(results_of(finished[1]), rel=1e-4)
        cfg = predict.PredictConfig(finished[1], input_file=dev, output_dir=str(tmp_path / "test"))
        predict.run(cfg, [])
        np.testing.assert_allclose(probabilities_in(tmp_path / "test"), probabilities_in(finished[1]), rtol=1e-4)
        texts = [text for text, _ in tiny_task.examples(2, tiny_task.DEV)][:3]
        capsys.readouterr()
        answers = predict.run(predict.PredictConfig(finished[1]), texts)
        np.testing.assert_allclose([a.probabilities for a in answers], probabilities_in(finished[1])[:3], rtol=1e-4)
        printed = capsys.readouterr().out.splitlines()
        assert printed[1] == texts[0]
        assert printed[2].startswith(f"  {answers[0].label} {100 * max(answers[0].probabilities):.1f} %")

    def test_the_same_command_says_that_it_is_finished(self, finished, capsys):
        before = lines_of(finished[1], "eval_results.txt")
        assert finetune.run(finished[0]) == 0
        assert "is finished" in capsys.readouterr().err
        assert lines_of(finished[1], "eval_results.txt") == before

    def test_goes_on_only_with_the_same_data(self, finished, data, tmp_path):
        other = tiny_task.write(tmp_path / "train.tsv", tiny_task.examples(3, tiny_task.TRAIN))
        with pytest.raises(checks.InputError, match=r"the configuration that it was begun with; got .*records.train"):
            finetune.run(dataclasses.replace(finished[0], train_file=other))

    def test_converts_with_its_labels(self, finished, tmp_path):
        source = formats.open_source(finished[1])
        assert source.head == "classify" and source.labels == ("animal", "thing")
        formats.convert(source, str(tmp_path / "hf"), "huggingface")
        about = json.loads((tmp_path / "hf" / "config.json").read_text())
        assert about["id2label"] == {"0": "animal", "1": "thing"}
        back = formats.open_source(str(tmp_path / "hf"))
        formats.convert(back, str(tmp_path / "run"), "tfbert")
        text = tiny_task.examples(2, 1)[0][0]
        folders = finished[1], str(tmp_path / "run")
        direct, converted = (predict.run(predict.PredictConfig(folder), [text])[0] for folder in folders)
        assert direct.label == converted.label
        np.testing.assert_allclose(direct.probabilities, converted.probabilities, rtol=1e-4)

    def test_other_outputs_do_not_convert_in_silence(self, data, tmp_path):
        flags = tiny_task.flags(data, tmp_path / "run", pooling="mean", num_train_steps=1)
        finetune.run(flags)
        assert results_of(flags.output_dir)["eval_loss"] > 0
        with pytest.raises(checks.InputError, match="config/pooling=mean"):
            formats.convert(formats.open_source(flags.output_dir), str(tmp_path / "hf"), "huggingface")

    def test_begins_again_from_a_fine_tuned_run(self, finished, data, tmp_path, capsys):
        flags = tiny_task.flags(data, tmp_path, run_dir=finished[1], num_train_steps=1, learning_rate=0.0)
        finetune.run(flags)
        first = metrics_of(str(tmp_path))[0]
        assert first["accuracy"] == pytest.approx(results_of(finished[1])["eval_accuracy"], abs=1e-6)


def run_until(flags, step):
    """Runs up to the checkpoint of a step, as a run that was ended by SIGTERM there."""
    save = checkpoints.Checkpoints.save

    def save_and_stop(self, at):
        prefix = save(self, at)
        if at == step:
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(0.3)
        return prefix

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(checkpoints.Checkpoints, "save", save_and_stop)
        assert finetune.run(flags) == 0
    assert checkpoints.saved_steps(flags.output_dir)[-1] == step
    assert not os.path.exists(os.path.join(flags.output_dir, "eval_results.txt"))


@pytest.mark.slow
class TestResume:
    @pytest.mark.parametrize("by_length", [False, True])
    def test_stopped_and_resumed_is_the_same_to_the_bit(self, data, tmp_path, by_length, monkeypatch):
        monkeypatch.setattr(batches, "POOL", 5)  # so that the stop at step 8 falls inside of a pool
        whole = tiny_task.flags(data, tmp_path / "whole", bucket_by_length=by_length)
        assert finetune.run(whole) == 0
        stopped = dataclasses.replace(whole, output_dir=str(tmp_path / "stopped"))
        run_until(stopped, 8)
        assert finetune.run(stopped) == 0
        assert_same_to_the_bit(stopped.output_dir, whole.output_dir, 18)
        assert results_of(stopped.output_dir) == results_of(whole.output_dir)

    def test_killed_and_resumed_as_a_process(self, data, tmp_path):
        def start(folder, log):
            flags = tiny_task.flags(data, folder, num_train_epochs=40.0, save_checkpoints_steps=7, eval_steps=100)
            given = {k: v for k, v in dataclasses.asdict(flags).items() if v not in (None, "", ())}
            words = [f"--{name}={value}" for name, value in given.items()]
            return subprocess.Popen([sys.executable, "-m", "tfbert.finetune", *words], stderr=log, stdout=log)

        with open(tmp_path / "log", "w") as log:
            whole = start(tmp_path / "whole", log)
            killed = start(tmp_path / "killed", log)
            deadline = time.monotonic() + 180
            while not checkpoints.saved_steps(str(tmp_path / "killed")):
                assert killed.poll() is None and time.monotonic() < deadline
                time.sleep(0.002)
            killed.send_signal(signal.SIGKILL)
            assert killed.wait() == -signal.SIGKILL
            assert start(tmp_path / "killed", log).wait() == 0
            assert whole.wait() == 0
        assert_same_to_the_bit(str(tmp_path / "killed"), str(tmp_path / "whole"), 244)


@pytest.mark.slow
class TestOtherWays:
    """The same batches cut in other ways give the same run, up to the rounding of sums."""

    def flags(self, data, folder, **overrides):
        no_dropout = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0, "num_train_steps": 7}
        return tiny_task.flags(data, folder, **no_dropout, learning_rate=1e-3, **overrides)

    @pytest.fixture(scope="class")
    def plain(self, data, tmp_path_factory):
        flags = self.flags(data, tmp_path_factory.mktemp("plain"))
        finetune.run(flags)
        return flags.output_dir

    @pytest.mark.parametrize(
        "overrides",
        [{"strategy": "mirrored"}, {"gradient_accumulation_steps": 2}, {"rematerialize": True}],
        ids=["two devices", "accumulation", "rematerialize"],
    )
    def test_same_run(self, plain, data, tmp_path, overrides):
        flags = self.flags(data, tmp_path, **overrides)
        finetune.run(flags)
        for a, b in zip(metrics_of(flags.output_dir), metrics_of(plain), strict=True):
            assert a.pop("split") == b.pop("split")
            a.pop("padding_share", None), b.pop("padding_share", None)  # accumulation fills all up to one length
            assert a == pytest.approx(b, rel=1e-4, abs=1e-5)
        a, b = weights_of(flags.output_dir, 7), weights_of(plain, 7)
        for name in a:
            if name != "loop/sums":
                np.testing.assert_allclose(a[name], b[name], rtol=1e-2, atol=1e-4, err_msg=name)
        assert results_of(flags.output_dir) == pytest.approx(results_of(plain), rel=1e-4)

    def test_bfloat16(self, plain, data, tmp_path):
        flags = self.flags(data, tmp_path, mixed_precision="bfloat16")
        finetune.run(flags)
        a, b = metrics_of(flags.output_dir), metrics_of(plain)
        assert [r["loss"] for r in a] == pytest.approx([r["loss"] for r in b], rel=0.05)


@pytest.mark.slow
class TestRegression:
    def test_pairs_with_scores(self, data, tmp_path):
        rows = [
            (a, b, 5.0 * (la == lb)) for (a, la), (b, lb) in zip(tiny_task.examples(4, 40), tiny_task.examples(5, 40))
        ]
        header = ("sentence1", "sentence2", "score")
        train = tiny_task.write(tmp_path / "train.tsv", rows, header)
        test = tiny_task.write(tmp_path / "test.tsv", [row[:2] for row in rows[:9]], header[:2])
        flags = tiny_task.flags(
            data,
            tmp_path / "run",
            task="",
            task_name="sts-b",
            train_file=train,
            dev_file=train,
            test_file=test,
            max_seq_length=21,
            num_train_epochs=15.0,
        )
        assert finetune.run(flags) == 0
        rows = metrics_of(flags.output_dir)
        assert rows[-1]["pearson"] > 0.3 and rows[-1]["loss"] < rows[0]["loss"]
        assert {"loss", "regression_loss", "pearson", "spearman"} <= set(rows[-1])
        assert len(lines_of(flags.output_dir, "test_results.tsv")) == 9
        header, *rows = lines_of(flags.output_dir, "test_predictions.tsv")
        assert header == "index\tprediction" and len(rows) == 9
        answers = predict.run(predict.PredictConfig(flags.output_dir), ["the fox"], ["the dog"])
        assert isinstance(answers[0].label, float)
        with pytest.raises(checks.InputError, match="as many --text_pair as --text; got 1 texts, 0 second texts"):
            predict.run(predict.PredictConfig(flags.output_dir), ["the fox"])


class TestErrors:
    """Each before the first step, and naming what to change."""

    def refused(self, match, data, folder, **overrides):
        with pytest.raises(checks.InputError, match=match):
            finetune.run(tiny_task.flags(data, folder, **overrides))

    def test_flags(self, data, tmp_path):
        for match, overrides in (
            ("--task must be given", {"task": ""}),
            ("sts-b is of the task regress; got task='classify'", {"task_name": "sts-b"}),
            ("--train_file must be given", {"train_file": ""}),
            ("one of --run_dir, --init_checkpoint and --model", {"model": "tiny"}),
            ("one of --run_dir, --init_checkpoint and --model", {"run_dir": ""}),
            ("--model needs --vocab_file", {"run_dir": "", "model": "tiny"}),
            ("data comes from one place", {"tfds": "glue/mrpc", "data_dir": "x"}),
            ("--data_dir needs --task_name", {"data_dir": "x"}),
            ("with bucket_by_length a step is one part", {"bucket_by_length": True, "gradient_accumulation_steps": 2}),
            ("fine-tuning runs in one process", {"strategy": "multi_worker"}),
            ("max_position_embeddings=23", {"max_seq_length": 24}),
            ("best_metric must be one of accuracy", {"best_metric": "bleu"}),
            ("multiples of the number of replicas", {"strategy": "mirrored", "train_batch_size": 5}),
            ("weights must be there", {"run_dir": "/no/such"}),
            ("a table must be a file that can be read", {"train_file": "/no/such.tsv"}),
        ):
            self.refused(match, data, tmp_path / "run", **overrides)
        assert not os.path.exists(tmp_path / "run")

    def test_labels(self, data, tmp_path):
        one = tiny_task.write(tmp_path / "one.tsv", [("the fox", "animal"), ("a list", "animal")])
        self.refused(r"classify needs 2 labels; got \['animal'\]", data, tmp_path / "run", train_file=one)
        none = tiny_task.write(tmp_path / "none.tsv", [("the fox",), ("a list",)], ("text",))
        self.refused("training examples must have labels", data, tmp_path / "run", train_file=none)
        other = tiny_task.write(tmp_path / "dev.tsv", [("the fox", "animal"), ("a list", "word")])
        match = r"labels must be of animal, thing; got 'word' \(at .*dev.tsv, line 3\)"
        self.refused(match, data, tmp_path / "run", dev_file=other)

    @pytest.mark.slow
    def test_runs_that_are_not_fine_tuned(self, data, tmp_path):
        pre = str(data / "pre")
        with pytest.raises(checks.InputError, match="--output_dir is for fine-tuned runs"):
            evaluate.run(evaluate.EvaluateConfig(pre, ("x",), output_dir=str(tmp_path)))
        with pytest.raises(checks.InputError, match="--text_pair must be left out; got a run that was not fine-tuned"):
            predict.run(predict.PredictConfig(pre), ["the [MASK]"], ["the fox"])


@pytest.mark.slow
class TestExports:
    """Raw strings in, labels with probabilities out, as the run folder says."""

    @pytest.fixture(scope="class")
    def pairs(self, data, tmp_path_factory):
        """A run folder that scores pairs."""
        folder = tmp_path_factory.mktemp("pairs")
        rows = [(a, b, float(i % 3)) for i, ((a, _), (b, _)) in enumerate(zip(*[tiny_task.examples(4, 12)] * 2))]
        train = tiny_task.write(folder / "train.tsv", rows, ("text", "other", "label"))
        more = {"task": "regress", "train_file": train, "dev_file": "", "text_pair_column": "other"}
        flags = tiny_task.flags(data, folder / "run", num_train_steps=2, max_seq_length=17, **more)
        finetune.run(flags)
        return flags.output_dir

    def test_saved_model(self, finished, pairs, tmp_path, capsys):
        path = saved_model.run(saved_model.SavedModelConfig(finished[1], str(tmp_path / "labels")))
        text = tiny_task.examples(2, 1)[0][0]
        (answer,) = loaders.v1_session(path, [("serving_default", {"text": [text, "x " * 30]})])
        (said,) = predict.run(predict.PredictConfig(finished[1]), [text])
        assert answer["labels"][0, 0].decode() == said.label and answer["labels"].shape == (2, 2)
        assert answer["probabilities"][0, 0] == pytest.approx(max(said.probabilities), rel=1e-4)
        assert answer["truncated"].tolist() == [False, True]
        with open(os.path.join(path, "parity.json")) as f:
            compared = json.load(f)["loaders"]
        assert set(compared) == {"v1_session", "c_api"}
        assert compared["c_api"]["serving_default"]["top_1_agreement"] == 1.0
        path = saved_model.run(saved_model.SavedModelConfig(pairs, str(tmp_path / "scores")))
        (answer,) = loaders.v1_session(path, [("serving_default", {"text": [text], "text_pair": ["the fox"]})])
        (said,) = predict.run(predict.PredictConfig(pairs), [text], ["the fox"])
        assert answer["score"][0] == pytest.approx(said.label, rel=1e-4, abs=1e-5)

    def test_tflite(self, finished, pairs, tmp_path):
        for name, run_dir in (("labels", finished[1]), ("scores", pairs)):
            path = str(tmp_path / f"{name}.tflite")
            found = tflite.run(tflite.TFLiteConfig(run_dir, path))[path]
            assert max(value for key, value in found.items() if key.startswith("max")) < 1e-4
        answers = loaders.Lite(str(tmp_path / "labels.tflite")).run(text=["the fox", "a list"])
        assert answers["labels"].shape == (2, 2) and answers["probabilities"].dtype == np.float32
        assert loaders.Lite(path).run(text=["the fox"], text_pair=["a dog"])["score"].shape == (1,)

    def test_errors(self, finished, tmp_path):
        with pytest.raises(checks.InputError, match="the length that it was trained on; got max_seq_length=9, and 13"):
            saved_model.run(saved_model.SavedModelConfig(finished[1], str(tmp_path), max_seq_length=9))
