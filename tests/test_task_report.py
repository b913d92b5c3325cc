"""Tests of tfbert.report on fine-tuned runs: the page of each kind, of several, and of trials."""

import json
import os

import numpy as np
import pytest

from tests import tiny, tiny_logs, tiny_run
from tests.test_run_report import assert_nothing_overlaps, panel, points, words_of
from tfbert import checks, config, report, run_folder
from tfbert.tasks import answers, sentence_files, tags, trials
from tfbert.watching import matrix_image, report_figures, report_task_texts, views

LABELS = ("animal", "thing", "$x_2$ 日本", "a long name of a label that has no end")
WORST = views.Table(
    "worst_examples",
    "Worst examples",
    ("loss", "truth", "probability", "text"),
    tuple((f"{9 - i:.3f}", LABELS[i], "99.5 %", f"text {i} $5 <b> " + "日本" * 40 * i) for i in range(4)),
)
COUNTS = np.array([[7, 1, 0, 0], [0, 12345, 2, 0], [3, 0, 4, 0], [0, 0, 0, 0]])
TASKS = {
    "classify": (sentence_files.Settings("classify", "text", labels=LABELS), ("accuracy", "macro_f1", "matthews")),
    "regress": (sentence_files.Settings("regress", "text"), ("pearson", "spearman")),
    "tag": (tags.Settings(labels=("O", "B-PER", "B-LOC")), ("f1", "precision", "recall", "f1_PER", "f1_LOC")),
    "answer": (answers.Settings(), ("exact_match", "f1")),
}


def a_view(kind, labels=LABELS, counts=COUNTS):
    if kind == "regress":
        truth = np.linspace(0, 5, 37)
        return views.View((WORST,), points=views.Points(truth, truth + np.sin(7 * truth)))
    if kind == "answer":
        lengths = views.Table("lengths", "By length", ("questions", "F1", "words"), (("3", "50.0", "1"),))
        return views.View((WORST, lengths))
    confusion = views.Confusion(labels, counts, "examples")
    of_labels = views.Table("labels", "Label by label", ("F1", "label"), tuple(("0.500", x) for x in labels[:20]))
    tables = (WORST, views.most_confused(confusion), of_labels)
    rng = np.random.default_rng(0)
    curves = [views.precision_recall(x, rng.random(43) < 0.5, rng.random(43)) for x in labels[:10]]
    return views.View(tuple(filter(None, tables)), confusion, tuple(curves) if kind == "classify" else ())


def make(folder, kind="classify", scores=(0.25, 0.75, 0.5), view=True, held_out="digest", **flags):
    """A made-up run folder: an evaluation each 10 steps, whose first score is as given, a report each 5."""
    settings, names = TASKS[kind]
    about = {
        "finetune": {
            "task": kind,
            "learning_rate": 1e-4,
            "clip_norm": 0.75,
            "max_seq_length": 19,
            "doc_stride": 64,
            **flags,
        },
        "task": config.to_dict(settings),
        "records": {"max_seq_length": 19, "train": "digest", "held_out": held_out},
        "machine": tiny_logs.MACHINE,
    }
    run_folder.create(str(folder), tiny.config(), tiny_run.vocab(), about)
    loss = "regression_loss"
    rows = [{"step": 10 * i, "split": "held_out", "loss": 2 - s, loss: 2 - s} for i, s in enumerate(scores)]
    for row, score in zip(rows, scores):
        row |= {name: score - 0.125 * i for i, name in enumerate(names)}
    more = {"learning_rate": 1e-5, "gradient_norm": 1.5, "padding_share": 0.25}
    rows += [
        {"step": 5 * i, "split": "train", "loss": 2 / i, "accuracy": 0.5, **more} for i in range(1, 2 * len(scores))
    ]
    speed = [{"step": r["step"], "sequences_per_second": 32.5, "seconds": 10.0} for r in rows if r["split"] == "train"]
    for name, lines in (("metrics.jsonl", rows), ("speed.jsonl", speed)):
        with open(os.path.join(folder, name), "w") as f:
            f.writelines(json.dumps(line) + "\n" for line in lines)
    if view:
        views.write(folder, 10, a_view(kind))
    return str(folder)


def figure_of(*folders):
    return report.draw(folders)[0]


