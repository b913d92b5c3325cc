"""Tests against transformers itself, in an environment of its own.

TFBERT_TRANSFORMERS_PYTHON names the Python of an environment with transformers and PyTorch; without it they are
skipped. They were made with transformers 5.23.0 and torch 2.13.0.
"""

import json
import os
import subprocess

import numpy as np
import pytest

from tests import convert_samples, tiny, tiny_run
from tfbert import heads
from tfbert.convert import assign, formats
from tfbert.text import tokenizer as tokenizer_lib

PYTHON = os.environ.get("TFBERT_TRANSFORMERS_PYTHON")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not PYTHON, reason="TFBERT_TRANSFORMERS_PYTHON names no Python with transformers and torch"),
]
FEATURES = tiny.features()
REAL = FEATURES["input_mask"][:, :, None] > 0
TOLERANCE = 1e-5


def ask(*words):
    program = os.path.join(os.path.dirname(__file__), "peer_transformers.py")
    env = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    done = subprocess.run([PYTHON, program, *map(str, words)], capture_output=True, text=True, check=False, env=env)
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    path = tmp_path_factory.mktemp("inputs") / "inputs.npz"
    np.savez(path, **FEATURES)
    return path


@pytest.fixture(scope="module")
def saved(tmp_path_factory, inputs):
    """Folders that transformers saved, with its outputs."""
    folder = tmp_path_factory.mktemp("transformers")
    ask("save", folder, inputs)
    return folder


def at_masked(logits):
    return np.take_along_axis(logits, FEATURES["masked_lm_positions"][:, :, None], 1)


def check_pretrainer(model, expected):
    found = model(tiny.inputs(FEATURES))
    close = {"atol": TOLERANCE, "rtol": TOLERANCE}
    np.testing.assert_allclose(found["sequence_output"] * REAL, expected["last"] * REAL, **close)
    logits = next((expected[n] for n in ("prediction_logits", "logits") if n in expected), None)
    if logits is not None:
        np.testing.assert_allclose(found["masked_lm_logits"], at_masked(logits), **close)
    if "seq_relationship_logits" in expected:
        np.testing.assert_allclose(found["next_sentence_logits"], expected["seq_relationship_logits"], **close)
    if "pooler_output" in expected:
        np.testing.assert_allclose(found["pooled_output"], expected["pooler_output"], **close)


@pytest.mark.parametrize(
    "name, allowed",
    [
        ("pretraining", []),
        ("pretraining_tanh", []),
        ("untied", []),
        ("sharded", []),
        ("torch", []),
        ("torch_old", []),
        ("bfloat16", []),
        ("masked_lm", ["cls/seq_relationship/*", "bert/pooler/*"]),
        ("bare", ["cls/*"]),
        ("distilbert", ["cls/seq_relationship/*"]),
        ("electra", ["cls/*"]),
        ("electra_generator", ["cls/seq_relationship/*"]),
    ],
)
def test_what_transformers_saves_computes_the_same(saved, name, allowed):
    source = formats.open_source(str(saved / name))
    model = convert_samples.pretrainer(source.encoder)
    account = assign.load(source, model, allowed)
    assert not account.left_over
    check_pretrainer(model, np.load(saved / name / "outputs.npz"))


def scores(source):
    """Scores of a fine-tuned head of ours with its weights."""
    build = {
        "classify": lambda: heads.build_classifier(source.encoder, len(source.labels)),
        "tokens": lambda: heads.build_tagger(source.encoder, len(source.labels)),
        "span": lambda: heads.build_span_finder(source.encoder),
    }
    model = tiny.randomize(build[source.head]())
    assign.load(source, model)
    return model({k: FEATURES[k] for k in ("input_ids", "input_mask", "segment_ids")})["logits"]


def check_head(found, expected, head):
    close = {"atol": TOLERANCE, "rtol": TOLERANCE}
    if head == "classify":
        np.testing.assert_allclose(found, expected["logits"], **close)
    elif head == "tokens":
        np.testing.assert_allclose(found * REAL, expected["logits"] * REAL, **close)
    else:
        both = np.stack([expected["start_logits"], expected["end_logits"]], -1)
        np.testing.assert_allclose(found * REAL, both * REAL, **close)


