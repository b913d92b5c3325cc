"""Raw strings -> tags of words, or answers from texts: featurize, model and decode, as one graph.

What a served model computes is what `tags.decode` and `answers.decode` make of the same model's scores (the tests say
where they differ): places are bytes of the given UTF-8 text, as the tokenizer gives them. `on_device` has only ops that
TFLite has as builtins, and tensorflow-text's (see `tfbert.fill_mask`); there is none that cuts strings.
"""

import numpy as np
import tensorflow as tf

from tfbert import checks
from tfbert.tasks import entity_metrics
from tfbert.text import byte_limit, packing, tokenizer
from tfbert.text.packing import NO_PLACE  # of what fills a row up that has fewer words, or fewer answers, than others

_NEVER = np.float32(np.finfo(np.float32).min)  # not infinite: TFLite cannot ask whether a number is finite


class _Texts(tf.Module):
    """Holds variables and tokenizer, and not the Keras model: see `fill_mask.FillMask`."""

    special_tokens = ()  # that are recognised in texts

    def __init__(self, model, vocab, max_seq_length, truncation, max_input_bytes, name):
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
        self.truncation, self.max_input_bytes = truncation, max_input_bytes

    def signature(self, strings=True):
        """The `tf.function` to save: of string [B] for each of `inputs`; without `strings`, that of `on_device`."""
        specs = [tf.TensorSpec([None], tf.string, name) for name in self.inputs]
        return tf.function(self.__call__ if strings else self.on_device, input_signature=specs, autograph=False)


def _cut_out(text, starts, ends):
    """Stretches of texts: string [B], int32 [B, K] twice (both -1 for none) -> string [B, K]."""
    starts, ends = tf.maximum(starts, 0), tf.maximum(ends, 0)
    return tf.strings.substr(tf.expand_dims(text, 1), starts, ends - starts)


