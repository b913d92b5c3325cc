"""Text with [MASK]s -> likely wordpieces for each: featurize, model and decode, as one graph.

`tfbert.predict`, the SavedModel and the .tflite all run this code. It uses only ops that TFLite has as
builtins, tensorflow-text's custom ops, and no others: no ragged slices, `tf.expand_dims` instead of
indexing by None (both would need the Flex delegate, which the interpreter with custom ops refuses).
"""

import typing

import keras
import tensorflow as tf

from tfbert import checks, run_folder
from tfbert.text import packing, tokenizer
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
    """

    def __init__(self, model, vocab, max_seq_length, top_k=5, max_masks=20):
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
        self._model = lambda features: model(features, training=False)  # a function is not tracked
        # A tuple would be tracked too, entry by entry; the entry after the last token stands for no answer.
        self._strings = lambda: tf.constant([*vocab.tokens, ""])
        self.vocab, self.max_seq_length, self.top_k, self.max_masks = vocab, max_seq_length, top_k, max_masks

    def featurize(self, text):
        """Makes the model's inputs of texts.

        The literal `[MASK]` is the only special token that is recognised: a user's `[SEP]` or `[CLS]` is
        text, and so is `[mask]`. Rows are as long as the longest text of the batch, not `max_seq_length`.

        Args:
            text: string [B]. Words that are not UTF-8 become [UNK].

        Returns:
            ({"input_ids", "input_mask", "segment_ids"}: int32 [B, L],
            {"mask_count": int32 [B], masks in the whole text, "truncated": bool [B]}).
        """
        ids = self.tokenizer.tokenize(text, special_tokens=(vocab_lib.MASK,))
        features = packing.pack_single(ids, self.max_seq_length, self.vocab)
        lengths = tf.reduce_sum(features["input_mask"], axis=1)  # [B]
        longest = tf.maximum(tf.reduce_max(lengths), 2)  # the maximum of no rows is the least integer
        features = {name: value[:, :longest] for name, value in features.items()}
        whole = ids.to_tensor(self.vocab.pad_id)
        about = {
            "mask_count": _count(whole, self.vocab.mask_id),
            "truncated": ids.row_lengths() > self.max_seq_length - 2,
        }
        return features, about

    def encode(self, features):
        """{"sequence_output": [B, L, D], "pooled_output": [B, D]} of the model's inputs."""
        outputs = self._model({**features, "masked_lm_positions": features["input_ids"][:, :1] * 0})
        return {name: outputs[name] for name in ("sequence_output", "pooled_output")}

    def answer(self, features):
        """Answers each mask in the model's inputs.

        Args:
            features: As of `featurize`.

        Returns:
            A dict; M is the most masks that a row has, at least 1 and at most `max_masks`:
              "tokens": string [B, M, K], likeliest first; "" where there is no mask.
              "ids": int32 [B, M, K], -1 where there is no mask.
              "probabilities": float32 [B, M, K], of the softmax over the whole vocabulary; 0 where no mask.
              "positions": int32 [B, M], of the masks in `input_ids`, ascending; -1 where there is no mask.
            And the encoder's outputs and "next_sentence_logits", which cost nothing more.
        """
        positions = self._positions(features["input_ids"], features["input_mask"])  # [B, M]
        found = positions >= 0
        outputs = self._model({**features, "masked_lm_positions": tf.maximum(positions, 0)})
        probabilities = tf.nn.softmax(outputs.pop("masked_lm_logits"))  # [B, M, V]
        probabilities, ids = tf.math.top_k(probabilities, self.top_k)  # [B, M, K]
        found = tf.expand_dims(found, -1)  # [B, M, 1]
        tokens = tf.gather(self._strings(), tf.where(found, ids, len(self.vocab)))
        answers = {
            "tokens": tokens,
            "ids": tf.where(found, ids, NO_ID),
            "probabilities": tf.where(found, probabilities, 0.0),
            "positions": positions,
        }
        return {**outputs, **answers}

    def __call__(self, text):
        """Answers texts, string [B]: see `answer`, `featurize`; without the encoder's outputs."""
        features, about = self.featurize(text)
        answers = self.answer(features)
        return {**{n: answers[n] for n in ("tokens", "ids", "probabilities", "positions")}, **about}

    def signature(self):
        """The `tf.function` to save: text, string [B]."""
        return tf.function(self.__call__, input_signature=[tf.TensorSpec([None], tf.string, "text")])

    def _positions(self, input_ids, input_mask):
        """Where the masks are: int32 [B, M], ascending, -1 after the last."""
        is_mask = tf.cast(tf.equal(input_ids, self.vocab.mask_id), tf.int32) * input_mask  # [B, L]
        length = tf.shape(input_ids)[1]
        most = tf.reduce_max(tf.reduce_sum(is_mask, axis=1))
        most = tf.minimum(tf.minimum(tf.maximum(most, 1), self.max_masks), length)
        # The leftmost masks have the highest scores.
        scores, positions = tf.math.top_k(is_mask * tf.expand_dims(length - tf.range(length), 0), most)
        return tf.where(scores > 0, positions, NO_ID)


class Loaded(typing.NamedTuple):
    """A run folder, ready to answer."""

    answering: FillMask
    model: keras.Model
    run: run_folder.RunFolder
    step: int


def load(run_dir, max_seq_length=None, top_k=5, max_masks=20, checkpoint=None):
    """Loads the `FillMask` of a run folder.

    Args:
        run_dir: The run folder.
        max_seq_length: See `FillMask`; None takes the length that the run was trained on: position
            embeddings beyond it have learned nothing.
        top_k: See `FillMask`.
        max_masks: See `FillMask`.
        checkpoint: As of `run_folder.load_pretrainer`.

    Returns:
        A `Loaded`.
    """
    model, run, step = run_folder.load_pretrainer(run_dir, checkpoint)
    trained_on = run.config.get("records", {}).get("max_seq_length", run.encoder.max_position_embeddings)
    answering = FillMask(model, run.vocab, max_seq_length or trained_on, top_k, max_masks)
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


def _count(ids, id_):
    """How often an id is in each row: int32 [B]."""
    return tf.reduce_sum(tf.cast(tf.equal(ids, id_), tf.int32), axis=1)
