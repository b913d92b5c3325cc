"""Tests of tfbert.input_pipeline and record_sets on records that Google's script does not make.

Unmasked ones, which are masked as they are read; packed ones; and those without next sentence prediction.
"""

import dataclasses
import itertools
import json

import numpy as np
import pytest
import tensorflow as tf

from tests import tiny, tiny_packed
from tests.test_input_pipeline import write
from tfbert import checks, features, input_pipeline, record_sets
from tfbert.text import masking
from tfbert.text import vocab as vocab_lib

N, L, P, M, V = 23, 31, 5, 3, 97
WORDS = [f"w{i}" for i in range(80)] + [f"##s{i}" for i in range(V - 85)]
VOCAB = vocab_lib.Vocab((*vocab_lib.SPECIAL_TOKENS, *WORDS))
ABOUT = {"mask_unit": "word", "masked_lm_prob": 0.3, "sentence_objective": "nsp"}
MASKED = ("masked_lm_positions", "masked_lm_ids", "masked_lm_weights")


def unmasked(count=N, packed=False, seed=0):
    """Features of unmasked records, one or two examples a row; the first token's id is the record's number."""
    rng = np.random.default_rng(seed)
    batch = tiny.features(seed, 3 * count, L // 2, 9)
    for name in MASKED:
        del batch[name]
    # Every third token goes on with the word before it.
    place = np.arange(L // 2)
    words, pieces = (rng.integers(*ids, (3 * count, L // 2)) for ids in ((5, 85), (85, V)))
    batch["input_ids"] = np.where(batch["input_mask"], np.where(place % 3 == 2, pieces, words), 0)
    rows = [[3 * i, *([3 * i + 1] if packed and i % 3 else [])] for i in range(count)]
    empty = {n: np.zeros((3 * count, 1), np.float32) for n in MASKED}
    made = tiny_packed.pack({**batch, **empty}, rows, length=L, slots=M)
    made["input_ids"][:, 0] = VOCAB.cls_id
    made["input_ids"][:, 1] = 5 + np.arange(count)  # w0, w1, ...: tells the rows apart unless it is masked
    made["word_starts"] = ((made["input_mask"] > 0) & (made["input_ids"] < 85)).astype(np.int32)
    if not packed:
        made["next_sentence_labels"] = made["next_sentence_labels"][:, :1]
    return {n: x for n, x in made.items() if n in {f.name for f in layout_of(packed).features}}


def layout_of(packed, masked=False):
    return features.Layout(L, P, masked, M if packed else 0)


def folder_of(path, batch, layout, about=ABOUT, files=1):
    """Records and records.json in a folder; returns their glob."""
    path.mkdir(parents=True, exist_ok=True)
    records = features.serialize_batch(batch, layout)
    for i in range(files):
        write(path / f"train-{i}.tfrecord", records[i::files])
    if about is not None:
        (path / "records.json").write_text(json.dumps({**about, "tokenizer_digest": VOCAB.digest}))
    return str(path / "train-*")


@pytest.fixture(scope="module", params=[False, True], ids=["one", "packed"])
def opened(request, tmp_path_factory):
    """(features on disk, their `RecordSet`), one example a row and packed."""
    batch = unmasked(packed=request.param)
    pattern = folder_of(tmp_path_factory.mktemp("unmasked"), batch, layout_of(request.param), files=2)
    return batch, record_sets.open_records(pattern, L, P, VOCAB)


PACKED = pytest.mark.parametrize("opened", [True], ids=["packed"], indirect=True)


def elements(records, count, batch_size=6, micro_batches=1, start=0, seed=5, **parts):
    dataset = input_pipeline.train_dataset(records, batch_size, micro_batches, seed, start, 9, **parts)
    return list(itertools.islice(dataset.as_numpy_iterator(), count))


def joined(batches):
    return {name: np.concatenate([b[name] for b in batches]) for name in batches[0]}


def restored(batch):
    """input_ids with the truth at the masked places."""
    ids = batch["input_ids"].copy()
    rows, slots = np.nonzero(batch["masked_lm_weights"])
    ids[rows, batch["masked_lm_positions"][rows, slots]] = batch["masked_lm_ids"][rows, slots]
    return ids


def assert_equal(found, expected):
    assert found.keys() == expected.keys()
    for name in expected:
        np.testing.assert_array_equal(found[name], expected[name], err_msg=name)


class TestMaskedAsTheyAreRead:
    def test_layout_and_masking_come_from_the_records(self, opened):
        batch, records = opened
        packed = "position_ids" in batch
        assert records.layout == layout_of(packed) and records.packed == packed
        assert records.masking == ("word", 0.3) and records.total == N

    @pytest.mark.slow
    def test_what_is_masked_is_what_the_records_hold(self, opened):
        batch, records = opened
        found = joined(elements(records, 8))
        numbers = restored(found)[:, 1] - 5
        assert set(numbers) == set(range(N)) and len(numbers) == 48
        np.testing.assert_array_equal(restored(found), batch["input_ids"][numbers])
        for name in batch.keys() - {"input_ids", "word_starts"}:
            np.testing.assert_array_equal(found[name], batch[name][numbers], err_msg=name)
        assert "word_starts" not in found
        masked = found["masked_lm_weights"].sum(1)
        assert masked.mean() > 1 and (masked <= np.minimum(P, np.round(0.3 * (found["input_mask"] > 0).sum(1)))).all()
        assert (found["input_ids"] == VOCAB.mask_id).sum() > 0.6 * masked.sum()

    @pytest.mark.slow
    def test_every_epoch_has_new_masks(self, opened):
        found = joined(elements(opened[1], 24, batch_size=N))
        numbers = restored(found)[:, 1]
        for number in range(N):
            of_record = found["masked_lm_positions"][numbers == 5 + number]
            assert len(of_record) == 24
            assert len({tuple(row) for row in of_record}) > 3, number

    @pytest.mark.slow
    @pytest.mark.parametrize("unit", ["token", "word", "ngram", "span"])
    def test_equals_static_masking_under_the_same_seeds(self, opened, unit, tmp_path):
        batch, records = opened
        records = dataclasses.replace(records, masking=record_sets.Masking(unit, 0.3))
        found = joined(elements(records, 10, batch_size=6, start=7))
        places = np.arange(7 * 6, 17 * 6)
        rows = restored(found)[:, 1] - 5
        seeds = masking.row_seeds(5, places)
        inputs = (batch[n][rows] for n in ("input_ids", "input_mask"))
        expected = masking.mask(*inputs, VOCAB, unit, 0.3, P, seeds, batch["word_starts"][rows])
        assert_equal({n: found[n] for n in ("input_ids", *MASKED)}, {n: x.numpy() for n, x in expected.items()})

    @pytest.mark.slow
    @PACKED
    @pytest.mark.parametrize("micro_batches, pipelines, replicas", [(2, 1, 1), (1, 1, 3), (2, 2, 3)])
    def test_a_step_is_masked_alike_however_it_is_cut(self, opened, micro_batches, pipelines, replicas):
        steps, size = 5, 12
        expected = joined(elements(opened[1], steps, size))
        parts = {"num_pipelines": pipelines, "replicas_per_pipeline": replicas}
        found = [
            joined(
                elements(opened[1], steps * micro_batches * replicas, size, micro_batches, **parts, pipeline_index=p)
            )
            for p in range(pipelines)
        ]
        for name, want in expected.items():
            # [pipeline, step, micro-batch, replica and row] -> [step, micro-batch, pipeline, replica and row]
            cut = np.stack([f[name] for f in found])
            cut = cut.reshape(pipelines, steps, micro_batches, -1, *want.shape[1:]).swapaxes(0, 1).swapaxes(1, 2)
            np.testing.assert_array_equal(cut.reshape(want.shape), want, err_msg=name)

    @pytest.mark.slow
    @PACKED
    @pytest.mark.parametrize("parts", [(12, 1, {}), (12, 3, {"replicas_per_pipeline": 2})], ids=["whole", "cut"])
    def test_goes_on_as_if_never_stopped(self, opened, parts):
        size, micro_batches, more = parts
        each = micro_batches * more.get("replicas_per_pipeline", 1)
        whole = elements(opened[1], 9 * each, size, micro_batches, **more)
        for start in (1, 4):
            rest = elements(opened[1], (9 - start) * each, size, micro_batches, start, **more)
            for found, want in zip(rest, whole[start * each :], strict=True):
                assert_equal(found, want)

    @pytest.mark.slow
    @PACKED
    def test_other_seeds_mask_otherwise(self, opened):
        one, other = (joined(elements(opened[1], 1, batch_size=N, seed=s)) for s in (5, 6))
        both = [{tuple(row) for row in np.c_[restored(x)[:, 1], x["masked_lm_positions"]]} for x in (one, other)]
        assert len(both[0] & both[1]) < 0.4 * N

    def test_shapes_are_static(self, opened):
        spec = input_pipeline.train_dataset(opened[1], 12, 2, 5, 0, 6).element_spec
        assert spec["input_ids"] == tf.TensorSpec((6, L), tf.int32)
        assert spec["masked_lm_positions"] == tf.TensorSpec((6, P), tf.int32)
        assert spec["masked_lm_weights"] == tf.TensorSpec((6, P), tf.float32)

    def test_flags_say_otherwise(self, tmp_path):
        pattern = folder_of(tmp_path, unmasked(), layout_of(False))
        for given, want in (((None, 0.5), ("word", 0.5)), (("span", None), ("span", 0.3)), (("ngram", 0.1),) * 2):
            assert record_sets.open_records(pattern, L, P, VOCAB, *given).masking == want
        with pytest.raises(checks.InputError, match=r"mask_unit must be one of token, word, ngram, span.*'letter'"):
            record_sets.open_records(pattern, L, P, VOCAB, "letter")

    def test_without_records_json_flags_must_say_it(self, tmp_path):
        pattern = folder_of(tmp_path, unmasked(), layout_of(False), about=None)
        assert record_sets.open_records(pattern, L, P, VOCAB, "token", 0.2).masking == ("token", 0.2)
        for given, name in (((None, 0.2), "mask_unit"), (("token", None), "masked_lm_prob")):
            with pytest.raises(checks.InputError, match=f"no {name}.*Pass --{name}"):
                record_sets.open_records(pattern, L, P, VOCAB, *given)

    def test_masked_records_take_no_such_flags(self, tmp_path):
        tiny_batch = tiny.features(length=L, predictions=P)
        pattern = folder_of(tmp_path, tiny_batch, layout_of(False, masked=True))
        assert record_sets.open_records(pattern, L, P, VOCAB).masking is None
        for given in (("word", None), (None, 0.2)):
            with pytest.raises(checks.InputError, match=r"masked as they are read; got mask.*masked already"):
                record_sets.open_records(pattern, L, P, VOCAB, *given)

    def test_an_evaluation_takes_masked_records(self, opened):
        with pytest.raises(checks.InputError, match="to evaluate on must be masked"):
            input_pipeline.eval_dataset(opened[1], 4)


class TestPacked:
    ROWS = ([3, 1], [0], [2, 1, 0], [2])

    @pytest.fixture
    def batch(self):
        return tiny_packed.pack(tiny.features(predictions=2, length=7), self.ROWS, length=L, slots=M, predictions=6)

    def layout(self):
        return features.Layout(L, 6, max_sequences_per_pack=M)

    def test_come_as_they_are(self, tmp_path, batch):
        records = record_sets.open_records(folder_of(tmp_path, batch, self.layout()), L, 6, VOCAB)
        assert records.layout == self.layout() and records.packed
        (found,) = input_pipeline.eval_dataset(records, 4).as_numpy_iterator()
        assert found.pop("example_weights").tolist() == [1.0] * 4
        assert_equal(found, batch)
        rows = joined(elements(records, 4, batch_size=4))
        assert sorted(rows["input_mask"].max(1).tolist()) == sorted(4 * [len(row) for row in self.ROWS])

    @pytest.mark.parametrize(
        "feature, value, message",
        [
            ("input_mask", M + 1, "less than 4 .max_sequences_per_pack.; got 4"),
            ("position_ids", L, "less than 31 .max_seq_length.; got 31"),
            ("next_sentence_positions", L + 2, "less than 31 .max_seq_length.; got 33"),
            ("next_sentence_labels", 2, "less than 2 .0 or 1.; got 2"),
        ],
    )
    def test_numbers_out_of_range_are_refused(self, tmp_path, batch, feature, value, message):
        batch[feature][1, -1] = value
        with pytest.raises(checks.InputError, match=f"{feature} must be at least 0 and {message}"):
            record_sets.open_records(folder_of(tmp_path, batch, self.layout()), L, 6, VOCAB)

    def test_kinds_do_not_mix(self, tmp_path, batch):
        one = features.serialize_batch(tiny.features(length=L, predictions=6), features.Layout(L, 6))
        other = features.serialize_batch(
            {n: np.pad(x, [(0, 0), (0, 1)]) if n.startswith("next") else x for n, x in batch.items()},
            dataclasses.replace(self.layout(), max_sequences_per_pack=M + 1),
        )
        write(tmp_path / "a", features.serialize_batch(batch, self.layout()))
        write(tmp_path / "b", one)
        with pytest.raises(checks.InputError, match=r"same feature names.*record 0 of .*/b"):
            record_sets.open_records(str(tmp_path / "*"), L, 6)
        write(tmp_path / "b", other)
        with pytest.raises(checks.InputError, match=r"next_sentence_positions must hold 3 values; got 4 .*/b"):
            record_sets.open_records(str(tmp_path / "*"), L, 6)

    def test_rows_of_one_example_can_be_given_in_that_form(self, tmp_path):
        batch = tiny.features(length=L, predictions=6)
        records = record_sets.open_records(folder_of(tmp_path, batch, features.Layout(L, 6)), L, 6)
        assert not records.packed
        (found,) = input_pipeline.eval_dataset(dataclasses.replace(records, packed=True), 4).as_numpy_iterator()
        del found["example_weights"]
        more = {"position_ids": np.tile(np.arange(L), (4, 1)), "next_sentence_positions": np.zeros((4, 1))}
        assert_equal(found, {**batch, **more})


class TestSentenceObjectives:
    def open(self, folder, objective):
        batch = tiny.features(length=L, predictions=P)
        about = {} if objective is None else {"sentence_objective": objective}
        return record_sets.open_records(folder_of(folder, batch, layout_of(False, True), about), L, P, VOCAB)

    @pytest.mark.slow
    @pytest.mark.parametrize("objective", [None, "nsp", "sop", "none"])
    def test_labels_that_tell_nothing_are_left_out(self, tmp_path, objective):
        records = self.open(tmp_path, objective)
        assert records.sentence_objective == (objective or "nsp")
        (batch,) = elements(records, 1, batch_size=2)
        assert ("next_sentence_labels" in batch) == (objective != "none")

    @pytest.mark.slow
    def test_packed_rows_without_sentences(self, tmp_path):
        batch = unmasked(packed=True)
        pattern = folder_of(tmp_path, batch, layout_of(True), {**ABOUT, "sentence_objective": "none"})
        (found,) = elements(record_sets.open_records(pattern, L, P, VOCAB), 1)
        assert found.keys() & {"next_sentence_labels", "next_sentence_weights"} == set()
        assert "next_sentence_positions" in found  # an input of the model

    def test_two_objectives_are_refused(self, tmp_path):
        for name in ("nsp", "sop"):
            self.open(tmp_path / name, name)
        with pytest.raises(checks.InputError, match="one sentence_objective; got sentence_objective nsp, sop"):
            record_sets.open_records(str(tmp_path / "*" / "train*"), L, P)
