"""Tests of tfbert.machine: what a run says that it ran on."""

import json
import os

import pytest

from tests import tiny_records
from tests.test_pretrain import pretrain_until
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


@pytest.mark.slow
@pytest.mark.parametrize("before", [None, {"cpu": "another", "cores": 96, "memory_gb": 1.5, "devices": ["CPU:0"]}])
def test_a_run_goes_on_elsewhere(before, tmp_path):
    """Of an earlier version, that said nothing of its machine, or from another machine."""
    tiny_records.make(tmp_path / "records")
    flags = tiny_records.flags(str(tmp_path / "records"), tmp_path / "run")
    pretrain_until(flags, 4)
    path = os.path.join(flags.output_dir, "config.json")
    with open(path) as f:
        content = json.load(f)
    assert content["machine"] == machine.describe()
    with open(path, "w") as f:
        json.dump({**content, "machine": before}, f)
    assert pretrain.run(flags) == 0
    with open(path) as f:
        assert json.load(f) == content
