"""Tests of export.tflite and export.ask."""

import json
import os

import numpy as np
import pytest
import tensorflow as tf

from export import ask, flatbuffer, loaders, parity, tflite
from tests import tiny, tiny_run
from tfbert import checks

pytestmark = pytest.mark.slow  # whole programs, minutes in all

K = tiny_run.TOP_K


@pytest.fixture(scope="module", params=[False, True], ids=["padded", "unpadded"])
def files(request, run_dir, tmp_path_factory):
    """(the float32 file, the quantized one, what the program returned)."""
    output = tmp_path_factory.mktemp("tflite") / "folder" / "bert.tflite"
    found = tflite.run(settings(run_dir, output, quantize="both", remove_padding=request.param))
    return str(output), str(output.with_name("bert.dynamic.tflite")), found


def settings(run_dir, output, **more):
    return tflite.TFLiteConfig(run_dir=str(run_dir), output=str(output), top_k=K, max_masks=tiny_run.MAX_MASKS, **more)


def read_json(path):
    with open(path, encoding="utf-8") as f:
        return json.load(f)


def test_what_is_written(files):
    plain, small, found = files
    assert list(found) == [plain, small]
    folder = os.path.dirname(plain)
    assert sorted(os.listdir(folder)) == [
        "bert.dynamic.parity.json",
        "bert.dynamic.tflite",
        "bert.parity.json",
        "bert.tflite",
    ]
    about = read_json(f"{folder}/bert.parity.json")
    assert about["bytes"] == os.path.getsize(plain) and about["weights"] == "float32"
    assert about["checkpoint_step"] == tiny_run.STEP and about["tokenizer_digest"] == tiny_run.vocab().digest
    differences = about["loaders"]["tflite_interpreter"]["serving_default"]
    assert differences == found[plain]
    assert differences["top_1_agreement"] == 1.0 and 0 < differences["max_log_probability_difference"] < 2e-5
    quantized = read_json(f"{folder}/bert.dynamic.parity.json")
    assert quantized["weights"] == "dynamic range, 8-bit weights"
    differences = quantized["loaders"]["tflite_interpreter"]["serving_default"]
    assert 0.8 < differences["top_1_agreement"] <= 1.0 and 0 < differences["max_probability_difference"] < 0.1


def test_needs_builtins_and_the_ops_of_tensorflow_text_only(files):
    for path in files[:2]:
        custom = {op for op in loaders.Lite(path).ops() if op.upper() != op}
        assert custom == {"FastBertNormalize", "FastWordpieceTokenizeWithOffsets"}


def test_answers_are_the_references(files, loaded):
    texts = list(tiny_run.TEXTS)
    answers = loaders.Lite(files[0]).run(text=texts)
    features = loaded.answering.rows(tf.constant(texts))[0].features
    few = tiny_run.MAX_MASKS
    for row, (ids, mask) in enumerate(zip(features["input_ids"].numpy(), features["input_mask"].numpy())):
        positions, probabilities, _ = tiny_run.expected(loaded.model, ids[: mask.sum()].tolist())
        tiny_run.check_answers(answers, row, positions[:few], probabilities[:few], K)
    for name, (masks, answered, cut) in enumerate(tiny_run.TEXTS.values()):
        assert answers["mask_count"][name] == masks and answers["truncated"][name] == cut
        assert (answers["positions"][name] >= 0).sum() == answered


@pytest.mark.parametrize("which", [0, 1])
def test_any_batch_and_each_row_as_alone(files, which):
    """One interpreter answers batches of many sizes, and one text as it answers it among others."""
    texts = list(tiny_run.TEXTS)
    model = loaders.Lite(files[which])
    several = model.run(text=texts)
    for row, text in enumerate(texts):
        alone = model.run(text=[text])
        if which == 0:
            tiny_run.check_same_row(several, row, alone)
        else:  # the activations of a batch are quantized together
            np.testing.assert_array_equal(
                several["positions"][row, : alone["positions"].shape[1]], alone["positions"][0]
            )
            np.testing.assert_allclose(several["probabilities"][row, 0], alone["probabilities"][0, 0], atol=0.05)
    assert model.run(text=texts[:5])["tokens"].shape[0] == 5


