"""Rows in memory -> batches: which row is trained on when, as a pure function of (rows, seed, place).

The order of training is one endless row, epoch after epoch; in epoch e all rows are permuted by a stateless seed of
(seed, e). Part p of G rows takes the places [p G, (p + 1) G), so a run that goes on needs to know nothing but p. With
`by_length` the places are taken in pools of POOL parts: the rows of a pool are sorted by their lengths, cut into parts,
and the parts permuted by a seed of (seed, pool). A part is still a function of (rows, seed, p).

A batch is filled up to the first of some lengths that holds its longest row: see `tfbert.tasks.ladder`.
Rows that are chunks of long texts (`tfbert.layers.chunks`) are filled up to whole chunks.

Or it is not filled up: rows lie side by side in packs (`tfbert.layers.packs`), those of each replica in its own.
"""

import functools

import numpy as np
import tensorflow as tf

from tfbert import checks
from tfbert.layers import packs
from tfbert.tasks import packer

POOL = 50  # parts; larger pools have rows of more alike lengths, and an order that is less random
ROW = "row"  # the feature that says which row it is, in evaluation
_ALG = "philox"  # named, so that the order does not hang on the device that TensorFlow would choose by


def _fixed(values):
    """An array as what a step takes: int32 or float32."""
    return tf.constant(values, tf.int32 if np.issubdtype(values.dtype, np.integer) else tf.float32)


def _in_memory(rows):
    """(splits, {name: [T]}, {name: [R, ...]}) of a `task.Rows` as tensors."""
    # Tokens as they are in memory, which is less: a batch is made int32.
    tokens = {name: tf.constant(values) for name, values in rows.tokens.items()}
    return tf.constant(rows.splits), tokens, {name: _fixed(values) for name, values in rows.dense.items()}


def _taken(values, places):
    """int32 of the places of values [T]; 0 for places below 0."""
    return tf.where(places >= 0, tf.cast(tf.gather(values, tf.maximum(places, 0)), tf.int32), 0)


def _check_lengths(rows, longest):
    """Raises an `InputError` if a row is longer."""
    found = rows.lengths.max(initial=0)
    must = "rows must be at most as long as max_seq_length"
    checks.require(found <= longest, must, f"a row of {found} wordpieces, and max_seq_length={longest}")


def _packer(rows, shapes):
    """The function int64 [B] of row numbers -> features of a batch of packs.

    Args:
        rows: A `task.Rows`.
        shapes: A `packer.Shapes`.
    """
    _check_lengths(rows, shapes.width)
    splits, tokens, dense = _in_memory(rows)
    of_packs = ("input_ids", "segment_ids")  # what else has a value for each wordpiece is the objective's

    def lay_out(lengths):
        return packer.lay_out(lengths, shapes)

    def gather(numbers):
        begins = tf.gather(splits, numbers)
        lengths = tf.gather(splits, numbers + 1) - begins
        row, position, places = tf.numpy_function(lay_out, [lengths], [tf.int32] * 3, stateful=False)
        for x, count in ((row, None), (position, None), (places, numbers.shape[0])):
            x.set_shape([count, shapes.width])
        # Of a place in no row it is far below 0.
        begin_of = tf.concat([[tf.int64.min], begins], 0)
        flat = tf.gather(begin_of, row) + tf.cast(position, tf.int64)  # [N, P]
        columns = tf.range(shapes.width, dtype=tf.int64)
        in_rows = tf.where(places > 0, begins[:, tf.newaxis] + columns, -1)  # [B, P]
        return {
            **{name: _taken(x, flat if name in of_packs else in_rows) for name, x in tokens.items()},
            "input_mask": row,
            "position_ids": position,
            packs.ROW_PLACES: places,
            **{name: tf.gather(values, numbers) for name, values in dense.items()},
            "example_weights": tf.ones_like(numbers, tf.float32),
        }

    return gather


