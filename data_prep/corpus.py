"""Where text comes from: files, the embedded documentation, or TensorFlow Datasets.

Every source gives documents, each a list of sentences, in an order that is always the same. What
held-out means is decided here, by content alone, so that no program can mix it up.
"""

import dataclasses
import glob
import gzip
import hashlib
import os
import zlib
from typing import NamedTuple

from data_prep import pydocs, seen, sentences
from tfbert import checks
from tfbert.config import check_bounds, field

SOURCES = ("text", "pydocs", "tfds")
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
        None, "Where text comes from; default: text with --input_file, tfds with --tfds.", choices=SOURCES
    )
    input_file: tuple[str, ...] = field(
        (), "source=text: files or globs, plain or .gz; one sentence a line, a blank line between documents."
    )
    split_sentences: bool = field(
        False, "source=text: lines are paragraphs of raw prose, which are split into sentences."
    )
    tfds: str = field("", "source=tfds: a dataset of TensorFlow Datasets, e.g. wikipedia/20230601.en.")
    tfds_split: str = field("train", "source=tfds: its split.")
    tfds_feature: str = field("text", "source=tfds: its feature that holds the text of a document.")
    tfds_data_dir: str = field("", "source=tfds: the folder of prepared datasets; TFDS's own default if empty.")
    tfds_download: bool = field(False, "source=tfds: download and prepare the dataset if it is not there.")
    held_out_fraction: float = field(
        0.02, "Share of documents that are held out, chosen by a hash of their text.", lower_bound=0.0, upper_bound=1.0
    )

    def __post_init__(self):
        check_bounds(self)
        given = {"text": bool(self.input_file), "tfds": bool(self.tfds)}
        if self.source is None:
            object.__setattr__(self, "source", next((s for s, is_given in given.items() if is_given), None))
        checks.require(
            self.source is not None,
            "a corpus must be given",
            "neither input_file nor tfds",
            do="Pass --input_file=FILES, --tfds=NAME, or --source=pydocs for the documentation of installed packages",
        )
        for source, flag in (("text", "input_file"), ("tfds", "tfds")):
            checks.require(
                given[source] == (self.source == source),
                f"--{flag} must be given with --source={source}, and only then",
                f"source={self.source}, {flag}={getattr(self, flag)!r}",
            )
        checks.require(
            self.source == "text" or not self.split_sentences,
            "--split_sentences is for text files; the other sources are always split",
            f"source={self.source}, split_sentences=True",
        )


class Document(NamedTuple):
    """A document: its sentences (UTF-8, none empty), its side, and where it was read."""

    sentences: list
    held_out: bool
    where: str


def documents(config, counts):
    """Streams the documents of a corpus.

    Exact duplicates of a document are dropped. Memory holds one document (or one batch of them where
    sentences are split) and 16 bytes for each document that was read.

    Args:
        config: A `CorpusConfig`.
        counts: A Counter; gets `COUNTS`: documents_read = documents_empty (no text, or for pydocs too
            little) + documents_duplicate + documents_train + documents_held_out, and of the last two the
            sentences and bytes. A source may add its own.

    Yields:
        `Document`s, in a fixed order.

    Raises:
        InputError: an input cannot be read or is not UTF-8, or there is no document in all of it.
    """
    read = {"text": _text, "pydocs": _pydocs, "tfds": _tfds}[config.source]
    known = seen.Seen()
    counts.update(dict.fromkeys(COUNTS, 0))
    for where, texts in read(config, counts):
        counts["documents_read"] += 1
        if not texts:
            counts["documents_empty"] += 1
            continue
        whole = b"\n".join(texts)
        if not known.add(whole):
            counts["documents_duplicate"] += 1
            continue
        held_out = is_held_out(whole, config.held_out_fraction)
        counts["documents_held_out" if held_out else "documents_train"] += 1
        counts["sentences"] += len(texts)
        counts["bytes"] += len(whole) + 1
        yield Document(texts, held_out, where)
    checks.require(
        counts["documents_train"] + counts["documents_held_out"],
        "a corpus must hold at least one document",
        f"{counts['documents_read']} documents, {counts['documents_empty']} of them without text",
        ", ".join(config.input_file) or config.tfds or config.source,
    )


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


def _pydocs(config, counts):
    del config
    return pydocs.documents(counts)


