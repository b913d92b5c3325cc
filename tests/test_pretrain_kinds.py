"""Tests of tfbert.pretrain, evaluate and predict on packed and unmasked records, and without a task of sentences."""

import dataclasses
import json
import os

import numpy as np
import pytest

from tests import test_record_kinds as kinds
from tests import tiny, tiny_packed, tiny_records
from tests.test_pretrain import FOUR, assert_close, assert_same_to_the_bit, metrics_of, weights_of
from tfbert import checks, config, evaluate, features, fill_mask, heads, pretrain, run_folder

EXAMPLES, ROWS = 12, ([0, 4, 7], [1, 2], [3, 5, 8], [9], [6, 10, 11], [])
SLOTS, ROW_LENGTH, ROW_PREDICTIONS = 4, 40, 2 * tiny.P + 3


def write(folder, name, batch, layout, about):
    """Records in a folder of their own, and the configuration of a model for them."""
    folder = os.path.join(folder, name)
    os.makedirs(folder)
    tiny_records.write(os.path.join(folder, "train-0"), batch, layout)
    with open(os.path.join(folder, "records.json"), "w") as f:
        json.dump(about, f)
    return os.path.join(folder, "train-*")


@pytest.fixture(scope="module")
def records(tmp_path_factory):
    """Folder of a vocabulary, two models, and records: the same examples apart and packed; unmasked packed ones."""
    folder = str(tmp_path_factory.mktemp("records"))
    tiny_records.vocab().write(folder)
    for dropout in (0.0, 0.1):
        sizes = {"max_position_embeddings": ROW_LENGTH} | dict.fromkeys(
            ("hidden_dropout_prob", "attention_probs_dropout_prob"), dropout
        )
        with open(os.path.join(folder, f"dropout-{dropout}.json"), "w") as f:
            json.dump(config.to_dict(tiny.config(num_hidden_layers=1, **sizes)), f)
    batch = tiny_records.examples(1, EXAMPLES)
    packed = tiny_packed.pack(batch, ROWS, ROW_LENGTH, SLOTS, ROW_PREDICTIONS)
    wide = {n: np.pad(x, [(0, 0), (0, ROW_LENGTH - tiny.L)]) if x.shape[1] == tiny.L else x for n, x in batch.items()}
    wide = {
        n: np.pad(x, [(0, 0), (0, ROW_PREDICTIONS - tiny.P)]) if x.shape[1] == tiny.P else x for n, x in wide.items()
    }
    layouts = [features.Layout(ROW_LENGTH, ROW_PREDICTIONS, True, m) for m in (0, SLOTS)]
    write(folder, "apart", wide, layouts[0], {})
    write(folder, "packed", packed, layouts[1], {})
    write(folder, "order", packed, layouts[1], {"sentence_objective": "sop"})
    about = {**kinds.ABOUT, "mask_unit": "ngram", "sentence_objective": "none"}
    write(folder, "unmasked", kinds.unmasked(packed=True), kinds.layout_of(True), about)
    masked = tiny.features(3, 6, kinds.L, kinds.P)
    write(folder, "no_sentences", masked, features.Layout(kinds.L, kinds.P), {"sentence_objective": "none"})
    write(folder, "with_sentences", masked, features.Layout(kinds.L, kinds.P), {})
    return folder


def flags(records, output_dir, train, held_out, **overrides):
    unmasked = train == "unmasked"
    fields = {
        "input_file": (os.path.join(records, train, "train-*"),),
        "eval_input_file": (os.path.join(records, held_out, "train-*"),),
        "bert_config_file": os.path.join(records, "dropout-0.1.json"),
        "max_seq_length": kinds.L if unmasked else ROW_LENGTH,
        "max_predictions_per_seq": kinds.P if unmasked else ROW_PREDICTIONS,
        "train_batch_size": 4,
        "num_train_steps": 6,
        "save_checkpoints_steps": 3,
        "log_steps": 2,
        "eval_steps": 3,
        "iterations_per_loop": 1,
    }
    return tiny_records.flags(records, output_dir, **{**fields, **overrides})


@pytest.fixture(scope="module")
def packed_run(records, tmp_path_factory):
    """(flags, run folder) of a run on packed rows, evaluated on the same examples apart."""
    chosen = flags(records, tmp_path_factory.mktemp("packed"), "packed", "apart")
    assert pretrain.run(chosen) == 0
    return chosen, chosen.output_dir


@pytest.fixture(scope="module")
def unmasked_run(records, tmp_path_factory):
    """(flags, run folder) of a run on unmasked packed rows without a task of sentences."""
    chosen = flags(records, tmp_path_factory.mktemp("unmasked"), "unmasked", "no_sentences")
    assert pretrain.run(chosen) == 0
    return chosen, chosen.output_dir


