"""Classification and regression of texts and pairs: reading, wordpieces, objective, answers and files."""

import dataclasses

import numpy as np
import pytest
import tensorflow as tf

from tests import tiny, tiny_run, tiny_task, wordpiece
from tfbert import checks, config, heads
from tfbert.tasks import glue, sentence_files, sentences, targets, task
from tfbert.tasks.sentence_files import Example, Settings
from tfbert.text import tokenizer

SINGLE = Settings("classify", "text", labels=("a", "b", "c"))
SEVERAL = Settings("multi_label", "text", labels=("a", "b", "c"))
PAIRS = Settings("regress", "first", "second", "score")


@pytest.fixture(scope="module")
def tokens():
    return tokenizer.Tokenizer(tiny_run.vocab())


def flags(**overrides):
    defaults = {"task": "classify", "task_name": "", "tfds": "", "train_file": "", "max_seq_length": 12}
    return type("Flags", (), {**config.to_dict(sentences.Flags()), **defaults, **overrides})


def read(tmp_path, text, settings=SINGLE, name="x.tsv"):
    path = tmp_path / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return sentence_files.read(settings, str(path))


class TestRead:
    def test_examples(self, tmp_path):
        found = read(tmp_path, "id\ttext\tlabel\n7\tone \ta\n8\t two\tc\n")
        assert [e[1:] for e in found] == [("one ", None, "a"), (" two", None, "c")]
        assert found[1].where == f"{tmp_path}/x.tsv, line 3"
        found = read(tmp_path, "score,second,first\n0.5,b,a\n-1e2,d,c\n", PAIRS, "x.csv")
        assert [e[1:] for e in found] == [("a", "b", 0.5), ("c", "d", -100.0)]
        numbers = Settings("classify", "text", labels=("0", "1", "True"))
        found = read(tmp_path, '{"text": "x", "label": 1}\n{"text": "y", "label": true}\n', numbers, "x.jsonl")
        assert [e.label for e in found] == ["1", "True"]

    def test_any_number_of_labels(self, tmp_path):
        found = read(tmp_path, "text\tlabel\none\tb, a,b\ntwo\t\nthree\tc\n", SEVERAL)
        assert [e.label for e in found] == [("b", "a"), (), ("c",)]
        found = read(tmp_path, '{"text": "x", "label": ["c", "a"]}\n{"text": "y", "label": []}\n', SEVERAL, "x.jsonl")
        assert [e.label for e in found] == [("c", "a"), ()] and task.has_labels(found[1:])
        with pytest.raises(checks.InputError, match=r"labels must be of a, b, c; got 'd' .*line 2"):
            read(tmp_path, "text\tlabel\none\tb,d\n", SEVERAL)
        with pytest.raises(checks.InputError, match=r"label must be labels; got 7 .*line 1"):
            read(tmp_path, '{"text": "x", "label": 7}\n', SEVERAL, "x.jsonl")

    def test_a_test_set_has_no_labels(self, tmp_path):
        for text in ("text\none\ntwo\n", "text\tlabel\none\t\ntwo\t\n"):
            found = read(tmp_path, text)
            assert [e.label for e in found] == [None, None] and not task.has_labels(found)

    BAD = (
        ("text\tlabel\none\ta\n\tb\n", "text must not be empty; got '' .*line 3"),
        ("text\tlabel\none\ta\n  \tb\n", "text must not be empty; got '  ' .*line 3"),
        ("text\tlabel\none\ta\ntwo\td\n", "labels must be of a, b, c; got 'd' .*line 3"),
        ("text\tlabel\none\ta\ntwo\t\nthree\tb\n", "label must not be empty; got no label .*line 3"),
        ("text\tlabel\none\ta\ntwo\n", "a row must have 2 cells.*line 3"),
    )

    @pytest.mark.parametrize("text, words", BAD)
    def test_bad_rows(self, tmp_path, text, words, capsys):
        with pytest.raises(checks.InputError, match=words):
            read(tmp_path, text)
        skipping = Settings("classify", "text", labels=("a", "b", "c"), skip_bad_rows=True)
        assert [e.text for e in read(tmp_path, text, skipping)] == ["one", "three"][: text.count("three") + 1]
        assert "x.tsv: 1 rows left out" in capsys.readouterr().out

    @pytest.mark.parametrize(
        "text, settings, words",
        [
            (
                "body\tlabel\none\ta\n",
                SINGLE,
                r"columns must be \['text'\]; got \['body', 'label'\], without \['text'\]",
            ),
            ("first\tscore\none\t1\n", PAIRS, r"without \['second'\].*--text_pair_column"),
            ("first\tsecond\tscore\na\tb\thigh\n", PAIRS, "score must be a finite number; got 'high' .*line 2"),
            ("first\tsecond\tscore\na\tb\tnan\n", PAIRS, "score must be a finite number; got 'nan' .*line 2"),
            ("text\tlabel\n \ta\n", Settings("classify", "text", skip_bad_rows=True), "that can be used; got 1 that"),
            ("body\tlabel\none\ta\n", Settings("classify", "text", skip_bad_rows=True), "columns must be"),
        ],
    )
    def test_bad_files(self, tmp_path, text, settings, words):
        with pytest.raises(checks.InputError, match=words):
            read(tmp_path, text, settings)

    @pytest.mark.parametrize(
        "line, words",
        [
            ('{"text": ["x"], "label": "a"}', "text must be text"),
            ('{"text": null, "label": "a"}', "text must be text; got None"),
            ('{"text": "x", "label": ["a"]}', "label must be one label"),
            ('{"text": "\\ud800", "label": "a"}', "text must be Unicode"),
            ('{"text": "x", "label": "\\ud800"}', "label must be Unicode"),
            ('{"text": "x", "label": "a\\tb"}', "no tabs and line breaks"),
        ],
    )
    def test_bad_json(self, tmp_path, line, words):
        with pytest.raises(checks.InputError, match=f"{words}.*line 1"):
            read(tmp_path, line, Settings("classify", "text"), "x.jsonl")

    def test_labels_are_in_order(self, tmp_path):
        assert sentence_files.in_order({"10", "9", "-1"}) == ("-1", "9", "10")
        assert sentence_files.in_order({"b", "a", "10"}) == ("10", "a", "b")
        path = tiny_task.write(tmp_path / "x.tsv", [("one", "b"), ("two", "a"), ("three", "b")])
        the_task, examples = sentences.begin(flags(train_file=path))
        assert the_task.about["labels"] == ["a", "b"] and len(examples) == 3
        again = sentences.from_config(the_task.about)
        assert again.about == the_task.about and again.best_metric == ("accuracy", "max")


