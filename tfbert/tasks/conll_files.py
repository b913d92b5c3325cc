"""Sentences with a tag for each word: columns as CoNLL's shared tasks have them, CoNLL-U, and sets of TFDS.

Columns: a word a line, an empty line after each sentence, and as many columns in every line, between tabs (if the first
line has one) or spaces. A line of "-DOCSTART-" ends a sentence and is no word. A file of one column has no tags.

CoNLL-U (.conllu): ten columns between tabs, lines of "#" are comments. The words are the syntactic ones, as its
treebanks tag them: what stands in the text for several of them (1-2) and what does not stand there (8.1) are left out.

TensorFlow Datasets: a list of words and a list of tags in each example, as conll2003 has them.
"""

import itertools
import re
from typing import NamedTuple

from tfbert import checks
from tfbert.tasks import lines, tables

CONLLU_COLUMNS = ("id", "form", "lemma", "upos", "xpos", "feats", "head", "deprel", "deps", "misc")
_NO_WORD = re.compile(r"[0-9]+-[0-9]+|[0-9]+\.[0-9]+")
_NONE = "_"


class Sentence(NamedTuple):
    """One sentence.

    Attributes:
        words: Its words.
        label: A tag for each; None in a test set.
        where: File and first line.
        lines: The line of each word; () where there are no lines.
    """

    words: tuple[str, ...]
    label: tuple[str, ...] | None
    where: str
    lines: tuple[int, ...] = ()

    def where_is(self, i):
        """File and line of word i, or else its number."""
        if self.lines:
            return f"{self.where.rpartition(', line ')[0]}, line {self.lines[i]}"
        return f"{self.where}, word {i + 1}"


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


def _rows(path):
    """(number, cells) of each word's line; for cells None where a sentence ends, and an `InputError` of a bad line."""
    conllu = is_conllu(path)
    count, like, tabs = (len(CONLLU_COLUMNS), " between tabs", True) if conllu else (None, "", False)
    for number, line, fault in lines.read(path, "tagged text"):
        if conllu and line.startswith("#") and not fault:
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
        if len(cells) != count:
            must = f"every word's line must have {count} columns{like}"
            fault = fault or checks.error(must, f"{len(cells)}: {lines.brief(line)}", f"{path}, line {number}")
        yield number, fault or cells


def _words_of_conllu(rows, path):
    """The rows of CoNLL-U without those that are no words, and with an `InputError` where words are not in order."""
    expected = 1
    for number, cells in rows:
        if cells is None:
            expected = 0
        elif isinstance(cells, list):
            if _NO_WORD.fullmatch(cells[0]):
                continue
            if cells[0] != str(expected):
                must = "the words of a sentence must be numbered 1, 2, 3 in the first column, beside 1-2 and 1.1"
                got, where = f"{lines.brief(cells[0])} in the place of {expected}", f"{path}, line {number}"
                cells = checks.error(must, got, where, "An empty line ends a sentence")
        expected += 1
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


def _check_word(word, tag, where, labels):
    """Raises an `InputError` unless a word is text and its tag, if it is not None, is one of the labels."""
    whole = isinstance(word, str) and word.strip() and not lines.CONTROL.search(word)
    checks.require(whole, "a word must be text without control characters", lines.brief(word), where)
    if tag is None:
        return
    one = isinstance(tag, str) and tag and not re.search(r"\s", tag) and not lines.CONTROL.search(tag)
    checks.require(one, "a tag must be text without white space", lines.brief(tag), where)
    checks.require(
        not labels or tag in labels,
        f"tags must be of {', '.join(map(str, labels[:50]))}",
        lines.brief(tag),
        where,
        "Give all of them as --labels where the training file does not hold all",
    )


def _has_tags(path, label_column):
    """Whether a file has tags: if it has more than one column, and CoNLL-U more than "_" in that of tags."""
    rows = (cells for _, cells in _rows(path) if isinstance(cells, list))
    if is_conllu(path):
        return any(-len(cells) <= label_column < len(cells) and cells[label_column] != _NONE for cells in rows)
    return len(next(rows, ())) > 1


