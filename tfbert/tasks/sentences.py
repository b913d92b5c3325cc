"""Classification and regression of texts and pairs of texts: Devlin et al. 2019, sections 4.1 and appendix B.1."""

import collections
import dataclasses
import os
import re

import numpy as np

from tfbert import checks, config, heads
from tfbert.layers import chunks
from tfbert.tasks import glue, pieces, sentence_files, sentence_views, served_sentences, tables, targets, task
from tfbert.tasks.sentence_files import CLASSIFY, REGRESS, Settings, read
from tfbert.tasks.served_sentences import pack


@dataclasses.dataclass(frozen=True)
class Flags(task.MixFlags):
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
        "", "What the best checkpoint is chosen by, such as f1 or loss; by default accuracy, micro_f1 or pearson."
    )
    class_weights: tuple[str, ...] = config.field(
        (),
        "How much examples of each label count in the loss, as LABEL=WEIGHT,...; balanced: all labels the same in sum.",
    )
    label_separator: str = config.field(
        ",", "What stands between the labels of an example in TSV and CSV, for multi_label; JSON has lists."
    )
    long_text: str = config.field(
        "head",
        "What becomes of a text that is longer than max_seq_length: a part of it stays (head, tail, head_tail), or it "
        "is cut into chunks of that length, whose vectors are pooled (mean, max, attention).",
        choices=sentence_files.LONG_TEXT,
    )
    max_chunks: int = config.field(
        8, "The most chunks of a text for long_text=mean, max or attention; what comes after is cut.", lower_bound=1
    )
    pooling: str = config.field(
        "pooled",
        "What is classified: the pooled output, the state of [CLS], or the mean of all.",
        choices=heads.POOLINGS,
    )
    skip_bad_rows: bool = config.field(False, "Leave out, and count, rows of a file that cannot be used.")
    tfds_data_dir: str = config.field("", "Where TensorFlow Datasets looks.")


def begin(flags):
    """Reads the training file and finds the labels in it, if none are given.

    Args:
        flags: Has the fields of `Flags`, and `task`, `task_name`, `tfds`, `train_file` and `max_seq_length`.

    Returns:
        (`task.Task`, examples).

    Raises:
        InputError: the file cannot be used; file and line are in it.
    """
    settings = settings_of(flags)
    examples = read(settings, flags.train_file)
    checks.require(task.has_labels(examples), "training examples must have labels", "none", flags.train_file)
    if settings.kind != REGRESS:
        each = [e.label for e in examples] if settings.kind == CLASSIFY else [x for e in examples for x in e.label]
        counts = collections.Counter(each)
        settings = dataclasses.replace(settings, labels=settings.labels or _labels(settings, flags, counts))
        settings = dataclasses.replace(settings, class_weights=_class_weights(settings, flags, counts))
    else:
        checks.require(not flags.class_weights, "class_weights are of classes", f"{flags.class_weights}")
    return make(settings), examples


def _labels(settings, flags, counts):
    """The labels that a training file has: in the order of a dataset's own classes, or sorted."""
    named = tables.class_names(flags.train_file, settings.label_column, flags.tfds_data_dir)
    labels = named if counts.keys() <= set(named) else sentence_files.in_order(counts)
    least = 2 if settings.kind == CLASSIFY else 1
    checks.require(
        len(labels) >= least,
        f"{settings.kind} needs {least} labels",
        f"{list(labels)}",
        flags.train_file,
        f"Is {settings.label_column!r} the right --label_column? Scores are for --task=regress",
    )
    return labels


def _class_weights(settings, flags, counts):
    """A weight for each label; () for none."""
    given = flags.class_weights
    if not given:
        return ()
    checks.require(settings.kind == CLASSIFY, "class_weights are for --task=classify", f"task={settings.kind!r}")
    missing = [label for label in settings.labels if not counts[label]]
    if tuple(given) == ("balanced",):
        where = flags.train_file
        checks.require(not missing, "balanced weights need examples of each label", f"none of {missing}", where)
        return tuple(sum(counts.values()) / len(settings.labels) / counts[label] for label in settings.labels)
    weights = dict.fromkeys(settings.labels, 1.0)
    for part in given:
        label, _, weight = part.rpartition("=")
        known = label in weights and re.fullmatch(r"\d*\.?\d+", weight)
        checks.require(known, f"class_weights must be LABEL=WEIGHT of {', '.join(settings.labels)}", repr(part))
        weights[label] = float(weight)
    return tuple(weights.values())


def settings_of(flags):
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
        label_separator=flags.label_separator,
        long_text=flags.long_text,
        pooling=flags.pooling,
        mix_layers=flags.mix_layers,
        layer_dropout=flags.layer_dropout,
        max_chunks=flags.max_chunks,
        chunk_length=flags.max_seq_length if flags.long_text in chunks.POOLINGS else 0,
    )


def from_config(about):
    """The `task.Task` of what `Settings` were written as."""
    return make(config.from_dict(Settings, about))


