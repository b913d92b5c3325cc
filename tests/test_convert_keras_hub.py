"""Tests of KerasHub presets: loaded and asked by KerasHub itself, and read again."""

import json

import h5py
import keras
import numpy as np
import pytest

from tests import convert_samples, reference, tiny, tiny_run
from tfbert import checks
from tfbert.convert import assign, formats, keras_hub, names

pytestmark = pytest.mark.slow

ENCODER = tiny.config()
CLASSES = 4


@pytest.fixture(scope="module")
def hub():
    import keras_hub as package

    return package


def written(folder, head, **kwargs):
    source = convert_samples.source(head, CLASSES if head == "classify" else 0, ENCODER, **kwargs)
    allowed = ["cls/seq_relationship/*", *(["bert/pooler/*"] if head == "masked_lm" else [])]
    formats.convert(source, str(folder / "preset"), "keras_hub", allowed)
    return source, str(folder / "preset")


def inputs(features):
    return {
        "token_ids": features["input_ids"],
        "padding_mask": features["input_mask"],
        "segment_ids": features["segment_ids"],
    }


def expected_outputs(source, features):
    params = {n: a.astype(np.float64) for n, a in convert_samples.arrays(source).items()}
    missing = convert_samples.numbers(ENCODER, "pretraining", seed=9)
    params = {**{n: a.astype(np.float64) for n, a in missing.items()}, **params}
    return params, reference.pretrainer(features, params, tiny.LAYERS, tiny.N)


def ours_of(source, **kwargs):
    tensors, account = assign.match(source, keras_hub.wanted(source), **kwargs)
    return convert_samples.arrays(tensors), account


def test_backbone(tmp_path, hub):
    source, folder = written(tmp_path, "none")
    features = tiny.features()
    _, expected = expected_outputs(source, features)
    found = hub.models.BertBackbone.from_preset(folder)(inputs(features))
    real = features["input_mask"][:, :, None]
    np.testing.assert_allclose(found["sequence_output"] * real, expected["sequence_output"] * real, atol=2e-5)
    np.testing.assert_allclose(found["pooled_output"], expected["pooled_output"], atol=2e-5)
    tokenizer = hub.models.BertTokenizer.from_preset(folder)
    vocab = tiny_run.vocab()
    assert [list(ids) for ids in tokenizer(["The lazy café"])] == [[vocab.ids[t] for t in ("the", "lazy", "cafe")]]


@pytest.mark.parametrize("head", ["none", "masked_lm", "pretraining", "classify"])
def test_what_is_written_is_read(tmp_path, head):
    source, folder = written(tmp_path, head)
    again = formats.open_source(folder)
    assert again.kind == "keras_hub" and again.encoder == ENCODER and again.vocab == source.vocab
    assert again.head == ("masked_lm" if head == "pretraining" else head) and again.labels == source.labels
    assert not again.unlike
    expected = {n: a for n, a in convert_samples.arrays(source).items() if "seq_relationship" not in n}
    if head == "masked_lm":  # a backbone has a pooler, and this source none
        expected |= {n: a for n, a in ours_of(again)[0].items() if "pooler" in n}
    found, account = ours_of(again)
    convert_samples.check_equal(found, expected)
    assert not account.left_over


def test_masked_lm_without_a_pooler_must_be_allowed(tmp_path):
    source = convert_samples.source("masked_lm", 0, ENCODER)
    with pytest.raises(checks.InputError, match="bert/pooler/dense/kernel is not in the file"):
        formats.convert(source, str(tmp_path / "preset"), "keras_hub")


def test_masked_lm_with_berts_own_head(tmp_path, hub):
    source, folder = written(tmp_path, "pretraining")
    features = tiny.features()
    _, expected = expected_outputs(source, features)
    given = {**inputs(features), "mask_positions": features["masked_lm_positions"]}
    found = keras_hub.load_masked_lm(folder)(given)
    np.testing.assert_allclose(found, expected["masked_lm_logits"], atol=2e-5)
    # What KerasHub alone makes of it is near, and not it.
    plain = hub.models.BertMaskedLM.from_preset(folder)(given)
    assert 1e-5 < np.abs(np.asarray(plain) - expected["masked_lm_logits"]).max() < 1e-1


def test_next_sentence_prediction_has_no_place(tmp_path):
    source = convert_samples.source("pretraining", 0, ENCODER)
    with pytest.raises(checks.InputError, match="cls/seq_relationship/output_weights has no place"):
        formats.convert(source, str(tmp_path / "preset"), "keras_hub")


def test_classifier_from_text(tmp_path, hub):
    source, folder = written(tmp_path, "classify")
    classifier = hub.models.BertTextClassifier.from_preset(folder)
    texts = ["the lazy fox", "Café, the dogs!", "word"]
    preprocessed = classifier.preprocessor(texts)
    features = {
        "input_ids": np.asarray(preprocessed["token_ids"]),
        "input_mask": np.asarray(preprocessed["padding_mask"]).astype(np.int32),
        "segment_ids": np.asarray(preprocessed["segment_ids"]),
        "masked_lm_positions": np.zeros((3, 1), np.int32),
    }
    assert features["input_ids"][0].tolist()[:5] == [
        tiny_run.vocab().ids[t] for t in ("[CLS]", "the", "lazy", "fox", "[SEP]")
    ]
    params, expected = expected_outputs(source, features)
    logits = expected["pooled_output"] @ params["classifier/output_weights"].T + params["classifier/output_bias"]
    np.testing.assert_allclose(classifier.predict(texts, verbose=0), logits, atol=2e-5)


