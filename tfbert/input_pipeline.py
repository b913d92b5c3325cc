"""Records -> batches: which record is trained on when, as a pure function of (records, seed, step).

The order of training is one endless row of records, epoch after epoch. In epoch e the files are permuted,
up to 16 of them are read by turns, and that stream is cut into blocks of `shuffle_buffer_size` records, each
of which is permuted. The permutations are stateless, keyed by (seed, e) and (seed, e, block). So nothing
needs to be saved to resume: global step s takes the records [s G, (s + 1) G) of that row, and whole blocks
before them are skipped at the speed of reading record headers. Blocks take the place of
`tf.data.Dataset.shuffle`, whose order hangs on `tf.random.set_seed` and which must be fed every record
that is to be skipped.

Unmasked records are masked after parsing, each row by a seed of (run, its place in that endless row): anew in
every epoch, and the same however a step is cut and wherever a run goes on.
"""

import functools

import tensorflow as tf

from tfbert import checks, record_sets, tfrecords
from tfbert.text import masking

FILES_AT_ONCE = 16
_ALG = "philox"  # named, so that the order does not hang on the device that TensorFlow would choose by


def _epoch(records, seed, epoch, start, block_size):
    """One epoch from its record `start` on, as a dataset of blocks: string [up to block_size]."""
    fold = functools.partial(tf.random.fold_in, alg=_ALG)
    epoch_seed = fold(tf.constant([seed, 0], tf.int64), epoch)
    files = tf.random.experimental.stateless_shuffle(tf.constant(records.files), fold(epoch_seed, 0), alg=_ALG)
    # One thread: skipping by headers is five times as fast so, and the order is plain.
    raw = tf.data.Dataset.from_tensor_slices(files).interleave(
        tfrecords.reader(records.runs), cycle_length=min(FILES_AT_ONCE, len(records.files)), num_parallel_calls=None
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


def _batch_of(records, seed=0):
    """The function (number, serialized [B]) -> the features of a batch.

    Args:
        records: The `RecordSet`.
        seed: The run's, for masks.

    Returns:
        A function; `number` int64 counts batches of B records from the first of the endless row.
    """
    parse, layout = record_sets.parser(records), records.layout

    def batch_of(number, serialized):
        batch = parse(serialized)
        if records.masking:
            size = tf.shape(serialized, tf.int64)[0]
            seeds = masking.row_seeds(seed, number * size + tf.range(size))
            inputs = batch["input_ids"], batch["input_mask"], records.vocab
            budget = *records.masking, layout.max_predictions_per_seq
            batch |= masking.mask(*inputs, *budget, seeds, batch.pop("word_starts"))
        if records.sentence_objective == record_sets.NO_SENTENCES:
            batch = {n: x for n, x in batch.items() if n not in ("next_sentence_labels", "next_sentence_weights")}
        if records.packed and not layout.max_sequences_per_pack:
            batch["position_ids"] = tf.zeros_like(batch["input_ids"]) + tf.range(layout.max_seq_length)
            batch["next_sentence_positions"] = tf.zeros_like(batch["input_ids"][:, :1])
        return batch

    return batch_of


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
        records: Of `record_sets.open_records`.
        global_batch_size: Records of one step, G; a multiple of micro_batches times replicas.
        micro_batches: Parts of a step whose gradients are accumulated.
        seed: int, of the order and of the masks of unmasked records.
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
    per_pipeline = per_replica * replicas_per_pipeline
    dataset = dataset.prefetch(1).rebatch(per_pipeline, drop_remainder=True)
    dataset = dataset.enumerate(start_step * global_batch_size // per_pipeline)
    dataset = dataset.shard(num_pipelines, pipeline_index)
    dataset = dataset.map(_batch_of(records, seed), num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
    if replicas_per_pipeline > 1:
        dataset = dataset.rebatch(per_replica, drop_remainder=True)
    return dataset.prefetch(2 * replicas_per_pipeline)


def without(dataset, first, left_out, replicas_per_pipeline=1):
    """A training dataset without some of its parts.

    Args:
        dataset: Of `train_dataset`: of each part, as many elements as there are replicas.
        first: The part that it begins with.
        left_out: ((first part, parts), ...).
        replicas_per_pipeline: Replicas that this host feeds.

    Returns:
        A dataset of the same elements but those.
    """
    ahead = [(part, part + parts) for part, parts in left_out if part + parts > first]
    if not ahead:
        return dataset
    begins, ends = (tf.constant(bounds, tf.int64) for bounds in zip(*ahead))

    def is_wanted(number, _):
        part = first + number // replicas_per_pipeline
        return ~tf.reduce_any((begins <= part) & (part < ends))

    return dataset.enumerate().filter(is_wanted).map(lambda _, element: element)


def eval_dataset(records, batch_size, max_batches=None, num_pipelines=1, pipeline_index=0, replicas_per_pipeline=1):
    """Every record once, in the order of the files.

    Args:
        records: Of `record_sets.open_records`; masked ones, since an evaluation is of the same masks each time.
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
        InputError: the batch cannot be divided, or the records are not masked.
    """
    checks.require(
        records.layout.masked,
        "records to evaluate on must be masked, so that every evaluation asks the same",
        "unmasked records",
        records.files[0],
        "Make them with --masking=static; held-out records of data_prep always are",
    )
    per_replica = _per_replica(batch_size, 1, num_pipelines, replicas_per_pipeline)
    per_pipeline = per_replica * replicas_per_pipeline
    batch_of = _batch_of(records)

    def parse_and_fill(serialized):
        parsed = batch_of(0, serialized)
        parsed["example_weights"] = tf.ones(tf.shape(serialized), tf.float32)
        missing = batch_size - tf.shape(serialized)[0]
        rows = slice(pipeline_index * per_pipeline, (pipeline_index + 1) * per_pipeline)
        filled = {}
        for name, value in parsed.items():
            value = tf.pad(value, [[0, missing]] + [[0, 0]] * (value.shape.rank - 1))
            filled[name] = tf.ensure_shape(value, [batch_size, *value.shape[1:]])[rows]
        return filled

    dataset = tf.data.Dataset.from_tensor_slices(list(records.files)).flat_map(tfrecords.reader(records.runs))
    dataset = dataset.apply(tf.data.experimental.assert_cardinality(records.total))
    dataset = dataset.batch(batch_size)
    if max_batches is not None:
        dataset = dataset.take(max_batches)
    dataset = dataset.map(parse_and_fill, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
    if replicas_per_pipeline > 1:
        dataset = dataset.rebatch(per_replica, drop_remainder=True)
    return dataset.prefetch(2 * replicas_per_pipeline)
