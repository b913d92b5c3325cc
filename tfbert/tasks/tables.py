"""Rows with named columns, from TSV, CSV and JSON lines, plain or .gz, and from TensorFlow Datasets.

A path `tfds:NAME:SPLIT`, such as `tfds:glue/mrpc:train`, is a split of a dataset; all else is a file. Every row knows
where it stands, so that whoever finds a fault in it can say the line.
"""

import csv
import gzip
import itertools
import json
import os

from tfbert import checks

TFDS = "tfds:"
TABS, COMMAS, JSON = (".tsv", ".txt"), (".csv",), (".jsonl", ".json")
_LONGEST_CELL = 1 << 26  # characters; the csv module's own bound of 128 K is too little for documents


def read(path, column_names=(), header_cell="", tfds_data_dir=""):
    """Reads the rows of a table.

    TSV is split at tabs and nothing is quoted, as GLUE's files are written; CSV is quoted as RFC 4180 says, and a cell
    may hold line breaks. JSON lines hold an object each. Empty lines at the end of a file do not count.

    Args:
        path: A file, or `tfds:NAME:SPLIT`.
        column_names: Names of the columns of a TSV or CSV file whose first line does not name them.
        header_cell: With `column_names`, a first line that has this cell is a header nevertheless (GLUE's CoLA has one
            in its test set alone).
        tfds_data_dir: Where TensorFlow Datasets looks; "" where it always does.

    Yields:
        (where, {column: value}); or (where, `InputError`) for a row that cannot be read though those after it can.
        Values are str in TSV and CSV, and what JSON or the dataset has elsewhere; names of a dataset's classes are
        str, and a label -1 (it has none) is None.

    Raises:
        InputError: the file cannot be read, has no row, or is not of its format from some line on.
    """
    if path.startswith(TFDS):
        rows = _of_dataset(path, tfds_data_dir)
    else:
        name = path.removesuffix(".gz")
        known = name.endswith((*TABS, *COMMAS, *JSON))
        endings = ", ".join((*TABS, *COMMAS, *JSON))
        checks.require(known, f"a table must be a file {endings}, or one of those .gz", repr(path), path)
        rows = _of_json(path) if name.endswith(JSON) else _of_cells(path, name, column_names, header_cell)
    first = next(rows, None)
    checks.require(first is not None, "a table must have a row", "none", path)
    return itertools.chain([first], rows)


def _lines(path):
    """(number, text without its line break) of each line; an `InputError` in the text's place if it is not UTF-8."""
    try:
        with gzip.open(path) if path.endswith(".gz") else open(path, "rb") as f:
            for number, raw in enumerate(f, 1):
                raw = raw.removeprefix(b"\xef\xbb\xbf") if number == 1 else raw
                try:
                    yield number, raw.removesuffix(b"\n").removesuffix(b"\r").decode("utf-8")
                except UnicodeDecodeError as e:
                    yield number, checks.error("text must be UTF-8", str(e), f"{path}, line {number}")
    except (OSError, EOFError) as e:
        reason = getattr(e, "strerror", None) or str(e)
        raise checks.error("a table must be a file that can be read", reason, path) from e


def _without_empty_end(rows, is_empty, path):
    """Turns empty rows into errors, but for those at the end; rows are (number, row)."""
    empty = []
    for number, row in rows:
        if is_empty(row):
            empty.append(number)
            continue
        for before in empty:
            yield before, checks.error("a line must not be empty", "an empty one", f"{path}, line {before}")
        empty = []
        yield number, row


def _of_json(path):
    for number, line in _without_empty_end(_lines(path), lambda line: line == "", path):
        where = f"{path}, line {number}"
        try:
            row = line if isinstance(line, checks.InputError) else json.loads(line)
        except (json.JSONDecodeError, RecursionError) as e:
            row = checks.error("a line must be JSON", str(e), where)
        if not isinstance(row, dict | checks.InputError):
            row = checks.error("a line must be a JSON object", type(row).__name__, where)
        yield where, row


def _tab_separated(path):
    """(number, cells) of each line; [] of an empty one."""
    for number, line in _lines(path):
        yield number, line if isinstance(line, checks.InputError) else line.split("\t") if line else []


