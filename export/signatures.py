"""The signatures of a run, as one module to save; `export.saved_model` says what each takes and gives."""

import os

import numpy as np
import tensorflow as tf

from export import vectors
from tfbert import checks, fill_mask, heads
from tfbert.text import byte_limit, packing
from tfbert.text import vocab as vocab_lib

IDS = ("input_ids", "input_mask", "segment_ids")


def has_rows(answering):
    """Whether what answers texts has a model of rows, and not one of texts in chunks (`--long_text=mean` and so on)."""
    return getattr(answering, "max_chunks", 1) == 1


def _float32(outputs):
    """Outputs whose type hangs on the model's, such as bfloat16, as float32, which every client has."""
    return {name: tf.cast(x, tf.float32) if x.dtype.is_floating else x for name, x in outputs.items()}


class Served(tf.Module):
    """The graph, and the vocabulary as assets.

    It holds what answers texts, whose variables are the model's, and not the Keras model: see `fill_mask.FillMask`.

    Args:
        answering: `fill_mask.FillMask`, or of a task's `serve`.
        model: The Keras model that it answers with.
        run_dir: The run folder.
        pooling: How states make an embedding, one of `heads.POOLINGS`.
        normalize: Whether embeddings are divided by their length.
        for_server: Whether TensorFlow itself will run it, and not TFLite: there may be operations that TFLite lacks,
            and vectors lie in one variable (see `vectors`).

    Raises:
        InputError: the pooled output is asked for, and the model has none.
    """

    def __init__(self, answering, model, run_dir, pooling="mean", normalize=False, for_server=True):
        super().__init__(name="served")
        self.answering, self.vectors = answering, vectors.Vectors(model) if for_server else None
        if for_server:
            answering.weights = self.vectors.others
        self._for_server = for_server
        self.vocab_txt = tf.saved_model.Asset(os.path.join(run_dir, vocab_lib.VOCAB_FILE))
        self.tokenizer_json = tf.saved_model.Asset(os.path.join(run_dir, vocab_lib.TOKENIZER_FILE))
        self.pooling, self.normalize, self._vocab = pooling, normalize, answering.vocab
        self._has_rows = has_rows(answering)
        checks.require(
            pooling != "pooled" or "pooled_output" in model.output,
            "pooling must be cls or mean where the model has no pooler, as those of tags and of answers have none",
            "pooling=pooled",
            run_dir,
        )
        self._model = lambda features: model(features, training=False)  # a function is not tracked
        pool = heads.Pooling(pooling, dtype="float32")
        self._pool = lambda states, mask: (
            states["pooled_output"] if pooling == "pooled" else pool(states["sequence_output"], mask)
        )
        # Text of each entry as it stands in a text: words have a space before them. Three stand for nothing.
        none = (vocab_lib.CLS, vocab_lib.SEP, vocab_lib.PAD)
        self._written = lambda: tf.constant(
            [
                "" if t in none else t.removeprefix("##") if t.startswith("##") and len(t) > 2 else f" {t}"
                for t in (vocab_lib.PAD, *self._vocab.tokens)
            ]
        )

    def signatures(self):
        """{signature name: `tf.function`}."""
        text, ids = tf.TensorSpec([None], tf.string, "text"), [tf.TensorSpec([None, None], tf.int32, n) for n in IDS]
        takes = {"tokenize": (self.tokenize, [text]), "detokenize": (self.detokenize, ids[:1])}
        if self._has_rows:
            takes |= {"embed": (self.embed, [text]), "encode": (self.encode, [text]), "from_ids": (self.from_ids, ids)}
        if isinstance(self.answering, fill_mask.FillMask):
            takes["choose"] = (self.choose, [text, tf.TensorSpec([None, None], tf.string, "candidates")])
        answer = self.answering.signature()
        takes["serving_default"] = (answer.python_function, answer.input_signature)
        reading = self.vectors.reading if self.vectors else lambda function: function
        return {
            name: tf.function(reading(function), input_signature=specs, autograph=False)
            for name, (function, specs) in takes.items()
        }

    def _rows(self, text, truncation):
        """(`packing.Rows`, whether each text was cut: bool [B])."""
        of = self.answering
        text, cut = byte_limit.cut(text, of.max_input_bytes)
        ids = of.tokenizer.tokenize(text, of.special_tokens, self._for_server)
        how = packing.cutting(truncation, of.max_seq_length)
        rows = packing.pack_rows(ids, of.max_seq_length, self._vocab, **how)
        return rows, rows.truncated | cut

    def _states(self, features):
        """The encoder's outputs: {"sequence_output": [N, L, D], "pooled_output": [N, D] if there is a pooler}."""
        if isinstance(self.answering, fill_mask.FillMask):
            return self.answering.encode(features)
        outputs = self._model(features)
        return {name: outputs[name] for name in ("sequence_output", "pooled_output") if name in outputs}

    def embed(self, text):
        """One vector a text; that of a text in windows is the mean of theirs."""
        rows, truncated = self._rows(text, self.answering.truncation)
        vectors = self._pool(_float32(self._states(rows.features)), rows.features["input_mask"])
        if self.answering.truncation == "windows":
            vectors = packing.mean_of_rows(vectors, rows.text, tf.size(text))
        if self.normalize:
            vectors = tf.math.l2_normalize(vectors, -1)
        return {"embedding": vectors, "truncated": truncated}

    def encode(self, text):
        """The encoder's outputs, and which of its places are no padding; of a text in windows, of the first."""
        rows, truncated = self._rows(
            text, "head" if self.answering.truncation == "windows" else self.answering.truncation
        )
        return {
            **_float32(self._states(rows.features)),
            "input_mask": rows.features["input_mask"],
            "truncated": truncated,
        }

    def from_ids(self, input_ids, input_mask, segment_ids):
        """All that the model gives."""
        input_ids = tf.ensure_shape(input_ids, [None, None])
        # An error if they differ, where a mask of one row would count for all.
        others = (tf.reshape(x, tf.shape(input_ids)) for x in (input_mask, segment_ids))
        features = dict(zip(IDS, (input_ids, *others)))
        if isinstance(self.answering, fill_mask.FillMask):
            return _float32(self.answering.answer(features))
        return _float32(self._model(features))

    def tokenize(self, text):
        """The wordpieces of texts, without [CLS] and [SEP]; at most as many as a row of the model has room for."""
        of = self.answering
        text, cut = byte_limit.cut(text, of.max_input_bytes)
        tokens = of.tokenizer.tokenize_with_offsets(text, of.special_tokens)
        count = tf.cast(tokens.ids.row_lengths(), tf.int32)
        place, most = packing.grid(count, of.max_seq_length - 2), len(self._vocab)
        ids = packing.pick(tokens.ids.flat_values, place, packing.NO_PLACE)
        return {
            "ids": ids,
            "tokens": tf.gather(tf.constant([*self._vocab.tokens, ""]), tf.where(ids < 0, most, ids)),
            "starts": packing.pick(tokens.starts.flat_values, place, packing.NO_PLACE),
            "ends": packing.pick(tokens.ends.flat_values, place, packing.NO_PLACE),
            "count": count,
            "truncated": (count > of.max_seq_length - 2) | cut,
        }

    def detokenize(self, input_ids):
        """Texts of ids: words with a space between them; [CLS], [SEP], [PAD] and ids below 0 stand for nothing."""
        # One further, since the first stands for ids below 0; those above all are an error of the gather.
        places = tf.maximum(tf.ensure_shape(input_ids, [None, None]), packing.NO_PLACE) + 1
        pieces = tf.gather(self._written(), places)
        return {"text": tf.strings.regex_replace(tf.strings.reduce_join(pieces, -1), "^ ", "")}

    def choose(self, text, candidates):
        """Answers each mask from candidates alone: what `FillMask.__call__` gives, of [B, C] words.

        A candidate that is not one wordpiece has the id -1 and probability 0, and comes last. Probabilities are those
        of the whole vocabulary.
        """
        of = self.answering
        text, cut = byte_limit.cut(text, of.max_input_bytes)
        # An error if there are not as many rows; no entry of a vocabulary is longer.
        candidates = tf.reshape(candidates, tf.stack([tf.size(text), tf.shape(candidates)[1]]))
        candidates = tf.strings.substr(candidates, 0, 256)
        pieces = of.tokenizer.tokenize(tf.reshape(candidates, [-1]), for_server=self._for_server)
        splits = tf.cast(pieces.row_splits, tf.int32)
        ids = packing.pick(pieces.flat_values, tf.where(splits[1:] - splits[:-1] == 1, splits[:-1], -1), -1)
        ids = tf.where(ids == self._vocab.unk_id, packing.NO_PLACE, ids)
        ids = tf.reshape(ids, tf.shape(candidates))  # [B, C]
        probabilities, about, grid = of.of_masks(text, self._for_server)
        shape = tf.concat([tf.shape(grid), [tf.shape(ids)[1]]], 0)  # [B, M, C]
        ids = tf.broadcast_to(tf.expand_dims(ids, 1), shape)
        found = (ids >= 0) & (tf.expand_dims(grid, -1) >= 0)
        at = tf.stack([tf.broadcast_to(tf.expand_dims(tf.maximum(grid, 0), -1), shape), tf.maximum(ids, 0)], -1)
        scores = tf.where(found, tf.gather_nd(probabilities, at), np.float32(-1))
        scores, order = tf.math.top_k(scores, shape[2])
        ids = tf.where(scores < 0, packing.NO_PLACE, tf.gather(ids, order, batch_dims=2))
        about["truncated"] |= cut
        return {**of.named(tf.maximum(scores, 0.0), ids), **about}
