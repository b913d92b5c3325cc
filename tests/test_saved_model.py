"""Tests of export.saved_model, export.loaders, export.c_api, export.serving and export.parity."""

import hashlib
import json
import os
import re
import shutil
import stat
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf
from tensorflow.core.framework import op_def_pb2
from tensorflow.core.protobuf import saved_model_pb2

from export import loaders, parity, prepared, saved_model, serving, signatures
from tests import tiny, tiny_run
from tfbert import checks

pytestmark = pytest.mark.slow  # whole programs, minutes in all

K = tiny_run.TOP_K
LOADERS = pytest.mark.parametrize("load", [loaders.v1_session, loaders.c_api])


@pytest.fixture(scope="module")
def versions(tiny_versions):
    """The folder of versions, with one SavedModel."""
    return tiny_versions


@pytest.fixture(scope="module")
def run_dir(versions):
    """What was exported there."""
    return os.path.join(os.path.dirname(versions), "run")


@pytest.fixture
def served(tiny_served):
    return tiny_served


def settings(run_dir, folder):
    return saved_model.SavedModelConfig(
        run_dir=str(run_dir), output_dir=str(folder), top_k=K, max_masks=tiny_run.MAX_MASKS
    )


def wordpieces(loaded, texts):
    features = loaded.answering.rows(tf.constant(list(texts), tf.string))[0].features
    return {n: v.numpy() for n, v in features.items()}


def test_version_holds_what_a_server_and_a_client_need(versions, served, run_dir):
    assert sorted(os.listdir(versions)) == ["1"]
    for name in ("vocab.txt", "tokenizer.json"):
        with open(f"{served}/assets/{name}", "rb") as ours, open(f"{run_dir}/{name}", "rb") as theirs:
            assert ours.read() == theirs.read()
    assert os.path.isfile(f"{served}/assets.extra/tf_serving_warmup_requests")
    readable = stat.S_IRGRP | stat.S_IXGRP
    mask = os.umask(0)
    os.umask(mask)
    assert os.stat(served).st_mode & readable == readable & ~mask  # a server runs as another user


def test_signatures(served):
    defs = loaders.signatures(served)
    assert {name: (set(d.inputs), set(d.outputs)) for name, d in defs.items()} == {
        "serving_default": (
            {"text"},
            {"tokens", "ids", "probabilities", "positions", "mask_count", "truncated"},
        ),
        "choose": (
            {"text", "candidates"},
            {"tokens", "ids", "probabilities", "positions", "mask_count", "truncated"},
        ),
        "embed": ({"text"}, {"embedding", "truncated"}),
        "encode": ({"text"}, {"sequence_output", "pooled_output", "input_mask", "truncated"}),
        "tokenize": ({"text"}, {"ids", "tokens", "starts", "ends", "count", "truncated"}),
        "detokenize": ({"input_ids"}, {"text"}),
        "from_ids": (
            {"input_ids", "input_mask", "segment_ids"},
            {"sequence_output", "pooled_output", "next_sentence_logits"}
            | {"tokens", "ids", "probabilities", "positions"},
        ),
    }
    types = {n: tf.as_dtype(o.dtype).name for n, o in defs["serving_default"].outputs.items()}
    assert types == {
        "tokens": "string",
        "ids": "int32",
        "probabilities": "float32",
        "positions": "int32",
        "mask_count": "int32",
        "truncated": "bool",
    }


# Prints the ops of TensorFlow's libraries alone; Python's TensorFlow would take seconds to import.
KNOWN_OPS = """
import ctypes, sys

class Buffer(ctypes.Structure):
    _fields_ = (("data", ctypes.c_void_p), ("length", ctypes.c_size_t), ("deallocator", ctypes.c_void_p))

for path in sys.argv[1:]:
    library = ctypes.CDLL(path, ctypes.RTLD_GLOBAL)
library.TF_GetAllOpList.restype = ctypes.POINTER(Buffer)
found = library.TF_GetAllOpList().contents
sys.stdout.buffer.write(ctypes.string_at(found.data, found.length))
"""


def test_ops_beyond_tensorflows_own(served):
    """TensorFlow Serving has these two since 2.12; an op that it lacks keeps the whole model from loading."""
    with open(f"{served}/saved_model.pb", "rb") as f:
        graph = saved_model_pb2.SavedModel.FromString(f.read()).meta_graphs[0].graph_def
    ops = {
        node.op for part in (graph, *graph.library.function) for node in getattr(part, "node_def", None) or part.node
    }
    functions = {f.signature.name for f in graph.library.function}
    libraries = [loaders._library(tf.sysconfig.get_lib(), f"libtensorflow_{name}") for name in ("framework", "cc")]
    told = subprocess.run([sys.executable, "-c", KNOWN_OPS, *libraries], capture_output=True, check=True).stdout
    known = {op.name for op in op_def_pb2.OpList.FromString(told).op}
    assert len(known) > 1000 and ops - functions - known == {"FastBertNormalize", "FastWordpieceTokenizeWithOffsets"}


