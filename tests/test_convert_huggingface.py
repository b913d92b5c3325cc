"""Tests of Hugging Face folders: every style of names read, what is written read again and by `tokenizers`."""

import json

import numpy as np
import pytest
import safetensors.numpy
import tokenizers

from tests import convert_samples, tiny, tiny_run
from tfbert import checks, config
from tfbert.convert import assign, formats, huggingface, names
from tfbert.text import tokenizer as tokenizer_lib
from tfbert.text import vocab as vocab_lib

HEADS = {"pretraining": 0, "masked_lm": 0, "none": 0, "classify": 4, "tokens": 3, "span": 2}


def write(folder, theirs, encoder=None, torch=None, **more):
    """A folder from {name: array}."""
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(
        json.dumps(convert_samples.bert_config(encoder or convert_samples.encoder(), **more))
    )
    tiny_run.vocab().write(folder)
    if torch is None:
        safetensors.numpy.save_file(theirs, folder / "model.safetensors")
    else:
        convert_samples.save_torch(str(folder / "pytorch_model.bin"), theirs, torch)
    return str(folder)


def theirs_of(source):
    return convert_samples.huggingface_names(convert_samples.arrays(source), source.head)


def ours_of(source, **kwargs):
    wanted = names.shapes(source.encoder, source.head, len(source.labels))
    tensors, account = assign.match(source, wanted, **kwargs)
    return convert_samples.arrays(tensors), account


@pytest.mark.parametrize("torch", [None, True, False], ids=["safetensors", "torch", "torch zip"])
@pytest.mark.parametrize("head", HEADS)
def test_reads_every_class_that_bert_has(tmp_path, head, torch):
    expected = convert_samples.source(head, HEADS[head])
    folder = write(tmp_path, theirs_of(expected), torch=torch, architectures=[huggingface.ARCHITECTURES[head]])
    source = formats.open_source(folder)
    assert (source.kind, source.head) == ("huggingface", head) and source.encoder == expected.encoder
    assert source.vocab == tiny_run.vocab()
    assert len(source.labels) == (HEADS[head] if head in ("classify", "tokens") else 0)
    found, account = ours_of(source)
    convert_samples.check_equal(found, convert_samples.arrays(expected))
    assert not (account.left_over or account.missing or account.derived or account.unused)


def test_reads_the_style_of_old_files(tmp_path):
    expected = convert_samples.source()
    theirs = {}
    for name, array in theirs_of(expected).items():
        if "LayerNorm" in name:
            name = name.replace(".weight", ".gamma").replace(".bias", ".beta")
        theirs[name] = array
    theirs["bert.embeddings.position_ids"] = np.arange(tiny.MAX_L).reshape(1, -1)
    theirs["bert.embeddings.token_type_ids"] = np.zeros((1, tiny.MAX_L), np.int64)
    theirs["cls.predictions.decoder.weight"] = theirs["bert.embeddings.word_embeddings.weight"]
    theirs["cls.predictions.decoder.bias"] = theirs["cls.predictions.bias"]
    found, account = ours_of(formats.open_source(write(tmp_path, theirs, torch=True)))
    convert_samples.check_equal(found, convert_samples.arrays(expected))
    assert [name for name, _ in account.derived] == [
        "cls.predictions.decoder.weight",
        "cls.predictions.decoder.bias",
        "bert.embeddings.position_ids",
        "bert.embeddings.token_type_ids",
    ]


@pytest.mark.parametrize(
    "name, array",
    [
        ("cls.predictions.decoder.weight", np.ones((tiny.V, tiny.D), np.float32)),
        ("cls.predictions.decoder.bias", np.ones(tiny.V, np.float32)),
        ("bert.embeddings.position_ids", np.arange(1, tiny.MAX_L + 1).reshape(1, -1)),
        ("bert.embeddings.token_type_ids", np.ones((1, tiny.MAX_L), np.int64)),
    ],
)
def test_a_copy_must_equal_its_original(tmp_path, name, array):
    theirs = {**theirs_of(convert_samples.source()), name: array}
    source = formats.open_source(write(tmp_path, theirs))
    with pytest.raises(checks.InputError, match=f"{name} must equal .*tie_word_embeddings"):
        ours_of(source)


