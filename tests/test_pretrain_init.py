"""Tests of --init_checkpoint of tfbert.pretrain: weights of every format begin a run, and are accounted for."""

import dataclasses
import json
import os

import numpy as np
import pytest

from tests import tiny, tiny_records
from tfbert import checks, config, heads, initial_weights, pretrain, run_folder
from tfbert.convert import formats
from tfbert.loop import checkpoints
from tfbert.text import vocab as vocab_lib


@pytest.fixture(scope="module")
def other(tmp_path_factory):
    """(folder of a run, its model)."""
    folder = str(tmp_path_factory.mktemp("other") / "run")
    model = tiny.randomize(heads.build_pretrainer(tiny.config()), seed=4)
    run_folder.create(folder, tiny.config(), tiny_records.vocab(), {})
    checkpoints.Checkpoints(folder, model).save(3)
    return folder, model


def begun(folder, **overrides):
    """(a `RunFolder` that has not begun, its model with fresh weights)."""
    encoder = tiny.config(**overrides)
    run = run_folder.create(str(folder), encoder, tiny_records.vocab(), {})
    return run, heads.build_pretrainer(encoder)


def numbers(model):
    return {v.path: np.array(v) for v in model.variables}


def check_same(found, want, but=()):
    assert found.keys() == want.keys()
    for name in found.keys() - set(but):
        np.testing.assert_array_equal(found[name], want[name], err_msg=name)


@pytest.mark.parametrize("kind", ["tfbert", "google", "huggingface"])
def test_formats(other, tmp_path, kind):
    path = other[0]
    if kind != "tfbert":
        path = str(tmp_path / "there")
        formats.convert(formats.open_source(other[0]), path, kind)
    run, model = begun(tmp_path / "run")
    account = initial_weights.take(path, (), model, run)
    check_same(numbers(model), numbers(other[1]))
    assert account.startswith(f"from {kind} {path}") and "46 tensors" in account.splitlines()[0]
    assert "cls/seq_relationship/output_weights" in account and "missing" not in account


def test_a_head_that_is_missing_is_initialised_if_that_is_allowed(other, tmp_path):
    source = formats.open_source(other[0])
    there = str(tmp_path / "there")
    kept = {n: t for n, t in source.tensors.items() if not n.startswith("cls/")}
    formats.convert(source._replace(tensors=kept, head="none"), there, "huggingface")
    run, model = begun(tmp_path / "run")
    fresh = numbers(model)
    with pytest.raises(
        checks.InputError, match=r"cls/predictions/output_bias is not in the file[\s\S]*--allow_missing"
    ):
        initial_weights.take(there, (), model, run)
    check_same(numbers(model), fresh)
    with pytest.raises(checks.InputError, match="cls/seq_relationship/output_bias is not in the file"):
        initial_weights.take(there, ("cls/predictions/*",), model, run)
    account = initial_weights.take(there, ("cls/*",), model, run)
    head = [name for name in fresh if name.startswith("cls/")]
    assert len(head) == 7
    check_same({n: x for n, x in numbers(model).items() if n in head}, {n: fresh[n] for n in head})
    check_same(numbers(model), numbers(other[1]), but=head)
    missing = account[account.index("missing, as --allow_missing says: freshly initialised") :]
    assert all(name in missing for name in head)


@pytest.mark.slow
def test_a_head_that_has_no_place_is_left_if_that_is_allowed(other, tmp_path):
    model = tiny.randomize(heads.build_classifier(tiny.config(), 3))
    folder = str(tmp_path / "classifier")
    run_folder.create(folder, tiny.config(), tiny_records.vocab(), {})
    checkpoints.Checkpoints(folder, model).save(1)
    run, mine = begun(tmp_path / "run")
    with pytest.raises(checks.InputError, match="classifier/output_weights has no place in the model"):
        initial_weights.take(folder, ("cls/*",), mine, run)
    initial_weights.take(folder, ("cls/*", "classifier/*"), mine, run)
    found = {n: x for n, x in numbers(mine).items() if n.startswith("bert/")}
    check_same(found, {n: x for n, x in numbers(model).items() if n.startswith("bert/")})


