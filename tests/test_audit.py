"""Tests of export.audit and of its table, export/op_history.txt."""

import glob
import os
import pickle
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_text as tf_text

from export import audit, c_api, loaders
from tfbert import checks

# Folders with the libraries of older releases, side by side: see test_an_older_tensorflow_answers_the_same.
OLDER = [folder for folder in os.environ.get("TFBERT_OLDER_TENSORFLOW", "").split(":") if folder]


def save(folder, function, *types):
    """Saves a function as a SavedModel's only signature."""
    module = tf.Module()
    module.run = tf.function(function, input_signature=[tf.TensorSpec([None], t, f"x{i}") for i, t in enumerate(types)])
    tf.saved_model.save(module, str(folder), signatures=module.run)
    return str(folder)


def test_history_knows_the_ops_of_this_tensorflow_and_when_some_came():
    known = audit.history()
    assert audit.releases() == ((2, 12), (2, 20))
    assert len(known) > 1800 and {k.origin for k in known.values()} == {"core", "text"}
    # TensorFlow Serving links tensorflow-text 2.12.1, which has no round-robin trimmer, up to 2.19.1; then 2.20.0.
    since = {op: known[op].since for op in ("MatMul", "FastBertNormalize", "TFText>RoundRobinTrim")}
    assert since == {"MatMul": (2, 12), "FastBertNormalize": (2, 12), "TFText>RoundRobinTrim": (2, 20)}
    assert known["FastWordpieceTokenizeWithOffsets"] == ((2, 12), "text", {})
    assert known["ScatterNd"].attrs == {"bad_indices_policy": (2, 18)}


def test_lists_every_op_of_graphs_and_functions(tmp_path):
    @tf.function
    def inner(x):
        return tf.math.erfinv(x)  # in a function that a function calls

    folder = save(tmp_path, lambda x: {"y": tf.cond(tf.size(x) > 2, lambda: inner(x), lambda: tf.sinh(x))}, tf.float32)
    uses = {use.op: use for use in audit.audit(folder)}
    assert {"Erfinv", "Sinh", "Size", "Greater"} <= set(uses)
    assert not [op for op in uses if "inference" in op or op.startswith("__")]  # its own functions are no ops
    assert all(use.since == (2, 12) and use.origin == "core" for use in uses.values())
    assert uses["Sinh"].nodes >= 1
    assert audit.require_loads(folder, "2.12") == "2.12"


def test_an_op_that_came_later_is_an_error_for_older_releases(tmp_path):
    def trim(x, y):
        tokens = tf.RaggedTensor.from_uniform_row_length(tf.strings.length(x), 1)
        others = tf.RaggedTensor.from_uniform_row_length(tf.strings.length(y), 1)
        return {"kept": tf_text.RoundRobinTrimmer(2).trim([tokens, others])[0].flat_values}

    folder = save(tmp_path, trim, tf.string, tf.string)
    # The most demanding op stands first, whatever its name.
    first = audit.audit(folder)[0]
    assert (first.op, first.origin, first.since) == ("TFText>RoundRobinTrim", "text", (2, 20))
    assert audit.require_loads(folder) == audit.require_loads(folder, "2.20.0") == "2.20"
    with pytest.raises(checks.InputError, match=r"RoundRobinTrim \(since 2\.20\).*newer --serving_version"):
        audit.require_loads(folder, "2.19.1")


def test_an_attribute_that_older_releases_would_ignore_is_an_error_for_them(tmp_path):
    def scatter(x):
        return {"y": tf.scatter_nd(tf.constant([[9]]), x[:1], [3], bad_indices_policy="IGNORE")}

    folder = save(tmp_path, scatter, tf.float32)
    assert audit.require_loads(folder, "2.18") == "2.18"
    with pytest.raises(checks.InputError, match="ScatterNd with bad_indices_policy"):
        audit.require_loads(folder, "2.17")


def test_an_unknown_op_is_an_error_for_every_release(tmp_path, capsys):
    folder = save(tmp_path, lambda x: {"y": tf.sinh(x)}, tf.float32)
    path = os.path.join(folder, "saved_model.pb")
    with open(path, "rb") as f:
        data = f.read()
    with open(path, "wb") as f:
        f.write(data.replace(b"Sinh", b"Sihn"))
    with pytest.raises(checks.InputError, match=r"Sihn \(unknown\)"):
        audit.run(audit.AuditConfig(saved_model=folder))
    assert "never    unknown" in capsys.readouterr().out


@pytest.mark.parametrize("version", ["2.11", "2.21", "3.0", "newest", "2", "2.12rc0", "2.12.1.1", "-2.13"])
def test_only_releases_that_are_known_can_be_chosen(version):
    with pytest.raises(checks.InputError, match=r"from 2\.12 to 2\.20.*2\.12 have no FastBertNormalize"):
        audit.AuditConfig(saved_model="x", serving_version=version)


def test_what_is_no_saved_model_is_an_error(tmp_path):
    with pytest.raises(checks.InputError, match="numbered versions"):
        audit.run(audit.AuditConfig(saved_model=str(tmp_path)))
    with pytest.raises(checks.InputError, match="--saved_model must be given"):
        audit.AuditConfig()


@pytest.mark.slow
def test_an_export_loads_in_every_release(tiny_served):
    assert audit.require_loads(tiny_served, "2.12") == "2.12"
    foreign = {use.op for use in audit.audit(tiny_served) if use.origin != "core"}
    assert foreign == {"FastBertNormalize", "FastWordpieceTokenizeWithOffsets"}


@pytest.mark.slow
@pytest.mark.skipif(
    not OLDER,
    reason="needs TFBERT_OLDER_TENSORFLOW, folders with libtensorflow_{framework,cc}.so.2 of a tensorflow-cpu wheel "
    "and _*.so of a tensorflow-text wheel",
)
@pytest.mark.parametrize("older", OLDER)
def test_an_older_tensorflow_answers_the_same(older, tiny_served):
    """What the audit says of a release, tried with the libraries that it is linked against."""
    requests = [("serving_default", {"text": [b"the lazy [MASK] returns", b"", b"\xff [MASK][MASK]"]})]
    (expected,) = loaders.c_api(tiny_served, requests)
    signature, texts = loaders.signatures(tiny_served)["serving_default"], np.array(requests[0][1]["text"], object)
    names = sorted(signature.outputs)
    job = {
        "libraries": [f"{older}/libtensorflow_framework.so.2", f"{older}/libtensorflow_cc.so.2"],
        "op_libraries": sorted(p for p in glob.glob(f"{older}/_*.so") if "fast_" in p),
        "folder": tiny_served,
        "runs": [({signature.inputs["text"].name: texts}, [signature.outputs[name].name for name in names])],
    }
    command = [sys.executable, c_api.__file__]
    told = pickle.loads(subprocess.run(command, input=pickle.dumps(job), capture_output=True, check=True).stdout)
    assert told["error"] is None
    for name, value in zip(names, told["answers"][0], strict=True):
        if value.dtype.kind == "f":
            np.testing.assert_allclose(value, expected[name], atol=1e-6)
        else:
            np.testing.assert_array_equal(value, expected[name])
