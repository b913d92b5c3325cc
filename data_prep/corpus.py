"""Where text comes from: files, the embedded documentation, or TensorFlow Datasets.

Every source gives documents, each a list of sentences, in an order that is always the same, and is cut
into spans that can be read each by itself, by any process, to the same documents. What held-out means is
decided here, by content alone, so that no program can mix it up.
"""

import collections
import dataclasses
import hashlib
from typing import NamedTuple

from data_prep import datasets, json_lines, pydocs, seen, sentences, storage, tables, text_files, texts
from data_prep.text_files import Span
from tfbert import checks
from tfbert.config import check_bounds, field

SOURCES = ("text", "pydocs", "tfds", "jsonl", "parquet")
FILE_SOURCES = ("text", "jsonl", "parquet")
ENDINGS = {".jsonl": "jsonl", ".jsonl.gz": "jsonl", ".json.gz": "jsonl", ".parquet": "parquet"}
COUNTS = (
    "documents_read",
    "documents_empty",
    "documents_duplicate",
    "documents_train",
    "documents_held_out",
    "sentences",
    "bytes",
)


@dataclasses.dataclass(frozen=True)
class CorpusConfig:
    """Which text, and how much of it is held out."""

    source: str | None = field(
        None,
        "Where text comes from; default: tfds with --tfds, and with --input_file what its ending says: jsonl for "
        ".jsonl, .jsonl.gz and .json.gz, parquet for .parquet, else text.",
        choices=SOURCES,
    )
    input_file: tuple[str, ...] = field(
        (),
        "Files or globs. source=text: plain or .gz; one sentence a line, a blank line between documents. "
        "source=jsonl: plain or .gz; one document a line. source=parquet: one document a row.",
    )
    split_sentences: bool = field(
        False, "source=text: lines are paragraphs of raw prose, which are split into sentences."
    )
    text_feature: str = field(
        "text", "source=jsonl, parquet: key or column of the text; a.b is the key b in the JSON object under a."
    )
    tfds: str = field("", "source=tfds: a dataset of TensorFlow Datasets, e.g. wikipedia/20230601.en.")
    tfds_split: str = field("train", "source=tfds: its split.")
    tfds_feature: str = field("text", "source=tfds: its feature that holds the text of a document.")
    tfds_data_dir: str = field("", "source=tfds: the folder of prepared datasets; TFDS's own default if empty.")
    tfds_download: bool = field(False, "source=tfds: download and prepare the dataset if it is not there.")
    errors: str = field(
        "strict", "Text that is not UTF-8: an error, or U+FFFD in its place.", choices=("strict", "replace")
    )
    dedup: str = field(
        "document",
        "Exact repetitions to drop: documents, single sentences wherever they stand, or none.",
        choices=("document", "sentence", "none"),
    )
    held_out_fraction: float = field(
        0.02, "Share of documents that are held out, chosen by a hash of their text.", lower_bound=0.0, upper_bound=1.0
    )

    def __post_init__(self):
        check_bounds(self)
        if self.source is None:
            object.__setattr__(self, "source", "tfds" if self.tfds else self._source_of_files())
        checks.require(
            self.source is not None,
            "a corpus must be given",
            "neither input_file nor tfds",
            do="Pass --input_file=FILES, --tfds=NAME, or --source=pydocs for the documentation of installed packages",
        )
        for sources, flag in ((FILE_SOURCES, "input_file"), (("tfds",), "tfds")):
            checks.require(
                bool(getattr(self, flag)) == (self.source in sources),
                f"--{flag} must be given with --source={'|'.join(sources)}, and only then",
                f"source={self.source}, {flag}={getattr(self, flag)!r}",
            )
        checks.require(
            self.source == "text" or not self.split_sentences,
            "--split_sentences is for text files; the other sources are always split",
            f"source={self.source}, split_sentences=True",
        )
        checks.require(
            self.source in ("jsonl", "parquet") or self.text_feature == "text",
            "--text_feature must be given with --source=jsonl|parquet only",
            f"source={self.source}, text_feature={self.text_feature!r}",
        )

    def _source_of_files(self):
        """The source that all of `input_file` ends like, or None if there is none."""
        found = {}
        for pattern in self.input_file:
            ending = next((e for e in ENDINGS if pattern.endswith(e)), "")
            found[ENDINGS.get(ending, "text")] = pattern
        checks.require(
            len(found) < 2,
            "input_file must be of one kind, or its kind be given",
            " and ".join(f"{pattern} ({source})" for source, pattern in found.items()),
            do="Pass --source, or prepare them one after another",
        )
        return next(iter(found), None)


class Document(NamedTuple):
    """A document: its sentences (UTF-8, stripped, none empty), and where it was read."""

    sentences: list
    where: str


class HeldDocument(NamedTuple):
    """A document with its side."""

    sentences: list
    held_out: bool
    where: str


def spans(config):
    """The parts of a corpus that can be read by themselves, in its order.

    They follow from the config and the inputs alone: of text files about 4 MB each, of large corpora
    1/4096; of gzipped files and pydocs the whole; of Parquet files row groups; of TFDS examples.

    Args:
        config: A `CorpusConfig`.

    Returns:
        A list of `Span`.

    Raises:
        InputError: an input is not there or cannot be read.
    """
    if config.source == "pydocs":
        return [Span("pydocs", 0, 1)]
    if config.source == "tfds":
        return datasets.spans(config)
    files = text_files.input_files(config.input_file)
    return tables.spans(config, files) if config.source == "parquet" else text_files.spans(files)


