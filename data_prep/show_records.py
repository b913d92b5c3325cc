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

# By sentence objective: what the label is of, and what 0 and 1 say. Records of other programs are for NSP.
LABELS = {
    "nsp": ("next sentence", ("is next", "random")),
    "sop": ("sentence order", ("in order", "swapped")),
    "none": None,
}
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


def _about(file, vocabulary):
    """The records.json beside a file, or {}; raises `InputError` if it names another tokenizer."""
    path = os.path.join(os.path.dirname(file), RECORDS_FILE)
    if not os.path.isfile(path):
        return {}
    with open(path, encoding="utf-8") as f:
        about = json.load(f)
    digest = about.get("tokenizer_digest")
    checks.require(
        digest in (None, vocabulary.digest),
        "vocab_file must be the vocabulary that the records were made with",
        f"tokenizer {vocabulary.digest[:12]}, and {str(digest)[:12]} in {RECORDS_FILE}",
        file,
    )
    return about


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
                _, names = features.recognize(stored, f"{file}, record {number}")
                columns = tf.train.Example.FromString(serialized).features.feature
                values = {ours: columns[name] for ours, name in names.items()}
                yield (
                    file,
                    number,
                    {k: list(v.float_list.value or v.int64_list.value) for k, v in values.items()},
                )
        except tf.errors.OpError as e:
            raise checks.error("record files must be whole TFRecord files", e.message, file) from e


def _painted(text, paint):
    return f"{paint}{text}{_PLAIN}" if paint else text


def _words(positions, record, truth, vocabulary, colour):
    """The tokens at the positions as a line of words; a masked one as {what the model sees -> truth}.

    Args:
        positions: Of one segment.
        record: {name: list of values}, as `read` yields.
        truth: {masked position: token}.
        vocabulary: `Vocab`.
        colour: Whether to mark with a terminal's colours.
    """
    words, joins = [], False  # whether a token can continue the word before it
    for position in positions:
        token = vocabulary.tokens[record["input_ids"][position]]
        special = token in vocab.SPECIAL_TOKENS
        if "word_starts" in record:
            continues = not record["word_starts"][position]
        else:
            continues = token.startswith(vocab.SUFFIX)
        if position in truth:
            seen, hidden = (_RED if token == vocab.MASK else _BLUE, _GREEN) if colour else ("", "")
            words.append("{" + _painted(token, seen) + " -> " + _painted(truth[position], hidden) + "}")
        elif continues and joins:
            words[-1] += token.removeprefix(vocab.SUFFIX)
        else:
            words.append(_painted(token, _DIM if special and colour else ""))
        joins = not special and position not in truth
    return " ".join(words)


def _examples(record):
    """[(positions of an example, its label)] of a row."""
    numbers, labels = record["input_mask"], record["next_sentence_labels"]
    if "next_sentence_weights" not in record:
        return [(range(sum(numbers)), labels[0])]
    count = sum(weight > 0 for weight in record["next_sentence_weights"])
    places = [[i for i, n in enumerate(numbers) if n == number] for number in range(1, count + 1)]
    return list(zip(places, labels))


def show(record, vocabulary, objective="nsp", colour=False):
    """One record as text: tokens joined to words, each masked position as {what the model sees -> truth}.

    Args:
        record: {name: list of values}, as `read` yields.
        vocabulary: `Vocab`.
        objective: What next_sentence_labels are: a key of `LABELS`.
        colour: Whether to mark with a terminal's colours.

    Returns:
        The text: a line of numbers, then for each example in the row a line a segment.
    """
    ids = record["input_ids"]
    largest = max([*ids, *record.get("masked_lm_ids", ())])
    checks.require(
        largest < len(vocabulary),
        "the ids of records must be below the vocabulary's size",
        f"id {largest}, vocabulary of {len(vocabulary)}",
        do="Give the vocabulary that the records were made with",
    )
    columns = [record.get(f"masked_lm_{name}", ()) for name in ("positions", "ids", "weights")]
    truth = {p: vocabulary.tokens[i] for p, i, weight in zip(*columns) if weight}
    examples, packed = _examples(record), "next_sentence_weights" in record
    about = f"{sum(n > 0 for n in record['input_mask'])} of {len(ids)} tokens"
    about += f" in {len(examples)} examples" if packed else ""
    about += f", {len(truth)} masked of at most {len(columns[0])}" if "masked_lm_ids" in record else ", not masked"
    lines = [about]
    for number, (positions, label) in enumerate(examples, 1):
        said = [f"example {number}: {len(positions)} tokens"] if packed else []
        if LABELS[objective]:
            what, meanings = LABELS[objective]
            said.append(f"{what}: {label} ({meanings[label] if label < len(meanings) else 'no label of ours'})")
        if packed:
            lines.append("; ".join(said))
        else:
            lines[0] = "; ".join([about, *said])
        for segment, name in enumerate("AB"):
            inside = [p for p in positions if record["segment_ids"][p] == segment]
            if inside:
                lines.append(f"{name}: {_words(inside, record, truth, vocabulary, colour)}")
    return "\n".join(lines)


def run(cfg):
    """Prints the first records of a `Config`; returns how many there were to print."""
    vocabulary = vocab.load(cfg.vocab_file)
    files = _files(cfg.input_file)
    objectives = {file: _about(file, vocabulary).get("sentence_objective", "nsp") for file in files}
    shown = 0
    for file, number, record in itertools.islice(read(files), cfg.num):
        print(f"{file}, record {number}: {show(record, vocabulary, objectives[file], sys.stdout.isatty())}\n")
        shown += 1
    checks.require(shown, "record files must hold records", "none", ", ".join(files))
    return shown


def main(_):
    """Runs the program with its flags."""
    run(config.from_flags(Config))


if __name__ == "__main__":
    config.define_flags(Config)
    checks.run_program(main)
