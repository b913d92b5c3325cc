"""Tests of tfbert.report: the page of a run, and of several beside one another."""

import itertools
import json
import os
import struct
import sys

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg

from tests import tiny_logs, tiny_run
from tfbert import checks, report, run_folder
from tfbert.watching import report_figures, report_page, report_texts, run_logs

TEXTS = ("the lazy [MASK] returns", "[MASK] of [MASK]", "no mask at all")


def words_of(figure):
    """All text of a figure, that of its panels too."""
    texts = [*figure.texts, *(t for axes in figure.axes for t in (axes.title, axes.xaxis.label, axes.yaxis.label))]
    texts += [t for axes in figure.axes for t in (axes.get_title("left"), *axes.texts)]
    return "\n".join(t if isinstance(t, str) else t.get_text() for t in texts)


def boxes_of(figure):
    """[(what, box in dots)] of each panel with its labels, each text and each sample of a curve."""
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    renderer = canvas.get_renderer()
    boxes = [(axes.get_title("left"), axes.get_tightbbox(renderer)) for axes in figure.axes]
    boxes += [(t.get_text(), t.get_window_extent(renderer)) for t in figure.texts if t.get_text()]
    return boxes + [("sample", line.get_window_extent(renderer)) for line in figure.artists]


def assert_nothing_overlaps(figure):
    boxes = boxes_of(figure)
    wide, high = figure.bbox.width, figure.bbox.height
    assert [w for w, b in boxes if b.x0 < 0 or b.y0 < 0 or b.x1 > wide or b.y1 > high] == []
    overlapping = [
        (a, b)
        for (a, p), (b, q) in itertools.combinations(boxes, 2)
        if min(p.x1, q.x1) - max(p.x0, q.x0) > 0.5 and min(p.y1, q.y1) - max(p.y0, q.y0) > 0.5
    ]
    assert overlapping == []


def figure_of(*run_dirs, texts=TEXTS):
    return report_page.draw(report.read(run_dirs, texts), texts)


def panel(figure, title, over=""):
    (axes,) = [a for a in figure.axes if a.get_title("left") == title and over in a.get_xlabel()]
    return axes


def points(line):
    return np.array(line.get_xdata(), float), np.array(line.get_ydata(), float)


class TestOneRun:
    @pytest.fixture(scope="class")
    def run_dir(self, tmp_path_factory):
        return tiny_logs.make(tmp_path_factory.mktemp("one") / "fast", clip_norm=0.75)

    @pytest.fixture(scope="class")
    def figure(self, run_dir):
        return figure_of(run_dir)

    def test_has_all_that_a_run_has_told(self, figure):
        titles = [axes.get_title("left") for axes in figure.axes]
        assert titles == [
            "Masked LM: loss",
            "Masked LM: accuracy",
            "Next sentence: loss",
            "Next sentence: accuracy",
            "Throughput",
            "Learning rate",
            "Gradient norm",
            "Padding",
            "Input wait",
        ]

    def test_curves_are_the_numbers_of_the_logs(self, figure, run_dir):
        logs = run_logs.read(run_dir)
        train, held_out, reference_line = panel(figure, "Masked LM: accuracy").lines
        for line, split in ((train, "train"), (held_out, "held_out")):
            steps, values = logs.series("masked_lm_accuracy", split)
            np.testing.assert_allclose(points(line), [steps, 100 * values])
        assert set(reference_line.get_ydata()) == {6.0}
        np.testing.assert_allclose(points(panel(figure, "Throughput").lines[0])[0], np.arange(200, 2001, 200) / 60)
        assert panel(figure, "Throughput").get_xlabel() == "training time (minutes)"
        np.testing.assert_allclose(points(panel(figure, "Input wait").lines[0])[1], 2.0)
        np.testing.assert_allclose(points(panel(figure, "Padding").lines[0])[1], 12.5)
        # Small numbers are shown in a power of ten that the axis names.
        np.testing.assert_allclose(points(panel(figure, "Learning rate").lines[0])[1], np.arange(1, 11) / 10)
        assert panel(figure, "Learning rate").get_ylabel() == "rate (10⁻⁴)"
        assert set(panel(figure, "Gradient norm").lines[1].get_ydata()) == {0.75}

    def test_a_reference_lies_inside_its_panel(self, figure):
        for title in ("Masked LM: accuracy", "Next sentence: accuracy", "Gradient norm"):
            axes = panel(figure, title)
            low, high = axes.get_ylim()
            assert low <= axes.lines[-1].get_ydata()[0] <= high

    def test_a_loss_that_begins_high_does_not_press_the_rest_flat(self, tmp_path):
        folder = tiny_logs.make(tmp_path / "run", checkpoint=False)
        with open(os.path.join(folder, "metrics.jsonl")) as f:
            lines = f.readlines()
        with open(os.path.join(folder, "metrics.jsonl"), "w") as f:
            first = {"step": 0, "split": "held_out", "masked_lm_loss": 50.0, "masked_lm_accuracy": 0.9}
            f.writelines([json.dumps(first) + "\n", *lines])
        figure, highest = figure_of(folder), 1 + 7 * np.exp(-100 / 400)
        low, high = panel(figure, "Masked LM: loss").get_ylim()
        assert low < 2 and highest < high < highest + 1
        assert panel(figure, "Masked LM: accuracy").get_ylim()[1] > 90

    def test_answers_are_the_models(self, figure, run_dir):
        shown, vocab = words_of(figure), tiny_run.vocab()
        pieces = ("[CLS]", "the", "lazy", "[MASK]", "returns", "[SEP]")
        model, _, _ = run_folder.load_pretrainer(run_dir)
        _, probabilities, _ = tiny_run.expected(model, [vocab.ids[piece] for piece in pieces])
        best = np.argsort(-probabilities[0])[: report.TOP_K]
        assert "   ".join(f"{vocab.tokens[i]} {100 * probabilities[0, i]:.1f} %" for i in best) in shown
        assert "What the last checkpoint of step 7 fills in" in shown
        assert "[MASK] 1: " in shown and "[MASK] 2: " in shown and "(no [MASK] in this text)" in shown

    def test_recipe_and_environment(self, figure):
        shown = words_of(figure)
        for words in (
            "2 layers, hidden size 15, 3 heads, intermediate size 17, vocabulary 97, 23 positions",
            "12,345 rows to train on, 67 held out, 19 tokens a row, at most 6 masked, next sentence",
            "learning_rate=0.0001",
            "clip_norm=0.75",
            "Processor 9000, 3 cores, 12.5 GB, CPU:0",
            f"python {sys.version.split()[0]}, tensorflow",
        ):
            assert words in shown
        assert "model=" not in shown  # not set

    def test_nothing_overlaps(self, figure):
        assert_nothing_overlaps(figure)


