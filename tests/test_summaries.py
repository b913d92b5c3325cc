import functools
import html
import re
import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf
from tensorboard import plugin_util
from tensorboard.backend.event_processing import plugin_event_accumulator as event_accumulator

from tests import tiny, tiny_packed
from tests.reports import HELD_OUT, TRAIN, Time
from tfbert import checks, heads, hooks, progress, summaries
from tfbert.text import vocab as vocab_lib


def vocabulary():
    """97 entries: words and suffixes that need escaping in Markdown among them."""
    words = ["|", "*", "_", "<b>", "##ing", "play", "(", ")", ".", "'", "s", "it"]
    return vocab_lib.Vocab((*vocab_lib.SPECIAL_TOKENS, *words, *(f"w{i}" for i in range(tiny.V - 5 - len(words)))))


def numpy_softmax(x):
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


class TestGuesses:
    def test_equals_the_models_probabilities(self):
        model, features, vocab = tiny.randomize(heads.build_pretrainer(tiny.config())), tiny.features(), vocabulary()
        guessed = summaries.masked_guesses(model, features, vocab, top_k=3)
        outputs = {k: np.asarray(v) for k, v in model(tiny.inputs(features)).items()}
        probabilities = numpy_softmax(outputs["masked_lm_logits"])
        next_sentence = numpy_softmax(outputs["next_sentence_logits"])
        assert len(guessed) == tiny.B
        for b, record in enumerate(guessed):
            slots = [p for p in range(tiny.P) if features["masked_lm_weights"][b, p]]
            assert len(record.masked) == len(slots)
            assert record.is_next == (features["next_sentence_labels"][b, 0] == 0)
            np.testing.assert_allclose(record.not_next_probability, next_sentence[b, 1], rtol=1e-5)
            for p, masked in zip(slots, record.masked):
                position = features["masked_lm_positions"][b, p]
                assert masked.truth == vocab.tokens[features["masked_lm_ids"][b, p]]
                assert masked.saw == vocab.tokens[features["input_ids"][b, position]]
                best = np.argsort(-probabilities[b, p])[:3]
                assert [piece for piece, _ in masked.guesses] == [vocab.tokens[i] for i in best]
                np.testing.assert_allclose([q for _, q in masked.guesses], probabilities[b, p, best], rtol=1e-5)

    def record(self, pieces, truths, segment_b=()):
        """Features [1, ...] of wordpieces; `truths` is {place: wordpiece}, in the order of their slots."""
        vocab = vocabulary()
        ids = [vocab.ids[p] for p in ["[CLS]", *pieces, "[SEP]", *segment_b, *(["[SEP]"] if segment_b else [])]]
        first = len(pieces) + 2
        length, slots = len(ids) + 2, len(truths) + 1
        features = {
            "input_ids": [*ids, 0, 0],
            "input_mask": [1] * len(ids) + [0, 0],
            "segment_ids": [0] * first + [1] * (len(ids) - first) + [0, 0],
            "masked_lm_positions": [*truths, 0],
            "masked_lm_ids": [*(vocab.ids[t] for t in truths.values()), 0],
            "next_sentence_labels": [1],
        }
        features = {name: np.array([value], np.int32) for name, value in features.items()}
        assert features["input_ids"].shape == (1, length)
        return {**features, "masked_lm_weights": np.float32([[1] * (slots - 1) + [0]])}

    def test_text_is_readable(self):
        pieces = ["it", "'", "s", "[MASK]", "[MASK]", "(", "w1", "##ing", ")", "."]
        features = self.record(pieces, {5: "##ing", 4: "play", 8: "##ing"}, ["w5", "w6", "[MASK]"])
        (guessed,) = summaries.masked_guesses(
            heads.build_pretrainer(tiny.config()), features, vocabulary(), top_k=tiny.V + 5
        )
        # Numbered from left to right; what was masked inside a word stays joined to it; what is not masked
        # for training stays as it is.
        assert guessed.segments == ("it's ⟦1⟧⟦2⟧ (w1⟦3⟧).", "w5 w6 [MASK]")
        assert [(m.saw, m.truth) for m in guessed.masked] == [
            ("[MASK]", "play"),
            ("[MASK]", "##ing"),
            ("##ing", "##ing"),
        ]
        assert len(guessed.masked[0].guesses) == tiny.V

    def test_one_segment(self):
        features = self.record(["w1", "w2"], {1: "w3"})
        guessed = summaries.masked_guesses(heads.build_pretrainer(tiny.config()), features, vocabulary())
        assert guessed[0].segments == ("⟦1⟧ w2",)
        assert "second part" not in summaries.as_markdown(guessed)

    @pytest.mark.slow
    def test_without_labels_of_sentences_nothing_is_said_of_them(self):
        features = self.record(["w1", "w2"], {1: "w3"}, ["w5"])
        model = heads.build_pretrainer(tiny.config())
        assert "second part" in summaries.as_markdown(summaries.masked_guesses(model, features, vocabulary()))
        del features["next_sentence_labels"]
        (guessed,) = summaries.masked_guesses(model, features, vocabulary())
        assert len(guessed.segments) == 2 and guessed.is_next is None
        assert "second part" not in summaries.as_markdown([guessed])

    @pytest.mark.slow
    def test_of_packed_rows_the_first_example_is_shown(self):
        features = tiny.features()
        batch = tiny_packed.pack(features, [[1, 0], [2], [3, 0]])
        alone = tiny.randomize(heads.build_pretrainer(tiny.config()))
        packed = tiny.randomize(heads.build_pretrainer(tiny.config(), packed=True))
        expected = summaries.masked_guesses(alone, features, vocabulary())
        for found, row in zip(summaries.masked_guesses(packed, batch, vocabulary()), (1, 2, 3), strict=True):
            want = expected[row]
            assert (found.segments, found.is_next) == (want.segments, want.is_next)
            assert [(m.saw, m.truth) for m in found.masked] == [(m.saw, m.truth) for m in want.masked]
            assert found.not_next_probability == pytest.approx(want.not_next_probability, rel=1e-4)

    def test_markdown_survives_tensorboard(self):
        """TensorBoard's own renderer makes of it what was meant, whatever the wordpieces are."""
        guesses = (("|", 0.5), ("*", 0.25), ("<b>", 0.125), ("_", 0.0625), ("w1", 0.01))
        masked = (
            summaries.Masked("[MASK]", "<b>", guesses),
            summaries.Masked("w9", "w9", guesses),
            summaries.Masked("|", "|", guesses),
        )
        page = summaries.as_markdown(
            [summaries.Guessed(("# | *it* <b> `⟦1⟧` _", "- ⟦2⟧⟦3⟧ &amp;"), masked, False, 0.75)]
        )
        page = plugin_util.markdown_to_safe_html(page)
        assert "2 among the first 5" in page and "1 of 3 words right" in page
        assert page.count("<table>") == 1 and page.count("<tr>") == 4
        assert page.count("<td>") == 3 * (3 + 5)
        text = html.unescape(re.sub("<[^>]*>", "", page)).replace("\xa0", " ")
        assert "# | *it* <b> `⟦1⟧` _" in text and "- ⟦2⟧⟦3⟧ &amp;" in text
        assert "<strong>⟦1⟧</strong>" in page
        assert "✓ <b> 12 %" in text and "✓ | 50 %" in text and text.count("✓") == 3
        cells = [html.unescape(re.sub("<[^>]*>", "", cell)) for cell in re.findall("<td>(.*?)</td>", page)]
        assert [cells[i : i + 3] for i in (0, 8, 16)] == [
            ["1", "<b>", "[MASK]"],
            ["2", "w9", "the word itself"],
            ["3", "|", "the word itself"],
        ]
        assert "does not follow the first; the model gives 75 % to that: ✓ right" in text


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
        assert {t: [(s, float(v)) for s, v in rows] for t, rows in train.items()} == {
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
        expected = summaries.as_markdown(summaries.masked_guesses(model, features, vocabulary()))
        assert step == 5 and text.item().decode() == expected
        hook.close()

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

    @pytest.mark.slow
    def test_weights_of_a_mirrored_and_mixed_model(self, tmp_path, mirrored):
        keras.config.set_dtype_policy("mixed_bfloat16")
        with mirrored.scope():
            model = heads.build_pretrainer(tiny.config())
        hook = hooks.tensorboard(progress.Watched(tmp_path, 9, 32, None, None, model, tiny.features(), vocabulary()))
        hook(5, HELD_OUT, "held_out")
        assert len(read(tmp_path / "tensorboard" / "held_out")["held_out_guesses"]) == 1
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
            "from tfbert import checks, hooks, progress\n"
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
