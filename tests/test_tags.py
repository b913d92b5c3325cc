"""Tests of tfbert.tasks.tags: rows of sentences, their loss, and tags back from scores."""

import json
import types

import numpy as np
import pytest
import tensorflow as tf

from tests import reference, tiny_run
from tfbert import checks, config
from tfbert.tasks import conll_files, pieces, tags
from tfbert.text import tokenizer

LABELS = ("O", "B-animal", "I-animal", "B-place")
TEXT = (
    "the O\nlazy B-animal\nfoxes I-animal\nreturned O\n\u00ad O\n! O\n\n"
    "unable O\n東京 B-place\n" + "dogs B-animal\nof O\n" * 9 + "\nup O\n"
)
L = 12


@pytest.fixture(scope="module")
def tokens():
    return tokenizer.Tokenizer(tiny_run.vocab())


@pytest.fixture
def path(tmp_path):
    (tmp_path / "train.txt").write_text(TEXT)
    return str(tmp_path / "train.txt")


def settings(**flags):
    return tags.Settings(**{"labels": LABELS, **flags})


def of_row(rows, i, values):
    return values[rows.splits[i] : rows.splits[i + 1]]


def test_rows(path, tokens):
    sentences = conll_files.read(path)
    rows = tags.featurize(settings(), sentences, tokens, L)
    assert rows.lengths.max() == L and len(rows) > len(sentences) == 3
    words = [word for s in sentences for word in s.words]
    labels = [tag for s in sentences for tag in s.label]
    vocab, seen = tokens.vocab, []
    for i in range(len(rows)):
        ids, word, label_ids = (
            of_row(rows, i, x) for x in (rows.tokens["input_ids"], rows.extra["word"], rows.tokens["label_ids"])
        )
        assert (ids[0], ids[-1]) == (vocab.cls_id, vocab.sep_id) and word[0] == word[-1] == -1
        np.testing.assert_array_equal(label_ids > 0, word >= 0)
        for at in np.flatnonzero(word >= 0):
            seen.append(int(word[at]))
            first = pieces.tokenize(tokens, [words[word[at]]]).ids
            assert ids[at] == (first[0] if len(first) else vocab.unk_id)
            assert LABELS[label_ids[at] - 1] == labels[word[at]]
    assert sorted(seen) == list(range(len(words)))  # each word in one window, even the soft hyphen
    assert not rows.tokens["segment_ids"].any()


def test_a_word_counts_where_its_context_is_best(tokens):
    sentence = conll_files.Sentence(("dog",) * 10, None, "text 1")
    rows = tags.featurize(settings(), [sentence], tokens, 8)  # windows of 6, every 3
    assert rows.lengths.tolist() == [8, 8, 6] and "label_ids" not in rows.tokens
    words = [of_row(rows, i, rows.extra["word"]) for i in range(3)]
    assert [w[w >= 0].tolist() for w in words] == [[0, 1, 2, 3, 4], [5, 6, 7], [8, 9]]


def perfect(rows):
    """Logits that say what the tags are; noise where no word counts."""
    logits = 9 * np.random.default_rng(0).normal(size=(len(rows), rows.lengths.max(), len(LABELS))).astype(np.float32)
    for i in range(len(rows)):
        label_ids = of_row(rows, i, rows.tokens["label_ids"])
        for at in np.flatnonzero(label_ids):
            logits[i, at] = np.eye(len(LABELS))[label_ids[at] - 1]
    return logits


def test_tags_come_back(path, tokens, tmp_path):
    sentences = conll_files.read(path)
    rows = tags.featurize(settings(), sentences, tokens, L)
    found = tags.decode(settings(), perfect(rows), rows, sentences)
    assert [f.tags for f in found] == [s.label for s in sentences]
    np.testing.assert_allclose(found[0].probabilities, np.e / (np.e + 3), rtol=1e-6)
    scores = tags.score(settings(), found, sentences)
    assert scores == dict.fromkeys(("precision", "recall", "f1", "accuracy", "f1_animal", "f1_place"), 1.0)
    tags.write(found, sentences, str(tmp_path), "eval")
    assert (tmp_path / "eval_tags.tsv").read_text().startswith("the\tO\tO\nlazy\tB-animal\tB-animal\n")
    read = conll_files.read(str(tmp_path / "eval_tags.tsv"))
    assert [(s.words, s.label) for s in read] == [(s.words, s.label) for s in sentences]
    tags.write(found, [s._replace(label=None) for s in sentences], str(tmp_path), "test")
    assert (tmp_path / "test_tags.tsv").read_text().endswith("of\tO\n\nup\tO\n\n")