@pytest.mark.slow
class TestSeveralRuns:
    @pytest.fixture(scope="class")
    def run_dirs(self, tmp_path_factory):
        """Runs of other lengths, speeds and recipes; the second has no next sentences, the third no held-out set."""
        folder = tmp_path_factory.mktemp("several")
        steps = tuple(range(50, 2501, 50))
        return (
            tiny_logs.make(folder / "a" / "run"),
            tiny_logs.make(folder / "b" / "run", steps, False, checkpoint=False, shift=0.5, learning_rate=0.002),
            tiny_logs.make(folder / "_$x_2$", steps[:1], held_out=False, checkpoint=False, note="x" * 300),
        )

    @pytest.fixture(scope="class")
    def figure(self, run_dirs):
        return figure_of(*run_dirs)

    def test_qualities_over_steps_and_over_time(self, figure, run_dirs):
        for name in ("loss", "accuracy"):
            for task in ("Masked LM", "Next sentence"):
                over_steps, over_time = (panel(figure, f"{task}: {name}", over) for over in ("step", "time"))
                assert [points(line)[1].tolist() for line in over_steps.lines] == [
                    points(line)[1].tolist() for line in over_time.lines
                ]
                assert over_steps.get_ylim() == over_time.get_ylim()
        for index, run_dir in enumerate(run_dirs):
            logs = run_logs.read(run_dir)
            steps, values = logs.series("masked_lm_loss", "train")
            mine = [
                x
                for x in panel(figure, "Masked LM: loss", "time").lines
                if x.get_color() == report_figures.COLOURS[index]
            ]
            np.testing.assert_allclose(points(mine[0]), [steps * (2.5 if index == 1 else 2) / 60, values])
            assert len(mine) == (1 if index == 2 else 2)

    def test_runs_are_told_apart(self, figure):
        """By colour and by mark, and a legend stands before each run's line of results."""
        held_out = [x for x in panel(figure, "Masked LM: loss", "step").lines if x.get_marker() not in ("None", None)]
        assert len({x.get_color() for x in held_out}) == len({x.get_marker() for x in held_out}) == len(held_out) == 2
        samples = [line.get_color() for line in figure.artists]
        assert samples[:3] == list(report_figures.COLOURS[:3])
        shown = words_of(figure)
        for name in ("a/run", "b/run", "several0/_$x_2$"):
            assert name in shown

    def test_the_recipe_shows_what_differs(self, figure):
        lines = words_of(figure).splitlines()
        (row,) = [line.split() for line in lines if line.startswith("learning_rate")]
        assert row == ["learning_rate", "0.0001", "0.002", "0.0001"]
        same = lines[lines.index("the same in all:") + 1]
        assert "clip_norm=1" in same and "learning_rate" not in same
        assert "no checkpoint yet" in "\n".join(lines)

    def test_nothing_overlaps(self, figure):
        assert_nothing_overlaps(figure)

    def test_as_many_as_there_are_colours(self, tmp_path):
        steps = (10_000, 2_000_000)
        dirs = [
            tiny_logs.make(tmp_path / f"a_long_name_of_a_run_with_its_recipe_{i}", steps, checkpoint=False, f=i)
            for i in range(report.MOST_RUNS)
        ]
        figure = figure_of(*dirs)
        assert_nothing_overlaps(figure)
        assert len({line.get_color() for line in panel(figure, "Throughput").lines}) == len(dirs)
        assert panel(figure, "Throughput").get_xlabel() == "training time (hours)"


