"""Classification and regression of texts and pairs of texts: Devlin et al. 2019, sections 4.1 and appendix B.1."""

import dataclasses
import os
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from tfbert import checks, config, heads, trainer
from tfbert.tasks import glue, pieces, scores, sentence_files, tables, task
from tfbert.tasks.sentence_files import CLASSIFY, REGRESS, Settings, read
from tfbert.text import packing


@dataclasses.dataclass(frozen=True)
class Flags:
    """What these tasks are told, beside the files."""

    text_column: str = config.field("", "Column of the text; by default text, or what task_name says.")
    text_pair_column: str = config.field("", "Column of a second text, of pairs.")
    label_column: str = config.field("", "Column of the label or the score; by default label, or what task_name says.")
    column_names: tuple[str, ...] = config.field(
        (), "Names of the columns of TSV and CSV files whose first line does not name them."
    )
    labels: tuple[str, ...] = config.field(
        (), "The classes, in their order; by default those of the training file. F1 is of the last of two."
    )
    best_metric: str = config.field(
        "", "What the best checkpoint is chosen by, such as f1 or loss; by default accuracy or pearson."
    )
    skip_bad_rows: bool = config.field(False, "Leave out, and count, rows of a file that cannot be used.")
    tfds_data_dir: str = config.field("", "Where TensorFlow Datasets looks.")


class Prediction(NamedTuple):
    """What a model says of one example.

    Attributes:
        label: The likeliest label, or the score (float).
        probabilities: float64 [C] in the order of the labels; None for a score.
        labels: All of them; () for a score.
    """

    label: str | float
    probabilities: np.ndarray | None = None
    labels: tuple = ()


def begin(flags):
    """Reads the training file and finds the labels in it, if none are given.

    Args:
        flags: Has the fields of `Flags`, and `task`, `task_name`, `tfds` and `train_file`.

    Returns:
        (`task.Task`, examples).

    Raises:
        InputError: the file cannot be used; file and line are in it.
    """
    settings = _settings(flags)
    examples = read(settings, flags.train_file)
    checks.require(task.has_labels(examples), "training examples must have labels", "none", flags.train_file)
    if settings.kind == CLASSIFY and not settings.labels:
        there = {example.label for example in examples}
        named = tables.class_names(flags.train_file, settings.label_column, flags.tfds_data_dir)
        settings = dataclasses.replace(
            settings, labels=named if there <= set(named) else sentence_files.in_order(there)
        )
    if settings.kind == CLASSIFY:
        checks.require(
            len(settings.labels) >= 2,
            "a classification needs two labels",
            f"{list(settings.labels)}",
            flags.train_file,
            f"Is {settings.label_column!r} the right --label_column? Scores are for --task=regress",
        )
    return make(settings), examples


def _settings(flags):
    """`Settings` of flags, filled up by what is known of GLUE's tasks."""
    layout = glue.TASKS.get(flags.task_name)
    columns = ("text", "", "label")
    if layout:
        columns = layout.tfds_columns if flags.train_file.startswith(tables.TFDS) else layout.columns
    given = (flags.text_column, flags.text_pair_column, flags.label_column)
    if any(given[:2]):
        columns = (*given[:2], columns[2]) if given[0] else (columns[0], given[1], columns[2])
    of_files = layout and not flags.train_file.startswith(tables.TFDS)
    return Settings(
        flags.task,
        *columns[:2],
        given[2] or columns[2],
        flags.column_names or (layout.column_names if of_files else ()),
        flags.labels or (layout.labels if of_files else ()),
        flags.best_metric or (layout.best_metric if layout else ""),
        flags.skip_bad_rows,
        flags.tfds_data_dir,
    )


def from_config(about):
    """The `task.Task` of what `Settings` were written as."""
    return make(config.from_dict(Settings, about))


