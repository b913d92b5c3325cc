"""Text with [MASK]s -> likely wordpieces for each: featurize, model and decode, as one graph.

`tfbert.predict`, the SavedModel and the .tflite all run this code. It uses only ops that TFLite has as
builtins, tensorflow-text's custom ops, and no others: no ragged slices, `tf.expand_dims` instead of
indexing by None (both would need the Flex delegate, which the interpreter with custom ops refuses).
"""

import typing

import keras
import tensorflow as tf

from tfbert import checks, largest, run_folder
from tfbert.text import byte_limit, packing, tokenizer
from tfbert.text import vocab as vocab_lib

# What fills `ids` and `positions` where a row has fewer masks than the batch's longest.
NO_ID = -1


class FillMask(tf.Module):
    """Answers texts with a pre-trained model.

    The module holds the variables and not the Keras model: a Keras model inside a `tf.Module` is saved
    with copies of its variables that only `tf.saved_model.load` restores (keras issue 19274).

    Args:
        model: Of `heads.build_pretrainer`, with a float32 policy.
        vocab: The model's `Vocab`.
        max_seq_length: Longest sequence in wordpieces, [CLS] and [SEP] included; longer texts are cut.
        top_k: K, the answers for each mask.
        max_masks: The most masks of a text that are answered, from the left.
        truncation: What becomes of longer texts: see `packing.cutting`. In windows a mask is answered in the one that
            has the most context of it.
        max_input_bytes: See `byte_limit.cut`.
    """

    inputs = ("text",)
    special_tokens = (vocab_lib.MASK,)  # that are recognised in texts

    def __init__(self, model, vocab, max_seq_length, top_k=5, max_masks=20, truncation="head", max_input_bytes=None):
        super().__init__(name="fill_mask")
        embeddings = model.get_layer("embeddings")
        rows, longest = embeddings.word_embeddings.shape[0], embeddings.position_embeddings.shape[0]
        checks.require(
            len(vocab) == rows,
            "the vocabulary must have an entry for each row of the model's word embeddings",
            f"{len(vocab)} entries, {rows} rows",
        )
        checks.require(1 <= top_k <= rows, f"top_k must be from 1 to the vocabulary's size {rows}", f"top_k={top_k}")
        checks.require(max_masks >= 1, "max_masks must be at least 1", f"max_masks={max_masks}")
        checks.require(
            3 <= max_seq_length <= longest,
            f"max_seq_length must be from 3 to the model's max_position_embeddings {longest}",
            f"max_seq_length={max_seq_length}",
        )
        self.weights = {v.path: v.value for v in model.variables}
        self.tokenizer = tokenizer.Tokenizer(vocab)
        # Whether the last layer can be computed for masks alone.
        self._asks = "asked_output" in model.output
        inputs = {x.name: x for x in model.inputs if self._asks or x.name != "masked_lm_positions"}
        outputs = {name: x for name, x in model.output.items() if name != "masked_lm_logits"}
        # Functions are not tracked. Only states of masks are scored: the vocabulary is the widest axis of all.
        encoder = keras.Model(inputs, {**outputs, "table": embeddings.output[1]})
        self._encoder = lambda features: encoder(features, training=False)
        head = model.get_layer("predictions")
        self._score = lambda states, table: head.score(states, table if head.tied else None)
        # A tuple would be tracked too, entry by entry; the entry before the first token stands for no answer.
        self._strings = lambda: tf.constant(["", *vocab.tokens])
        self.vocab, self.max_seq_length, self.top_k, self.max_masks = vocab, max_seq_length, top_k, max_masks
        self.truncation, self.max_input_bytes = truncation, max_input_bytes
        self._cutting = lambda: packing.cutting(truncation, max_seq_length)

    def rows(self, text, for_server=False):
        """Makes rows of texts.

        The literal `[MASK]` is the only special token that is recognised: a user's `[SEP]` or `[CLS]` is
        text, and so is `[mask]`. Rows are as long as the longest row of the batch, not `max_seq_length`.

        Args:
            text: string [B]. Words that are not UTF-8 become [UNK].
            for_server: Whether there may be operations that TFLite lacks, and so fewer.

        Returns:
            (`packing.Rows`, the wordpieces int32 RaggedTensor [B, (T)]).
        """
        ids = self.tokenizer.tokenize(text, self.special_tokens, for_server)
        return packing.pack_rows(ids, self.max_seq_length, self.vocab, **self._cutting()), ids

    def encode(self, features):
        """The encoder's outputs "sequence_output" [B, L, D] and "pooled_output" [B, D], of the model's inputs."""
        outputs = self._encode(features)
        return {name: outputs[name] for name in ("sequence_output", "pooled_output")}

    def _encode(self, features, places=None):
        """What the model gives; if it can be asked for some, the states at places int32 [N, F], or of [CLS]."""
        if self._asks:
            places = tf.zeros_like(features["input_ids"][:, :1]) if places is None else places
            features = {**features, "masked_lm_positions": places}
        return self._encoder(features)

    def answer(self, features):
        """Answers each mask in the model's inputs.

        Args:
            features: {"input_ids", "input_mask", "segment_ids"}: int32 [B, L].

        Returns:
            A dict; M is the most masks that a row has, at least 1 and at most `max_masks`:
              "tokens": string [B, M, K], likeliest first; "" where there is no mask.
              "ids": int32 [B, M, K], -1 where there is no mask.
              "probabilities": float32 [B, M, K], of the softmax over the whole vocabulary; 0 where no mask.
              "positions": int32 [B, M], of the masks in `input_ids`, ascending; -1 where there is no mask.
            And the encoder's outputs and "next_sentence_logits", which cost nothing more.
        """
        at, grid, _ = self._masks(features, features["input_mask"] > 0)
        outputs, probabilities = self._probabilities(features, at)
        column = at % tf.maximum(tf.shape(features["input_ids"])[1], 1)
        return {**outputs, **self.best(probabilities, grid), "positions": packing.pick(column, grid, NO_ID)}

    def of_masks(self, text, for_server=False):
        """What is likely at each mask of texts.

        Args:
            text, for_server: As of `rows`.

        Returns:
            (probabilities float32 [masks, V], one row that means nothing if there is no mask; "positions",
            "mask_count" and "truncated" as of `__call__`; int32 [B, M], which of the probabilities are those of each
            mask, or -1).
        """
        rows, ids = self.rows(text, for_server)
        several = (rows.text, tf.size(rows.truncated)) if self.truncation == "windows" else ()
        at, grid, of_rows = self._masks(rows.features, rows.is_best, *several)
        _, probabilities = self._probabilities(rows.features, at, of_rows)
        splits = tf.cast(ids.row_splits, tf.int32)
        row = at // tf.shape(rows.place)[1]
        of_text = tf.gather(rows.text, row) if several else row
        positions = 1 + tf.gather(tf.reshape(rows.place, [-1]), at) - tf.gather(splits, of_text)
        masks = packing.sums_before(tf.cast(tf.equal(ids.flat_values, self.vocab.mask_id), tf.int32))
        about = {
            "positions": packing.pick(positions, grid, NO_ID),
            "mask_count": tf.gather(masks, splits[1:]) - tf.gather(masks, splits[:-1]),
            "truncated": rows.truncated,
        }
        return probabilities, about, grid

    def on_device(self, text):
        """What `__call__` gives, of texts of any length, and without ops that TFLite lacks."""
        return self._answers(text, for_server=False)

    def _answers(self, text, for_server):
        probabilities, about, grid = self.of_masks(text, for_server)
        return {**self.best(probabilities, grid), **about}

    def __call__(self, text):
        """Answers texts.

        Args:
            text: string [B].

        Returns:
            "tokens", "ids", "probabilities" as of `answer`; "positions" int32 [B, M], of the masks among the wordpieces
            of the whole text, from 1, -1 where there is no mask; "mask_count" int32 [B], masks in the whole text;
            "truncated" bool [B].
        """
        text, cut = byte_limit.cut(text, self.max_input_bytes)
        found = self._answers(text, for_server=True)
        return {**found, "truncated": found["truncated"] | cut}

    def signature(self, strings=True):
        """The `tf.function` to save: text, string [B]; without `strings`, that of `on_device`."""
        function = self.__call__ if strings else self.on_device
        return tf.function(function, input_signature=[tf.TensorSpec([None], tf.string, "text")], autograph=False)

    def best(self, probabilities, grid):
        """{"tokens", "ids", "probabilities"} [B, M, K] of probabilities [masks, V] and their places [B, M]."""
        probabilities, ids = largest.top_k(probabilities, self.top_k)
        return self.named(packing.pick(probabilities, grid, 0.0), packing.pick(ids, grid, NO_ID))

    def named(self, probabilities, ids):
        """{"tokens", "ids", "probabilities"} of ids, of which -1 is none."""
        tokens = tf.gather(self._strings(), ids + 1)
        return {"tokens": tokens, "ids": ids, "probabilities": probabilities}

    def _masks(self, features, counts, text=None, size=None):
        """Where the masks are that are answered.

        Args:
            features: Rows [N, L].
            counts: bool [N, L], whether a mask that stands there counts.
            text: int32 [N], which text a row is of, ascending; None if each row is one.
            size: B, the number of texts; None if it is N.

        Returns:
            (int32 [masks], their places among the N * L; int32 [B, M], which of these each mask of a text is, or -1;
            int32 [N, F], the same of rows).
        """
        is_mask = tf.equal(features["input_ids"], self.vocab.mask_id) & counts

        def places():
            return tf.cast(tf.where(tf.reshape(is_mask, [-1]))[:, 0], tf.int32)

        if text is None:
            is_mask &= tf.cumsum(tf.cast(is_mask, tf.int32), 1) <= self.max_masks
            grid = packing.grid(tf.reduce_sum(tf.cast(is_mask, tf.int32), 1))
            return places(), grid, grid
        at, (rows, length) = places(), tf.unstack(tf.shape(is_mask))
        of_text = tf.gather(text, at // length)
        number = packing.counts(of_text, size)
        order = tf.range(tf.size(at)) - tf.gather(packing.sums_before(number), of_text)
        at = tf.gather(at, tf.where(order < self.max_masks)[:, 0])
        return at, packing.grid(tf.minimum(number, self.max_masks)), packing.grid(packing.counts(at // length, rows))

    def _probabilities(self, features, at, of_rows=None):
        """(the encoder's other outputs, probabilities of all entries at places: float32 [masks, V], as `of_masks`).

        Args:
            features: Rows [N, L].
            at: int32 [masks], places among the N * L.
            of_rows: int32 [N, F], which of these stand in each row, or -1. Given where no other states are needed.
        """
        asks, places = self._asks and of_rows is not None, None
        if asks:
            places = packing.pick(at % tf.shape(features["input_ids"])[1], of_rows, 0)
            at = tf.where(tf.reshape(of_rows, [-1]) >= 0)[:, 0]
        outputs = self._encode(features, places)
        asked = outputs.pop("asked_output", None)
        states = asked if asks else outputs["sequence_output"]  # [N, F or L, D]
        states = tf.gather(tf.reshape(states, [-1, states.shape[-1]]), at)  # [masks, D]
        # At least one, since TFLite has no product of no rows.
        states = tf.pad(states, [[0, tf.maximum(1 - tf.size(at), 0)], [0, 0]])
        return outputs, tf.nn.softmax(self._score(states, outputs.pop("table")))


class Loaded(typing.NamedTuple):
    """A run folder, ready to answer."""

    answering: FillMask
    model: keras.Model
    run: run_folder.RunFolder
    step: int


def load(run_dir, max_seq_length=None, top_k=5, max_masks=20, checkpoint=None, truncation="head", max_input_bytes=None):
    """Loads the `FillMask` of a run folder.

    Args:
        run_dir: The run folder.
        max_seq_length: See `FillMask`; None takes the length that the run was trained on: position
            embeddings beyond it have learned nothing.
        top_k: See `FillMask`.
        max_masks: See `FillMask`.
        checkpoint: As of `run_folder.load_pretrainer`.
        truncation: See `FillMask`.
        max_input_bytes: See `FillMask`.

    Returns:
        A `Loaded`.
    """
    model, run, step = run_folder.load_pretrainer(run_dir, checkpoint)
    trained_on = run.config.get("records", {}).get("max_seq_length", run.encoder.max_position_embeddings)
    limits = max_seq_length or trained_on, top_k, max_masks, truncation, max_input_bytes
    answering = FillMask(model, run.vocab, *limits)
    return Loaded(answering, model, run, step)


def table(text, answers, row):
    """The answers to one text as lines to print.

    Args:
        text: bytes.
        answers: Outputs of `FillMask`, as arrays.
        row: Of the text in the batch.

    Returns:
        A list of str.
    """
    lines = [text.decode("utf-8", "replace")]
    found = [i for i, position in enumerate(answers["positions"][row]) if position >= 0]
    for i in found:
        words = zip(answers["tokens"][row, i], answers["probabilities"][row, i])
        cells = "  ".join(f"{word.decode('utf-8')} {100 * p:.1f} %" for word, p in words)
        lines.append(f"  [MASK] {i + 1}: {cells}")
    unanswered = answers["mask_count"][row] - len(found)
    if not answers["mask_count"][row]:
        lines.append("  (no [MASK] in this text)")
    elif unanswered:
        lines.append(f"  ({unanswered} more [MASK] not answered: the text was cut, or has too many)")
    if answers["truncated"][row]:
        lines.append("  (the text was cut: it is longer than the model's max_seq_length)")
    return lines
