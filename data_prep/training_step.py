"""Forward and backward pass of pre-training on ready rows: what packing them is worth to training."""

import itertools
import time

import tensorflow as tf

from tfbert import config, heads, objectives


def measure(batches, vocab_size, size, packed, rows, seconds):
    """How fast a model goes through rows.

    Args:
        batches: List of {name: array [N, ...]}, masked.
        vocab_size: Entries of the vocabulary.
        size: The model's, of `config.PRESETS`.
        packed: Whether the rows hold several examples.
        rows: Of a batch.
        seconds: Time to measure for, at least; the first batch is not counted.

    Returns:
        {"fill": share of the slots that hold real tokens, "real_tokens_s", "rows_s"}, of all `batches` the first.
    """
    batch = batches[0]["input_ids"].shape
    model = heads.build_pretrainer(config.preset(size, vocab_size=vocab_size, max_position_embeddings=batch[1]), packed)
    inputs = list(model.input)

    @tf.function(reduce_retracing=True)
    def gradients(features):
        with tf.GradientTape() as tape:
            outputs = model({name: features[name] for name in inputs}, training=True)
            losses = objectives.pretraining_losses(outputs, features)
            loss = tf.add_n([total / weight for total, weight in losses.values()])
        return [
            tf.reduce_sum(g.values if isinstance(g, tf.IndexedSlices) else g)
            for g in tape.gradient(loss, model.trainable_variables)
        ]

    dataset = tf.data.Dataset.from_tensor_slices({n: tf.concat([b[n] for b in batches], 0) for n in batches[0]})
    steps = itertools.cycle(list(dataset.batch(rows, drop_remainder=True)))
    gradients(next(steps))
    began, done, tokens = time.perf_counter(), 0, 0
    while time.perf_counter() - began < seconds:
        features = next(steps)
        gradients(features)[0].numpy()
        done += 1
        tokens += int(tf.math.count_nonzero(features["input_mask"]))
    took = time.perf_counter() - began
    real = sum(int((b["input_mask"] > 0).sum()) for b in batches)
    slots = sum(b["input_mask"].size for b in batches)
    return {"fill": real / slots, "real_tokens_s": tokens / took, "rows_s": done * rows / took}
