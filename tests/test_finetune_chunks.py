"""Long texts as chunks, and mixed layers, as whole programs: what tells the label stands behind the first chunk."""

import dataclasses
import json
import os
import random
import shutil

import numpy as np
import pytest

from export import loaders, saved_model, tflite
from tests import tiny, tiny_task
from tests.test_finetune import assert_same_to_the_bit, killed_before, lines_of, metrics_of, results_of, weights_of
from tfbert import checks, evaluate, finetune, predict
from tfbert.convert import formats
from tfbert.loop import checkpoints
from tfbert.tasks import answers, batches, ladder, tags

CHUNK, MOST = 9, 3  # wordpieces of a chunk, chunks
TRAIN, STEPS = 101, 81  # examples; steps of `finished`, eight epochs


def long_examples(seed, count):
    """[(text, label)]; every fifth text is short.

    The others fill a first chunk with words that tell nothing, and only words of the label follow: so clear that
    every seed of weights and data learns it, whatever the last bits of a processor are.
    """
    rng = random.Random(seed)
    found = []
    for i in range(count):
        idle, telling = (0, 2) if i % 5 == 0 else (rng.randrange(CHUNK - 2, CHUNK + 2), rng.randrange(3, 11))
        words = [rng.choice(tiny_task.FILLERS) for _ in range(idle)]
        words += [rng.choice((tiny_task.ANIMALS, tiny_task.THINGS)[i % 2]) for _ in range(telling)]
        found.append((" ".join(words), ("animal", "thing")[i % 2]))
    rng.shuffle(found)
    return found


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tiny_task.make(tmp_path_factory.mktemp("long"))
    tiny_task.write(folder / "train.tsv", long_examples(1, TRAIN))
    tiny_task.write(folder / "dev.tsv", long_examples(2, tiny_task.DEV))
    return folder


@pytest.fixture(autouse=True)
def short_lengths(monkeypatch):
    """Batches of one chunk and of more, none shorter; pools that the stop of a run falls into."""
    monkeypatch.setattr(ladder, "CHOICES", ())
    monkeypatch.setattr(batches, "POOL", 5)


def flags(data, output_dir, **overrides):
    values = {"max_seq_length": CHUNK, "max_chunks": MOST, "long_text": "attention", "mix_layers": True}
    return tiny_task.flags(data, output_dir, **{**values, "bucket_by_length": True, **overrides})