@pytest.mark.slow
@pytest.mark.parametrize(
    "overrides, message",
    [
        ({"hidden_act": "gelu_erf"}, "config/hidden_act=gelu has no place"),
        ({"layer_norm_eps": 1e-5}, "config/layer_norm_eps=1e-12 has no place"),
        ({"num_attention_heads": 5}, "config/num_attention_heads=3 has no place"),
        ({"tie_word_embeddings": False}, "cls/predictions/output_weights is not in the file"),
        ({"embedding_size": 7}, r"word_embeddings \[97, 15\], and \[97, 7\]"),
    ],
)
def test_weights_of_another_kind_of_model(other, tmp_path, overrides, message):
    """Also where no shape tells."""
    run, model = begun(tmp_path, **overrides)
    before = numbers(model)
    with pytest.raises(checks.InputError, match=message):
        initial_weights.take(other[0], (), model, run)
    check_same(numbers(model), before)


@pytest.mark.slow
def test_what_no_shape_tells_may_be_allowed(other, tmp_path):
    run, model = begun(tmp_path, hidden_act="gelu_erf")
    initial_weights.take(other[0], ("config/hidden_act=*",), model, run)
    check_same(numbers(model), numbers(other[1]))


def test_the_model_is_that_of_the_weights(other, tmp_path):
    source = formats.open_source(other[0])
    there = str(tmp_path / "there")
    erf = dataclasses.replace(source.encoder, hidden_act="gelu_erf", layer_norm_eps=1e-5)
    formats.convert(source._replace(encoder=erf), there, "huggingface")
    flags = tiny_records.flags(tmp_path, tmp_path, init_checkpoint=there, bert_config_file="", hidden_dropout_prob=0.3)
    encoder = pretrain._encoder_config(flags, tiny_records.vocab())
    assert (encoder.hidden_act, encoder.layer_norm_eps, encoder.hidden_dropout_prob) == ("gelu_erf", 1e-5, 0.3)
    with pytest.raises(checks.InputError, match="one of --model and --bert_config_file must be given, or weights"):
        tiny_records.flags(tmp_path, tmp_path, bert_config_file="")


@pytest.mark.slow
class TestVocabulary:
    def of(self, other, tmp_path, kind, vocab):
        there = str(tmp_path / "there")
        formats.convert(formats.open_source(other[0])._replace(vocab=vocab), there, kind)
        run, model = begun(tmp_path / "run")
        return initial_weights.take(there, (), model, run)

    def test_another_one(self, other, tmp_path):
        tokens = list(tiny_records.vocab().tokens)
        tokens[-2:] = tokens[:-3:-1]
        for kind in ("google", "huggingface"):
            with pytest.raises(checks.InputError, match="init_checkpoint must be trained with the vocabulary of this"):
                self.of(other, tmp_path / kind, kind, vocab_lib.Vocab(tuple(tokens)))

    def test_another_case(self, other, tmp_path):
        """Google's folders do not say it."""
        cased = vocab_lib.Vocab(tiny_records.vocab().tokens, do_lower_case=False)
        self.of(other, tmp_path / "a", "google", cased)
        with pytest.raises(checks.InputError, match=r"do_lower_case=False, and .*do_lower_case=True in this run"):
            self.of(other, tmp_path / "b", "huggingface", cased)

    def test_none(self, other, tmp_path):
        account = self.of(other, tmp_path, "huggingface", None)
        assert "has no vocabulary beside it to compare" in account.splitlines()[0]


@pytest.mark.slow
def test_the_program(other, tmp_path):
    """From Hugging Face's weights and configuration; the same command goes on, with other globs too."""
    tiny_records.make(tmp_path / "records")
    there = str(tmp_path / "there")
    formats.convert(formats.open_source(other[0]), there, "huggingface")
    with open(os.path.join(there, "config.json"), encoding="utf-8") as f:
        hidden_act = json.load(f)["hidden_act"]
    assert hidden_act == "gelu_new"
    read = config.read_bert_config(os.path.join(there, "config.json"))
    assert read == tiny.config(hidden_dropout_prob=read.hidden_dropout_prob)
    flags = tiny_records.flags(
        str(tmp_path / "records"),
        tmp_path / "run",
        init_checkpoint=there,
        bert_config_file="",  # the model is that of the weights
        learning_rate=0.0,
        weight_decay=0.0,
        num_train_steps=3,
    )
    pretrain.run(flags)
    model, run, _ = run_folder.load_pretrainer(str(tmp_path / "run"))
    assert run.encoder == dataclasses.replace(read, vocab_size=97)
    check_same(numbers(model), numbers(other[1]))
    assert pretrain.run(tiny_records.flags(**_again(flags, allow_missing=("cls/*",)))) == 0


def _again(flags, **overrides):
    """What `tiny_records.flags` takes to make the same flags but for some."""
    fields = {name: getattr(flags, name) for name in flags.__dataclass_fields__} | overrides
    return {"folder": "", "output_dir": fields.pop("output_dir"), **fields}