def _as_packs(features):
    """Rows that are filled up, each as a pack of its own."""
    mask = features["input_mask"]
    count, length = tf.unstack(tf.shape(mask))
    places = tf.reshape(tf.range(count * length), [count, length])
    return {**features, "position_ids": tf.zeros_like(mask) + tf.range(length), packs.ROW_PLACES: mask * (places + 1)}


def _gatherer(rows, lengths, repeats, host=0, per_host=None):
    """The function int64 [G] of row numbers of all hosts, -1 for none -> features of a batch of one of them.

    It is filled up to the longest of all G rows: dropout's masks go by the shape, so several hosts are as one.

    Args:
        rows: A `task.Rows`.
        lengths: What batches may be filled up to, ascending; one alone makes all batches of one shape.
        repeats: Whether "row" is left out, since rows come again and again.
        host: Which of them this is.
        per_host: How many of the G rows a host has, B; all by default.
    """
    mine = slice(None) if per_host is None else slice(host * per_host, (host + 1) * per_host)
    _check_lengths(rows, lengths[-1])
    fixed = None if len(lengths) > 1 else lengths[0]
    ladder = tf.constant(lengths, tf.int64)
    splits, tokens, dense = _in_memory(rows)

    def gather(numbers):
        real = numbers >= 0
        chosen = tf.maximum(numbers, 0)
        begins = tf.gather(splits, chosen)
        own = tf.where(real, tf.gather(splits, chosen + 1) - begins, 0)
        length = ladder[-1]
        if len(lengths) > 1:
            length = tf.gather(ladder, tf.searchsorted(ladder, tf.reduce_max(own)[tf.newaxis])[0])
        numbers, real, chosen, begins, own = (x[mine] for x in (numbers, real, chosen, begins, own))
        places = tf.range(length)[tf.newaxis, :]
        inside = places < own[:, tf.newaxis]  # [B, L]
        flat = tf.where(inside, begins[:, tf.newaxis] + places, -1)
        features = {name: _taken(x, flat) for name, x in tokens.items()}
        features["input_mask"] = tf.cast(inside, tf.int32)
        features = {name: tf.ensure_shape(x, [x.shape[0], fixed]) for name, x in features.items()}
        for name, values in dense.items():
            features[name] = tf.gather(values, chosen)
        features["example_weights"] = tf.cast(real, tf.float32)
        if not repeats:
            features[ROW] = tf.cast(numbers, tf.int32)
        return features

    return gather


def _permutation(count, seed, epoch):
    fold = functools.partial(tf.random.fold_in, alg=_ALG)
    key = fold(fold(tf.constant([seed, 0], tf.int64), epoch), 0)
    return tf.random.experimental.stateless_shuffle(tf.range(count, dtype=tf.int64), key, alg=_ALG)


def _places(count, seed, start):
    """The endless row from a place on: a dataset of int64 [up to count]."""
    first, skipped = divmod(start, count)

    def epoch(number):
        return _permutation(count, seed, number)[tf.where(number == first, tf.constant(skipped, tf.int64), 0) :]

    return tf.data.Dataset.counter(first).map(epoch)


def _pooled(rows, seed, part, first_part):
    """Parts of rows of about the same length: a dataset of int64 [part] from a part on."""
    lengths = tf.constant(rows.lengths)
    first_pool, skipped = divmod(first_part, POOL)
    fold = functools.partial(tf.random.fold_in, alg=_ALG)

    def cut(pool, numbers):
        numbers = tf.gather(numbers, tf.argsort(tf.gather(lengths, numbers), stable=True))
        parts = tf.reshape(numbers, [POOL, part])
        key = fold(fold(tf.constant([seed, 1], tf.int64), pool), 0)
        order = tf.random.experimental.stateless_shuffle(tf.range(POOL), key, alg=_ALG)
        return tf.gather(parts, order)

    pools = _places(len(rows), seed, first_pool * POOL * part).rebatch(POOL * part, drop_remainder=True)
    return pools.enumerate(first_pool).map(cut).unbatch().skip(skipped)


