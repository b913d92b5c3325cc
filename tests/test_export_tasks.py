"""Tests of exports of runs with a task: SavedModels through a server's loader, .tflite through the interpreter."""

import json
import os
import pathlib
import re

import numpy as np
import pytest

from export import loaders, parity, saved_model, tflite
from tests import tiny_tasks
from tfbert import checks

pytestmark = pytest.mark.slow  # whole programs

QUESTION, CONTEXT = "a ?", "The Normans, who came to Normandy, a région in France."
BUILD = pathlib.Path(__file__).resolve().parents[1] / "BUILD.md"


@pytest.fixture(scope="module")
def run_dirs(tmp_path_factory):
    """{task: its run folder}."""
    folder = tmp_path_factory.mktemp("tasks")
    return {name: tiny_tasks.make(folder / name, name) for name in tiny_tasks.ABOUT}


@pytest.fixture(scope="module")
def lite(run_dirs, tmp_path_factory):
    """{task: its .tflite}, of tags and of answers."""
    folder = tmp_path_factory.mktemp("lite")
    found = {name: str(folder / f"{name}.tflite") for name in ("tag", "answer")}
    for name, path in found.items():
        tflite.run(tflite.TFLiteConfig(run_dirs[name], path, top_k=3))
    return found


def about(path):
    with open(path, encoding="utf-8") as f:
        return json.load(f)


@pytest.mark.parametrize("name, agreement", [("tag", "tag_agreement"), ("answer", "answer_agreement")])
def test_tflite_of_words(lite, name, agreement):
    told = about(lite[name].replace(".tflite", f".{parity.FILE}"))
    differences = told["loaders"]["tflite_interpreter"]["serving_default"]
    assert differences[agreement] == 1.0 and 0 < max(differences.values()) <= 1
    assert all(value < 2e-5 for key, value in differences.items() if key.startswith("max_"))
    assert told["settings"]["truncation"] == "windows" and list(told["files"]) == [f"{name}.tflite"]
    custom = {op for op in told["ops"] if op.upper() != op}
    assert custom == {"FastBertNormalize", "FastWordpieceTokenizeWithOffsets"}


def test_tflite_of_nothing(lite):
    """No texts, and texts without wordpieces: what TFLite divides by must not be 0."""
    tagger, answerer = (loaders.Lite(lite[name]) for name in ("tag", "answer"))
    for texts in ([], [""], ["", "the fox", "\u200b"]):
        found = tagger.run(text=texts)
        assert found["tags"].shape == (len(texts), 2 if len(texts) > 1 else 1)
        assert (found["starts"] >= 0).sum() == (2 if len(texts) > 1 else 0)
        found = answerer.run(question=texts, context=texts)
        assert found["starts"].shape == (len(texts), 3)
        assert (found["answer_start"] >= 0).sum() <= (1 if len(texts) > 1 else 0)


def test_the_python_that_build_md_shows(lite, tmp_path, monkeypatch, capsys):
    """What it cuts out by the offsets are the words, and the answer is what the SavedModel says."""
    code = next(c for c in re.findall(r"```python\n(.*?)```", BUILD.read_text("utf-8"), re.S) if "answer_start" in c)
    for name, path in lite.items():
        os.symlink(path, tmp_path / {"tag": "tagger.tflite", "answer": "squad.tflite"}[name])
    monkeypatch.chdir(tmp_path)
    exec(compile(code, "BUILD.md", "exec"), {})
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[:-1]] == ["Ada", "wohnt", "in", "Zürich", "."]
    assert {line.split()[1] for line in lines[:-1]} <= set(tiny_tasks.LABELS)


@pytest.mark.parametrize("name", ["tag", "answer", "classify"])
def test_saved_model(run_dirs, tmp_path, name, monkeypatch):
    """Each signature through a session; scores are those of the run folder, which `export.parity` compares."""
    monkeypatch.setattr(saved_model, "LOADERS", {"v1_session": loaders.v1_session})
    truncation = "windows" if name == "classify" else ""
    wanted = saved_model.SavedModelConfig(
        run_dirs[name],
        str(tmp_path),
        top_k=2,
        truncation=truncation,
        pooling="cls",
        normalize=True,
        max_input_bytes=5000,
    )
    folder = saved_model.run(wanted)
    told = about(os.path.join(folder, parity.FILE))
    (found,) = told["loaders"].values()
    assert set(found) == {"serving_default", "embed", "encode", "from_ids", "tokenize", "detokenize"}
    assert told["settings"]["truncation"] == "windows" and told["settings"]["max_input_bytes"] == 5000
    assert 0 < found["embed"]["max_embedding_difference"] < 1e-5
    assert found["from_ids"]["max_logits_difference"] < 5e-5
    inputs = {"question": [QUESTION], "context": [CONTEXT]} if name == "answer" else {"text": ["the lazy fox " * 20]}
    long = {key: [value[0] + " a" * 3000] for key, value in inputs.items()}
    pieces = {"text": ["The fox, unable [MASK]."]}
    asked = [
        ("serving_default", inputs),
        ("serving_default", long),
        ("embed", {"text": ["the fox"]}),
        ("tokenize", pieces),
    ]
    plain, cut, embedded, pieces = loaders.v1_session(folder, asked)
    assert not plain["truncated"][0] and cut["truncated"][0]
    assert np.linalg.norm(embedded["embedding"][0]) == pytest.approx(1.0)
    if name == "tag":
        assert [word.decode() for word in plain["words"][0]] == ("the lazy fox " * 20).split()
    elif name == "answer":
        start, end = plain["answer_start"][0], plain["answer_end"][0]
        assert plain["answer"][0] == (CONTEXT.encode()[start:end] if start >= 0 else b"")
    else:
        assert plain["labels"].shape == (1, 2)
        tokens = [t.decode() for t in pieces["tokens"][0]]
        assert tokens == ["the", "fox", ",", "un", "##able", "[", "mask", "]", "."]  # [MASK] is no token here


def test_bad_input(run_dirs, tmp_path):
    def config(name, **more):
        return saved_model.SavedModelConfig(run_dirs[name], str(tmp_path), **more)

    for name, more, words in [
        ("tag", {"pooling": "pooled"}, "pooling must be cls or mean .*; got pooling=pooled"),
        ("answer", {"truncation": "tail"}, "looks at all of a context, in windows; got truncation='tail'"),
        ("pairs", {"truncation": "tail"}, "truncation is for single texts; .*; got truncation='tail'"),
        ("classify", {"max_input_bytes": 15}, "max_input_bytes must be at least 16; got max_input_bytes=15"),
        ("classify", {"max_seq_length": 24}, "max_position_embeddings 23; got max_seq_length=24"),
    ]:
        with pytest.raises(checks.InputError, match=words):
            saved_model.run(config(name, **more))
    with pytest.raises(checks.InputError, match="truncation must be one of"):
        config("tag", truncation="middle")
    assert os.listdir(tmp_path) == []
