"""Tests of tfbert.machine: what a run says that it ran on."""

import dataclasses
import json
import os

import pytest

from tests import tiny_records
from tfbert import machine, pretrain


def test_describe():
    about = machine.describe()
    assert about == machine.describe()  # a run that goes on here has nothing to change in its folder
    assert about["cpu"] and about["cores"] == len(os.sched_getaffinity(0))
    with open("/proc/meminfo") as f:
        kilobytes = int(f.readline().split()[1])
    assert about["memory_gb"] == pytest.approx(kilobytes * 1024 / 1e9, abs=0.06)
    assert about["devices"] == ["CPU:0"]  # the tests' two logical devices are of one processor
    assert json.loads(json.dumps(about)) == about


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """(flags, run folder) of a run."""
    folder = tmp_path_factory.mktemp("finished")
    tiny_records.make(folder / "records", num_hidden_layers=1)
    more = {"num_train_steps": 2, "save_checkpoints_steps": 1, "eval_input_file": ()}
    flags = tiny_records.flags(str(folder / "records"), folder / "run", **more)
    assert pretrain.run(flags) == 0
    return flags, flags.output_dir


@pytest.mark.slow
def test_a_run_goes_on_elsewhere(finished, tmp_path):
    """Of an earlier version, that said nothing of its machine; then from another machine, with no step left to do."""
    flags = dataclasses.replace(finished[0], output_dir=str(tmp_path / "run"))
    tiny_records.cut_back(finished[1], flags.output_dir, 1)
    path = os.path.join(flags.output_dir, "config.json")
    with open(path) as f:
        content = json.load(f)
    assert content["machine"] == machine.describe()
    content["pretrain"]["output_dir"] = flags.output_dir
    for before in (None, {"cpu": "another", "cores": 96, "memory_gb": 1.5, "devices": ["CPU:0"]}):
        with open(path, "w") as f:
            json.dump({**content, "machine": before}, f)
        assert pretrain.run(flags) == 0
        with open(path) as f:
            assert json.load(f) == content