def test_holds_no_code_no_paths_and_no_data(served, run_dir):
    """In the bytes of all files: no pickle, no function of Python, no path of this machine."""
    home = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    site = os.path.dirname(os.path.dirname(tf.__file__))
    words = [home, site, os.path.expanduser("~") + "/", "/tmp/", run_dir, served, "site-packages", "lambda", "PyFunc"]
    files = [os.path.join(place, name) for place, _, names in os.walk(served) for name in names]
    assert sorted(os.path.relpath(f, served) for f in files) == [
        "assets.extra/tf_serving_warmup_requests",
        "assets/tokenizer.json",
        "assets/vocab.txt",
        "fingerprint.pb",
        "parity.json",
        "saved_model.pb",
        "variables/variables.data-00000-of-00001",
        "variables/variables.index",
    ]
    for path in files:
        with open(path, "rb") as f:
            content = f.read()
        assert not re.match(rb"\x80[\x02-\x05]", content), path  # as pickles begin
        assert [word for word in words if word.encode() in content] == [], path


@pytest.fixture(scope="module", params=[loaders.v1_session, loaders.c_api])
def answers(request, tiny_served, loaded):
    """What a loader answers, all of it asked at once, as to load takes most of the time: {what is asked: answers}."""
    texts = list(tiny_run.TEXTS)
    names = ("serving_default", "embed", "encode", "tokenize")
    asked = {
        "texts": [*((name, {"text": texts}) for name in names), ("from_ids", wordpieces(loaded, texts))],
        "nothing": [
            *((name, {"text": []}) for name in names),
            ("detokenize", {"input_ids": np.zeros([0, 3], np.int32)}),
            ("choose", {"text": [], "candidates": np.zeros([0, 2], object)}),
        ],
        "warm-up": serving.read_warmup(tiny_served),
        **{name: [(name, {"text": [text]}) for text in texts] for name in names},
    }
    left = iter(request.param(tiny_served, [one for requests in asked.values() for one in requests]))
    return {what: [next(left) for _ in requests] for what, requests in asked.items()}


def test_answers_are_the_references_in_each_loader(answers, loaded):
    texts = list(tiny_run.TEXTS)
    ids = wordpieces(loaded, texts)
    lengths = ids["input_mask"].sum(1)
    default, embed, encode, _, from_ids = answers["texts"]
    assert encode["sequence_output"].shape == (len(texts), lengths.max(), tiny.D)
    np.testing.assert_array_equal(encode["input_mask"], ids["input_mask"])
    few = tiny_run.MAX_MASKS
    for row, (length, (masks, _, cut)) in enumerate(zip(lengths, tiny_run.TEXTS.values())):
        row_ids = ids["input_ids"][row, :length].tolist()
        positions, probabilities, outputs = tiny_run.expected(loaded.model, row_ids)
        for masks_filled in (default, from_ids):
            tiny_run.check_answers(masks_filled, row, positions[:few], probabilities[:few], K)
        mean = outputs["sequence_output"][0].mean(0)
        np.testing.assert_allclose(embed["embedding"][row], mean, atol=2e-5)
        for states in (encode, from_ids):
            np.testing.assert_allclose(
                states["sequence_output"][row, :length], outputs["sequence_output"][0], atol=2e-5
            )
            np.testing.assert_allclose(states["pooled_output"][row], outputs["pooled_output"][0], atol=2e-5)
        np.testing.assert_allclose(from_ids["next_sentence_logits"][row], outputs["next_sentence_logits"][0], atol=2e-5)
        assert (default["mask_count"][row], default["truncated"][row], encode["truncated"][row]) == (masks, cut, cut)


def test_no_text_at_all(answers):
    default, embed, encode, pieces, texts, chosen = answers["nothing"]
    assert default["tokens"].shape == (0, 1, K) and default["tokens"].dtype == object
    assert encode["pooled_output"].shape == embed["embedding"].shape == (0, tiny.D)
    assert pieces["ids"].shape == (0, 1) and texts["text"].shape == (0,) and chosen["ids"].shape == (0, 1, 2)


def test_a_row_of_a_batch_equals_the_text_alone(answers):
    for name, several in zip(("serving_default", "embed", "encode", "tokenize"), answers["texts"]):
        for row, alone in enumerate(answers[name]):
            if "input_mask" in alone:  # states of padding mean nothing
                assert alone["input_mask"].all()
            tiny_run.check_same_row(several, row, alone)


