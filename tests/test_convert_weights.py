"""Tests of the program: formats are recognised, weights go round without a changed bit, outputs are whole."""

import itertools
import os
import weakref

import numpy as np
import pytest

from tests import commands, convert_samples, tiny, tiny_run
from tfbert import checks, convert_weights, heads, predict, run_folder
from tfbert.convert import assign, formats, names, sources
from tfbert.loop import checkpoints

ENCODER = tiny.config()


def run(capsys, path, output, to="", from_kind="", allow=(), **more):
    cfg = convert_weights.ConvertConfig(input=str(path), output=str(output), to=to, allow_missing=tuple(allow), **more)
    convert_weights.run(cfg, from_kind)
    return capsys.readouterr().out


def variables(run_dir):
    model, _, step = run_folder.load_pretrainer(str(run_dir))
    return {v.path: np.asarray(v) for v in model.variables}, step


@pytest.fixture
def trained(tmp_path):
    """A run folder as training leaves it, with an optimizer's slots; its numbers."""
    folder = tmp_path / "run"
    model = tiny_run.make(folder)
    return folder, {v.path: np.asarray(v) for v in model.variables}


def test_a_run_goes_out_and_comes_back(tmp_path, trained, capsys):
    folder, expected = trained
    for kind in ("huggingface", "google"):
        out = run(capsys, folder, tmp_path / kind, kind)
        assert f"wrote {kind}" in out and "used, 46:" in out
        assert "wrote tfbert" in run(capsys, tmp_path / kind, tmp_path / f"{kind}_back")
        found, step = variables(tmp_path / f"{kind}_back")
        assert step == 0
        convert_samples.check_equal(found, expected)
        back, before = run_folder.read(str(tmp_path / f"{kind}_back")), run_folder.read(str(folder))
        assert (back.encoder, back.vocab) == (before.encoder, before.vocab)


@pytest.mark.slow
def test_round_trips_in_every_direction(tmp_path, trained, capsys):
    allow = ["cls/seq_relationship/*"]  # KerasHub has no place for it
    kinds = ("huggingface", "google", "keras_hub", "tfbert")
    run(capsys, trained[0], tmp_path / "start", "keras_hub", allow=allow)
    run(capsys, tmp_path / "start", tmp_path / "tfbert", "tfbert", allow=allow)
    expected = variables(tmp_path / "tfbert")[0]
    convert_samples.check_equal(
        {n: a for n, a in expected.items() if "seq_relationship" not in n},
        {n: a for n, a in trained[1].items() if "seq_relationship" not in n},
    )
    for kind in kinds[:3]:
        run(capsys, tmp_path / "tfbert", tmp_path / kind, kind, allow=allow)
    for one, other in itertools.permutations(kinds, 2):
        allowed = [*allow, "bert/pooler/*"] if one == "keras_hub" else allow
        run(capsys, tmp_path / one, tmp_path / f"{one}-{other}", other, allow=allowed)
        source = formats.open_source(str(tmp_path / f"{one}-{other}"))
        wanted = names.shapes(ENCODER, "masked_lm")
        tensors, _ = assign.match(source, wanted, ["bert/pooler/*", *allow])
        convert_samples.check_equal(convert_samples.arrays(tensors), {n: expected[n] for n in wanted})


@pytest.mark.slow
def test_a_converted_run_answers(tmp_path, trained, capsys):
    run(capsys, trained[0], tmp_path / "hf", "huggingface")
    run(capsys, tmp_path / "hf", tmp_path / "back")
    texts = ["the lazy [MASK] returns", "[MASK] of [MASK]"]
    one, other = (predict.run(predict.PredictConfig(run_dir=str(f)), texts) for f in (trained[0], tmp_path / "back"))
    np.testing.assert_array_equal(one["probabilities"], other["probabilities"])


def test_a_checkpoint_of_a_run_may_be_chosen(tmp_path, capsys):
    folder = tmp_path / "run"
    tiny_run.make(folder)
    model = tiny.randomize(heads.build_pretrainer(tiny.config()), 3)
    checkpoints.Checkpoints(str(folder), model).save(20)
    for step, prefix in ((20, folder), (20, folder / "ckpt-20"), (7, folder / "ckpt-7"), (7, folder / "ckpt-7.index")):
        assert formats.open_source(str(prefix)).where.endswith(f"ckpt-{step}")
    run(capsys, folder / "ckpt-20", tmp_path / "out", "google")
    source = formats.open_source(str(tmp_path / "out"))
    found = {n: t.read() for n, t in source.tensors.items()}
    convert_samples.check_equal(found, {v.path: np.asarray(v) for v in model.variables})


