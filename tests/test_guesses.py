import html
import re

import numpy as np
import pytest
from tensorboard import plugin_util

from tests import reports, tiny, tiny_packed
from tfbert import heads
from tfbert.watching import guesses


def numpy_softmax(x):
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


class TestGuesses:
    def test_equals_the_models_probabilities(self):
        model, features, vocab = (
            tiny.randomize(heads.build_pretrainer(tiny.config())),
            tiny.features(),
            reports.vocabulary(),
        )
        guessed = guesses.masked_guesses(model, features, vocab, top_k=3)
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
        vocab = reports.vocabulary()
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
        (guessed,) = guesses.masked_guesses(
            heads.build_pretrainer(tiny.config()), features, reports.vocabulary(), top_k=tiny.V + 5
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
        guessed = guesses.masked_guesses(heads.build_pretrainer(tiny.config()), features, reports.vocabulary())
        assert guessed[0].segments == ("⟦1⟧ w2",)
        assert "second part" not in guesses.as_markdown(guessed)

    @pytest.mark.slow
    def test_without_labels_of_sentences_nothing_is_said_of_them(self):
        features = self.record(["w1", "w2"], {1: "w3"}, ["w5"])
        model = heads.build_pretrainer(tiny.config())
        assert "second part" in guesses.as_markdown(guesses.masked_guesses(model, features, reports.vocabulary()))
        del features["next_sentence_labels"]
        (guessed,) = guesses.masked_guesses(model, features, reports.vocabulary())
        assert len(guessed.segments) == 2 and guessed.is_next is None
        assert "second part" not in guesses.as_markdown([guessed])

    @pytest.mark.slow
    def test_of_packed_rows_the_first_example_is_shown(self):
        features = tiny.features()
        batch = tiny_packed.pack(features, [[1, 0], [2], [3, 0]])
        alone = tiny.randomize(heads.build_pretrainer(tiny.config()))
        packed = tiny.randomize(heads.build_pretrainer(tiny.config(), packed=True))
        expected = guesses.masked_guesses(alone, features, reports.vocabulary())
        for found, row in zip(guesses.masked_guesses(packed, batch, reports.vocabulary()), (1, 2, 3), strict=True):
            want = expected[row]
            assert (found.segments, found.is_next) == (want.segments, want.is_next)
            assert [(m.saw, m.truth) for m in found.masked] == [(m.saw, m.truth) for m in want.masked]
            assert found.not_next_probability == pytest.approx(want.not_next_probability, rel=1e-4)

    def test_markdown_survives_tensorboard(self):
        """TensorBoard's own renderer makes of it what was meant, whatever the wordpieces are."""
        answers = (("|", 0.5), ("*", 0.25), ("<b>", 0.125), ("_", 0.0625), ("w1", 0.01))
        masked = (
            guesses.Masked("[MASK]", "<b>", answers),
            guesses.Masked("w9", "w9", answers),
            guesses.Masked("|", "|", answers),
        )
        page = guesses.as_markdown([guesses.Guessed(("# | *it* <b> `⟦1⟧` _", "- ⟦2⟧⟦3⟧ &amp;"), masked, False, 0.75)])
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
