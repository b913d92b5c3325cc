"""What TensorBoard shows of a fine-tuned run, read back from its event files."""

import io
import re

import numpy as np
import pytest
from PIL import Image
from tensorboard.backend.event_processing import plugin_event_accumulator as event_accumulator
from tensorboard.plugins.custom_scalar import layout_pb2
from tensorboard.plugins.pr_curve import metadata as pr_curve_metadata

from tests.test_summaries import read
from tfbert.tasks import answers, sentence_files, squad_metrics, targets
from tfbert.tasks import tags as tag_task
from tfbert.watching import hooks, matrix_image, progress, tags, views

CLASSIFY, MULTI_LABEL = (
    targets.of(sentence_files.Settings(kind, "text", labels=("a", "b"))) for kind in ("classify", "multi_label")
)
REGRESS = targets.of(sentence_files.Settings("regress", "text"))
# What each task may report, from its own code.
REPORTED = {
    "classify": (*CLASSIFY.metrics, *CLASSIFY.objective.loss_names),
    "multi_label": (*MULTI_LABEL.metrics, *MULTI_LABEL.objective.loss_names),
    "regress": (*REGRESS.metrics, *REGRESS.objective.loss_names),
    "tag": ("f1", "precision", "recall", "accuracy", "f1_PER", *tag_task.OBJECTIVE.loss_names),
    "answer": (*squad_metrics.score(["x"], [["x"]]), *answers.OBJECTIVE.loss_names, "span_accuracy"),
    "answer 2.0": tuple(squad_metrics.score(["x", ""], [["x"], []], [0.0, 0.0])),
}


def a_view(counts=((7, 2), (1, 5))):
    tables = tuple(views.Table(n, f"Title of {n}", ("loss", "text"), (("0.5", "a | b"),)) for n in ("worst", "labels"))
    curves = [
        views.precision_recall(n, [True, False, True], p) for n, p in (("a", [0.9, 0.1, 0.4]), ("b/c", [0, 1, 1]))
    ]
    return views.View(tables, views.Confusion(("a", "b"), np.array(counts), "examples"), tuple(curves))


class TestView:
    @pytest.fixture(scope="class")
    def folder(self, tmp_path_factory):
        """The TensorBoard folder of a run with two evaluations."""
        run_dir, shown = tmp_path_factory.mktemp("run"), [a_view(((1, 8), (6, 0))), a_view()]
        evaluated = iter(shown)
        hook = hooks.tensorboard(progress.Watched(run_dir, 9, 32, view=lambda: next(evaluated)))
        for step, f1 in ((4, 0.25), (8, 0.5)):
            hook(step, {"loss": 1.0, "accuracy": 0.5}, "train")
            hook(step, {"loss": 1.5, "f1": f1, "f1_PER": f1}, "held_out")
        hook.close()
        return run_dir / "tensorboard"

    def test_confusion_matrix(self, folder):
        rows = read(folder / "held_out")["quality/confusion_matrix"]
        assert [step for step, _ in rows] == [4, 8]
        for (_, (width, height, png)), counts in zip(rows, (((1, 8), (6, 0)), ((7, 2), (1, 5)))):
            image = np.asarray(Image.open(io.BytesIO(png)).convert("RGB"))
            assert image.shape[:2] == (int(height), int(width))
            np.testing.assert_array_equal(image, matrix_image.draw(a_view(counts).confusion))

    def test_precision_recall_curves(self, folder):
        accumulator = event_accumulator.EventAccumulator(str(folder / "held_out")).Reload()
        for curve in a_view().curves:
            tag = f"precision_recall/{curve.name}"
            about = accumulator.SummaryMetadata(tag)
            assert about.plugin_data.plugin_name == pr_curve_metadata.PLUGIN_NAME and about.display_name == curve.name
            settings = pr_curve_metadata.parse_plugin_metadata(about.plugin_data.content)
            assert settings.num_thresholds == len(views.THRESHOLDS)
            ((_, first), (step, values)) = read(folder / "held_out")[tag]
            assert step == 8 and values.dtype == np.float32 and first.shape == (6, len(views.THRESHOLDS))
            named = {
                pr_curve_metadata.TRUE_POSITIVES_INDEX: curve.counts[0],
                pr_curve_metadata.FALSE_POSITIVES_INDEX: curve.counts[1],
                pr_curve_metadata.TRUE_NEGATIVES_INDEX: curve.counts[2],
                pr_curve_metadata.FALSE_NEGATIVES_INDEX: curve.counts[3],
                pr_curve_metadata.PRECISION_INDEX: curve.precision,
                pr_curve_metadata.RECALL_INDEX: curve.recall,
            }
            for place, expected in named.items():
                np.testing.assert_allclose(values[place], expected, rtol=1e-6)

    def test_pages(self, folder):
        held_out = read(folder / "held_out")
        for table in a_view().tables:
            assert held_out[f"held_out_{table.name}"][1][1].item().decode() == views.as_markdown(table)

    def test_scores_are_quality_and_types_have_a_chart(self, folder):
        held_out, train = read(folder / "held_out"), read(folder / "train")
        assert held_out["quality/f1"] == [(4, 0.25), (8, 0.5)] and "quality/f1_PER" in held_out
        assert "quality/accuracy" in train
        (_, first), (_, last) = train["custom_scalars__config__"]
        titles = [
            [chart.title for category in layout_pb2.Layout.FromString(x.item()).category for chart in category.chart]
            for x in (first, last)
        ]
        assert "F1 of each type" not in titles[0] and "F1 of each type" in titles[1]
        assert not any("masked" in title for title in titles[1])

    def test_nothing_without_a_view(self, tmp_path):
        """As of a test set, or before the first evaluation."""
        hook = hooks.tensorboard(progress.Watched(tmp_path, 9, 32, view=lambda: None))
        hook(5, {"loss": 1.5}, "held_out")
        hook.close()
        assert set(read(tmp_path / "tensorboard" / "held_out")) == {"quality/loss"}


@pytest.mark.parametrize("task", REPORTED)
def test_every_figure_of_a_task_is_explained_and_has_its_place(task):
    patterns = {
        chart.title: pattern
        for category in tags.layout(True, True).category
        for chart in category.chart
        for pattern in chart.multiline.tag
    }
    for name in REPORTED[task]:
        assert tags.description_of(name), name
        tag, counted = tags.tag(name), name.endswith("total")
        assert tag == f"quality{'.counts' if counted else ''}/{name}"
        charts = [title for title, pattern in patterns.items() if re.match(pattern, tag)]
        if name.endswith(("_loss", "total", "thresh")):
            assert charts == []  # the chart of the loss shows their sum
        else:
            assert charts == ["F1 of each type" if name == "f1_PER" else "scores"]


def test_the_progress_line_tells_scores():
    stream = io.StringIO()
    line = progress.ProgressLine(9, 32, stream=stream)
    line(6, {"loss": 0.5, "accuracy": 0.875, "pearson": 0.87654, "f1": 81.25, "f1_PER": 0.5}, "held_out")
    assert stream.getvalue() == "held out at step 6:  loss 0.500  accuracy 87.5 %  f1 81.25  pearson 0.8765\n"
