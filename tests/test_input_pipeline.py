"""Tests of tfbert.input_pipeline and record_sets: who is trained on when, and what is refused."""

import collections
import gzip
import itertools
import json
import os
import pathlib
import re

import numpy as np
import pytest
import tensorflow as tf

from tfbert import checks, features, input_pipeline, record_sets, tfrecords
from tfbert.text import vocab

L, P, V = 7, 3, 97
VOCAB = vocab.Vocab((*vocab.SPECIAL_TOKENS, *(f"w{i}" for i in range(V - 5))))
LAYOUT = features.Layout(L, P)
OTHER = vocab.Vocab(VOCAB.tokens, do_lower_case=False)


def batch(numbers):
    """Examples that carry their number in two places."""
    numbers = np.asarray(numbers)
    rows = np.tile(np.arange(L), (len(numbers), 1))
    rows[:, 0] = numbers
    positions = np.tile(np.arange(P), (len(numbers), 1))
    return {
        "input_ids": rows,
        "input_mask": np.ones_like(rows),
        "segment_ids": np.zeros_like(rows),
        "masked_lm_positions": positions,
        "masked_lm_ids": positions + numbers[:, None],
        "masked_lm_weights": np.full((len(numbers), P), 0.5),
        "next_sentence_labels": numbers[:, None] % 2,
    }


def write(path, serialized):
    with tf.io.TFRecordWriter(str(path)) as writer:
        for s in serialized:
            writer.write(s)


def write_set(folder, sizes, about=None):
    """Files of `sizes` examples, numbered through; returns the glob."""
    number = 0
    for i, size in enumerate(sizes):
        write(folder / f"train-{i:05d}.tfrecord", features.serialize_batch(batch(range(number, number + size)), LAYOUT))
        number += size
    if about is not None:
        (folder / "records.json").write_text(json.dumps(about))
    return str(folder / "train-*.tfrecord")


@pytest.fixture(scope="module")
def records(tmp_path_factory):
    """23 instances in 3 files of different sizes, one of them empty besides."""
    pattern = write_set(tmp_path_factory.mktemp("records"), (11, 0, 5, 7))
    return record_sets.open_records(pattern, L, P, VOCAB)


N = 23


def numbers(dataset, count):
    """The numbers of the first `count` elements, a list each."""
    found = []
    for element in itertools.islice(dataset.as_numpy_iterator(), count):
        np.testing.assert_array_equal(element["input_ids"][:, 0], element["masked_lm_ids"][:, 0])
        found.append(element["input_ids"][:, 0].tolist())
    return found


def stream(records, steps, batch_size=1, seed=5, start=0, block=6, **kwargs):
    """The numbers in the order of training."""
    dataset = input_pipeline.train_dataset(records, batch_size, 1, seed, start, block, **kwargs)
    return list(itertools.chain.from_iterable(numbers(dataset, steps)))