def _of_file(path, text_column, label_column, labels):
    """Each sentence of a file; an `InputError` in the place of one that has a line which is none."""
    conllu = is_conllu(path)
    words_at = column(text_column, conllu, 1 if conllu else 0)
    tags_at = column(label_column, conllu, 3 if conllu else -1)
    tagged = _has_tags(path, tags_at)
    rows = _words_of_conllu(_rows(path), path) if conllu else _rows(path)
    words, fault = [], None  # words: (line, word, tag)
    for number, cells in itertools.chain(rows, [(0, None)]):
        if cells is None:
            if fault:
                yield fault
            elif words:
                numbers, texts, tags = zip(*words)
                yield Sentence(texts, tags if tagged else None, f"{path}, line {numbers[0]}", numbers)
            words, fault = [], None
            continue
        where = f"{path}, line {number}"
        try:
            if isinstance(cells, checks.InputError):
                raise cells
            tag = _cell(cells, tags_at, "tags", where) if tagged else None
            if tagged and conllu and tags_at in (3, 4):  # in the others "_" says that there is nothing to say
                checks.require(tag != _NONE, "all words must have tags, or none of them", repr(_NONE), where)
            words.append((number, _cell(cells, words_at, "words", where), tag))
            _check_word(*words[-1][1:], where, labels)
        except checks.InputError as e:
            fault = fault or e


def _of_dataset(path, text_column, label_column, labels, data_dir):
    """Each example of a dataset as a `Sentence`; an `InputError` in the place of one that is none."""
    words_at, tags_at = text_column or "tokens", label_column or "ner"
    for where, row in tables.read(path, tfds_data_dir=data_dir):
        try:
            if isinstance(row, checks.InputError):
                raise row
            yield _sentence(where, row, words_at, tags_at, labels)
        except checks.InputError as e:
            yield e


def _sentence(where, row, words_at, tags_at, labels):
    words, tags = row.get(words_at), row.get(tags_at)
    if isinstance(tags, list) and tags == [None] * len(tags):
        tags = None
    do = f"Name --text_column and --label_column, of {lines.names(row)}"
    some = isinstance(words, list) and words
    checks.require(some, f"{words_at} must be a list of words", lines.brief(words), where, do)
    alike = tags is None or (isinstance(tags, list) and len(tags) == len(words))
    checks.require(alike, f"{tags_at} must be a list of {len(words)} tags", lines.brief(tags), where, do)
    sentence = Sentence(tuple(words), tags if tags is None else tuple(tags), where)
    for i, word in enumerate(words):
        at = sentence.where_is(i)
        checks.require(tags is None or tags[i] is not None, "all words must have tags, or none of them", "none", at)
        _check_word(word, tags and tags[i], at, labels)
    return sentence


def read(path, text_column="", label_column="", labels=(), skip_bad=False, tfds_data_dir=""):
    """Reads the sentences of a file.

    Args:
        path: Of a file of columns; one that ends in .conllu or .conllu.gz is CoNLL-U. Or `tfds:NAME:SPLIT`.
        text_column: See `column`; by default the first, or form. Of a dataset its name, by default tokens.
        label_column: Likewise; by default the last, or upos; of a dataset ner.
        labels: The tags that there are; () for any.
        skip_bad: Whether a sentence that has a bad line is left out as a whole, and no error. How many, and the first
            of them, is printed.
        tfds_data_dir: See `tables.read`.

    Returns:
        List of `Sentence`; all have tags or none has.

    Raises:
        InputError: it is no such file; file and line are in it.
    """
    of_dataset = path.startswith(tables.TFDS)
    given = (path, text_column, label_column, labels)
    sentences, bad = [], []
    for found in _of_dataset(*given, tfds_data_dir) if of_dataset else _of_file(*given):
        if sentences and isinstance(found, Sentence) and (found.label is None) != (sentences[0].label is None):
            got = f"{'none' if found.label is None else 'some'}, unlike the first sentence"
            found = checks.error("all sentences must have tags, or none of them", got, found.where)
        if isinstance(found, Sentence):
            sentences.append(found)
        elif skip_bad:
            bad.append(found)
        else:
            raise found
    got = f"{len(bad)} that cannot be used" if bad else "none"
    checks.require(sentences, "a tagged file must have a sentence", got, path)
    if bad:
        print(f"{path}: {len(bad)} sentences left out, {len(sentences)} used. The first: {bad[0]}")
    return sentences
