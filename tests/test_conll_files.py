"""Tests of tfbert.tasks.conll_files: what is read, and what is said of what cannot be."""

import gzip

import pytest

from tfbert import checks
from tfbert.tasks import conll_files

COLUMNS = "-DOCSTART- -X- O O\n\nEU NNP B-NP B-ORG\nrejects VBZ B-VP O\n\n\nGerman JJ B-NP B-MISC\n"
CONLLU = (
    "# sent_id = 1\n"
    "1\tVámonos\tir\tVERB\tVV\t_\t0\troot\t_\t_\n"
    "2-3\tal\t_\t_\t_\t_\t_\t_\t_\t_\n"
    "2\ta\ta\tADP\tIN\t_\t4\tcase\t_\t_\n"
    "3\tel\tel\tDET\tDT\tA=b\t4\tdet\t_\t_\n"
    "3.1\tgone\t_\tX\tX\t_\t_\t_\t_\t_\n"
    "\n"
    "# text = 10 000\n"
    "1\t10 000\t10000\tNUM\tCD\t_\t0\troot\t_\t_\n"
)


def write(path, text):
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return str(path)


def test_columns(tmp_path):
    path = write(tmp_path / "train.txt", COLUMNS)
    first, second = conll_files.read(path)
    assert first == (("EU", "rejects"), ("B-ORG", "O"), f"{path}, line 3", (3, 4))
    assert second.words == ("German",) and second.where_is(0) == f"{path}, line 7"
    assert [s.label for s in conll_files.read(path, label_column="1")] == [("NNP", "VBZ"), ("JJ",)]
    assert conll_files.read(path, "1", "-2")[0][:2] == (("NNP", "VBZ"), ("B-NP", "B-VP"))


def test_tabs_keep_what_is_between_them(tmp_path):
    """As in WNUT 2017: empty lines with a tab, words that begin with "#", and one that is a no-break space."""
    path = write(tmp_path / "dev.conll", "\ufeff#nfl\tO\r\nNew York\tB-LOC\r\n\t\r\n\u00a0x\tO\r\n")
    first, second = conll_files.read(path)
    assert first[:2] == (("#nfl", "New York"), ("O", "B-LOC")) and second.words == ("\u00a0x",)


def test_words_without_tags(tmp_path):
    sentences = conll_files.read(write(tmp_path / "test.txt", "EU\nrejects\n\nGerman\n"))
    assert [s.label for s in sentences] == [None, None] and sentences[1].words == ("German",)


@pytest.mark.parametrize("name", ["dev.conllu", "dev.conllu.gz"])
def test_conllu(tmp_path, name):
    path = write(tmp_path / name, gzip.compress(CONLLU.encode()) if name.endswith(".gz") else CONLLU)
    first, second = conll_files.read(path)
    assert first == (("Vámonos", "a", "el"), ("VERB", "ADP", "DET"), f"{path}, line 2", (2, 4, 5))
    assert second.words == ("10 000",)
    for column in ("xpos", "XPOS", "4"):
        assert conll_files.read(path, label_column=column)[0].label == ("VV", "IN", "DT")
    assert conll_files.read(path, label_column="feats")[0].label == ("_", "_", "A=b")
    assert [s.label for s in conll_files.read(path, label_column="misc")] == [None, None]


