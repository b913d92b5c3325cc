"""Tests of data_prep.runners: what is said where Apache Beam is not installed, or options have no runner.

That misspelt flags are not taken for Beam's is tested where the command is: `test_create_pretraining_data`.
"""

import sys

import pytest

from data_prep import create_pretraining_data, learn_vocab, runners
from tfbert import checks


@pytest.mark.parametrize("program", ["create_pretraining_data", "learn_vocab"])
def test_options_need_a_runner(program):
    with pytest.raises(checks.InputError, match=r"--runner.*got --flink_master=h:1.*DirectRunner"):
        if program == "learn_vocab":
            learn_vocab.run(learn_vocab.Config(source="pydocs", output_dir="x"), ["--flink_master=h:1"])
        else:
            create_pretraining_data.run(create_pretraining_data.Config(source="pydocs"), ["--flink_master=h:1"])


def test_without_beam_the_file_to_install_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "apache_beam", None)  # as if it were not there
    with pytest.raises(checks.InputError, match=r"Apache Beam.*--runner=SparkRunner.*requirements-beam\.txt"):
        runners.pipelines("SparkRunner")


def test_an_unknown_runner_is_refused():
    with pytest.raises(checks.InputError, match="runner must be one of DirectRunner"):
        create_pretraining_data.Config(source="pydocs", runner="MyRunner")
