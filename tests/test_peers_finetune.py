"""Tests of what compares fine-tuning here with transformers: tests/peers/finetune_*.py."""

import argparse
import gzip
import json
import os
import subprocess
import sys

import numpy as np
import pytest

from tests import tiny, tiny_squad
from tests.peers import finetune_both, finetune_data, finetune_transformers
from tfbert import finetune, heads, run_folder
from tfbert.convert import formats
from tfbert.loop import checkpoints
from tfbert.tasks import conll_files, tags

PYTHON = os.environ.get("TFBERT_TRANSFORMERS_PYTHON")


def squad(count):
    """A file of so many articles, with one question each."""
    return {
        "version": "1.1",
        "data": [
            {
                "title": f"t{i}",
                "paragraphs": [
                    {
                        "context": f"The fox of {i} was lazy.",
                        "qas": [{"id": f"q{i}", "question": "Who?", "answers": [{"text": "fox", "answer_start": 4}]}],
                    }
                ],
            }
            for i in range(count)
        ],
    }


@pytest.fixture
def source(tmp_path):
    """The published files in little, in folders of other names."""
    for folder in ("banking", "b", "c"):
        (tmp_path / folder).mkdir()
    for split in ("train", "test"):
        (tmp_path / "banking" / f"{split}.csv").write_text('text,category\n"a, b",x\n', encoding="utf-8")
        (tmp_path / "c" / f"{split}.csv").write_text("another,table\n", encoding="utf-8")
        (tmp_path / "b" / f"stsb-en-{split}.csv").write_text('"One, two.",Three.,2.5\n', encoding="utf-8")
        with gzip.open(tmp_path / "b" / f"en_ewt-ud-{split}.conllu.gz", "wt", encoding="utf-8") as f:
            f.write("1\tx\n")
    for name in ("wnut17train.conll", "emerging.test.annotated"):
        (tmp_path / "b" / name).write_text("é\tO\n", encoding="utf-8")
    parts = [{"text": "play  "}, {"text": "José ", "entity": "artist"}]
    for i, intent in enumerate(finetune_data.INTENTS):
        for name in (f"train_{intent}_full.json", f"validate_{intent}.json"):
            made = json.dumps({intent: [{"data": parts}]}, ensure_ascii=False)
            (tmp_path / "c" / name).write_bytes(made.encode("latin-1" if i % 2 else "utf-8"))
    (tmp_path / "c" / "xquad.en.json").write_text(json.dumps(squad(11)), encoding="utf-8")
    return tmp_path


def test_files_are_what_both_programs_read(source, tmp_path):
    out = tmp_path / "out"
    finetune_data.make(str(source), str(out))
    assert sorted(os.listdir(out)) == sorted(finetune_both.TASKS)
    assert (out / "banking77/train.csv").read_text(encoding="utf-8") == 'text,category\n"a, b",x\n'
    assert (out / "stsb/test.csv").read_text(encoding="utf-8").split("\n")[:2] == [
        "sentence1,sentence2,score",
        '"One, two.",Three.,2.5',
    ]
    snips = (out / "snips/train.csv").read_text(encoding="utf-8").split("\n")
    assert snips[:3] == ["text,intent", "play José,AddToPlaylist", "play José,BookRestaurant"]
    assert (out / "ud_ewt/test.conllu").read_text(encoding="utf-8") == "1\tx\n"
    train, test = (json.loads((out / f"xquad/{s}.json").read_text(encoding="utf-8"))["data"] for s in ("train", "test"))
    assert [a["title"] for a in test] == ["t4", "t9"]
    assert [a["title"] for a in train] == [f"t{i}" for i in (0, 1, 2, 3, 5, 6, 7, 8, 10)]


def test_a_file_that_is_not_there(source, tmp_path):
    os.remove(source / "b" / "wnut17train.conll")
    with pytest.raises(SystemExit, match=r"there must be a file wnut17train\.conll"):
        finetune_data.make(str(source), str(tmp_path / "out"))


def test_labels_and_scores_are_scored(tmp_path):
    path = tmp_path / finetune_both.LABELS
    path.write_text('index\tprediction\tlabel\n0\ta\ta\n1\tb\ta\n2\tb\tb\n3\t"c\t"c\n', encoding="utf-8")
    assert finetune_both.score(str(tmp_path), "") == {"accuracy": 75.0}
    path.write_text("index\tprediction\tlabel\n0\t1\t2\n1\t2\t3\n2\t9\t4\n", encoding="utf-8")
    found = finetune_both.score(str(tmp_path), "")
    assert found["spearman"] == pytest.approx(100)
    assert found["pearson"] == pytest.approx(100 * np.corrcoef([1, 2, 9], [2, 3, 4])[0, 1])


