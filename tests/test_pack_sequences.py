"""Fine-tuning on texts that lie side by side in packs: what is learned is what rows that are filled up teach."""

import dataclasses

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests import tiny, tiny_run, tiny_task
from tests.test_finetune import assert_same_to_the_bit, metrics_of
from tfbert import checks, config, evaluate, finetune, heads
from tfbert.layers import dropout, packs
from tfbert.tasks import answers, batches, ladder, packer, tags, targets, task
from tfbert.tasks.sentence_files import Settings

R, LONGEST, B = 38, 9, 6  # rows, longest row, rows of a batch
SHAPES = packer.Shapes(11, (3, 4, B))


def make_rows(seed=0, vocab_size=50):
    """Rows of one to LONGEST wordpieces, with what each objective needs."""
    rng = np.random.default_rng(seed)
    lengths = rng.integers(1, LONGEST + 1, R)
    total = lengths.sum()
    tokens = {
        "input_ids": rng.integers(0, vocab_size, total).astype(np.int32),
        "segment_ids": rng.integers(0, 2, total).astype(np.uint8),
        "label_ids": rng.integers(0, 4, total).astype(np.int32),
    }
    spans = np.sort(rng.integers(0, lengths[:, None], (R, 2)))
    dense = {"labels": rng.integers(0, 3, R), "spans": spans}
    return task.Rows(np.concatenate([[0], np.cumsum(lengths)]), tokens, dense, np.arange(R))


def batches_of(rows, shapes, count, first=0, pipeline=(1, 0, 1)):
    dataset = batches.train_dataset(rows, shapes, False, B, first, 5, *pipeline)
    return list(dataset.take(count * pipeline[2]).as_numpy_iterator())


class TestFirstFit:
    @pytest.mark.parametrize("seed", range(5))
    def test_is_that_of_the_textbook(self, seed):
        rng = np.random.default_rng(seed)
        width = int(rng.integers(9, 30))
        lengths = rng.integers(1, 10, int(rng.integers(1, 40)))
        pack, begin = packer.first_fit(lengths, width)
        held = {}
        for row in sorted(range(len(lengths)), key=lambda i: -lengths[i]):  # sorted keeps the order of equal ones
            chosen = 0
            while sum(lengths[i] for i in held.get(chosen, [])) + lengths[row] > width:
                chosen += 1
            assert pack[row] == chosen and begin[row] == sum(lengths[i] for i in held.get(chosen, []))
            held.setdefault(chosen, []).append(row)

    def test_rows_of_no_length_take_no_room(self):
        pack, begin = packer.first_fit(np.array([0, 4, 0]), 4)
        assert pack.tolist() == [0, 0, 0] and begin.tolist() == [4, 0, 4]


