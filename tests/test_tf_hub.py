"""Tests of export.tf_hub: what `hub.KerasLayer` and `tf.saved_model.load` find, by TF-Hub's names."""

import numpy as np
import pytest
import tensorflow as tf

from export import prepared, saved_model, tf_hub
from tests import tiny, tiny_run
from tfbert.text import packing

pytestmark = pytest.mark.slow  # saves and loads


@pytest.fixture(scope="module")
def hub(run_dir, tmp_path_factory):
    """(the Keras model, encoder and preprocessor as a user loads them, what `write` gave)."""
    ready = prepared.prepare(saved_model.SavedModelConfig(run_dir))
    folder = tmp_path_factory.mktemp("hub")
    found = tf_hub.write(str(folder), ready.reference, ready.run)
    return ready.reference, *(tf.saved_model.load(str(folder / n)) for n in ("encoder", "preprocessor")), found


def features(seed=0):
    made = tiny.features(seed)
    return made, {theirs: tf.constant(made[ours]) for theirs, ours in tf_hub.INPUTS.items()}


def test_differences_are_told(hub):
    assert 0 < hub[3]["encoder"]["max_sequence_output_difference"] < 2e-5
    assert hub[3]["preprocessor"]["texts"] > 20


def test_encoder(hub):
    model, encoder, *_ = hub
    ours, theirs = features()
    expected, found = model(tiny.inputs(ours)), encoder(theirs)
    assert set(found) == {"pooled_output", "default", "sequence_output", "encoder_outputs"}
    np.testing.assert_allclose(found["default"], expected["pooled_output"], atol=1e-5)
    np.testing.assert_allclose(found["sequence_output"], expected["sequence_output"], atol=1e-5)
    assert len(found["encoder_outputs"]) == tiny.LAYERS
    np.testing.assert_allclose(found["encoder_outputs"][-1], expected["sequence_output"], atol=1e-5)
    assert np.abs(found["encoder_outputs"][0] - expected["sequence_output"]).max() > 0.1
    positions = {**theirs, "masked_lm_positions": tf.constant(ours["masked_lm_positions"])}
    np.testing.assert_allclose(encoder.mlm(positions)["mlm_logits"], expected["masked_lm_logits"], atol=1e-5)
    signature = encoder.signatures["serving_default"](**theirs)
    assert set(signature) == {"pooled_output", "default", "sequence_output"}


def test_can_be_fine_tuned(hub):
    _, encoder, *_ = hub
    _, theirs = features()
    assert len(encoder.trainable_variables) == len(encoder.variables) > 30 and encoder.regularization_losses == []
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(encoder(theirs)["default"] ** 2)
    used = [v for v in encoder.trainable_variables if "pooler" in v.name or "embeddings" in v.name]
    assert all(g is not None for g in tape.gradient(loss, used))


def test_preprocessor(hub):
    *_, encoder, pre, _ = hub
    vocab = tiny_run.vocab()
    assert encoder.vocab_file.asset_path.numpy().endswith(b"assets/vocab.txt") and bool(pre.do_lower_case)
    special = {name: int(x) for name, x in pre.tokenize.get_special_tokens_dict().items()}
    assert special == {
        "start_of_sequence_id": vocab.cls_id,
        "end_of_segment_id": vocab.sep_id,
        "padding_id": vocab.pad_id,
        "mask_id": vocab.mask_id,
        "vocab_size": tiny.V,
    }
    texts = tf.constant(["the lazy fox", "", "unable dog dog dog dog dog dog dog"])
    others = tf.constant(["warmed up", "the list of words", "the dog"])
    first, second = pre.tokenize(texts), pre.tokenize(others)
    ids, starts, ends = pre.tokenize_with_offsets(texts)
    assert ids.to_list() == first.to_list() and (starts[0].numpy().tolist(), ends[0].numpy().tolist()) == (
        [0, 4, 9],
        [3, 8, 12],
    )
    for length in (3, 9, 40):
        for segments in ([first], [first, second]):
            got = pre.bert_pack_inputs(segments, seq_length=tf.constant(length))
            pack = packing.pack_pair if len(segments) == 2 else packing.pack_single
            want = pack(*segments, length, vocab)
            for theirs, ours in tf_hub.INPUTS.items():
                np.testing.assert_array_equal(got[theirs], want[ours])
    assert pre.bert_pack_inputs([first])["input_mask"].shape == pre(texts)["input_mask"].shape == (3, 128)
    np.testing.assert_array_equal(pre.bert_pack_inputs([first], seq_length=9)["input_type_ids"], np.zeros([3, 9]))