# name -> (header of the training file, a row of it, what is read of it)
GLUE_FILES = {
    "mnli": ("index sentence1 sentence2 label1 gold_label", "0|s1|s2|neutral|entailment", ("s1", "s2", "entailment")),
    "qqp": ("id qid1 qid2 question1 question2 is_duplicate", "0|1|2|s1|s2|1", ("s1", "s2", "1")),
    "qnli": ("index question sentence label", "0|s1|s2|not_entailment", ("s1", "s2", "not_entailment")),
    "rte": ("index sentence1 sentence2 label", "0|s1|s2|entailment", ("s1", "s2", "entailment")),
    "wnli": ("index sentence1 sentence2 label", "0|s1|s2|0", ("s1", "s2", "0")),
    "mrpc": ("\ufeffQuality|#1 ID|#2 ID|#1 String|#2 String", '1|1|2|"s1|s2', ('"s1', "s2", "1")),
    "sts-b": ("index genre year sentence1 sentence2 score", "0|x|y|s1|s2|3.800", ("s1", "s2", 3.8)),
    "sst-2": ("sentence label", "s1 |1", ("s1 ", None, "1")),
    "cola": ("", "gj04|1||s1", ("s1", None, "1")),
    "ax": ("index sentence1 sentence2", "0|s1|s2", ("s1", "s2", None)),
}


@pytest.mark.parametrize("name", GLUE_FILES)
def test_files_of_glue(tmp_path, name):
    header, row, expected = GLUE_FILES[name]
    header = header.replace("|" if "|" in header else " ", "\t")
    path = tmp_path / "train.tsv"
    path.write_text("\n".join(filter(None, [header, row.replace("|", "\t"), ""])), encoding="utf-8")
    layout = glue.TASKS[name]
    settings = sentences.settings_of(flags(task=layout.kind, task_name=name, train_file=str(path)))
    assert [e[1:] for e in sentence_files.read(settings, str(path))] == [expected]
    if name == "cola":  # whose test set has a header, and other columns
        (tmp_path / "test.tsv").write_text("index\tsentence\n0\ts2\n")
        assert [e[1:] for e in sentence_files.read(settings, str(tmp_path / "test.tsv"))] == [("s2", None, None)]
    if layout.labels:
        assert sentences.make(settings).best_metric[0] in ("accuracy", "f1", "matthews")


