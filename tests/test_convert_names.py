"""Tests of the table of names, and of what is made of it: matching, accounts, assigning."""

import dataclasses
import json

import numpy as np
import pytest

from tests import convert_samples, tiny
from tests.test_heads import google_names
from tfbert import checks, config, heads
from tfbert.convert import assign, names, sources, spellings
from tfbert.loop import checkpoints

ENCODER = convert_samples.encoder()


@pytest.mark.slow
def test_the_table_lists_every_variable_of_the_models():
    sizes = {"num_hidden_layers": 3, "type_vocab_size": 5}
    for overrides in ({}, sizes, {"embedding_size": 9, "tie_word_embeddings": False}):
        encoder = convert_samples.encoder(**overrides)
        variables = checkpoints.model_variables(heads.build_pretrainer(encoder))
        assert names.shapes(encoder, "pretraining") == {n: tuple(v.shape) for n, v in variables.items()}
    variables = checkpoints.model_variables(heads.build_classifier(ENCODER, 4))
    assert names.shapes(ENCODER, "classify", 4) == {n: tuple(v.shape) for n, v in variables.items()}


def test_googles_names_are_those_of_its_released_checkpoints():
    encoder = config.preset("base")
    places = names.places("google", encoder)
    assert sorted(places[n].theirs for n in names.shapes(encoder, "pretraining")) == google_names(12)
    assert len(names.shapes(encoder, "pretraining")) == 206


def test_a_name_belongs_to_one_variable_of_a_model():
    for layout in spellings.ALIASES:
        places = names.places(layout, ENCODER)
        for head in names.PARTS:
            theirs = [places[n].theirs for n in names.shapes(ENCODER, head, 4) if n in places]
            assert len(set(theirs)) == len(theirs)


def test_spelling_leaves_the_tables_names_alone():
    for layout in spellings.ALIASES:
        for ours, place in names.places(layout, ENCODER).items():
            if place.part not in ("classify", "tokens"):  # DistilBERT's and ELECTRA's classifiers are others
                assert spellings.plain(layout, place.theirs) == place.theirs, ours


@pytest.mark.parametrize("stored", names.STORED)
def test_transforms_are_inverses(stored):
    rng = np.random.default_rng(0)
    shape = next(row.shape for row in names.TABLE if row.stored == stored)
    sizes = dict(zip("VEDIPTC2", (tiny.V, 15, 15, 17, 23, 3, 4, 2)))
    array = rng.normal(size=[sizes[letter] for letter in shape]).astype(np.float32)
    for transform in (names.STORED[stored].get(kind, names.SAME) for kind in names.KINDS):
        theirs = transform.from_ours(array, transform.their_shape(array.shape, tiny.N))
        assert theirs.shape == tuple(transform.their_shape(array.shape, tiny.N))
        assert transform.to_ours(theirs, array.shape).tobytes() == array.tobytes()


def test_heads_are_split_as_attention_splits_them():
    kernel = np.arange(15 * 15, dtype=np.float32).reshape(15, 15)
    out = names.HEADS_OUT.from_ours(kernel, (15, 3, 5))
    np.testing.assert_array_equal(out[:, 1, 2], kernel[:, 1 * 5 + 2])
    np.testing.assert_array_equal(names.HEADS_IN.from_ours(kernel, (3, 5, 15))[1, 2], kernel[1 * 5 + 2])


@pytest.mark.parametrize("head", names.PARTS)
def test_heads_are_told_from_names(head):
    wanted = names.shapes(ENCODER, head, 4)
    for layout in ("tfbert", "google", "huggingface"):
        places = names.places(layout, ENCODER)
        architectures = ("BertForTokenClassification",) if head == "tokens" else ()
        assert names.head_of(layout, {places[n].theirs for n in wanted}, ENCODER, architectures) == head


# Matching.


def match(source, wanted=None, **kwargs):
    return assign.match(source, wanted or names.shapes(source.encoder, source.head), **kwargs)


def without(source, *left):
    return source._replace(tensors={n: t for n, t in source.tensors.items() if n not in left})


def test_everything_is_used_once():
    source = convert_samples.source()
    tensors, account = match(source)
    convert_samples.check_equal(convert_samples.arrays(tensors), convert_samples.arrays(source))
    assert sorted(ours for ours, _, _ in account.used) == sorted(source.tensors)
    assert not (account.derived or account.unused or account.left_over or account.missing)


def test_missing_and_left_over_are_errors_that_list_them():
    source = convert_samples.source()
    odd = {
        **without(source, "cls/predictions/output_bias").tensors,
        "something/new": convert_samples.tensor(np.ones(3)),
    }
    source = source._replace(tensors=odd)
    with pytest.raises(checks.InputError) as e:
        match(source)
    text = str(e.value)
    assert "cls/predictions/output_bias is not in the file" in text and "something/new has no place" in text
    assert text.count("is not in the file") == text.count("has no place") == 1
    for allowed in (["cls/*"], ["something/*"]):
        with pytest.raises(checks.InputError):
            match(source, allow_missing=allowed)
    _, account = match(source, allow_missing=["cls/pred*", "*new"])
    assert account.missing == ["cls/predictions/output_bias"] and account.left_over == ["something/new"]
    assert "as --allow_missing says" in account.text()


