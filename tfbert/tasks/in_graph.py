"""Raw strings -> tags of words, or answers from texts: featurize, model and decode, as one graph.

What a served model computes is what `tags.decode` and `answers.decode` make of the same model's scores (the tests say
where they differ): places are bytes of the given UTF-8 text, as the tokenizer gives them.
"""

import numpy as np
import tensorflow as tf

from tfbert import checks
from tfbert.tasks import entity_metrics
from tfbert.text import packing, tokenizer

NO_PLACE = -1  # of what fills a row up that has fewer words, or fewer answers, than others
_NEVER = -np.inf


class _Texts(tf.Module):
    """Holds variables and tokenizer, and not the Keras model: see `fill_mask.FillMask`."""

    def __init__(self, model, vocab, max_seq_length, name):
        super().__init__(name=name)
        embeddings = model.get_layer("embeddings")
        rows, longest = embeddings.word_embeddings.shape[0], embeddings.position_embeddings.shape[0]
        checks.require(
            len(vocab) == rows,
            "the vocabulary must have an entry for each row of the model's word embeddings",
            f"{len(vocab)} entries, {rows} rows",
        )
        checks.require(
            max_seq_length <= longest,
            f"max_seq_length must be at most the model's max_position_embeddings {longest}",
            f"max_seq_length={max_seq_length}",
        )
        self.weights = {v.path: v.value for v in model.variables}
        self.tokenizer = tokenizer.Tokenizer(vocab)
        self._logits = lambda features: model(features, training=False)["logits"]  # a function is not tracked
        self.vocab, self.max_seq_length = vocab, max_seq_length

    def signature(self):
        """The `tf.function` to save: of string [B] for each of `inputs`."""
        specs = [tf.TensorSpec([None], tf.string, name) for name in self.inputs]
        return tf.function(self.__call__, input_signature=specs)


def _cut_out(text, starts, ends):
    """Stretches of texts: string [B], int32 [B, K] twice (both 0 for none) -> string [B, K]."""
    return tf.strings.substr(tf.expand_dims(text, 1), starts, ends - starts)


class TagText(_Texts):
    """Tags the words of texts.

    Words are what stands between white space, as in the files that taggers learn from: a comma is a word of its own if
    it stands alone. A text that is too long is cut; a word of which the tokenizer leaves nothing is none here.

    Args:
        model: Of `heads.build_tagger`, with a float32 policy.
        vocab: The model's `Vocab`.
        labels: Names of its classes.
        max_seq_length: Longest text in wordpieces, [CLS] and [SEP] included.
    """

    inputs = ("text",)
    top_k = 1

    def __init__(self, model, vocab, labels, max_seq_length):
        super().__init__(model, vocab, max_seq_length, "tag_text")
        self._strings = lambda: tf.constant([*labels, ""])
        entities = entity_metrics.are_entities(labels)
        # [tag before, tag] -> tag; before the first word stands what is no label.
        self._repaired = np.array(
            [
                [labels.index(entity_metrics.repaired(tag, before, labels)) if entities else i
                 for i, tag in enumerate(labels)]
                for before in (*labels, "O")
            ],
            np.int32,
        )  # fmt: skip

    def __call__(self, text):
        """Tags texts.

        Args:
            text: string [B].

        Returns:
            A dict; W is the number of words of the text that has most, at least 1:
              "words", "tags": string [B, W]; "" after a text's last word.
              "starts", "ends": int32 [B, W], the bytes of the text at which the word begins and ends; -1 there.
              "probabilities": float32 [B, W], of the likeliest tag; 0 there.
              "truncated": bool [B], whether the text was cut.
        """
        tokens = self.tokenizer.tokenize_with_offsets(text)
        features = packing.pack_single(tokens.ids, self.max_seq_length, self.vocab)
        length = tf.reduce_sum(features["input_mask"], 1) - 2  # [B], wordpieces of the text
        most = tf.maximum(tf.reduce_max(length), 1)
        logits = self._logits({name: x[:, : most + 2] for name, x in features.items()})[:, 1:-1]  # [B, most, C]
        starts, ends = (x.to_tensor(NO_PLACE)[:, :most] for x in (tokens.starts, tokens.ends))
        starts, ends = (tf.pad(x, [[0, 0], [0, most - tf.shape(x)[1]]]) for x in (starts, ends))
        place = tf.range(most)[tf.newaxis, :]
        before = tf.pad(ends[:, :-1], [[0, 0], [1, 0]], constant_values=NO_PLACE)
        begins = (place < length[:, tf.newaxis]) & (starts > before)  # white space before it
        words = tf.maximum(tf.reduce_max(tf.reduce_sum(tf.cast(begins, tf.int32), 1)), 1)
        # The leftmost have the highest scores.
        scores, first = tf.math.top_k(tf.cast(begins, tf.int32) * (most - place), words)  # [B, W]
        found = scores > 0
        following = tf.where(found, first, length[:, tf.newaxis])
        following = tf.concat([following[:, 1:], length[:, tf.newaxis]], 1)
        word_starts = tf.where(found, tf.gather(starts, first, batch_dims=1), 0)
        word_ends = tf.where(found, tf.gather(ends, tf.maximum(following - 1, 0), batch_dims=1), 0)
        scores = tf.gather(logits, first, batch_dims=1)  # [B, W, C]
        likeliest = tf.argmax(scores, -1, tf.int32)
        tags = tf.gather_nd(self._repaired, tf.stack([_before(likeliest, len(self._repaired) - 1), likeliest], -1))
        return {
            "words": _cut_out(text, word_starts, word_ends),
            "tags": tf.gather(self._strings(), tf.where(found, tags, len(self._repaired) - 1)),
            "starts": tf.where(found, word_starts, NO_PLACE),
            "ends": tf.where(found, word_ends, NO_PLACE),
            "probabilities": tf.where(found, tf.reduce_max(tf.nn.softmax(scores), -1), 0.0),
            "truncated": tokens.ids.row_lengths() > self.max_seq_length - 2,
        }