def expected_row(vocab, length, a, b=None, long_text="head"):
    """[CLS] A [SEP] B [SEP] by run_classifier.py's rules, or Sun et al.'s of long texts: ids and segments."""
    a = wordpiece.tokenize(a, vocab)
    if b is None:
        room = length - 2
        if len(a) > room:
            a = {"head": a[:room], "tail": a[-room:], "head_tail": a[:3] + a[3 - room :]}[long_text]
        return [vocab.cls_id, *a, vocab.sep_id], [0] * (len(a) + 2)
    b = wordpiece.tokenize(b, vocab)
    while len(a) + len(b) > length - 3:
        (a if len(a) > len(b) else b).pop()
    return [vocab.cls_id, *a, vocab.sep_id, *b, vocab.sep_id], [0] * (len(a) + 2) + [1] * (len(b) + 1)


KINDS = (SINGLE, *(dataclasses.replace(SINGLE, long_text=name) for name in ("tail", "head_tail")), PAIRS)


def test_the_head_of_long_texts_is_that_of_the_paper():
    assert [s.kept_head(512) for s in KINDS[:3]] == [None, 0, 128]
    with pytest.raises(checks.InputError, match="long_text is for single texts"):
        sentences.make(dataclasses.replace(PAIRS, long_text="tail"))


@pytest.mark.parametrize("settings", KINDS, ids=["single", "tail", "head and tail", "pairs"])
def test_featurize(tokens, settings):
    rng = np.random.default_rng(0)
    words = ["fox", "dog.", "warmed", "UNABLE", "[SEP]", "é", "東京", "zzz"]

    def text():
        return " ".join(rng.choice(words, rng.integers(1, 9)))

    pairs = settings is PAIRS
    labels = [0.25, 3.0, -1.0] if pairs else ["a", "c", "b"]
    examples = [Example("", text(), text() if pairs else None, labels[i % 3]) for i in range(1100)]
    rows = sentences.featurize(settings, examples, tokens, 12)
    assert len(rows) == 1100 and rows.example.tolist() == list(range(1100))
    for i in (*range(0, 60), 1023, 1024, 1099):
        ids, segments = expected_row(tokens.vocab, 12, examples[i].text, examples[i].text_pair, settings.long_text)
        own = slice(*rows.splits[i : i + 2])
        assert rows.tokens["input_ids"][own].tolist() == ids
        assert rows.tokens["segment_ids"][own].tolist() == segments
        whole = expected_row(tokens.vocab, 999, examples[i].text, examples[i].text_pair)[0]
        assert rows.extra["truncated"][i] == (len(whole) > 12)
    assert 0 < rows.extra["truncated"].sum() < 1100
    assert rows.dense["labels"][:3].tolist() == (labels if pairs else [0, 2, 1])
    without = sentences.featurize(settings, [e._replace(label=None) for e in examples[:2]], tokens, 12)
    assert without.dense == {}


