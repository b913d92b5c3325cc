"""Objectives of pre-training: (outputs, features) -> {name: (sum, weight)}.

Nothing is divided here. The training loop adds sums and weights over replicas and micro-batches and
divides once, so that the gradient does not depend on how a batch was cut. Every pair has its place in
one dictionary; `pretraining_weights` gives the weights alone, since they depend on features only and
are needed before the first backward pass.

A feature "example_weights", float32 [B], is optional and multiplies everything: evaluation pads its
last batch with examples of weight 0. A task whose labels are not among the features is left out.
"""

import tensorflow as tf

from tfbert.layers import compiled


@compiled.compiled
def _nats_forward(logits, labels, largest):
    """([B, K] cross-entropies, [B, K, 1] logarithms of the sums of exponentials), float32."""
    of_label = tf.gather(logits, tf.expand_dims(labels, -1), batch_dims=2)
    largest = tf.cast(largest, tf.float32)
    log_sums = tf.math.log(tf.reduce_sum(tf.exp(tf.cast(logits, tf.float32) - largest), -1, keepdims=True)) + largest
    return tf.squeeze(log_sums - tf.cast(of_label, tf.float32), -1), log_sums


@compiled.compiled
def _nats_backward(upstream, logits, labels, log_sums):
    """The gradient of the logits, in their dtype: probabilities, less 1 for the label."""
    is_label = tf.equal(tf.range(logits.shape[-1]), tf.expand_dims(labels, -1))
    differences = tf.exp(tf.cast(logits, tf.float32) - log_sums) - tf.cast(is_label, tf.float32)
    return tf.cast(tf.expand_dims(upstream, -1) * differences, logits.dtype)


@tf.custom_gradient
def _nats(logits, labels):
    """Cross-entropy of each label: float [B, K, C], int32 [B, K] -> float32 [B, K].

    The logits of words are the widest tensor of all: this reads them three times and writes their gradient, no more.
    """
    # Not inside: for two readers of the cast logits XLA would make a float32 tensor of them.
    nats, log_sums = _nats_forward(logits, labels, tf.reduce_max(logits, -1, keepdims=True))
    return nats, lambda upstream: (_nats_backward(upstream, logits, labels, log_sums), None)


@compiled.compiled
def _is_best(logits, labels):
    """Whether the label has the largest logit and no class before it as large a one: bool [B, K]; one pass."""
    labels = tf.expand_dims(labels, -1)
    of_label = tf.gather(logits, labels, batch_dims=2)  # [B, K, 1]
    before = tf.range(logits.shape[-1]) < labels
    return tf.reduce_all(tf.where(before, logits < of_label, logits <= of_label), -1)


def _weights(features, name):
    """float32, in the shape of a feature of weights: times those of the examples, where there are some."""
    weights = tf.cast(features[name], tf.float32)
    if "example_weights" in features:
        weights *= tf.expand_dims(tf.cast(features["example_weights"], tf.float32), 1)
    return weights


def _tasks(features):
    """{task: (labels int32 [B, K], weights float32 [B, K])}; K is P for masked words, 1 or M for sentences.

    A slot of weight 0 fills up a record.
    """
    tasks = {"masked_lm": (features["masked_lm_ids"], _weights(features, "masked_lm_weights"))}
    if "next_sentence_labels" in features:
        labels = features["next_sentence_labels"]
        labels = tf.reshape(labels, [tf.shape(labels)[0], -1])  # [B] is as good as [B, 1]
        if "next_sentence_weights" not in features:  # every row is one example
            features = {**features, "next_sentence_weights": tf.ones_like(labels)}
        tasks["next_sentence"] = (labels, _weights(features, "next_sentence_weights"))
    return tasks


def _logits(outputs, task, labels):
    """float [B, K, classes]: [B, 2] of rows that are one example become [B, 1, 2]."""
    logits = outputs[f"{task}_logits"]
    return tf.reshape(logits, [*labels.shape, logits.shape[-1]])


def _weighted(values, weights):
    """(sum of weights * values, sum of weights); what has weight 0 adds 0 even if it is not finite."""
    return tf.reduce_sum(tf.math.multiply_no_nan(values, weights)), tf.reduce_sum(weights)


def pretraining_weights(features: dict) -> dict:
    """The weights of `pretraining_losses`, from features alone: {name: float32 []}."""
    return {f"{task}_loss": tf.reduce_sum(weights) for task, (_, weights) in _tasks(features).items()}


def pretraining_losses(outputs: dict, features: dict) -> dict:
    """Cross-entropies of the two tasks: Devlin et al. 2019, section 3.1 and appendix A.2.

    Args:
        outputs: "masked_lm_logits" float [B, P, V], "next_sentence_logits" float [B, 2], or [B, M, 2] of
            packed rows.
        features: "masked_lm_ids" int32 [B, P], "masked_lm_weights" float32 [B, P]; "next_sentence_labels"
            int32 [B, 1], or [B, M] with "next_sentence_weights" float32 [B, M], or not; "example_weights" or not.

    Returns:
        {"masked_lm_loss": (sum, weight), "next_sentence_loss": (sum, weight)}, float32 [] each: nats
        summed over masked positions and over sequences, and the numbers of those. Without labels of
        sentences there is no "next_sentence_loss".
    """
    losses = {}
    for task, (labels, weights) in _tasks(features).items():
        logits = _logits(outputs, task, labels)
        nats = _nats(logits, labels)  # [B, K]
        losses[f"{task}_loss"] = _weighted(nats, weights)
    return losses


def pretraining_metrics(outputs: dict, features: dict) -> dict:
    """How often the best score is the right one.

    Args:
        outputs: As of `pretraining_losses`.
        features: As of `pretraining_losses`.

    Returns:
        {"masked_lm_accuracy": (sum, weight), "next_sentence_accuracy": (sum, weight)}, float32 [] each, the
        second only with labels of sentences.
    """
    metrics = {}
    for task, (labels, weights) in _tasks(features).items():
        best = _is_best(_logits(outputs, task, labels), labels)
        metrics[f"{task}_accuracy"] = _weighted(tf.cast(best, tf.float32), weights)
    return metrics
