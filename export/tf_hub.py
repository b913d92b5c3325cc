"""Writes a run as the two SavedModels that TF-Hub's common API for texts describes: an encoder and its preprocessor.

https://www.tensorflow.org/hub/common_saved_model_apis/text says what they are called. The encoder is trainable, so that
`hub.KerasLayer(folder, trainable=True)` fine-tunes it, without dropout.
"""

import os

import numpy as np
import tensorflow as tf

from export import parity
from tfbert import encoder as encoder_lib
from tfbert.text import packing, tokenizer
from tfbert.text import vocab as vocab_lib

# TF-Hub's names of the model's inputs -> ours.
INPUTS = {"input_word_ids": "input_ids", "input_mask": "input_mask", "input_type_ids": "segment_ids"}
FOLDER = "tf_hub"  # in a version of a SavedModel
SEQ_LENGTH = 128  # of the preprocessor when it is called with texts alone


def _object(model, function):
    """What `hub.KerasLayer` takes: something to call, with its variables; the raw ones, as in `fill_mask.FillMask`."""
    made = tf.train.Checkpoint()
    made.__call__ = function
    made.variables = [v.value for v in model.variables]
    made.trainable_variables = [v.value for v in model.trainable_variables]
    made.regularization_losses = []
    return made


def _vocabulary(made, run):
    """Adds `vocab_file` and `do_lower_case`."""
    made.vocab_file = tf.saved_model.Asset(os.path.join(run.dir, vocab_lib.VOCAB_FILE))
    made.do_lower_case = tf.Variable(run.vocab.do_lower_case, trainable=False, name="do_lower_case")


def encoder(model, run):
    """The encoder's object.

    Args:
        model: Of `heads`, in float32.
        run: Its `run_folder.RunFolder`.

    Returns:
        What takes {"input_word_ids", "input_mask", "input_type_ids"} int32 [B, L] and gives {"pooled_output", "default"
        [B, D], if there is a pooler, "sequence_output" [B, L, D], "encoder_outputs": a list of that of each layer}. Of
        a pre-trained run `mlm` takes "masked_lm_positions" int32 [B, P] too, and gives "mlm_logits" [B, P, V] too.
    """
    layers = encoder_lib.layer_outputs(model)
    states = {name: x for name, x in model.output.items() if name in ("sequence_output", "pooled_output")}
    inputs = {x.name: x for x in model.inputs if x.name != "masked_lm_positions"}
    part = type(model)(inputs, {**states, "layers": layers})

    def named(outputs):
        outputs = dict(outputs)
        outputs["encoder_outputs"] = outputs.pop("layers")
        return outputs | ({"default": outputs["pooled_output"]} if "pooled_output" in outputs else {})

    spec = {name: tf.TensorSpec([None, None], tf.int32, name) for name in INPUTS}

    @tf.function(autograph=False, input_signature=[spec])
    def call(inputs):
        return named(part({ours: inputs[theirs] for theirs, ours in INPUTS.items()}, training=False))

    made = _object(part, call)
    _vocabulary(made, run)
    if "masked_lm_logits" in model.output:
        both = type(model)(model.input, {**states, "layers": layers, "mlm_logits": model.output["masked_lm_logits"]})
        positions = tf.TensorSpec([None, None], tf.int32, "masked_lm_positions")

        @tf.function(autograph=False, input_signature=[{**spec, "masked_lm_positions": positions}])
        def call_mlm(inputs):
            features = {ours: inputs[theirs] for theirs, ours in INPUTS.items()}
            return named(both({**features, "masked_lm_positions": inputs["masked_lm_positions"]}, training=False))

        made.mlm = _object(both, call_mlm)
    return made


