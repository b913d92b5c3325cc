"""Plain and gzipped files, read by lines from any byte on, in bounded memory whatever they hold.

A file is read in runs of whole lines of about a megabyte, and what is done to a line is done to a run at
once wherever C can do it. A span of a file owns the lines that begin in it.
"""

import codecs
import contextlib
import gzip
import itertools
import sys
import zlib
from typing import NamedTuple

from data_prep import storage, texts
from tfbert import checks

_BEYOND = 1 << 16  # bytes that are read at once past a span's end, where a document seldom goes on for long
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"


class Span(NamedTuple):
    """A part of the input, to be read by itself. It can be pickled, and be JSON as a list."""

    name: str  # file, "pydocs", or dataset and split
    begin: int  # byte of a plain file, row group of a Parquet file, example of a dataset; else 0
    end: int  # exclusive


class Run(NamedTuple):
    """Whole lines of a file, or a piece of a line that is too long."""

    begin: int  # byte at which the first of the lines begins
    line: int  # its number; 0 if the file is not read from its start
    data: bytes
    is_cut: bool  # whether this is the first piece of a line that is too long
    is_beyond: bool  # whether the lines begin beyond the span


def input_files(patterns):
    """The files of globs, each once, in the order of the globs and by name within one.

    Raises:
        InputError: a glob matches nothing, or what it matches is no file or cannot be read.
    """
    files = {}
    for pattern in patterns:
        matches = storage.find(pattern)
        checks.require(matches, "input_file must match at least one file", "none", pattern, "Check the path")
        for path in matches:
            checks.require(not storage.is_folder(path), "input_file must match files only", "a folder", path, "Add /*")
            files.setdefault(storage.one_name(path), path)
    for path in files.values():
        try:
            with storage.open_to_read(path):
                pass
        except OSError as e:
            raise _unreadable(path, e) from e
    return list(files.values())


def _unreadable(path, e):
    return checks.error("input_file must be readable", e.strerror or e, path)


