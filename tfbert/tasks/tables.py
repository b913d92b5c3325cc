"""Rows with named columns, from TSV, CSV and JSON lines, plain or .gz, and from TensorFlow Datasets.

A path `tfds:NAME:SPLIT`, such as `tfds:glue/mrpc:train`, is a split of a dataset; all else is a file. Every row knows
where it stands, so that whoever finds a fault in it can say the line.
"""

import csv
import itertools
import os

from tfbert import checks
from tfbert.tasks import lines

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
        str, and a label -1 (it has none) is None; lists of them are lists.

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


def _without_empty_end(rows, path):
    """Turns empty rows into errors, but for those at the end; rows are (number, row), a falsy row being empty."""
    empty = []
    for number, row in rows:
        if not row:
            empty.append(number)
            continue
        for before in empty:
            yield before, checks.error("a line must not be empty", "an empty one", f"{path}, line {before}")
        empty = []
        yield number, row


def _of_json(path):
    rows = ((number, fault or line) for number, line, fault in lines.read(path, "a table"))
    for number, line in _without_empty_end(rows, path):
        where = f"{path}, line {number}"
        yield where, line if isinstance(line, checks.InputError) else _object(line, where)


def _object(line, where):
    """The object in a line, or an `InputError`."""
    try:
        row = lines.parse_json(line)
    except ValueError as e:
        return checks.error("a line must be JSON", str(e), where)
    return row if isinstance(row, dict) else checks.error("a line must be a JSON object", lines.brief(row), where)


def _tab_separated(path):
    """(number, cells) of each line; [] of an empty one."""
    for number, line, fault in lines.read(path, "a table"):
        yield number, fault or (line.split("\t") if line else [])


def _comma_separated(path):
    """(number of its first line, cells) of each row; a fault in the quotes ends it, since nothing after it is sure."""
    faults = {}

    def texts():
        for number, line, fault in lines.read(path, "a table"):
            if fault:  # commas and quotes are what they are even so, and rows after it are sure
                faults[number] = fault
            yield line + "\n"

    csv.field_size_limit(_LONGEST_CELL)
    reader = csv.reader(texts(), strict=True)
    number = 1
    while True:
        try:
            cells = next(reader, None)
        except csv.Error as e:
            where = f"{path}, line {number}"
            raise checks.error("CSV must be quoted as RFC 4180 says", str(e), where) from e
        if cells is None:
            return
        of_row = [faults.pop(n) for n in range(number, reader.line_num + 1) if n in faults]
        yield number, of_row[0] if of_row else cells
        number = reader.line_num + 1


def _of_cells(path, name, column_names, header_cell):
    rows = _comma_separated(path) if name.endswith(COMMAS) else _tab_separated(path)
    rows = _without_empty_end(rows, path)
    number, first = next(rows, (0, None))
    if first is None:
        return
    if isinstance(first, checks.InputError):
        raise first
    in_file = not column_names or header_cell in first
    header = first if in_file else list(column_names)
    twice = sorted({c for c in header if header.count(c) > 1})
    got = f"{lines.names(twice)} more than once"
    checks.require(not twice, "each column must have its own name", got, f"{path}, line {number}")
    rows = rows if in_file else itertools.chain([(number, first)], rows)
    for number, cells in rows:
        where = f"{path}, line {number}"
        if isinstance(cells, checks.InputError):
            yield where, cells
        elif len(cells) != len(header):
            yield where, checks.error(f"a row must have {len(header)} cells, as the header has", len(cells), where)
        elif in_file and cells == header and len(header) > 1:
            yield where, checks.error("a row must not be the header again", "the same names", where)
        else:
            yield where, dict(zip(header, cells))


def _builder(name, where, data_dir):
    """The builder of a dataset that is prepared."""
    # Importing it takes seconds, which only those pay who use it.
    import tensorflow_datasets as tfds
    from google.protobuf import json_format

    where = f"{where}, tfds_data_dir={data_dir!r}"
    try:
        builder = tfds.builder(name, data_dir=data_dir or None)
    except (ValueError, OSError, ImportError, json_format.Error) as e:  # its own, of which the first line says enough
        raise checks.error("tfds must name a dataset that is prepared or known", str(e).split("\n")[0], where) from e
    ready = builder.is_prepared()
    do = "Prepare it with TensorFlow Datasets first, or pass the right --tfds_data_dir"
    checks.require(ready, "a dataset must be prepared", f"nothing in {builder.data_path}", where, do)
    return builder