def test_a_classifier_gives_the_same_probabilities_on_200_sentences(tmp_path, hub):
    texts, source, expected = convert_samples.classifier_of_texts("gelu")
    formats.convert(source, str(tmp_path / "preset"), "keras_hub")
    classifier = hub.models.BertTextClassifier.from_preset(str(tmp_path / "preset"))
    logits = classifier.predict(texts, batch_size=50, verbose=0)
    np.testing.assert_allclose(keras.ops.softmax(logits), expected, atol=1e-5)


def test_reads_what_kerashub_saves(tmp_path, hub):
    keras.utils.set_random_seed(0)
    sizes = {"num_layers": 2, "num_heads": 3, "hidden_dim": 15, "intermediate_dim": 17}
    backbone = hub.models.BertBackbone(vocabulary_size=tiny.V, max_sequence_length=tiny.MAX_L, **sizes)
    model = hub.models.BertMaskedLM(backbone)
    for v in model.variables:
        if "seed" not in v.path:
            v.assign(np.random.default_rng(1).normal(0, 0.3, v.shape))
    model.save_to_preset(str(tmp_path / "preset"))
    source = formats.open_source(str(tmp_path / "preset"))
    assert source.head == "masked_lm" and source.vocab is None
    with pytest.raises(checks.InputError, match=r"config/masked_lm_head_layer_norm_epsilon=1e-05 has no place"):
        ours_of(source)
    found, account = ours_of(source, allow_missing=["config/*"])
    assert len(found) == 3 + 2 + 32 + 2 + 5 and {name.split("/")[1] for name, _ in account.unused} == {"optimizer"}
    features = tiny.features()
    params = {n: a.astype(np.float64) for n, a in {**convert_samples.numbers(ENCODER), **found}.items()}
    expected = reference.pretrainer(features, params, tiny.LAYERS, tiny.N)
    np.testing.assert_allclose(backbone(inputs(features))["pooled_output"], expected["pooled_output"], atol=2e-5)


def test_tokenizers_that_keep_accents_are_left_over(tmp_path, hub):
    _, folder = written(tmp_path, "none")
    path = tmp_path / "preset/tokenizer.json"
    about = json.loads(path.read_text())
    about["config"]["strip_accents"] = False
    path.write_text(json.dumps(about))
    assert formats.open_source(folder).unlike == {"strip_accents": False}


@pytest.mark.parametrize("overrides", [{"hidden_act": "gelu_erf"}, {"layer_norm_eps": 1e-5}])
def test_what_kerashub_cannot_compute_is_left_over(tmp_path, overrides):
    source = convert_samples.source("none", 0, tiny.config(**overrides))
    name, value = next(iter(overrides.items()))
    with pytest.raises(checks.InputError, match=f"config/{name}={value} has no place"):
        formats.convert(source, str(tmp_path / "preset"), "keras_hub")


@pytest.mark.parametrize("head", ["tokens", "span"])
def test_heads_that_kerashub_has_not(tmp_path, head):
    with pytest.raises(checks.InputError, match=f"classifying texts only; got {head}"):
        formats.convert(convert_samples.source(head, 3, ENCODER), str(tmp_path / "preset"), "keras_hub")


def test_damaged_presets(tmp_path):
    _, folder = written(tmp_path, "none")
    weights = tmp_path / "preset/model.weights.h5"
    whole = weights.read_bytes()
    weights.write_bytes(whole[: len(whole) // 3])
    with pytest.raises(checks.InputError, match=r"must be a whole \.h5 file"):
        ours_of(formats.open_source(folder))
    weights.write_bytes(b"nonsense")
    with pytest.raises(checks.InputError, match=r"must be a whole \.h5 file"):
        formats.open_source(folder)
    weights.unlink()
    with pytest.raises(checks.InputError, match=r"no model\.weights\.h5"):
        formats.open_source(folder)


def test_numbers_in_another_file_are_refused(tmp_path):
    _, folder = written(tmp_path, "none")
    (tmp_path / "outside").write_bytes(b"\0" * 4 * 15)
    name = "layers/layer_normalization/vars/0"
    with h5py.File(f"{folder}/model.weights.h5", "r+") as f:
        del f[name]
        f.create_dataset(name, (15,), "f4", external=[(str(tmp_path / "outside"), 0, 60)])
    with pytest.raises(checks.InputError, match=f"{name}, which lies in another"):
        formats.open_source(folder)
    with h5py.File(f"{folder}/model.weights.h5", "r+") as f:
        del f[name]
        f[name] = h5py.ExternalLink(str(tmp_path / "other.h5"), "/x")
    with pytest.raises(checks.InputError, match="bert/embeddings/LayerNorm/gamma is not in the file"):
        ours_of(formats.open_source(folder))


def test_presets_of_other_models_are_refused(tmp_path):
    _, folder = written(tmp_path, "none")
    path = tmp_path / "preset/config.json"
    about = json.loads(path.read_text())
    path.write_text(json.dumps({**about, "class_name": "RobertaBackbone"}))
    with pytest.raises(checks.InputError, match="class_name='RobertaBackbone'"):
        formats.open_source(folder)


def test_every_name_of_the_table_is_in_a_preset(tmp_path):
    _, folder = written(tmp_path, "pretraining")
    places = names.places("keras_hub", ENCODER)
    stored = formats.open_source(folder).tensors
    wanted = [n for n in names.shapes(ENCODER, "pretraining") if "seq_relationship" not in n]
    assert {places[n].theirs for n in wanted} == {n for n in stored if "optimizer" not in n}
