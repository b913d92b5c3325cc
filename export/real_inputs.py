"""Real texts of a run as an export takes them: what its scales are taken from, and what it is scored on.

Of a fine-tuned run they are the examples of a file; of a pre-trained one, records, whose wordpieces are put together to
texts again. As ids they are the rows that the model itself is evaluated on.
"""

from typing import NamedTuple

import numpy as np

from export import states
from tfbert import checks, input_pipeline, record_sets
from tfbert.tasks import kinds

CHUNK = 64  # records that are read at once


class Masked(NamedTuple):
    """A record.

    Attributes:
        ids: int32 [L], its wordpieces, as they are masked.
        segments: int32 [L].
        answers: int32 [P], what stood at the `[MASK]`s among them, from the left.
    """

    ids: np.ndarray
    segments: np.ndarray
    answers: np.ndarray


def records(run, patterns, count=None):
    """The first records of files, all of them if `count` is None: list of `Masked`.

    Args:
        run: The `run_folder.RunFolder` of a pre-trained model.
        patterns: Globs of record files with masks in them.
        count: The most records.

    Raises:
        InputError: they do not fit the run, are not masked, or are packed.
    """
    lengths = [run.config.get("pretrain", {}).get(n) for n in ("max_seq_length", "max_predictions_per_seq")]
    checks.require(all(lengths), "records are for runs that were pre-trained here", "converted weights", run.dir)
    found = record_sets.open_records(patterns, *lengths, run.vocab)
    checks.require(not found.packed, "records must have one example in a row", "packed rows", found.files[0])
    batches = None if count is None else -(-count // CHUNK)
    rows = []
    with record_sets.clear_errors(found):
        for batch in input_pipeline.eval_dataset(found, CHUNK, batches).as_numpy_iterator():
            for i in np.flatnonzero(batch["example_weights"]):
                rows.append(_masked({name: values[i] for name, values in batch.items()}, run.vocab.mask_id))
    return rows[:count]


def _masked(record, mask_id):
    """The `Masked` of a record's features; positions that are masked by another word, or by none, are not asked."""
    length = int((record["input_mask"] > 0).sum())
    ids = record["input_ids"][:length].astype(np.int32)
    original = ids.copy()
    slots = record["masked_lm_weights"] > 0
    original[record["masked_lm_positions"][slots]] = record["masked_lm_ids"][slots]
    return Masked(ids, record["segment_ids"][:length].astype(np.int32), original[ids == mask_id])


def _row(ids, segments):
    """The inputs of `from_ids` for one row."""
    ids = np.asarray(ids, np.int32)[np.newaxis]
    return {
        "input_ids": ids,
        "input_mask": np.ones_like(ids),
        "segment_ids": np.asarray(segments, np.int32)[np.newaxis],
    }


def of_record(record, vocab, with_ids):
    """The inputs of one record: ids as they are, or the text that they are of."""
    if with_ids:
        return _row(record.ids, record.segments)
    return {"text": np.array([states.written(record.ids, vocab).encode()], object)}


def columns(kind, example):
    """The texts of a task's example: a tuple of str, in the order of what an export takes."""
    if kind == "answer":
        return example.question, example.context
    if kind == "tag":
        return (" ".join(example.words),)
    return (example.text,) if example.text_pair is None else (example.text, example.text_pair)


def rows_of(answering, task, examples):
    """(the `task.Rows` of examples, the inputs of `from_ids` for each of its rows, one after another)."""
    rows = task.featurize(examples, answering.tokenizer, answering.max_seq_length, False)
    parts = [slice(a, b) for a, b in zip(rows.splits, rows.splits[1:])]
    return rows, (_row(rows.tokens["input_ids"][p], rows.tokens["segment_ids"][p]) for p in parts)


def _default_file(run):
    """The file that a run was trained on; "" if its config does not tell."""
    if "task" in run.config:
        return run.config.get("finetune", {}).get("train_file", "")
    return ",".join(run.config.get("pretrain", {}).get("input_file", ()))


def calibration(ready, file, count, signatures):
    """What the scales of an export's activations are taken from.

    Args:
        ready: The `prepared.Prepared`.
        file: The file, or a glob of records; "" for what the run was trained on.
        count: How many examples or records, evenly from all examples, or the first records.
        signatures: Names of the export's signatures.

    Returns:
        {signature: list of {input name: array of one row}} of those that have a model in them.

    Raises:
        InputError: no such file, or none of its own kind.
    """
    run, answering = ready.run, ready.answering
    path = file or _default_file(run)
    do = "Give --calibration_file: a file as of training, or records"
    checks.require(path, "full int8 needs real texts to take its scales from", "none", run.dir, do)
    task, vocab = kinds.of_run(run), run.vocab
    if task is None:
        found = records(run, path, count)
        texts = [(states.written(record.ids, vocab),) for record in found]
        rows = [of_record(record, vocab, True) for record in found]
    else:
        examples = task.read(path)
        examples = examples[:: max(1, len(examples) // count)][:count]
        texts = [columns(task.kind, example) for example in examples]
        rows = rows_of(answering, task, examples)[1] if "from_ids" in signatures else ()
    asked = {"from_ids": list(rows)[:count]}
    for name, names in (("serving_default", answering.inputs), ("embed", ("text",)), ("encode", ("text",))):
        asked[name] = [{n: np.array([t.encode()], object) for n, t in zip(names, row)} for row in texts]
    return {name: requests for name, requests in asked.items() if name in signatures}
