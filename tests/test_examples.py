"""Tests of examples/: the program in Python is run; its tokenizer and the one in Kotlin say what tfbert's says."""

import base64
import importlib.util
import json
import os
import pathlib
import runpy
import subprocess
import sys
import types
import unicodedata
import zipfile

import numpy as np
import pytest
import tensorflow as tf

from export import tflite
from tests import tiny_run, wordpiece
from tfbert import fill_mask
from tfbert.text import packing
from tfbert.text.tokenizer import Tokenizer
from tfbert.text.vocab import SPECIAL_TOKENS, Vocab

EXAMPLES = pathlib.Path(__file__).resolve().parents[1] / "examples"
WORDS = ["the", "mask", "ing", "straße", "naive", "naïve", "cafe", "café", "москва", "ελλαδα", "हिन्दी", "東京"]
TEXTS = [
    "",
    " \t\r\n",
    "The [MASK] of the [mask], [MASK]ing[MASK]! [SEP] [CLS][[MASK]] [UNK] [ MASK ]",
    "Café NAÏVE Straße İstanbul ΕΛΛΆΔΑ ΣΟΦΌΣ ﬁne ½ Ⅷ ǅ ẞ",
    "москва Й ё हिन्दी ไทย 한국어 각 東京タワー 中文字 㐀 𠀀 豈 ｆｕｌｌ！",
    "a\u0301\u0323b \u200bzero\u200dwidth\ufeff \u00ad soft \u2028line\u2029paragraph\u00a0space\u3000wide\u0085next",
    "a\0b\x01c\x7fd\ufffde \ue000private\U000f0000 \u202eright-to-left\u202c",
    "$5+7=12 <a> ^_^ `x` ~y | don't “quoted” ‘so’ — … § ¿qué? a,b;c. 3.14 e-mail@x.org",
    "x" * 200 + " " + "x" * 201 + " " + "é" * 200 + " e\u0301" * 3,
    "👍🏽 👩‍👩‍👧 🇩🇪 ☃ ∑ €",
    "unspellable ڪ ꧁ 𝔘𝔫𝔦 𒀀",
    " ".join(f"a{chr(c)}b" for first, last in wordpiece.CJK for c in (first - 1, first, last, last + 1)),
]


@pytest.fixture(scope="module", params=[True, False], ids=["uncased", "cased"])
def vocab(request):
    """A vocabulary that tells letters of many scripts apart."""
    letters = [chr(c) for c in range(0x21, 0x3000) if unicodedata.category(chr(c))[0] in "LNPSM"]
    letters += "東京タワー中文字𠀀㐀豈한국어각👍☃ｆｕｌ！"
    pieces = list(dict.fromkeys([*letters, *WORDS]))
    tokens = dict.fromkeys([*SPECIAL_TOKENS, *pieces, *("##" + p for p in pieces)])
    return Vocab(tuple(tokens), request.param)


def expected_ids(vocab, texts):
    return Tokenizer(vocab).tokenize(tf.constant(texts), special_tokens=("[MASK]",)).to_list()


def code_points():
    """Each assigned code point in a text of its own line: alone and inside of a word."""
    every = [c for c in map(chr, range(0x110000)) if unicodedata.category(c) not in ("Cn", "Cs")]
    return [" ".join(f"a{c}b {c}" for c in every[i : i + 50]) for i in range(0, len(every), 50)]


