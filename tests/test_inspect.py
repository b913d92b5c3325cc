"""Tests of export.inspect."""

import hashlib
import json
import os
import shutil

import pytest

from export import inspect
from tests import tiny_run
from tfbert import checks

pytestmark = pytest.mark.slow  # a whole export


def listed(folder):
    """{relative path: {"bytes", "sha256"}} of the files of an export."""
    found = {}
    for parent, _, names in os.walk(folder):
        for name in names:
            path = os.path.join(parent, name)
            with open(path, "rb") as f:
                data = f.read()
            about = {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
            found[os.path.relpath(path, folder)] = about
    del found["parity.json"]
    return found


@pytest.fixture
def copied(tiny_served, tmp_path):
    """An export whose parity.json lists its files."""
    folder = tmp_path / "7"
    shutil.copytree(tiny_served, folder)
    about = json.loads((folder / "parity.json").read_text())
    (folder / "parity.json").write_text(json.dumps({**about, "files": listed(folder)}))
    return folder


def test_says_what_an_export_is(copied, capsys):
    told = inspect.run(inspect.InspectConfig(saved_model=str(copied.parent)))
    printed = capsys.readouterr().out
    assert told["signatures"]["from_ids"]["inputs"]["input_ids"] == "int32 [?, ?]"
    assert told["signatures"]["serving_default"]["inputs"] == {"text": "string [?]"}
    assert told["signatures"]["serving_default"]["outputs"]["truncated"] == "bool [?]"
    assert told["ops_of_tensorflow_text"] == ["FastBertNormalize", "FastWordpieceTokenizeWithOffsets"]
    assert told["serving_version"] == "2.12" and told["checksums"] == "verified"
    assert told["files"]["saved_model.pb"] == (copied / "saved_model.pb").stat().st_size
    for words in (
        "signature serving_default\n    <- text string [?]\n",
        f"checkpoint_step: {tiny_run.STEP}",
        f"tokenizer_digest: {tiny_run.vocab().digest}",
        "checksums: verified",
        "tensorflow-text 2.",
        "compared through c_api, serving_default: masks",
    ):
        assert words in printed


def test_tells_programs_in_json(copied, capsys):
    told = inspect.run(inspect.InspectConfig(saved_model=str(copied), json=True))
    assert json.loads(capsys.readouterr().out) == told


def test_every_changed_file_is_named(copied):
    with open(copied / "assets" / "vocab.txt", "a", encoding="utf-8") as f:
        f.write("more\n")
    data = bytearray((copied / "saved_model.pb").read_bytes())
    data[len(data) // 2] ^= 1  # one bit, and the same size
    (copied / "saved_model.pb").write_bytes(data)
    os.remove(copied / "fingerprint.pb")
    (copied / "assets" / "passwords.txt").write_text("x")
    with pytest.raises(checks.InputError) as e:
        inspect.of_saved_model(str(copied))
    for words in (
        "fingerprint.pb is missing",
        "assets/passwords.txt is not listed",
        "saved_model.pb has other contents",
        "assets/vocab.txt has ",
    ):
        assert words in str(e.value)


def test_another_vocabulary_is_an_error(tiny_served, tmp_path):
    folder = tmp_path / "1"
    shutil.copytree(tiny_served, folder)
    about = json.loads((folder / "parity.json").read_text())
    about.pop("files", None)
    (folder / "parity.json").write_text(json.dumps(about))
    assert inspect.of_saved_model(str(folder))["checksums"] == "none in parity.json"
    (folder / "parity.json").write_text(json.dumps({**about, "tokenizer_digest": "0" * 64}))
    with pytest.raises(checks.InputError, match="vocabulary must be that of"):
        inspect.of_saved_model(str(folder))


@pytest.mark.parametrize("text", ["", "[]", "{"])
def test_a_broken_parity_json_is_an_error(copied, text):
    (copied / "parity.json").write_text(text)
    with pytest.raises(checks.InputError, match=r"parity\.json must be"):
        inspect.of_saved_model(str(copied))


def test_wrong_flags_are_errors(tmp_path):
    for flags in ({}, {"saved_model": "a", "tflite": "b"}):
        with pytest.raises(checks.InputError, match="--saved_model or --tflite"):
            inspect.InspectConfig(**flags)
    with pytest.raises(checks.InputError, match="numbered versions"):
        inspect.run(inspect.InspectConfig(saved_model=str(tmp_path)))
    with pytest.raises(checks.InputError, match="no such file"):
        inspect.run(inspect.InspectConfig(tflite=str(tmp_path / "x.tflite")))