def test_a_copy_alone_stands_for_its_original(tmp_path):
    expected = convert_samples.source()
    theirs = theirs_of(expected)
    theirs["cls.predictions.decoder.weight"] = theirs.pop("bert.embeddings.word_embeddings.weight")
    theirs["cls.predictions.decoder.bias"] = theirs.pop("cls.predictions.bias")
    found, _ = ours_of(formats.open_source(write(tmp_path, theirs)))
    convert_samples.check_equal(found, convert_samples.arrays(expected))


def test_an_untied_decoder_is_a_variable_with_the_bias_of_its_own(tmp_path):
    encoder = convert_samples.encoder(tie_word_embeddings=False)
    expected = convert_samples.source(encoder_config=encoder)
    arrays = convert_samples.arrays(expected)
    decoder = arrays.pop("cls/predictions/output_weights")
    theirs = convert_samples.huggingface_names(arrays)
    theirs |= {
        "cls.predictions.decoder.weight": decoder,
        "cls.predictions.decoder.bias": theirs["cls.predictions.bias"],
    }
    theirs["cls.predictions.bias"] = np.zeros(tiny.V, np.float32)  # takes no part in their outputs
    source = formats.open_source(write(tmp_path, theirs, encoder))
    assert not source.encoder.tie_word_embeddings
    found, account = ours_of(source)
    convert_samples.check_equal(found, convert_samples.arrays(expected))
    assert [name for name, _ in account.unused] == ["cls.predictions.bias"]


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision_becomes_float32_with_every_bit(tmp_path, dtype):
    import ml_dtypes

    kind = {"float16": np.float16, "bfloat16": ml_dtypes.bfloat16}[dtype]
    theirs = {name: array.astype(kind) for name, array in theirs_of(convert_samples.source()).items()}
    found, _ = ours_of(formats.open_source(write(tmp_path, theirs)))
    expected = convert_samples.arrays(convert_samples.source())
    convert_samples.check_equal(found, {n: a.astype(kind).astype(np.float32) for n, a in expected.items()})


def test_shards_are_one_model(tmp_path):
    expected = convert_samples.source()
    theirs = theirs_of(expected)
    write(tmp_path, theirs)
    (tmp_path / "model.safetensors").unlink()
    weight_map = {}
    for k in range(3):
        part = {n: a for i, (n, a) in enumerate(theirs.items()) if i % 3 == k}
        safetensors.numpy.save_file(part, tmp_path / f"model-{k}.safetensors")
        weight_map |= dict.fromkeys(part, f"model-{k}.safetensors")
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    found, _ = ours_of(formats.open_source(str(tmp_path)))
    convert_samples.check_equal(found, convert_samples.arrays(expected))


def distilbert(source):
    """(config.json, {name: array}) of a DistilBERT, from a model of ours without segments and pooler."""
    words = (
        ("bert.encoder.layer.", "distilbert.transformer.layer."),
        ("attention.self.query", "attention.q_lin"),
        ("attention.self.key", "attention.k_lin"),
        ("attention.self.value", "attention.v_lin"),
        ("attention.output.dense", "attention.out_lin"),
        ("attention.output.LayerNorm", "sa_layer_norm"),
        ("intermediate.dense", "ffn.lin1"),
        ("output.LayerNorm", "output_layer_norm"),
        ("output.dense", "ffn.lin2"),
        ("cls.predictions.transform.dense", "vocab_transform"),
        ("cls.predictions.transform.LayerNorm", "vocab_layer_norm"),
        ("cls.predictions.bias", "vocab_projector.bias"),
        ("bert.embeddings", "distilbert.embeddings"),
    )
    theirs = {}
    for name, array in theirs_of(source).items():
        if "token_type" in name or "pooler" in name or "seq_relationship" in name:
            continue
        for ours, other in words:
            name = name.replace(ours, other)
        theirs[name] = array
    e = source.encoder
    about = {
        "model_type": "distilbert",
        "activation": "gelu",
        "dim": e.hidden_size,
        "n_layers": e.num_hidden_layers,
        "n_heads": e.num_attention_heads,
        "hidden_dim": e.intermediate_size,
        "vocab_size": e.vocab_size,
        "max_position_embeddings": e.max_position_embeddings,
        "dropout": 0.0,
        "attention_dropout": 0.0,
    }
    return about, theirs