def span_bytes(total):
    """Bytes of a span: 4 MB, or more where that would make more than 4096 spans."""
    return max(1 << 22, total // 4096)


def spans(files):
    """The spans of files, by bytes; a gzipped file cannot be entered in the middle and is one."""
    sizes = [storage.size_and_time(path)[0] for path in files]
    step = span_bytes(sum(sizes))
    out = []
    for path, size in zip(files, sizes):
        if path.endswith(".gz"):
            out.append(Span(path, 0, size))
        else:
            out += [Span(path, begin, min(begin + step, size)) for begin in range(0, size, step)]
    return out


class _Reader:
    """Reads the runs of one span of an open file.

    Args:
        f: The file, in binary mode.
        begin: Byte at which the span begins. Every line is read from the first that begins there to the
            file's end; who takes the runs stops where there is nothing more to look for.
        end: Byte at which it ends.
        longest: Bytes of a line above which it comes in pieces; at least `texts.MAX_LINE`.
    """

    def __init__(self, f, begin, end, longest):
        self._f, self._end, self._longest = f, end, longest
        self._begin = self._at = begin  # of the bytes that are held, and of those that are not read yet
        self._line = 0 if begin else 1
        self._data = b""

    def runs(self):
        """Yields `Run`s, none of which holds lines that begin on both sides of the span's end."""
        more = self._begin == 0 or self._to_first_line()
        while more:
            more = b"\n" in self._data or self._more()
            if self._first_line_length() > self._longest:
                yield from self._long_line()
            n = self._data.rfind(b"\n") + 1 if more else len(self._data)
            inside = self._end - self._begin
            if 0 < inside < n:
                first_beyond = self._data.find(b"\n", inside - 1, n) + 1
                if 0 < first_beyond < n:
                    yield self._run(first_beyond)
                    n -= first_beyond
            if n:
                yield self._run(n)

    def _more(self):
        """Reads on; returns whether there was anything."""
        size = self._end - self._at if self._at < self._end else _BEYOND
        block = self._f.read(min(size, texts.MAX_LINE))
        self._at += len(block)
        self._data += block
        return bool(block)

    def _run(self, n):
        """The first n bytes of those that are held."""
        begin, line, data = self._begin, self._line, self._data[:n]
        self._data = self._data[n:]
        self._begin += n
        if line:
            self._line += data.count(b"\n")
        if begin == 0:
            data = data.removeprefix(_BYTE_ORDER_MARK)
        return Run(begin, line, data, False, begin >= self._end)

    def _to_first_line(self):
        """Goes from a span's begin to the first line that begins in it; returns whether there is one."""
        self._begin -= 1
        self._at = self._begin
        self._f.seek(self._begin)
        while self._at < self._end and self._more():
            found = self._data.find(b"\n") + 1
            self._run(found or len(self._data))
            if found:
                return True
        return False

    def _first_line_length(self):
        """Length of the first line that is held, as far as it is."""
        found = self._data.find(b"\n")
        return found if found >= 0 else len(self._data)

    def _long_line(self):
        """Yields the pieces of a line that is too long: those that hold something, or one blank line."""
        first = self._run(0)
        is_blank = going_on = True
        while going_on:
            while self._first_line_length() > texts.MAX_LINE:
                piece = self._run(texts.cut_place(self._data)).data
                if not _is_blank(piece):
                    yield first._replace(data=piece, is_cut=is_blank)
                    is_blank = False
            going_on = b"\n" not in self._data and self._more()
        rest = self._run(self._data.find(b"\n") + 1 or len(self._data)).data
        if is_blank or not _is_blank(rest):
            yield first._replace(data=rest)


def _is_blank(data):
    return not any(texts.lines_of(data)[1])


def _open(path):
    file = storage.open_to_read(path)
    return gzip.GzipFile(fileobj=file) if path.endswith(".gz") else file


def runs(span, longest=None):
    """Yields the `Run`s of a `Span`, and on to the file's end.

    Args:
        span: A `Span` of a file.
        longest: Bytes of a line above which it comes in pieces; `texts.MAX_LINE` if None.

    Raises:
        InputError: the file cannot be read, or is gzipped and broken.
    """
    end = sys.maxsize if span.name.endswith(".gz") else span.end
    try:
        with _open(span.name) as f:
            yield from _Reader(f, span.begin, end, longest or texts.MAX_LINE).runs()
    except (EOFError, zlib.error, gzip.BadGzipFile) as e:
        where = f"{span.name}, line {line_at(span.name)}"
        raise checks.error("a .gz input_file must be whole and gzipped", str(e), where) from e
    except OSError as e:
        raise _unreadable(span.name, e) from e


def line_at(path, position=sys.maxsize):
    """The number of the line that holds a byte, or of the last that can be read. Reads all before it."""
    number = 1
    with contextlib.suppress(OSError, EOFError, zlib.error), _open(path) as f:
        while position > 0 and (block := f.read1(min(position, 1 << 16))):
            number += block.count(b"\n")
            position -= len(block)
    return number


def not_utf8(path):
    """The `InputError` for a file that is not UTF-8, naming its first wrong byte. Reads all before that."""
    line, column, data = 1, 0, b""  # the place at which `data` begins
    with _open(path) as f:
        while True:
            block = f.read(texts.MAX_LINE)
            data += block
            try:
                right, wrong = codecs.utf_8_decode(data, "strict", not block)[1], None
            except UnicodeDecodeError as e:
                right, wrong = e.start, e.start
            last_end = data.rfind(b"\n", 0, right)
            line += data.count(b"\n", 0, right)
            column = right - last_end - 1 if last_end >= 0 else column + right
            if wrong is not None:
                where = f"{path}, line {line}"
                return texts.not_utf8("input_file", data[wrong], f"byte {column + 1} of the line", where)
            if not block:
                return checks.error("input_file must not change while it is read", "another text than before", path)
            data = data[right:]


def lines(run, path, errors):
    """The lines of a run: (as they stand there, stripped).

    Raises:
        InputError: they are not UTF-8, and `errors` is "strict".
    """
    if errors == "strict" and not run.data.isascii():
        try:
            run.data.decode()
        except UnicodeDecodeError as e:
            raise not_utf8(path) from e
    return texts.lines_of(run.data)


def place(run, raw, path):
    """The function that says where the i-th line of a run stands: by its number, or by its first byte."""
    if run.line:
        return lambda i: f"{path}, line {run.line + i}"
    ends = [0, *itertools.accumulate(map(len, raw))]
    return lambda i: f"{path}, byte {run.begin + ends[i] + i}"


def documents(span, errors, counts):
    """The documents of a span of text: lines with blank lines between documents; a file's end ends one.

    A document belongs to the span in which the blank line before it begins, or the file. So the spans of a
    file give each of its documents once, wherever it is cut.

    Args:
        span: A `Span`.
        errors: "strict", or "replace" to put U+FFFD in the place of what is not UTF-8.
        counts: A Counter; gets lines_cut, documents_cut, characters_replaced and texts_replaced.

    Yields:
        (where, list of the lines as UTF-8 bytes, none empty).

    Raises:
        InputError: the file cannot be read, or is not UTF-8 and `errors` is "strict".
    """
    for where, found in _documents(span, errors, counts):
        yield where, [texts.replaced(line, counts) for line in found] if errors == "replace" else found


def _documents(span, errors, counts):
    """As `documents`, but what is not UTF-8 stays as it is."""
    where, held = "", []  # the open document
    ours = span.begin == 0 < span.end  # whether the document that is open, or begins next, is the span's
    for run in runs(span):
        if run.is_beyond and not ours:
            return
        raw, found = lines(run, span.name, errors)
        blanks = [i for i, line in enumerate(found) if not line]
        if not ours and not blanks:
            continue
        where_is = place(run, raw, span.name)
        counts["lines_cut"] += run.is_cut
        begin = 0 if ours else blanks[0]
        ours = True
        for blank in blanks:
            if blank > begin:
                where = where if held else where_is(begin)
                held += found[begin:blank]
            for piece in texts.cut_document(held, counts) if held else ():
                yield where, piece
            if run.is_beyond:
                return
            held, begin = [], blank + 1
        if begin < len(found):
            where = where if held else where_is(begin)
            *done, held = texts.cut_document(held + found[begin:], counts)
            for piece in done:
                yield where, piece
    for piece in texts.cut_document(held, counts) if held else ():
        yield where, piece