def _pack(segments, seq_length, vocab):
    """[CLS] A [SEP], or [CLS] A [SEP] B [SEP], of a length that is a tensor: {TF-Hub's names: int32 [B, L]}."""
    room = seq_length - 1 - len(segments)
    splits = [tf.cast(x.row_splits, tf.int32) for x in segments]
    lengths = [s[1:] - s[:-1] for s in splits]
    if len(segments) == 1:
        kept = [tf.minimum(lengths[0], room)]
    else:  # as in `packing.pack_pair`
        first = tf.minimum(lengths[0], tf.maximum((room + 1) // 2, room - lengths[1]))
        kept = [first, tf.minimum(lengths[1], room - first)]
    column = tf.expand_dims(tf.range(seq_length), 0)  # [1, L]
    ids = tf.where(column == 0, vocab.cls_id, tf.fill([tf.size(kept[0]), seq_length], vocab.pad_id))
    kinds, end = tf.zeros_like(ids), tf.zeros_like(kept[0])[:, tf.newaxis]
    for number, (x, s, count) in enumerate(zip(segments, splits, kept)):
        begin = end + 1
        end = begin + count[:, tf.newaxis]
        place = tf.where((column >= begin) & (column < end), s[:-1, tf.newaxis] + column - begin, packing.NO_PLACE)
        ids = tf.where(place >= 0, packing.pick(x.flat_values, place, vocab.pad_id), ids)
        ids = tf.where(column == end, vocab.sep_id, ids)
        kinds = tf.where((column >= begin) & (column <= end), number, kinds)
    values = ids, tf.cast(column <= end, tf.int32), kinds
    return dict(zip(INPUTS, values))


def preprocessor(run):
    """The preprocessor's object.

    Returns:
        What takes texts, string [B], and gives the encoder's inputs, of `SEQ_LENGTH`. `tokenize` gives wordpieces of
        texts, int32 RaggedTensor [B, (T)]; `tokenize.get_special_tokens_dict()` ids by name; `tokenize_with_offsets`
        (wordpieces, starts, ends in bytes); `bert_pack_inputs([wordpieces of one or two segments], seq_length)` the
        encoder's inputs.
    """
    vocab, split = run.vocab, tokenizer.Tokenizer(run.vocab)
    text = tf.TensorSpec([None], tf.string, "text")

    @tf.function(autograph=False, input_signature=[text])
    def call(text):
        return _pack([split.tokenize(text)], tf.constant(SEQ_LENGTH), vocab)

    @tf.function(autograph=False, input_signature=[text])
    def tokenize(text):
        return split.tokenize(text)

    @tf.function(autograph=False, input_signature=[text])
    def tokenize_with_offsets(text):
        tokens = split.tokenize_with_offsets(text)
        return tokens.ids, tokens.starts, tokens.ends

    @tf.function(autograph=False, input_signature=[])
    def get_special_tokens_dict():
        named = {
            "start_of_sequence_id": vocab.cls_id,
            "end_of_segment_id": vocab.sep_id,
            "padding_id": vocab.pad_id,
            "mask_id": vocab.mask_id,
            "vocab_size": len(vocab),
        }
        return {name: tf.constant(id_, tf.int32) for name, id_ in named.items()}

    @tf.function(autograph=False)
    def bert_pack_inputs(inputs, seq_length=SEQ_LENGTH):
        return _pack(inputs, seq_length, vocab)

    ids, length = tf.RaggedTensorSpec([None, None], tf.int32), tf.TensorSpec([], tf.int32)
    for segments in (1, 2):
        bert_pack_inputs.get_concrete_function([ids] * segments, seq_length=length)
        bert_pack_inputs.get_concrete_function([ids] * segments)
    made = tf.train.Checkpoint()
    made.__call__ = call
    made.tokenize = tf.train.Checkpoint()
    made.tokenize.__call__ = tokenize
    made.tokenize.get_special_tokens_dict = get_special_tokens_dict
    made.tokenize_with_offsets = tokenize_with_offsets
    made.bert_pack_inputs = bert_pack_inputs
    _vocabulary(made, run)
    return made


def check(folder, model, run):
    """Reloads both as a user does, and compares: {"encoder": {name: difference}, "preprocessor": {}}.

    Args:
        folder: Of `write`.
        model: The run folder's Keras model.
        run: The `run_folder.RunFolder`.

    Raises:
        InputError: what texts become differs, or a state by more than `parity.TOLERANCE`.
    """
    texts, length = parity.texts(), min(SEQ_LENGTH, run.encoder.max_position_embeddings)
    before, after = (tf.saved_model.load(os.path.join(folder, name)) for name in ("preprocessor", "encoder"))
    inputs = before.bert_pack_inputs([before.tokenize(tf.constant(texts))], seq_length=tf.constant(length))
    ids = tokenizer.Tokenizer(run.vocab).tokenize(tf.constant(texts)).to_list()
    expected = parity.pack(ids, length, run.vocab).features
    for theirs, ours in INPUTS.items():
        parity.require_equal(inputs[theirs].numpy(), expected[ours], theirs)
    outputs, wanted, real = after(inputs), parity.in_batches(model, expected), expected["input_mask"].astype(bool)
    differences = np.abs(outputs["sequence_output"].numpy() - wanted["sequence_output"])[real]
    found = {"max_sequence_output_difference": float(differences.max())}
    if "pooled_output" in wanted:
        differences = np.abs(outputs["default"].numpy() - wanted["pooled_output"])
        found["max_pooled_output_difference"] = float(differences.max())
    parity.require_close(found, parity.TOLERANCE, "tf_hub/encoder")
    return {"encoder": found, "preprocessor": {"texts": len(texts)}}


def write(folder, model, run):
    """Writes `encoder` and `preprocessor` into a folder, and returns what `check` gives."""
    made = encoder(model, run)
    tf.saved_model.save(made, os.path.join(folder, "encoder"), signatures=_flat(made.__call__))
    made = preprocessor(run)
    tf.saved_model.save(made, os.path.join(folder, "preprocessor"), signatures=made.__call__)
    return check(folder, model, run)


def _flat(call):
    """The signature of an encoder's function: its outputs but for the list of layers."""
    specs = {name: tf.TensorSpec([None, None], tf.int32, name) for name in INPUTS}

    @tf.function(autograph=False, input_signature=[specs[name] for name in INPUTS])
    def flat(input_word_ids, input_mask, input_type_ids):
        outputs = call({"input_word_ids": input_word_ids, "input_mask": input_mask, "input_type_ids": input_type_ids})
        return {name: x for name, x in outputs.items() if name != "encoder_outputs"}

    return flat
