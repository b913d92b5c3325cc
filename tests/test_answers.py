"""Tests of tfbert.tasks.answers: rows of questions, their loss, and answers back from scores."""

import json
import os
import random
import unicodedata

import numpy as np
import pytest
import tensorflow as tf

from tests import reference, tiny_squad
from tfbert import checks
from tfbert.tasks import answers, batches, pieces, spans, squad_files
from tfbert.text import tokenizer
from tfbert.text import vocab as vocab_lib

L = 40


@pytest.fixture(scope="module")
def tokens():
    return tokenizer.Tokenizer(tiny_squad.vocab())


def settings(**flags):
    return answers.Settings(**{"doc_stride": 9, "max_query_length": 11, "max_answer_length": 7, **flags})


def questions(tmp_path, made=None, **flags):
    return squad_files.read(tiny_squad.write(tmp_path / "dev.json", made or tiny_squad.content()), **flags)


def row(rows, i, name="input_ids"):
    values = rows.tokens[name] if name in rows.tokens else rows.extra[name]
    return values[rows.splits[i] : rows.splits[i + 1]]


def test_rows(tmp_path, tokens):
    asked = questions(tmp_path)
    rows = answers.featurize(settings(), asked, tokens, L)
    assert rows.lengths.max() == L and len(rows) > len(asked)
    assert rows.example.tolist() == sorted(rows.example) and set(rows.example) == {0, 1, 2}
    vocab = tokens.vocab
    for i in range(len(rows)):
        q = asked[rows.example[i]]
        query = pieces.tokenize(tokens, [q.question]).ids[:11]
        ids, segments = row(rows, i), row(rows, i, "segment_ids")
        head = len(query) + 2
        assert ids[0] == vocab.cls_id and ids[-1] == ids[head - 1] == vocab.sep_id
        np.testing.assert_array_equal(ids[1 : head - 1], query)
        assert segments.tolist() == [0] * head + [1] * (len(ids) - head)
        starts, ends = row(rows, i, "starts"), row(rows, i, "ends")
        outside = [*range(head), len(ids) - 1]
        assert (starts[outside] == -1).all() and not row(rows, i, "is_best")[outside].any()
        whole = pieces.tokenize(tokens, [q.context])
        at = int(np.flatnonzero((whole.starts == starts[head]) & (whole.ends == ends[head]))[0])
        np.testing.assert_array_equal(whole.ids[at : at + len(ids) - head - 1], ids[head:-1])
    # Every wordpiece of a context is in one window of each question with the most context.
    for number, q in enumerate(asked):
        of_question = [i for i in range(len(rows)) if rows.example[i] == number]
        best = np.concatenate([row(rows, i, "starts")[row(rows, i, "is_best")] for i in of_question])
        assert sorted(best) == pieces.tokenize(tokens, [q.context]).starts.tolist()


def test_rows_to_train_on_keep_nothing_else(tmp_path, tokens):
    asked = questions(tmp_path)
    rows, trained_on = (answers.featurize(settings(), asked, tokens, L, training) for training in (False, True))
    assert not trained_on.extra
    for name in rows.tokens:
        np.testing.assert_array_equal(rows.tokens[name], trained_on.tokens[name])
    np.testing.assert_array_equal(rows.dense["spans"], trained_on.dense["spans"])


def perfect(rows, strength=9.0):
    """Logits that say what the answers are; where no answer is, [CLS], less clearly."""
    logits = np.zeros((len(rows), rows.lengths.max(), 2), np.float32)
    for i, (first, last) in enumerate(rows.dense["spans"]):
        logits[i, first, 0] = logits[i, last, 1] = strength if first else strength / 3
    return logits


@pytest.mark.parametrize("with_negative", [False, True])
def test_answers_come_back(tmp_path, tokens, with_negative):
    made = tiny_squad.impossible() if with_negative else tiny_squad.content()
    asked = questions(tmp_path, made, with_negative=with_negative)
    told = settings(version_2_with_negative=with_negative)
    rows = answers.featurize(told, asked, tokens, L)
    found = answers.decode(told, perfect(rows), rows, asked)
    expected = {"a1": "France", "a2": "région", "b1": "诺曼底", "a3": ""}
    assert {q.id: a.text for q, a in zip(asked, found)} == {q.id: expected[q.id] for q in asked}
    metrics = answers.score(told, found, asked)
    assert metrics["f1"] == 100 and metrics["exact" if with_negative else "exact_match"] == 100
    answers.write(told, found, asked, str(tmp_path), "eval")
    answers.write(told, found, asked, str(tmp_path), "test")
    for prefix in ("", "test_"):
        read = {n: tmp_path / f"{prefix}{n}.json" for n in ("predictions", "nbest_predictions", "null_odds")}
        assert json.loads(read["predictions"].read_text()) == {q.id: expected[q.id] for q in asked}
        entries = json.loads(read["nbest_predictions"].read_text())
        for q in asked:
            assert abs(sum(e["probability"] for e in entries[q.id]) - 1) < 1e-6
            for e in entries[q.id]:
                assert set(e) == {"text", "probability", "start_logit", "end_logit", "answer_start"}
                assert e["answer_start"] == -1 or q.context.startswith(e["text"], e["answer_start"])
        assert read["null_odds"].exists() == with_negative
        if with_negative:
            odds = json.loads(read["null_odds"].read_text())
            assert odds["a3"] > 0 > odds["a1"]


