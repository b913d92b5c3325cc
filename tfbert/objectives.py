"""Objectives of pre-training: (outputs, features) -> {name: (sum, weight)}.

Nothing is divided here. The training loop adds sums and weights over replicas and micro-batches and
divides once, so that the gradient does not depend on how a batch was cut. Every pair has its place in
one dictionary; `pretraining_weights` gives the weights alone, since they depend on features only and
are needed before the first backward pass.

A feature "example_weights", float32 [B], is optional and multiplies everything: evaluation pads its
last batch with examples of weight 0.
"""

import tensorflow as tf


def _example_weights(features):
    """float32 [B]; ones unless the features say otherwise."""
    if "example_weights" in features:
        return tf.cast(features["example_weights"], tf.float32)
    return tf.ones([tf.shape(features["next_sentence_labels"])[0]], tf.float32)


def _slot_weights(features):
    """float32 [B, P]: weight of each masked position; 0 in the slots that fill up a record."""
    return tf.cast(features["masked_lm_weights"], tf.float32) * tf.expand_dims(_example_weights(features), 1)


def _next_sentence_labels(features):
    """int32 [B], from [B, 1] as records have it or [B]."""
    return tf.reshape(features["next_sentence_labels"], [-1])


def _weighted(values, weights):
    """(sum of weights * values, sum of weights); what has weight 0 adds 0 even if it is not finite."""
    return tf.reduce_sum(tf.math.multiply_no_nan(values, weights)), tf.reduce_sum(weights)


def pretraining_weights(features: dict) -> dict:
    """The weights of `pretraining_losses`, from features alone: {name: float32 []}."""
    return {
        "masked_lm_loss": tf.reduce_sum(_slot_weights(features)),
        "next_sentence_loss": tf.reduce_sum(_example_weights(features)),
    }


def pretraining_losses(outputs: dict, features: dict) -> dict:
    """Cross-entropies of the two tasks: Devlin et al. 2019, section 3.1 and appendix A.2.

    Args:
        outputs: "masked_lm_logits" float32 [B, P, V], "next_sentence_logits" float32 [B, 2].
        features: "masked_lm_ids" int32 [B, P], "masked_lm_weights" float32 [B, P],
            "next_sentence_labels" int32 [B, 1], and "example_weights" or not.

    Returns:
        {"masked_lm_loss": (sum, weight), "next_sentence_loss": (sum, weight)}, float32 [] each: nats
        summed over masked positions and over sequences, and the numbers of those.
    """
    cross_entropy = tf.nn.sparse_softmax_cross_entropy_with_logits
    masked = cross_entropy(features["masked_lm_ids"], tf.cast(outputs["masked_lm_logits"], tf.float32))  # [B, P]
    next_ = cross_entropy(_next_sentence_labels(features), tf.cast(outputs["next_sentence_logits"], tf.float32))  # [B]
    return {
        "masked_lm_loss": _weighted(masked, _slot_weights(features)),
        "next_sentence_loss": _weighted(next_, _example_weights(features)),
    }


def pretraining_metrics(outputs: dict, features: dict) -> dict:
    """How often the best score is the right one.

    Args:
        outputs: As of `pretraining_losses`.
        features: As of `pretraining_losses`.

    Returns:
        {"masked_lm_accuracy": (sum, weight), "next_sentence_accuracy": (sum, weight)}, float32 [] each.
    """

    def right(logits, labels):
        return tf.cast(tf.equal(tf.argmax(logits, -1, labels.dtype), labels), tf.float32)

    masked = right(outputs["masked_lm_logits"], features["masked_lm_ids"])  # [B, P]
    next_ = right(outputs["next_sentence_logits"], _next_sentence_labels(features))  # [B]
    return {
        "masked_lm_accuracy": _weighted(masked, _slot_weights(features)),
        "next_sentence_accuracy": _weighted(next_, _example_weights(features)),
    }
