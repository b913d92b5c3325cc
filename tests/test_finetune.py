"""Fine-tuning as a whole program: from a pre-trained run folder to scores, predictions and answers."""

import contextlib
import dataclasses
import itertools
import json
import os
import shutil

import numpy as np
import pytest
import tensorflow as tf

from export import loaders, saved_model, tflite
from tests import tiny_run, tiny_task
from tests.test_summaries import read as summaries_of
from tfbert import checks, evaluate, finetune, initial_weights, predict, run_folder
from tfbert.convert import formats
from tfbert.loop import checkpoints
from tfbert.tasks import fresh_heads, kinds
from tfbert.watching import views

STEPS = 40  # of `finished`


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return tiny_task.make(tmp_path_factory.mktemp("task"), num_hidden_layers=1)


@contextlib.contextmanager
def killed_before(step, folder):
    """Within it, what a run would leave if it were killed before its checkpoint of a step is copied to a folder.

    A process that is killed leaves what it has written. It saves aside while it goes on, so that is waited for.
    """
    save = checkpoints.Checkpoints.save

    def copy_and_save(self, at):
        if at == step:
            self.wait()
            shutil.copytree(self.run_dir, folder)
        return save(self, at)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(checkpoints.Checkpoints, "save", copy_and_save)
        yield
    assert 0 < checkpoints.saved_steps(str(folder))[-1] < step
    assert not os.path.exists(os.path.join(folder, "eval_results.txt"))


@pytest.fixture(scope="module")
def finished(data, tmp_path_factory):
    """(flags, run folder) of an uninterrupted run; beside the folder lies `killed`."""
    folder = tmp_path_factory.mktemp("finished")
    more = {"num_train_epochs": 6.5, "bucket_by_length": True, "test_file": str(data / "dev.tsv")}
    flags = tiny_task.flags(data, folder / "run", **more)
    with killed_before(12, folder / "killed"):
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
        assert [row["step"] for row in held_out] == [*range(0, STEPS, 6), STEPS]
        assert set(held_out[0]) == {"step", "split", "loss", "classification_loss"} | {
            "accuracy",
            "f1",
            "macro_f1",
            "matthews",
        }
        assert held_out[-1]["accuracy"] >= 0.9 and held_out[-1]["loss"] < held_out[0]["loss"]

    def test_results_are_those_of_the_best_checkpoint(self, finished, data, capsys):
        """Of the first of the best, which is not the newest here; any other can be asked for."""
        held_out = [row for row in metrics_of(finished[1]) if row["split"] == "held_out" and row["step"]]
        best = max(held_out, key=lambda row: row["accuracy"])
        assert checkpoints.read_best(finished[1]).step == best["step"] < STEPS
        results = results_of(finished[1])
        assert results["global_step"] == best["step"]
        for name, value in best.items():
            if name not in ("step", "split"):
                assert results[f"eval_{name}"] == pytest.approx(value, rel=1e-4, abs=1e-6)
        dev = (str(data / "dev.tsv"),)
        last = evaluate.run(evaluate.EvaluateConfig(finished[1], dev, checkpoint=f"ckpt-{STEPS}"))
        assert last["step"] == STEPS and last["loss"] == pytest.approx(held_out[-1]["loss"], rel=1e-4)
        assert "the best by" not in capsys.readouterr().err
        assert evaluate.run(evaluate.EvaluateConfig(finished[1], dev))["step"] == best["step"]
        told = f"ckpt-{best['step']}, the best by accuracy ({best['accuracy']:.6g}); the newest is ckpt-{STEPS}"
        assert told in capsys.readouterr().err

    def test_files_have_the_known_form(self, finished, data):
        results = results_of(finished[1])
        probabilities = probabilities_in(finished[1])
        assert probabilities.shape == (tiny_task.DEV, 2)
        np.testing.assert_allclose(probabilities.sum(1), 1, rtol=1e-6)
        header, *rows = [line.split("\t") for line in lines_of(finished[1], "test_predictions.tsv")]
        assert header == ["index", "prediction", "label"]
        assert [row[1] for row in rows] == [("animal", "thing")[i] for i in probabilities.argmax(1)]
        assert [row[2] for row in rows] == [label for _, label in tiny_task.examples(2, tiny_task.DEV)]
        assert results["eval_accuracy"] == pytest.approx(np.mean([row[1] == row[2] for row in rows]), abs=1e-6)

    def test_what_it_answers_is_shown(self, finished):
        """In TensorBoard after each evaluation, and in eval_view.json with the weights of eval_results.txt."""
        step, view = views.read(finished[1])
        results = results_of(finished[1])
        assert step == results["global_step"] and view.confusion.counts.sum() == tiny_task.DEV
        assert np.trace(view.confusion.counts) / tiny_task.DEV == pytest.approx(results["eval_accuracy"], abs=1e-6)
        shown = summaries_of(os.path.join(finished[1], "tensorboard", "held_out"))
        evaluated = [row["step"] for row in metrics_of(finished[1]) if row["split"] == "held_out"]
        for tag in ("quality/confusion_matrix", "precision_recall/animal", "held_out_worst_examples", "quality/f1"):
            assert [step for step, _ in shown[tag]] == evaluated, tag

    def test_evaluate_and_predict_need_the_run_folder_alone(self, finished, data, tmp_path, capsys):
        dev = str(data / "dev.tsv")
        scores = evaluate.run(evaluate.EvaluateConfig(finished[1], (dev,), output_dir=str(tmp_path / "scores")))
        assert scores["examples"] == tiny_task.DEV
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

    def test_begins_with_the_head_of_a_run_of_these_labels(self, finished):
        run = run_folder.read(finished[1])
        source, the_task = formats.open_source(finished[1]), kinds.of_run(run)
        assert fresh_heads.begins_anew(source, the_task) == {}
        model = the_task.build_model(run.encoder, False)
        initial_weights.take(finished[1], fresh_heads.may_lack(the_task), model, run)
        best = weights_of(finished[1], checkpoints.read_best(finished[1]).step)
        for variable in model.variables:
            np.testing.assert_array_equal(variable, best[variable.path], err_msg=variable.path)

    def test_begins_with_a_new_head_for_other_labels(self, finished, data, tmp_path, capsys):
        """With a third label all of the encoder is taken, nothing of the head; of means, no other format has it."""
        rows = [*tiny_task.examples(1, 12), ("the", "filler"), ("of", "filler")]
        train = tiny_task.write(tmp_path / "train.tsv", rows)
        more = {"train_file": train, "num_train_steps": 1, "learning_rate": 0.0, "weight_decay": 0.0, "eval_steps": 0}
        flags = tiny_task.flags(data, tmp_path / "run", run_dir=finished[1], pooling="mean", **more)
        assert finetune.run(flags) == 0
        [told] = [line for line in capsys.readouterr().err.splitlines() if "begins anew" in line]
        best = checkpoints.prefix_of(finished[1], checkpoints.read_best(finished[1]).step)
        ours = "this task of classify, 3 labels (animal, filler, thing)"
        assert told == f"the head begins anew: that of {best} is of classify, 2 labels (animal, thing), and {ours}"
        before, after = tf.train.load_checkpoint(best), weights_of(flags.output_dir, 1)
        taken = [name for name in after if name.startswith("bert/")]
        assert taken and all(np.array_equal(after[name], before.get_tensor(name)) for name in taken)
        assert after["classifier/output_weights"].shape[0] == 3 and after["classifier/output_weights"].any()
        with pytest.raises(checks.InputError, match="config/pooling=mean"):
            formats.convert(formats.open_source(flags.output_dir), str(tmp_path / "hf"), "huggingface")