@pytest.mark.parametrize("head", ["classify", "tokens", "span"])
def test_fine_tuned_heads_that_transformers_saves(saved, head):
    source = formats.open_source(str(saved / head))
    assert source.head == head
    check_head(scores(source), np.load(saved / head / "outputs.npz"), head)


def check_loading(folder, kind):
    about = json.loads((folder / "loading.json").read_text())
    assert about.pop("class") == kind
    assert set(about) >= {"missing_keys", "unexpected_keys", "mismatched_keys"} and not any(about.values()), about


@pytest.mark.parametrize(
    "overrides",
    [
        {"hidden_act": "gelu"},
        {"hidden_act": "gelu_erf"},
        {"hidden_act": "gelu_erf", "layer_norm_eps": 1e-5},
        {"tie_word_embeddings": False},
    ],
    ids=["tanh", "erf", "epsilon", "untied"],
)
def test_transformers_loads_our_pretrainer_whole(tmp_path, inputs, overrides):
    folder = tmp_path / "out"
    source = convert_samples.source(encoder_config=tiny.config(**overrides))
    formats.convert(source, str(folder), "huggingface")
    ask("load", folder, inputs, "AutoModelForPreTraining")
    check_loading(folder, "BertForPreTraining")
    model = heads.build_pretrainer(source.encoder)
    assign.load(source, model)
    check_pretrainer(model, np.load(folder / "outputs.npz"))


@pytest.mark.parametrize(
    "head, classes, auto, kind",
    [
        ("masked_lm", 0, "AutoModelForMaskedLM", "BertForMaskedLM"),
        ("none", 0, "AutoModel", "BertModel"),
        ("classify", 4, "AutoModelForSequenceClassification", "BertForSequenceClassification"),
        ("tokens", 5, "AutoModelForTokenClassification", "BertForTokenClassification"),
        ("span", 0, "AutoModelForQuestionAnswering", "BertForQuestionAnswering"),
    ],
)
def test_transformers_loads_our_heads_whole(tmp_path, inputs, head, classes, auto, kind):
    folder = tmp_path / "out"
    source = convert_samples.source(head, classes)
    formats.convert(source, str(folder), "huggingface")
    ask("load", folder, inputs, auto)
    check_loading(folder, kind)
    expected = np.load(folder / "outputs.npz")
    if head in ("masked_lm", "none"):
        model = convert_samples.pretrainer(source.encoder)
        assign.load(source, model, ["bert/pooler/*", "cls/*"])
        check_pretrainer(model, expected)
    else:
        check_head(scores(source), expected, head)


@pytest.mark.parametrize("act", ["gelu", "gelu_erf"])
def test_a_classifier_gives_the_same_probabilities_on_200_sentences(tmp_path, act):
    texts, source, expected = convert_samples.classifier_of_texts(act)
    folder = tmp_path / "out"
    formats.convert(source, str(folder), "huggingface")
    (tmp_path / "texts.json").write_text(json.dumps(texts))
    ask("classify", folder, tmp_path / "texts.json")
    about = json.loads((folder / "probabilities.json").read_text())
    assert tuple(about["labels"]) == source.labels
    np.testing.assert_allclose(about["probabilities"], expected, atol=1e-5)


TEXTS = [text.decode(errors="ignore") for text in tiny_run.TEXTS if b"[" not in text]
TEXTS += ["Un-ABLE foxes, Café!", "東京s 中文", "x" * 150, "\t a\u00a0b ", "ǅ ﬁ ²", "a\u200db", "naïve—fox…"]


@pytest.mark.parametrize("lower_case", [True, False])
def test_auto_tokenizer_gives_our_ids(tmp_path, lower_case):
    vocab = tiny_run.vocab(lower_case)
    folder = tmp_path / "out"
    formats.convert(convert_samples.source()._replace(vocab=vocab), str(folder), "huggingface")
    (tmp_path / "texts.json").write_text(json.dumps(TEXTS))
    ask("encode", folder, tmp_path / "texts.json")
    found = json.loads((folder / "ids.json").read_text())
    ours = tokenizer_lib.Tokenizer(vocab).tokenize(TEXTS)
    expected = [[vocab.cls_id, *np.asarray(ids).reshape(-1).tolist(), vocab.sep_id] for ids in ours]
    assert found == expected
