"""Which records a run reads: found, checked against the run before its first step, and parsed."""

import concurrent.futures
import contextlib
import dataclasses
import json
import math
import os
import re
import typing

import tensorflow as tf
from google.protobuf import message

from tfbert import checks, features, tfrecords
from tfbert.text import selection
from tfbert.text import vocab as vocab_lib

LOOK_AT = 8  # records of each file that are read before the first step
RECORDS_JSON = "records.json"
NEXT_SENTENCE, SENTENCE_ORDER, NO_SENTENCES = "nsp", "sop", "none"


class Masking(typing.NamedTuple):
    """How unmasked records are masked each time that they are read: a name of `selection.UNITS`, and a share."""

    unit: str
    masked_lm_prob: float


@dataclasses.dataclass(frozen=True)
class RecordSet:
    """Files of records that agree with one another and with the run; `open_records` makes it.

    Attributes:
        files: Paths, sorted.
        counts: Records in each file.
        layout: The `features.Layout` of all of them.
        names: {our name of a feature: its name on disk}.
        packed: Whether batches are to have the features of packed rows; records of one example a row can be
            given in that form, for a model that takes it.
        sentence_objective: What next_sentence_labels tell: "nsp", "sop" or "none".
        masking: The `Masking` of unmasked records; None if they are masked already.
        vocab: The run's `Vocab`, whose size bounds the ids; None leaves them unchecked.
        tokenizer_digest: Of the vocabulary that made the records, where `records.json` states it.
        about: The `records.json` beside the files; None if there is none or more than one.
        runs: {file: its `tfrecords.Run`s of whole records} if some are damaged and left out; else empty.
        skipped: Text about each damaged record.
    """

    files: tuple
    counts: tuple
    layout: features.Layout
    names: dict
    packed: bool = False
    sentence_objective: str = NEXT_SENTENCE
    masking: Masking | None = None
    vocab: vocab_lib.Vocab | None = None
    tokenizer_digest: str | None = None
    about: dict | None = None
    runs: dict = dataclasses.field(default_factory=dict)
    skipped: tuple = ()

    @property
    def total(self):
        """Records in all files."""
        return sum(self.counts)


def open_records(
    patterns,
    max_seq_length,
    max_predictions_per_seq,
    vocab=None,
    mask_unit=None,
    masked_lm_prob=None,
    skip_corrupt_records=False,
):
    """Finds records and checks, before the first step, that a run can train on them.

    Google's and the Model Garden's records are taken as they are. The first records of every file are
    looked at; ids further on are checked as they are read.

    Args:
        patterns: Globs: a sequence of them, or one string with commas between them.
        max_seq_length: L.
        max_predictions_per_seq: P.
        vocab: The run's `Vocab`; None leaves ids and digest unchecked.
        mask_unit: How to mask unmasked records; None as `records.json` says.
        masked_lm_prob: As `mask_unit`.
        skip_corrupt_records: Whether to read all files through, and to leave out records that are damaged.

    Returns:
        A `RecordSet`.

    Raises:
        InputError: a glob matches nothing, a file is no TFRecord file or is damaged, features are
            missing, lengths disagree, another tokenizer made the records, ids lie beyond the vocabulary,
            or nothing says how to mask.
    """
    files = tfrecords.find(patterns)
    folders = {folder: _read_about(folder) for folder in sorted({os.path.dirname(f) for f in files})}
    stated = {folder: about for folder, about in folders.items() if about is not None}
    for folder, about in stated.items():
        _check_digest(about.get("tokenizer_digest"), vocab, os.path.join(folder, RECORDS_JSON))
    runs, skipped = _whole(files) if skip_corrupt_records else ({}, ())
    counts = []
    for file in files:
        count = (folders[os.path.dirname(file)] or {}).get("files", {}).get(os.path.basename(file))
        if runs:
            count = sum(run.count for run in runs[file])
        counts.append(tfrecords.count(file) if count is None else count)
    checks.require(sum(counts), "records must hold at least one instance", f"none in {len(files)} files", files[0])
    objectives = [(about or {}).get("sentence_objective", NEXT_SENTENCE) for about in folders.values()]
    records = RecordSet(
        files=tuple(files),
        counts=tuple(counts),
        layout=features.Layout(max_seq_length, max_predictions_per_seq),
        names={},
        sentence_objective=_the_one("sentence_objective", objectives, folders),
        vocab=vocab,
        tokenizer_digest=_the_one("tokenizer_digest", [a.get("tokenizer_digest") for a in stated.values()], stated),
        about=next(iter(stated.values())) if len(stated) == 1 else None,
        runs=runs,
        skipped=skipped,
    )
    for file, count in zip(files, counts):
        records = _look_at(file, count, records)
    given = {"mask_unit": mask_unit, "masked_lm_prob": masked_lm_prob}
    masking = _masking(records.layout, given, stated, files[0])
    return dataclasses.replace(records, masking=masking, packed=records.layout.max_sequences_per_pack > 0)


