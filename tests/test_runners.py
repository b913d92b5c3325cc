"""Tests of data_prep.runners: what is said where Apache Beam is not installed, or options have no runner."""

import subprocess
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


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--dupe_facter=2"], "Unknown command line flag 'dupe_facter'"),
        (["--source=pydocs", "text.txt"], "no positional arguments are taken; got ['text.txt']"),
        (["--source=pydocs", "--", "--flink_master=h:1"], "got --flink_master=h:1"),
    ],
)
def test_misspelt_flags_are_not_taken_for_beams(words, said):
    command = [sys.executable, "-m", "data_prep.create_pretraining_data", *words]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ended.returncode != 0
    assert said in ended.stderr + ended.stdout
