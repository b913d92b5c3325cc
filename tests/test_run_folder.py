import json

import keras
import numpy as np
import pytest

from tests import tiny, tiny_records
from tfbert import checks, heads, run_folder
from tfbert.loop import checkpoints

PROGRAM = {
    "pretrain": {"learning_rate": 0.1, "tpu_name": ""},
    "records": {"train": {"instances": 13}, "held_out": None},
}


def make(folder, encoder=None, vocab=None, program=PROGRAM, **kwargs):
    return run_folder.create(str(folder), encoder or tiny.config(), vocab or tiny_records.vocab(), program, **kwargs)


def changed(**fields):
    return {**PROGRAM, "pretrain": {**PROGRAM["pretrain"], **fields}}


def trained(folder):
    """A run folder with checkpoints of steps 3 and 20; returns the model of step 20."""
    make(folder)
    model = heads.build_pretrainer(tiny.config())
    saver = checkpoints.Checkpoints(str(folder), model)
    for step in (3, 20):
        tiny.randomize(model, step)
        saver.save(step)
    return model


def test_read_gives_what_was_created(tmp_path):
    run = make(tmp_path / "runs" / "a")
    assert run == run_folder.read(str(tmp_path / "runs" / "a"))
    assert run.encoder == tiny.config() and run.vocab == tiny_records.vocab()
    assert {n: run.config[n] for n in PROGRAM} == PROGRAM
    assert set(run.config["versions"]) == {"python", "tensorflow", "keras"}


def test_the_same_configuration_goes_on_and_changes_nothing(tmp_path):
    make(tmp_path)
    before = (tmp_path / "config.json").read_bytes()
    assert make(tmp_path) == run_folder.read(str(tmp_path))
    assert (tmp_path / "config.json").read_bytes() == before


def test_changed_fields_are_named_and_others_are_not(tmp_path):
    trained(tmp_path)
    with pytest.raises(checks.InputError) as e:
        make(tmp_path, tiny.config(hidden_act="relu"), program=changed(learning_rate=0.2))
    assert "encoder.hidden_act: 'gelu' -> 'relu'; pretrain.learning_rate: 0.1 -> 0.2 (" in str(e.value)
    with pytest.raises(checks.InputError, match=r"records.train.instances: 13 -> 14"):
        make(tmp_path, program={**PROGRAM, "records": {"train": {"instances": 14}, "held_out": None}})
    with pytest.raises(checks.InputError, match=r"pretrain.new: None -> 1"):
        make(tmp_path, program=changed(new=1))


def test_a_flag_that_is_not_set_is_as_good_as_none(tmp_path):
    trained(tmp_path)
    assert make(tmp_path, program=changed(new=None)) == run_folder.read(str(tmp_path))


def test_a_run_from_before_a_field_of_the_encoder_goes_on(tmp_path):
    trained(tmp_path)
    content = json.loads((tmp_path / "config.json").read_text())
    for name in ("layer_norm_eps", "embedding_size", "tie_word_embeddings"):
        del content["encoder"][name]
    (tmp_path / "config.json").write_text(json.dumps(content))
    assert run_folder.read(str(tmp_path)).encoder == tiny.config()
    assert run_folder.load_pretrainer(str(tmp_path))[2] == 20
    assert make(tmp_path) == run_folder.read(str(tmp_path))
    with pytest.raises(checks.InputError, match=r"encoder.layer_norm_eps: 1e-12 -> 1e-05"):
        make(tmp_path, tiny.config(layer_norm_eps=1e-5))


def test_what_may_change_is_taken_over(tmp_path):
    make(tmp_path)
    versions = run_folder.read(str(tmp_path)).config["versions"]
    run = make(tmp_path, program=changed(tpu_name="v4"), may_change=("pretrain.tpu_name",))
    assert run.config["pretrain"]["tpu_name"] == "v4" and run.config["versions"] == versions


def test_what_never_saved_anything_may_be_begun_otherwise(tmp_path):
    make(tmp_path)
    run = make(tmp_path, tiny.config(hidden_act="relu"), program=changed(learning_rate=0.2))
    assert run.encoder.hidden_act == "relu" and run.config["pretrain"]["learning_rate"] == 0.2


def test_another_vocabulary_is_refused(tmp_path):
    trained(tmp_path)
    other = type(tiny_records.vocab())(tiny_records.vocab().tokens, do_lower_case=False)
    with pytest.raises(checks.InputError, match=r"tokenizer\.sha256"):
        make(tmp_path, vocab=other)
    other.write(str(tmp_path))
    with pytest.raises(checks.InputError, match=r"vocab\.txt must be the vocabulary that the run was trained with"):
        run_folder.read(str(tmp_path))