def resumed(chosen, output_dir, step):
    """The folder of the same run, ended by SIGKILL behind a checkpoint and started again."""
    tiny_records.cut_back(chosen.output_dir, output_dir, step)
    assert pretrain.run(dataclasses.replace(chosen, output_dir=str(output_dir))) == 0
    return str(output_dir)


@pytest.mark.slow
class TestPacked:
    def test_trains_and_reports(self, packed_run):
        rows = metrics_of(packed_run[1])
        assert [(r["step"], r["split"]) for r in rows if r["split"] == "train"] == [(s, "train") for s in (2, 4, 6)]
        assert all(set(FOUR) <= r.keys() for r in rows)
        with open(os.path.join(packed_run[1], "speed.jsonl")) as f:
            speeds = [json.loads(line) for line in f]
        for speed, row in zip(speeds, [r for r in rows if r["split"] == "train"], strict=True):
            real = ROW_LENGTH * (1 - row["padding_share"])
            assert speed["tokens_per_second"] == pytest.approx(real * speed["sequences_per_second"], rel=0.01)

    def test_padding_is_what_no_example_fills(self, packed_run):
        seen = np.array([r["padding_share"] for r in metrics_of(packed_run[1]) if r["split"] == "train"])
        real = tiny_records.examples(1, EXAMPLES)["input_mask"].sum()
        assert seen.mean() == pytest.approx(1 - real / (len(ROWS) * ROW_LENGTH), abs=0.02)  # 4 epochs of 6 rows

    def test_equals_the_same_examples_apart(self, records, tmp_path):
        """All examples in every step, once one a row and once packed: the same run up to the rounding of sums.

        Each is evaluated on the examples as the other has them.
        """
        runs = []
        for name, other, batch_size in (("apart", "packed", EXAMPLES), ("packed", "apart", len(ROWS))):
            config_file = os.path.join(records, "dropout-0.0.json")
            more = {"bert_config_file": config_file, "train_batch_size": batch_size, "num_train_steps": 4}
            runs.append(flags(records, tmp_path / name, name, other, **more))
            assert pretrain.run(runs[-1]) == 0
        held_out = [r for r in metrics_of(runs[0].output_dir) if r["split"] == "held_out"]
        results = evaluate.evaluate(evaluate.EvaluateConfig(runs[0].output_dir, runs[0].input_file))
        assert {n: held_out[-1][n] for n in FOUR} == pytest.approx({n: results[n] for n in FOUR}, rel=1e-5)
        for run in runs:
            lines = metrics_of(run.output_dir)
            for line in lines:
                line.pop("padding_share", None)
            with open(os.path.join(run.output_dir, "metrics.jsonl"), "w") as f:
                f.writelines(json.dumps(line) + "\n" for line in lines)
        assert_close(runs[1].output_dir, runs[0].output_dir, 4)

    def test_goes_on_to_the_same_bits(self, packed_run, tmp_path):
        folder = resumed(packed_run[0], tmp_path / "run", 3)
        assert_same_to_the_bit(folder, packed_run[1], 6)

    def test_evaluates_on_packed_and_on_plain_records_alike(self, packed_run, records):
        run_dir = packed_run[1]
        results = {}
        for name in ("apart", "packed"):
            results[name] = evaluate.evaluate(
                evaluate.EvaluateConfig(run_dir, (os.path.join(records, name, "train-*"),), eval_batch_size=4)
            )
        assert results["apart"].pop("instances") == EXAMPLES and results["packed"].pop("instances") == len(ROWS)
        assert results["packed"] == pytest.approx(results["apart"], rel=1e-5)
        last = metrics_of(run_dir)[-1]
        assert {n: last[n] for n in FOUR} == pytest.approx({n: results["apart"][n] for n in FOUR}, rel=1e-5)

    def test_answers_texts_like_any_other_run(self, packed_run):
        loaded = fill_mask.load(packed_run[1])
        assert {x.name for x in loaded.model.inputs} == {
            "input_ids",
            "input_mask",
            "segment_ids",
            "masked_lm_positions",
        }
        answers = loaded.answering([b"w1 [MASK] w2"])
        assert answers["positions"].numpy().tolist() == [[2]]


