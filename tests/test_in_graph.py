"""Tests of tfbert.tasks.in_graph: the same answers as from rows in memory, and through a server's loader."""

import numpy as np
import pytest
import tensorflow as tf

from export import loaders
from tests import tiny, tiny_run, tiny_squad
from tfbert import checks, heads
from tfbert.tasks import answers, batches, in_graph, tags
from tfbert.text import packing, tokenizer

L = 17
LABELS = ("O", "B-animal", "I-animal", "I-place")
TEXTS = [
    "the lazy fox",
    "  unable   foxes,\treturned warmed.  ",
    "",
    "caf\u00e9 東京 . dog",
    "dogs of " * 9,
    "e\u0301 x\u00ady !",
    "the-lazy-unable-warm foxes",
]


def outputs_of(model, rows):
    """The model's logits of rows, one batch for all."""
    batch = next(iter(batches.eval_dataset(rows, (rows.lengths.max(),), len(rows))))
    logits = model({x.name: batch[x.name] for x in model.inputs})["logits"].numpy()
    return logits[np.argsort(batch["row"])]


class TestTags:
    @pytest.fixture(scope="class")
    def model(self):
        built = tiny.randomize(heads.build_tagger(tiny.config(), len(LABELS)), scale=0.6)
        next(v for v in built.variables if v.path == "tokens/output_bias").assign([0, 0, 2, 0])  # many to repair
        return built

    @pytest.fixture(scope="class")
    def served(self, model):
        return in_graph.TagText(model, tiny_run.vocab(), LABELS, L)

    @pytest.mark.parametrize("truncation", [None, "head", "tail", "head_tail"])
    def test_equals_rows_in_memory(self, model, truncation):
        served = in_graph.TagText(model, tiny_run.vocab(), LABELS, L, truncation, 400)
        found = {name: x.numpy() for name, x in served(tf.constant(TEXTS)).items()}
        assert found["truncated"].tolist() == [bool(truncation) and text.startswith("dogs") for text in TEXTS]
        repaired = 0
        for i, text in enumerate(TEXTS):
            words = text.split()
            count = int(np.sum(found["starts"][i] >= 0))
            if found["truncated"][i]:  # 2 of each 3 wordpieces of this one begin words, of which 15 stay
                kept = {"head": words[:10], "tail": words[-10:], "head_tail": words[:3] + words[-7:]}[truncation]
                assert [w.decode() for w in found["words"][i, :count]] == kept
                assert [text.encode()[a:b] for a, b in zip(found["starts"][i], found["ends"][i])][:count] == [
                    w.encode() for w in kept
                ]
                continue
            assert [w.decode() for w in found["words"][i, :count]] == words
            for a, b, word in zip(found["starts"][i], found["ends"][i], words):
                assert text.encode()[a:b].decode() == word
            assert (found["starts"][i, count:] == -1).all() and (found["ends"][i, count:] == -1).all()
            assert (found["tags"][i, count:] == b"").all() and (found["probabilities"][i, count:] == 0).all()
            if not words:
                continue
            settings = tags.Settings(labels=LABELS)
            sentences = tags.of_texts([text], None)
            rows = tags.featurize(settings, sentences, tokenizer.Tokenizer(tiny_run.vocab()), L)
            logits = outputs_of(model, rows)
            (expected,) = tags.decode(settings, logits, rows, sentences)
            assert [t.decode() for t in found["tags"][i, :count]] == list(expected.tags)
            np.testing.assert_allclose(found["probabilities"][i, :count], expected.probabilities, rtol=1e-4)
            raw = [LABELS[j] for j in logits[0, np.flatnonzero(rows.extra["word"] >= 0)[:3]].argmax(-1)]
            repaired += raw != list(expected.tags)[:3]
        assert repaired  # else the texts show nothing of it

    def test_strings_beyond_a_number_of_bytes_are_cut(self, model):
        served = in_graph.TagText(model, tiny_run.vocab(), LABELS, L, None, 18)
        found = served(tf.constant(["the lazy fox dog 東京", "the lazy fox 東 dog", "the lazy fox dog a"]))
        assert found["words"].numpy()[:, 3].tolist() == [b"dog", "東".encode(), b"dog"]
        assert found["words"].shape[1] == 5 and found["truncated"].numpy().tolist() == [True, True, False]

    def test_a_batch_equals_one_by_one(self, served):
        whole = {name: x.numpy() for name, x in served(tf.constant(TEXTS)).items()}
        for i, text in enumerate(TEXTS):
            for name, x in served(tf.constant([text])).items():
                alone = x.numpy()[0]
                both = whole[name][i] if alone.ndim == 0 else whole[name][i, : len(alone)]
                if alone.dtype == np.float32:
                    np.testing.assert_allclose(alone, both, atol=1e-5)
                else:
                    np.testing.assert_array_equal(alone, both)

    def test_no_texts(self, served):
        assert served(tf.constant([], tf.string))["words"].shape == (0, 1)

    @pytest.mark.slow
    def test_through_a_servers_loader(self, served, tmp_path):
        tf.saved_model.save(served, str(tmp_path), signatures={"serving_default": served.signature()})
        text = np.array([t.encode() for t in TEXTS], object)
        (found,) = loaders.v1_session(str(tmp_path), [("serving_default", {"text": text})])
        for name, x in served(tf.constant(TEXTS)).items():
            if x.dtype == tf.float32:
                np.testing.assert_allclose(found[name], x, atol=1e-5)
            else:
                np.testing.assert_array_equal(found[name], x)