def test_globs_may_be_of_our_names_and_of_the_files():
    expected = convert_samples.source()
    theirs = convert_samples.huggingface_names(convert_samples.arrays(expected))
    theirs = {n: convert_samples.tensor(a) for n, a in theirs.items()}
    source = expected._replace(kind="huggingface", layout="huggingface", tensors=theirs)
    wanted = names.shapes(ENCODER, "none")
    for glob in ("cls/*", "cls.*"):
        _, account = match(source, wanted, allow_missing=[glob])
        assert len(account.left_over) == 7
    with pytest.raises(checks.InputError, match=r"cls\.seq_relationship\.bias has no place"):
        match(source, wanted, allow_missing=["cls/predictions/*"])


def test_errors_tell_layers_of_like_names_in_one_line():
    source = convert_samples.source()
    source = without(source, *(n for n in source.tensors if n.endswith("query/bias")))
    with pytest.raises(checks.InputError, match=r"layer_\{0\.\.1\}/attention/self/query/bias is not in the file"):
        match(source)


def test_shapes_that_differ_are_named_both():
    source = convert_samples.source()
    wanted = {**names.shapes(ENCODER, "pretraining"), "bert/pooler/dense/kernel": (15, 16)}
    message = r"bert/pooler/dense/kernel \[15, 15\], and \[15, 16\] for bert/pooler/dense/kernel \[15, 16\]"
    with pytest.raises(checks.InputError, match=message):
        match(source, wanted, allow_missing=["*"])


def test_what_the_configuration_cannot_say_is_left_over():
    source = convert_samples.source()._replace(unlike={"strip_accents": False})
    with pytest.raises(checks.InputError, match=r"config/strip_accents=False has no place"):
        match(source)
    with pytest.raises(checks.InputError, match=r"config/hidden_act=x has no place"):
        match(source, allow_missing=["config/strip*"], unlike=["config/hidden_act=x"])
    match(source, allow_missing=["config/*"], unlike=["config/hidden_act=x"])


def test_load_assigns_every_variable():
    model, source = convert_samples.pretrainer(), convert_samples.source(seed=5)
    account = assign.load(source, model)
    found = {v.path: np.asarray(v) for v in model.variables}
    convert_samples.check_equal(found, convert_samples.arrays(source))
    assert len(account.used) == len(found)


def test_load_keeps_what_may_be_missing():
    model, source = convert_samples.pretrainer(), convert_samples.source("none", seed=5)
    before = {v.path: np.array(v) for v in model.variables}
    with pytest.raises(checks.InputError):
        assign.load(source, model)
    convert_samples.check_equal({v.path: np.asarray(v) for v in model.variables}, before)  # nothing was assigned
    account = assign.load(source, model, ["cls/*"])
    expected = {**before, **convert_samples.arrays(source)}
    convert_samples.check_equal({v.path: np.asarray(v) for v in model.variables}, expected)
    assert sorted(account.missing) == sorted(n for n in before if n.startswith("cls/"))


def test_numbers_that_are_not_finite_do_not_load():
    source = convert_samples.source()
    array = source.tensors["bert/pooler/dense/bias"].read().copy()
    array[3] = np.nan
    source.tensors["bert/pooler/dense/bias"] = convert_samples.tensor(array)
    with pytest.raises(checks.InputError, match="bert/pooler/dense/bias that are not, the first at"):
        assign.load(source, convert_samples.pretrainer())


def test_fresh_variables():
    shape = (300, 200)
    kernel = assign.fresh("cls/x/kernel", shape, 0.02).read()
    assert kernel.shape == shape and kernel.dtype == np.float32 and np.abs(kernel).max() <= 0.04
    # A normal distribution that is cut at two deviations has a deviation of 0.8796; 60,000 numbers.
    np.testing.assert_allclose(kernel.std(), 0.02 * 0.87962566, rtol=0.02)
    np.testing.assert_allclose(kernel.mean(), 0, atol=5 * 0.02 / np.sqrt(kernel.size))
    assert (kernel == assign.fresh("cls/x/kernel", shape, 0.02).read()).all()
    assert (kernel != assign.fresh("cls/y/kernel", shape, 0.02).read()).any()
    assert (assign.fresh("x/gamma", (3,), 0.02).read() == 1).all()
    assert (assign.fresh("x/beta", (3,), 0.02).read() == 0).all()


# The account.


def test_the_account_tells_layers_in_one_line_and_all_else_alone():
    source = convert_samples.source(encoder_config=convert_samples.encoder(num_hidden_layers=12))
    theirs = convert_samples.huggingface_names(convert_samples.arrays(source))
    source = source._replace(
        kind="huggingface",
        layout="huggingface",
        where="x",
        tensors={n: convert_samples.tensor(a) for n, a in theirs.items()},
    )
    _, account = match(source)
    lines = account.text().splitlines()
    assert lines[0] == "from huggingface x: 206 tensors" and lines[1] == "  used, 206:"
    layers = "layer_{0..11}/attention/self/key/kernel <- bert.encoder.layer.{0..11}.attention.self.key.weight"
    assert f"    bert/encoder/{layers} (transposed)" in lines
    assert "    cls/predictions/output_bias <- cls.predictions.bias" in lines
    assert len(lines) == 2 + 5 + 16 + 2 + 7


def test_sources_read_json_says_what_is_wrong(tmp_path):
    path = tmp_path / "config.json"
    for text, message in ((b"{", "must hold JSON"), (b"[]", "JSON object; got list"), (b"\xff", "must hold JSON")):
        path.write_bytes(text)
        with pytest.raises(checks.InputError, match=message):
            sources.read_json(str(path))
    path.write_text(json.dumps({"a": 1}))
    assert sources.read_json(str(path)) == {"a": 1}


def test_a_configuration_has_what_the_table_needs():
    assert names.width(dataclasses.replace(ENCODER, embedding_size=9)) == 9
    assert names.width(ENCODER) == ENCODER.hidden_size