ALPHABET = [*"aéÖ .($東京각😀ﬁ", " ", "e\u0301", "\u00ad", "\u200d", "19", "60"]


def bare(text):
    """Without what the tokenizer leaves out."""
    return "".join(c for c in text if not c.isspace() and unicodedata.category(c) not in ("Cf", "Mn"))


def test_any_stretch_of_a_text_is_found_again(tokens):
    """Wordpieces that an answer touches hold it whole, and end with the characters that they are part of."""
    rng = random.Random(7)
    for _ in range(60):
        context = "".join(rng.choice(ALPHABET) for _ in range(rng.randint(1, 40)))
        found = pieces.tokenize(tokens, [context])
        for _ in range(10):
            begin = rng.randrange(len(context))
            end = rng.randint(begin + 1, len(context))
            text = context[begin:end]
            answer = squad_files.Answer(text, len(context[:begin].encode()))
            span = answers.place(answer, found.starts, found.ends)
            touched = [
                i
                for i, (a, b) in enumerate(zip(found.starts, found.ends))
                if a < answer.start + len(text.encode()) and b > answer.start
            ]
            assert span == ((touched[0], touched[-1]) if touched else None)
            if span:
                back = context.encode()[found.starts[span[0]] : found.ends[span[1]]].decode()
                assert bare(text) in bare(back)


@pytest.mark.slow
@pytest.mark.skipif("TFBERT_XQUAD" not in os.environ, reason="TFBERT_XQUAD names no folder with xquad.*.json")
@pytest.mark.parametrize("language", ["en", "zh"])
def test_every_answer_of_xquad_is_found_again(language):
    asked = squad_files.read(os.path.join(os.environ["TFBERT_XQUAD"], f"xquad.{language}.json"))
    letters = {c for q in asked for c in unicodedata.normalize("NFD", q.context.lower() + q.question.lower())}
    letters = sorted(c for c in letters if bare(c))
    vocab = vocab_lib.Vocab((*vocab_lib.SPECIAL_TOKENS, *letters, *(f"##{c}" for c in letters)), True)
    told = answers.Settings(max_answer_length=200, doc_stride=32)
    rows = answers.featurize(told, asked, tokenizer.Tokenizer(vocab), 384)
    found = answers.decode(told, perfect(rows), rows, asked)
    assert [a.text for a in found] == [q.answers[0].text for q in asked] and len(asked) == 1190
    assert answers.score(told, found, asked) == {"exact_match": 100.0, "f1": 100.0}


def test_part_of_a_word(tokens):
    found = pieces.tokenize(tokens, ["the 1960s"])
    assert answers.place(squad_files.Answer("1960", 4), found.starts, found.ends) == (1, 2)
    assert found.ends[2] == 8 and len(found.ids) == 4


def test_answers_without_a_place(tmp_path, tokens, capsys):
    made = tiny_squad.content()
    made["data"][0]["paragraphs"][0]["context"] += "\u00ad"
    soft_hyphen = {"text": "\u00ad", "answer_start": len(tiny_squad.CONTEXTS[0])}
    made["data"][0]["paragraphs"][0]["qas"][1]["answers"] = [soft_hyphen]
    asked = questions(tmp_path, made)
    # A character that the tokenizer deletes belongs to the wordpiece before it; without one it has no place.
    assert len(answers.featurize(settings(), asked, tokens, L, True)) > 3
    made["data"][0]["paragraphs"][0]["qas"][1]["answers"] = [{"text": "région", "answer_start": 0}]
    asked = questions(tmp_path, made, skip_bad=True)
    rows = answers.featurize(settings(skip_bad_rows=True), asked, tokens, L, True)
    assert set(rows.example) == {0, 2}
    assert "1 of 3 questions left out" in capsys.readouterr().err
    rows = answers.featurize(settings(skip_bad_rows=True), asked, tokens, L, False)
    assert set(rows.example) == {0, 1, 2} and not rows.dense["spans"][rows.example == 1].any()
    with pytest.raises(checks.InputError, match=r"an answer must have a wordpiece; got 'région' .*question a2"):
        answers.featurize(settings(), asked, tokens, L, True)
    with pytest.raises(checks.InputError, match="there must be a question to train on; got 1 whose answers"):
        answers.featurize(settings(skip_bad_rows=True), asked[1:2], tokens, L, True)


def test_a_row_too_short(tmp_path, tokens):
    with pytest.raises(checks.InputError, match=r"max_seq_length must hold a question.*max_query_length=38"):
        answers.featurize(settings(max_query_length=38), questions(tmp_path), tokens, 41)
    with pytest.raises(checks.InputError, match=r"must be at most .* leave nothing out; got doc_stride=27"):
        answers.featurize(settings(doc_stride=27), questions(tmp_path), tokens, L)