@pytest.mark.parametrize(
    "content", ["{", "[]", '{"pretrain": {}}', '{"encoder": []}', '{"encoder": {"hiden_size": 3}}']
)
def test_broken_config(tmp_path, content):
    make(tmp_path)
    (tmp_path / "config.json").write_text(content)
    with pytest.raises(checks.InputError, match=r"config\.json|hiden_size"):
        run_folder.read(str(tmp_path))


def test_no_run_folder(tmp_path):
    with pytest.raises(checks.InputError, match=r"a run folder must hold a readable config\.json; got No such file"):
        run_folder.read(str(tmp_path))


def test_folder_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(checks.InputError, match="output_dir must be a folder that can be written"):
        make(tmp_path / "file" / "run")
    with pytest.raises(checks.InputError, match="output_dir must be a folder that can be written"):
        make("/proc/no_such_folder")


def test_checkpoints_of_unknown_origin_are_left_alone(tmp_path):
    (tmp_path / "ckpt-3.index").write_text("")
    with pytest.raises(checks.InputError, match=r"checkpoints without a config\.json"):
        make(tmp_path)


@pytest.mark.slow
class TestJoin:
    """Another worker, on the folder that the first one has made."""

    def join(self, folder, program=PROGRAM, **kwargs):
        return run_folder.join(str(folder), tiny.config(), tiny_records.vocab(), program, **kwargs)

    def test_sees_the_same(self, tmp_path):
        assert make(tmp_path) == self.join(tmp_path)

    def test_other_flags_are_named(self, tmp_path):
        make(tmp_path)
        with pytest.raises(checks.InputError, match=r"every worker must be given.*learning_rate: 0.1 -> 0.2"):
            self.join(tmp_path, changed(learning_rate=0.2))
        assert self.join(tmp_path, changed(tpu_name="x"), may_change=["pretrain.tpu_name"]).config["pretrain"] == {
            "learning_rate": 0.1,
            "tpu_name": "",
        }

    def test_a_folder_that_is_older_than_a_flag(self, tmp_path):
        make(tmp_path)
        assert self.join(tmp_path, changed(new=1), defaults={"pretrain": {"new": 1}})

    def test_storage_that_is_not_shared(self, tmp_path):
        with pytest.raises(checks.InputError, match=r"must see the run folder.*storage that they share"):
            self.join(tmp_path / "elsewhere")


def test_load_pretrainer(tmp_path):
    model = trained(tmp_path)
    keras.config.set_dtype_policy("mixed_bfloat16")
    loaded, run, step = run_folder.load_pretrainer(str(tmp_path))
    assert keras.config.dtype_policy().name == "mixed_bfloat16"
    assert step == 20 and run == run_folder.read(str(tmp_path))
    assert {layer.compute_dtype for layer in loaded.layers} == {"float32"}
    features = tiny.inputs(tiny.features())
    for name, value in model(features).items():
        np.testing.assert_array_equal(loaded(features)[name], value)
    tiny.randomize(model, 3)
    for checkpoint in (3, "ckpt-3"):
        loaded, _, step = run_folder.load_pretrainer(str(tmp_path), checkpoint)
        assert step == 3
        for a, b in zip(loaded.variables, model.variables):
            np.testing.assert_array_equal(a, b)


@pytest.mark.slow
def test_load_pretrainer_refuses(tmp_path):
    make(tmp_path)
    with pytest.raises(checks.InputError, match="a run folder must hold a checkpoint"):
        run_folder.load_pretrainer(str(tmp_path))
    trained(tmp_path)
    with pytest.raises(checks.InputError, match=r"checkpoint=ckpt-4, and steps \[3, 20\]"):
        run_folder.load_pretrainer(str(tmp_path), "ckpt-4")
    config = json.loads((tmp_path / "config.json").read_text())
    config["encoder"]["num_hidden_layers"] = 3
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(checks.InputError, match=r"16 differences:\n  bert/encoder/layer_2/.*: in the model only"):
        run_folder.load_pretrainer(str(tmp_path))


def test_one_process_at_a_time(tmp_path):
    make(tmp_path)
    with run_folder.lock(str(tmp_path)):
        # A second opening of the file is to the system what another process is.
        with pytest.raises(checks.InputError, match="one process at a time may train in a run folder"):
            with run_folder.lock(str(tmp_path)):
                pass
    with run_folder.lock(str(tmp_path)):
        pass