@pytest.mark.slow
class TestOneRun:
    @pytest.fixture(scope="class")
    def figures(self, tmp_path_factory):
        folder = tmp_path_factory.mktemp("runs")
        return {kind: figure_of(make(folder / kind, kind)) for kind in TASKS}

    @pytest.mark.parametrize("kind", TASKS)
    def test_panels(self, figures, kind):
        first = {
            "classify": ["Accuracy", "Macro F1", "Matthews"],
            "regress": ["Pearson", "Spearman"],
            "tag": ["F1", "Precision", "Recall"],
            "answer": ["F1", "Exact match"],
        }[kind]
        pictures = {
            "classify": ["Confusion matrix", "Precision and recall (average precision)"],
            "regress": ["Predicted score over true score", "How far predictions are off"],
            "tag": ["Confusion matrix", "F1 of each type"],
            "answer": [],
        }[kind]
        speed = ["Throughput", "Learning rate", "Gradient norm", "Padding", "Input wait"]
        assert [a.get_title("left") for a in figures[kind].axes] == ["Loss", *first, *speed, *pictures]

    @pytest.mark.parametrize("kind", TASKS)
    def test_nothing_overlaps(self, figures, kind):
        assert_nothing_overlaps(figures[kind])

    def test_curves_and_the_best_evaluation(self, figures):
        train, held_out, best = panel(figures["classify"], "Accuracy").lines
        np.testing.assert_array_equal(points(train), [np.arange(5, 30, 5), np.full(5, 0.5)])
        np.testing.assert_array_equal(points(held_out), [[0, 10, 20], [0.25, 0.75, 0.5]])
        assert points(best) == ([10], [0.75]) and best.get_marker() == "*"
        assert len(panel(figures["classify"], "Matthews").lines) == 1  # the best is marked by its own metric alone
        row = words_of(figures["classify"]).split("Results")[1].splitlines()[2].split()
        assert row[:4] == ["classify", "-", "25", "0:50"] and row[-5:] == ["10", "1.25", "0.75", "0.625", "0.5"]

    def test_confusion_matrix(self, figures):
        axes = panel(figures["classify"], "Confusion matrix")
        (image,) = axes.images
        np.testing.assert_array_equal(image.get_array(), views.cell_colours(COUNTS))
        written = {tuple(map(int, text.get_position())): text.get_text() for text in axes.texts}
        assert written == {(c, r): views.brief(COUNTS[r, c]) for r, c in np.argwhere(COUNTS)}
        assert [t.get_text() for t in axes.get_yticklabels()][:3] == list(LABELS[:3])
        assert axes.get_ylabel() == "truth" and axes.yaxis_inverted()

    def test_precision_recall(self, figures):
        axes = panel(figures["classify"], "Precision and recall (average precision)")
        curve = a_view("classify").curves[1]
        said = curve.counts[:2].sum(0) > 0
        np.testing.assert_array_equal(points(axes.lines[1]), [curve.recall[said], curve.precision[said]])
        names = [text.get_text() for text in axes.get_legend().get_texts()]
        assert names[1] == f"thing  {curve.average:.3f}" and len(names) == len(LABELS)

    def test_scores_over_truth(self, figures):
        line, dots = panel(figures["regress"], "Predicted score over true score").lines
        points_of = a_view("regress").points
        np.testing.assert_allclose(points(dots), points_of, atol=1e-4)
        assert dots.get_linestyle() == "None" and (points(line)[0] == points(line)[1]).all()

    def test_tables_and_recipe(self, figures):
        shown = words_of(figures["classify"])
        for words in (
            "Worst examples (step 10)",
            "text 0 $5 <b>",
            "Most confused pairs",
            "task classify, 4 labels, columns text, label, at most 19 wordpieces a row",
            "clip_norm=0.75",
            "Processor 9000, 3 cores",
            "best evaluation by accuracy",
        ):
            assert words in shown
        assert "doc_stride" not in shown and "doc_stride=64" in words_of(figures["answer"])
        assert not any(text.get_parse_math() for text in figures["classify"].texts)

    @pytest.mark.parametrize("classes", [2, 77, matrix_image.MOST_CLASSES + 1])
    def test_any_number_of_labels(self, tmp_path, classes):
        folder = make(tmp_path / "run", view=False)
        labels = tuple(f"label {i} of a task with many" for i in range(classes))
        views.write(folder, 10, a_view("classify", labels, np.eye(classes, dtype=np.int64) * 7))
        figure = figure_of(folder)
        assert_nothing_overlaps(figure)
        matrices = [a for a in figure.axes if a.get_title("left").startswith("Confusion")]
        assert len(matrices) == (classes <= matrix_image.MOST_CLASSES)

    def test_before_its_end(self, tmp_path):
        """No view, no checkpoint, and no evaluation but that of the first step."""
        figure = figure_of(make(tmp_path / "run", scores=(0.25,), view=False))
        assert "eval_view.json is not there yet" in words_of(figure)
        assert_nothing_overlaps(figure)


