"""Sentences with a tag for each word: columns as CoNLL's shared tasks have them, and CoNLL-U.

Columns: a word a line, an empty line after each sentence, and as many columns in every line, between tabs (if the first
line has one) or spaces. A line of "-DOCSTART-" ends a sentence and is no word. A file of one column has no tags.

CoNLL-U (.conllu): ten columns between tabs, lines of "#" are comments. The words are the syntactic ones, as its
treebanks tag them: what stands in the text for several of them (1-2) and what does not stand there (8.1) are left out.
"""

import gzip
import re
import zlib
from typing import NamedTuple

from tfbert import checks

CONLLU_COLUMNS = ("id", "form", "lemma", "upos", "xpos", "feats", "head", "deprel", "deps", "misc")
_ID = re.compile(r"[0-9]+")
_NO_WORD = re.compile(r"[0-9]+-[0-9]+|[0-9]+\.[0-9]+")
_NONE = "_"


class Sentence(NamedTuple):
    """One sentence.

    Attributes:
        words: Its words.
        label: A tag for each; None in a test set.
        where: File and first line.
        lines: The line of each word.
    """

    words: tuple[str, ...]
    label: tuple[str, ...] | None
    where: str
    lines: tuple[int, ...] = ()

    def where_is(self, i):
        """File and line of word i."""
        return f"{self.where.rpartition(', line ')[0]}, line {self.lines[i]}" if self.lines else self.where


def is_conllu(path):
    """Whether a path is that of a CoNLL-U file, also of a compressed one."""
    return path.removesuffix(".gz").endswith((".conllu", ".conll-u"))


def column(name, conllu, default):
    """The number of a column.

    Args:
        name: What the user calls it: a number, from 0 or from -1 for the last; of CoNLL-U also a name such as upos.
        conllu: Whether it is one of CoNLL-U.
        default: The number if `name` is "".

    Raises:
        InputError: it is none.
    """
    if not name:
        return default
    if conllu and name.lower() in CONLLU_COLUMNS:
        return CONLLU_COLUMNS.index(name.lower())
    checks.require(
        re.fullmatch(r"-?[0-9]{1,4}", name),
        f"a column must be a number{', or one of ' + ', '.join(CONLLU_COLUMNS) if conllu else ''}",
        repr(name),
        do="Columns of a tagged file have no names: count them from 0, or from -1 for the last",
    )
    return int(name)


def _lines(path):
    """(number, line without its end) of a text file, which may be compressed."""
    number = 0
    try:
        with (gzip.open if path.endswith(".gz") else open)(path, "rb") as f:
            for number, raw in enumerate(f, 1):
                line = raw.decode("utf-8-sig" if number == 1 else "utf-8").rstrip("\r\n")
                checks.require("\0" not in line, "text must have no NUL bytes", "one", f"{path}, line {number}")
                yield number, line
    except UnicodeDecodeError as e:
        raise checks.error("text must be UTF-8", e.reason, f"{path}, line {number}") from e
    except (EOFError, zlib.error, gzip.BadGzipFile) as e:
        raise checks.error("a compressed file must be whole", str(e), f"{path}, line {number + 1}") from e
    except OSError as e:
        raise checks.error("a tagged file must be readable", e.strerror or str(e), path) from e


def _rows(path):
    """(number, cells) of each word's line; (number, None) where a sentence ends."""
    conllu = is_conllu(path)
    count, like, tabs = (len(CONLLU_COLUMNS), " between tabs", True) if conllu else (None, "", False)
    for number, line in _lines(path):
        if conllu and line.startswith("#"):
            continue
        if not line.strip():
            yield number, None
            continue
        tabs = tabs or (count is None and "\t" in line)
        cells = line.split("\t") if tabs else re.split(" +", line.strip(" "))
        if not conllu and cells[0] == "-DOCSTART-":
            yield number, None
            continue
        if count is None:
            count, like = len(cells), f"{' between tabs' if tabs else ''}, as line {number} has"
        where = f"{path}, line {number}"
        checks.require(
            len(cells) == count,
            f"every word's line must have {count} columns{like}",
            f"{len(cells)}: {line[:60]!r}",
            where,
        )
        if conllu:
            if _NO_WORD.fullmatch(cells[0]):
                continue
            must = "the first column must be a number, 1-2 or 1.1"
            checks.require(_ID.fullmatch(cells[0]), must, f"{cells[0][:40]!r}", where)
        yield number, cells


def _cell(cells, at, what, where):
    checks.require(
        -len(cells) <= at < len(cells),
        f"there must be a column {at} of {what}",
        f"{len(cells)} columns",
        where,
        f"Give --{'text' if what == 'words' else 'label'}_column, a number from 0",
    )
    value = cells[at]
    checks.require(value.strip(), f"a word's line must have text in column {at} of {what}", repr(value), where)
    return value


def _has_tags(path, label_column):
    """Whether a file has tags: if it has more than one column, and CoNLL-U more than "_" in that of tags."""
    rows = (cells for _, cells in _rows(path) if cells)
    if is_conllu(path):
        return any(-len(cells) <= label_column < len(cells) and cells[label_column] != _NONE for cells in rows)
    return len(next(rows, ())) > 1


def read(path, text_column="", label_column=""):
    """Reads the sentences of a file.

    Args:
        path: Of a file of columns; one that ends in .conllu or .conllu.gz is CoNLL-U.
        text_column: See `column`; by default the first, or form.
        label_column: Likewise; by default the last, or upos.

    Returns:
        List of `Sentence`; all have tags or none has.

    Raises:
        InputError: it is no such file; file and line are in it.
    """
    conllu = is_conllu(path)
    words_at = column(text_column, conllu, 1 if conllu else 0)
    tags_at = column(label_column, conllu, 3 if conllu else -1)
    tagged = _has_tags(path, tags_at)
    sentences, words = [], []  # words: (line, word, tag)

    def end():
        if words:
            lines, texts, tags = zip(*words)
            where = f"{path}, line {lines[0]}"
            sentences.append(Sentence(texts, tags if tagged else None, where, lines))
            words.clear()

    for number, cells in _rows(path):
        if cells is None:
            end()
            continue
        where = f"{path}, line {number}"
        tag = _cell(cells, tags_at, "tags", where) if tagged else None
        if tagged and conllu and tags_at in (3, 4):  # in the others "_" says that there is nothing to say
            checks.require(tag != _NONE, "all words must have tags, or none of them", repr(_NONE), where)
        words.append((number, _cell(cells, words_at, "words", where), tag))
    end()
    checks.require(sentences, "a tagged file must have a sentence", "none", path)
    return sentences