def _whole(files):
    """({file: its runs of whole records}, texts of what is damaged), the first empty if nothing is."""
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        found = list(pool.map(tfrecords.whole_runs, files))
    skipped = tuple(text for _, damages in found for text in damages)
    return {file: runs for file, (runs, _) in zip(files, found)} if skipped else {}, skipped


def _read_about(folder):
    path = os.path.join(folder, RECORDS_JSON)
    if not tf.io.gfile.exists(path):
        return None
    try:
        with tf.io.gfile.GFile(path) as f:
            return json.loads(f.read())
    except ValueError as e:  # no JSON, or no UTF-8
        raise checks.error("records.json must hold JSON", str(e), path, "Make the records again") from e


def _check_digest(digest, vocab, where):
    checks.require(
        vocab is None or digest in (None, vocab.digest),
        "records must be made with the tokenizer of the run",
        f"tokenizer {str(digest)[:12]} in the records, {vocab and vocab.digest[:12]} in the run",
        where,
        "Pass the vocabulary that the records were made with, or make the records again with this one",
    )


def _the_one(name, values, folders):
    """The value that all folders state which state one; None if none does."""
    values = sorted({value for value in values if value is not None})
    checks.require(
        len(values) < 2,
        f"all records must be made with one {name}",
        f"{name} {', '.join(str(v)[:12] for v in values)}",
        ", ".join(folders),
    )
    return values[0] if values else None


def _masking(layout, given, stated, where):
    """The `Masking` of unmasked records, None for masked ones."""
    if layout.masked:
        checks.require(
            set(given.values()) == {None},
            "mask_unit and masked_lm_prob are for records that are masked as they are read",
            f"{', '.join(f'{n}={v}' for n, v in given.items() if v is not None)}, and records that are masked already",
            where,
            "Leave the flags out, or make records with --masking=dynamic",
        )
        return None
    found = {}
    for name, value in given.items():
        found[name] = _the_one(name, [about.get(name) for about in stated.values()], stated) if value is None else value
        checks.require(
            found[name] is not None,
            "unmasked records must come with a records.json that says how to mask them, or with the flag",
            f"no {name}",
            where,
            f"Pass --{name}",
        )
    checks.require(
        found["mask_unit"] in selection.UNITS,
        f"mask_unit must be one of {', '.join(selection.UNITS)}",
        f"mask_unit={found['mask_unit']!r}",
        where,
    )
    return Masking(found["mask_unit"], float(found["masked_lm_prob"]))


def _look_at(file, count, records):
    """Checks the first records of a file; returns the `RecordSet` with the layout and names that they have."""
    try:
        raw = list(tfrecords.reader(records.runs)(file).take(LOOK_AT).as_numpy_iterator())
    except tf.errors.OpError as e:
        raise tfrecords.damage(file) or checks.error(
            "record files must be readable", tfrecords.first_line(e), file
        ) from e
    if len(raw) != min(LOOK_AT, count):
        raise tfrecords.miscounted(file, count)
    for number, serialized in enumerate(raw):
        where = f"record {number} of {file}"
        try:
            lengths = features.stored_lengths(serialized)
        except message.DecodeError as e:
            raise checks.error("records must be tf.train.Examples", str(e), where) from e
        layout, names = features.recognize(lengths, where)
        if not records.names:
            sizes = {name: getattr(records.layout, name) for name in ("max_seq_length", "max_predictions_per_seq")}
            records = dataclasses.replace(records, names=names, layout=dataclasses.replace(layout, **sizes))
        checks.require(names == records.names, "all records must use the same feature names", names, where)
        _check_lengths(lengths, records, where)
    if raw:
        try:
            parser(records)(tf.constant(raw))
        except tf.errors.InvalidArgumentError as e:
            raise checks.error("records must be usable", _sentence(e) or tfrecords.first_line(e), file, _DO) from e
    return records


def _check_lengths(lengths, records, where):
    flags = {"L": "max_seq_length", "P": "max_predictions_per_seq"}
    for feature in records.layout.features:
        want = math.prod(records.layout.shape_of(feature))
        got, flag = lengths[records.names[feature.name]], flags.get(feature.shape[0])
        checks.require(
            got == want,
            f"{flag} must be what the records were made with"
            if flag
            else f"all {feature.name} must hold {want} values",
            f"{flag}={want}, and {got} values of {feature.name}" if flag else f"{got} values",
            where,
            f"Pass --{flag}={got}, or make the records again" if flag else "Make the records again",
        )