@pytest.mark.slow
class TestUnmaskedWithoutSentences:
    def test_reports_one_task(self, unmasked_run):
        for row in metrics_of(unmasked_run[1]):
            assert not [name for name in row if name.startswith("next_sentence")]
            assert row["loss"] == row["masked_lm_loss"] > 0

    def test_pooler_and_head_stay_as_they_began(self, unmasked_run):
        begun = weights_of(unmasked_run[1], 3)
        ended = weights_of(unmasked_run[1], 6)
        untrained = [n for n in ended if n.startswith(("bert/pooler", "cls/seq_relationship"))]
        assert len(untrained) == 4
        for name in untrained:
            np.testing.assert_array_equal(ended[name], begun[name])
        assert (ended["bert/embeddings/word_embeddings"] != begun["bert/embeddings/word_embeddings"]).any()

    def test_goes_on_to_the_same_bits(self, unmasked_run, tmp_path):
        folder = resumed(unmasked_run[0], tmp_path / "run", 3)
        assert_same_to_the_bit(folder, unmasked_run[1], 6)

    def test_evaluates_and_answers(self, unmasked_run):
        results = evaluate.run(evaluate.EvaluateConfig(unmasked_run[1], unmasked_run[0].eval_input_file))
        last = metrics_of(unmasked_run[1])[-1]
        assert results["masked_lm_loss"] == pytest.approx(last["masked_lm_loss"], rel=1e-5)
        assert "next_sentence_loss" not in results
        assert fill_mask.load(unmasked_run[1]).step == 6

    def test_evaluates_on_records_that_have_sentence_labels(self, unmasked_run, records):
        """So runs with and without that task are compared on the same records."""
        pattern = (os.path.join(records, "with_sentences", "train-*"),)
        results = evaluate.evaluate(evaluate.EvaluateConfig(unmasked_run[1], pattern))
        assert "next_sentence_loss" not in results
        assert results["loss"] == pytest.approx(metrics_of(unmasked_run[1])[-1]["loss"], rel=1e-5)

    def test_the_run_folder_says_how_it_masked(self, unmasked_run):
        about = run_folder.read(unmasked_run[1]).config["records"]
        assert about["train"]["masking"] == {"unit": "ngram", "masked_lm_prob": 0.3}
        assert about["train"]["max_sequences_per_pack"] == kinds.M
        assert about["train"]["sentence_objective"] == about["held_out"]["sentence_objective"] == "none"
        assert "masking" not in about["held_out"]

    @pytest.mark.parametrize("change", [{"masked_lm_prob": 0.2}, {"mask_unit": "span"}])
    def test_another_masking_is_another_run(self, unmasked_run, change):
        with pytest.raises(checks.InputError, match=f"records.train.masking.*{next(iter(change.values()))}"):
            pretrain.run(dataclasses.replace(unmasked_run[0], **change))

    def test_parts_of_a_step_see_the_same_masks(self, records, tmp_path):
        more = {"bert_config_file": os.path.join(records, "dropout-0.0.json"), "eval_input_file": ()}
        parts = {"strategy": "mirrored", "gradient_accumulation_steps": 2}
        runs = [
            flags(records, tmp_path / str(i), "unmasked", "no_sentences", **more, **p)
            for i, p in enumerate(({}, parts))
        ]
        for run in runs:
            pretrain.run(run)
        assert_close(runs[1].output_dir, runs[0].output_dir, 6)


@pytest.mark.slow
class TestRefused:
    def test_held_out_records_of_another_task(self, records, tmp_path):
        match = "sentence_objective that the run is trained for; got nsp, and sop in the run"
        with pytest.raises(checks.InputError, match=match):
            pretrain.run(flags(records, tmp_path / "run", "order", "apart"))

    def test_evaluation_on_another_task(self, records, packed_run):
        match = "sentence_objective that the run is trained for; got sop, and nsp in the run"
        with pytest.raises(checks.InputError, match=match):
            evaluate.evaluate(evaluate.EvaluateConfig(packed_run[1], (os.path.join(records, "order", "train-*"),)))

    def test_unmasked_records_to_evaluate_on(self, records, tmp_path):
        with pytest.raises(checks.InputError, match="to evaluate on must be masked"):
            pretrain.run(flags(records, tmp_path / "run", "unmasked", "unmasked"))

    def test_flags_of_masking_on_masked_records(self, records, tmp_path):
        with pytest.raises(checks.InputError, match=r"masked as they are read; got mask_unit=word"):
            pretrain.run(flags(records, tmp_path / "run", "packed", "apart", mask_unit="word"))


@pytest.mark.slow
def test_a_frozen_model_has_the_same_checkpoint_names():
    built = heads.build_pretrainer(tiny.config())
    before = [v.path for v in built.variables]
    heads.freeze_next_sentence(built)
    assert sorted(v.path for v in built.variables) == sorted(before)