def test_time_to_the_loss_that_all_reached(tmp_path):
    """The slower run reaches 3.0 at last; the other one passed it on its way to 2.0."""
    runs = []
    for name, losses in (("fast", (9.0, 4.0, 2.0)), ("slow", (9.0, None, 3.0))):
        folder = tiny_logs.make(tmp_path / name, checkpoint=False)
        with open(os.path.join(folder, "metrics.jsonl"), "w") as f:
            for step, loss in zip((0, 100, 200), losses):
                print(json.dumps({"step": step, "split": "held_out", "masked_lm_loss": loss}), file=f)
        runs.append(report_texts.Run(name, run_logs.read(folder), None, None, ()))
    head, fast, slow = report_texts.results(runs, 200)
    assert head.endswith("time to loss 3.000")
    # A step takes 2 seconds; from 4 to 2 the loss falls in steps 100 to 200.
    assert fast.split()[-1] == "5:00" and slow.split()[-1] == "6:40"
    assert report_texts.seconds_to(runs[0].logs, 9.5) == 0
    assert "time to" not in report_texts.results(runs[:1], 200)[0]
    # On other records a loss says nothing about the first.
    runs[1].logs.config["records"]["held_out"] = {"instances": 68}
    head, *_, note = report_texts.results(runs, 200)
    assert "time to" not in head and "losses do not compare" in note


class TestOddRuns:
    def test_without_next_sentences(self, tmp_path):
        figure = figure_of(tiny_logs.make(tmp_path / "run", sentences=False, checkpoint=False))
        assert len(figure.axes) == 7 and "Next sentence" not in words_of(figure)
        assert "MLM alone" in words_of(figure)

    def test_without_held_out(self, tmp_path):
        figure = figure_of(tiny_logs.make(tmp_path / "run", held_out=False, checkpoint=False))
        assert len(panel(figure, "Masked LM: loss").lines) == 1
        assert "none held out" in words_of(figure)
        assert_nothing_overlaps(figure)

    def test_at_its_first_evaluation(self, tmp_path):
        """A run that has nothing but the held-out figures of step 0, and no lap."""
        folder = tiny_logs.make(tmp_path / "run", checkpoint=False)
        with open(os.path.join(folder, "metrics.jsonl"), "w") as f:
            print(json.dumps({"step": 0, "split": "held_out", "masked_lm_loss": 9.0}), file=f)
        open(os.path.join(folder, "speed.jsonl"), "w").close()
        figure = figure_of(folder)
        assert words_of(figure).count("not reported") == 6
        assert_nothing_overlaps(figure)

    def test_values_that_were_not_finite_are_gaps(self, tmp_path):
        folder = tiny_logs.make(tmp_path / "run", checkpoint=False)
        with open(os.path.join(folder, "metrics.jsonl"), "a") as f:
            print(json.dumps({"step": 1100, "split": "train", "masked_lm_loss": None, "gradient_norm": None}), file=f)
        _, losses = points(panel(figure_of(folder), "Masked LM: loss").lines[0])
        assert np.isnan(losses[-1]) and np.isfinite(losses[:-1]).all()

    def test_of_an_earlier_version(self, tmp_path):
        """Without machine, input wait and records in its folder, and with a torn line."""
        folder = tiny_logs.make(tmp_path / "run", checkpoint=False)
        with open(os.path.join(folder, "config.json")) as f:
            content = json.load(f)
        with open(os.path.join(folder, "config.json"), "w") as f:
            json.dump({"encoder": content["encoder"]}, f)
        with open(os.path.join(folder, "speed.jsonl"), "w") as f:
            f.write('{"step": 100, "sequences_per_second": 3.5, "seconds": 70.25}\n{"step": 1')
        figure = figure_of(folder)
        shown = words_of(figure)
        assert "machine not recorded" in shown and "note: run: speed.jsonl: the last line is not whole" in shown
        assert shown.count("not reported") == 1

    def test_that_ends_by_time(self, tmp_path):
        """Such a run reports its training time among its metrics, and ends at a step that no flag names."""
        folder = tiny_logs.make(tmp_path / "run", (7, 13), checkpoint=False, train_hours=0.5)
        with open(os.path.join(folder, "metrics.jsonl"), "a") as f:
            row = {"step": 19, "split": "train", "masked_lm_loss": 2.5, "training_seconds": 1800.25}
            print(json.dumps(row), file=f)
        figure = figure_of(folder)
        assert points(panel(figure, "Masked LM: loss").lines[0])[0].tolist() == [7, 13, 19]
        assert "train_hours=0.5" in words_of(figure)

    def test_sentence_order_is_called_by_its_name(self, tmp_path):
        folder = tiny_logs.make(tmp_path / "run", checkpoint=False)
        with open(os.path.join(folder, "config.json")) as f:
            content = json.load(f)
        content["records"]["train"]["sentence_objective"] = "sop"
        with open(os.path.join(folder, "config.json"), "w") as f:
            json.dump(content, f)
        assert panel(figure_of(folder), "Sentence order: loss")

    def test_dollars_and_long_texts(self, tmp_path):
        texts = ("costs $5 and $6 [MASK]_{x}^2", "the lazy dog " * 40 + "[MASK]")
        figure = figure_of(tiny_logs.make(tmp_path / "run", checkpoint=False), texts=texts)
        assert texts[0] in words_of(figure)
        assert not any(text.get_parse_math() for text in figure.texts)
        assert_nothing_overlaps(figure)


