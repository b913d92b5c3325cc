"""What is learned of a text: one class of several (classify), any number of them (multi_label), or a score (regress).

Each is a `Target`, a value of functions; all else about texts and pairs is the same (`tfbert.tasks.sentences`).
"""

import dataclasses
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from tfbert.loop import trainer
from tfbert.tasks import scores
from tfbert.tasks.sentence_files import CLASSIFY, MULTI_LABEL, REGRESS


class Prediction(NamedTuple):
    """What a model says of one example.

    Attributes:
        label: The likeliest label, the tuple of those that are likelier than not, or the score (float).
        probabilities: float64 [C] in the order of the labels; None for a score.
        labels: All of them; () for a score.
    """

    label: str | float | tuple
    probabilities: np.ndarray | None = None
    labels: tuple = ()


@dataclasses.dataclass(frozen=True)
class Target:
    """What is learned.

    Attributes:
        width: Logits of an example.
        encode: labels of N examples -> the feature "labels", [N] or [N, C].
        objective: The `trainer.Objective`.
        decode: logits [N, width] -> list of `Prediction`.
        score: (predictions, labels of the examples) -> {metric: float}.
        metrics: What `score` may give, the one that the best checkpoint is chosen by first.
    """

    width: int
    encode: Callable
    objective: trainer.Objective
    decode: Callable
    score: Callable
    metrics: tuple[str, ...]


def of(settings):
    """The `Target` of `sentence_files.Settings` that are complete."""
    make = {CLASSIFY: _one_class, MULTI_LABEL: _classes, REGRESS: _score}
    return make[settings.kind](settings)


def _objective(name, each, weigh, right=None):
    """A `trainer.Objective` of one loss, weighted by examples.

    Args:
        name: Of the loss.
        each: (logits float32 [B, width], labels) -> losses [B].
        weigh: (labels, example_weights [B]) -> weights [B].
        right: (logits, labels) -> bool [B], for "accuracy"; or None.
    """

    def weights_of(features):
        return weigh(features["labels"], tf.cast(features["example_weights"], tf.float32))

    def losses(outputs, features):
        weights = weights_of(features)
        values = each(tf.cast(outputs["logits"], tf.float32), features["labels"])
        # What has weight 0 adds 0 even if it is not finite.
        return {name: (tf.reduce_sum(tf.math.multiply_no_nan(values, weights)), tf.reduce_sum(weights))}

    def metrics(outputs, features):
        if right is None:
            return {}
        weights = tf.cast(features["example_weights"], tf.float32)
        values = tf.cast(right(outputs["logits"], features["labels"]), tf.float32)
        return {"accuracy": (tf.reduce_sum(weights * values), tf.reduce_sum(weights))}

    return trainer.Objective(
        losses=losses,
        weights=lambda features: {name: tf.reduce_sum(weights_of(features))},
        metrics=metrics,
        loss_names=(name,),
        metric_names=("accuracy",) if right else (),
    )


def _one_class(settings):
    labels = settings.labels
    number = {label: i for i, label in enumerate(labels)}

    def weigh(truth, weights):
        return weights * tf.gather(tf.constant(settings.class_weights, tf.float32), truth)

    def decode(logits):
        powers = np.exp(logits.astype(np.float64) - logits.max(-1, keepdims=True))
        return [Prediction(labels[p.argmax()], p, labels) for p in powers / powers.sum(-1, keepdims=True)]

    def score(predictions, truth):
        counts = scores.confusion([number[t] for t in truth], [number[p.label] for p in predictions], len(labels))
        found = {"accuracy": scores.accuracy(counts), "macro_f1": scores.macro_f1(counts)}
        if len(labels) == 2:
            found["f1"] = scores.f1(counts, 1)
        return {**found, "matthews": scores.matthews(counts)}

    return Target(
        width=len(labels),
        encode=lambda given: np.array([number[label] for label in given], np.int32),
        objective=_objective(
            "classification_loss",
            lambda logits, truth: tf.nn.sparse_softmax_cross_entropy_with_logits(truth, logits),
            weigh if settings.class_weights else lambda _, weights: weights,
            lambda logits, truth: tf.argmax(logits, -1, tf.int32) == truth,
        ),
        decode=decode,
        score=score,
        metrics=("accuracy", "macro_f1", "matthews", *(("f1",) if len(labels) == 2 else ())),
    )


def _classes(settings):
    labels = settings.labels

    def encode(given):
        return np.array([[label in each for label in labels] for each in given], np.float32)

    def decode(logits):
        probabilities = 1 / (1 + np.exp(-logits.astype(np.float64)))
        return [Prediction(tuple(label for label, x in zip(labels, p) if x > 0.5), p, labels) for p in probabilities]

    def score(predictions, truth):
        truth, said = encode(truth), encode([p.label for p in predictions])
        by_class = [scores.confusion(truth[:, c].astype(int), said[:, c].astype(int), 2) for c in range(len(labels))]
        both = np.sum(by_class, 0)
        seen = [counts for counts in by_class if counts[1].any() or counts[:, 1].any()]
        return {
            "micro_f1": scores.f1(both, 1),
            "macro_f1": float(np.mean([scores.f1(counts, 1) for counts in seen])) if seen else 0.0,
            "accuracy": float(np.mean((truth == said).all(1))),
        }

    return Target(
        width=len(labels),
        encode=encode,
        objective=_objective(
            "classification_loss",
            lambda logits, truth: tf.reduce_mean(tf.nn.sigmoid_cross_entropy_with_logits(truth, logits), -1),
            lambda _, weights: weights,
            lambda logits, truth: tf.reduce_all((logits > 0) == (truth > 0), -1),
        ),
        decode=decode,
        score=score,
        metrics=("micro_f1", "macro_f1", "accuracy"),
    )


def _score(settings):
    del settings

    def score(predictions, truth):
        both = [p.label for p in predictions], truth
        return {"pearson": scores.pearson(*both), "spearman": scores.spearman(*both)}

    return Target(
        width=1,
        encode=lambda given: np.array(given, np.float32),
        objective=_objective(
            "regression_loss", lambda logits, truth: tf.square(logits[:, 0] - truth), lambda _, weights: weights
        ),
        decode=lambda logits: [Prediction(float(x)) for x in logits[:, 0]],
        score=score,
        metrics=("pearson", "spearman"),
    )