@pytest.fixture(scope="module")
def finished(data, tmp_path_factory):
    """(flags, run folder) of an uninterrupted run; beside the folder lies `killed`, of a step within a pool."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ladder, "CHOICES", ())
        patch.setattr(batches, "POOL", 5)
        folder = tmp_path_factory.mktemp("finished")
        more = {"num_train_epochs": 8.0, "save_checkpoints_steps": 8, "eval_steps": 12, "hidden_dropout_prob": 0.0}
        given = flags(data, folder / "run", test_file=str(data / "dev.tsv"), **more)
        with killed_before(56, folder / "killed"):
            assert finetune.run(given) == 0
    return given, given.output_dir


@pytest.mark.slow
class TestFinished:
    def test_learns_from_what_stands_behind_the_first_chunk(self, finished):
        rows = [row for row in metrics_of(finished[1]) if row["split"] == "held_out"]
        assert rows[-1]["accuracy"] >= 0.9 > rows[0]["accuracy"]
        last = weights_of(finished[1], STEPS)
        assert np.ptp(last["mix/weights"]) > 1e-3 and last["mix/scale"] != 1.0
        assert {"chunks/hidden/kernel", "chunks/hidden/bias", "chunks/score/kernel"} <= last.keys()

    def test_killed_and_resumed_is_the_same_to_the_bit(self, finished, tmp_path):
        killed = dataclasses.replace(finished[0], output_dir=str(tmp_path / "killed"))
        shutil.copytree(os.path.join(os.path.dirname(finished[1]), "killed"), killed.output_dir)
        assert checkpoints.saved_steps(killed.output_dir)[-1] == 48
        assert finetune.run(killed) == 0
        assert_same_to_the_bit(killed.output_dir, finished[1], STEPS)

    def test_evaluate_and_predict_need_the_run_folder_alone(self, finished, data, tmp_path):
        dev = str(data / "dev.tsv")
        evaluate.run(evaluate.EvaluateConfig(finished[1], (dev,), output_dir=str(tmp_path)))
        assert results_of(tmp_path) == pytest.approx(results_of(finished[1]), rel=1e-4)
        expected = np.array([line.split("\t") for line in lines_of(finished[1], "test_results.tsv")], float)
        said = predict.run(predict.PredictConfig(finished[1]), [text for text, _ in long_examples(2, tiny_task.DEV)])
        np.testing.assert_allclose([p.probabilities for p in said], expected, rtol=1e-4)

    def test_goes_on_from_attention_and_mix(self, finished, data, tmp_path):
        given = flags(data, tmp_path, run_dir=finished[1], num_train_steps=1, learning_rate=0.0)
        finetune.run(given)
        assert metrics_of(str(tmp_path))[0]["loss"] == pytest.approx(results_of(finished[1])["eval_loss"], rel=1e-4)

    def test_does_not_convert_in_silence(self, finished, tmp_path):
        source = formats.open_source(finished[1])
        with pytest.raises(checks.InputError) as error:
            formats.convert(source, str(tmp_path / "hf"), "huggingface")
        for name in ("config/long_text=attention", "mix/weights", "mix/scale", "chunks/score/kernel"):
            assert name in str(error.value)
        formats.convert(source, str(tmp_path / "hf"), "huggingface", ["config/long_text=*", "mix/*", "chunks/*"])
        assert json.loads((tmp_path / "hf" / "config.json").read_text())["id2label"] == {"0": "animal", "1": "thing"}

    def test_exports(self, finished, tmp_path, monkeypatch):
        monkeypatch.setattr(saved_model, "LOADERS", {"v1_session": loaders.v1_session})
        path = saved_model.run(saved_model.SavedModelConfig(finished[1], str(tmp_path / "saved")))
        texts = ["the lazy dog", "the " * 9 + "list", "list " * 15, "fox " * 21, "fox " * 22, "fox"]
        (answer,) = loaders.v1_session(path, [("serving_default", {"text": texts})])
        said = predict.run(predict.PredictConfig(finished[1]), texts)
        assert [labels[0].decode() for labels in answer["labels"]] == [p.label for p in said]
        np.testing.assert_allclose(answer["probabilities"][:, 0], [max(p.probabilities) for p in said], rtol=1e-4)
        assert answer["truncated"].tolist() == [False] * 4 + [True, False]
        (none,) = loaders.v1_session(path, [("serving_default", {"text": np.array([], object)})])
        assert none["labels"].shape == (0, 2)
        file = str(tmp_path / "model.tflite")
        found = tflite.run(tflite.TFLiteConfig(finished[1], file))[file]
        assert found["max_log_probability_difference"] < 1e-4 and found["top_1_agreement"] == 1.0


@pytest.mark.slow
def test_two_devices_and_accumulation_give_what_one_device_does(data, tmp_path, monkeypatch):
    monkeypatch.setattr(finetune, "_write_results", lambda *_: None)  # they are of one device in either case
    plain = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0, "mix_layers": False, "long_text": "max"}
    plain |= {"bucket_by_length": False, "num_train_steps": 3, "train_batch_size": 12, "eval_steps": 0}
    plain["run_dir"] = str(tiny_task.make(tmp_path / "small", num_hidden_layers=1) / "pre")
    parts = {"strategy": "mirrored", "gradient_accumulation_steps": 2}
    finetune.run(flags(data, tmp_path / "plain", **plain))
    finetune.run(flags(data, tmp_path / "parts", **plain, **parts))
    for a, b in zip(*(metrics_of(tmp_path / name) for name in ("plain", "parts")), strict=True):
        # Parts of a step are all filled up to the most chunks.
        assert a.pop("split") == b.pop("split") and a.pop("padding_share", 0) <= b.pop("padding_share", 0)
        assert a == pytest.approx(b, rel=1e-4, abs=1e-5)


@pytest.mark.slow
def test_taggers_and_answers_mix_their_layers():
    made = (
        tags.make(tags.Settings(labels=("O", "B-x"), mix_layers=True)),
        answers.make(answers.Settings(mix_layers=True, layer_dropout=0.0)),
    )
    for the_task, rate in zip(made, (0.1, 0.0)):
        model = the_task.build_model(tiny.config(), False)
        assert {"mix/weights", "mix/scale"} <= {v.path for v in model.variables}
        assert model.get_layer("mix").dropout.rate == rate
