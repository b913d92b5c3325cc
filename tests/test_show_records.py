"""Tests of data_prep.show_records."""

import io
import json
import sys

import numpy as np
import pytest
import tensorflow as tf

from data_prep import show_records
from tfbert import checks, features
from tfbert.text.vocab import SPECIAL_TOKENS, Vocab

VOCAB = Vocab((*SPECIAL_TOKENS, "the", "cat", "sat", "##s", "un", "##aff", "##able", "mat"))
ID = VOCAB.ids
L, P = 16, 5
STATIC = features.Layout(L, P)


def batch():
    """[CLS] the cat ##s [MASK] [SEP] un ##aff [MASK] mat mat ##s [SEP], of which four are masked."""
    words = ["[CLS]", "the", "cat", "##s", "[MASK]", "[SEP]", "un", "##aff", "[MASK]", "mat", "mat", "##s", "[SEP]"]
    ids = [ID[w] for w in words] + [0] * (L - len(words))
    truth = {4: "sat", 8: "##able", 9: "cat", 10: "mat"}
    row = {
        "input_ids": ids,
        "input_mask": [1] * len(words) + [0] * (L - len(words)),
        "segment_ids": [0] * 6 + [1] * 7 + [0] * 3,
        "masked_lm_positions": [*truth, 0],
        "masked_lm_ids": [*(ID[w] for w in truth.values()), 0],
        "masked_lm_weights": np.float32([1, 1, 1, 1, 0]),
        "next_sentence_labels": [1],
    }
    return {k: np.stack([v, v]) for k, v in row.items()}


def unmasked_batch():
    """[CLS] the cat ##s sat [SEP] un ##aff mat [SEP]; the cat and the mat belong to the words before them."""
    words = ["[CLS]", "the", "cat", "##s", "sat", "[SEP]", "un", "##aff", "mat", "[SEP]"]
    rest = [0] * (L - len(words))
    row = {
        "input_ids": [ID[w] for w in words] + rest,
        "input_mask": [1] * len(words) + rest,
        "segment_ids": [0] * 6 + [1] * 4 + rest,
        "word_starts": [1, 1, 0, 0, 1, 1, 1, 0, 0, 1, *rest],
        "next_sentence_labels": [1],
    }
    return {k: np.array([v]) for k, v in row.items()}


def packed_batch():
    """[CLS] the [MASK] [SEP] un ##aff [SEP] and [CLS] cat [SEP] [MASK] [SEP] in a row with a place for a third."""
    words = ["[CLS]", "the", "[MASK]", "[SEP]", "un", "##aff", "[SEP]", "[CLS]", "cat", "[SEP]", "[MASK]", "[SEP]"]
    rest = [0] * (L - len(words))
    row = {
        "input_ids": [ID[w] for w in words] + rest,
        "input_mask": [1] * 7 + [2] * 5 + rest,
        "segment_ids": [0] * 4 + [1] * 3 + [0] * 3 + [1] * 2 + rest,
        "masked_lm_positions": [2, 10, 0, 0, 0],
        "masked_lm_ids": [ID["cat"], ID["mat"], 0, 0, 0],
        "masked_lm_weights": np.float32([1, 1, 0, 0, 0]),
        "position_ids": [*range(7), *range(5), *rest],
        "next_sentence_positions": [0, 7, 0],
        "next_sentence_labels": [1, 0, 0],
        "next_sentence_weights": np.float32([1, 1, 0]),
    }
    return {k: np.array([v]) for k, v in row.items()}


def write(folder, records=None, name="train-00000-of-00001.tfrecord"):
    with tf.io.TFRecordWriter(str(folder / name)) as writer:
        for record in features.serialize_batch(batch(), STATIC) if records is None else records:
            writer.write(record)
    VOCAB.write(folder / "vocab")


def run(folder, **flags):
    flags = {"input_file": (str(folder / "*.tfrecord"),), "vocab_file": str(folder / "vocab"), **flags}
    return show_records.run(show_records.Config(**flags))


def test_a_record_reads_as_text(tmp_path, capsys):
    write(tmp_path)
    assert run(tmp_path) == 2
    first, a, b, empty, *rest = capsys.readouterr().out.split("\n")
    assert first == (
        f"{tmp_path}/train-00000-of-00001.tfrecord, record 0: "
        "13 of 16 tokens, 4 masked of at most 5; next sentence: 1 (random)"
    )
    assert a == "A: [CLS] the cats {[MASK] -> sat} [SEP]"
    assert b == "B: unaff {[MASK] -> ##able} {mat -> cat} {mat -> mat} ##s [SEP]"
    assert empty == ""
    assert rest[0].startswith(f"{tmp_path}/train-00000-of-00001.tfrecord, record 1: ")


def test_no_more_than_asked_for(tmp_path, capsys):
    write(tmp_path)
    assert run(tmp_path, num=1) == 1
    assert "record 1" not in capsys.readouterr().out