def identity(config):
    """What says which input it is, as JSON can hold it: a run that goes on must find the same.

    Args:
        config: A `CorpusConfig`.

    Returns:
        A list: [name, bytes, time of change in ns] for each file, [name, version] for what pydocs reads,
        and [name with version, split, feature, examples] for a dataset.
    """
    if config.source == "pydocs":
        return pydocs.versions()
    if config.source == "tfds":
        return datasets.identity(config)
    return [[path, *storage.size_and_time(path)] for path in text_files.input_files(config.input_file)]


def read(config, span, counts):
    """Streams the documents of a span, empty ones and repeated ones too.

    Memory holds some megabytes, whatever there is to read: a line or paragraph of more than
    `texts.MAX_LINE` becomes several sentences, a document of more than `texts.MAX_DOCUMENT` several
    documents, and nothing is dropped.

    Args:
        config: A `CorpusConfig`.
        span: One of `spans(config)`.
        counts: A Counter; gets documents_read (a document that was cut counts as often as it has pieces),
            documents_empty, sentences, bytes (with a line end each), lines_cut (lines that were),
            documents_cut (the cuts), with --errors=replace characters_replaced and texts_replaced, and a
            source's own.

    Yields:
        `Document`s, in the order of the span.

    Raises:
        InputError: the input cannot be read or is not UTF-8.
    """
    for where, found in _found(config, span, counts):
        counts["documents_read"] += 1
        if not found:
            counts["documents_empty"] += 1
        counts["sentences"] += len(found)
        counts["bytes"] += sum(map(len, found)) + len(found)
        yield Document(found, where)


def _found(config, span, counts):
    """(where, sentences) of a span."""
    if config.source == "pydocs":
        return pydocs.documents(counts)
    if config.source == "text":
        found = text_files.documents(span, config.errors, counts)
        return sentences.split_documents(found) if config.split_sentences else found
    source = {"jsonl": json_lines, "parquet": tables, "tfds": datasets}[config.source]
    found = (
        (where, piece)
        for where, paragraphs in source.documents(config, span, counts)
        for piece in texts.cut_document(paragraphs, counts)
    )
    return sentences.split_documents(found)


def digest(sentences):
    """16 bytes that are the same for documents of the same text.

    Args:
        sentences: List of bytes.
    """
    return hashlib.blake2b(b"\n".join(sentences), digest_size=16).digest()


def is_held_out(whole, fraction):
    """Whether a document is held out: its sha256 as a number in [0, 1) is below the fraction.

    The same document falls on the same side in every corpus, order and run, and what is held out at a
    small fraction is held out at a larger one.

    Args:
        whole: The document's sentences, joined by line feeds.
        fraction: In [0, 1].
    """
    number = int.from_bytes(hashlib.sha256(b"held out\0" + whole).digest()[:8], "big")
    return number < fraction * 2**64


def documents(config, counts):
    """Streams the documents of a whole corpus, one span after another, without repetitions.

    With --dedup=sentence a document is held out or not by all of its text, also by what is dropped.
    Memory holds what `read` does, and 16 bytes for each document or sentence that was read.

    Args:
        config: A `CorpusConfig`.
        counts: A Counter; gets `COUNTS`: documents_read = documents_empty (no text, or for pydocs too
            little) + documents_duplicate (no text that is new) + documents_train + documents_held_out, and
            of the last two the sentences and bytes; with --dedup=sentence sentences_duplicate of all;
            and what `read` counts beside.

    Yields:
        `HeldDocument`s, in a fixed order.

    Raises:
        InputError: an input cannot be read or is not UTF-8, or there is no document in all of it.
    """
    known = seen.Seen()
    counts.update(dict.fromkeys(COUNTS, 0))
    for span in spans(config):
        yield from without(config, span, lambda _, text: not known.add(text), counts)
    check_documents(config, counts)


def check_documents(config, counts):
    """Raises `InputError` unless there is a document in all of a corpus, by what `documents` counts."""
    checks.require(
        counts["documents_train"] + counts["documents_held_out"],
        "a corpus must hold at least one document",
        f"{counts['documents_read']} documents, {counts['documents_empty']} of them without text",
        ", ".join(config.input_file) or config.tfds or config.source,
    )


def without(config, span, again, counts):
    """Streams the documents of a span without repetitions.

    Args:
        config: A `CorpusConfig`.
        span: One of `spans(config)`.
        again: A function that tells whether a document, or with --dedup=sentence a sentence, comes again: from
            its number among those of the span and its text.
        counts: As of `documents`.

    Yields:
        `HeldDocument`s.
    """
    found, number, of_sentences = collections.Counter(), 0, config.dedup == "sentence"
    for sentences_, where in read(config, span, found):
        counts["documents_read"] += 1
        if not sentences_:
            counts["documents_empty"] += 1
            continue
        whole = b"\n".join(sentences_)
        held_out, new = is_held_out(whole, config.held_out_fraction), sentences_
        if of_sentences:
            new = [s for i, s in enumerate(sentences_, number) if not again(i, s)]
            counts["sentences_duplicate"] += len(sentences_) - len(new)
        elif config.dedup == "document" and again(number, whole):
            new = []
        number += len(sentences_) if of_sentences else 1
        if not new:
            counts["documents_duplicate"] += 1
            continue
        counts["documents_held_out" if held_out else "documents_train"] += 1
        counts["sentences"] += len(new)
        counts["bytes"] += sum(map(len, new)) + len(new)
        yield HeldDocument(new, held_out, where)
    counts.update({name: n for name, n in found.items() if name not in COUNTS})