def test_distilbert_has_zeros_for_what_it_has_not(tmp_path):
    expected = convert_samples.source()
    about, theirs = distilbert(expected)
    write(tmp_path, theirs)
    (tmp_path / "config.json").write_text(json.dumps(about))
    source = formats.open_source(str(tmp_path))
    assert source.head == "masked_lm" and source.encoder == expected.encoder
    tensors, account = assign.match(source, names.shapes(source.encoder, "pretraining"), ["cls/seq_relationship/*"])
    found = convert_samples.arrays(tensors)
    zeros = ["bert/embeddings/token_type_embeddings", "bert/pooler/dense/bias", "bert/pooler/dense/kernel"]
    assert sorted(name for name, _ in account.derived) == zeros
    assert "zeros: distilbert has none" in account.text()
    expected = {n: a for n, a in convert_samples.arrays(expected).items() if "seq_relationship" not in n}
    expected |= {name: np.zeros_like(expected[name]) for name in zeros}
    convert_samples.check_equal(found, expected)


def test_distilberts_classifier_is_not_ours(tmp_path):
    about, theirs = distilbert(convert_samples.source("none"))
    theirs |= {
        "pre_classifier.weight": np.ones((15, 15), np.float32),
        "classifier.weight": np.ones((4, 15), np.float32),
    }
    write(tmp_path, theirs)
    (tmp_path / "config.json").write_text(json.dumps(about))
    source = formats.open_source(str(tmp_path))
    assert source.head == "none"
    with pytest.raises(checks.InputError) as e:
        ours_of(source)
    assert "classifier.weight has no place" in str(e.value) and "pre_classifier.weight has no place" in str(e.value)


@pytest.mark.parametrize("width", [None, 9])
def test_electra(tmp_path, width):
    encoder = convert_samples.encoder(embedding_size=width)
    expected = convert_samples.arrays(convert_samples.source("none", encoder_config=encoder))
    theirs = {}
    for name, array in convert_samples.huggingface_names(expected).items():
        if "pooler" not in name:
            name = name.replace("bert.encoder.embedding_hidden_mapping_in", "electra.embeddings_project")
            theirs[name.replace("bert.", "electra.")] = array
    theirs["discriminator_predictions.dense.weight"] = np.ones((3, 3), np.float32)
    write(tmp_path, theirs, encoder, model_type="electra", embedding_size=width or encoder.hidden_size)
    source = formats.open_source(str(tmp_path))
    wanted = names.shapes(source.encoder, "none")
    with pytest.raises(checks.InputError, match=r"discriminator_predictions\.dense\.weight has no place"):
        assign.match(source, wanted)
    tensors, account = assign.match(source, wanted, ["discriminator*"])
    expected |= {n: np.zeros_like(a) for n, a in expected.items() if "pooler" in n}
    convert_samples.check_equal(convert_samples.arrays(tensors), expected)
    assert len(account.derived) == 2


@pytest.mark.parametrize("theirs, ours", config.HUGGING_FACE_ACTIVATIONS.items())
def test_activations(tmp_path, theirs, ours):
    path = tmp_path / "config.json"
    path.write_text(json.dumps({**convert_samples.bert_config(tiny.config()), "hidden_act": theirs}))
    assert huggingface.read_config(str(path))[0].hidden_act == ours