@LOADERS
def test_wrong_requests_are_errors(load, served):
    ids = {n: np.ones([1, 3], np.int32) for n in ("input_ids", "input_mask", "segment_ids")}
    too_big = {**ids, "input_ids": np.full([1, 3], tiny.V, np.int32)}
    with pytest.raises((RuntimeError, tf.errors.InvalidArgumentError), match=r"= 97 is not in \[0, 97\)"):
        load(served, [("from_ids", too_big)])
    too_long = {n: np.ones([1, tiny.MAX_L + 1], np.int32) for n in ids}
    with pytest.raises((RuntimeError, tf.errors.InvalidArgumentError), match=r"is not in \[0, 23\)"):
        load(served, [("from_ids", too_long)])
    with pytest.raises(checks.InputError, match=r"signature must be one of .*; got 'sevring'"):
        load(served, [("sevring", {})])


def test_warmup_requests_run(served, answers):
    requests = serving.read_warmup(served)
    assert {name for name, _ in requests} == {"serving_default", "embed"}
    assert answers["warm-up"][0]["mask_count"].tolist() == [1]


def test_parity_says_what_was_compared(served, run_dir):
    with open(f"{served}/parity.json", encoding="utf-8") as f:
        about = json.load(f)
    assert about["checkpoint_step"] == tiny_run.STEP and about["tokenizer_digest"] == tiny_run.vocab().digest
    assert set(about["loaders"]) == {"v1_session", "c_api"}
    for found in about["loaders"].values():
        names = {"choose", "embed", "encode", "from_ids", "tokenize", "detokenize", "serving_default"}
        assert set(found) == set(about["compared"]) == names
        assert found["serving_default"]["masks"] == found["from_ids"]["masks"] > 20
        assert 0 < found["serving_default"]["max_log_probability_difference"] < 2e-5
        assert 0 < found["encode"]["max_sequence_output_difference"] < 2e-5
        assert 0 < found["from_ids"]["max_next_sentence_logits_difference"] < 2e-5
        assert 0 < found["embed"]["max_embedding_difference"] < 2e-5
    assert about["settings"] == {
        "top_k": K,
        "max_masks": 3,
        "max_seq_length": tiny_run.MAX_SEQ_LENGTH,
        "truncation": "head",
        "max_input_bytes": 65536,
        "pooling": "mean",
        "normalize": False,
        "dtype": "float32",
        "tensor_parallelism": 1,
    }
    assert {"saved_model.pb", "assets/vocab.txt", "variables/variables.index"} < set(about["files"])
    for name, of in about["files"].items():
        with open(f"{served}/{name}", "rb") as f:
            content = f.read()
        assert of == {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}


def test_next_version_is_one_more_than_the_highest(tmp_path):
    assert saved_model.next_version(str(tmp_path)) == 1
    for name in ("9", "10", "canary", ".unfinished-1"):
        (tmp_path / name).mkdir()
    assert saved_model.next_version(str(tmp_path)) == 11
    assert loaders.newest_version(str(tmp_path)) == str(tmp_path / "10")


def test_an_export_of_other_weights_is_refused(served, tmp_path, monkeypatch):
    tiny_run.make(tmp_path, seed=1)
    ready = prepared.prepare(settings(tmp_path, tmp_path))
    proofs = saved_model.proofs(signatures.Served(ready.answering, ready.model, str(tmp_path)), ready)
    answers = []

    def load(folder, requests):
        answers.extend(loaders.v1_session(folder, requests))
        return answers

    monkeypatch.setattr(saved_model, "LOADERS", {"v1_session": load})
    with pytest.raises(checks.InputError, match=r"the export's scores must equal .*v1_session, signature "):
        saved_model.check(served, proofs)
    left = iter(answers)
    for name, proof in proofs.items():
        said = [next(left) for _ in proof.requests]
        if name in ("tokenize", "detokenize"):
            continue  # they have no weights
        with pytest.raises(checks.InputError, match=f"the export's scores must equal .*signature {name}"):
            parity.prove({name: proof}, lambda _, said=said: said, "here")


def test_the_check_sees_what_only_python_can_load(loaded, tmp_path, monkeypatch):
    """A Keras model inside of the module: `tf.saved_model.load` is content, a server is not."""
    served = signatures.Served(loaded.answering, loaded.model, loaded.run.dir)
    monkeypatch.setattr(loaded.answering, "weights", {})
    served.vectors.others = {}
    served.keras_model = loaded.model
    tf.saved_model.save(served, str(tmp_path), signatures={"serving_default": served.signatures()["serving_default"]})
    text = tf.constant([b"a [MASK]"])
    assert tf.saved_model.load(str(tmp_path)).signatures["serving_default"](text)["ids"].shape == (1, 1, K)
    for load in (loaders.v1_session, loaders.c_api):
        with pytest.raises((RuntimeError, tf.errors.FailedPreconditionError), match="Could not find variable"):
            load(str(tmp_path), [("serving_default", {"text": [b"a [MASK]"]})])