_DO = "The records were made with another vocabulary or by another program"


def parser(records):
    """The function serialized [B] -> {name: [B, ...]} that refuses numbers out of their range."""
    length, examples = records.layout.max_seq_length, records.layout.max_sequences_per_pack
    # Looked up in tables of the model, where a GPU answers zeros for what lies beyond.
    ids = (None if records.vocab is None else len(records.vocab), "vocab_size")
    bounds = {
        "input_ids": ids,
        "masked_lm_ids": ids,
        "masked_lm_positions": (length, "max_seq_length"),
        "input_mask": (examples + 1, "max_sequences_per_pack") if examples else (2, "0 or 1"),
        "segment_ids": (2, "0 or 1"),
        "word_starts": (2, "0 or 1"),
        "position_ids": (length, "max_seq_length"),
        "next_sentence_positions": (length, "max_seq_length"),
        "next_sentence_labels": (2, "0 or 1"),
    }

    def parse(serialized):
        parsed = features.parse_batch(serialized, records.layout, records.names)
        for name, (bound, what) in bounds.items():
            if bound is None or name not in parsed:
                continue
            low, high = tf.reduce_min(parsed[name]), tf.reduce_max(parsed[name])
            worst = tf.where(low < 0, low, high)
            text = tf.strings.format(f"{name} must be at least 0 and less than {bound} ({what}); got {{}}", worst)
            tf.debugging.Assert((low >= 0) & (high < bound), [text])
        return parsed

    return parse


def _sentence(error):
    """The sentence of a failed check of `parser`, or None."""
    found = re.search(r"\w+ must be at least 0 and less than .*?; got -?\d+", error.message)
    return found and found.group()


@contextlib.contextmanager
def clear_errors(records):
    """Within it, what tf.data finds wrong with the records becomes an `InputError` that names the file.

    tf.data tells neither the file nor the record, so the files are read again to find it. Errors that do
    not come from the records pass through as they are.
    """
    try:
        yield
    except (tf.errors.DataLossError, tf.errors.InvalidArgumentError, tf.errors.FailedPreconditionError) as e:
        raise _explain(e, records) or e from e


def _explain(error, records):
    if isinstance(error, tf.errors.DataLossError):
        return next(filter(None, map(tfrecords.damage, records.files)), None)
    if isinstance(error, tf.errors.FailedPreconditionError) and "was expected to contain" in error.message:
        return next(filter(None, map(tfrecords.miscounted, records.files, records.counts)), None)
    if isinstance(error, tf.errors.InvalidArgumentError):
        if sentence := _sentence(error):
            return checks.InputError(
                f"{sentence} (in one of {len(records.files)} files from {records.files[0]}). {_DO}."
            )
        if re.search("parse (serialized Example|example input)", error.message):
            where = f"one of {len(records.files)} files from {records.files[0]}"
            return checks.error("all records must have the same features", tfrecords.first_line(error), where, _DO)
    return None


def for_evaluation(records, objective):
    """Records as a run that is trained for a sentence_objective is evaluated on them.

    A run without one leaves their sentence labels out: so every run can be compared on the same records.

    Raises:
        InputError: the run has an objective, and the records have another or none.
    """
    if objective == NO_SENTENCES:
        return dataclasses.replace(records, sentence_objective=NO_SENTENCES)
    checks.require(
        records.sentence_objective == objective,
        "records to evaluate on must have the sentence_objective that the run is trained for",
        f"{records.sentence_objective}, and {objective} in the run",
        records.files[0],
    )
    return records


def about(records):
    """What config.json keeps of records, so that a run goes on only with the same ones."""
    if records is None:
        return None
    files = {os.path.basename(f): n for f, n in zip(records.files, records.counts)}
    size = sum(tf.io.gfile.stat(f).length for f in records.files)
    kept = {"files": files, "instances": records.total, "bytes": size, "tokenizer_digest": records.tokenizer_digest}
    # What is not as in Google's records.
    if records.layout.max_sequences_per_pack:
        kept["max_sequences_per_pack"] = records.layout.max_sequences_per_pack
    if records.sentence_objective != NEXT_SENTENCE:
        kept["sentence_objective"] = records.sentence_objective
    if records.masking:
        kept["masking"] = records.masking._asdict()
    if records.skipped:
        kept["skipped"] = list(records.skipped)
    return kept
