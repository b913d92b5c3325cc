"""Parquet files: one document a row, whose text is in one column."""

import pyarrow as pa
import pyarrow.parquet as pq

from data_prep import texts
from data_prep.text_files import Span, span_bytes
from tfbert import checks

BATCH_BYTES = 1 << 22  # of text that is taken out of a file at once, about


def _open(path, feature):
    """(the file, index of the column that holds the text)."""
    try:
        # Pages are read when they are needed: a row group may be as large as the file.
        file = pq.ParquetFile(path, buffer_size=1 << 20, pre_buffer=False)
    except (pa.ArrowException, OSError) as e:
        raise _broken(path, e) from e
    schema = file.schema_arrow
    strings = sorted(f.name for f in schema if _is_text(f.type))
    if feature not in strings:
        file.close()
        raise checks.error(
            "text_feature must be a column of strings",
            f"text_feature={feature!r}, and the file has {strings}",
            path,
        )
    columns = (file.metadata.schema.column(i).path for i in range(file.metadata.num_columns))
    return file, next(i for i, name in enumerate(columns) if name == feature)


def _is_text(kind):
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    return pa.types.is_string(kind) or pa.types.is_large_string(kind)


def _broken(path, e):
    return checks.error("a .parquet input_file must be a whole Parquet file", str(e).split("\n")[0], path)


def _sizes(file, column):
    """[(rows, bytes of the text column)] of the row groups."""
    groups = (file.metadata.row_group(i) for i in range(file.num_row_groups))
    return [(g.num_rows, g.column(column).total_uncompressed_size) for g in groups]


def spans(config, files):
    """The spans of files, each of as many row groups as hold the text of a span, but at least one.

    Raises:
        InputError: a file is no Parquet file, or has no such column of strings.
    """
    sizes = {}
    for path in files:
        file, column = _open(path, config.text_feature)
        with file:
            sizes[path] = [size for _, size in _sizes(file, column)]
    step = span_bytes(sum(map(sum, sizes.values())))
    out = []
    for path, groups in sizes.items():
        begin = held = 0
        for end, size in enumerate(groups, 1):
            held += size
            if held >= step or end == len(groups):
                out.append(Span(path, begin, end))
                begin, held = end, 0
    return out


def documents(config, span, counts):
    """The documents of a span: one a row.

    Args:
        config: A `CorpusConfig`; of it `text_feature`, the name of a column of strings, and `errors`.
        span: A `Span`, of row groups.
        counts: A Counter; gets lines_cut, characters_replaced and texts_replaced.

    Yields:
        (where, list of the paragraphs of the text as UTF-8 bytes, none empty; a null has none, too).

    Raises:
        InputError: the file cannot be read or has no such column, or a text is not UTF-8.
    """
    file, column = _open(span.name, config.text_feature)
    with file:
        sizes = _sizes(file, column)
        row = sum(rows for rows, _ in sizes[: span.begin])
        try:
            for group in range(span.begin, span.end):
                for text in _column(file, group, config.text_feature, *sizes[group]):
                    row += 1
                    where = f"{span.name}, row {row}"
                    text = texts.of_bytes(text or b"", config.errors, where, counts)
                    yield where, texts.paragraphs(text, counts)
        except (pa.ArrowException, OSError) as e:
            raise _broken(span.name, e) from e


def _column(file, group, feature, rows, size):
    """The values of a row group, as bytes or None; Arrow does not look whether a string is UTF-8."""
    batch_size = max(1, min(rows, BATCH_BYTES * rows // max(1, size)))
    for batch in file.iter_batches(batch_size, row_groups=[group], columns=[feature]):
        values = batch.column(0)
        if pa.types.is_dictionary(values.type):
            values = values.dictionary_decode()
        yield from values.cast(pa.large_binary()).to_pylist()
