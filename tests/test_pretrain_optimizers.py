"""Tests of tfbert.pretrain's optimizers, schedules and clocks, through the program's `run`."""

import dataclasses
import json
import os

import numpy as np
import pytest

from tests import tiny, tiny_records
from tests.test_pretrain import assert_same_to_the_bit, metrics_of, pretrain_until, weights_of
from tests.test_training_clock import Time
from tfbert import checks, heads, initial_weights, pretrain
from tfbert.convert import formats
from tfbert.loop import checkpoints, training_clock
from tfbert.optimizers import adamw, lamb, param_groups, schedules

FROZEN = ("bert/embeddings/*", "bert/encoder/layer_0/*")
SLOTS = ("_momentum", "_velocity")


@pytest.fixture(scope="module")
def records(tmp_path_factory):
    folder = str(tmp_path_factory.mktemp("records"))
    tiny_records.make(folder)
    return folder


@pytest.fixture(scope="module")
def first_phase(records, tmp_path_factory):
    """The folder of a run of LAMB."""
    more = {"optimizer": "lamb", "num_train_steps": 3, "eval_input_file": ()}
    flags = tiny_records.flags(records, tmp_path_factory.mktemp("first"), **more)
    assert pretrain.run(flags) == 0
    return flags.output_dir


@pytest.fixture(scope="module")
def saved_often(records, tmp_path_factory):
    """(flags, run folder) of a run of AdamW with a checkpoint of each of its three steps."""
    more = {"num_train_steps": 3, "save_checkpoints_steps": 1, "eval_input_file": ()}
    flags = tiny_records.flags(records, tmp_path_factory.mktemp("often"), **more)
    assert pretrain.run(flags) == 0
    return flags, flags.output_dir


@pytest.mark.slow
@pytest.mark.parametrize(
    "changes",
    [
        {"optimizer": "lamb", "learning_rate": 0.02, "lr_schedule": "polynomial", "lr_power": 0.5}
        | {"batch_ramp": 0.8, "gradient_accumulation_steps": 2},
        {"freeze": FROZEN, "layerwise_lr_decay": 0.5, "adam_beta2": 0.98, "lr_schedule": "cosine"}
        | {"min_lr_ratio": 0.1, "warmup_proportion": 0.2, "gradient_accumulation_steps": 2},
    ],
    ids=["lamb_and_ramp", "freeze_and_layerwise"],
)
def test_an_interrupted_run_ends_with_the_same_bits(records, tmp_path, capfd, changes):
    whole = tiny_records.flags(records, tmp_path / "whole", eval_input_file=(), **changes)
    assert pretrain.run(whole) == 0
    losses = [row["loss"] for row in metrics_of(whole.output_dir) if row["split"] == "train"]
    assert losses[-1] < losses[0]
    parts = dataclasses.replace(whole, output_dir=str(tmp_path / "parts"))
    tiny_records.cut_back(whole.output_dir, parts.output_dir, 4)  # before the batch grows, at step 6
    assert pretrain.run(parts) == 0
    assert_same_to_the_bit(parts.output_dir, whole.output_dir, 15)
    if whole.freeze:
        assert_frozen_stay_and_have_no_slots(whole.output_dir, capfd.readouterr().err)


def assert_frozen_stay_and_have_no_slots(run_dir, said):
    before, after = weights_of(run_dir, 4), weights_of(run_dir, 8)
    frozen = {n for n in after if n.startswith(("bert/embeddings/", "bert/encoder/layer_0/"))}
    trained = {n for n in after if n.startswith(("bert/", "cls/"))} - frozen
    assert frozen and all(np.array_equal(before[n], after[n]) for n in frozen)
    assert all(not np.array_equal(before[n], after[n]) for n in trained)
    slots = {n for n in after if n.startswith("optimizer/") and n.endswith(SLOTS)}
    assert len(slots) == 2 * len(trained)
    assert not any("embeddings" in n or "layer_0" in n for n in slots)
    assert f"frozen, {len(frozen)} variables:" in said and all(f"  {n}\n" in said for n in frozen)


