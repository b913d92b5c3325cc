"""Tests of what scores the peers' trainers in tests/peers by our yardstick; those need environments of their own."""

import json

import numpy as np
import pytest

from tests import tiny, tiny_logs, tiny_records
from tests.peers import blocks, curves, score
from tfbert import checks, evaluate, heads, run_folder
from tfbert.convert import formats
from tfbert.loop import checkpoints


def test_blocks_are_all_texts_on_end_without_padding():
    rows = [np.arange(10, 17), np.arange(30, 33), np.arange(50, 55)]
    np.testing.assert_array_equal(blocks.blocks(iter(rows), 9, 6), [[10, 11, 12, 13, 14, 15], [16, 30, 31, 32, 50, 51]])
    with pytest.raises(checks.InputError, match=r"must not be masked yet; got \[MASK\]"):
        blocks.blocks(rows, 31, 6)
    with pytest.raises(checks.InputError, match="must fill a block; got 15 wordpieces, and blocks of 16"):
        blocks.blocks(rows, 9, 16)


@pytest.fixture(scope="module")
def peer(tmp_path_factory):
    """(saves as a peer's trainer leaves them, held-out records, {seconds: run folder of the same weights})."""
    folder = tmp_path_factory.mktemp("peer")
    tiny_records.make(str(folder / "records"))
    runs = {60: str(folder / "late"), 7: str(folder / "early")}
    for seconds, run_dir in runs.items():
        model = tiny.randomize(heads.build_pretrainer(tiny.config()), seed=seconds)
        run_folder.create(run_dir, tiny.config(), tiny_records.vocab(), {})
        checkpoints.Checkpoints(run_dir, model).save(1)
        there = folder / "saves" / f"{seconds:04d}"
        formats.convert(formats.open_source(run_dir), str(there), "huggingface")
        (there / "progress.json").write_text(json.dumps({"seconds": seconds, "steps": 9, "sequences": 30 * seconds}))
    return str(folder / "saves"), (str(folder / "records" / "held_out*"),), runs


LENGTHS = {"max_seq_length": tiny.L, "max_predictions_per_seq": tiny.P, "eval_batch_size": 5}


@pytest.mark.slow
def test_every_save_is_scored_as_a_run_folder_is(peer):
    saves, held_out, runs = peer
    rows = score.score(score.ScoreConfig(saves, held_out, **LENGTHS))
    assert [row["seconds"] for row in rows] == [7, 60]
    for row in rows:
        want = evaluate.evaluate(evaluate.EvaluateConfig(runs[row["seconds"]], held_out, **LENGTHS))
        assert row["masked_lm_loss"] == pytest.approx(want["masked_lm_loss"], rel=1e-5)
        assert (row["instances"], row["sequences"]) == (tiny_records.HELD_OUT, 30 * row["seconds"])
    assert rows[0]["masked_lm_loss"] != pytest.approx(rows[1]["masked_lm_loss"], rel=1e-3)
    with open(f"{saves}/curve.jsonl", encoding="utf-8") as f:
        assert [json.loads(line) for line in f] == rows


def test_weights_that_do_not_tell_their_lengths(peer):
    _, held_out, runs = peer
    with pytest.raises(checks.InputError, match="--max_seq_length must be given, since weights that were converted"):
        evaluate.evaluate(evaluate.EvaluateConfig(runs[7], held_out))
    with pytest.raises(checks.InputError, match="--max_predictions_per_seq must be given"):
        evaluate.evaluate(evaluate.EvaluateConfig(runs[7], held_out, max_seq_length=tiny.L))


def test_a_folder_without_saves(peer, tmp_path):
    with pytest.raises(checks.InputError, match="--saves must hold what a peer's trainer left"):
        score.score(score.ScoreConfig(str(tmp_path), peer[1], **LENGTHS))


def held(seconds, losses, name="x"):
    return curves.Held(name, np.array(seconds, float), np.array(losses, float), np.zeros(len(losses)), 320, 10)


def test_time_to_a_loss_lies_evenly_between_two_evaluations():
    run = held([0, 30, 90], [8.0, 6.0, 5.0])
    assert curves.seconds_to(run, 6.0) == 30
    assert curves.seconds_to(run, 5.25) == 75
    assert curves.seconds_to(run, 8.5) == 0
    assert curves.seconds_to(run, 4.9) is None


def test_table_tells_when_each_reached_what_all_reached():
    lines = curves.results([held([0, 60, 120], [8, 6, 5], "fast"), held([0, 300, 600], [8, 7, 6], "slow")])
    assert lines[0].split()[-4:] == ["minutes", "minutes", "to", "6.00"]
    assert lines[1].split() == ["fast", "5.000", "0.0", "%", "10", "320", "2.00", "1.00"]
    assert lines[2].split() == ["slow", "6.000", "0.0", "%", "10", "320", "10.00", "10.00"]


def test_curves_of_runs_and_saves_are_drawn(tmp_path):
    rows = [{"seconds": 60 * n, "steps": 5 * n, "sequences": 70 * n, curves.LOSS: 9 - n} for n in (1, 2, 3)]
    rows = [{**row, curves.ACCURACY: 0.1} for row in rows]
    (tmp_path / "curve.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    run_dir = tiny_logs.make(tmp_path / "google" / "run", checkpoint=False)
    ours, theirs = curves.of_run(run_dir), curves.of_saves(str(tmp_path))
    assert (theirs.name, theirs.sequences, theirs.steps, theirs.loss.tolist()) == (tmp_path.name, 210, 15, [8, 7, 6])
    assert (ours.name, ours.sequences, ours.steps) == ("google", 32_000, 1000)
    assert ours.seconds.tolist() == [400, 800, 1200, 1600, 2000]
    loss, accuracy = curves.draw([ours, theirs]).axes
    np.testing.assert_allclose(loss.lines[0].get_xdata(), ours.seconds / 60)
    np.testing.assert_allclose(loss.lines[1].get_ydata(), theirs.loss)
    np.testing.assert_allclose(accuracy.lines[0].get_ydata(), 100 * ours.accuracy)