def test_colours_on_a_terminal_only(tmp_path, capsys, monkeypatch):
    write(tmp_path)
    run(tmp_path)
    assert "\x1b" not in capsys.readouterr().out

    class Terminal(io.StringIO):
        def isatty(self):
            return True

    monkeypatch.setattr(sys, "stdout", Terminal())
    run(tmp_path, num=1)
    shown = sys.stdout.getvalue()
    assert "{\x1b[31m[MASK]\x1b[0m -> \x1b[32msat\x1b[0m}" in shown
    assert "{\x1b[34mmat\x1b[0m -> \x1b[32mcat\x1b[0m}" in shown


def test_records_of_the_model_garden_are_shown_too(tmp_path, capsys):
    renamed = {f.name: f.garden_name or f.name for f in features.PRETRAINING}
    record = tf.train.Example.FromString(features.serialize_batch(batch(), STATIC)[0])
    garden = tf.train.Example()
    for name, value in record.features.feature.items():
        garden.features.feature[renamed[name]].CopyFrom(value)
    write(tmp_path, [garden.SerializeToString()])
    run(tmp_path)
    assert "A: [CLS] the cats {[MASK] -> sat} [SEP]" in capsys.readouterr().out


def test_unmasked_records_show_their_words(tmp_path, capsys):
    write(tmp_path, features.serialize_batch(unmasked_batch(), features.Layout(L, P, masked=False)))
    run(tmp_path)
    first, a, b, *_ = capsys.readouterr().out.split("\n")
    assert first.endswith("record 0: 10 of 16 tokens, not masked; next sentence: 1 (random)")
    assert a == "A: [CLS] thecats sat [SEP]"
    assert b == "B: unaffmat [SEP]"


def test_packed_records_show_each_example_with_its_label(tmp_path, capsys):
    write(tmp_path, features.serialize_batch(packed_batch(), features.Layout(L, P, max_sequences_per_pack=3)))
    run(tmp_path)
    assert capsys.readouterr().out.split("record 0: ")[1].strip().split("\n") == [
        "12 of 16 tokens in 2 examples, 2 masked of at most 5",
        "example 1: 7 tokens; next sentence: 1 (random)",
        "A: [CLS] the {[MASK] -> cat} [SEP]",
        "B: unaff [SEP]",
        "example 2: 5 tokens; next sentence: 0 (is next)",
        "A: [CLS] cat [SEP]",
        "B: {[MASK] -> mat} [SEP]",
    ]


@pytest.mark.parametrize(
    ("objective", "said"),
    [("nsp", "; next sentence: 1 (random)"), ("sop", "; sentence order: 1 (swapped)"), ("none", "")],
)
def test_the_label_is_that_of_the_objective(tmp_path, capsys, objective, said):
    write(tmp_path)
    (tmp_path / "records.json").write_text(json.dumps({"sentence_objective": objective}))
    run(tmp_path, num=1)
    assert capsys.readouterr().out.split("\n")[0].endswith("4 masked of at most 5" + said)


def test_ids_beyond_the_vocabulary_are_refused(tmp_path):
    write(tmp_path)
    Vocab(VOCAB.tokens[:7]).write(tmp_path / "vocab")
    with pytest.raises(checks.InputError, match=f"below the vocabulary's size; got id {ID['mat']}, vocabulary of 7"):
        run(tmp_path)


def test_another_tokenizer_is_refused(tmp_path):
    write(tmp_path)
    (tmp_path / "records.json").write_text(json.dumps({"tokenizer_digest": VOCAB.digest}))
    assert run(tmp_path) == 2
    (tmp_path / "records.json").write_text(json.dumps({"tokenizer_digest": "0" * 64}))
    with pytest.raises(checks.InputError, match="the vocabulary that the records were made with; got tokenizer"):
        run(tmp_path)


def test_what_is_no_record_is_refused(tmp_path):
    with pytest.raises(checks.InputError, match="which matches none"):
        write(tmp_path, name="records")
        run(tmp_path)
    write(tmp_path, [])
    with pytest.raises(checks.InputError, match="record files must hold records; got none"):
        run(tmp_path)
    write(tmp_path, [b"\xff\xff\xff"])
    with pytest.raises(checks.InputError, match=r"must be a tf.train.Example.*record 0"):
        run(tmp_path)
    write(tmp_path, [tf.train.Example().SerializeToString()])
    with pytest.raises(checks.InputError, match="must hold the seven features"):
        run(tmp_path)
    (tmp_path / "train-00000-of-00001.tfrecord").write_text("only text, and longer than a header")
    with pytest.raises(checks.InputError, match="must be whole TFRecord files"):
        run(tmp_path)
    with pytest.raises(checks.InputError, match="num must be at least 1"):
        run(tmp_path, num=0)