def test_the_account_tells_from_where_to_where(tmp_path, trained, capsys):
    run(capsys, trained[0], tmp_path / "hf", "huggingface")
    out = run(capsys, tmp_path / "hf", tmp_path / "goo", "google")
    assert "    bert/pooler/dense/kernel <- bert.pooler.dense.weight (transposed)\n" in out
    out = run(capsys, trained[0], tmp_path / "hf2", "huggingface")
    assert "    bert/pooler/dense/kernel -> bert.pooler.dense.weight\n" in out


# Recognising.


def make_all(folder):
    source = convert_samples.source(encoder_config=ENCODER)
    for kind in ("tfbert", "google", "huggingface"):
        formats.convert(source, str(folder / kind), kind)


def test_formats_are_recognised_and_a_wrong_guess_is_refused(tmp_path):
    make_all(tmp_path)
    for kind in ("tfbert", "google", "huggingface"):
        path = str(tmp_path / kind)
        assert formats.recognise(path) == kind and formats.open_source(path, kind).kind == kind
        for wrong in set(names.KINDS) - {kind}:
            with pytest.raises(checks.InputError, match=f"must be of the format {wrong}; got {kind}"):
                formats.open_source(path, wrong)


def test_what_is_no_weights(tmp_path):
    with pytest.raises(checks.InputError, match="no file or folder"):
        formats.open_source(str(tmp_path / "none"))
    with pytest.raises(checks.InputError, match="none of these"):
        formats.open_source(str(tmp_path))
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(checks.InputError, match="none of these"):
        formats.open_source(str(tmp_path))


def test_a_folder_of_two_formats(tmp_path):
    make_all(tmp_path)
    both = tmp_path / "huggingface"
    for name in os.listdir(tmp_path / "google"):
        if name not in ("vocab.txt", "tokenizer.json"):
            (tmp_path / "google" / name).rename(both / name)
    with pytest.raises(checks.InputError, match=r"got huggingface and google .*Say which with --from"):
        formats.open_source(str(both))
    assert formats.open_source(str(both), "google").kind == "google"
    assert formats.open_source(str(both), "huggingface").kind == "huggingface"


def test_one_file_of_weights(tmp_path):
    make_all(tmp_path)
    assert formats.open_source(str(tmp_path / "huggingface/model.safetensors")).kind == "huggingface"


@pytest.mark.parametrize("text", ["[]", "{", '{"encoder": null}', '{"encoder": 3}', '{"class_name": []}'])
def test_odd_configurations_are_no_weights(tmp_path, text):
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(checks.InputError):
        formats.open_source(str(tmp_path))


def test_a_run_with_a_classifier(tmp_path):
    source = convert_samples.source("classify", 4, ENCODER, labels=("a", "b", "c", "é"))
    formats.convert(source, str(tmp_path / "run"), "tfbert")
    model = heads.build_classifier(ENCODER, 4)
    checkpoints.restore_model(run_folder.checkpoint_prefix(str(tmp_path / "run")), model)
    convert_samples.check_equal({v.path: np.asarray(v) for v in model.variables}, convert_samples.arrays(source))
    again = formats.open_source(str(tmp_path / "run"))
    assert again.head == "classify" and again.labels == source.labels
    for kind in ("google", "huggingface"):
        formats.convert(again, str(tmp_path / kind), kind)
        assert formats.open_source(str(tmp_path / kind)).labels == source.labels


# Writing.


def test_to_must_be_said_of_a_run(tmp_path, trained, capsys):
    with pytest.raises(checks.InputError, match="Give --to=google, --to=huggingface, --to=keras_hub"):
        run(capsys, trained[0], tmp_path / "out")


def test_an_output_that_is_there(tmp_path, trained, capsys):
    folder, _ = trained
    out = tmp_path / "out"
    out.mkdir()
    run(capsys, folder, out, "huggingface")  # an empty folder
    with pytest.raises(checks.InputError, match="Give --overwrite to replace it"):
        run(capsys, folder, out, "google")
    (out / "pytorch_model.bin").write_bytes(b"stale")
    run(capsys, folder, out, "google", overwrite=True)
    assert formats.recognise(str(out)) == "google" and not (out / "pytorch_model.bin").exists()


