"""Tests of export.cpp_loader and load_saved_model.cc: the function that TensorFlow Serving loads models with."""

import numpy as np
import pytest
import tensorflow as tf

from export import cpp_loader, loaders, parity, serving
from tests import tiny_run
from tfbert import checks, fill_mask

pytestmark = [
    pytest.mark.slow,  # compiles for half a minute, once on a machine
    pytest.mark.skipif(not cpp_loader.available(), reason="needs a compiler: apt-get install g++"),
]


def inputs_of(about):
    """Something for each input of a signature."""
    ids = {"input_ids": [[7, 3, 9, 1]], "input_mask": [[1, 1, 1, 0]], "segment_ids": [[0, 0, 1, 1]], "ids": [[20, 21]]}
    texts = {"text": [b"the [MASK] of caf\xc3\xa9"], "candidates": [[b"the", b"dog"]]}
    arrays = {name: np.array(value, np.int32) for name, value in ids.items()}
    return {name: np.repeat({**arrays, **texts}[name], 3, axis=0) for name in about.inputs}


def test_every_signature_answers_as_in_a_session(tiny_served):
    requests = [(name, inputs_of(about)) for name, about in loaders.signatures(tiny_served).items()]
    requests.append(("serving_default", {"text": list(tiny_run.TEXTS)}))
    assert {"serving_default", "embed", "from_ids"} <= {name for name, _ in requests}
    ours, theirs = (load(tiny_served, requests) for load in (cpp_loader.cpp_session, loaders.v1_session))
    for one, other in zip(ours, theirs, strict=True):
        assert set(one) == set(other)
        for name, value in other.items():
            assert one[name].shape == value.shape and one[name].dtype == value.dtype
            if value.dtype.kind == "f":
                np.testing.assert_allclose(one[name], value, atol=1e-6)
            else:
                np.testing.assert_array_equal(one[name], value)


def test_scores_are_the_run_folders(tiny_served, tiny_versions):
    loaded = fill_mask.load(tiny_versions.removesuffix("bert") + "run", None, tiny_run.TOP_K, tiny_run.MAX_MASKS)
    rows = parity.texts()
    expected = parity.reference(loaded.model, loaded.run.vocab, tiny_run.MAX_SEQ_LENGTH, tiny_run.MAX_MASKS, rows)
    (answers,) = cpp_loader.cpp_session(tiny_served, [("serving_default", {"text": rows})])
    differences = parity.compare(answers, expected, loaded.run.vocab)
    assert differences["masks"] > 20 and differences["top_1_agreement"] == 1
    parity.require_close(differences, parity.TOLERANCE, "C++")


def test_warm_up_requests_are_answered(tiny_served):
    requests = serving.read_warmup(tiny_served)
    answers = cpp_loader.cpp_session(tiny_served, requests)
    assert len(answers) == len(requests) > 1
    for (_, inputs), answer in zip(requests, answers):
        rows = {len(value) for value in inputs.values()} | {len(value) for value in answer.values()}
        assert len(rows) == 1


def test_what_a_server_cannot_load_or_answer(tiny_served, tmp_path):
    """The trap of Keras 3: a model that `tf.saved_model.load` runs, and no session does."""
    with pytest.raises(checks.InputError, match="signature must be one of"):
        cpp_loader.cpp_session(tiny_served, [("nothing", {})])
    with pytest.raises(RuntimeError, match=r"status 4: from_ids: INVALID_ARGUMENT: "):
        ids = inputs_of(loaders.signatures(tiny_served)["from_ids"])
        cpp_loader.cpp_session(tiny_served, [("from_ids", {**ids, "input_mask": ids["input_mask"][:, 1:]})])
    module = tf.Module()
    module.model = tf.keras.Sequential([tf.keras.layers.Dense(3)])
    module.model.build([None, 2])
    module.run = tf.function(module.model.__call__, input_signature=[tf.TensorSpec([None, 2], tf.float32, "x")])
    tf.saved_model.save(module, str(tmp_path), signatures=module.run)
    with pytest.raises(RuntimeError, match=r"(?s)status 4: serving_default: .*Could not find variable"):
        cpp_loader.cpp_session(str(tmp_path), [("serving_default", {"x": np.ones([5, 2], np.float32)})])


def test_source_that_does_not_compile_is_an_error(tmp_path, monkeypatch):
    broken = tmp_path / "broken.cc"
    broken.write_text("#error not today\n")
    monkeypatch.setattr(cpp_loader, "SOURCE", str(broken))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    with pytest.raises(checks.InputError, match=r"(?s)must compile.*not today"):
        cpp_loader.program()
    monkeypatch.setenv("PATH", str(tmp_path))
    assert not cpp_loader.available()
    with pytest.raises(checks.InputError, match="apt-get install"):
        cpp_loader.program()