class TestBatches:
    def test_packs_hold_the_rows_of_batches_that_are_filled_up(self):
        rows = make_rows()
        counts = set()
        for packed, filled in zip(batches_of(rows, SHAPES, 30), batches_of(rows, (LONGEST,), 30), strict=True):
            length, mask = LONGEST, filled["input_mask"] > 0
            counts.add(packed["input_ids"].shape[0])
            assert packed["input_ids"].shape[1] == packed[packs.ROW_PLACES].shape[1] == SHAPES.width
            places = packed[packs.ROW_PLACES][:, :length]
            np.testing.assert_array_equal(places > 0, mask)
            assert not packed[packs.ROW_PLACES][:, length:].any()
            assert len(set(places[mask])) == mask.sum() == (packed["input_mask"] > 0).sum()
            for name in ("input_ids", "segment_ids"):
                np.testing.assert_array_equal(packed[name].ravel()[places[mask] - 1], filled[name][mask])
                assert not packed[name][packed["input_mask"] == 0].any()
            np.testing.assert_array_equal(packed["position_ids"].ravel()[places[mask] - 1], np.where(mask)[1])
            np.testing.assert_array_equal(packed["input_mask"].ravel()[places[mask] - 1], np.where(mask)[0] + 1)
            np.testing.assert_array_equal(packed["label_ids"][:, :length], filled["label_ids"])
            for name in ("labels", "spans", "example_weights"):
                np.testing.assert_array_equal(packed[name], filled[name])
        assert counts == {3, 4, B}  # the last is the next that is large enough for five

    def test_as_many_packs_as_rows_at_worst(self):
        rows = dataclasses.replace(make_rows(), splits=np.arange(R + 1) * 8, tokens={"input_ids": np.arange(R * 8)})
        [batch] = batches_of(rows, SHAPES, 1)
        assert batch["input_ids"].shape == (B, SHAPES.width)

    @pytest.mark.parametrize("pipelines, replicas", [(1, 2), (2, 1), (3, 2)])
    def test_replicas_have_packs_of_their_own(self, pipelines, replicas):
        rows = make_rows()
        whole = batches_of(rows, SHAPES, 9, 2)
        parts = [batches_of(rows, SHAPES, 9, 2, (pipelines, i, replicas)) for i in range(pipelines)]
        for i, batch in enumerate(whole):
            mine = [b for part in parts for b in part[i * replicas : (i + 1) * replicas]]
            np.testing.assert_array_equal(np.concatenate([b["spans"] for b in mine]), batch["spans"])
            for b in mine:
                mask = b[packs.ROW_PLACES] > 0
                assert b["input_mask"].max() == len(b["labels"]) == B // pipelines // replicas
                assert mask.sum() == (b["input_mask"] > 0).sum()
        again = batches_of(rows, SHAPES, 4, 5)
        assert [b["labels"].tolist() for b in again] == [b["labels"].tolist() for b in whole[3:7]]

    def test_evaluation_has_each_row_as_a_pack(self):
        rows = make_rows()
        for batch in batches.eval_dataset(rows, (4, LONGEST), B, 1, 0, 2, as_packs=True).as_numpy_iterator():
            count, length = batch["input_ids"].shape
            assert count == B // 2
            want = np.where(batch["input_mask"] > 0, np.arange(count * length).reshape(count, length) + 1, 0)
            np.testing.assert_array_equal(batch[packs.ROW_PLACES], want)
            np.testing.assert_array_equal(batch["position_ids"], [np.arange(length)] * count)

    def test_a_row_that_no_pack_holds(self):
        with pytest.raises(checks.InputError, match="a row of 9 wordpieces, and max_seq_length=8"):
            batches_of(make_rows(), packer.Shapes(8, (B,)), 1)


class TestShapes:
    ENCODER = config.preset("tiny", vocab_size=99)

    @pytest.mark.parametrize("steps", [3, 200, 100_000])
    def test_hold_all_and_waste_little(self, steps):
        rng = np.random.default_rng(steps)
        lengths = np.clip(rng.gamma(3.0, 6.0, 4000).astype(int), 3, 61)
        shapes = ladder.choose_packs(lengths, 32, steps, self.ENCODER)
        assert 61 <= shapes.width < 2 * 61 + 8 and shapes.width % 8 == 0
        assert shapes.counts[-1] == 32 and list(shapes.counts) == sorted(set(shapes.counts))
        used = slots = 0
        for _ in range(200):
            drawn = rng.choice(lengths, 32)
            needed = packer.first_fit(drawn, shapes.width)[0].max() + 1
            used += drawn.sum()
            slots += shapes.width * min(n for n in shapes.counts if n >= needed)
        # One shape has room for the fullest batch; several follow each batch.
        assert 1 - used / slots < (0.3 if steps < 1000 else 0.1)

    def test_more_steps_pay_for_more_shapes(self):
        lengths = np.random.default_rng(0).integers(3, 60, 1000)
        counts = [len(ladder.choose_packs(lengths, 32, steps, self.ENCODER).counts) for steps in (10, 5_000, 500_000)]
        assert counts[0] < counts[1] < counts[2]
        assert ladder.choose_packs(lengths, 32, 10, self.ENCODER) == ladder.choose_packs(lengths, 32, 10, self.ENCODER)

    def test_one_row(self):
        assert ladder.choose_packs(np.array([5]), 1, 10, self.ENCODER) == packer.Shapes(8, (1,))