def test_tags_that_are_repaired(tokens):
    sentence = conll_files.Sentence(("the", "lazy", "dog"), ("O", "B-animal", "I-animal"), "text 1")
    rows = tags.featurize(settings(), [sentence], tokens, L)
    logits = np.zeros((1, 5, 4), np.float32)
    logits[0, 2, 2] = logits[0, 3, 2] = 3  # I-animal I-animal, after an O
    found = tags.decode(settings(), logits, rows, [sentence])
    assert found[0].tags == ("O", "B-animal", "I-animal")
    assert tags.score(settings(), found, [sentence])["f1"] == 1
    assert tags.show(found[0], sentence) == "the lazy/B-animal dog/I-animal"


def test_parts_of_speech(tokens):
    told = settings(labels=("DET", "NOUN"))
    sentence = conll_files.Sentence(("the", "dog"), ("DET", "NOUN"), "text 1")
    rows = tags.featurize(told, [sentence], tokens, L)
    found = tags.decode(told, np.zeros((1, 4, 2), np.float32), rows, [sentence])
    assert tags.score(told, found, [sentence]) == {"accuracy": 0.5}
    assert tags.make(told).best_metric == ("accuracy", "max")
    with pytest.raises(checks.InputError, match="best_metric must be one of accuracy, loss; got best_metric='f1'"):
        tags.make(settings(labels=("DET", "NOUN"), best_metric="f1"))


def test_a_tag_that_is_not_known(path):
    with pytest.raises(checks.InputError) as caught:
        tags.make(settings(labels=LABELS[:3])).read(path)
    assert str(caught.value) == (
        f"tags must be of O, B-animal, I-animal; got 'B-place' (at {path}, line 9). Give all of them as --labels where "
        "the training file does not hold all."
    )


def test_no_room(path, tokens):
    with pytest.raises(checks.InputError, match=r"must hold .* a word; got max_seq_length=2"):
        tags.featurize(settings(), conll_files.read(path), tokens, 2)


def test_loss_equals_reference():
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(3, 5, 4)).astype(np.float32)
    label_ids = np.array([[0, 1, 4, 0, 0], [0, 2, 0, 3, 0], [0, 4, 4, 4, 0]], np.int32)
    features = {"label_ids": tf.constant(label_ids), "example_weights": tf.constant([1.0, 1.0, 0.0])}
    total, weight = tags.OBJECTIVE.losses({"logits": tf.constant(logits)}, features)["tag_loss"]
    counted = [(i, j) for i in range(2) for j in range(5) if label_ids[i, j]]
    expected = [
        reference.negative_log_likelihood(logits[i, j].astype(np.float64), label_ids[i, j] - 1) for i, j in counted
    ]
    np.testing.assert_allclose(total, sum(expected), rtol=1e-5)
    assert weight == 4 == tags.OBJECTIVE.weights(features)["tag_loss"]
    right, weight = tags.OBJECTIVE.metrics({"logits": tf.constant(logits)}, features)["tag_accuracy"]
    assert right == sum(logits[i, j].argmax() == label_ids[i, j] - 1 for i, j in counted) and weight == 4


def flags(path, **given):
    return types.SimpleNamespace(train_file=path, **config.to_dict(tags.Settings(**given)))


def test_begin(path, tmp_path):
    the_task, sentences = tags.begin(flags(path))
    assert the_task.about["labels"] == list(the_task.about["labels"]) == ["O", "B-animal", "B-place", "I-animal"]
    assert len(sentences) == 3 and the_task.best_metric == ("f1", "max")
    again = tags.from_config(json.loads(json.dumps(the_task.about)))
    assert again.about == the_task.about and again.kind == "tag"
    (tmp_path / "words.txt").write_text("the\nfox\n")
    with pytest.raises(checks.InputError, match=r"must have tags; got words without tags .*words\.txt"):
        tags.begin(flags(str(tmp_path / "words.txt")))


def test_sentences_that_a_person_typed():
    assert tags.of_texts(["the  lazy dog"], None)[0].words == ("the", "lazy", "dog")
    with pytest.raises(checks.InputError, match="no --text_pair; got 1 second texts"):
        tags.of_texts(["a"], ["b"])
    with pytest.raises(checks.InputError, match=r"must have words to tag; got ' ' \(at text 2\)"):
        tags.of_texts(["a", " "], None)