class TestOrder:
    @pytest.mark.slow
    @pytest.mark.parametrize("block", [1, 6, N, 1000])
    def test_every_epoch_has_every_record_once_and_its_own_order(self, records, block):
        row = stream(records, 3 * N, block=block)
        epochs = [row[i : i + N] for i in range(0, 3 * N, N)]
        assert [sorted(e) for e in epochs] == [list(range(N))] * 3
        assert len({tuple(e) for e in epochs}) == 3
        assert list(range(N)) not in epochs

    @pytest.mark.slow
    def test_is_a_function_of_the_seed_alone(self, records):
        row = stream(records, 2 * N)
        tf.random.set_seed(3)
        assert stream(records, 2 * N) == row
        assert stream(records, 2 * N, seed=6) != row
        assert stream(records, 2 * N, seed=2**40) != row

    def test_records_travel_no_further_than_blocks_when_files_are_one(self, tmp_path):
        one = record_sets.open_records(write_set(tmp_path, (20,)), L, P)
        row = stream(one, 20, block=8)
        assert [sorted(row[:8]), sorted(row[8:16]), sorted(row[16:])] == [
            list(range(8)),
            list(range(8, 16)),
            list(range(16, 20)),
        ]

    def test_reads_files_by_turns(self, tmp_path):
        many = record_sets.open_records(write_set(tmp_path, [2] * 20), L, P)
        row = stream(many, 40, block=1)
        files = [n // 2 for n in row]
        assert len(set(files[:16])) == 16 and files[:16] == files[16:32]
        assert sorted(files[32:36]) == sorted(set(range(20)) - set(files[:32]))

    @pytest.mark.slow
    def test_shuffles_uniformly_when_the_block_holds_all(self, tmp_path):
        # 400 epochs of 4 records: each of 24 orders 16.7 times; the bound is chi-squared's 1 in 10^6.
        few = record_sets.open_records(write_set(tmp_path, (4,)), L, P)
        row = stream(few, 400, batch_size=4, block=4)
        counts = collections.Counter(tuple(row[i : i + 4]) for i in range(0, 1600, 4))
        assert len(counts) == 24
        assert sum((c - 400 / 24) ** 2 / (400 / 24) for c in counts.values()) < 68.2


class TestResume:
    # 7 steps of 3 are an epoch but for 2 records: step 7 holds both sides of the border. A step of 29 is
    # longer than an epoch.
    @pytest.mark.slow
    @pytest.mark.parametrize("batch_size, block", [(3, 1), (3, 4), (3, 1000), (29, 4)])
    def test_goes_on_as_if_never_stopped(self, records, batch_size, block):
        whole = numbers(input_pipeline.train_dataset(records, batch_size, 1, 5, 0, block), 20)
        for start in (1, 7, 8, 16):
            resumed = numbers(input_pipeline.train_dataset(records, batch_size, 1, 5, start, block), 20 - start)
            assert resumed == whole[start:], start

    @pytest.mark.slow
    @pytest.mark.parametrize("micro_batches, pipelines, replicas", [(3, 1, 2), (2, 2, 2)])
    def test_parts_of_a_step_resume_too(self, records, micro_batches, pipelines, replicas):
        per_step, steps, start = micro_batches * replicas, 5, 3
        for pipeline in range(pipelines):
            args = (6, pipelines, pipeline, replicas)
            whole = numbers(input_pipeline.train_dataset(records, 24, micro_batches, 5, 0, *args), steps * per_step)
            rest = (steps - start) * per_step
            resumed = numbers(input_pipeline.train_dataset(records, 24, micro_batches, 5, start, *args), rest)
            assert resumed == whole[start * per_step :]

    @pytest.mark.slow
    def test_far_from_the_start(self, records):
        row = stream(records, 2 * N, start=10**12 * N)
        assert sorted(row[:N]) == list(range(N))
        assert stream(records, N, start=10**12 * N + N) == row[N:]

    @pytest.mark.slow
    def test_what_is_skipped_is_not_parsed(self, tmp_path):
        good = features.serialize_batch(batch(range(20)), LAYOUT)
        write(tmp_path / "a.tfrecord", [*good[:9], b"no example at all", *good[10:]])
        spoilt = record_sets.open_records(str(tmp_path / "a.tfrecord"), L, P)
        assert stream(spoilt, 10, start=10, block=1) == list(range(10, 20))
        with pytest.raises(checks.InputError, match="same features"), record_sets.clear_errors(spoilt):
            stream(spoilt, 10, start=9, block=1)


class TestParts:
    @pytest.mark.slow
    @pytest.mark.parametrize("micro_batches, pipelines, replicas", [(2, 1, 1), (1, 1, 3), (1, 2, 1), (2, 2, 3)])
    def test_a_step_is_the_same_records_in_the_same_order_however_it_is_cut(
        self, records, micro_batches, pipelines, replicas
    ):
        steps, size = 6, 12
        row = stream(records, steps, batch_size=size)
        parts = [
            numbers(
                input_pipeline.train_dataset(records, size, micro_batches, 5, 0, 6, pipelines, p, replicas),
                steps * micro_batches * replicas,
            )
            for p in range(pipelines)
        ]
        # [pipeline, step, micro-batch, replica, record] -> [step, micro-batch, pipeline, replica, record]
        cut = np.reshape(parts, (pipelines, steps, micro_batches, replicas, -1)).transpose(1, 2, 0, 3, 4)
        assert cut.reshape(-1).tolist() == row

    def test_refuses_what_cannot_be_divided(self, records):
        with pytest.raises(checks.InputError, match="batch size 10, 2 micro-batches, 2 replicas"):
            input_pipeline.train_dataset(records, 10, 2, 5, 0, 6, replicas_per_pipeline=2)

    def test_shapes_are_static(self, records):
        for dataset in (
            input_pipeline.train_dataset(records, 12, 2, 5, 0, 6, replicas_per_pipeline=2),
            input_pipeline.eval_dataset(records, 6, replicas_per_pipeline=2),
        ):
            spec = dataset.element_spec
            assert spec["input_ids"] == tf.TensorSpec((3, L), tf.int32)
            assert spec["masked_lm_weights"] == tf.TensorSpec((3, P), tf.float32)
            assert spec["next_sentence_labels"] == tf.TensorSpec((3, 1), tf.int32)


class TestEvaluation:
    @pytest.mark.parametrize("pipelines, replicas", [(1, 1), (1, 2), (2, 1), (2, 2)])
    def test_has_every_record_once_in_order_and_zeros_after(self, records, pipelines, replicas):
        parts = [
            list(input_pipeline.eval_dataset(records, 8, None, pipelines, p, replicas).as_numpy_iterator())
            for p in range(pipelines)
        ]
        assert {len(p) for p in parts} == {3 * replicas}
        merged = {}
        for name in parts[0][0]:
            values = np.array([[e[name] for e in p] for p in parts])  # [pipeline, batch * replica, ...]
            values = values.reshape(pipelines, 3, -1, *values.shape[3:]).swapaxes(0, 1)
            merged[name] = values.reshape(24, *values.shape[3:])
        assert merged["input_ids"][:, 0].tolist() == [*range(N), 0]
        assert merged["example_weights"].tolist() == [1.0] * N + [0.0]
        assert not any(merged[name][-1].any() for name in merged)
        for name, want in batch(range(N)).items():
            np.testing.assert_array_equal(merged[name][:N], want)

    def test_is_cut_at_max_batches(self, records):
        elements = list(input_pipeline.eval_dataset(records, 4, max_batches=2).as_numpy_iterator())
        assert [e["input_ids"][:, 0].tolist() for e in elements] == [[0, 1, 2, 3], [4, 5, 6, 7]]
        assert len(list(input_pipeline.eval_dataset(records, 4, max_batches=99))) == 6

    def test_batch_larger_than_the_set(self, records):
        (element,) = input_pipeline.eval_dataset(records, 40).as_numpy_iterator()
        assert element["input_ids"].shape == (40, L) and element["example_weights"].sum() == N


class TestForeignRecords:
    def example(self, number, kind):
        """As Google's and the Model Garden's scripts write one: through the message classes."""
        values = {k: v[0] for k, v in batch([number]).items()}
        example = tf.train.Example()
        for f in features.PRETRAINING:
            feature = example.features.feature[getattr(f, kind) or f.name]
            if f.dtype == "float32":
                feature.float_list.value.extend(values[f.name])
            else:
                feature.int64_list.value.extend(values[f.name].tolist())
        return example.SerializeToString()

    @pytest.mark.parametrize("kind", ["name", "garden_name"])
    def test_train_as_they_are(self, tmp_path, kind):
        write(tmp_path / "tf_examples.tfrecord", [self.example(i, kind) for i in range(5)])
        records = record_sets.open_records([str(tmp_path / "*.tfrecord")], L, P, VOCAB)
        assert records.counts == (5,) and records.about is None and records.tokenizer_digest is None
        assert sorted(stream(records, 5)) == list(range(5))
        (element,) = input_pipeline.eval_dataset(records, 5).as_numpy_iterator()
        for name, want in batch(range(5)).items():
            np.testing.assert_array_equal(element[name], want)

    def test_the_two_kinds_do_not_mix(self, tmp_path):
        write(tmp_path / "a.tfrecord", [self.example(0, "name")])
        write(tmp_path / "b.tfrecord", [self.example(0, "garden_name")])
        with pytest.raises(checks.InputError, match=r"same feature names.*b\.tfrecord"):
            record_sets.open_records(str(tmp_path / "*"), L, P)


class TestOpen:
    def test_takes_globs_and_lists_of_them(self, tmp_path):
        write_set(tmp_path, (2, 3))
        a, b = (str(tmp_path / f"train-0000{i}.tfrecord") for i in (0, 1))
        for patterns in (str(tmp_path / "train*"), f"{b},{a}", [b, a], (a, str(tmp_path / "*1.tfrecord"), b)):
            records = record_sets.open_records(patterns, L, P)
            assert (records.files, records.counts, records.total) == ((a, b), (2, 3), 5)

    def test_counts_by_records_json_where_it_knows(self, tmp_path):
        about = {"tokenizer_digest": VOCAB.digest, "files": {"train-00000.tfrecord": 2}}
        records = record_sets.open_records(write_set(tmp_path, (2, 3), about), L, P, VOCAB)
        assert records.counts == (2, 3) and records.about == about and records.tokenizer_digest == VOCAB.digest

    @pytest.mark.parametrize("size", [0, 1, 300, 2000])
    def test_counts_in_chunks_of_any_size(self, tmp_path, monkeypatch, size):
        write(tmp_path / "a", [b"x" * n for n in (0, size, 1, 3 * size, 700)])
        monkeypatch.setattr(tfrecords, "CHUNK", 512)
        assert tfrecords.count(str(tmp_path / "a")) == 5

    @pytest.mark.parametrize(
        "length, predictions, message",
        [
            (8, P, r"max_seq_length=8, and 7 values of input_ids \(at record 0 of .*train-00000.*--max_seq_length=7"),
            (L, 4, r"max_predictions_per_seq=4, and 3 values .*--max_predictions_per_seq=3"),
        ],
    )
    def test_refuses_other_lengths(self, tmp_path, length, predictions, message):
        with pytest.raises(checks.InputError, match=message):
            record_sets.open_records(write_set(tmp_path, (2,)), length, predictions)

    def test_refuses_records_of_another_tokenizer(self, tmp_path):
        pattern = write_set(tmp_path, (2,), {"tokenizer_digest": VOCAB.digest})
        message = f"tokenizer {VOCAB.digest[:12]} in the records, {OTHER.digest[:12]} in the run.*records.json"
        with pytest.raises(checks.InputError, match=message):
            record_sets.open_records(pattern, L, P, OTHER)

    def test_refuses_records_of_two_tokenizers(self, tmp_path):
        for name, maker in (("a", VOCAB), ("b", OTHER)):
            (tmp_path / name).mkdir()
            write_set(tmp_path / name, (2,), {"tokenizer_digest": maker.digest})
        with pytest.raises(checks.InputError, match="made with one tokenizer"):
            record_sets.open_records(str(tmp_path / "*" / "train*"), L, P)

    @pytest.mark.parametrize(
        "feature, value, message",
        [
            ("input_ids", V, "input_ids must be at least 0 and less than 97 .vocab_size.; got 97"),
            ("masked_lm_ids", 30521, "masked_lm_ids must .* 97 .vocab_size.; got 30521"),
            ("masked_lm_positions", L, "masked_lm_positions must .* 7 .max_seq_length.; got 7"),
            ("segment_ids", 2, "segment_ids must .*; got 2"),
            ("next_sentence_labels", 3, "next_sentence_labels must .*; got 3"),
        ],
    )
    def test_refuses_numbers_out_of_range_at_once_and_later(self, tmp_path, feature, value, message):
        bad = batch(range(3))
        bad[feature][1, -1] = value
        good = features.serialize_batch(batch(range(record_sets.LOOK_AT)), LAYOUT)
        write(tmp_path / "first", features.serialize_batch(bad, LAYOUT))
        write(tmp_path / "later", good + features.serialize_batch(bad, LAYOUT))
        with pytest.raises(checks.InputError, match=f"{message}.*first"):
            record_sets.open_records(str(tmp_path / "first"), L, P, VOCAB)
        records = record_sets.open_records(str(tmp_path / "later"), L, P, VOCAB)
        dataset = input_pipeline.eval_dataset(records, 1)
        if feature == "input_ids":
            dataset = input_pipeline.train_dataset(records, 1, 1, 0, 0, 1)
        with pytest.raises(checks.InputError, match=f"{message}.*later"), record_sets.clear_errors(records):
            numbers(dataset, 11)

    def test_refuses_negative_ids(self, tmp_path):
        example = tf.train.Example.FromString(features.serialize_batch(batch([1]), LAYOUT)[0])
        example.features.feature["input_ids"].int64_list.value[2] = -4
        write(tmp_path / "a", [example.SerializeToString()])
        with pytest.raises(checks.InputError, match=r"input_ids must be at least 0.*got -4"):
            record_sets.open_records(str(tmp_path / "a"), L, P, VOCAB)

    def test_refuses_patterns_that_match_no_files(self, tmp_path):
        for pattern, message in (
            (str(tmp_path / "x*"), r"x\*.*matches nothing.*create_pretraining_data"),
            ("", "must not be empty"),
            (str(tmp_path), r"a folder.*train-\*\.tfrecord"),
        ):
            with pytest.raises(checks.InputError, match=message):
                record_sets.open_records(pattern, L, P)

    def test_refuses_what_holds_no_instance(self, tmp_path):
        with pytest.raises(checks.InputError, match="at least one instance; got none in 2 files"):
            record_sets.open_records(write_set(tmp_path, (0, 0)), L, P)

    @pytest.mark.parametrize("content", [b"text, and no records at all", gzip.compress(b"records", mtime=0), b"?"])
    @pytest.mark.parametrize("counted", [False, True])
    def test_refuses_other_files(self, tmp_path, content, counted):
        (tmp_path / "a").write_bytes(content)
        if counted:
            (tmp_path / "records.json").write_text(json.dumps({"files": {"a": 3}}))
        damage = r"record 0, counted from 0, of .*/a\)"
        with pytest.raises(checks.InputError, match=damage):
            record_sets.open_records(str(tmp_path / "a"), L, P)

    def test_refuses_another_count_than_records_json_states(self, tmp_path):
        for stated in (1, 3):
            pattern = write_set(tmp_path, (2,), {"files": {"train-00000.tfrecord": stated}})
            with pytest.raises(checks.InputError, match=f"as many instances.*got 2, not {stated} .at .*train-00000"):
                record_sets.open_records(pattern, L, P)

    def test_refuses_other_messages(self, tmp_path):
        write(tmp_path / "a", [b"\xff\xff\xff\xff"])
        with pytest.raises(checks.InputError, match=r"must be tf.train.Examples.*record 0 of .*/a"):
            record_sets.open_records(str(tmp_path / "a"), L, P)
        write(tmp_path / "a", [tf.train.Example().SerializeToString()])
        with pytest.raises(checks.InputError, match=r"seven features.*record 0 of .*/a"):
            record_sets.open_records(str(tmp_path / "a"), L, P)

    def test_refuses_a_records_json_that_is_none(self, tmp_path):
        pattern = write_set(tmp_path, (2,))
        (tmp_path / "records.json").write_text("{")
        with pytest.raises(checks.InputError, match=r"records.json must hold JSON"):
            record_sets.open_records(pattern, L, P)


class TestDamage:
    """Files that change or break after `open_records`, or where nobody looked."""

    def spoil(self, folder, change):
        pattern = write_set(folder, (3, 30), {"files": {"train-00000.tfrecord": 3, "train-00001.tfrecord": 30}})
        records = record_sets.open_records(pattern, L, P, VOCAB)
        file = pathlib.Path(records.files[1])
        file.write_bytes(change(bytearray(file.read_bytes())))
        return records

    def read(self, records, dataset):
        with record_sets.clear_errors(records):
            for _ in itertools.islice(dataset, 40):
                pass

    @pytest.mark.slow
    def test_names_file_and_record(self, tmp_path):
        def flip(data):
            data[20 * (len(data) // 30) + 60] ^= 255  # records are of one size: in record 20
            return data

        for change, number in ((flip, 20), (lambda d: d[: -(len(d) // 60)], 29)):
            records = self.spoil(tmp_path, change)
            message = f"must be whole.*record {number}, counted from 0, of {re.escape(records.files[1])}"
            for dataset in (
                input_pipeline.train_dataset(records, 1, 1, 0, 0, 1000),
                input_pipeline.eval_dataset(records, 1),
            ):
                with pytest.raises(checks.InputError, match=message):
                    self.read(records, dataset)
        with pytest.raises(checks.InputError, match=message):
            tfrecords.count(records.files[1])

    def test_a_header_cut_short_is_no_end(self, tmp_path):
        # TensorFlow alone takes this for the end of the file.
        write(tmp_path / "a", [b"x" * 50] * 3)
        os.truncate(tmp_path / "a", 2 * 66 + 5)
        assert len(list(tf.data.TFRecordDataset(str(tmp_path / "a")))) == 2
        with pytest.raises(checks.InputError, match=r"ends within its header \(at record 2, counted from 0"):
            tfrecords.count(str(tmp_path / "a"))

    @pytest.mark.slow
    @pytest.mark.parametrize("keep", [29, 31])
    def test_other_counts_than_stated(self, tmp_path, keep):
        records = self.spoil(tmp_path, lambda data: (data + data)[: keep * len(data) // 30])
        message = f"as many instances.*got {keep}, not 30.*train-00001"
        for dataset in (
            input_pipeline.train_dataset(records, 1, 1, 0, 0, 4),
            input_pipeline.train_dataset(records, 1, 1, 0, 9, 4),
            input_pipeline.eval_dataset(records, 1),
        ):
            with pytest.raises(checks.InputError, match=message):
                self.read(records, dataset)

    def test_other_errors_pass_through(self, records):
        with pytest.raises(tf.errors.InvalidArgumentError, match="mine"), record_sets.clear_errors(records):
            tf.debugging.Assert(False, ["mine"])
        with pytest.raises(tf.errors.DataLossError), record_sets.clear_errors(records):
            raise tf.errors.DataLossError(None, None, "of a checkpoint")


class TestSkipCorruptRecords:
    COUNT = 30  # records of one size

    def damaged(self, folder, change, about=None):
        """Opens 30 records whose file was changed, with 5 good ones in another file."""
        pattern = write_set(folder, (self.COUNT, 5), about)
        path = folder / "train-00000.tfrecord"
        data = bytearray(path.read_bytes())
        path.write_bytes(change(data, len(data) // self.COUNT))
        return record_sets.open_records(pattern, L, P, VOCAB, skip_corrupt_records=True)

    def flip(*places):
        """Flips a byte so many bytes behind the beginning of a record, for each (record, bytes)."""

        def change(data, size):
            for number, place in places:
                data[number * size + place] ^= 0x40
            return data

        return change

    @pytest.mark.slow
    @pytest.mark.parametrize(
        "change, lost, places",
        [
            (flip((20, 60)), [20], ["record 20 "]),
            (flip((20, 12), (21, -1)), [20], ["record 20 "]),
            (flip((20, 0)), [20], ["record 20 "]),  # its length
            (flip((20, 9)), [20], ["record 20 "]),  # the checksum of its length
            (flip((0, 1), (1, 60), (29, 60)), [0, 1, 29], ["record 0 ", "record 1 ", "record 29 "]),
            (lambda data, size: data[: 28 * size + 5], [28, 29], ["record 28 "]),
            (lambda data, size: data[: 28 * size + 40], [28, 29], ["record 28 "]),
            (lambda data, size: data[: 7 * size] + b"\0" * 99 + data[7 * size :], [], ["record 7 "]),
            (lambda data, size: data[: 3 * size] + data[3 * size + 9 :], [3], ["record 3 "]),
        ],
        ids=["content", "last byte", "length", "checksum", "three", "in a header", "in a record", "zeros", "shifted"],
    )
    def test_reads_all_others_once_an_epoch(self, tmp_path, change, lost, places):
        # What records.json says of the damaged file counts no longer.
        files = {"files": {"train-00000.tfrecord": self.COUNT, "train-00001.tfrecord": 5}}
        records = self.damaged(tmp_path, change, files)
        whole = sorted(set(range(self.COUNT + 5)) - set(lost))
        assert records.total == len(whole) and records.counts[1] == 5
        for text, place in zip(records.skipped, places, strict=True):
            assert text.startswith(f"{place}of train-00000.tfrecord, bytes ")
        row = stream(records, 2 * len(whole))
        assert [sorted(row[: len(whole)]), sorted(row[len(whole) :])] == [whole, whole]
        resumed = stream(records, len(whole), start=len(whole) - 3)
        assert resumed == row[len(whole) - 3 : -3]
        elements = input_pipeline.eval_dataset(records, len(whole)).as_numpy_iterator()
        assert next(elements)["input_ids"][:, 0].tolist() == whole
        assert record_sets.about(records)["skipped"] == list(records.skipped)

    def test_without_damage_nothing_is_other_than_without_the_flag(self, tmp_path):
        plain = record_sets.open_records(write_set(tmp_path, (9, 0, 5)), L, P, VOCAB)
        flagged = record_sets.open_records(str(tmp_path / "train-*"), L, P, VOCAB, skip_corrupt_records=True)
        assert flagged == plain and record_sets.about(flagged) == record_sets.about(plain)

    def test_refuses_files_in_which_nothing_is_whole(self, tmp_path):
        for change in (lambda *_: b"text, and no records at all", lambda *_: b"?", lambda data, size: data[: size - 1]):
            with pytest.raises(checks.InputError, match=r"must be whole.*record 0, counted from 0"):
                self.damaged(tmp_path, change)

    def test_checksums_are_those_of_the_format(self):
        # RFC 3720, B.4: 32 bytes of zeros, of ones, ascending, descending; the mask is TFRecord's.
        rows = np.uint8([np.zeros(32), np.full(32, 255), np.arange(32), np.arange(31, -1, -1)])
        plain = np.array([0x8A9136AA, 0x62A8AB43, 0x46DD794E, 0x113FDB5C], np.uint64)
        masked = ((plain >> np.uint64(15) | plain << np.uint64(17)) + np.uint64(0xA282EAD8)) & np.uint64(0xFFFFFFFF)
        assert tfrecords._masked_crc32c(rows).tolist() == masked.tolist()


@pytest.mark.slow
def test_parts_left_out_are_the_same_however_a_step_is_cut(records):
    left_out, row = ((3, 2), (9, 1)), stream(records, 20, batch_size=4)
    kept = [n for part in range(20) if part not in (3, 4, 9) for n in row[4 * part : 4 * part + 4]]
    for first, pipelines, replicas in ((0, 1, 1), (2, 1, 2), (5, 2, 1), (4, 2, 2), (10, 1, 4)):
        parts = []
        for pipeline in range(pipelines):
            args = (4, 1, 5, first, 6, pipelines, pipeline, replicas)
            dataset = input_pipeline.without(input_pipeline.train_dataset(records, *args), first, left_out, replicas)
            parts.append(numbers(dataset, 3 * replicas))
        cut = np.reshape(parts, (pipelines, 3, -1)).swapaxes(0, 1).reshape(-1).tolist()
        begin = 4 * (first - sum(part < first for part in (3, 4, 9)))
        assert cut == kept[begin : begin + 12], first