@pytest.mark.slow
def test_several_runs(tmp_path):
    dirs = [
        make(tmp_path / name, scores=s, learning_rate=r)
        for name, s, r in (("a", (0.1, 0.2), 1e-4), ("b", (0.3,), 2e-5))
    ]
    dirs.append(make(tmp_path / "c", held_out="another"))
    figure = figure_of(*dirs)
    assert_nothing_overlaps(figure)
    over_steps, over_time = (panel(figure, "Accuracy", over) for over in ("step", "time"))
    assert len(over_steps.lines) == len(over_time.lines) == 9  # in training, held out and best of each
    assert points(over_time.lines[-3]) == ([20.0], [0.2])
    shown = words_of(figure)
    assert "scores do not compare" in shown and "Confusion" not in shown
    (row,) = [line.split() for line in shown.splitlines() if line.startswith("learning_rate")]
    assert row[1:] == ["0.0001", "2e-05", "0.0001"]


@pytest.mark.slow
def test_trials(tmp_path):
    """A sweep of two points with two runs each, and one of more points than there are colours."""
    for count in (2, 9):
        results = []
        for i in range(count):
            for seed in range(2):
                name, score = f"learning_rate={i},seed={seed}", 0.5 + 0.03 * i + 0.1 * seed
                make(tmp_path / f"{count}" / name, scores=(0.1, score))
                results.append(({"learning_rate": i}, name, {"accuracy": score, "loss": 1.0, "macro_f1": score}))
        groups = trials.summarise(results, ("accuracy", "max"))
        trials.write(tmp_path / f"{count}", groups)
        figure, runs = report.draw([str(tmp_path / f"{count}")])
        assert_nothing_overlaps(figure)
        assert len(runs) == 2 * count
        dots = panel(figure, "Accuracy: runs, mean and deviation")
        assert [t.get_text() for t in dots.get_yticklabels()] == [f"learning_rate={i}" for i in range(count)[::-1]]
        best = 0.5 + 0.03 * (count - 1)
        drawn = sorted(np.concatenate([points(x)[0] for x in dots.lines if x.get_marker() == "o"]))
        np.testing.assert_allclose(drawn, sorted(scores["accuracy"] for _, _, scores in results))
        curves = panel(figure, "Accuracy of each run").lines
        grey = [x for x in curves if x.get_color() == report_figures.GREY]
        assert len(curves) == 2 * count and len(grey) == 2 * max(0, count - len(report_figures.COLOURS))
        assert f"{best + 0.05:.4g} ± 0.071" in words_of(figure)


class TestRefused:
    def refuses(self, match, *folders, texts=()):
        with pytest.raises(checks.InputError, match=match):
            report.draw(folders, texts)

    def test_kinds_beside_one_another(self, tmp_path):
        one, other = make(tmp_path / "a"), make(tmp_path / "b", "regress")
        pre = tiny_logs.make(tmp_path / "c", checkpoint=False)
        self.refuses(r"all fine-tuned on one kind of task; got regress beside classify", one, other)
        self.refuses(r"got pre-trained beside classify", one, pre)
        self.refuses(r"got pre-trained beside", pre, one)

    def test_texts(self, tmp_path):
        self.refuses(r"--text is for pre-trained runs.*Ask tfbert\.predict", make(tmp_path / "a"), texts=("x [MASK]",))

    def test_trials_of_another_hand(self, tmp_path):
        for content in ("", "[]", "{}", '[{"point": {}}]', "[3]"):
            (tmp_path / trials.SUMMARY).write_text(content)
            self.refuses(r"trials\.json must be as tfbert\.finetune wrote it", str(tmp_path))

    def test_trials_beside_runs(self, tmp_path):
        trials.write(make(tmp_path / "a"), [])
        self.refuses("one folder at a time", str(tmp_path / "a"), make(tmp_path / "b"))


def test_columns_of_wide_letters():
    rows = (("日本", "0.5", "x" * 99), ("a", "12.25", "y"))
    lines = report_task_texts.table(views.Table("n", "t", ("truth", "loss", "text"), rows), 30)
    assert lines == ("truth   loss  text", "日本     0.5  " + "x" * 15 + "…", "a      12.25  y")
    assert report_task_texts.cut("日本語", 5) == "日本…" and report_task_texts.cut("日本語", 6) == "日本語"
    assert report_task_texts.beside(("a", "b"), ("日",), 10) == ("a      日", "b")