def test_tags_are_scored_as_the_task_does(tmp_path):
    gold = [("O", "B-x", "I-x"), ("B-y",)]
    said = [("O", "B-x", "O"), ("B-y",)]
    sentences = [conll_files.Sentence(tuple("abc"[: len(g)]), g, "") for g in gold]
    predictions = [tags.Tags(s, None) for s in said]
    tags.write(predictions, sentences, str(tmp_path), "test")
    want = tags.score(tags.Settings(labels=("O", "B-x", "I-x", "B-y")), predictions, sentences)
    assert want["f1"] == pytest.approx(0.5)
    found = finetune_both.score(str(tmp_path), "")
    assert found == pytest.approx({"accuracy": 75.0, "f1": 100 * want["f1"]})


def test_answers_are_scored_against_the_file(tmp_path):
    gold = tiny_squad.write(tmp_path / "gold.json", tiny_squad.content())
    answers = {"a1": "in France", "a2": "the Normans", "b1": "曼底"}
    (tmp_path / finetune_both.ANSWERS).write_text(json.dumps(answers), encoding="utf-8")
    assert finetune_both.score(str(tmp_path), gold) == pytest.approx({"exact_match": 100 / 3, "f1": 100 / 3})


def of(seconds, accuracy):
    return finetune_both.Result(seconds, seconds / 2, 2 * seconds, {"accuracy": accuracy})


def test_table_compares_seeds_that_both_have():
    ours = {1: of(30.0, 90.0), 2: of(40.0, 92.0), 3: of(50.0, 50.0)}
    theirs = {1: of(60.0, 89.0), 2: of(80.0, 89.0)}
    lines = finetune_both.table({("snips", finetune_both.OURS): ours, ("snips", finetune_both.THEIRS): theirs})
    assert lines[2] == "| snips, accuracy | 91.0 ± 1.4 (90.0, 92.0) | 89.0 ± 0.0 (89.0, 89.0) | +2.0 ± 1.0 |"
    times = ["18 ± 4 (15, 20)", "35 ± 7 (30, 40)", "0.50", "35 ± 7 (30, 40)", "70 ± 14 (60, 80)", "0.50"]
    assert lines[-1].split(" | ")[1:7] == times
    assert lines[-1].endswith("| 70 ± 14 (60, 80) | 140 ± 28 (120, 160) |")
    assert finetune_both.table({("snips", finetune_both.OURS): ours})[-1].startswith("|---")


def values(**more):
    given = {"data": "d", "init_checkpoint": "w", "output": "o", "peer": "python", "share": 1.0, "batches": "random"}
    return argparse.Namespace(**{**given, **more})


@pytest.mark.parametrize("name", finetune_both.TASKS)
@pytest.mark.parametrize("order", finetune_both.BATCHES)
def test_both_programs_have_the_flags(name, order, monkeypatch):
    words = finetune_both.command(finetune_both.OURS, name, 3, "out", values(batches=order))
    given = {word.removeprefix("--").partition("=")[0] for word in words[3:]}
    assert given <= set(finetune.FinetuneConfig.__dataclass_fields__)
    words = finetune_both.command(finetune_both.THEIRS, name, 3, "out", values(batches=order))
    monkeypatch.setattr(sys, "argv", words[1:])
    theirs = finetune_transformers._arguments()
    assert (theirs.random_seed, theirs.bucket_by_length) == (3, order == "alike")


def test_a_run_is_done_once_and_leaves_its_result(tmp_path, monkeypatch):
    program = tmp_path / "program.py"
    program.write_text(
        "import os, sys, time\n"
        f"folder = sys.argv[1]\nos.makedirs(folder)\nopen({str(tmp_path / 'runs')!r}, 'a').write('x')\n"
        "print('7 rows to train on', flush=True)\ntime.sleep(0.3)\nprint('Finished 5 steps', flush=True)\n"
        "open(folder + '/ckpt-5.index', 'w').close()\n"
        "open(folder + '/test_predictions.tsv', 'w').write('index\\tprediction\\tlabel\\n0\\ta\\ta\\n')\n",
        encoding="utf-8",
    )
    monkeypatch.setattr(
        finetune_both, "command", lambda side, name, seed, folder, _: [sys.executable, str(program), folder]
    )
    for _ in range(2):
        finetune_both.run(finetune_both.OURS, "snips", 4, values(output=str(tmp_path)), [0])
    result = finetune_both.results(str(tmp_path))["snips", finetune_both.OURS][4]
    assert result.scores == {"accuracy": 100.0}
    assert 0.2 < result.train_seconds < result.seconds
    assert (tmp_path / "runs").read_text(encoding="utf-8") == "x"
    assert sorted(os.listdir(tmp_path / "snips" / "tfbert-4")) == ["result.json", "test_predictions.tsv"]
    program.write_text("raise SystemExit(3)", encoding="utf-8")
    with pytest.raises(SystemExit, match="ended with status 3"):
        finetune_both.run(finetune_both.OURS, "snips", 5, values(output=str(tmp_path)), [0])


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """A tiny BertModel as transformers has it, with the vocabulary of tiny_squad."""
    folder = tmp_path_factory.mktemp("weights")
    vocab = tiny_squad.vocab()
    encoder = tiny.config(vocab_size=len(vocab), max_position_embeddings=96)
    model = tiny.randomize(heads.build_pretrainer(encoder), seed=5)
    run_folder.create(str(folder / "run"), encoder, vocab, {})
    checkpoints.Checkpoints(str(folder / "run"), model).save(1)
    formats.convert(formats.open_source(str(folder / "run")), str(folder / "theirs"), "huggingface")
    return str(folder / "theirs")