@pytest.mark.parametrize(
    "name, text, columns, words",
    [
        ("a.txt", "", {}, "a tagged file must have a sentence; got none (at {path})"),
        ("a.txt", "EU O\nrejects\n", {}, "must have 2 columns, as line 1 has; got 1: 'rejects' (at {path}, line 2)"),
        (
            "a.txt",
            "EU\tO\nNew York\n",
            {},
            "between tabs, as line 1 has; got 1: 'New York' (at {path}, line 2)",
        ),
        ("a.txt", "EU\tO\n\tO\n", {}, "text in column 0 of words; got '' (at {path}, line 2)"),
        ("a.txt", "EU\tO\nx\t \n", {}, "text in column -1 of tags; got ' ' (at {path}, line 2)"),
        (
            "a.txt",
            "EU O\n",
            {"label_column": "2"},
            "a column 2 of tags; got 2 columns (at {path}, line 1)",
        ),
        ("a.txt", "EU O\n", {"text_column": "-3"}, "a column -3 of words"),
        ("a.txt", "EU O\n", {"label_column": "ner"}, "a column must be a number; got 'ner'"),
        ("a.conllu", CONLLU, {"label_column": "pos"}, "a number, or one of id, form"),
        ("a.txt", b"EU O\n\xff O\n", {}, "text must be UTF-8; got byte 0xff at byte 0 of the line (at {path}, line 2)"),
        ("a.txt", b"EU O\nx\0y O\n", {}, "no NUL bytes; got one at byte 1 of the line (at {path}, line 2)"),
        ("a.conllu", "1\tEU\n", {}, "must have 10 columns between tabs; got 2: '1\\tEU' (at {path}, line 1)"),
        (
            "a.conllu",
            CONLLU.replace("2\ta\t", "x\ta\t"),
            {},
            "numbered 1, 2, 3 in the first column, beside 1-2 and 1.1",
        ),
        ("a.conllu", CONLLU.replace("2\ta\t", "1\ta\t"), {}, "got '1' in the place of 2 (at {path}, line 4)"),
        ("a.conllu", CONLLU.replace("\n\n", "\n"), {}, "'1' in the place of 4 (at {path}, line 8). An empty line ends"),
        ("a.conllu", CONLLU.replace("2\ta\t", "\n2\ta\t"), {}, "got '2' in the place of 1 (at {path}, line 5)"),
        ("a.txt", "EU\tO\nx\tB LOC\n", {}, "a tag must be text without white space; got 'B LOC' (at {path}, line 2)"),
        ("a.txt", "EU\tO\nx\tO\r\r\n", {}, "a tag must be text without white space; got 'O\\r' (at {path}, line 2)"),
        ("a.txt", "EU\tO\nx\x1by\tO\n", {}, "without control characters; got 'x\\x1by' (at {path}, line 2)"),
        ("a.txt", "EU\tO\n\nx\tB\n", {"labels": ("O", "I")}, "tags must be of O, I; got 'B' (at {path}, line 3). Give"),
        (
            "a.conllu",
            CONLLU.replace("DET", "_"),
            {},
            "must have tags, or none of them; got '_' (at {path}, line 5)",
        ),
        ("a.conllu.gz", b"1\tEU", {}, "tagged text must be a file that can be read; got Not a gzipped file"),
        (
            "a.conllu.gz",
            gzip.compress(b"1\tEU" * 999)[:-9],
            {},
            "tagged text must be a file that can be read; got Compressed file ended",
        ),
    ],
    ids=range(23),
)
def test_files_that_cannot_be_used(tmp_path, name, text, columns, words):
    path = write(tmp_path / name, text)
    with pytest.raises(checks.InputError) as caught:
        conll_files.read(path, **columns)
    assert words.format(path=path) in str(caught.value)


def test_no_such_file(tmp_path):
    with pytest.raises(checks.InputError, match="tagged text must be a file that can be read; got No such file"):
        conll_files.read(str(tmp_path / "none.txt"))
    with pytest.raises(checks.InputError, match="can be read; got Is a directory"):
        conll_files.read(str(tmp_path))


def test_bad_sentences_are_left_out_if_asked_for(tmp_path, capsys):
    text = "EU\tO\nx\n\none\tB\ntwo\tO\n\nthree\tX\n\nfour\tO\nfi\0ve\tO\n\nsix\tO\n"
    path = write(tmp_path / "a.txt", text)
    found = conll_files.read(path, labels=("O", "B"), skip_bad=True)
    assert [(s.words, s.where) for s in found] == [(("one", "two"), f"{path}, line 4"), (("six",), f"{path}, line 12")]
    assert capsys.readouterr().out == (
        f"{path}: 3 sentences left out, 2 used. The first: every word's line must have 2 columns between tabs, as "
        f"line 1 has; got 1: 'x' (at {path}, line 2).\n"
    )
    with pytest.raises(checks.InputError, match="must have a sentence; got 5 that cannot be used"):
        conll_files.read(path, labels=("Y",), skip_bad=True)