def _builder_of(path, data_dir):
    """(builder, split) of a path tfds:NAME:SPLIT."""
    name, _, split = path.removeprefix(TFDS).rpartition(":")
    checks.require(name and split, "a dataset must be given as tfds:NAME:SPLIT", repr(path))
    builder = _builder(name, path, data_dir)
    splits = sorted(builder.info.splits)
    checks.require(split in splits, f"the dataset has the splits {splits}", repr(split), path)
    return builder, split


def splits(name, tfds_data_dir=""):
    """Paths of the training, development and test split of a dataset; "" for one that it has not.

    Raises:
        InputError: it is not known, not prepared, or has no split that is called train.
    """
    found = sorted(_builder(name, f"tfds={name}", tfds_data_dir).info.splits)
    do = "Name its splits as --train_file=tfds:NAME:SPLIT, --dev_file=..."
    checks.require("train" in found, "a dataset must have a split train", found, f"tfds={name}", do)
    dev = next((split for split in ("validation", "dev") if split in found), "")
    return tuple(f"{TFDS}{name}:{split}" if split in found else "" for split in ("train", dev, "test"))


def class_names(path, column, tfds_data_dir=""):
    """Names of the classes that a dataset's feature has, in its order; () if it has none, or for a file."""
    if not path.startswith(TFDS):
        return ()
    builder, _ = _builder_of(path, tfds_data_dir)
    features = dict(builder.info.features.items())
    return _names(features[column]) if column in features else ()


def _names(feature):
    """Names of the classes of a feature, also of one that holds a list of them; () if it has none."""
    while not hasattr(feature, "names") and hasattr(feature, "feature"):
        feature = feature.feature
    return tuple(getattr(feature, "names", None) or ())


def _of_dataset(path, data_dir):
    import tensorflow as tf
    import tensorflow_datasets as tfds

    builder, split = _builder_of(path, data_dir)
    features = builder.info.features
    config, number = tfds.ReadConfig(interleave_cycle_length=1), 0
    try:
        examples = builder.as_dataset(split=split, shuffle_files=False, read_config=config)
        for number, example in enumerate(examples.as_numpy_iterator(), 1):
            where = f"{path}, example {number}"
            try:
                row = _plain(example, features)
            except UnicodeDecodeError as e:
                row = checks.error("text must be UTF-8", str(e), where)
            except _NoClass as e:
                row = checks.error("a class must be one of the dataset's", str(e), where)
            yield where, row
    except (tf.errors.OpError, OSError) as e:
        where = f"{path}, example {number + 1}"
        raise checks.error("a dataset must be whole", str(e).split("\n")[0][:200], where) from e


class _NoClass(Exception):
    """A number that is none of a class."""


def _plain(value, feature):
    """A value of a dataset as Python has it: text as str, classes by name, and lists and dictionaries of such."""
    if isinstance(value, dict):
        inner = getattr(feature, "feature", feature)  # a list of dictionaries comes as a dictionary of lists
        return {name: _plain(each, inner[name]) for name, each in value.items()}
    return _each(value, _names(feature))


def _each(value, names):
    for to_list in ("to_list", "tolist"):  # of ragged tensors, which hold arrays, and of arrays
        if hasattr(value, to_list):
            value = getattr(value, to_list)()
            break
    if isinstance(value, list):
        return [_each(v, names) for v in value]
    if isinstance(value, bytes):
        return value.decode("utf-8")
    if not names:
        return value
    if value >= len(names):
        raise _NoClass(f"{value} of {len(names)}")
    return names[value] if value >= 0 else None


def exists(path):
    """Whether a path can be one of a table: a file that is there, or a dataset."""
    return path.startswith(TFDS) or os.path.isfile(path)