def _before(values, first):
    """What stands before each value of a row: int32 [B, W]; `first` before the first."""
    return tf.pad(values[:, :-1], [[0, 0], [1, 0]], constant_values=first)


class AnswerText(_Texts):
    """Answers questions with stretches of the texts that they are asked about, however long those are.

    Args:
        model: Of `heads.build_span_finder`, with a float32 policy.
        vocab: The model's `Vocab`.
        settings: `answers.Settings`.
        max_seq_length: Longest row in wordpieces; of a longer text there are windows.
        top_k: K, the answers to each question.
    """

    inputs = ("question", "context")

    def __init__(self, model, vocab, settings, max_seq_length, top_k=5):
        super().__init__(model, vocab, max_seq_length, "answer_text")
        self._settings = lambda: settings
        self.top_k = top_k

    def _windows(self, question, tokens):
        """The model's inputs, and where in the context each wordpiece of a window stands.

        Args:
            question: int32 RaggedTensor [B, (T)].
            tokens: `tokenizer.Tokens` of the contexts.

        Returns:
            ({"input_ids", "input_mask", "segment_ids"}: int32 [B, W, L],
            place int32 [B, W, L] in the context, -1 for what is not of it,
            is_best bool [B, W, L], as of `spans.Window`, real bool [B, W], whether there is such a window).
        """
        settings, vocab = self._settings(), self.vocab
        query = question.to_tensor(vocab.pad_id, shape=[None, settings.max_query_length])
        asked = tf.minimum(tf.cast(question.row_lengths(), tf.int32), settings.max_query_length)[
            :, tf.newaxis
        ]  # [B, 1]
        ids = tf.pad(tokens.ids.to_tensor(vocab.pad_id), [[0, 0], [0, 1]])  # [B, T], T at least 1
        length = tf.cast(tokens.ids.row_lengths(), tf.int32)[:, tf.newaxis]  # [B, 1]
        room = self.max_seq_length - 3 - asked
        stride = settings.doc_stride
        count = 1 + (tf.maximum(length - room, 0) + stride - 1) // stride  # [B, 1]
        number = tf.range(tf.maximum(tf.reduce_max(count), 1))[tf.newaxis, :]  # [1, W]; of no rows the least integer
        begin, real = number * stride, number < count
        end = tf.maximum(tf.minimum(begin + room, length), begin)  # [B, W]
        head = tf.expand_dims(asked + 2, -1)  # [B, 1, 1], where the window begins in its row
        last = head + tf.expand_dims(end - begin, -1)  # [B, W, 1], its [SEP]
        row = tf.range(tf.maximum(tf.reduce_max(last) + 1, 3))[tf.newaxis, tf.newaxis, :]  # [1, 1, L]
        place = tf.expand_dims(begin, -1) + row - head  # [B, W, L]
        inside = (row >= head) & (row < last) & tf.expand_dims(real, -1)
        place = tf.where(inside, place, NO_PLACE)
        of_query = tf.gather(query, tf.clip_by_value(row[0, 0] - 1, 0, settings.max_query_length - 1), axis=1)
        packed = tf.gather(ids, tf.maximum(place, 0), batch_dims=1)
        packed = tf.where(row < head, tf.expand_dims(of_query, 1), packed)
        packed = tf.where(row == 0, vocab.cls_id, tf.where((row == head - 1) | (row == last), vocab.sep_id, packed))
        mask = row <= last
        features = {
            "input_ids": tf.where(mask, packed, vocab.pad_id),
            "input_mask": tf.cast(mask, tf.int32),
            "segment_ids": tf.cast(mask & (row >= head), tf.int32),
        }
        of_text = tf.range(tf.shape(ids)[1])[tf.newaxis, tf.newaxis, :]  # [1, 1, T]
        left, right = of_text - tf.expand_dims(begin, -1), tf.expand_dims(end, -1) - 1 - of_text
        context = tf.minimum(left, right)  # [B, W, T]; see `windows.best`
        context = tf.where(context >= 0, 100 * context + tf.expand_dims(end - begin, -1), -1)
        best = tf.argmax(context, 1, tf.int32)  # [B, T]
        is_best = inside & (tf.gather(best, tf.maximum(place, 0), batch_dims=1) == tf.expand_dims(number, -1))
        return features, place, is_best, real

    def _spans(self, logits, place, is_best):
        """The likeliest spans: (scores float32, first and last wordpiece of the context int32), [B, K] each."""
        longest, shape = self._settings().max_answer_length, tf.shape(place)
        begins = tf.where(is_best, logits[..., 0], _NEVER)  # [B, W, L]
        ends = tf.where(place >= 0, logits[..., 1], _NEVER)
        ends = tf.pad(ends, [[0, 0], [0, 0], [0, longest - 1]], constant_values=_NEVER)
        reach = tf.range(shape[2])[:, tf.newaxis] + tf.range(longest)[tf.newaxis, :]  # [L, A]
        scores = tf.expand_dims(begins, -1) + tf.gather(ends, reach, axis=2)  # [B, W, L, A]
        scores = tf.reshape(scores, [shape[0], shape[1] * shape[2] * longest])
        scores = tf.pad(scores, [[0, 0], [0, self.top_k]], constant_values=_NEVER)
        scores, at = tf.math.top_k(scores, self.top_k)
        at = tf.where(tf.math.is_finite(scores), at, 0)
        first = tf.gather(tf.reshape(place, [shape[0], shape[1] * shape[2]]), at // longest, batch_dims=1)
        return scores, first, first + at % longest

    def __call__(self, question, context):
        """Answers questions.

        Args:
            question: string [B].
            context: string [B].

        Returns:
            A dict:
              "answer": string [B], "" for none.
              "answers": string [B, K], the likeliest stretches of the context; "" if it has fewer.
              "starts", "ends": int32 [B, K], the bytes of the context at which they begin and end; -1 there.
              "scores": float32 [B, K], how likely they are; 0 there.
              "probabilities": float32 [B, K], among these and, as SQuAD 2.0 allows it, no answer; 0 there.
              "null_odds": float32 [B], how far the score of no answer is above the best; as SQuAD 2.0 allows it.
              "truncated": bool [B], whether the question was cut.
        """
        settings = self._settings()
        asked, tokens = self.tokenizer.tokenize(question), self.tokenizer.tokenize_with_offsets(context)
        features, place, is_best, real = self._windows(asked, tokens)
        shape = tf.shape(place)
        logits = self._logits({name: tf.reshape(x, [-1, shape[2]]) for name, x in features.items()})
        logits = tf.reshape(logits, tf.concat([shape, [2]], 0))  # [B, W, L, 2]
        scores, first, last = self._spans(logits, place, is_best)
        found = tf.math.is_finite(scores)
        pad = [[0, 0], [0, 1]]  # a context without wordpieces has something to gather, too
        starts = tf.gather(tf.pad(tokens.starts.to_tensor(), pad), tf.where(found, first, 0), batch_dims=1)
        ends = tf.gather(tf.pad(tokens.ends.to_tensor(), pad), tf.where(found, last, 0), batch_dims=1)
        starts, ends = (tf.where(found, x, 0) for x in (starts, ends))
        texts = _cut_out(context, starts, ends)
        outputs = {
            "answer": texts[:, 0],
            "answers": texts,
            "starts": tf.where(found, starts, NO_PLACE),
            "ends": tf.where(found, ends, NO_PLACE),
            "scores": tf.where(found, scores, 0.0),
            "truncated": asked.row_lengths() > settings.max_query_length,
        }
        if settings.version_2_with_negative:
            null = tf.reduce_min(tf.where(real, tf.reduce_sum(logits[:, :, 0], -1), np.inf), 1)  # [B]
            odds = null - tf.where(found[:, 0], scores[:, 0], 0.0)
            outputs["answer"] = tf.where(odds > settings.null_score_diff_threshold, "", texts[:, 0])
            outputs["null_odds"] = odds
            scores = tf.concat([scores, null[:, tf.newaxis]], 1)
        probabilities = tf.nn.softmax(tf.where(tf.math.is_finite(scores), scores, scores.dtype.min))[:, : self.top_k]
        return {**outputs, "probabilities": tf.where(found, probabilities, 0.0)}