@pytest.fixture(scope="module")
def example():
    """examples/python/wordpiece.py."""
    spec = importlib.util.spec_from_file_location("example_wordpiece", EXAMPLES / "python" / "wordpiece.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def archive(path, vocab, **more):
    """What a .tflite with an associated vocabulary is to a reader of zips."""
    path.write_bytes(b"a model, which a zip may follow")
    with zipfile.ZipFile(path, "a") as zipped:
        zipped.writestr("vocab.txt", "".join(t + "\n" for t in vocab.tokens))
        zipped.writestr("tokenizer.json", json.dumps({"do_lower_case": vocab.do_lower_case, **more}))
    return str(path)


def test_python_tokenizer_is_tfberts(vocab, example, tmp_path):
    tokenizer, labels = example.read(archive(tmp_path / "x.tflite", vocab))
    assert labels == [] and tokenizer.tokens == list(vocab.tokens)
    texts = TEXTS + code_points()[::20]
    for text, ids in zip(texts, expected_ids(vocab, texts)):
        assert tokenizer.ids(text) == ids, text


def test_python_packs_as_tfbert_packs(vocab, example):
    tokenizer = example.WordPiece(list(vocab.tokens), vocab.do_lower_case, longest=12)
    for first in (0, 1, 4, 9, 10, 11, 30):
        a = list(range(first))
        packed = packing.pack_single(tf.ragged.constant([a], dtype=tf.int32), 12, vocab)
        assert padded(tokenizer.pack(a), 12) == {name: value.numpy()[0].tolist() for name, value in packed.items()}
        for second in (1, 4, 5, 9, 30):
            b = list(range(100, 100 + second))
            rows = (tf.ragged.constant([x], dtype=tf.int32, ragged_rank=1) for x in (a, b))
            packed = packing.pack_pair(*rows, 12, vocab)
            assert padded(tokenizer.pack(a, b), 12) == {n: value.numpy()[0].tolist() for n, value in packed.items()}


def padded(row, length):
    return {name: values + [0] * (length - len(values)) for name, values in row.items()}


def test_kotlin_tokenizer_is_tfberts(vocab, tmp_path):
    """With TFBERT_KOTLIN=FOLDER of the npm package kotlin-compiler, and a Java: compiles and runs WordPiece.kt."""
    if not (home := os.environ.get("TFBERT_KOTLIN")):
        pytest.skip("needs TFBERT_KOTLIN, the folder of the npm package kotlin-compiler")
    program, path = tmp_path / "tokenize.jar", archive(tmp_path / "x.tflite", vocab)
    sources = [EXAMPLES / "android" / "WordPiece.kt", pathlib.Path(__file__).parent / "kotlin" / "Tokenize.kt"]
    kotlin = ["java", "-Xmx1500m", "-cp", f"{home}/lib/kotlin-preloader.jar"]
    kotlin += ["org.jetbrains.kotlin.preloading.Preloader", "-cp", f"{home}/lib/kotlin-compiler.jar"]
    kotlin += ["org.jetbrains.kotlin.cli.jvm.K2JVMCompiler", "-no-reflect", "-d", str(program)]
    subprocess.run([*kotlin, *map(str, sources)], check=True)
    texts = TEXTS + code_points()
    given = b"\n".join(base64.b64encode(text.encode()) for text in texts) + b"\n"
    run = ["java", "-cp", f"{program}:{home}/lib/kotlin-stdlib.jar", "TokenizeKt", path]
    told = subprocess.run(run, input=given, capture_output=True, check=True).stdout.decode().split("\n")
    found = [[int(i) for i in line.split()] for line in told[:-1]]
    expected = expected_ids(vocab, texts)
    assert len(found) == len(expected) and found[: len(TEXTS)] == expected[: len(TEXTS)]
    differ = [text for text, a, b in zip(texts, found, expected) if a != b]
    print(f"{len(differ)} of {len(texts)} lines differ")
    assert len(differ) < 40, differ[:3]  # characters that one Unicode version knows and the other does not


@pytest.fixture(scope="module")
def strings_in(run_dir, tmp_path_factory):
    """A .tflite of the tiny run that takes strings."""
    path = str(tmp_path_factory.mktemp("examples") / "bert.tflite")
    tflite.run(tflite.TFLiteConfig(run_dir=run_dir, output=path, top_k=tiny_run.TOP_K, max_masks=tiny_run.MAX_MASKS))
    return path


@pytest.fixture
def ask(monkeypatch, capsys):
    """Runs examples/python/fill_mask.py; gives the lines that it prints."""
    monkeypatch.syspath_prepend(str(EXAMPLES / "python"))

    def run(*words):
        monkeypatch.setattr(sys, "argv", ["fill_mask.py", *words])
        capsys.readouterr()  # what an export has said before
        runpy.run_path(str(EXAMPLES / "python" / "fill_mask.py"), run_name="__main__")
        return capsys.readouterr().out.splitlines()

    return run


def expected_lines(run_dir, text):
    """What the run folder says, as the example prints it."""
    loaded = fill_mask.load(run_dir, top_k=tiny_run.TOP_K, max_masks=tiny_run.MAX_MASKS)
    answers = {name: value.numpy() for name, value in loaded.answering(tf.constant([text])).items()}
    return [line.strip() for line in fill_mask.table(text.encode(), answers, 0)[1:]]


@pytest.mark.slow
def test_python_asks_a_file_that_takes_strings(strings_in, run_dir, ask):
    for text in ("the lazy [MASK] returns", "[MASK] of Café [MASK]"):
        assert ask(strings_in, text) == expected_lines(run_dir, text)
    assert ask(strings_in, "no mask") == []
    with pytest.raises(SystemExit, match="usage"):
        ask(strings_in)


@pytest.mark.slow
def test_python_asks_a_file_that_takes_ids(run_dir, ask, tmp_path):
    path = str(tmp_path / "ids.tflite")
    limits = {"top_k": tiny_run.TOP_K, "max_masks": tiny_run.MAX_MASKS}
    tflite.run(tflite.TFLiteConfig(run_dir=run_dir, output=path, inputs="ids", **limits))
    for text in ("the lazy [MASK] returns", "[MASK] of Café [MASK]", "[MASK] " + "dog " * 40):
        expected = [line for line in expected_lines(run_dir, text) if line.startswith("[MASK]")]
        assert ask(path, text) == expected
    assert ask(path, "no mask") == []


def test_python_names_the_labels(vocab, tmp_path, monkeypatch):
    """Of a classifier that takes ids; a stand-in answers for it."""
    monkeypatch.syspath_prepend(str(EXAMPLES / "python"))
    program, asked = runpy.run_path(str(EXAMPLES / "python" / "fill_mask.py")), []

    def runner(**row):
        asked.append({name: value.tolist() for name, value in row.items()})
        return {"logits": np.log(np.array([[0.2, 0.5, 0.3]], np.float32)) + 7}

    stand_in = types.SimpleNamespace(get_signature_runner={"from_ids": runner}.__getitem__)
    monkeypatch.setitem(program["ask_ids"].__globals__, "ids_in", lambda path: stand_in)
    path = archive(tmp_path / "x.tflite", vocab, max_seq_length=6)
    with zipfile.ZipFile(path, "a") as zipped:
        zipped.writestr("labels.txt", "red\ngreen\ndark blue\n")
    answers = program["ask_ids"](path, "the cafe", "x y z w")
    assert list(program["lines"](answers)) == ["green 50.0 %", "dark blue 30.0 %", "red 20.0 %"]
    cls, sep = vocab.ids["[CLS]"], vocab.ids["[SEP]"]
    assert asked[0]["input_ids"] == [[cls, vocab.ids["the"], vocab.ids["cafe"], sep, vocab.ids["x"], sep]]
    assert asked[0]["segment_ids"] == [[0, 0, 0, 0, 1, 1]] and asked[0]["input_mask"] == [[1] * 6]