def make(settings):
    """The `task.Task` of `Settings` that are complete."""
    classify = settings.kind == CLASSIFY
    metrics = ("accuracy", "f1", "macro_f1", "matthews") if classify else ("pearson", "spearman")
    best = settings.best_metric or metrics[0]
    known = (*metrics, "loss")
    checks.require(best in known, f"best_metric must be one of {', '.join(known)}", f"best_metric={best!r}")
    checks.require(
        best != "f1" or len(settings.labels) == 2, "f1 is of two labels", f"{len(settings.labels)}", do="Take macro_f1"
    )
    return task.Task(
        kind=settings.kind,
        about=config.to_dict(settings),
        read=lambda path: read(settings, path),
        featurize=lambda *arguments: featurize(settings, *arguments),
        build_model=lambda encoder, rematerialize: heads.build_classifier(
            encoder, len(settings.labels) if classify else 1, rematerialize
        ),
        objective=objective(settings),
        outputs=("logits",),
        per_token=False,
        decode=lambda outputs, rows, examples: decode(settings, outputs["logits"]),
        score=lambda predictions, examples: score(settings, predictions, examples),
        best_metric=(best, "min" if best == "loss" else "max"),
        write=lambda *arguments: write(settings, *arguments),
        of_texts=lambda texts, pairs: of_texts(settings, texts, pairs),
        show=show,
    )


def featurize(settings, examples, tokenizer, max_seq_length, training=False):
    """Wordpieces of examples: [CLS] A [SEP], or [CLS] A [SEP] B [SEP], cut to a length.

    Args:
        settings: `Settings`.
        examples: List of `sentence_files.Example`.
        tokenizer: A `tokenizer.Tokenizer`.
        max_seq_length: The longest row in wordpieces.
        training: Unused: rows of training and evaluation are alike.

    Returns:
        `task.Rows`, one an example; "labels" int32 [R] (the class) or float32 [R] (the score) if there are labels.
        extra["truncated"] is bool [R], whether the text was cut.
    """
    del training
    packed, truncated = {"input_ids": [], "segment_ids": []}, []
    lengths = []
    columns = [[e.text for e in examples]]
    if settings.text_pair_column:
        columns.append([e.text_pair for e in examples])
    for texts in zip(*(pieces.batches(column) for column in columns), strict=True):
        ids = [tokenizer.tokenize(batch) for batch in texts]
        pack = packing.pack_single if len(ids) == 1 else packing.pack_pair
        batch = {name: x.numpy() for name, x in pack(*ids, max_seq_length, tokenizer.vocab).items()}
        mask = batch["input_mask"] > 0
        for name, parts in packed.items():
            parts.append(batch[name][mask].astype(np.int32 if name == "input_ids" else np.uint8))
        lengths.append(mask.sum(1))
        truncated.append(sum(x.row_lengths().numpy() for x in ids) + 1 + len(ids) > max_seq_length)
    labels = {}
    if task.has_labels(examples):
        number = {label: i for i, label in enumerate(settings.labels)}
        classes = [number[e.label] for e in examples] if number else [e.label for e in examples]
        labels["labels"] = np.array(classes, np.int32 if number else np.float32)
    splits = np.concatenate([[0], np.cumsum(np.concatenate(lengths))]).astype(np.int64)
    tokens = {name: np.concatenate(parts) for name, parts in packed.items()}
    return task.Rows(splits, tokens, labels, np.arange(len(examples)), {"truncated": np.concatenate(truncated)})


def objective(settings):
    """The `trainer.Objective`: cross-entropy and accuracy of classes, or squared errors of scores."""
    loss_name = "classification_loss" if settings.kind == CLASSIFY else "regression_loss"

    def weights(features):
        return {loss_name: tf.reduce_sum(features["example_weights"])}

    def losses(outputs, features):
        labels, logits = features["labels"], tf.cast(outputs["logits"], tf.float32)
        if settings.kind == CLASSIFY:
            each = tf.nn.sparse_softmax_cross_entropy_with_logits(labels, logits)
        else:
            each = tf.square(logits[:, 0] - labels)
        return {loss_name: (tf.reduce_sum(each * features["example_weights"]), weights(features)[loss_name])}

    def metrics(outputs, features):
        if settings.kind == REGRESS:
            return {}
        right = tf.argmax(outputs["logits"], -1, tf.int32) == features["labels"]
        right = tf.cast(right, tf.float32) * features["example_weights"]
        return {"accuracy": (tf.reduce_sum(right), tf.reduce_sum(features["example_weights"]))}

    return trainer.Objective(losses, weights, metrics, (loss_name,), ("accuracy",) * (settings.kind == CLASSIFY))