def _comma_separated(path):
    """(number of its first line, cells) of each row; a fault in the quotes ends it, since nothing after it is sure."""

    def texts():
        for _, line in _lines(path):
            if isinstance(line, checks.InputError):
                raise line
            yield line + "\n"

    csv.field_size_limit(_LONGEST_CELL)
    reader = csv.reader(texts(), strict=True)
    before = 0
    while True:
        try:
            cells = next(reader, None)
        except csv.Error as e:
            where = f"{path}, line {before + 1}"
            raise checks.error("CSV must be quoted as RFC 4180 says", str(e), where) from e
        if cells is None:
            return
        yield before + 1, cells
        before = reader.line_num


def _of_cells(path, name, column_names, header_cell):
    rows = _comma_separated(path) if name.endswith(COMMAS) else _tab_separated(path)
    rows = _without_empty_end(rows, lambda cells: cells == [], path)
    number, first = next(rows, (0, None))
    if first is None:
        return
    if isinstance(first, checks.InputError):
        raise first
    if column_names and header_cell not in first:
        rows, header = itertools.chain([(number, first)], rows), list(column_names)
    else:
        header = first
    twice = sorted({c for c in header if header.count(c) > 1})
    checks.require(not twice, "each column must have its own name", f"{twice} more than once", f"{path}, line {number}")
    for number, cells in rows:
        where = f"{path}, line {number}"
        if isinstance(cells, list) and len(cells) != len(header):
            yield where, checks.error(f"a row must have {len(header)} cells, as the header has", len(cells), where)
        else:
            yield where, cells if isinstance(cells, checks.InputError) else dict(zip(header, cells))


def _builder(path, data_dir):
    """(builder, split) of a dataset that is prepared."""
    # Importing it takes seconds, which only those pay who use it.
    import tensorflow_datasets as tfds

    name, _, split = path.removeprefix(TFDS).rpartition(":")
    where = f"{path}, tfds_data_dir={data_dir!r}"
    checks.require(name and split, "a dataset must be given as tfds:NAME:SPLIT", repr(path))
    try:
        builder = tfds.builder(name, data_dir=data_dir or None)
    except ValueError as e:  # all of its errors, of which the first line says enough
        raise checks.error("tfds must name a dataset that is prepared or known", str(e).split("\n")[0], where) from e
    ready = builder.is_prepared()
    do = "Prepare it with TensorFlow Datasets first, or pass the right --tfds_data_dir"
    checks.require(ready, "a dataset must be prepared", f"nothing in {builder.data_path}", where, do)
    splits = sorted(builder.info.splits)
    checks.require(split in splits, f"the dataset has the splits {splits}", repr(split), where)
    return builder, split


def class_names(path, column, tfds_data_dir=""):
    """Names of the classes that a dataset's feature has, in its order; () if it has none, or for a file."""
    if not path.startswith(TFDS):
        return ()
    builder, _ = _builder(path, tfds_data_dir)
    features = dict(builder.info.features.items())
    return tuple(getattr(features.get(column), "names", ()) or ())


def _of_dataset(path, data_dir):
    import tensorflow_datasets as tfds

    builder, split = _builder(path, data_dir)
    features = builder.info.features
    config = tfds.ReadConfig(interleave_cycle_length=1)
    examples = builder.as_dataset(split=split, shuffle_files=False, read_config=config)
    for number, example in enumerate(examples.as_numpy_iterator(), 1):
        where, row = f"{path}, example {number}", {}
        try:
            for name, value in example.items():
                if isinstance(value, bytes):
                    row[name] = value.decode("utf-8")
                elif getattr(features[name], "names", None):
                    row[name] = None if value < 0 else features[name].int2str(int(value))
                else:
                    row[name] = value.tolist() if hasattr(value, "tolist") else value
        except UnicodeDecodeError as e:
            row = checks.error("text must be UTF-8", str(e), where)
        yield where, row


def exists(path):
    """Whether a path can be one of a table: a file that is there, or a dataset."""
    return path.startswith(TFDS) or os.path.isfile(path)