def _per_replica(batch_size, num_pipelines, replicas_per_pipeline):
    replicas = num_pipelines * replicas_per_pipeline
    checks.require(
        batch_size > 0 and batch_size % replicas == 0,
        "the batch size must be a multiple of the number of replicas",
        f"batch size {batch_size}, {replicas} replicas",
    )
    return batch_size // replicas


def train_dataset(
    rows,
    shapes,
    by_length,
    part,
    first_part,
    seed,
    num_pipelines=1,
    pipeline_index=0,
    replicas_per_pipeline=1,
):
    """The endless stream of parts from one on.

    Args:
        rows: A `task.Rows`.
        shapes: The lengths that batches are filled up to, ascending; one alone makes all of one shape. Or a
            `packer.Shapes`: rows are packed.
        by_length: Whether rows of about the same length come together.
        part: Rows of a part, G, over all replicas.
        first_part: The part to begin with.
        seed: int, of the order.
        num_pipelines: Hosts that read.
        pipeline_index: This host.
        replicas_per_pipeline: Replicas that this host feeds.

    Returns:
        A dataset of {name: [G / replicas, ...]}; of a part, the elements for the replicas of this pipeline follow one
        another, and all are as long.

    Raises:
        InputError: the part cannot be divided, or a row is too long.
    """
    per_replica = _per_replica(part, num_pipelines, replicas_per_pipeline)
    per_pipeline = per_replica * replicas_per_pipeline
    if by_length:
        dataset = _pooled(rows, seed, part, first_part)
    else:
        dataset = _places(len(rows), seed, first_part * part).rebatch(part, drop_remainder=True)
    packed = isinstance(shapes, packer.Shapes)
    if packed:  # divided among replicas before, since a replica's packs are not as many as its rows
        first = pipeline_index * per_pipeline
        dataset = dataset.map(lambda numbers: numbers[first : first + per_pipeline])
        dataset = dataset.rebatch(per_replica, drop_remainder=True)
    gather = _packer(rows, shapes) if packed else _gatherer(rows, shapes, True, pipeline_index, per_pipeline)
    dataset = dataset.map(gather, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
    if replicas_per_pipeline > 1 and not packed:
        dataset = dataset.rebatch(per_replica, drop_remainder=True)
    return dataset.prefetch(2 * replicas_per_pipeline)


def eval_dataset(
    rows, lengths, batch_size, num_pipelines=1, pipeline_index=0, replicas_per_pipeline=1, *, as_packs=False
):
    """Every row once, rows of about the same length together.

    Args:
        rows: A `task.Rows`.
        lengths: What batches are filled up to, ascending; one alone makes all of one shape.
        batch_size: Rows of a batch, over all replicas.
        num_pipelines: As of `train_dataset`, as the two that follow.
        pipeline_index: See there.
        replicas_per_pipeline: See there.
        as_packs: Whether it is for a model that unpacks rows: each is a pack by itself.

    Returns:
        A dataset of {name: [batch_size / replicas, ...]} with "example_weights" that are 1, and 0 for what fills the
        last batch, and "row", the number of the row, -1 there. Every replica gets as many elements.

    Raises:
        InputError: the batch cannot be divided, or a row is too long.
    """
    per_replica = _per_replica(batch_size, num_pipelines, replicas_per_pipeline)
    order = np.argsort(rows.lengths, kind="stable")
    numbers = np.full(-(-len(rows) // batch_size) * batch_size, -1, np.int64)
    numbers[: len(rows)] = order
    gather = _gatherer(rows, lengths, False, pipeline_index, per_replica * replicas_per_pipeline)
    dataset = tf.data.Dataset.from_tensor_slices(numbers.reshape(-1, batch_size)).map(gather)
    if replicas_per_pipeline > 1:
        dataset = dataset.rebatch(per_replica, drop_remainder=True)
    if as_packs:  # after it: places are counted in the batch of a replica
        dataset = dataset.map(_as_packs)
    return dataset.prefetch(2 * replicas_per_pipeline)