def test_a_frozen_pattern_that_matches_nothing_ends_before_the_first_step(records, tmp_path):
    with pytest.raises(checks.InputError, match="must match a variable that is trained; got freeze=embeddings"):
        pretrain.run(tiny_records.flags(records, tmp_path, freeze=("embeddings",)))


def built(optimizer=lamb.Lamb):
    model = heads.build_pretrainer(tiny.config())
    paths = [v.path for v in model.trainable_variables]
    made = optimizer(schedules.Schedule(0.1, 0, 9), 0.0, decays=param_groups.decay_mask(paths).__getitem__)
    made.build(model.trainable_variables)
    return model, made


class TestKeepOptimizer:
    @pytest.mark.slow
    def test_takes_every_slot_and_the_count_of_updates(self, first_phase):
        model, optimizer = built()
        text = initial_weights.take_optimizer(first_phase, model, optimizer)
        stored, taken = weights_of(first_phase, 3), checkpoints.optimizer_variables(optimizer)
        assert f"{2 * len(model.trainable_variables) + 1} variables of the optimizer" in text
        for name, variable in taken.items():
            if name.endswith(SLOTS):
                np.testing.assert_array_equal(np.asarray(variable), stored[name], err_msg=name)
                assert np.any(stored[name])
        assert int(optimizer._updates.numpy()) == 3 and int(optimizer.iterations.numpy()) == 0

    @pytest.mark.slow
    def test_of_an_earlier_checkpoint(self, saved_often):
        model, optimizer = built(adamw.AdamW)
        initial_weights.take_optimizer(os.path.join(saved_often[1], "ckpt-1"), model, optimizer)
        stored = weights_of(saved_often[1], 1)
        for name, variable in checkpoints.optimizer_variables(optimizer).items():
            if name.endswith(SLOTS):
                np.testing.assert_array_equal(np.asarray(variable), stored[name], err_msg=name)

    @pytest.mark.slow
    def test_of_another_optimizer(self, first_phase):
        model, optimizer = built(adamw.AdamW)
        with pytest.raises(checks.InputError, match="optimizer/updates: in the checkpoint only"):
            initial_weights.take_optimizer(first_phase, model, optimizer)
        assert not any(np.any(np.asarray(v)) for v in optimizer.variables)

    @pytest.mark.slow
    def test_of_another_format(self, first_phase, tmp_path):
        there = str(tmp_path / "there")
        formats.convert(formats.open_source(first_phase), there, "huggingface")
        with pytest.raises(checks.InputError, match=r"needs a run folder.*got weights of the format huggingface"):
            initial_weights.take_optimizer(there, *built())

    def test_needs_weights_to_begin_with(self, records, tmp_path):
        with pytest.raises(checks.InputError, match="--keep_optimizer needs --init_checkpoint"):
            tiny_records.flags(records, tmp_path, keep_optimizer=True)

    @pytest.mark.slow
    @pytest.mark.parametrize("keep", [True, False])
    def test_the_program(self, saved_often, records, tmp_path, keep):
        """A second phase that changes nothing, neither weights nor moments: what it ends with is what it took."""
        still = {"learning_rate": 0.0, "adam_beta1": 1.0, "adam_beta2": 1.0, "num_train_steps": 1}
        still |= {"num_warmup_steps": 0, "init_checkpoint": saved_often[1], "keep_optimizer": keep}
        phase2 = tiny_records.flags(records, tmp_path, eval_input_file=(), **still)
        assert pretrain.run(phase2) == 0
        first, second = weights_of(saved_often[1], 3), weights_of(phase2.output_dir, 1)
        assert first.keys() == second.keys()
        for name in first:
            if name.startswith(("bert/", "cls/")):
                np.testing.assert_array_equal(second[name], first[name], err_msg=name)
            elif name.endswith(SLOTS):
                assert np.any(first[name])
                np.testing.assert_array_equal(second[name], first[name] if keep else 0 * first[name], err_msg=name)
        assert second["optimizer/iteration"] == 1


