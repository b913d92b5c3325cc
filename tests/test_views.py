"""What answers to a task look like: counts and curves against plain counting, pages whose texts stay texts."""

import html
import json
import re

import numpy as np
import pytest
from tensorboard import plugin_util

from tfbert import checks
from tfbert.tasks import answer_views, conll_files, sentence_files, sentence_views, spans, squad_files, tag_views, tags
from tfbert.tasks.targets import Prediction
from tfbert.watching import matrix_image, views

LABELS = ("cat", "dog", "<b>|*x*")


def predicted(probabilities, labels=LABELS):
    p = np.array(probabilities)
    return Prediction(labels[p.argmax()], p, labels)


def table(view, name):
    (found,) = (t for t in view.tables if t.name == name)
    return found


def example(text, label, pair=None):
    return sentence_files.Example("dev.tsv, line 2", text, pair, label)


@pytest.fixture(scope="module")
def classified():
    """A view of 5 examples of three labels; three of them right."""
    settings = sentence_files.Settings("classify", "text", labels=LABELS)
    predictions = [predicted(p) for p in ([0.7, 0.2, 0.1], [0.6, 0.3, 0.1], [0.1, 0.8, 0.1], [0.5, 0.4, 0.1])]
    predictions.append(predicted([0.0, 0.25, 0.75]))
    truth = ("cat", "dog", "dog", "dog", LABELS[2])
    texts = ["one", "two | <script>alert(1)</script> [x](http://y)", "three\nlines\n", "x" * 999, "five"]
    return sentence_views.of(settings, predictions, [example(*pair) for pair in zip(texts, truth)])


class TestClasses:
    def test_confusion(self, classified):
        assert classified.confusion.labels == LABELS and classified.confusion.of == "examples"
        np.testing.assert_array_equal(classified.confusion.counts, [[1, 0, 0], [2, 1, 0], [0, 0, 1]])
        assert table(classified, "most_confused").rows == (("2", "66.7 %", "dog", "cat"),)

    def test_labels(self, classified):
        head, rows = table(classified, "labels")[2:]
        assert head == ("examples", "predicted", "precision", "recall", "F1", "AP", "label")
        # By probability: cat is first of 0.7, 0.6, 0.5, 0.1, 0.0; dog first to third of 0.8, 0.4, 0.3, 0.25, 0.2.
        assert rows == (
            ("1", "3", "0.333", "1.000", "0.500", "1.000", "cat"),
            ("3", "1", "1.000", "0.333", "0.500", "1.000", "dog"),
            ("1", "1", "1.000", "1.000", "1.000", "1.000", LABELS[2]),
        )

    def test_worst_examples(self, classified):
        rows = table(classified, "worst_examples").rows
        losses = [-np.log(p) for p in (0.3, 0.4, 0.7, 0.75, 0.8)]
        assert [row[0] for row in rows] == [f"{loss:.3f}" for loss in losses]
        assert [row[1:4] for row in rows[:2]] == [("dog", "cat", "60.0 %"), ("dog", "cat", "50.0 %")]
        assert rows[4][4] == "three lines" and len(rows[1][4]) == views.MOST_LETTERS

    def test_texts_do_nothing_on_the_page(self, classified):
        page = plugin_util.markdown_to_safe_html(views.as_markdown(table(classified, "worst_examples")))
        assert page.count("<tr>") == 6 and page.count("<td>") == 25
        assert not re.search(r"<(script|b|a|em|strong)\b", page)
        assert "two | <script>alert(1)</script> [x](http://y)" in html.unescape(page)
        assert LABELS[2] in html.unescape(page)

    def test_pairs_show_both_texts(self):
        settings = sentence_files.Settings("classify", "a", "b", labels=LABELS)
        view = sentence_views.of(settings, [predicted([0.7, 0.2, 0.1])], [example("one", "cat", "other")])
        assert table(view, "worst_examples").rows[0][-1] == "one ||| other"
        assert {t.name for t in view.tables} == {"worst_examples", "labels"}  # nothing was confused

    def test_many_labels_share_a_curve(self):
        labels = tuple(f"label {i}" for i in range(31))
        rng = np.random.default_rng(0)
        probabilities = rng.dirichlet(np.ones(31), 47)
        truth = rng.integers(0, 31, 47)
        settings = sentence_files.Settings("classify", "text", labels=labels)
        view = sentence_views.of(
            settings, [predicted(p, labels) for p in probabilities], [example("x", labels[i]) for i in truth]
        )
        (curve,) = view.curves
        assert curve.counts[0, 0] == 47 and curve.counts[1, 0] == 47 * 30  # at 0 all are predicted
        assert len(table(view, "labels").rows) == views.PAIRS and "lowest 20 of 31" in table(view, "labels").title
        f1s = [float(row[4]) for row in table(view, "labels").rows]
        assert f1s == sorted(f1s)

    def test_several_labels_an_example(self):
        settings = sentence_files.Settings("multi_label", "text", labels=LABELS)
        predictions = [Prediction(("cat",), np.array([0.9, 0.2, 0.4]), LABELS), Prediction((), np.full(3, 0.1), LABELS)]
        view = sentence_views.of(settings, predictions, [example("one", ("cat", "dog")), example("two", ())])
        assert view.confusion is None
        rows = table(view, "worst_examples").rows
        loss = -np.mean(np.log([0.9, 0.2, 0.6]))
        assert rows[0] == (f"{loss:.3f}", "cat, dog", "cat", "", "one") and rows[1][1:3] == ("(none)", "(none)")
        assert [c.name for c in view.curves] == ["cat", "dog"]  # nothing is to be found of the third

    def test_scores(self):
        settings = sentence_files.Settings("regress", "text")
        truth, said = np.arange(7.0), np.array([0.5, 1, 2, 3, 4, 5, 8.25])
        view = sentence_views.of(settings, [Prediction(x) for x in said], [example(str(t), t) for t in truth])
        np.testing.assert_array_equal(view.points, [truth, said])
        assert table(view, "worst_examples").rows[:2] == (
            ("5.062", "6.000", "8.250", "6.0"),
            ("0.250", "0.000", "0.500", "0.0"),
        )