@pytest.mark.parametrize(
    "more, message",
    [
        ({"model_type": "roberta"}, "model_type must be one of bert, electra, distilbert; got 'roberta'"),
        ({"hidden_act": "swish"}, "'swish'"),
        ({"hidden_act": ["gelu"]}, "activation must be one of"),
        ({"is_decoder": True}, "is_decoder must be False"),
        ({"position_embedding_type": "relative_key"}, "position_embedding_type must be 'absolute'"),
        ({"num_attention_heads": 4}, "hidden_size must be a multiple"),
        ({"hidden_size": "15"}, "hidden_size must be of type int"),
    ],
)
def test_configurations_of_other_models_are_refused(tmp_path, more, message):
    with pytest.raises(checks.InputError, match=message):
        formats.open_source(write(tmp_path, theirs_of(convert_samples.source()), **more))


def test_the_configuration_of_old_archives(tmp_path):
    folder = write(tmp_path, theirs_of(convert_samples.source()), torch=True)
    (tmp_path / "config.json").rename(tmp_path / "bert_config.json")
    source = formats.open_source(folder)
    assert source.kind == "huggingface" and source.encoder == convert_samples.encoder()
    (tmp_path / "bert_config.json").unlink()
    (tmp_path / "other.index").write_bytes(b"")
    with pytest.raises(checks.InputError, match=r"config\.json must be a readable file"):
        formats.open_source(folder)


def test_a_size_that_is_missing_is_named(tmp_path):
    folder = write(tmp_path, theirs_of(convert_samples.source()))
    about = json.loads((tmp_path / "config.json").read_text())
    del about["intermediate_size"]
    (tmp_path / "config.json").write_text(json.dumps(about))
    with pytest.raises(checks.InputError, match="none for intermediate_size"):
        formats.open_source(folder)


def test_shapes_against_the_configuration(tmp_path):
    source = formats.open_source(
        write(tmp_path, theirs_of(convert_samples.source()), convert_samples.encoder(vocab_size=tiny.V + 1))
    )
    with pytest.raises(checks.InputError) as e:
        ours_of(source)
    assert f"word_embeddings.weight [{tiny.V}, 15], and [{tiny.V + 1}, 15] for bert/embeddings/word_emb" in str(e.value)


def test_one_tensor_under_two_names_is_refused(tmp_path):
    theirs = theirs_of(convert_samples.source())
    theirs["embeddings.LayerNorm.gamma"] = theirs["bert.embeddings.LayerNorm.weight"]
    with pytest.raises(checks.InputError, match="each tensor must be in a file once"):
        formats.open_source(write(tmp_path, theirs))


# Written.


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("tied", [True, False])
def test_what_is_written_has_the_names_of_transformers(tmp_path, head, tied):
    encoder = convert_samples.encoder(tie_word_embeddings=tied)
    source = convert_samples.source(head, HEADS[head], encoder)
    formats.convert(source, str(tmp_path / "out"), "huggingface")
    found = safetensors.numpy.load_file(tmp_path / "out/model.safetensors")
    arrays = convert_samples.arrays(source)
    decoder = arrays.pop("cls/predictions/output_weights", None)
    expected = convert_samples.huggingface_names(arrays, head)
    if decoder is not None:
        expected |= {
            "cls.predictions.decoder.weight": decoder,
            "cls.predictions.decoder.bias": expected["cls.predictions.bias"],
        }
    convert_samples.check_equal(found, expected)
    again = formats.open_source(str(tmp_path / "out"))
    assert (again.head, again.encoder, again.vocab) == (head, encoder, source.vocab)
    assert again.labels == (source.labels if head in ("classify", "tokens") else ())
    convert_samples.check_equal(ours_of(again)[0], convert_samples.arrays(source))


@pytest.mark.parametrize("act", ["gelu", "gelu_erf", "relu"])
def test_configurations_go_round(tmp_path, act):
    encoder = tiny.config(hidden_act=act, layer_norm_eps=1e-7, hidden_dropout_prob=0.3, initializer_range=0.5)
    source = convert_samples.source(encoder_config=encoder)
    formats.convert(source, str(tmp_path / "out"), "huggingface")
    assert formats.open_source(str(tmp_path / "out")).encoder == encoder
    about = json.loads((tmp_path / "out/config.json").read_text())
    assert about["architectures"] == ["BertForPreTraining"] and about["model_type"] == "bert"
    assert about["pad_token_id"] == tiny_run.vocab().pad_id
    assert config.read_bert_config(str(tmp_path / "out/config.json")) == encoder