def input_files(patterns):
    """The files of globs, each once, in the order of the globs and by name within one.

    Raises:
        InputError: a glob matches nothing, or what it matches is no file.
    """
    files = {}
    for pattern in patterns:
        matches = [pattern] if os.path.exists(pattern) else sorted(glob.glob(pattern, recursive=True))
        checks.require(matches, "input_file must match at least one file", "none", pattern, "Check the path")
        for path in matches:
            checks.require(not os.path.isdir(path), "input_file must match files only", "a folder", path, "Add /*")
            files.setdefault(os.path.realpath(path), path)
    return list(files.values())


def _lines(path):
    """(line number, line as str) of a plain or gzipped file, without line ends."""
    number = 0
    try:
        with (gzip.open if path.endswith(".gz") else open)(path, "rb") as f:
            for number, line in enumerate(f, 1):
                if number == 1:
                    line = line.removeprefix(b"\xef\xbb\xbf")  # byte order mark
                yield number, line.decode().strip()
    except UnicodeDecodeError as e:
        raise checks.error(
            "input_file must be UTF-8",
            f"byte 0x{e.object[e.start]:02x} at byte {e.start + 1} of the line",
            f"{path}, line {number}",
            "Convert it, e.g. with iconv -f LATIN1 -t UTF-8",
        ) from e
    except (EOFError, zlib.error, gzip.BadGzipFile) as e:
        raise checks.error("a .gz input_file must be whole and gzipped", str(e), f"{path}, line {number + 1}") from e
    except OSError as e:
        raise checks.error("input_file must be readable", e.strerror or e, path) from e


def _line_documents(files):
    """(where, lines) of documents with blank lines between them; a file's end ends a document."""
    for path in files:
        first, lines = 1, []
        for number, line in _lines(path):
            if line:
                first = first if lines else number
                lines.append(line)
            elif lines:
                yield f"{path}, line {first}", lines
                lines = []
        if lines:
            yield f"{path}, line {first}", lines


def _text(config, counts):
    del counts
    found = _line_documents(input_files(config.input_file))
    if config.split_sentences:
        return _split(found)
    return ((where, [line.encode() for line in lines]) for where, lines in found)


def _split(found):
    for where, paragraphs in sentences.split_documents(found):
        yield where, [s for paragraph in paragraphs for s in paragraph]


def _tfds(config, counts):
    del counts
    return _split(_tfds_documents(config))


def _tfds_builder(config, tfds):
    """The builder of a dataset that is prepared and has the feature."""
    where = f"--tfds={config.tfds} --tfds_data_dir={config.tfds_data_dir}"
    try:
        builder = tfds.builder(config.tfds, data_dir=config.tfds_data_dir or None)
    except ValueError as e:  # all of its errors, of which the first line says enough
        raise checks.error("tfds must name a dataset that is prepared or known", str(e).split("\n")[0], where) from e
    if not builder.is_prepared():
        checks.require(
            config.tfds_download,
            "a dataset must be prepared",
            f"nothing in {builder.data_path}",
            where,
            "Pass the right --tfds_data_dir, or --tfds_download to download it",
        )
        builder.download_and_prepare()
    strings = sorted(n for n, f in builder.info.features.items() if f.shape == () and f.tf_dtype.name == "string")
    checks.require(
        config.tfds_feature in strings,
        "tfds_feature must be a feature that is one string",
        f"tfds_feature={config.tfds_feature!r}, and the dataset has {strings}",
        where,
    )
    return builder


def _tfds_documents(config):
    """(where, paragraphs) of the examples, in the order of the files."""
    # Importing it takes seconds, which only those pay who use it.
    import tensorflow_datasets as tfds

    builder = _tfds_builder(config, tfds)
    try:
        examples = builder.as_dataset(
            split=config.tfds_split,
            shuffle_files=False,
            read_config=tfds.ReadConfig(interleave_cycle_length=1),
            decoders=tfds.decode.PartialDecoding({config.tfds_feature: True}),
        )
    except ValueError as e:
        raise checks.error("tfds_split must be a split", str(e).split("\n")[0], f"--tfds={config.tfds}") from e
    for number, example in enumerate(examples.as_numpy_iterator(), 1):
        where = f"{config.tfds}, {config.tfds_split}, example {number}"
        try:
            text = example[config.tfds_feature].decode()
        except UnicodeDecodeError as e:
            raise checks.error("text must be UTF-8", f"byte {e.start + 1} is not", where) from e
        yield where, [line.strip() for line in text.split("\n") if line.strip()]