class TestProgram:
    def test_writes_a_png(self, tmp_path, capsys):
        folder = tiny_logs.make(tmp_path / "run", checkpoint=False)
        path = str(tmp_path / "report.png")
        assert report.run(report.ReportConfig(path), [folder]) == path
        with open(path, "rb") as f:
            head = f.read(24)
        assert head[:8] == b"\x89PNG\r\n\x1a\n"
        width, height = struct.unpack(">II", head[16:])
        assert width == report_figures.WIDTH * report_figures.DPI and height > 1000
        assert capsys.readouterr().out == f"{path}\n"

    def test_says_what_it_left_out(self, tmp_path, capsys):
        folder = tiny_logs.make(tmp_path / "run", checkpoint=False)
        with open(os.path.join(folder, "metrics.jsonl"), "a") as f:
            f.write('{"step"')
        report.run(report.ReportConfig(str(tmp_path / "report.png")), [folder])
        assert f"{folder}: metrics.jsonl: the last line is not whole" in capsys.readouterr().err

    def test_without_matplotlib_the_file_to_install_is_named(self, tmp_path, monkeypatch):
        folder = tiny_logs.make(tmp_path / "run", checkpoint=False)
        monkeypatch.setitem(sys.modules, "matplotlib", None)  # as if it were not there
        with pytest.raises(checks.InputError, match=r"needs matplotlib.*requirements-report\.txt"):
            report.run(report.ReportConfig(str(tmp_path / "report.png")), [folder])

    def test_bad_flags(self, tmp_path):
        for output, match in (("report.jpg", "must be a .png file"), ("/no/such/report.png", "folder of --output")):
            with pytest.raises(checks.InputError, match=match):
                report.ReportConfig(output)
        cfg, folder = report.ReportConfig(str(tmp_path / "r.png")), str(tmp_path)
        for dirs, texts, match in (
            ([], (), "--run_dir must be given"),
            ([folder] * 8, (), "at most 7 runs"),
            ([folder], ["x"] * 7, "at most 6 texts"),
            ([folder, folder + "/."], (), "another folder"),
            ([folder], (), "readable config.json"),
        ):
            with pytest.raises(checks.InputError, match=match):
                report.run(cfg, dirs, texts)

    def test_a_place_that_cannot_be_written(self, tmp_path):
        folder = tiny_logs.make(tmp_path / "run", checkpoint=False)
        (tmp_path / "x.png").mkdir()
        with pytest.raises(checks.InputError, match=r"--output must be a file that can be written.*x\.png"):
            report.run(report.ReportConfig(str(tmp_path / "x.png")), [folder])


@pytest.mark.parametrize(
    ("text", "width", "expected"),
    [("abc", 5, "abc  "), ("abcde", 5, "abcde"), ("abcdefg", 5, "ab…fg"), ("abcdef", 4, "ab…f")],
)
def test_fitted(text, width, expected):
    assert report_texts.fitted(text, width) == expected


def test_wrapped():
    lines = report_texts.wrapped(["one two three four five", "x" * 30, ""], 14)
    assert lines == ("one two three", "    four five", "x" * 14, "    " + "x" * 10, "    " + "x" * 6, "")