TEXTS = [text.decode(errors="ignore") for text in tiny_run.TEXTS] + [
    "Un-ABLE foxes, Café!",
    "東京s",
    "x" * 150,
    "\t a\u00a0b ",
]


@pytest.mark.parametrize("lower_case", [True, False])
def test_the_tokenizer_that_is_written_gives_our_ids(tmp_path, lower_case):
    vocab = tiny_run.vocab(lower_case)
    source = convert_samples.source()._replace(vocab=vocab)
    formats.convert(source, str(tmp_path / "out"), "huggingface")
    theirs = tokenizers.Tokenizer.from_file(str(tmp_path / "out/tokenizer.json"))
    ours = tokenizer_lib.Tokenizer(vocab)
    for text in (t for t in TEXTS if "[" not in t):  # theirs always looks for special tokens in text
        ids = np.asarray(ours.tokenize([text])[0]).reshape(-1).tolist()
        assert theirs.encode(text, add_special_tokens=False).ids == ids, text
    assert theirs.encode("fox", "dog").type_ids == [0, 0, 0, 1, 1]
    assert theirs.encode("fox").ids == [vocab.cls_id, vocab.ids["fox"], vocab.sep_id]
    about = json.loads((tmp_path / "out/tokenizer_config.json").read_text())
    assert about["do_lower_case"] == lower_case and about["tokenizer_class"] == "BertTokenizer"
    assert huggingface.hf_tokenizer.read(str(tmp_path / "out")) == (vocab, {})


def test_a_vocabulary_comes_from_tokenizer_json_alone(tmp_path):
    formats.convert(convert_samples.source(), str(tmp_path / "out"), "huggingface")
    (tmp_path / "out/vocab.txt").unlink()
    assert formats.open_source(str(tmp_path / "out")).vocab == tiny_run.vocab()


def test_other_tokenizers_are_no_vocabulary_and_odd_ones_are_left_over(tmp_path):
    formats.convert(convert_samples.source(), str(tmp_path / "out"), "huggingface")
    path = tmp_path / "out/tokenizer.json"
    about = json.loads(path.read_text())

    def changed(**more):
        path.write_text(json.dumps({**about, **more}))
        return formats.open_source(str(tmp_path / "out"))

    assert changed(model={"type": "Unigram", "vocab": []}).vocab is None
    assert changed(normalizer={**about["normalizer"], "strip_accents": False}).unlike == {"strip_accents": False}
    assert changed(normalizer={**about["normalizer"], "handle_chinese_chars": False}).unlike
    assert changed(normalizer={"type": "Sequence", "normalizers": [about["normalizer"]]}).vocab == tiny_run.vocab()
    tokens = {f"t{i}": i for i in range(4)} | dict(zip(vocab_lib.SPECIAL_TOKENS, range(5, 10)))
    with pytest.raises(checks.InputError, match="without a gap"):
        changed(model={**about["model"], "vocab": tokens})
    with pytest.raises(checks.InputError, match="must begin with ##"):
        changed(model={**about["model"], "continuing_subword_prefix": "@@"})


def test_a_model_without_a_vocabulary_is_written_without_tokenizer(tmp_path):
    formats.convert(convert_samples.source(vocab=False), str(tmp_path / "out"), "huggingface")
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["config.json", "model.safetensors"]
    with pytest.raises(checks.InputError, match="must have a WordPiece vocabulary"):
        formats.convert(formats.open_source(str(tmp_path / "out")), str(tmp_path / "run"), "tfbert")
    assert [p.name for p in tmp_path.iterdir()] == ["out"]  # nothing half-made is left


def test_factorised_embeddings_cannot_be_written(tmp_path):
    source = convert_samples.source(encoder_config=convert_samples.encoder(embedding_size=9))
    with pytest.raises(checks.InputError, match="as wide as the encoder"):
        formats.convert(source, str(tmp_path / "out"), "huggingface")
