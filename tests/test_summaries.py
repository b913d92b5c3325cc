import functools
import html
import json
import re
import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf
from tensorboard import plugin_util
from tensorboard.backend.event_processing import plugin_event_accumulator as event_accumulator
from tensorboard.plugins.hparams import plugin_data_pb2

from tests import tiny
from tests.reports import HELD_OUT, TRAIN, Time, vocabulary
from tfbert import checks, heads
from tfbert.watching import guesses, hooks, probes, progress, summaries, tags


def read(folder):
    """{tag: [(step, value)]} of a folder as `tensorboard --load_fast=false` reads it."""
    events = event_accumulator.EventAccumulator(str(folder), size_guidance={event_accumulator.TENSORS: 0}).Reload()
    return {
        tag: [(e.step, tf.make_ndarray(e.tensor_proto)) for e in events.Tensors(tag)]
        for tag in events.Tags()["tensors"]
    }


class TestTensorBoard:
    @pytest.mark.slow
    def test_what_is_written(self, tmp_path):
        model, features = tiny.randomize(heads.build_pretrainer(tiny.config())), tiny.features()
        hook = hooks.tensorboard(
            progress.Watched(tmp_path, 9, 32, None, {"learning_rate": 1e-4}, model, features, vocabulary())
        )
        hook(5, TRAIN, "train")
        hook(5, HELD_OUT, "held_out")
        train, held_out = (read(tmp_path / "tensorboard" / split) for split in ("train", "held_out"))
        speed = train.pop("training/sequences_per_second")
        assert speed[0][0] == 5 and speed[0][1] > 0
        alone = {t: rows for t, rows in train.items() if t.startswith(("quality/", "training/"))}
        assert {t: [(s, float(v)) for s, v in rows] for t, rows in alone.items()} == {
            f"{'training' if name in ('learning_rate', 'gradient_norm', 'padding_share') else 'quality'}/{name}": [
                (5, float(np.float32(value)))
            ]
            for name, value in TRAIN.items()
        }
        assert {t for t in held_out if t.startswith("quality/")} == {f"quality/{name}" for name in HELD_OUT}
        weights = {t: rows for t, rows in held_out.items() if t.startswith("weights.")}
        assert len(weights) == len(model.trainable_variables)
        table = model.get_layer("embeddings").word_embeddings
        ((step, rows),) = weights["weights.embeddings/word_embeddings"]
        assert step == 5 and rows[:, 2].sum() == np.size(table)
        assert rows[0, 0] == np.min(table) and rows[-1, 1] == np.max(table)
        assert "weights.layer_01/attention/self/query/kernel" in weights
        ((step, text),) = held_out["held_out_guesses"]
        expected = guesses.as_markdown(guesses.masked_guesses(model, features, vocabulary()))
        assert step == 5 and text.item().decode() == expected
        hook.close()

    @pytest.mark.slow
    def test_what_is_told_of_each_part(self, tmp_path):
        model, features = tiny.randomize(heads.build_pretrainer(tiny.config())), tiny.features()
        counts = np.arange(50)
        hook = hooks.tensorboard(
            progress.Watched(tmp_path, 9, 32, None, None, model, features, vocabulary(), wordpiece_counts=counts)
        )
        hook(5, {**TRAIN, "gradient_norm/layer_01": 0.25}, "train")
        norms = probes.weight_norms(model.trainable_variables)
        hook(5, HELD_OUT, "held_out")
        tiny.randomize(model, seed=1)
        hook(10, HELD_OUT, "held_out")
        hook.close()
        train, held_out = (read(tmp_path / "tensorboard" / split) for split in ("train", "held_out"))
        assert train["training.gradient_norm/layer_01"] == [(5, 0.25)]
        for part, norm in norms.items():
            assert train[f"training.weight_norm/{part}"] == [(5, pytest.approx(norm))]
        entropies = probes.AttentionProbe(model).entropies(features)
        for layer, of_heads in enumerate(entropies):
            rows = train[f"training.attention_entropy/layer_{layer:02}"]
            assert [step for step, _ in rows] == [5, 10] and rows[1][1] == pytest.approx(of_heads.mean())
            rows = train[f"training.attention_entropy_of_heads/layer_{layer:02}"][1][1]
            np.testing.assert_array_equal(rows, summaries.histogram(of_heads, (0, 1)))
        assert not any("entropy" in tag for tag in held_out)  # each scalar there is a column of the HParams panel
        # The newest points alone, the most frequent wordpiece first.
        reader = tf.train.load_checkpoint(str(tmp_path / "tensorboard" / "held_out"))
        table = np.asarray(model.get_layer("embeddings").word_embeddings)
        points = reader.get_tensor("word_embeddings_at_10")
        np.testing.assert_array_equal(points[:50], table[np.arange(50)[::-1]])
        lines = (tmp_path / "tensorboard" / "held_out" / "metadata.tsv").read_text().splitlines()
        assert len(lines) == 1 + tiny.V and lines[1].split("\t")[0] == vocabulary().tokens[49]

    def test_every_figure_is_explained(self):
        speeds = progress.speeds(progress.Lap(2.0, 1.0, 0.5), TRAIN, 9)
        for name in [*TRAIN, *HELD_OUT, *speeds, "gradient_norm/layer_00", "weight_norm/pooler", "training_seconds"]:
            assert tags.description_of(name), name
        assert tags.description_of("of_a_task_to_come") is None

    def test_charts_show_each_figure_of_parts(self):
        """By the patterns of the layout as TensorBoard matches them, from the beginning of the tag."""
        charts = [chart for category in tags.layout().category for chart in category.chart]
        patterns = [pattern for chart in charts for pattern in chart.multiline.tag]
        for name in ("gradient_norm/layer_00", "weight_norm/heads", "attention_entropy/layer_11", "masked_lm_loss"):
            assert sum(bool(re.match(pattern, tags.tag(name))) for pattern in patterns) == 1, name
        for name in ("gradient_norm", "attention_entropy_of_heads/layer_00"):
            assert not any(re.match(pattern, tags.tag(name)) for pattern in patterns), name

    def test_events(self, tmp_path):
        before = {"time": "2026-11-21T20:15:00+00:00", "step": 2, "event": "rollback", "text": "earlier"}
        (tmp_path / "events.jsonl").write_text(json.dumps(before) + "\n" + '{"time": "2026-')
        hook = hooks.tensorboard(progress.Watched(tmp_path, 9, 32, 3))
        hook.event(6, "rollback", "loss | 9.5 at <step> 6")
        hook.event(1007, "restart", "again")
        hook.close()
        train = read(tmp_path / "tensorboard" / "train")
        assert train["events/rollback"] == [(6, 2.0)] and train["events/restart"] == [(1007, 1.0)]
        text = plugin_util.markdown_to_safe_html(train["events"][-1][1].item().decode())
        cells = [html.unescape(cell) for cell in re.findall("<td>(.*?)</td>", text)]
        assert [cells[i : i + 3] for i in (0, 4, 8)] == [
            ["2", "rollback", "earlier"],
            ["6", "rollback", "loss | 9.5 at <step> 6"],
            ["1,007", "restart", "again"],
        ]
        assert cells[3] == before["time"] and all(re.fullmatch(r"[-0-9]+T[0-9:]+\+00:00", cells[i]) for i in (3, 7, 11))

    def test_two_starts_in_one_second(self, tmp_path):
        """As after a rollback: TensorBoard reads files in the order of their names."""
        for loss, resume_step in ((1.0, None), (2.0, 4)):
            hook = hooks.tensorboard(progress.Watched(tmp_path, 9, 32, resume_step))
            hook(5, {"loss": loss}, "train")
            hook.close()
        assert read(tmp_path / "tensorboard" / "train")["quality/loss"] == [(5, 2.0)]

    def test_hparams_are_what_may_matter(self, tmp_path):
        hparams = {"learning_rate": 1e-4, "output_dir": "x", "log_steps": 7, "input_file": ["a", "b"], "model": ""}
        hooks.tensorboard(progress.Watched(tmp_path / "run", 9, 32, hparams=hparams)).close()
        events = event_accumulator.EventAccumulator(str(tmp_path / "run" / "tensorboard" / "held_out")).Reload()
        content = events.SummaryMetadata("_hparams_/session_start_info").plugin_data.content
        start = plugin_data_pb2.HParamsPluginData.FromString(content).session_start_info
        assert {name: value.string_value or value.number_value for name, value in start.hparams.items()} == {
            "learning_rate": 1e-4,
            "input_file": "a,b",
        }
        assert start.group_name == f"run in {tmp_path}"

    def test_histogram(self):
        x = np.random.default_rng(0).normal(0, 1, (41, 7)).astype(np.float32)
        rows = summaries.histogram(x)
        assert rows.shape == (30, 3) and rows[:, 2].sum() == x.size
        for left, right, count in rows[:-1]:
            assert count == ((x >= left) & (x < right)).sum()
        np.testing.assert_array_equal(rows[1:, 0], rows[:-1, 1])
        constant = summaries.histogram(np.full((5, 2), 3))
        assert (constant[:, :2] == 3).all() and constant[-1, 2] == 10 and constant[:-1, 2].sum() == 0
        assert summaries.histogram([1, 2, np.nan, np.inf])[:, 2].sum() == 2
        bounded = summaries.histogram([0.5, 0.5], (0.0, 1.0))
        assert (bounded[0, 0], bounded[-1, 1]) == (0, 1) and bounded[bounded[:, 0] <= 0.5][-1, 2] == 2

    @pytest.mark.slow
    def test_weights_of_a_mirrored_and_mixed_model(self, tmp_path, mirrored):
        keras.config.set_dtype_policy("mixed_bfloat16")
        with mirrored.scope():
            model = heads.build_pretrainer(tiny.config())
        counts = np.arange(tiny.V)
        hook = hooks.tensorboard(
            progress.Watched(tmp_path, 9, 32, None, None, model, tiny.features(), vocabulary(), wordpiece_counts=counts)
        )
        hook(5, TRAIN, "train")
        hook(5, HELD_OUT, "held_out")
        assert len(read(tmp_path / "tensorboard" / "held_out")["held_out_guesses"]) == 1
        train = read(tmp_path / "tensorboard" / "train")
        assert train["training.weight_norm/pooler"][0][1] > 0 and "training.attention_entropy/layer_01" in train
        assert (tmp_path / "tensorboard" / "held_out" / "projector_config.pbtxt").exists()
        hook.close()

    @pytest.mark.parametrize("checkpoint", [None, 2])
    def test_a_resumed_run_has_one_curve(self, tmp_path, checkpoint):
        def train(resume_step, steps, offset):
            hook = hooks.tensorboard(progress.Watched(tmp_path, 9, 32, resume_step))
            for step in steps:
                hook(step, {"loss": step + offset}, "train")
            hook.close()

        train(None, range(1, 6), 0.5)
        folder = tmp_path / "tensorboard" / "train"
        for file in folder.iterdir():  # names begin with the second; a restart takes longer than one
            file.rename(re.sub(r"tfevents\.[0-9]+", "tfevents.1700000000", str(file)))
        train(checkpoint, range((checkpoint or 0) + 1, 5), 0)
        kept = checkpoint or 0
        assert read(folder)["quality/loss"] == [(step, step + (0.5 if step <= kept else 0)) for step in range(1, 5)]

    @pytest.mark.slow
    def test_full_disk(self, tmp_path):
        """In a process whose files must not grow: the system refuses the write as it does on a full disk."""
        program = (
            "import resource, signal\n"
            "from tfbert import checks\nfrom tfbert.watching import hooks, progress\n"
            f"hook = hooks.tensorboard(progress.Watched({str(tmp_path)!r}, 9, 32))\n"
            "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
            "resource.setrlimit(resource.RLIMIT_FSIZE, (500, 500))\n"
            "try:\n"
            "    for step in range(1000): hook(step, {'loss': 1.0}, 'train')\n"
            "except checks.InputError as e: print('InputError:', e, flush=True)\n"
            "import os; os._exit(0)\n"
        )
        result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120)
        assert re.search(
            r"InputError: the run folder must be writable and its disk must have space left; got .*File too large "
            r"\(at .*tensorboard\)\. Make space, then start again",
            result.stdout,
        ), result.stdout + result.stderr

    def test_its_own_work_does_not_count_as_training(self, tmp_path, monkeypatch):
        now = Time()
        monkeypatch.setattr(progress, "Clock", functools.partial(progress.Clock, now=now))
        hook = hooks.tensorboard(progress.Watched(tmp_path, 9, 6))
        now.now += 2
        hook(1, TRAIN, "train")
        monkeypatch.setattr(hook, "_write_weights", lambda: setattr(now, "now", now.now + 50))
        hook(1, HELD_OUT, "held_out")
        now.now += 3
        hook(2, TRAIN, "train")
        assert read(tmp_path / "tensorboard" / "train")["training/sequences_per_second"] == [(1, 3), (2, 2)]

    def test_a_file_in_the_way(self, tmp_path):
        (tmp_path / "tensorboard").write_text("")
        with pytest.raises(checks.InputError, match="the run folder must be writable"):
            hooks.tensorboard(progress.Watched(tmp_path, 9, 32))
