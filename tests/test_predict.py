"""Tests of tfbert.fill_mask and tfbert.predict."""

import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf

from tests import tiny, tiny_run
from tfbert import checks, fill_mask, predict
from tfbert.text import vocab as vocab_lib

K = tiny_run.TOP_K


def answer(loaded, texts):
    return {n: np.asarray(v) for n, v in loaded.answering(tf.constant(list(texts), tf.string)).items()}


def test_takes_the_length_that_the_run_was_trained_on(loaded, tmp_path):
    assert loaded.answering.max_seq_length == tiny_run.MAX_SEQ_LENGTH and loaded.step == tiny_run.STEP
    tiny_run.make(tmp_path / "run", records=False)
    assert fill_mask.load(str(tmp_path / "run")).answering.max_seq_length == tiny.MAX_L


def test_featurize(loaded):
    ids = tiny_run.vocab().ids
    rows, _ = loaded.answering.rows(tf.constant(["the [MASK] dogs [SEP]", "lazy"]))
    features = rows.features
    row = ["[CLS]", "the", "[MASK]", "dog", "##s", "[", "sep", "]", "[SEP]"]
    assert features["input_ids"][0].numpy().tolist() == [ids[t] for t in row]
    short = ["[CLS]", "lazy", "[SEP]"]
    assert features["input_ids"][1].numpy().tolist() == [ids[t] for t in short] + [ids["[PAD]"]] * 6
    assert features["input_mask"].numpy().tolist() == [[1] * 9, [1] * 3 + [0] * 6]
    assert not features["segment_ids"].numpy().any()
    assert rows.text.numpy().tolist() == [0, 1] and not rows.truncated.numpy().any()


def test_answers_are_the_references(loaded):
    texts = [t for t in tiny_run.TEXTS]
    answers = answer(loaded, texts)
    features = loaded.answering.rows(tf.constant(texts))[0].features
    asked = 0
    for row, (ids, mask) in enumerate(zip(features["input_ids"].numpy(), features["input_mask"].numpy())):
        positions, probabilities, _ = tiny_run.expected(loaded.model, ids[: mask.sum()].tolist())
        few = tiny_run.MAX_MASKS
        tiny_run.check_answers(answers, row, positions[:few], probabilities[:few], K)
        asked += len(positions[:few])
    assert asked == sum(answered for _, answered, _ in tiny_run.TEXTS.values())


def test_counts_cuts_and_literals(loaded):
    answers = answer(loaded, tiny_run.TEXTS)
    assert answers["positions"].shape == (len(tiny_run.TEXTS), tiny_run.MAX_MASKS)
    for row, (text, (masks, answered, cut)) in enumerate(tiny_run.TEXTS.items()):
        assert answers["mask_count"][row] == masks, text
        assert (answers["positions"][row] >= 0).sum() == answered, text
        assert answers["truncated"][row] == cut, text


def test_a_row_of_a_batch_equals_the_text_alone(loaded):
    several = answer(loaded, tiny_run.TEXTS)
    for row, text in enumerate(tiny_run.TEXTS):
        tiny_run.check_same_row(several, row, answer(loaded, [text]))


def test_as_many_masks_as_the_fullest_row_and_at_least_one(loaded):
    assert answer(loaded, [b"dog"])["tokens"].shape == (1, 1, K)
    assert answer(loaded, [b"dog", b"[MASK][MASK]"])["tokens"].shape == (2, 2, K)
    empty = answer(loaded, [])
    assert empty["tokens"].shape == (0, 1, K) and empty["mask_count"].shape == (0,)


def test_masks_in_padding_are_not_answered(loaded):
    v = tiny_run.vocab()
    features = {
        "input_ids": tf.constant([[v.cls_id, v.mask_id, v.sep_id, v.mask_id]]),
        "input_mask": tf.constant([[1, 1, 1, 0]]),
        "segment_ids": tf.zeros([1, 4], tf.int32),
    }
    assert loaded.answering.answer(features)["positions"].numpy().tolist() == [[1]]


def test_predict_prints_what_the_model_says(run_dir, loaded, capsys):
    texts = ["the [MASK] dog", "no mask", "[MASK] " * 5, "dog " * 30, "caf\udce9 [MASK]"]
    answers = predict.run(predict.PredictConfig(run_dir=run_dir, top_k=K, max_masks=tiny_run.MAX_MASKS), texts)
    assert answers["tokens"].shape == (5, 3, K)
    printed = capsys.readouterr().out
    word, p = answers["tokens"][0, 0, 0].decode(), answers["probabilities"][0, 0, 0]
    assert f"step {tiny_run.STEP}" in printed and f"[MASK] 1: {word} {100 * p:.1f} %" in printed
    assert "no [MASK]" in printed and "2 more [MASK] not answered" in printed and "was cut" in printed
    direct = answer(loaded, [b"the [MASK] dog"])
    np.testing.assert_array_equal(direct["ids"][0, 0], answers["ids"][0, 0])


@pytest.mark.slow
def test_command_takes_several_texts_with_commas(run_dir):
    command = [sys.executable, "-m", "tfbert.predict", f"--run_dir={run_dir}", "--top_k=2"]
    command += ["--text=a dog, a [MASK]", "--text=[MASK], the fox"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    lines = done.stdout.splitlines()
    assert lines[1] == "a dog, a [MASK]" and lines[3] == "[MASK], the fox" and len(lines) == 5
    assert lines[2].count("%") == lines[4].count("%") == 2


@pytest.mark.parametrize(
    "change, words",
    [
        ({"top_k": tiny.V + 1}, "top_k must be from 1 to the vocabulary's size 97; got top_k=98"),
        ({"max_seq_length": tiny.MAX_L + 1}, "max_position_embeddings 23; got max_seq_length=24"),
        ({"max_masks": 0}, "max_masks must be at least 1; got max_masks=0"),
    ],
)
def test_wrong_sizes(run_dir, change, words):
    with pytest.raises(checks.InputError, match=words):
        fill_mask.load(run_dir, **change)


def test_another_vocabulary_is_refused(loaded):
    v = tiny_run.vocab()
    longer = vocab_lib.Vocab((*v.tokens, "more"), v.do_lower_case)
    with pytest.raises(checks.InputError, match="98 entries, 97 rows"):
        fill_mask.FillMask(loaded.model, longer, tiny_run.MAX_SEQ_LENGTH)


def test_no_run_folder(tmp_path):
    with pytest.raises(checks.InputError, match="run folder"):
        predict.run(predict.PredictConfig(run_dir=str(tmp_path / "none")), ["[MASK]"])


def test_a_run_without_a_checkpoint(run_dir, tmp_path):
    vocab_lib.load(run_dir).write(str(tmp_path))
    with open(f"{run_dir}/config.json", "rb") as f:
        (tmp_path / "config.json").write_bytes(f.read())
    with pytest.raises(checks.InputError, match="must hold a checkpoint"):
        predict.run(predict.PredictConfig(run_dir=str(tmp_path)), ["[MASK]"])
