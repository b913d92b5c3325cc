"""Tests of tfbert.watching.run_logs."""

import json
import os

import numpy as np
import pytest

from tests import tiny_logs
from tfbert import checks
from tfbert.watching import run_logs


def write(folder, name, *lines):
    with open(os.path.join(folder, name), "w") as f:
        f.writelines(line if isinstance(line, str) else json.dumps(line) + "\n" for line in lines)


@pytest.fixture
def folder(tmp_path):
    return tiny_logs.make(tmp_path / "run", checkpoint=False)


def test_series(folder):
    write(
        folder,
        "metrics.jsonl",
        {"step": 0, "split": "held_out", "masked_lm_loss": 9},
        {"step": 10, "split": "train", "masked_lm_loss": 8.5, "learning_rate": 1e-4},
        {"step": 17, "event": "spike", "text": "no report"},
        {"step": 20, "split": "train", "masked_lm_loss": None},
        {"step": 20, "split": "held_out", "masked_lm_loss": 8},
    )
    logs = run_logs.read(folder)
    for split, steps, values in (("train", [10, 20], [8.5, np.nan]), ("held_out", [0, 20], [9, 8])):
        np.testing.assert_array_equal(logs.series("masked_lm_loss", split), [steps, values])
    np.testing.assert_array_equal(logs.series("learning_rate"), [[10], [1e-4]])
    assert [x.shape for x in logs.series("next_sentence_loss")] == [(0,), (0,)]
    assert logs.last_step == 20


def test_time_is_the_sum_of_the_laps(folder):
    write(folder, "speed.jsonl", *({"step": s, "seconds": t} for s, t in ((10, 40), (20, 5), (30, 7))))
    logs = run_logs.read(folder)
    assert logs.notes == ()
    # 40 seconds for the first ten steps, compilation with them; a step between two reports is between their times.
    np.testing.assert_allclose(logs.seconds_at([0, 5, 10, 20, 24, 30]), [0, 20, 40, 45, 47.8, 52])
    assert logs.seconds_at(99) == 52  # what came after the last report is not known


def test_a_last_line_that_is_not_whole_is_left_out_and_said(folder):
    for name in ("metrics.jsonl", "speed.jsonl"):
        whole = run_logs.read(folder)
        with open(os.path.join(folder, name), "ab") as f:
            f.write(b'{"step": 1100, "split": "tr')
        logs = run_logs.read(folder)
        assert (logs.metrics, logs.speed) == (whole.metrics, whole.speed)
        assert f"{name}: the last line is not whole, and was left out" in logs.notes
    assert len(logs.notes) == 2


@pytest.mark.parametrize("content", [None, "", '{"step": 1, "split": "train"'])
def test_no_metrics(folder, content):
    os.remove(os.path.join(folder, "metrics.jsonl"))
    if content is not None:
        write(folder, "metrics.jsonl", content)
    with pytest.raises(checks.InputError, match=r"metrics.jsonl.*Give the output_dir of a run"):
        run_logs.read(folder)


def test_no_speed(folder):
    os.remove(os.path.join(folder, "speed.jsonl"))
    logs = run_logs.read(folder)
    assert logs.speed == () and logs.notes == ("speed.jsonl is not there: nothing is known about time",)
    assert logs.seconds_at(1000) == 0


@pytest.mark.parametrize("line", ["hello\n", "[1]\n", '{"loss": 1}\n', '{"step": "1"}\n', "\xff\n"])
def test_a_line_of_another_hand(folder, line):
    write(folder, "metrics.jsonl", {"step": 1, "split": "train"}, line, {"step": 2, "split": "train"})
    with pytest.raises(checks.InputError, match=r"JSON object with a step; got .*metrics.jsonl, line 2"):
        run_logs.read(folder)


def test_another_split(folder):
    write(folder, "metrics.jsonl", {"step": 1, "split": "test"})
    with pytest.raises(checks.InputError, match="split of each report must be train or held_out"):
        run_logs.read(folder)


def test_not_a_run_folder(tmp_path):
    with pytest.raises(checks.InputError, match=r"readable config\.json"):
        run_logs.read(str(tmp_path))


@pytest.mark.parametrize(
    ("paths", "names"),
    [
        (["out/run"], ["run"]),
        (["out/a", "out/b/"], ["a", "b"]),
        (["x/a/run", "x/b/run", "y/a/run"], ["x/a/run", "x/b/run", "y/a/run"]),
        (["/run", "/a/run"], ["run", "a/run"]),
    ],
)
def test_labels(paths, names):
    assert run_logs.labels(paths) == names