def run_until(flags, step):
    """Runs up to the checkpoint of a step, as a run that was ended by SIGTERM there."""
    tiny_run.run_until(finetune, flags, step)
    assert checkpoints.saved_steps(flags.output_dir)[-1] == step
    assert not os.path.exists(os.path.join(flags.output_dir, "eval_results.txt"))


@pytest.mark.slow
class TestResume:
    """Each ends as the run that was never interrupted, to the bit; batches are of rows of about one length."""

    def assert_same(self, run_dir, finished):
        assert_same_to_the_bit(run_dir, finished[1], STEPS)
        assert results_of(run_dir) == results_of(finished[1])

    def test_stopped(self, finished, tmp_path):
        stopped = dataclasses.replace(finished[0], output_dir=str(tmp_path / "stopped"))
        run_until(stopped, 8)
        assert finetune.run(stopped) == 0
        self.assert_same(stopped.output_dir, finished)

    def test_killed_then_ended_early_then_with_more_patience(self, finished, tmp_path, capsys):
        flags = dataclasses.replace(finished[0], output_dir=str(tmp_path / "run"), early_stopping_patience=1)
        shutil.copytree(os.path.join(os.path.dirname(finished[1]), "killed"), flags.output_dir)
        assert metrics_of(flags.output_dir)[-1]["step"] > checkpoints.saved_steps(flags.output_dir)[-1]
        assert finetune.run(flags) == 0
        best, ended = checkpoints.read_best(flags.output_dir), checkpoints.saved_steps(flags.output_dir)[-1]
        accuracies = {r["step"]: r["accuracy"] for r in metrics_of(finished[1]) if r["split"] == "held_out"}
        steps = sorted(accuracies)[1:]
        worse = [step for before, step in itertools.pairwise(steps) if accuracies[step] <= accuracies[before]]
        assert ended == worse[0] < STEPS and best.step == ended - 6 == results_of(flags.output_dir)["global_step"]
        told, text = capsys.readouterr().err, f"none of 1 evaluations on end was better than that of step {best.step}"
        assert f"early_stop at step {ended}: {text}" in told
        again = f"is finished: {checkpoints.prefix_of(flags.output_dir, ended)} is its last checkpoint."
        assert again not in told and finetune.run(flags) == 0
        told = capsys.readouterr().err
        assert again in told and "with a larger --early_stopping_patience the same command goes on" in told

        assert finetune.run(dataclasses.replace(flags, early_stopping_patience=None)) == 0
        self.assert_same(flags.output_dir, finished)