def test_questions_that_are_cut_are_told(tmp_path, tokens, capsys):
    answers.featurize(settings(max_query_length=5), questions(tmp_path), tokens, L)
    assert "3 of 3 questions cut to 5 wordpieces" in capsys.readouterr().err


def features(seed=0):
    rng = np.random.default_rng(seed)
    lengths = np.array([7, 4, 5])
    made = {
        "input_mask": (np.arange(8) < lengths[:, None]).astype(np.int32),
        "spans": np.array([[2, 6], [0, 0], [3, 3]], np.int32),
        "example_weights": np.array([1, 1, 0], np.float32),
    }
    return {n: tf.constant(x) for n, x in made.items()}, rng.normal(size=(3, 8, 2)).astype(np.float32), lengths


def test_loss_equals_reference():
    given, logits, lengths = features()
    (total, weight) = answers.OBJECTIVE.losses({"logits": tf.constant(logits)}, given)["span_loss"]
    expected = 0
    for i, (first, last) in enumerate(given["spans"].numpy()[:2]):
        of_row = logits[i, : lengths[i]].astype(np.float64)
        expected += reference.negative_log_likelihood(of_row[:, 0], first) / 2
        expected += reference.negative_log_likelihood(of_row[:, 1], last) / 2
    np.testing.assert_allclose(total, expected, rtol=1e-5)
    assert weight == 2 and answers.OBJECTIVE.weights(given)["span_loss"] == 2


def test_rows_that_fill_up_a_batch_add_nothing():
    """Their places may lie outside of it, and their scores may be no numbers."""
    given, logits, _ = features()
    loss = answers.OBJECTIVE.losses({"logits": tf.constant(logits)}, given)["span_loss"][0]
    logits[2] = np.nan
    given["spans"] = tf.constant([[2, 6], [0, 0], [30, 40]])
    np.testing.assert_allclose(answers.OBJECTIVE.losses({"logits": tf.constant(logits)}, given)["span_loss"][0], loss)


def test_accuracy():
    given, logits, _ = features()
    logits[:, :, :] = 0
    logits[0, 2, 0] = logits[0, 6, 1] = logits[1, 0, 0] = 1
    logits[1, 2, 1] = 1  # the wrong end
    logits[0, 7] = 9  # filled up
    assert [float(x) for x in answers.OBJECTIVE.metrics({"logits": tf.constant(logits)}, given)["span_accuracy"]] == [
        1,
        2,
    ]


def test_longer_batches_change_nothing():
    given, logits, _ = features()
    loss = answers.OBJECTIVE.losses({"logits": tf.constant(logits)}, given)["span_loss"][0]
    longer = {**given, "input_mask": tf.pad(given["input_mask"], [[0, 0], [0, 5]])}
    padded = np.pad(logits, [(0, 0), (0, 5), (0, 0)], constant_values=30)
    np.testing.assert_allclose(answers.OBJECTIVE.losses({"logits": tf.constant(padded)}, longer)["span_loss"][0], loss)


def test_questions_that_a_person_typed(tokens):
    asked = answers.of_texts(["Where?", "Who?"], [tiny_squad.CONTEXTS[0], "東"])
    rows = answers.featurize(settings(), asked, tokens, L)
    assert not rows.dense and [q.label for q in asked] == [None, None]
    logits = np.zeros((len(rows), rows.lengths.max(), 2), np.float32)
    found = answers.decode(settings(n_best_size=2), logits, rows, asked)
    assert answers.show(found[1], asked[1]) == "Who?\n  東\n    100.0 %  東  (characters 0 to 1)"
    assert len(answers.show(found[0], asked[0]).splitlines()) == 4
    for pairs in (None, ["one"]):
        with pytest.raises(checks.InputError, match="takes pairs: a question as --text and its context"):
            answers.of_texts(["a", "b"], pairs)


def test_the_task(tmp_path, tokens):
    told = settings(best_metric="exact", version_2_with_negative=True)
    the_task = answers.make(told)
    assert answers.from_config(json.loads(json.dumps(the_task.about))).about == the_task.about
    assert the_task.best_metric == ("exact", "max") and the_task.about["kind"] == the_task.kind == "answer"
    with pytest.raises(checks.InputError, match="must be one of exact_match, f1, loss; got best_metric='exact'"):
        answers.make(settings(best_metric="exact"))
    asked = the_task.read(tiny_squad.write(tmp_path / "dev.json", tiny_squad.impossible()))
    rows = the_task.featurize(asked, tokens, L, True)
    batch = next(iter(batches.train_dataset(rows, (L,), False, 5, 0, seed=1)))
    assert batch["input_ids"].shape == (5, L) and batch["spans"].shape == (5, 2)
    assert isinstance(
        the_task.decode({"logits": perfect(rows)}, the_task.featurize(asked, tokens, L, False), asked)[0], spans.Answer
    )