CLASSES = targets.of(Settings("classify", "text", "", "label", labels=("a", "b", "c"))).objective
HEADS = {
    "pooled": (heads.build_classifier, {"num_labels": 3}, CLASSES),
    "cls": (heads.build_classifier, {"num_labels": 3, "pooling": "cls"}, CLASSES),
    "mean": (heads.build_classifier, {"num_labels": 3, "pooling": "mean", "layer_dropout": 0.0}, CLASSES),
    "tags": (heads.build_tagger, {"num_labels": 3}, tags.OBJECTIVE),
    "spans": (heads.build_span_finder, {}, answers.OBJECTIVE),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", HEADS)
def test_losses_and_gradients_are_those_of_rows(name):
    """To rounding, without dropout: each example sees itself alone, from position 0."""
    build, values, objective = HEADS[name]
    encoder = tiny.config(hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0, initializer_range=0.3)
    rows = make_rows(vocab_size=encoder.vocab_size)
    models = []
    for unpacks in (False, True):
        keras.utils.clear_session(free_memory=False)
        models.append(build(encoder, **values, unpacks=unpacks))
    plain, packed = models
    assert [v.path for v in plain.variables] == [v.path for v in packed.variables]
    for a, b in zip(plain.variables, packed.variables):
        b.assign(a)
    for filled, in_packs in zip(batches_of(rows, (7, LONGEST), 4), batches_of(rows, SHAPES, 4)):
        found = []
        for model, features in ((plain, filled), (packed, in_packs)):
            with tf.GradientTape() as tape, dropout.seeded(tf.constant([1, 2], tf.int64)):
                outputs = model({x.name: tf.constant(features[x.name]) for x in model.inputs}, training=True)
                losses = objective.losses(outputs, {k: tf.constant(v) for k, v in features.items()})
                loss = tf.add_n([s / w for s, w in losses.values()])
            gradients = tape.gradient(loss, [v.value for v in model.trainable_variables])
            found.append([loss, *(tf.convert_to_tensor(g) for g in gradients)])
        for got, want in zip(found[1], found[0], strict=True):
            np.testing.assert_allclose(got, want, rtol=2e-4, atol=2e-6)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return tiny_task.make(tmp_path_factory.mktemp("packs"), num_hidden_layers=1)


@pytest.mark.slow
class TestProgram:
    def flags(self, data, folder, **more):
        return tiny_task.flags(data, folder, pack_sequences=True, num_train_epochs=5.0, **more)

    def test_learns_goes_on_and_evaluates(self, data, tmp_path):
        whole = self.flags(data, tmp_path / "whole")
        assert finetune.run(whole) == 0
        rows = metrics_of(whole.output_dir)
        held_out = [row for row in rows if row["split"] == "held_out"]
        assert held_out[-1]["accuracy"] >= 0.9
        train = [row["padding_share"] for row in rows if row["split"] == "train"]
        assert max(train) < 0.35
        scores = evaluate.run(evaluate.EvaluateConfig(whole.output_dir, (whole.dev_file,), checkpoint="ckpt-30"))
        assert scores["loss"] == pytest.approx(held_out[-1]["loss"], rel=1e-4)

        stopped = dataclasses.replace(whole, output_dir=str(tmp_path / "stopped"))
        tiny_run.run_until(finetune, stopped, 8)
        assert finetune.run(stopped) == 0
        assert_same_to_the_bit(whole.output_dir, stopped.output_dir, 30)

    def test_replicas_learn_what_one_does(self, data, tmp_path):
        no_dropout = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0, "num_train_steps": 6}
        losses = []
        for strategy in ("default", "mirrored"):
            flags = self.flags(data, tmp_path / strategy, strategy=strategy, log_steps=1, **no_dropout)
            assert finetune.run(flags) == 0
            losses.append([r["loss"] for r in metrics_of(flags.output_dir) if r["split"] == "train"])
        assert len(losses[0]) == 6
        np.testing.assert_allclose(losses[1], losses[0], rtol=1e-4)

    def test_refusals(self, data, tmp_path):
        for match, more in (
            ("needs no bucket_by_length", {"bucket_by_length": True}),
            ("gradient_accumulation_steps=2", {"gradient_accumulation_steps": 2}),
            ("not for a TPU", {"strategy": "tpu"}),
            ("chunks of texts are not packed", {"long_text": "mean"}),
        ):
            with pytest.raises(checks.InputError, match=match):
                finetune.run(self.flags(data, tmp_path / "run", **more))
