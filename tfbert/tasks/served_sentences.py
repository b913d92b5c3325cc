"""Texts or pairs of texts -> labels with probabilities, or scores: featurize, model and decode as one graph.

It is what both exports run, so it has only ops that TFLite has as builtins, and tensorflow-text's (see
`tfbert.fill_mask`).
"""

import tensorflow as tf

from tfbert import checks
from tfbert.tasks.sentence_files import CLASSIFY, REGRESS
from tfbert.text import packing, tokenizer


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
        max_seq_length: Longest row, or chunk of a row, in wordpieces; longer texts are cut.
        top_k: K, the labels of an answer; all where there are fewer.
    """

    def __init__(self, settings, model, vocab, max_seq_length, top_k=5):
        super().__init__(name="served_sentences")
        checks.require(top_k >= 1, "top_k must be at least 1", f"top_k={top_k}")
        self.weights = {v.path: v.value for v in model.variables}
        self.tokenizer = tokenizer.Tokenizer(vocab)
        self._model = lambda features: model(features, training=False)  # a function is not tracked
        self._pack = lambda ids: pack(settings, ids, max_seq_length, vocab)
        self._labels = lambda: tf.constant(list(settings.labels))
        self._kind, self.vocab, self.max_seq_length = settings.kind, vocab, max_seq_length
        self.top_k = min(top_k, len(settings.labels))
        self._pairs = bool(settings.text_pair_column)

    @property
    def inputs(self):
        """Names of what it takes."""
        return ("text", "text_pair") if self._pairs else ("text",)

    def signature(self):
        """The `tf.function` to save: string [B] for each of `inputs`."""

        def of_text(text):
            return self(text)

        def of_pair(text, text_pair):
            return self(text, text_pair)

        specs = [tf.TensorSpec([None], tf.string, name) for name in self.inputs]
        return tf.function(of_pair if self._pairs else of_text, input_signature=specs)

    def featurize(self, *texts):
        """Makes the model's inputs of texts; no special token is recognised in them.

        Args:
            *texts: string [B], one or two. Words that are not UTF-8 become [UNK].

        Returns:
            ({"input_ids", "input_mask", "segment_ids"}: int32 [B, L], truncated bool [B]); L is the longest row of
            the batch, or whole chunks that hold it.
        """
        features, truncated = self._pack([self.tokenizer.tokenize(text) for text in texts])
        # The maximum of no rows is the least integer.
        longest = tf.maximum(tf.reduce_max(tf.reduce_sum(features["input_mask"], axis=1)), 2)
        whole_chunks = (longest + self.max_seq_length - 1) // self.max_seq_length * self.max_seq_length
        longest = tf.where(longest > self.max_seq_length, whole_chunks, longest)
        return {name: value[:, :longest] for name, value in features.items()}, truncated

    def __call__(self, *texts):
        """Answers texts, string [B] each.

        Returns:
            "labels" string [B, K] and "probabilities" float32 [B, K], likeliest first; or "score" float32 [B]. And
            "truncated" bool [B], whether the text was cut.
        """
        features, truncated = self.featurize(*texts)
        logits = self._model(features)["logits"]  # [B, C]
        if self._kind == REGRESS:
            return {"score": tf.squeeze(logits, -1), "truncated": truncated}
        probabilities = tf.nn.softmax(logits) if self._kind == CLASSIFY else tf.sigmoid(logits)
        probabilities, classes = tf.math.top_k(probabilities, self.top_k)
        return {
            "labels": tf.gather(self._labels(), classes),
            "probabilities": probabilities,
            "truncated": truncated,
        }