@pytest.mark.parametrize(
    "problem, words",
    [
        (OSError(28, "No space left on device"), "output_dir must be a folder that can be written; got No space left"),
        (checks.InputError("scores differ"), "scores differ"),
    ],
)
def test_a_failed_export_leaves_no_version(run_dir, tmp_path, monkeypatch, problem, words):
    def fail(folder, *args):
        os.mkdir(folder)
        raise problem

    monkeypatch.setattr(saved_model, "_write", fail)
    with pytest.raises(checks.InputError, match=words):
        saved_model.run(settings(run_dir, tmp_path))
    assert os.listdir(tmp_path) == []


def test_bad_input(run_dir, tmp_path):
    with pytest.raises(checks.InputError, match="--output_dir must be given"):
        saved_model.run(settings(run_dir, ""))
    with pytest.raises(checks.InputError, match="--run_dir must be given"):
        saved_model.run(settings("", tmp_path))
    with pytest.raises(checks.InputError, match="run folder"):
        saved_model.run(settings(tmp_path / "none", tmp_path / "served"))
    incomplete = tmp_path / "incomplete"
    shutil.copytree(run_dir, incomplete)
    (incomplete / "vocab.txt").unlink()
    with pytest.raises(checks.InputError, match=r"vocab\.txt"):
        saved_model.run(settings(incomplete, tmp_path / "served"))
    (tmp_path / "file").write_text("")
    with pytest.raises(checks.InputError, match="output_dir must be a folder that can be written"):
        saved_model.run(settings(run_dir, tmp_path / "file"))
    with pytest.raises(checks.InputError, match="nor a numbered folder"):
        loaders.newest_version(str(tmp_path / "none"))


class TestCompare:
    """`parity.compare` sees each kind of difference."""

    @pytest.fixture
    def both(self, loaded):
        texts = [b"the [MASK] dog", b"[MASK][MASK]", b"dog"]
        limits = loaded.answering.max_seq_length, tiny_run.MAX_MASKS
        expected = parity.reference(loaded.model, loaded.run.vocab, *limits, texts)
        answers = {n: np.asarray(v).copy() for n, v in loaded.answering(tf.constant(texts)).items()}
        return answers, expected

    def test_equal(self, both):
        found = parity.compare(*both, tiny_run.vocab())
        assert found["masks"] == 3 and found["top_1_agreement"] == 1.0
        assert found["max_log_probability_difference"] < 2e-5
        parity.require_close(found, parity.TOLERANCE, "here")

    def test_a_wrong_probability(self, both):
        right = both[0]["probabilities"][1, 1, 2].item()
        both[0]["probabilities"][1, 1, 2] *= 1.01
        found = parity.compare(*both, tiny_run.vocab())
        assert found["max_probability_difference"] == pytest.approx(0.01 * right, rel=1e-2)
        assert found["max_log_probability_difference"] == pytest.approx(np.log(1.01), rel=1e-2)
        with pytest.raises(checks.InputError, match=r"max_log_probability_difference=0\.00995 \(at here\)"):
            parity.require_close(found, parity.TOLERANCE, "here")

    def test_another_order(self, both):
        for name in ("ids", "tokens", "probabilities"):
            both[0][name][0, 0] = both[0][name][0, 0, ::-1].copy()
        found = parity.compare(*both, tiny_run.vocab())
        assert found["top_1_agreement"] == pytest.approx(2 / 3)
        assert found["max_log_probability_difference"] > parity.TOLERANCE

    def test_a_worse_word_with_its_right_probability(self, both):
        answers, expected = both
        worst = int(expected["log_probabilities"][0][0].argmin())
        answers["ids"][0, 0, -1] = worst
        answers["tokens"][0, 0, -1] = tiny_run.vocab().tokens[worst].encode()
        answers["probabilities"][0, 0, -1] = np.exp(expected["log_probabilities"][0][0, worst])
        assert parity.compare(*both, tiny_run.vocab())["max_log_probability_difference"] > 0.1

    def test_not_a_number(self, both):
        both[0]["probabilities"][0, 0, 0] = np.nan
        with pytest.raises(checks.InputError, match="scores must equal"):
            parity.require_close(parity.compare(*both, tiny_run.vocab()), parity.TOLERANCE, "here")

    @pytest.mark.parametrize("name", ["tokens", "positions", "mask_count", "truncated"])
    def test_what_is_no_score(self, both, name):
        value = both[0][name]
        value[0] = b"x" if name == "tokens" else ~value[0]
        with pytest.raises(checks.InputError, match=f"the export's {name}"):
            parity.compare(*both, tiny_run.vocab())