@pytest.fixture(scope="module")
def pairs(data, tmp_path_factory):
    """A run folder that scores pairs, as STS-B has them."""
    folder = tmp_path_factory.mktemp("pairs")
    rows = [(a, b, 5.0 * (la == lb)) for (a, la), (b, lb) in zip(tiny_task.examples(4, 40), tiny_task.examples(5, 40))]
    header = ("sentence1", "sentence2", "score")
    train = tiny_task.write(folder / "train.tsv", rows, header)
    files = {"train_file": train, "dev_file": train}
    files["test_file"] = tiny_task.write(folder / "test.tsv", [row[:2] for row in rows[:9]], header[:2])
    more = {"task": "", "task_name": "sts-b", "max_seq_length": 21, "num_train_steps": 60, "eval_steps": 30}
    assert finetune.run(tiny_task.flags(data, folder / "run", **more, **files)) == 0
    return str(folder / "run")


@pytest.mark.slow
def test_pairs_with_scores(pairs):
    rows = metrics_of(pairs)
    assert rows[-1]["pearson"] > 0.3 and rows[-1]["loss"] < rows[0]["loss"]
    assert {"loss", "regression_loss", "pearson", "spearman"} <= set(rows[-1])
    assert len(lines_of(pairs, "test_results.tsv")) == 9
    header, *rows = lines_of(pairs, "test_predictions.tsv")
    assert header == "index\tprediction" and len(rows) == 9
    answers = predict.run(predict.PredictConfig(pairs), ["the fox"], ["the dog"])
    assert isinstance(answers[0].label, float)
    with pytest.raises(checks.InputError, match="as many --text_pair as --text; got 1 texts, 0 second texts"):
        predict.run(predict.PredictConfig(pairs), ["the fox"])


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
            ("a run ends by the time or by its steps", {"train_hours": 1.0, "num_train_steps": 5}),
            ("best_metric needs --dev_file", {"dev_file": "", "best_metric": "loss"}),
            ("early_stopping_patience needs --dev_file", {"dev_file": "", "early_stopping_patience": 2}),
            ("early_stopping_patience counts evaluations", {"eval_steps": 0, "early_stopping_patience": 2}),
            ("a table must be a file that can be read", {"test_file": "/no/such.tsv"}),
            ("max_position_embeddings=23", {"max_seq_length": 24}),
            ("best_metric must be one of accuracy", {"best_metric": "bleu"}),
            ("multiples of the number of replicas", {"strategy": "mirrored", "train_batch_size": 5}),
            ("weights must be there", {"run_dir": "/no/such"}),
            ("a table must be a file that can be read", {"train_file": "/no/such.tsv"}),
        ):
            self.refused(match, data, tmp_path / "run", **overrides)
        assert not os.path.exists(tmp_path / "run")

    def test_steps_follow_from_epochs(self, data, tmp_path):
        """Of 61 rows in batches of 10: what google-research/bert trains, rounded to whole steps."""
        flags = tiny_task.flags(data, tmp_path, num_train_epochs=6.5, eval_steps=None, save_checkpoints_steps=None)
        planned = finetune._scheduled(flags, 61)
        assert (planned.num_train_steps, planned.eval_steps, planned.save_checkpoints_steps) == (40, 6, 6)
        assert (planned.num_warmup_steps, planned.warmup_proportion) == (0, 0.1)
        planned = finetune._scheduled(dataclasses.replace(flags, num_train_steps=7, num_warmup_steps=3), 61)
        assert (planned.num_train_steps, planned.num_warmup_steps, planned.warmup_proportion) == (7, 3, None)

    def test_flags_of_pre_training_alone_are_not_known(self):
        known = {field.name for field in dataclasses.fields(finetune.FinetuneConfig)}
        assert not known & {"keep_best_metric", "shuffle_buffer_size", "max_eval_steps", "input_file"}

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

    def test_saved_model(self, finished, pairs, tmp_path, monkeypatch):
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
        monkeypatch.setattr(saved_model, "LOADERS", {"v1_session": loaders.v1_session})
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
        with pytest.raises(checks.InputError, match="max_position_embeddings 23; got max_seq_length=24"):
            saved_model.run(saved_model.SavedModelConfig(finished[1], str(tmp_path), max_seq_length=24))
