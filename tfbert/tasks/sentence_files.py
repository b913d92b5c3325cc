"""Texts and pairs of texts with a label or a score, from tables with named columns."""

import dataclasses
import re
from typing import NamedTuple

import numpy as np

from tfbert import checks
from tfbert.layers import chunks
from tfbert.tasks import lines, tables

LONG_TEXT = ("head", "tail", "head_tail", *chunks.POOLINGS)
CLASSIFY, MULTI_LABEL, REGRESS = "classify", "multi_label", "regress"
_NUMBER = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?", re.ASCII)


@dataclasses.dataclass(frozen=True)
class Settings:
    """What a run folder keeps of a task, under "task"; fields as of `sentences.Flags`, but that `class_weights` are one
    number a label, and `chunk_length` is max_seq_length where long texts are chunks.
    """

    kind: str
    text_column: str
    text_pair_column: str = ""
    label_column: str = "label"
    column_names: tuple[str, ...] = ()
    labels: tuple[str, ...] = ()
    best_metric: str = ""
    skip_bad_rows: bool = False
    tfds_data_dir: str = ""
    class_weights: tuple[float, ...] = ()
    label_separator: str = ","
    long_text: str = "head"
    pooling: str = "pooled"
    mix_layers: bool = False
    layer_dropout: float = 0.1
    max_chunks: int = 8
    chunk_length: int = 0

    @property
    def chunked(self):
        """Whether a text that is too long is cut into chunks, and their vectors are pooled."""
        return self.long_text in chunks.POOLINGS

    def kept_head(self, max_seq_length):
        """How many wordpieces of the beginning of a text that is too long are kept; None: nothing else is.

        A quarter for head_tail: 128 of the 510 that Sun et al. (2019) had.
        """
        return {"head": None, "tail": 0, "head_tail": max_seq_length // 4}[self.long_text]


class Example(NamedTuple):
    """One row of a table.

    Attributes:
        where: File and line.
        text: The text, or the first of two.
        text_pair: The second text, or None.
        label: A label, a score (float), or a tuple of labels; None in a test set.
    """

    where: str
    text: str
    text_pair: str | None = None
    label: str | float | tuple | None = None


def in_order(labels):
    """Labels sorted: as numbers if all are whole numbers, as text if not."""
    numbers = all(re.fullmatch(r"-?[0-9]+", label) for label in labels)
    return tuple(sorted(labels, key=int) if numbers else sorted(labels))


def read(settings, path):
    """The examples of a file or dataset.

    A row that cannot be used is an error that names it; or, with `skip_bad_rows`, left out: how many, and the first of
    them, is printed.

    Args:
        settings: `Settings`; without labels in them, any label is taken.
        path: As of `tables.read`.

    Returns:
        List of `Example`. Either all have labels or, where the file has no such column or it is empty throughout, none.

    Raises:
        InputError: a column is missing, a row cannot be used, or none is left.
    """
    examples, bad = [], []
    rows = tables.read(path, settings.column_names, settings.text_column, settings.tfds_data_dir)
    for where, row in rows:
        try:
            if isinstance(row, checks.InputError):
                raise row
            _check_columns(settings, row, where, first=not examples)
            examples.append(_example(settings, where, row))
        except _WrongColumns:
            raise
        except checks.InputError as e:
            if not settings.skip_bad_rows:
                raise
            bad.append(e)
    checks.require(examples, "a table must have a row that can be used", f"{len(bad)} that cannot", path)
    examples = _labelled_or_not(settings, examples, bad)
    if bad:
        print(f"{path}: {len(bad)} rows left out, {len(examples)} used. The first: {bad[0]}")
    return examples


class _WrongColumns(checks.InputError):
    """Of the whole file, so that no row is skipped for it."""


def _check_columns(settings, row, where, first):
    wanted = [c for c in (settings.text_column, settings.text_pair_column) if c]
    missing = [c for c in wanted if c not in row]
    if missing:
        do = "Name the columns with --text_column, --text_pair_column and --label_column"
        error = checks.error(f"columns must be {wanted}", f"{lines.names(row)}, without {missing}", where, do)
        raise _WrongColumns(str(error)) if first else error


def _check_unicode(text, column, where):
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as e:  # JSON can spell half of a character
        raise checks.error(f"{column} must be Unicode", str(e), where) from e


def _text(row, column, where):
    text = row[column]
    checks.require(isinstance(text, str), f"{column} must be text", lines.brief(text), where)
    checks.require(text.strip(), f"{column} must not be empty", lines.brief(text), where)
    _check_unicode(text, column, where)
    return text


def _example(settings, where, row):
    pair = _text(row, settings.text_pair_column, where) if settings.text_pair_column else None
    label = row.get(settings.label_column)
    if settings.kind == MULTI_LABEL:
        label = None if label is None else _labels(settings, label, where)
    else:
        none = label is None or (isinstance(label, str) and not label.strip())
        label = None if none else _label(settings, label, where)
    return Example(where, _text(row, settings.text_column, where), pair, label)


def _label(settings, label, where):
    """A label or score as the task has it, checked."""
    if settings.kind == REGRESS:
        said = _NUMBER.fullmatch(label.strip()) if isinstance(label, str) else type(label) in (int, float)
        with np.errstate(over="ignore"):
            fits = said and np.isfinite(np.float32(float(label)))  # which is what a model learns
        checks.require(fits, f"{settings.label_column} must be a finite number", lines.brief(label), where)
        return float(label)
    return _class(settings, label, where)


def _labels(settings, label, where):
    """The labels of an example, without repetitions; none is () here, and no test set."""
    if isinstance(label, str):
        label = [part for part in label.split(settings.label_separator) if part.strip()]
    checks.require(isinstance(label, list), f"{settings.label_column} must be labels", lines.brief(label), where)
    return tuple(dict.fromkeys(_class(settings, part, where) for part in label))


def _class(settings, label, where):
    scalar = isinstance(label, str | int) or (isinstance(label, float) and np.isfinite(label))
    checks.require(scalar, f"{settings.label_column} must be one label", lines.brief(label), where)
    label = str(label).strip()
    checks.require(label, "labels must not be empty", repr(label), where)
    _check_unicode(label, settings.label_column, where)
    control = lines.CONTROL.search(label)
    checks.require(not control, "labels must have no tabs and line breaks", lines.brief(label), where)
    known = ", ".join(settings.labels[:50])
    in_labels = not settings.labels or label in settings.labels
    checks.require(in_labels, f"labels must be of {known}", lines.brief(label), where)
    return label


def _labelled_or_not(settings, examples, bad):
    """The examples, if all or none have labels; those without are bad rows if some have."""
    without = [e for e in examples if e.label is None]
    if len(without) == len(examples) or not without:
        return examples
    errors = [checks.error(f"{settings.label_column} must not be empty", "no label", e.where) for e in without]
    if not settings.skip_bad_rows:
        raise errors[0]
    bad += errors
    return [e for e in examples if e.label is not None]