QUESTIONS = ["In what country is Normandy?", "Who?", "", "名字 a b c d e f g h i", "the", "Norman?"]
CONTEXTS = [*tiny_squad.CONTEXTS, "France", "", "the Normans in France " * 3, " in  the\t région. "]


class TestAnswers:
    VOCAB = tiny_squad.vocab()

    @pytest.fixture(scope="class")
    def model(self):
        return tiny.randomize(heads.build_span_finder(tiny.config(vocab_size=len(self.VOCAB))), scale=0.6)

    def settings(self, with_negative=False):
        return answers.Settings(
            doc_stride=4, max_query_length=6, max_answer_length=5, n_best_size=50, version_2_with_negative=with_negative
        )

    @pytest.mark.parametrize("with_negative", [False, True])
    def test_equals_rows_in_memory(self, model, with_negative):
        settings = self.settings(with_negative)
        served = in_graph.AnswerText(model, self.VOCAB, settings, L, top_k=4)
        found = {n: x.numpy() for n, x in served(tf.constant(QUESTIONS), tf.constant(CONTEXTS)).items()}
        asked = answers.of_texts(QUESTIONS, CONTEXTS)
        rows = answers.featurize(settings, asked, tokenizer.Tokenizer(self.VOCAB), L)
        assert len(rows) > 3 * len(asked)
        expected = answers.decode(settings, outputs_of(model, rows), rows, asked)
        assert ("null_odds" in found) == with_negative
        for i, (answer, context) in enumerate(zip(expected, CONTEXTS)):
            assert found["answer"][i].decode() == answer.text
            start, end = found["answer_start"][i], found["answer_end"][i]
            assert (context.encode()[start:end].decode() if start >= 0 else "") == answer.text and (start < 0) == (
                end < 0
            )
            spans = [s for s, _ in answer.n_best if s.start >= 0]
            texts = [t.decode() for t in found["answers"][i] if t]
            # The graph has a text as often as it stands in the context.
            distinct = list(dict.fromkeys(texts))
            assert distinct == [s.text for s in spans][: len(distinct)] and bool(spans) == bool(texts)
            places = zip(found["starts"][i], found["ends"][i], found["answers"][i])
            assert all(context.encode()[a:b] == text if a >= 0 else not text for a, b, text in places)
            if spans:
                assert found["scores"][i, 0] == pytest.approx(spans[0].score, abs=1e-4)
                assert found["starts"][i, 0] == len(context[: spans[0].start].encode())
            if with_negative:
                assert found["null_odds"][i] == pytest.approx(answer.null_odds, abs=1e-4)
        assert found["truncated"].tolist() == [len(q) > 20 or "名" in q for q in QUESTIONS]
        total = found["probabilities"].sum(1)
        assert (total < 1).all() if with_negative else np.allclose(total, [float(bool(c)) for c in CONTEXTS])

    @pytest.mark.slow
    def test_through_a_servers_loader(self, model, tmp_path):
        served = in_graph.AnswerText(model, self.VOCAB, self.settings(True), L)
        tf.saved_model.save(served, str(tmp_path), signatures={"serving_default": served.signature()})
        request = {
            name: np.array([t.encode() for t in texts], object)
            for name, texts in (("question", QUESTIONS), ("context", CONTEXTS))
        }
        (found,) = loaders.v1_session(str(tmp_path), [("serving_default", request)])
        for name, x in served(tf.constant(QUESTIONS), tf.constant(CONTEXTS)).items():
            if x.dtype == tf.float32:
                np.testing.assert_allclose(found[name], x, atol=1e-4)
            else:
                np.testing.assert_array_equal(found[name], x)

    def test_no_questions(self, model):
        none = tf.constant([], tf.string)
        found = in_graph.AnswerText(model, self.VOCAB, self.settings(), L)(none, none)
        assert found["answers"].shape == (0, 5) and found["answer"].shape == (0,)

    def test_a_row_too_long_for_the_model(self, model):
        with pytest.raises(checks.InputError, match="max_position_embeddings 23; got max_seq_length=24"):
            in_graph.AnswerText(model, self.VOCAB, self.settings(), 24)
        with pytest.raises(checks.InputError, match="looks at all of a context, in windows; got truncation='head'"):
            in_graph.AnswerText(model, self.VOCAB, self.settings(), L, truncation="head")
        with pytest.raises(checks.InputError, match=r"truncation must be one of head, tail, .*; got 'middle'"):
            packing.cutting("middle", 9)

    def test_memory_is_that_of_the_texts_and_not_of_a_rectangle(self, model):
        """A long text beside many short ones takes no more than both alone: nothing is filled up to the longest."""
        served = in_graph.AnswerText(model, self.VOCAB, self.settings(True), L, top_k=2)
        served._logits = lambda features: tf.zeros([*features["input_ids"].shape, 2])
        contexts = ["a " * 30_000, *[""] * 30_000]
        found = served.on_device(tf.constant([""] * len(contexts)), tf.constant(contexts))
        assert found["starts"][0, 0] == 0 and not (found["starts"][1:] >= 0).numpy().any()
