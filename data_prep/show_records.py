"""Shows pre-training records as a person reads them: `python -m data_prep.show_records --help`."""

from tfbert import quiet  # isort: skip  # noqa: F401

import dataclasses
import glob
import itertools
import json
import os
import sys

import tensorflow as tf
from google.protobuf import message

from data_prep.record_files import RECORDS_FILE
from tfbert import checks, config, features
from tfbert.config import field
from tfbert.text import vocab

LABELS = {0: "is next", 1: "random"}
_RED, _GREEN, _BLUE, _DIM, _PLAIN = "\x1b[31m", "\x1b[32m", "\x1b[34m", "\x1b[2m", "\x1b[0m"


@dataclasses.dataclass(frozen=True)
class Config:
    """What to show."""

    input_file: tuple[str, ...] = field((), "Record files: comma-separated names and globs.")
    vocab_file: str = field("", "vocab.txt of the records, or the folder that holds it.")
    num: int = field(3, "Records to show, from the start.", lower_bound=1)

    def __post_init__(self):
        config.check_bounds(self)


def _files(patterns):
    files = [name for pattern in patterns for name in sorted(glob.glob(pattern))]
    checks.require(
        files,
        "input_file must name record files",
        f"input_file={','.join(patterns)!r}, which matches none",
        do="Make records with python -m data_prep.create_pretraining_data",
    )
    return files


def _check_tokenizer(file, vocabulary):
    """Raises `InputError` if the records.json beside a file names another tokenizer."""
    path = os.path.join(os.path.dirname(file), RECORDS_FILE)
    if not os.path.isfile(path):
        return
    with open(path, encoding="utf-8") as f:
        digest = json.load(f).get("tokenizer_digest")
    checks.require(
        digest in (None, vocabulary.digest),
        "vocab_file must be the vocabulary that the records were made with",
        f"tokenizer {vocabulary.digest[:12]}, and {str(digest)[:12]} in {RECORDS_FILE}",
        file,
    )


def read(files):
    """Yields (file, number in the file, {our name: list of values}) of every record.

    Raises:
        InputError: a file is no TFRecord file, or holds other features.
    """
    for file in files:
        try:
            for number, serialized in enumerate(tf.data.TFRecordDataset(file).as_numpy_iterator()):
                try:
                    stored = features.stored_lengths(serialized)
                except message.DecodeError as e:
                    raise checks.error("a record must be a tf.train.Example", str(e), f"{file}, record {number}") from e
                names = features.names_of(stored, f"{file}, record {number}")
                columns = tf.train.Example.FromString(serialized).features.feature
                values = {ours: columns[name] for ours, name in names.items()}
                yield (
                    file,
                    number,
                    {k: list(v.float_list.value or v.int64_list.value) for k, v in values.items()},
                )
        except tf.errors.OpError as e:
            raise checks.error("record files must be whole TFRecord files", e.message, file) from e


def show(record, vocabulary, colour=False):
    """One record as text: tokens joined, each masked position as {what the model sees -> truth}.

    Args:
        record: {name: list of values}, as `read` yields.
        vocabulary: `Vocab`.
        colour: Whether to mark with a terminal's colours.

    Returns:
        The text, of one line a segment and one of numbers.
    """
    ids, real = record["input_ids"], sum(record["input_mask"])
    largest = max([*ids, *record["masked_lm_ids"]])
    checks.require(
        largest < len(vocabulary),
        "the ids of records must be below the vocabulary's size",
        f"id {largest}, vocabulary of {len(vocabulary)}",
        do="Give the vocabulary that the records were made with",
    )

    def painted(text, paint):
        return f"{paint}{text}{_PLAIN}" if colour else text

    columns = (record["masked_lm_positions"], record["masked_lm_ids"], record["masked_lm_weights"])
    truth = {p: vocabulary.tokens[i] for p, i, weight in zip(*columns) if weight}
    segments = {0: [], 1: []}
    joins = False  # whether a ## piece continues the word before it
    for position in range(real):
        words = segments[record["segment_ids"][position]]
        token = vocabulary.tokens[ids[position]]
        masked = position in truth
        if masked:
            paint = _RED if token == vocab.MASK else _BLUE
            words.append("{" + painted(token, paint) + " -> " + painted(truth[position], _GREEN) + "}")
        elif token.startswith(vocab.SUFFIX) and words and joins:
            words[-1] += token[len(vocab.SUFFIX) :]
        else:
            words.append(painted(token, _DIM) if token in vocab.SPECIAL_TOKENS else token)
        joins = not masked and token not in vocab.SPECIAL_TOKENS
    label = record["next_sentence_labels"][0]
    about = f"{real} of {len(ids)} tokens, {len(truth)} masked of at most {len(columns[0])}"
    next_sentence = f"next sentence: {label} ({LABELS.get(label, 'no label of ours')})"
    lines = [f"{name}: {' '.join(words)}" for name, words in zip("AB", segments.values()) if words]
    return "\n".join([f"{about}; {next_sentence}", *lines])


def run(cfg):
    """Prints the first records of a `Config`; returns how many there were to print."""
    vocabulary = vocab.load(cfg.vocab_file)
    files = _files(cfg.input_file)
    for file in files:
        _check_tokenizer(file, vocabulary)
    shown = 0
    for file, number, record in itertools.islice(read(files), cfg.num):
        print(f"{file}, record {number}: {show(record, vocabulary, sys.stdout.isatty())}\n")
        shown += 1
    checks.require(shown, "record files must hold records", "none", ", ".join(files))
    return shown


def main(_):
    """Runs the program with its flags."""
    run(config.from_flags(Config))


if __name__ == "__main__":
    config.define_flags(Config)
    checks.run_program(main)
