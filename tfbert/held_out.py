"""The fixed evaluation on held-out records, as a run does it while it trains and `evaluate` afterwards."""

import numpy as np

from tfbert import input_pipeline, objectives, record_sets
from tfbert.loop import distribution, trainer


def objective(records):
    """The `trainer.Objective` of records: both tasks, or the masked language model alone."""
    sentences = records.sentence_objective != record_sets.NO_SENTENCES
    tasks = ("masked_lm", "next_sentence") if sentences else ("masked_lm",)
    return trainer.Objective(
        losses=objectives.pretraining_losses,
        weights=objectives.pretraining_weights,
        metrics=objectives.pretraining_metrics,
        loss_names=tuple(f"{task}_loss" for task in tasks),
        metric_names=tuple(f"{task}_accuracy" for task in tasks),
    )


def unigram_accuracy(batches):
    """Masked-LM accuracy of always answering the most frequent masked wordpiece of these very records.

    Args:
        batches: Iterable of features with "masked_lm_ids" int [B, P] and "masked_lm_weights" [B, P];
            "example_weights" [B] is optional.

    Returns:
        Its share of all masked wordpieces, 0.0 if there are none.
    """
    counts = np.zeros(0)
    for features in batches:
        ids, weights = np.asarray(features["masked_lm_ids"]), np.asarray(features["masked_lm_weights"], np.float64)
        if "example_weights" in features:
            weights = weights * np.asarray(features["example_weights"])[:, None]
        counts = _added(counts, np.bincount(ids.ravel(), weights.ravel()))
    total = counts.sum()
    return float(counts.max() / total) if total else 0.0


def wordpiece_counts(features):
    """How often each wordpiece stands in the text of a batch, as it was before it was masked.

    Args:
        features: {name: [B, ...]} of records; packed rows or not, "example_weights" [B] is optional.

    Returns:
        int64 [the largest id + 1]; padding is not counted.
    """
    ids = np.array(features["input_ids"])
    rows, slots = np.nonzero(np.asarray(features["masked_lm_weights"]))
    ids[rows, np.asarray(features["masked_lm_positions"])[rows, slots]] = features["masked_lm_ids"][rows, slots]
    is_text = np.asarray(features["input_mask"]) > 0
    if "example_weights" in features:
        is_text = is_text & (np.asarray(features["example_weights"])[:, None] > 0)
    return np.bincount(ids[is_text])


def _added(a, b):
    """The sum of two arrays, of which the shorter has zeros at its end."""
    size = max(len(a), len(b))
    return np.pad(a, (0, size - len(a))) + np.pad(b, (0, size - len(b)))


class HeldOut:
    """Evaluates a pre-training model on the same records each time.

    Args:
        strategy: The `tf.distribute.Strategy` that the model was built under.
        model: Of `heads.build_pretrainer`, packed if `records.packed`.
        records: The `RecordSet`.
        batch_size: Sequences a batch, over all replicas.
        max_batches: Only that many; None for all.

    Attributes:
        instances: Records of an evaluation.
        wordpiece_counts: int64 [up to V], how often each wordpiece stands in their text.

    Raises:
        InputError: the records cannot be read.
    """

    def __init__(self, strategy, model, records, batch_size, max_batches=None):
        def make_dataset(*pipeline):
            return input_pipeline.eval_dataset(records, batch_size, max_batches, *pipeline)

        self._records = records
        self.instances = min(records.total, batch_size * max_batches if max_batches else records.total)
        self._evaluator = trainer.Evaluator(strategy, model, objective(records))
        self._dataset = distribution.distribute(strategy, make_dataset)
        self._plain_dataset = make_dataset()
        self.wordpiece_counts = np.zeros(0, np.int64)
        with record_sets.clear_errors(records):
            self._unigram_accuracy = unigram_accuracy(self._counted())

    def _counted(self):
        """The batches; on the way their wordpieces are counted, so that the records are read once for both."""
        for features in self._plain_dataset.as_numpy_iterator():
            self.wordpiece_counts = _added(self.wordpiece_counts, wordpiece_counts(features))
            yield features

    def some(self, count):
        """Features of the first `count` records, or of all if there are fewer; at most a batch."""
        first = next(self._plain_dataset.as_numpy_iterator())
        return {name: value[: min(count, self.instances)] for name, value in first.items()}

    def view(self):
        """None: this is no task with answers of its own to look at."""

    def evaluate(self, stop=None):
        """{name: value}: "loss", loss and accuracy of each task, and `masked_lm_unigram_accuracy`.

        Args:
            stop: A `stop_request.StopRequest`, or None.

        Returns:
            None if `stop` asked before the end.
        """
        with record_sets.clear_errors(self._records):
            metrics = self._evaluator.evaluate(self._dataset, stop)
        return metrics and {**metrics, "masked_lm_unigram_accuracy": self._unigram_accuracy}