class TestTimeKeyed:
    """With a clock of which each look takes a second."""

    @pytest.fixture(autouse=True)
    def clock(self, monkeypatch):
        real = training_clock.TrainingClock
        monkeypatch.setattr(training_clock, "TrainingClock", lambda budget: real(budget, Time()))

    def flags(self, records, folder, **changes):
        keyed = {"train_hours": 20 / 3600, "warmup_proportion": 0.25, "lr_schedule": "triangle", **changes}
        return tiny_records.flags(records, folder, num_train_steps=3, iterations_per_loop=100, **keyed)

    @pytest.mark.slow
    def test_ends_with_the_time_and_says_so_again(self, records, tmp_path, capfd):
        flags = self.flags(records, tmp_path)
        assert pretrain.run(flags) == 0
        [*_, last] = checkpoints.saved_steps(flags.output_dir)
        assert last > 3  # num_train_steps is not looked at
        assert weights_of(flags.output_dir, last)["loop/training_seconds"] == pytest.approx(20)
        rows = metrics_of(flags.output_dir)
        assert [(r["step"], r["split"]) for r in rows[-2:]] == [(last, "train"), (last, "held_out")]
        trained = [r for r in rows if r["split"] == "train"]
        for row in trained:
            # The update was made a second before the last look of its call.
            second = row["training_seconds"] - 1
            want = 3e-3 * min(second / 5, 1 - (second - 5) / 15)
            assert row["learning_rate"] == pytest.approx(want, rel=1e-4)
        assert [r["step"] for r in trained][:2] == [5, 10]
        said = capfd.readouterr().err
        assert f"Finished {last} steps" in said and "100 %" in said and "/3" not in said
        assert pretrain.run(flags) == 0
        assert "is finished" in capfd.readouterr().err

    @pytest.mark.slow
    def test_what_was_spent_stays_spent(self, records, tmp_path):
        flags = self.flags(records, tmp_path, eval_input_file=())
        pretrain_until(flags, 4)
        spent = float(weights_of(flags.output_dir, 4)["loop/training_seconds"])
        assert 4 < spent < 20
        assert pretrain.run(flags) == 0
        trained = [r for r in metrics_of(flags.output_dir) if r["split"] == "train"]
        assert trained[0]["training_seconds"] > spent
        assert trained[-1]["training_seconds"] == pytest.approx(20)

    def test_no_ramp_without_a_number_of_steps(self, records, tmp_path):
        with pytest.raises(checks.InputError, match="a batch grows over steps"):
            self.flags(records, tmp_path, batch_ramp=0.5, gradient_accumulation_steps=2)

    @pytest.mark.parametrize("changes", [{"warmup_proportion": None}, {"train_hours": 0.0}])
    def test_flags_that_do_not_go_together(self, records, tmp_path, changes):
        with pytest.raises(checks.InputError, match="train_hours must be positive, and go with warmup_proportion"):
            self.flags(records, tmp_path, **changes)


@pytest.mark.slow
def test_a_run_that_is_older_than_a_flag_goes_on(saved_often, tmp_path):
    flags = dataclasses.replace(saved_often[0], output_dir=str(tmp_path / "run"))
    tiny_records.cut_back(saved_often[1], flags.output_dir, 2)
    path = tmp_path / "run" / "config.json"
    content = json.loads(path.read_text())
    for name in ("optimizer", "lr_schedule", "adam_epsilon", "freeze"):
        del content["pretrain"][name]
    path.write_text(json.dumps(content))
    assert pretrain.run(flags) == 0
    with pytest.raises(checks.InputError, match=r"pretrain\.optimizer: 'adamw' -> 'lamb'"):
        pretrain.run(dataclasses.replace(flags, optimizer="lamb"))
