"""Tests of tfbert/recipes: every recipe is a configuration that can begin, and its numbers are those of its source."""

import pathlib
import re
import shlex
import typing

import numpy as np
import pytest

from tests.test_documents import ROOT, flags_of, given
from tfbert import config, pretrain
from tfbert.loop import training_clock, training_config

RECIPES = sorted(path.name for path in ROOT.glob("tfbert/recipes/*.flags"))


def lines_of(name):
    return (ROOT / "tfbert/recipes" / name).read_text(encoding="utf-8").split("\n")


def read(name):
    """The `PretrainConfig` of a recipe, as absl reads its lines."""
    hints, values = typing.get_type_hints(pretrain.PretrainConfig), {}
    for flag, text in given(line for line in lines_of(name) if line.startswith("--")).items():
        kind = config._scalar_type(hints[flag])
        if kind is bool:
            values[flag] = True
        else:
            values[flag] = kind(text) if kind in (int, float, str) else tuple(text.split(","))
    return pretrain.PretrainConfig(**values)


def schedule(name):
    flags = read(name)
    clock = training_clock.TrainingClock(flags.train_hours * 3600) if flags.train_hours else None
    made = training_config.schedule(flags, clock)
    if not clock:
        return lambda step: float(made(step))

    def at(seconds):
        clock.at_update.assign(seconds)
        return float(made(0))

    return at


def commands(name):
    """(module, {flag: value}) of each command in the comment at a recipe's head."""
    comment = "\n".join(line.removeprefix("#") for line in lines_of(name) if line.startswith("#"))
    for module, rest in re.findall(r"python -m ([\w.]+)(.*)", comment.replace("\\\n", " ")):
        yield module, given(shlex.split(rest))


@pytest.mark.parametrize("name", RECIPES)
def test_is_a_configuration_that_can_begin(name):
    flags = read(name)
    assert flags.train_batch_size % flags.gradient_accumulation_steps == 0
    rates = schedule(name)
    end = flags.train_hours * 3600 if flags.train_hours else flags.num_train_steps
    peak = max(rates(share * end) for share in np.linspace(0, 1, 201))
    assert 0.8 * flags.learning_rate < peak <= flags.learning_rate * (1 + 1e-6)
    assert rates(end) == pytest.approx(flags.min_lr_ratio * flags.learning_rate, abs=1e-12)


@pytest.mark.parametrize("name", [name for name in RECIPES if name != "tiny.flags"])
def test_says_how_its_records_are_made(name):
    flags, said = read(name), dict(commands(name))
    for module, words in said.items():
        assert set(words) <= flags_of(module) | {"flagfile"}, module
    made = said["data_prep.create_pretraining_data"]
    assert int(made["max_seq_length"]) == flags.max_seq_length
    assert int(made["max_predictions_per_seq"]) == flags.max_predictions_per_seq
    assert made["vocab_file"] == flags.vocab_file
    assert flags.input_file == (made["output_dir"] + "/train-*",)
    assert said["tfbert.pretrain"]["flagfile"] == f"tfbert/recipes/{name}"
    # Shares of masks other than the records' need records that are masked as they are read.
    assert flags.masked_lm_prob is None or made["masking"] == "dynamic"
    room = int(made["max_seq_length"]) * (flags.masked_lm_prob or 0.15)
    assert flags.max_predictions_per_seq >= int(room)


def test_two_phases_of_google_follow_one_line():
    first, second = schedule("google_phase1.flags"), schedule("google_phase2.flags")
    for step in (10_000, 300_000, 899_999):
        assert first(step) == pytest.approx(1e-4 * (1 - step / 1e6), rel=1e-4)
    for step in (0, 1, 50_000, 99_999):
        assert second(step) == pytest.approx(1e-4 * (1 - (900_000 + step) / 1e6), rel=1e-4, abs=1e-12)
    assert read("google_phase2.flags").init_checkpoint == read("google_phase1.flags").output_dir


def test_phases_of_nvidia():
    for name, peak, steps, share in (
        ("nvidia_lamb_phase1.flags", 6e-3, 7506, 0.2843),
        ("nvidia_lamb_phase2.flags", 4e-3, 1668, 0.128),
    ):
        flags, rates = read(name), schedule(name)
        assert flags.num_warmup_steps / steps == pytest.approx(share, abs=5e-4)
        for step in (flags.num_warmup_steps, steps // 2, steps - 1):
            assert rates(step) == pytest.approx(peak * np.sqrt(1 - step / steps), rel=1e-4)
    assert read("nvidia_lamb_phase2.flags").init_checkpoint == read("nvidia_lamb_phase1.flags").output_dir


def test_one_cycle_of_cramming():
    rates = schedule("cramming.flags")
    hours = [rates(3600.0 * h) / read("cramming.flags").learning_rate for h in (0, 9, 18, 21, 24)]
    np.testing.assert_allclose(hours, [0.25, 0.625, 1.0, 0.5, 0.0], atol=1e-6)


def test_ten_minutes_share_all_but_the_recipe():
    slow, fast = read("google.flags"), read("efficient.flags")
    for name in ("model", "vocab_file", "eval_input_file", "max_seq_length", "train_hours", "mixed_precision"):
        assert getattr(slow, name) == getattr(fast, name)
    assert pathlib.PurePath(slow.output_dir) != pathlib.PurePath(fast.output_dir)