class TestChunks:
    SETTINGS = dataclasses.replace(SINGLE, long_text="max", max_chunks=3, chunk_length=12)

    def test_rows_are_all_chunks_of_a_text(self, tokens):
        texts = ["fox " * n for n in (1, 10, 11, 20, 25, 30, 31)]
        rows = sentences.featurize(self.SETTINGS, [Example("", text, None, "a") for text in texts], tokens, 12)
        for i, text in enumerate(texts):
            ids, expected = wordpiece.tokenize(text, tokens.vocab), []
            for k in range(0, min(len(ids), 30), 10):
                expected += [tokens.vocab.cls_id, *ids[k : k + 10], tokens.vocab.sep_id]
            own = slice(*rows.splits[i : i + 2])
            assert rows.tokens["input_ids"][own].tolist() == expected
            assert not rows.tokens["segment_ids"][own].any()
        assert rows.extra["truncated"].tolist() == [False] * 6 + [True]

    def test_the_task_has_them(self, tmp_path):
        path = tiny_task.write(tmp_path / "x.tsv", [("one", "b"), ("two", "a")])
        the_task, _ = sentences.begin(flags(train_file=path, long_text="attention", max_chunks=3))
        assert the_task.max_chunks == 3 and the_task.about["chunk_length"] == 12
        assert sentences.from_config(the_task.about).about == the_task.about
        model = the_task.build_model(tiny.config(), False)
        assert model.get_layer("chunks").how == "attention" and model.get_layer("chunks").chunk_length == 12
        assert sentences.begin(flags(train_file=path, long_text="tail"))[0].max_chunks == 1

    @pytest.mark.parametrize(
        "overrides, words",
        [
            ({"max_chunks": 3}, "max_chunks is of long_text=mean, max, attention; got max_chunks=3, long_text='head'"),
            ({"layer_dropout": 0.2}, r"layer_dropout is of a mix of layers; got layer_dropout=0.2.*--mix_layers"),
            ({"long_text": "mean", "text_pair_column": "b"}, "long_text is for single texts"),
        ],
    )
    def test_errors(self, overrides, words):
        with pytest.raises(checks.InputError, match=words):
            sentences.make(dataclasses.replace(SINGLE, **overrides))


def cross_entropy(logits, labels):
    logits = np.asarray(logits, np.float64)
    return np.log(np.exp(logits).sum(-1)) - np.take_along_axis(logits, np.asarray(labels)[:, None], 1)[:, 0]


@pytest.mark.parametrize("class_weights", [(), (0.5, 3.0, 1.0)])
def test_objective_of_classes(class_weights):
    rng = np.random.default_rng(1)
    logits, labels = rng.normal(size=(5, 3)).astype(np.float32), np.array([0, 2, 1, 1, 0], np.int32)
    real = np.array([1, 1, 1, 0, 1], np.float32)
    weights = real * np.array(class_weights)[labels] if class_weights else real
    features = {"labels": tf.constant(labels), "example_weights": tf.constant(real)}
    objective = targets.of(dataclasses.replace(SINGLE, class_weights=class_weights)).objective
    ((total, weight),) = objective.losses({"logits": tf.constant(logits)}, features).values()
    assert float(total) == pytest.approx((weights * cross_entropy(logits, labels)).sum(), rel=1e-5)
    assert weight == objective.weights(features)["classification_loss"] == weights.sum()
    right, weight = objective.metrics({"logits": tf.constant(logits)}, features)["accuracy"]
    assert right == (real * (logits.argmax(-1) == labels)).sum() and weight == 4


def test_objective_of_scores():
    logits, labels = np.array([[1.5], [2.0], [7.0]], np.float32), np.array([1.0, 4.0, 0.0], np.float32)
    features = {"labels": tf.constant(labels), "example_weights": tf.constant([1.0, 1.0, 0.0])}
    objective = targets.of(PAIRS).objective
    logits[2] = np.nan  # its weight is 0
    total, weight = objective.losses({"logits": tf.constant(logits)}, features)["regression_loss"]
    assert total == 0.25 + 4.0 and weight == 2 and objective.metrics({}, features) == {}
    assert objective.metric_names == () and objective.loss_names == ("regression_loss",)


def test_any_number_of_labels():
    target = targets.of(SEVERAL)
    given = [("a",), (), ("c", "a"), ("b",)]
    labels = target.encode(given)
    assert labels.tolist() == [[1, 0, 0], [0, 0, 0], [1, 0, 1], [0, 1, 0]]
    logits = np.array([[2.0, -1, 0.5], [-3, -2, -1], [1, -1, 1], [1, 2, -9]], np.float32)
    real = np.array([1, 1, 1, 0], np.float32)
    features = {"labels": tf.constant(labels), "example_weights": tf.constant(real)}
    p = 1 / (1 + np.exp(-logits.astype(np.float64)))
    losses = -(labels * np.log(p) + (1 - labels) * np.log(1 - p)).mean(1)
    total, weight = target.objective.losses({"logits": tf.constant(logits)}, features)["classification_loss"]
    assert float(total) == pytest.approx((real * losses).sum(), rel=1e-5) and weight == 3
    assert target.objective.metrics({"logits": tf.constant(logits)}, features)["accuracy"][0] == 2
    said = target.decode(logits)
    assert [each.label for each in said] == [("a", "c"), (), ("a", "c"), ("a", "b")]
    np.testing.assert_allclose(said[0].probabilities, p[0])
    # a: 2 right, 2 said too often; b: 1 right; c: 1 right, 1 said too often.
    by_class = [2 * 2 / (2 * 2 + 1), 1.0, 2 * 1 / (2 * 1 + 1)]
    found = target.score(said, given)
    assert found == pytest.approx({"accuracy": 0.5, "macro_f1": np.mean(by_class), "micro_f1": 2 * 4 / (2 * 4 + 2)})