class TagText(_Texts):
    """Tags the words of texts.

    Words are what stands between white space, as in the files that taggers learn from: a comma is a word of its own if
    it stands alone. A word of which the tokenizer leaves nothing is none here.

    Args:
        model: Of `heads.build_tagger`, with a float32 policy.
        vocab: The model's `Vocab`.
        labels: Names of its classes.
        max_seq_length: Longest row in wordpieces, [CLS] and [SEP] included.
        truncation: What becomes of a longer text: see `packing.cutting`. In windows a word is tagged in the one that
            has the most context of it, as in `tags.featurize`.
        max_input_bytes: See `byte_limit.cut`.
    """

    inputs = ("text",)
    top_k = 1

    def __init__(self, model, vocab, labels, max_seq_length, truncation=None, max_input_bytes=None):
        super().__init__(model, vocab, max_seq_length, truncation or "windows", max_input_bytes, "tag_text")
        self._cutting = lambda: packing.cutting(self.truncation, max_seq_length)
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

    def on_device(self, text):
        """Tags texts: what `__call__` gives, but for "words"."""
        tokens = self.tokenizer.tokenize_with_offsets(text)
        splits = tf.cast(tokens.ids.row_splits, tf.int32)
        starts, ends = tokens.starts.flat_values, tokens.ends.flat_values  # [T]
        rows = packing.pack_rows(tokens.ids, self.max_seq_length, self.vocab, **self._cutting())
        logits = self._logits(rows.features)  # [N, L, C]
        # Each wordpiece that was not cut off is best in one row: [T], where among all positions of all rows that is.
        at = tf.cast(tf.where(tf.reshape(rows.is_best, [-1]))[:, 0], tf.int32)
        of = tf.gather(tf.reshape(rows.place, [-1]), at)
        spots = packing.scatter(of, at + 1, tf.size(starts)) - 1
        # White space before it, or another text.
        before = tf.concat([[NO_PLACE], ends[:-1]], 0)[: tf.size(ends)]
        row = packing.row_numbers(splits)
        begins = (starts > before) | (tf.gather(splits, row) == tf.range(tf.size(starts)))
        first = tf.cast(tf.where(begins)[:, 0], tf.int32)  # wordpieces at which words begin
        last = tf.concat([first[1:], tf.shape(starts)], 0)[: tf.size(first)] - 1
        kept = tf.where(tf.gather(spots, first) >= 0)[:, 0]
        first, last = tf.gather(first, kept), tf.gather(last, kept)
        before = packing.sums_before(tf.cast(begins & (spots >= 0), tf.int32))  # words before each wordpiece
        words = packing.grid(tf.gather(before, splits[1:]) - tf.gather(before, splits[:-1]))  # [B, W]
        found = words >= 0
        scores = packing.pick(
            tf.gather(tf.reshape(logits, [-1, logits.shape[-1]]), tf.gather(spots, first)), words, 0.0
        )
        likeliest = tf.argmax(scores, -1, tf.int32)  # [B, W]
        tags = tf.gather_nd(self._repaired, tf.stack([_before(likeliest, len(self._repaired) - 1), likeliest], -1))
        return {
            "tags": tf.gather(self._strings(), tf.where(found, tags, len(self._repaired) - 1)),
            "starts": packing.pick(tf.gather(starts, first), words, NO_PLACE),
            "ends": packing.pick(tf.gather(ends, last), words, NO_PLACE),
            "probabilities": tf.where(found, tf.reduce_max(tf.nn.softmax(scores), -1), 0.0),
            "truncated": rows.truncated,
        }

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
        text, cut = byte_limit.cut(text, self.max_input_bytes)
        found = self.on_device(text)
        words = _cut_out(text, found["starts"], found["ends"])
        return {"words": words, **found, "truncated": found["truncated"] | cut}


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
        truncation: "windows" or None: there is no other way here.
        max_input_bytes: See `byte_limit.cut`; of contexts and of questions.
    """

    inputs = ("question", "context")

    def __init__(self, model, vocab, settings, max_seq_length, top_k=5, truncation=None, max_input_bytes=None):
        checks.require(
            truncation in (None, "windows"),
            "question answering looks at all of a context, in windows",
            f"truncation={truncation!r}",
        )
        super().__init__(model, vocab, max_seq_length, "windows", max_input_bytes, "answer_text")
        self._settings = lambda: settings
        self.top_k = top_k

    def _of_rows(self, logits, rows):
        """The likeliest spans of each row: (scores float32, first and last wordpiece int32), [N, K] each."""
        longest, shape = self._settings().max_answer_length, tf.shape(rows.place)
        begins = tf.where(rows.is_best, logits[..., 0], _NEVER)  # [N, L]
        ends = tf.where(rows.place >= 0, logits[..., 1], _NEVER)
        ends = tf.pad(ends, [[0, 0], [0, longest - 1]], constant_values=_NEVER)
        reach = tf.expand_dims(tf.range(shape[1]), 1) + tf.expand_dims(tf.range(longest), 0)  # [L, A]
        ends = tf.gather(ends, reach, axis=1)  # [N, L, A]
        scores = tf.expand_dims(begins, -1) + ends
        scores = tf.where((tf.expand_dims(begins, -1) > _NEVER) & (ends > _NEVER), scores, _NEVER)
        scores = tf.reshape(scores, [shape[0], shape[1] * longest])
        scores = tf.pad(scores, [[0, 0], [0, self.top_k]], constant_values=_NEVER)
        scores, at = tf.math.top_k(scores, self.top_k)
        column = tf.where(scores > _NEVER, at // longest, 0)
        first = tf.gather(rows.place, column, batch_dims=1)
        return scores, first, first + at % longest

    def _spans(self, logits, rows, first_row):
        """The likeliest spans of each text: (scores float32, first and last wordpiece int32), [B, K] each.

        Args:
            logits: float32 [N, L, 2].
            rows: `packing.Rows`.
            first_row: int32 [B], of each text.
        """
        found = [tf.reshape(x, [-1]) for x in self._of_rows(logits, rows)]
        of_text = tf.gather(rows.text, tf.range(tf.size(found[0])) // self.top_k)
        order = _likeliest_first(found[0], of_text)
        places = self.top_k * tf.expand_dims(first_row, 1) + tf.expand_dims(tf.range(self.top_k), 0)  # [B, K]
        return [tf.gather(x, tf.gather(order, places)) for x in found]

    def on_device(self, question, context):
        """Answers questions: what `__call__` gives, but for "answer" and "answers"."""
        settings = self._settings()
        asked, tokens = self.tokenizer.tokenize(question), self.tokenizer.tokenize_with_offsets(context)
        kept = _first(asked, settings.max_query_length)
        rows = packing.pack_rows(tokens.ids, self.max_seq_length, self.vocab, stride=settings.doc_stride, question=kept)
        first_row = packing.sums_before(packing.counts(rows.text, tf.shape(context)[0]))[:-1]  # [B]
        logits = self._logits(rows.features)  # [N, L, 2]
        scores, first, last = self._spans(logits, rows, first_row)
        found = scores > _NEVER
        starts = packing.pick(tokens.starts.flat_values, tf.where(found, first, NO_PLACE), NO_PLACE)
        ends = packing.pick(tokens.ends.flat_values, tf.where(found, last, NO_PLACE), NO_PLACE)
        is_answer = found[:, 0]
        outputs = {"starts": starts, "ends": ends, "scores": tf.where(found, scores, 0.0)}
        if settings.version_2_with_negative:
            null = tf.reduce_sum(logits[:, 0], -1)  # [N]
            null = tf.gather(null, tf.gather(_likeliest_first(-null, rows.text), first_row))  # [B], the least of a text
            outputs["null_odds"] = null - outputs["scores"][:, 0]
            is_answer &= outputs["null_odds"] <= settings.null_score_diff_threshold
            scores = tf.concat([scores, tf.expand_dims(null, 1)], 1)
        probabilities = tf.nn.softmax(scores)[:, : self.top_k]
        return {
            **outputs,
            "answer_start": tf.where(is_answer, starts[:, 0], NO_PLACE),
            "answer_end": tf.where(is_answer, ends[:, 0], NO_PLACE),
            "probabilities": tf.where(found, probabilities, 0.0),
            "truncated": asked.row_lengths() > settings.max_query_length,
        }

    def __call__(self, question, context):
        """Answers questions.

        Args:
            question: string [B].
            context: string [B].

        Returns:
            A dict:
              "answer": string [B], "" for none.
              "answer_start", "answer_end": int32 [B], the bytes of the context at which it stands; -1 for none.
              "answers": string [B, K], the likeliest stretches of the context; "" if it has fewer.
              "starts", "ends": int32 [B, K], the bytes of the context at which they begin and end; -1 there.
              "scores": float32 [B, K], how likely they are; 0 there.
              "probabilities": float32 [B, K], among these and, as SQuAD 2.0 allows it, no answer; 0 there.
              "null_odds": float32 [B], how far the score of no answer is above the best; as SQuAD 2.0 allows it.
              "truncated": bool [B], whether the question was cut, or the context to `max_input_bytes`.
        """
        (question, cut), (context, cut_too) = (byte_limit.cut(x, self.max_input_bytes) for x in (question, context))
        context = tf.reshape(context, tf.shape(question))  # an error if there are not as many
        found = self.on_device(question, context)
        answer = (tf.expand_dims(found[name], 1) for name in ("answer_start", "answer_end"))
        return {
            "answer": tf.squeeze(_cut_out(context, *answer), 1),
            "answers": _cut_out(context, found["starts"], found["ends"]),
            **found,
            "truncated": found["truncated"] | cut | cut_too,
        }


def _likeliest_first(scores, text):
    """The order of scores [M] by text, and in each the largest first, as int32 [M]; text int32 [M] ascends.

    Sorted twice, since top_k leaves equal ones in their order: a rectangle of texts and scores could be much larger.
    """
    ranked = tf.math.top_k(scores, tf.size(scores))[1]
    return tf.gather(ranked, tf.math.top_k(-tf.gather(text, ranked), tf.size(scores))[1])


def _first(ids, most):
    """The first wordpieces of each row, at most so many: a RaggedTensor."""
    splits = tf.cast(ids.row_splits, tf.int32)
    place = tf.range(tf.size(ids.flat_values)) - tf.gather(splits, packing.row_numbers(splits))
    kept = place < most
    splits = tf.gather(packing.sums_before(tf.cast(kept, tf.int32)), splits)
    return tf.RaggedTensor.from_row_splits(
        tf.gather(ids.flat_values, tf.where(kept)[:, 0]), tf.cast(splits, tf.int64), validate=False
    )
