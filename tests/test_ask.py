"""Tests of export.ask on models of tasks; tests/test_tflite.py has those that fill masks."""

import json

import pytest
import tensorflow as tf

from export import ask
from tests import test_audit
from tfbert import checks


def test_asks_for_what_a_model_takes(tmp_path, capsys):
    def answer(x0, x1):
        return {"answer": tf.strings.join([x0, x1]), "score": tf.constant([0.5, 2.0]), "words": tf.stack([x0, x1], 1)}

    folder = test_audit.save(tmp_path / "1", answer, tf.string, tf.string)
    cfg = ask.AskConfig(saved_model=folder)
    ask.run(cfg, {"x0": ["a", "b\udcff"], "x1": ["é", "d"]})  # \udcff: a byte of a command line that is not UTF-8
    lines = capsys.readouterr().out.splitlines()
    assert [json.loads(line) for line in lines[1:]] == [
        {"answer": "aé", "score": 0.5, "words": ["a", "é"]},
        {"answer": "b\ufffdd", "score": 2.0, "words": ["b\ufffd", "d"]},
    ]
    for texts, words in (
        (["a", "b"], r"must be x0, x1; got text"),
        ({"x0": ["a"]}, r"must be x0, x1; got x0"),
        ({"x0": ["a"], "x1": ["b", "c"]}, "as many texts"),
    ):
        with pytest.raises(checks.InputError, match=words):
            ask.run(cfg, texts)