@pytest.mark.parametrize("what", ["folder", "file", "link"])
def test_overwrite_deletes_weights_only(tmp_path, trained, capsys, what):
    out = tmp_path / "out"
    if what == "file":
        out.write_text("mine")
    else:
        (tmp_path / "mine").mkdir()
        (tmp_path / "mine/file").write_text("mine")
        (tmp_path / "mine").rename(out) if what == "folder" else out.symlink_to(tmp_path / "mine")
    with pytest.raises(checks.InputError, match="--overwrite replaces a folder of weights and nothing else"):
        run(capsys, trained[0], out, "google", overwrite=True)
    assert out.exists()


def test_a_conversion_that_fails_leaves_nothing_and_what_was_there(tmp_path, trained, capsys):
    source = convert_samples.source(encoder_config=ENCODER)
    array = source.tensors["cls/predictions/output_bias"].read().copy()
    array[5] = np.nan
    source.tensors["cls/predictions/output_bias"] = convert_samples.tensor(array)
    for kind in ("huggingface", "google", "tfbert"):
        with pytest.raises(checks.InputError, match="not, the first at"):
            formats.convert(source, str(tmp_path / "out"), kind)
    assert sorted(os.listdir(tmp_path)) == ["run"]
    run(capsys, trained[0], tmp_path / "out", "huggingface")
    before = (tmp_path / "out/model.safetensors").read_bytes()
    with pytest.raises(checks.InputError):
        formats.convert(source, str(tmp_path / "out"), "google", overwrite=True)
    assert (tmp_path / "out/model.safetensors").read_bytes() == before
    assert sorted(os.listdir(tmp_path)) == ["out", "run"]


@pytest.mark.parametrize("kind", ["huggingface", "google"])
def test_tensors_are_held_one_at_a_time(tmp_path, kind):
    """TensorFlow wants a checkpoint's tensors at once, its own copies; of NumPy's there is one at a time."""
    source = convert_samples.source(encoder_config=ENCODER)
    alive, most = set(), 0

    def counted(name, array):
        def read():
            nonlocal most
            copy = array.copy()
            alive.add(name)
            weakref.finalize(copy, alive.discard, name)
            most = max(most, len(alive))
            return copy

        return sources.Tensor(array.shape, "float32", read)

    tensors = {n: counted(n, a) for n, a in convert_samples.arrays(source).items()}
    formats.convert(source._replace(tensors=tensors), str(tmp_path / "out"), kind)
    assert 1 <= most <= 2
    most = 0
    assign.load(source._replace(tensors=tensors), heads.build_pretrainer(ENCODER))
    assert 1 <= most <= 2


def test_missing_heads_are_fresh_when_allowed(tmp_path, capsys):
    source = convert_samples.source("none", encoder_config=ENCODER)
    formats.convert(source, str(tmp_path / "hf"), "huggingface")
    with pytest.raises(checks.InputError, match="cls/predictions/output_bias is not in the file"):
        run(capsys, tmp_path / "hf", tmp_path / "out")
    out = run(capsys, tmp_path / "hf", tmp_path / "out", allow=["cls/*"])
    assert "missing, as --allow_missing says: freshly initialised, 7:" in out
    found, _ = variables(tmp_path / "out")
    convert_samples.check_equal(
        {n: a for n, a in found.items() if n.startswith("bert/")}, convert_samples.arrays(source)
    )
    assert (found["cls/predictions/transform/LayerNorm/gamma"] == 1).all()
    assert 0 < np.abs(found["cls/seq_relationship/output_weights"]).max() <= 2 * ENCODER.initializer_range


def test_a_vocabulary_that_does_not_fit(tmp_path):
    source = convert_samples.source(encoder_config=tiny.config(vocab_size=tiny.V - 1))
    with pytest.raises(checks.InputError, match=f"vocab_size={tiny.V - 1}, and {tiny.V} entries"):
        formats.convert(source, str(tmp_path / "out"), "tfbert")


def test_flags_must_be_given():
    for flags, name in (({"output": "x"}, "input"), ({"input": "x"}, "output")):
        with pytest.raises(checks.InputError, match=f"--{name} must be given"):
            convert_weights.ConvertConfig(**flags)


@pytest.mark.slow
def test_the_command(tmp_path, trained):
    done, wrong = commands.run(
        "tfbert.convert_weights",
        [f"--input={trained[0]}", f"--output={tmp_path}/hf", "--to=huggingface", "--from=tfbert"],
        [f"--input={tmp_path}/hf", f"--output={tmp_path}/x", "--from=google"],
    )
    assert done.returncode == 0 and "wrote huggingface" in done.stdout and done.stderr == ""
    assert wrong.returncode == 2 and wrong.stderr.startswith(
        "error: weights must be of the format google; got huggingface"
    )
    assert not (tmp_path / "x").exists()