class TestPrecisionRecall:
    def test_against_counting(self):
        rng = np.random.default_rng(1)
        truth, p = rng.random(83) < 0.3, np.round(rng.random(83), 2)  # on the thresholds, and some equal
        curve = views.precision_recall("x", truth, p)
        for i, threshold in enumerate(views.THRESHOLDS):
            said = p >= threshold
            right = (said & truth).sum()
            assert curve.counts[:, i].tolist() == [
                right,
                (said & ~truth).sum(),
                (~said & ~truth).sum(),
                (~said & truth).sum(),
            ]
            assert curve.precision[i] == (right / said.sum() if said.any() else 1.0)
            assert curve.recall[i] == right / truth.sum()

    def test_average_precision(self):
        """The sum over the different probabilities, equal ones together."""
        rng = np.random.default_rng(2)
        truth, p = rng.random(61) < 0.4, rng.integers(0, 9, 61) / 8
        expected, before = 0.0, 0.0
        for threshold in sorted(set(p), reverse=True):
            said = p >= threshold
            recall = (said & truth).sum() / truth.sum()
            expected += (recall - before) * (said & truth).sum() / said.sum()
            before = recall
        assert views.precision_recall("x", truth, p).average == pytest.approx(expected)
        assert views.precision_recall("x", truth, truth.astype(float)).average == 1.0

    def test_probabilities_at_the_ends(self):
        curve = views.precision_recall("x", [True, False], [1.0, 0.0])
        assert curve.counts[:, 0].tolist() == [1, 1, 0, 0] and curve.counts[:, -1].tolist() == [1, 0, 1, 0]


def tagged(words, gold, said, losses):
    return (
        conll_files.Sentence(tuple(words.split()), tuple(gold.split()), "dev.conll, line 1"),
        tags.Tags(tuple(said.split()), np.ones(len(losses)), np.array(losses)),
    )


class TestTags:
    def test_entities(self):
        pairs = (
            tagged("Ann saw New York", "B-PER O B-LOC I-LOC", "B-PER O B-LOC O", [0.1, 0.2, 0.3, 2.0]),
            tagged("Bob <i>ran</i>", "B-PER O", "B-LOC O", [5.0, 0.25]),
        )
        sentences, said = zip(*pairs)
        view = tag_views.of(("O", "B-LOC", "B-PER", "I-LOC", "I-PER"), said, sentences)
        assert view.confusion.labels == ("O", "LOC", "PER") and view.confusion.of == "words"
        np.testing.assert_array_equal(view.confusion.counts, [[2, 0, 0], [1, 1, 0], [0, 1, 1]])
        assert table(view, "labels").rows == (
            ("1", "2", "0.000", "0.000", "0.000", "LOC"),
            ("2", "1", "1.000", "0.500", "0.667", "PER"),
        )
        assert table(view, "worst_sentences").rows == (
            ("5.250", "1 of 2", "Bob ⟦B-PER → B-LOC⟧ <i>ran</i>"),
            ("2.600", "1 of 4", "Ann saw New York ⟦I-LOC → O⟧"),
        )

    def test_parts_of_speech(self):
        sentence, said = tagged("it runs fast", "PRON VERB ADV", "PRON NOUN ADV", [0.1, 0.2, 0.3])
        view = tag_views.of(("ADV", "NOUN", "PRON", "VERB"), [said], [sentence])
        assert view.confusion.labels == ("ADV", "NOUN", "PRON", "VERB")
        assert table(view, "most_confused").rows == (("1", "100.0 %", "VERB", "NOUN"),)
        assert table(view, "labels").rows[0][-1] in ("NOUN", "VERB") and len(table(view, "labels").rows) == 4


def question(text, golds, context="The cat sat on the mat near Rome in May."):
    answers = tuple(squad_files.Answer(g, context.encode().index(g.encode())) for g in golds)
    return squad_files.Question(text, text, context, answers, "dev.json")