def test_answers_and_files(tmp_path):
    logits = np.array([[0.0, 1.0, -1.0], [1000.0, 999.0, 0.0]], np.float32)
    predictions = targets.of(SINGLE).decode(logits)
    assert [p.label for p in predictions] == ["b", "a"]
    np.testing.assert_allclose(predictions[1].probabilities, [1 / (1 + np.exp(-1)), 1 / (1 + np.exp(1)), 0], atol=1e-12)
    examples = [Example("", "x", None, "b"), Example("", "y", None, "c")]
    scores = targets.of(SINGLE).score(predictions, ["b", "c"])
    assert scores["accuracy"] == 0.5 and set(scores) == {"accuracy", "macro_f1", "matthews"}
    sentences.write(predictions, examples, str(tmp_path), "eval")
    rows = [line.split("\t") for line in (tmp_path / "eval_results.tsv").read_text().splitlines()]
    np.testing.assert_allclose(np.array(rows, float), [p.probabilities for p in predictions], rtol=1e-7)
    assert (tmp_path / "eval_predictions.tsv").read_text() == "index\tprediction\tlabel\n0\tb\tb\n1\ta\tc\n"
    assert sentences.show(predictions[0], examples[0]).startswith("x\n  b 66.5 %  a 24.5 %  c 9.0 %")
    several = targets.of(SEVERAL).decode(np.array([[1.0, -1.0, 2.0]]))
    sentences.write(several, [Example("", "x", None, ())], str(tmp_path), "eval")
    assert (tmp_path / "eval_predictions.tsv").read_text() == "index\tprediction\tlabel\n0\ta,c\t\n"


def test_two_labels_have_an_f1():
    two = targets.of(Settings("classify", "text", labels=("no", "yes")))
    said = two.decode(np.array([[0, 1], [0, 1], [1, 0.0]]))
    assert two.score(said, ["yes", "no", "no"])["f1"] == pytest.approx(2 / 3)
    with pytest.raises(checks.InputError, match=r"best_metric='f1'\. F1 is of two labels; take macro_f1"):
        sentences.make(dataclasses.replace(SINGLE, best_metric="f1"))


class TestClassWeights:
    def begin(self, tmp_path, *weights, task="classify"):
        rows = [(f"text {i}", "aab"[i % 3]) for i in range(9)]
        path = tiny_task.write(tmp_path / "x.tsv", rows)
        the_task, _ = sentences.begin(flags(train_file=path, class_weights=weights, task=task))
        assert sentences.from_config(the_task.about).about == the_task.about
        return the_task.about["class_weights"]

    def test_balanced_weights_make_the_classes_even(self, tmp_path):
        assert self.begin(tmp_path, "balanced") == pytest.approx([9 / 2 / 6, 9 / 2 / 3])

    def test_weights_by_name(self, tmp_path):
        assert self.begin(tmp_path, "b=2.5") == [1.0, 2.5] and self.begin(tmp_path) == []

    @pytest.mark.parametrize("weights", [["c=1"], ["a"], ["a=x"], ["balanced", "a=1"]])
    def test_errors(self, tmp_path, weights):
        with pytest.raises(checks.InputError, match="class_weights must be LABEL=WEIGHT of a, b"):
            self.begin(tmp_path, *weights)
        with pytest.raises(checks.InputError, match="class_weights are for --task=classify"):
            self.begin(tmp_path, *weights, task="multi_label")


@pytest.mark.slow
def test_a_classifier_has_a_logit_for_each_label():
    for settings, classes in ((SINGLE, 3), (PAIRS, 1)):
        model = sentences.make(settings).build_model(tiny.config(), False)
        features = {name: x for name, x in tiny.inputs(tiny.features()).items() if name != "masked_lm_positions"}
        assert model(features)["logits"].shape == (tiny.B, classes)
        assert {v.path for v in model.variables} == {v.path for v in heads.build_classifier(tiny.config(), 1).variables}