def make(settings):
    """The `task.Task` of `Settings` that are complete."""
    checks.require(
        settings.long_text == "head" or not settings.text_pair_column,
        "long_text is for single texts; of a pair the longer one is cut at its end",
        f"long_text={settings.long_text}, text_pair_column={settings.text_pair_column!r}",
    )
    checks.require(
        settings.chunked or settings.max_chunks == Settings.max_chunks,
        f"max_chunks is of long_text={', '.join(chunks.POOLINGS)}",
        f"max_chunks={settings.max_chunks}, long_text={settings.long_text!r}",
    )
    layer_dropout = task.layer_dropout(settings)
    target = targets.of(settings)
    best = settings.best_metric or target.metrics[0]
    known = (*target.metrics, "loss")
    do = "F1 is of two labels; take macro_f1" if best == "f1" else None
    checks.require(best in known, f"best_metric must be one of {', '.join(known)}", f"best_metric={best!r}", do=do)
    return task.Task(
        kind=settings.kind,
        about=config.to_dict(settings),
        read=lambda path: read(settings, path),
        featurize=lambda *arguments: featurize(settings, *arguments),
        build_model=lambda encoder, rematerialize, unpacks=False: heads.build_classifier(
            encoder,
            target.width,
            rematerialize,
            settings.pooling,
            layer_dropout,
            settings.chunk_length,
            settings.long_text,
            unpacks,
        ),
        objective=target.objective,
        outputs=("logits",),
        per_token=False,
        decode=lambda outputs, rows, examples: target.decode(outputs["logits"]),
        score=lambda predictions, examples: target.score(predictions, [e.label for e in examples]),
        best_metric=(best, "min" if best == "loss" else "max"),
        write=write,
        view=lambda predictions, examples: sentence_views.of(settings, predictions, examples),
        max_chunks=settings.max_chunks if settings.chunked else 1,
        of_texts=lambda texts, pairs: of_texts(settings, texts, pairs),
        show=show,
        serve=lambda *arguments: served_sentences.ServedSentences(settings, *arguments),
    )


def featurize(settings, examples, tokenizer, max_seq_length, training=False):
    """Wordpieces of examples: [CLS] A [SEP], or [CLS] A [SEP] B [SEP], cut to a length; or chunks of a long A.

    Args:
        settings: `Settings`.
        examples: List of `sentence_files.Example`.
        tokenizer: A `tokenizer.Tokenizer`.
        max_seq_length: The longest row, or chunk of a row, in wordpieces.
        training: Unused: rows of training and evaluation are alike.

    Returns:
        `task.Rows`, one an example; "labels", if there are labels: int32 [R] (the class), float32 [R] (the score) or
        float32 [R, C] (1 for each of the classes). extra["truncated"] is bool [R], whether the text was cut.
    """
    del training
    packed, truncated = {"input_ids": [], "segment_ids": []}, []
    lengths = []
    columns = [[e.text for e in examples]]
    if settings.text_pair_column:
        columns.append([e.text_pair for e in examples])
    for texts in zip(*(pieces.batches(column) for column in columns), strict=True):
        ids = [tokenizer.tokenize(batch) for batch in texts]
        batch, cut = pack(settings, ids, max_seq_length, tokenizer.vocab)
        batch = {name: x.numpy() for name, x in batch.items()}
        mask = batch["input_mask"] > 0
        for name, parts in packed.items():
            parts.append(batch[name][mask].astype(np.int32 if name == "input_ids" else np.uint8))
        lengths.append(mask.sum(1))
        truncated.append(cut.numpy())
    labels = {}
    if task.has_labels(examples):
        labels["labels"] = targets.of(settings).encode([e.label for e in examples])
    splits = np.concatenate([[0], np.cumsum(np.concatenate(lengths))]).astype(np.int64)
    tokens = {name: np.concatenate(parts) for name, parts in packed.items()}
    return task.Rows(splits, tokens, labels, np.arange(len(examples)), {"truncated": np.concatenate(truncated)})


def _said(label):
    """A label or a score as files have it."""
    if isinstance(label, tuple):
        return ",".join(label)
    return f"{label:.8g}" if isinstance(label, float) else label


def write(predictions, examples, folder, split):
    """Writes SPLIT_results.tsv and SPLIT_predictions.tsv into a folder.

    SPLIT_results.tsv is google-research/bert's: one line an example without a header, the probabilities in the order of
    the labels between tabs, or the score. SPLIT_predictions.tsv has a header: index (from 0) and prediction, as GLUE
    takes them, and label where there are labels.
    """
    with open(os.path.join(folder, f"{split}_results.tsv"), "w", encoding="utf-8") as f:
        for p in predictions:
            values = [p.label] if p.probabilities is None else p.probabilities
            f.write("\t".join(f"{value:.8g}" for value in values) + "\n")
    labelled = task.has_labels(examples)
    with open(os.path.join(folder, f"{split}_predictions.tsv"), "w", encoding="utf-8") as f:
        f.write("\t".join(["index", "prediction"] + ["label"] * labelled) + "\n")
        for i, (p, e) in enumerate(zip(predictions, examples, strict=True)):
            f.write("\t".join([str(i), _said(p.label)] + [_said(e.label)] * labelled) + "\n")


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