def answered(text, p, start=0):
    return spans.Answer(text, [(spans.Span(text, start, 0.0, 0.0), p)])


class TestAnswers:
    def test_worst_questions(self):
        questions = [question("who?", ["The cat"]), question("where?", ["Rome", "the mat"]), question("when?", ["May"])]
        view = answer_views.of(False, [answered("cat", 0.5), answered("in May", 0.9), answered("cat", 0.95)], questions)
        rows = table(view, "worst_questions").rows
        assert [row[4] for row in rows] == ["when?", "where?", "who?"]  # of equal F1 the surest comes first
        assert rows[1][:5] == ("0.0", "90.0 %", "Rome / the mat", "in May", "where?")
        assert rows[2][:2] == ("100.0", "50.0 %") and "near Rome" in rows[1][5]
        assert table(view, "lengths").rows == (("2", "0.0", "0.0", "1"), ("1", "100.0", "100.0", "2"))

    def test_no_answer(self):
        questions = [question("who?", []), question("where?", ["Rome"])]
        view = answer_views.of(True, [answered("", 0.8, -1), answered("", 0.7, -1)], questions)
        rows = table(view, "worst_questions").rows
        assert rows[0][2:5] == ("Rome", "(no answer)", "where?") and rows[1][:4] == (
            "100.0",
            "80.0 %",
            *2 * ("(no answer)",),
        )
        assert [row[-1] for row in table(view, "lengths").rows] == ["1", "(no answer)"]

    def test_a_context_is_cut_around_its_answer(self):
        context = "é" * 500 + " Rome " + "z" * 500
        view = answer_views.of(False, [answered("z", 0.5)], [question("where?", ["Rome"], context)])
        shown = table(view, "worst_questions").rows[0][5]
        assert shown.startswith("…é") and "é Rome z" in shown and len(shown) < 250


class TestFile:
    def test_comes_back(self, classified, tmp_path):
        view = views.View(classified.tables, classified.confusion, classified.curves, views.Points(*np.eye(2)))
        views.write(tmp_path, 17, view)
        step, again = views.read(tmp_path)
        assert step == 17 and again.tables == view.tables and again.confusion.labels == LABELS
        np.testing.assert_array_equal(again.confusion.counts, view.confusion.counts)
        for a, b in zip(again.curves, view.curves, strict=True):
            assert (a.name, a.average) == (b.name, pytest.approx(b.average, abs=1e-4))
            np.testing.assert_array_equal(a.counts, b.counts)
        np.testing.assert_array_equal(again.points, view.points)
        views.write(tmp_path, 18, views.View())
        assert views.read(tmp_path) == (18, views.View())

    def test_other_files(self, tmp_path):
        assert views.read(tmp_path) is None
        for content in (
            "",
            "[]",
            "{}",
            json.dumps({"step": 1, "tables": 3, "confusion": None, "curves": [], "points": 0}),
        ):
            (tmp_path / views.VIEW_FILE).write_text(content)
            with pytest.raises(checks.InputError, match=r"eval_view\.json must be as tfbert wrote it"):
                views.read(tmp_path)


class TestMatrixImage:
    def drawn(self, counts, labels=None):
        labels = labels or tuple(f"label {i}" for i in range(len(counts)))
        return matrix_image.draw(views.Confusion(labels, np.array(counts), "examples"))

    def test_colours(self):
        """Blue on the diagonal, vermilion beside it, white where there is nothing; the fuller, the darker."""
        counts = np.array([[30, 10, 0], [0, 7, 0], [0, 0, 0]])
        colours = views.cell_colours(counts)
        assert (colours[1, 1] == views.RIGHT).all() and (colours[[0, 2, 2], [2, 0, 2]] == 255).all()
        np.testing.assert_array_equal(
            colours[0, 1], np.round(255 + 0.5 * (views.WRONG - 255.0))
        )  # a quarter: half as dark
        image = self.drawn(counts)
        found = {tuple(c) for c in image.reshape(-1, 3)}
        assert {tuple(colours[0, 1]), tuple(colours[0, 0]), tuple(colours[1, 1])} <= found

    @pytest.mark.parametrize("classes", [2, 13, 26, 51, 100])
    def test_every_size_is_drawn(self, classes):
        image = self.drawn(np.eye(classes, dtype=np.int64) * 12345)
        assert image.dtype == np.uint8 and image.shape[2] == 3 and 200 < image.shape[1] < 1700
        blue = (image == views.RIGHT.astype(np.uint8)).all(-1)
        assert blue.any(0).sum() >= 12 * classes  # a cell for each column

    def test_more_are_not_drawn(self):
        assert self.drawn(np.eye(101, dtype=np.int64)) is None

    def test_labels_of_any_script(self):
        image = self.drawn([[1, 2], [0, 3]], ("日本", "a" * 99))
        assert image.shape[1] < 500

    def test_brief(self):
        assert [views.brief(n) for n in (0, 9_999, 10_000, 999_999, 1_000_000, 12_345_678)] == [
            *("0", "9999", "10k", "999k", "1M", "12M")
        ]
