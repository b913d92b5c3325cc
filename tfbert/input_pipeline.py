"""Records -> batches: which record is trained on when, as a pure function of (records, seed, step).

The order of training is one endless row of records, epoch after epoch. In epoch e the files are permuted,
up to 16 of them are read by turns, and that stream is cut into blocks of `shuffle_buffer_size` records, each
of which is permuted. The permutations are stateless, keyed by (seed, e) and (seed, e, block). So nothing
needs to be saved to resume: global step s takes the records [s G, (s + 1) G) of that row, and whole blocks
before them are skipped at the speed of reading record headers. Blocks take the place of
`tf.data.Dataset.shuffle`, whose order hangs on `tf.random.set_seed` and which must be fed every record
that is to be skipped.
"""

import contextlib
import dataclasses
import functools
import json
import math
import os
import re

import tensorflow as tf
from google.protobuf import message

from tfbert import checks, features, tfrecords

FILES_AT_ONCE = 16
LOOK_AT = 8  # records of each file that are read before the first step
RECORDS_JSON = "records.json"
_ALG = "philox"  # named, so that the order does not hang on the device that TensorFlow would choose by


@dataclasses.dataclass(frozen=True)
class RecordSet:
    """Files of records that agree with one another and with the run; `open_records` makes it.

    Attributes:
        files: Paths, sorted.
        counts: Instances in each file.
        names: {our name of a feature: its name on disk}.
        max_seq_length: L.
        max_predictions_per_seq: P.
        vocab_size: Ids must lie below it; None if no vocabulary was given.
        tokenizer_digest: Of the vocabulary that made the records, where `records.json` states it.
        about: The `records.json` beside the files; None if there is none or more than one.
    """

    files: tuple
    counts: tuple
    names: dict
    max_seq_length: int
    max_predictions_per_seq: int
    vocab_size: int | None = None
    tokenizer_digest: str | None = None
    about: dict | None = None

    @property
    def total(self):
        """Instances in all files."""
        return sum(self.counts)


def open_records(patterns, max_seq_length, max_predictions_per_seq, vocab=None):
    """Finds records and checks, before the first step, that a run can train on them.

    Google's and the Model Garden's records are taken as they are. The first records of every file are
    looked at; ids further on are checked as they are read.

    Args:
        patterns: Globs: a sequence of them, or one string with commas between them.
        max_seq_length: L.
        max_predictions_per_seq: P.
        vocab: The run's `Vocab`; None leaves ids and digest unchecked.

    Returns:
        A `RecordSet`.

    Raises:
        InputError: a glob matches nothing, a file is no TFRecord file or is damaged, features are
            missing, lengths disagree, another tokenizer made the records, ids lie beyond the vocabulary.
    """
    files = tfrecords.find(patterns)
    folders = {folder: _read_about(folder) for folder in sorted({os.path.dirname(f) for f in files})}
    stated = {folder: about for folder, about in folders.items() if about is not None}
    for folder, about in stated.items():
        _check_digest(about.get("tokenizer_digest"), vocab, os.path.join(folder, RECORDS_JSON))
    digests = {about.get("tokenizer_digest") for about in stated.values()} - {None}
    checks.require(
        len(digests) < 2,
        "all records must be made with one tokenizer",
        f"digests {', '.join(sorted(d[:12] for d in digests))}",
        ", ".join(stated),
    )
    counts = []
    for file in files:
        count = (folders[os.path.dirname(file)] or {}).get("files", {}).get(os.path.basename(file))
        counts.append(tfrecords.count(file) if count is None else count)
    checks.require(sum(counts), "records must hold at least one instance", f"none in {len(files)} files", files[0])
    records = RecordSet(
        files=tuple(files),
        counts=tuple(counts),
        names={},
        max_seq_length=max_seq_length,
        max_predictions_per_seq=max_predictions_per_seq,
        vocab_size=None if vocab is None else len(vocab),
        tokenizer_digest=next(iter(digests), None),
        about=next(iter(stated.values())) if len(stated) == 1 else None,
    )
    for file, count in zip(files, counts):
        records = dataclasses.replace(records, names=_look_at(file, count, records))
    return records


def _read_about(folder):
    path = os.path.join(folder, RECORDS_JSON)
    if not tf.io.gfile.exists(path):
        return None
    try:
        with tf.io.gfile.GFile(path) as f:
            return json.loads(f.read())
    except ValueError as e:  # no JSON, or no UTF-8
        raise checks.error("records.json must hold JSON", str(e), path, "Make the records again") from e


def _check_digest(digest, vocab, where):
    checks.require(
        vocab is None or digest in (None, vocab.digest),
        "records must be made with the tokenizer of the run",
        f"tokenizer {str(digest)[:12]} in the records, {vocab and vocab.digest[:12]} in the run",
        where,
        "Pass the vocabulary that the records were made with, or make the records again with this one",
    )