def test_no_text_at_all(files):
    answers = loaders.Lite(files[0]).run(text=[])
    assert answers["tokens"].shape == (0, 1, K) and answers["mask_count"].shape == (0,)


def test_matrices_are_quantized(files):
    """TFLite leaves matrices of fewer than 1024 elements alone; here only the word embeddings have more."""

    def types(path):
        details = loaders.Lite(path)._interpreter.get_tensor_details()
        return {t["dtype"] for t in details if t["shape"].tolist() == [tiny.V, tiny.D]}

    assert types(files[1]) == {np.int8} and types(files[0]) == {np.float32}


def test_the_vocabulary_has_one_matrix(files):
    """The converter would fold gamma of the norm before the scores into a second one."""
    with open(files[0], "rb") as f:
        buffers = flatbuffer.read(f.read()).buffers
    assert [b.data is not None and len(b.data) == 4 * tiny.V * tiny.D for b in buffers].count(True) == 1


def test_an_export_of_other_weights_is_refused(run_dir, tmp_path, monkeypatch):
    limits = tiny_run.MAX_SEQ_LENGTH, tiny_run.MAX_MASKS
    other = parity.reference(tiny_run.make(tmp_path / "other", seed=1), tiny_run.vocab(), *limits, parity.texts())
    monkeypatch.setattr(parity, "reference", lambda *args: other)
    output = tmp_path / "out" / "bert.tflite"
    with pytest.raises(checks.InputError, match="the export's scores must equal the run folder's"):
        tflite.run(settings(run_dir, output))
    assert os.listdir(output.parent) == []


def test_variables_and_flex_ops_are_refused(files, loaded, monkeypatch):
    ops = loaders.Lite.ops
    for op in ("VAR_HANDLE", "READ_VARIABLE", "FlexStringSplit"):
        monkeypatch.setattr(loaders.Lite, "ops", lambda self, op=op: [*ops(self), op])
        with pytest.raises(checks.InputError, match=f"need no Flex delegate; got ops .*{op}"):
            tflite.check(files[0], None)


def test_bad_input(run_dir, tmp_path):
    with pytest.raises(checks.InputError, match=r"output must end in \.tflite; got output='x.bin'"):
        settings(run_dir, "x.bin")
    with pytest.raises(
        checks.InputError, match=r"quantize must be some of none, float16, dynamic, full, .*; got quantize='int4'"
    ):
        settings(run_dir, "x.tflite", quantize="int4")
    with pytest.raises(checks.InputError, match="run folder"):
        tflite.run(settings(tmp_path / "none", tmp_path / "x.tflite"))
    with pytest.raises(checks.InputError, match="no such file"):
        loaders.Lite(str(tmp_path / "x.tflite"))
    (tmp_path / "bad.tflite").write_bytes(b"not a model")
    with pytest.raises(checks.InputError, match="must be a model that the interpreter can load"):
        loaders.Lite(str(tmp_path / "bad.tflite"))


class TestAsk:
    def test_prints_the_same_answers_from_both(self, files, tiny_versions, tiny_served, capsys):
        """The run folders of the two hold the same weights."""
        capsys.readouterr()
        texts = ["the [MASK] dog", "caf\udce9"]
        answers = ask.run(ask.AskConfig(saved_model=tiny_versions, tflite=files[0]), texts)
        np.testing.assert_array_equal(answers["saved_model"]["tokens"], answers["tflite"]["tokens"])
        printed = capsys.readouterr().out
        word, p = answers["tflite"]["tokens"][0, 0, 0].decode(), answers["tflite"]["probabilities"][0, 0, 0]
        assert printed.count(f"[MASK] 1: {word} {100 * p:.1f} %") == 2
        assert f"SavedModel {tiny_served}" in printed and f"TFLite {files[0]}" in printed

    def test_either_alone(self, files, capsys):
        assert list(ask.run(ask.AskConfig(tflite=files[0]), ["[MASK]"])) == ["tflite"]
        with pytest.raises(checks.InputError, match="--saved_model or --tflite must be given"):
            ask.AskConfig()