FILES = {
    "classify": (".csv", "text,label\n" + "a man,x\nin France the lazy,y\n" * 5),
    "regress": (".csv", "text,label\n" + "a man,1.5\nin France the lazy,2\n" * 5),
    "tag": (".conll", "norman\tO\nFrance\tB-x\n\nin\tO\n\n" * 5),
    "answer": (".json", json.dumps(tiny_squad.content())),
}


ASKS = pytest.mark.skipif(not PYTHON, reason="TFBERT_TRANSFORMERS_PYTHON names no Python with transformers and torch")


def ask(flags, *switches):
    """Runs tests/peers/finetune_transformers.py."""
    program = os.path.join(os.path.dirname(__file__), "peers", "finetune_transformers.py")
    words = [PYTHON, program, *switches, *(f"--{k}={v}" for k, v in flags.items())]
    env = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    done = subprocess.run(words, capture_output=True, text=True, check=False, env=env)
    assert done.returncode == 0, done.stderr
    assert "Finished" in done.stderr


@pytest.mark.slow
@ASKS
@pytest.mark.parametrize("task", FILES)
def test_transformers_does_each_task(task, weights, tmp_path):
    ending, text = FILES[task]
    path = tmp_path / f"data{ending}"
    path.write_text(text, encoding="utf-8")
    flags = {"task": task, "train_file": path, "test_file": path, "init_checkpoint": weights, "output_dir": tmp_path}
    flags |= {"max_seq_length": 90, "doc_stride": 10, "train_batch_size": 3, "num_train_epochs": 1.0}
    ask(flags, "--bucket_by_length")
    found = finetune_both.score(str(tmp_path), str(path))
    assert all(np.isfinite(value) for value in found.values())


def of_ours(**flags):
    """A `FinetuneConfig` with the optimizer, the schedule and the head of transformers."""
    more = dict(word.removeprefix("--").split("=") for word in finetune_both.OF_OURS)
    more["initializer_range"] = float(more["initializer_range"])
    return finetune.FinetuneConfig(
        **more, **{name: str(x) if isinstance(x, os.PathLike) else x for name, x in flags.items()}
    )


@pytest.mark.slow
@ASKS
def test_both_train_to_the_same_scores(weights, tmp_path):
    """The same weights, head included, all examples in each batch, no dropout: nothing is left to differ."""
    words = ("the norman", "in France", "a man , 10th century", "people", "the people of the region in France")
    path = tmp_path / "data.csv"
    path.write_text("text,label\n" + "".join(f'"{w}",{i + 0.5}\n' for i, w in enumerate(words)), encoding="utf-8")
    given = {"task": "regress", "train_file": path, "test_file": path, "max_seq_length": 60, "train_batch_size": 5}
    finetune.run(
        of_ours(**given, init_checkpoint=weights, num_train_steps=1, learning_rate=0.0, output_dir=tmp_path / "begin")
    )
    head = tmp_path / "head"
    formats.convert(formats.open_source(str(tmp_path / "begin")), str(head), "huggingface")
    given |= {
        "init_checkpoint": head,
        "num_train_epochs": 20.0,
        "learning_rate": 5e-3,
        "clip_norm": 1.0,
        "weight_decay": 0.1,
    }
    finetune.run(of_ours(**given, output_dir=tmp_path / "ours"))
    ask({**given, "output_dir": tmp_path / "theirs"})
    before, ours, theirs = (
        np.genfromtxt(tmp_path / side / finetune_both.LABELS, skip_header=1)[:, 1]
        for side in ("begin", "ours", "theirs")
    )
    assert np.abs(ours - before).min() > 0.1  # they have learned
    np.testing.assert_allclose(theirs, ours, rtol=1e-3, atol=1e-4)