def _look_at(file, count, records):
    """Checks the first records of a file; returns the names that its features have."""
    try:
        raw = list(tf.data.TFRecordDataset(file).take(LOOK_AT).as_numpy_iterator())
    except tf.errors.OpError as e:
        raise tfrecords.damage(file) or checks.error(
            "record files must be readable", tfrecords.first_line(e), file
        ) from e
    if len(raw) != min(LOOK_AT, count):
        raise tfrecords.miscounted(file, count)
    names = records.names
    for number, serialized in enumerate(raw):
        where = f"record {number} of {file}"
        try:
            lengths = features.stored_lengths(serialized)
        except message.DecodeError as e:
            raise checks.error("records must be tf.train.Examples", str(e), where) from e
        found = features.names_of(lengths, where)
        names = names or found
        checks.require(found == names, "all records must use the same feature names", found, where)
        _check_lengths(lengths, records, names, where)
    if raw:
        try:
            _parse(dataclasses.replace(records, names=names))(tf.constant(raw))
        except tf.errors.InvalidArgumentError as e:
            raise checks.error("records must be usable", _sentence(e) or tfrecords.first_line(e), file, _DO) from e
    return names


def _check_lengths(lengths, records, names, where):
    flags = {"L": "max_seq_length", "P": "max_predictions_per_seq"}
    for feature in features.PRETRAINING:
        want = math.prod(features.shape_of(feature, records.max_seq_length, records.max_predictions_per_seq))
        got, flag = lengths[names[feature.name]], flags.get(feature.shape[0])
        checks.require(
            got == want,
            f"{flag} must be what the records were made with" if flag else f"{feature.name} must hold one value",
            f"{flag}={want}, and {got} values of {feature.name}" if flag else f"{got} values",
            where,
            f"Pass --{flag}={got}, or make the records again" if flag else "Make the records again",
        )


_DO = "The records were made with another vocabulary or by another program"


def _parse(records):
    """The function serialized [B] -> {name: [B, ...]} that refuses numbers out of their range."""
    # Looked up in tables of the model, where a GPU answers zeros for what lies beyond.
    bounds = {
        "input_ids": (records.vocab_size, "vocab_size"),
        "masked_lm_ids": (records.vocab_size, "vocab_size"),
        "masked_lm_positions": (records.max_seq_length, "max_seq_length"),
        "input_mask": (2, "0 or 1"),
        "segment_ids": (2, "0 or 1"),
        "next_sentence_labels": (2, "0 or 1"),
    }
    bounds = {name: (bound, what) for name, (bound, what) in bounds.items() if bound}

    def parse(serialized):
        parsed = features.parse_batch(
            serialized, records.max_seq_length, records.max_predictions_per_seq, records.names
        )
        for name, (bound, what) in bounds.items():
            low, high = tf.reduce_min(parsed[name]), tf.reduce_max(parsed[name])
            worst = tf.where(low < 0, low, high)
            text = tf.strings.format(f"{name} must be at least 0 and less than {bound} ({what}); got {{}}", worst)
            tf.debugging.Assert((low >= 0) & (high < bound), [text])
        return parsed

    return parse


def _sentence(error):
    """The sentence of a failed check of `_parse`, or None."""
    found = re.search(r"\w+ must be at least 0 and less than .*?; got -?\d+", error.message)
    return found and found.group()


def _epoch(records, seed, epoch, start, block_size):
    """One epoch from its record `start` on, as a dataset of blocks: string [up to block_size]."""
    fold = functools.partial(tf.random.fold_in, alg=_ALG)
    epoch_seed = fold(tf.constant([seed, 0], tf.int64), epoch)
    files = tf.random.experimental.stateless_shuffle(tf.constant(records.files), fold(epoch_seed, 0), alg=_ALG)
    # One thread: skipping by headers is five times as fast so, and the order is plain.
    raw = tf.data.Dataset.from_tensor_slices(files).interleave(
        tf.data.TFRecordDataset, cycle_length=min(FILES_AT_ONCE, len(records.files)), num_parallel_calls=None
    )
    first = start // block_size
    raw = raw.skip(first * block_size)
    # `start` is reckoned from the counts: a file that holds other than its count must not pass.
    raw = raw.apply(tf.data.experimental.assert_cardinality(records.total - first * block_size))
    block_seed = fold(epoch_seed, 1)

    def permute(number, block):
        block = tf.random.experimental.stateless_shuffle(block, fold(block_seed, number), alg=_ALG)
        return block[tf.where(number == first, start % block_size, 0) :]

    return raw.batch(block_size).enumerate(first).map(permute)


def _per_replica(batch_size, micro_batches, num_pipelines, replicas_per_pipeline):
    parts = micro_batches * num_pipelines * replicas_per_pipeline
    checks.require(
        batch_size > 0 and batch_size % parts == 0,
        "the batch size must be a multiple of micro-batches times replicas",
        f"batch size {batch_size}, {micro_batches} micro-batches, {num_pipelines * replicas_per_pipeline} replicas",
    )
    return batch_size // parts


