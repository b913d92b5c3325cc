"""Fine-tuning of tags and answers as a whole program: from a pre-trained run folder to files that the field knows."""

import json
import os
import random

import numpy as np
import pytest

from export import loaders, parity, saved_model, tflite
from tests import tiny_squad, tiny_task
from tfbert import checks, evaluate, finetune, predict, run_folder
from tfbert.convert import formats
from tfbert.tasks import kinds, squad_metrics

L = 16  # the shortest length of a batch, so that one graph does for all
# One kind of question: a model as small as this takes long to see that there are two.
QUESTION = "the animal"


def sentences(seed, count):
    """Lists of (word, tag): animals, lazy or not, and things among other words; some longer than L."""
    rng = random.Random(seed)
    found = []
    for _ in range(count):
        rows = []
        for _ in range(rng.choice([3, 5, 8, 25])):
            kind = rng.randrange(4)
            if kind == 0:
                rows += [("lazy", "B-animal"), (rng.choice(tiny_task.ANIMALS), "I-animal")]
            elif kind == 1:
                rows.append((rng.choice(tiny_task.THINGS), "B-thing"))
            else:
                rows.append((rng.choice(["the", "of", "warm", ".", "unable"]), "O"))
        found.append(rows)
    return found


def squad(seed, count):
    """A file of questions that one word of a context answers, beside a word that could be asked for too."""
    rng = random.Random(seed)
    paragraphs = []
    for i in range(count):
        words = [rng.choice(["of", "warm", "up", ".", "unable"]) for _ in range(rng.choice([3, 6, 9]))]
        for group in (tiny_task.ANIMALS, tiny_task.THINGS):
            words.insert(rng.randint(0, len(words)), rng.choice(group))
        context = " ".join(words)
        answer = next(w for w in words if w in tiny_task.ANIMALS)
        qas = [tiny_squad.question(context, f"question {i}", QUESTION, answer)]
        paragraphs.append({"context": context, "qas": qas})
    return {"version": "1.1", "data": [{"title": "T", "paragraphs": paragraphs}]}


def column_file(path, found, tagged=True):
    lines = ["".join("\t".join(row[: 1 + tagged]) + "\n" for row in rows) for rows in found]
    path.write_text("\n".join(lines))
    return str(path)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tiny_task.make(tmp_path_factory.mktemp("words"), num_hidden_layers=1)
    column_file(folder / "train.conll", sentences(1, 60))
    column_file(folder / "dev.conll", sentences(2, 17))
    column_file(folder / "test.conll", sentences(2, 17), tagged=False)
    tiny_squad.write(folder / "train.json", squad(1, 60))
    tiny_squad.write(folder / "dev.json", squad(2, 17))
    return folder


def flags(data, output_dir, task, ending, **more):
    files = {f"{n}_file": str(data / f"{n}.{ending}") for n in ("train", "dev")}
    more = {"max_seq_length": L, "eval_steps": 0, "save_checkpoints_steps": 100, **files, **more}
    return tiny_task.flags(data, output_dir, task=task, **more)


def check_export(run_dir, tmp_path, request, agreement):
    """Exports a run, checks parity.json, and returns the answers of the first signature to a request."""
    version = saved_model.run(saved_model.SavedModelConfig(str(run_dir), str(tmp_path / "served")))
    with open(os.path.join(version, parity.FILE)) as f:
        about = json.load(f)
    assert set(about["loaders"]) == set(saved_model.LOADERS)
    for differences in about["loaders"].values():
        assert differences["serving_default"][agreement] == 1
        assert all(d < 1e-4 for name, d in differences["serving_default"].items() if name.startswith("max_"))
    (small,) = tflite.run(tflite.TFLiteConfig(str(run_dir), str(tmp_path / "model.tflite"))).values()
    assert small[agreement] == 1
    (found,) = loaders.v1_session(version, [("serving_default", request)])
    return found


@pytest.mark.parametrize(
    "task, ending, more, words",
    [
        ("tag", "conll", {"skip_bad_rows": True, "doc_stride": 9}, "doc_stride=9"),
        ("answer", "json", {"pooling": "mean", "labels": ("a", "b")}, "labels=('a', 'b'), pooling='mean'"),
        ("classify", "tsv", {"version_2_with_negative": True}, "version_2_with_negative=True"),
    ],
)
def test_flags_of_other_tasks(data, tmp_path, task, ending, more, words):
    with pytest.raises(checks.InputError) as caught:
        finetune.run(flags(data, tmp_path, task, ending, **more))
    assert str(caught.value) == f"--task={task} takes no flags of other tasks; got {words}."


def test_labels_that_are_given_twice(data, tmp_path):
    with pytest.raises(checks.InputError, match=r"--labels must be different names; got \['O'\] twice or empty"):
        finetune.run(flags(data, tmp_path, "tag", "conll", labels=("O", "B-animal", "O")))


