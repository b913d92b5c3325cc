"""Texts or pairs of texts -> labels with probabilities, or scores: featurize, model and decode as one graph.

It is what both exports run, so it has only ops that TFLite has as builtins, and tensorflow-text's (see
`tfbert.fill_mask`).
"""

import tensorflow as tf

from tfbert import checks
from tfbert.tasks.sentence_files import CLASSIFY, REGRESS
from tfbert.text import byte_limit, packing, tokenizer


def pack(settings, ids, max_seq_length, vocab):
    """The model's inputs of wordpieces: `packing.pack_single` or `pack_chunks` of one text, `pack_pair` of two.

    Args:
        settings: `sentence_files.Settings`.
        ids: One int32 RaggedTensor [B, (T)], or two.
        max_seq_length: L; of chunks, each one's.
        vocab: The `Vocab`.

    Returns:
        ({"input_ids", "input_mask", "segment_ids"}: int32 [B, L], or [B, n L] of chunks; truncated bool [B], whether
        something was cut off).
    """
    lengths = tf.add_n([tf.cast(x.row_lengths(), tf.int32) for x in ids])
    if settings.chunked:
        truncated = lengths > settings.max_chunks * (max_seq_length - 2)
        return packing.pack_chunks(*ids, max_seq_length, settings.max_chunks, vocab), truncated
    truncated = lengths + 1 + len(ids) > max_seq_length
    if len(ids) == 2:
        return packing.pack_pair(*ids, max_seq_length, vocab), truncated
    return packing.pack_single(*ids, max_seq_length, vocab, settings.kept_head(max_seq_length)), truncated


class ServedSentences(tf.Module):
    """Answers texts with a fine-tuned model.

    The module holds the variables and not the Keras model, as `fill_mask.FillMask` does.

    Args:
        settings: The `sentence_files.Settings` of the task.
        model: Of `heads.build_classifier`, with a float32 policy.
        vocab: The model's `Vocab`.
        max_seq_length: Longest row, or chunk of a row, in wordpieces.
        top_k: K, the labels of an answer; all where there are fewer.
        truncation: What becomes of a single text that is longer: see `packing.cutting`; None for what it was trained
            with. The scores of windows are the means of their logits. Of pairs the longer text loses its end, and
            chunks are as they were in training.
        max_input_bytes: See `byte_limit.cut`.
    """

    special_tokens = ()  # that are recognised in texts

    def __init__(self, settings, model, vocab, max_seq_length, top_k=5, truncation=None, max_input_bytes=None):
        super().__init__(name="served_sentences")
        checks.require(top_k >= 1, "top_k must be at least 1", f"top_k={top_k}")
        self._pairs = bool(settings.text_pair_column)
        self.truncation, self.max_input_bytes = truncation or settings.long_text, max_input_bytes
        checks.require(
            not self._pairs or self.truncation == "head",
            "truncation is for single texts; of a pair the longer one is cut at its end",
            f"truncation={truncation!r}",
        )
        self.max_chunks = settings.max_chunks if settings.chunked else 1
        checks.require(
            not (settings.chunked and truncation),
            "truncation is for runs whose texts are one row; this one was trained on chunks",
            f"truncation={truncation!r}, long_text={settings.long_text!r}",
        )
        self._pack = lambda ids: pack(settings, ids, max_seq_length, vocab)
        self.weights = {v.path: v.value for v in model.variables}
        self.tokenizer = tokenizer.Tokenizer(vocab)
        self._model = lambda features: model(features, training=False)  # a function is not tracked
        self._labels = lambda: tf.constant(list(settings.labels))
        self._kind, self.vocab, self.max_seq_length = settings.kind, vocab, max_seq_length
        self.top_k = min(top_k, len(settings.labels))

    @property
    def inputs(self):
        """Names of what it takes."""
        return ("text", "text_pair") if self._pairs else ("text",)

    def signature(self, strings=True):
        """The `tf.function` to save: string [B] for each of `inputs`; without `strings`, that of `on_device`."""
        answer = self if strings else self.on_device

        def of_text(text):
            return answer(text)

        def of_pair(text, text_pair):
            return answer(text, text_pair)

        specs = [tf.TensorSpec([None], tf.string, name) for name in self.inputs]
        return tf.function(of_pair if self._pairs else of_text, input_signature=specs, autograph=False)

    def featurize(self, *texts, for_server=False):
        """Makes the model's inputs of texts; no special token is recognised in them.

        Args:
            *texts: string [B], one or two. Words that are not UTF-8 become [UNK].
            for_server: Whether there may be operations that TFLite lacks, and so fewer.

        Returns:
            ({"input_ids", "input_mask", "segment_ids"}: int32 [N, L], which text each row is of: int32 [N], whether a
            text was cut: bool [B]); L is the longest row of the batch, or whole chunks that hold it.
        """
        ids = [self.tokenizer.tokenize(text, for_server=for_server) for text in texts]
        if not self._pairs and self.max_chunks == 1:
            cutting = packing.cutting(self.truncation, self.max_seq_length)
            rows = packing.pack_rows(*ids, self.max_seq_length, self.vocab, **cutting)
            return rows.features, rows.text, rows.truncated
        features, truncated = self._pack(ids)
        # The maximum of no rows is the least integer.
        longest = tf.maximum(tf.reduce_max(tf.reduce_sum(features["input_mask"], axis=1)), 2)
        whole_chunks = (longest + self.max_seq_length - 1) // self.max_seq_length * self.max_seq_length
        longest = tf.where(longest > self.max_seq_length, whole_chunks, longest)
        features = {name: value[:, :longest] for name, value in features.items()}
        return features, tf.range(tf.size(truncated)), truncated

    def on_device(self, *texts):
        """What `__call__` gives, of texts of any length, and without ops that TFLite lacks."""
        return self._answers(texts, for_server=False)

    def _answers(self, texts, for_server):
        features, text, truncated = self.featurize(*texts, for_server=for_server)
        logits = self._model(features)["logits"]  # [N, C]
        if self.truncation == "windows":
            logits = packing.mean_of_rows(logits, text, tf.size(truncated))  # [B, C]
        if self._kind == REGRESS:
            return {"score": tf.squeeze(logits, -1), "truncated": truncated}
        probabilities = tf.nn.softmax(logits) if self._kind == CLASSIFY else tf.sigmoid(logits)
        probabilities, classes = tf.math.top_k(probabilities, self.top_k)
        return {
            "labels": tf.gather(self._labels(), classes),
            "probabilities": probabilities,
            "truncated": truncated,
        }

    def __call__(self, *texts):
        """Answers texts, string [B] each.

        Returns:
            "labels" string [B, K] and "probabilities" float32 [B, K], likeliest first; or "score" float32 [B]. And
            "truncated" bool [B], whether a text was cut.
        """
        texts, cut = zip(*(byte_limit.cut(text, self.max_input_bytes) for text in texts))
        texts = [tf.reshape(text, tf.shape(texts[0])) for text in texts]  # an error if there are not as many
        found = self._answers(texts, for_server=True)
        return {**found, "truncated": tf.reduce_any(tf.stack([found["truncated"], *cut]), 0)}
