"""What TensorBoard serves of a fine-tuned run, and what a person sees of it in a browser."""

import sys

import pytest

from tests.test_task_summaries import a_view
from tests.test_tensorboard_browser import BROWSER, DRIVER, Page, ask, server, waited
from tfbert.watching import hooks, progress

pytestmark = pytest.mark.slow

SCORES = {"loss": 1.5, "f1": 0.5, "f1_PER": 0.25}


@pytest.mark.skipif(
    not (BROWSER and DRIVER),
    reason="needs a browser and its driver: apt-get install chromium chromium-driver",
)
def test_a_person_sees_it(tmp_path):
    """Opens each panel, waits for its words, and keeps pictures in pytest's folder of this test."""
    hook = hooks.tensorboard(progress.Watched(tmp_path / "run", 9, 32, view=a_view))
    for step in (4, 8):
        hook(step, {"loss": 1.0, "accuracy": 0.5}, "train")
        hook(step, SCORES, "held_out")
    hook.close()
    command = [sys.executable, "-m", "tensorboard.main", "--logdir", str(tmp_path / "run" / "tensorboard")]
    command += ["--port=0", "--host=127.0.0.1", "--reload_interval=1"]
    expected = {
        "images": ["quality/confusion_matrix", "step 8"],
        "pr_curves": ["precision_recall/a", "precision_recall/b/c", "held_out is at step 8"],
        "custom_scalars": ["scores", "F1 of each type", "Matches (2)", "Matches (1)"],
        "text": ["held_out_worst", "Title of worst", "a | b", "held_out_labels"],
        "timeseries": ["quality/f1_PER", "quality/confusion_matrix"],
    }
    with (
        server(command, r"TensorBoard \S+ at (http://\S+?)/? ") as tensorboard,
        server([DRIVER, "--port=0"], r"started successfully on port (\d+)") as driver,
    ):
        address = tensorboard[1]
        tags = f"{address}/data/plugin/pr_curves/tags"
        waited(lambda: ask(tags).get("held_out"), lambda: ask(tags))
        page = Page(f"http://127.0.0.1:{driver[1]}", tmp_path / "profile")
        try:
            for panel, words in expected.items():
                page.visit(address, panel)
                waited(lambda words=words: page.shows(words), page.text, seconds=60)
                page.screenshot(tmp_path / f"{panel}.png")
        finally:
            page.close()