def softmax(logits):
    """float64 [R, C] of float [R, C]."""
    powers = np.exp(logits.astype(np.float64) - logits.max(-1, keepdims=True))
    return powers / powers.sum(-1, keepdims=True)


def decode(settings, logits):
    """List of `Prediction` of logits [R, C]."""
    if settings.kind == REGRESS:
        return [Prediction(float(x)) for x in logits[:, 0]]
    return [Prediction(settings.labels[p.argmax()], p, settings.labels) for p in softmax(logits)]


def score(settings, predictions, examples):
    """{metric: float}: GLUE's metrics, all that the labels allow.

    Classification: accuracy, macro_f1, matthews, and f1 of the last of two labels. Regression: pearson, spearman.
    """
    if settings.kind == REGRESS:
        both = [p.label for p in predictions], [e.label for e in examples]
        return {"pearson": scores.pearson(*both), "spearman": scores.spearman(*both)}
    number = {label: i for i, label in enumerate(settings.labels)}
    both = [number[e.label] for e in examples], [number[p.label] for p in predictions]
    counts = scores.confusion(*both, len(number))
    found = {"accuracy": scores.accuracy(counts), "macro_f1": scores.macro_f1(counts)}
    if len(number) == 2:
        found["f1"] = scores.f1(counts, 1)
    return {**found, "matthews": scores.matthews(counts)}


def write(settings, predictions, examples, folder, split):
    """Writes SPLIT_results.tsv and SPLIT_predictions.tsv into a folder.

    SPLIT_results.tsv is google-research/bert's: one line an example without a header, the probabilities in the order of
    the labels between tabs, or the score. SPLIT_predictions.tsv has a header: index (from 0) and prediction, as GLUE
    takes them, and label where there are labels.
    """
    with open(os.path.join(folder, f"{split}_results.tsv"), "w", encoding="utf-8") as f:
        for p in predictions:
            values = [p.label] if settings.kind == REGRESS else p.probabilities
            f.write("\t".join(f"{value:.8g}" for value in values) + "\n")
    labelled = task.has_labels(examples)
    with open(os.path.join(folder, f"{split}_predictions.tsv"), "w", encoding="utf-8") as f:
        f.write("\t".join(["index", "prediction"] + ["label"] * labelled) + "\n")
        for i, (p, e) in enumerate(zip(predictions, examples, strict=True)):
            said = f"{p.label:.8g}" if settings.kind == REGRESS else p.label
            f.write("\t".join([str(i), said] + [str(e.label)] * labelled) + "\n")


def of_texts(settings, texts, pairs):
    """Examples of what a person typed.

    Args:
        settings: `Settings`.
        texts: List of str.
        pairs: As many second texts, or None.

    Raises:
        InputError: second texts are given and the task has none, or the other way round.
    """
    second = len(pairs) if pairs else 0
    wanted = len(texts) if settings.text_pair_column else 0
    checks.require(
        second == wanted,
        f"this task takes {'pairs: as many --text_pair as --text' if wanted else 'single texts: no --text_pair'}",
        f"{len(texts)} texts, {second} second texts",
    )
    seconds = pairs or [None] * len(texts)
    return [sentence_files.Example(f"text {i}", *both) for i, both in enumerate(zip(texts, seconds), 1)]


def show(prediction, example):
    """The text, and under it the score or the five likeliest labels."""
    texts = "  |||  ".join(text for text in (example.text, example.text_pair) if text is not None)
    if prediction.probabilities is None:
        return f"{texts}\n  {prediction.label:.4f}"
    best = sorted(zip(prediction.probabilities, prediction.labels), key=lambda pair: -pair[0])[:5]
    return f"{texts}\n  " + "  ".join(f"{label} {100 * p:.1f} %" for p, label in best)