@pytest.mark.slow
def test_tags(data, tmp_path, capsys):
    run_dir = tmp_path / "run"
    given = flags(data, run_dir, "tag", "conll", num_train_epochs=25.0, test_file=str(data / "test.conll"))
    assert finetune.run(given) == 0
    results = dict(line.split(" = ") for line in (run_dir / "eval_results.txt").read_text().splitlines())
    assert float(results["eval_f1"]) > 0.9 and float(results["eval_accuracy"]) > 0.95
    assert {"eval_precision", "eval_recall", "eval_f1_animal", "eval_f1_thing", "eval_tag_loss"} <= results.keys()
    columns = [line.split("\t") for line in (run_dir / "eval_tags.tsv").read_text().splitlines() if line]
    words = [row for rows in sentences(2, 17) for row in rows]
    assert [tuple(c[:2]) for c in columns] == words
    accuracy = np.mean([c[1] == c[2] for c in columns])
    assert float(results["eval_accuracy"]) == pytest.approx(accuracy, abs=1e-6)
    of_test = [line.split("\t") for line in (run_dir / "test_tags.tsv").read_text().splitlines() if line]
    assert of_test == [[c[0], c[2]] for c in columns]
    scores = evaluate.run(evaluate.EvaluateConfig(str(run_dir), (given.dev_file,)))
    assert scores["f1"] == pytest.approx(float(results["eval_f1"]), abs=1e-6)
    found = predict.run(predict.PredictConfig(str(run_dir)), ["the lazy fox . word"])
    assert found[0].tags == ("O", "B-animal", "I-animal", "O", "B-thing")
    assert capsys.readouterr().out.endswith("the lazy/B-animal fox/I-animal . word/B-thing\n")
    formats.convert(formats.open_source(str(run_dir)), str(tmp_path / "hf"), "huggingface")
    about = json.loads((tmp_path / "hf" / "config.json").read_text())
    assert about["architectures"] == ["BertForTokenClassification"]
    assert list(about["id2label"].values()) == ["O", "B-animal", "B-thing", "I-animal"]
    formats.convert(formats.open_source(str(tmp_path / "hf")), str(tmp_path / "back"), "tfbert")
    again = predict.run(predict.PredictConfig(str(tmp_path / "back")), ["the lazy fox . word"])
    assert again[0].tags == found[0].tags
    served = check_export(run_dir, tmp_path, {"text": ["the lazy fox . word"]}, "tag_agreement")
    assert [t.decode() for t in served["tags"][0]] == list(found[0].tags)
    assert (served["starts"][0].tolist(), served["ends"][0].tolist()) == ([0, 4, 9, 13, 15], [3, 8, 12, 14, 19])
    (tmp_path / "bad.conll").write_text("the\tO\nfox\tB-plant\n")
    with pytest.raises(checks.InputError, match=r"got 'B-plant' \(at .*bad\.conll, line 2"):
        evaluate.run(evaluate.EvaluateConfig(str(run_dir), (str(tmp_path / "bad.conll"),)))


@pytest.mark.slow
def test_answers(data, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(saved_model, "LOADERS", {"v1_session": loaders.v1_session})  # tags are asked for through both
    run_dir = tmp_path / "run"
    given = flags(data, run_dir, "answer", "json", num_train_epochs=14.0, max_query_length=4, doc_stride=5)
    assert finetune.run(given) == 0
    results = dict(line.split(" = ") for line in (run_dir / "eval_results.txt").read_text().splitlines())
    assert float(results["eval_f1"]) > 80 and "eval_span_loss" in results
    with open(given.dev_file) as f:
        asked = [q for p in json.load(f)["data"][0]["paragraphs"] for q in p["qas"]]
    texts = json.loads((run_dir / "predictions.json").read_text())
    right = squad_metrics.score([texts[q["id"]] for q in asked], [[a["text"] for a in q["answers"]] for q in asked])
    assert float(results["eval_exact_match"]) == pytest.approx(right["exact_match"], abs=1e-5)
    assert len(json.loads((run_dir / "nbest_predictions.json").read_text())) == len(asked)
    assert not (run_dir / "null_odds.json").exists()
    scores = evaluate.run(evaluate.EvaluateConfig(str(run_dir), (given.dev_file,)))
    assert scores["f1"] == pytest.approx(float(results["eval_f1"]), abs=1e-5)
    found = predict.run(predict.PredictConfig(str(run_dir)), [QUESTION], ["warm up the dog . word"])
    assert found[0].text == "dog" and found[0].n_best[0][0].start == 12
    assert "(characters 12 to 15)" in capsys.readouterr().out
    request = {"question": [QUESTION], "context": ["warm up the dog . word"]}
    served = check_export(run_dir, tmp_path, request, "answer_agreement")
    assert served["answer"].tolist() == [b"dog"] and (served["starts"][0, 0], served["ends"][0, 0]) == (12, 15)
    formats.convert(formats.open_source(str(run_dir)), str(tmp_path / "hf"), "huggingface")
    formats.convert(formats.open_source(str(tmp_path / "hf")), str(tmp_path / "back"), "tfbert")
    assert kinds.of_run(run_folder.read(str(tmp_path / "back"))).kind == "answer"
    assert json.loads((tmp_path / "hf" / "config.json").read_text())["architectures"] == ["BertForQuestionAnswering"]