def train_dataset(
    records,
    global_batch_size,
    micro_batches,
    seed,
    start_step,
    shuffle_buffer_size,
    num_pipelines=1,
    pipeline_index=0,
    replicas_per_pipeline=1,
):
    """The endless stream of training batches from a step on.

    The records of a global step are cut into micro-batches, each of those into pipelines, and those into
    replicas. So one replica, several, and accumulation see the same records in each step.

    Args:
        records: Of `open_records`.
        global_batch_size: Records of one step, G; a multiple of micro_batches times replicas.
        micro_batches: Parts of a step whose gradients are accumulated.
        seed: int.
        start_step: The first step; 0, or that of the checkpoint.
        shuffle_buffer_size: Records of a block. Up to three blocks of serialized records are in memory.
        num_pipelines: Hosts that read.
        pipeline_index: This host.
        replicas_per_pipeline: Replicas that this host feeds.

    Returns:
        A dataset of {name: [G / micro_batches / replicas, ...]}; of a micro-batch, the elements for the
        replicas of this pipeline follow one another.

    Raises:
        InputError: the batch cannot be divided.
    """
    per_replica = _per_replica(global_batch_size, micro_batches, num_pipelines, replicas_per_pipeline)
    block_size = max(1, min(shuffle_buffer_size, records.total))
    first_epoch, start = divmod(start_step * global_batch_size, records.total)
    dataset = tf.data.Dataset.counter(first_epoch).flat_map(
        lambda epoch: _epoch(
            records, seed, epoch, tf.where(epoch == first_epoch, tf.constant(start, tf.int64), 0), block_size
        )
    )
    # The next block is read and permuted while this one is used up.
    dataset = dataset.prefetch(1).rebatch(per_replica * replicas_per_pipeline, drop_remainder=True)
    dataset = dataset.shard(num_pipelines, pipeline_index)
    dataset = dataset.map(_parse(records), num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
    if replicas_per_pipeline > 1:
        dataset = dataset.rebatch(per_replica, drop_remainder=True)
    return dataset.prefetch(2 * replicas_per_pipeline)


def eval_dataset(records, batch_size, max_batches=None, num_pipelines=1, pipeline_index=0, replicas_per_pipeline=1):
    """Every record once, in the order of the files.

    Args:
        records: Of `open_records`.
        batch_size: Records of a batch over all replicas; a multiple of their number.
        max_batches: Only that many batches; None for all.
        num_pipelines: Hosts that read.
        pipeline_index: This host.
        replicas_per_pipeline: Replicas that this host feeds.

    Returns:
        A dataset of {name: [batch_size / replicas, ...]} with `example_weights` float32 [batch_size /
        replicas]: 1, and 0 for the rows of zeros that fill the last batch. Every replica gets as many
        elements.

    Raises:
        InputError: the batch cannot be divided.
    """
    per_replica = _per_replica(batch_size, 1, num_pipelines, replicas_per_pipeline)
    per_pipeline = per_replica * replicas_per_pipeline
    parse = _parse(records)

    def parse_and_fill(serialized):
        parsed = parse(serialized)
        parsed["example_weights"] = tf.ones(tf.shape(serialized), tf.float32)
        missing = batch_size - tf.shape(serialized)[0]
        rows = slice(pipeline_index * per_pipeline, (pipeline_index + 1) * per_pipeline)
        filled = {}
        for name, value in parsed.items():
            value = tf.pad(value, [[0, missing]] + [[0, 0]] * (value.shape.rank - 1))
            filled[name] = tf.ensure_shape(value, [batch_size, *value.shape[1:]])[rows]
        return filled

    dataset = tf.data.TFRecordDataset(list(records.files))
    dataset = dataset.apply(tf.data.experimental.assert_cardinality(records.total))
    dataset = dataset.batch(batch_size)
    if max_batches is not None:
        dataset = dataset.take(max_batches)
    dataset = dataset.map(parse_and_fill, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
    if replicas_per_pipeline > 1:
        dataset = dataset.rebatch(per_replica, drop_remainder=True)
    return dataset.prefetch(2 * replicas_per_pipeline)


@contextlib.contextmanager
def clear_errors(records):
    """Within it, what tf.data finds wrong with the records becomes an `InputError` that names the file.

    tf.data tells neither the file nor the record, so the files are read again to find it. Errors that do
    not come from the records pass through as they are.
    """
    try:
        yield
    except (tf.errors.DataLossError, tf.errors.InvalidArgumentError, tf.errors.FailedPreconditionError) as e:
        raise _explain(e, records) or e from e


def _explain(error, records):
    if isinstance(error, tf.errors.DataLossError):
        return next(filter(None, map(tfrecords.damage, records.files)), None)
    if isinstance(error, tf.errors.FailedPreconditionError) and "was expected to contain" in error.message:
        return next(filter(None, map(tfrecords.miscounted, records.files, records.counts)), None)
    if isinstance(error, tf.errors.InvalidArgumentError):
        if sentence := _sentence(error):
            return checks.InputError(
                f"{sentence} (in one of {len(records.files)} files from {records.files[0]}). {_DO}."
            )
        if re.search("parse (serialized Example|example input)", error.message):
            where = f"one of {len(records.files)} files from {records.files[0]}"
            return checks.error("all records must have the same features", tfrecords.first_line(error), where, _DO)
    return None
