"""A fuzz of every reader of examples: bad files end in an error that says where and why, or in a counted skip.

Good files are changed as accidents change them, and enemies: bytes in and out, cut off, compressed and cut off, lines
twice, cells lost, other values in JSON, other encodings. Then a reader may raise an `InputError` that names the place,
and nothing else; or it reads all that stands there, by a count that shares no code with it.

`TFBERT_FUZZ_CASES=50000` makes as many; the counts of what came of them are printed (`pytest -s`).
"""

import collections
import dataclasses
import gzip
import itertools
import json
import os
import pathlib
import random
import re
from collections.abc import Callable
from typing import NamedTuple

import pytest

from tests import tiny_squad
from tfbert import checks
from tfbert.tasks import conll_files, sentence_files, squad_files
from tfbert.tasks.sentence_files import Settings

CASES = int(os.environ.get("TFBERT_FUZZ_CASES", "4000"))
# What an error says that is of the file as a whole, and so of no line.
OF_FILES = (
    "must be a file that can be read",
    "a table must have a row",
    "a table must have a row that can be used",
    "a tagged file must have a sentence",
    "a file of questions must hold",
    "must be a JSON object with a list",
    "examples must have labels",
)
PLACE = re.compile(r", line \d+|, article \d+|, paragraph \d+|, question ")
SPICE = (
    *(
        b"\t",
        b"\n",
        b'"',
        b",",
        b" ",
        b"\r",
        b"\r\n",
        b"\n\n",
        b"\0",
        b"\xff",
        b"\xc3",
        b"\xef\xbb\xbf",
        b"\xe2\x80\xa8",
    ),
    *(
        b"\xc2\x85",
        b"\xc2\xa0",
        b"{",
        b"}",
        b"[",
        b"]",
        b":",
        b"\\ud800",
        b"\\u0000",
        b"\\n",
        b"null",
        b"NaN",
        b"1e999",
    ),
    *(
        b"-Infinity",
        b"9" * 400,
        b"9" * 5000,
        b"x" * 200_000,
        b"_",
        b"#",
        b"-DOCSTART-",
        b"1",
        b"1-2",
        b"#\n",
        b"=cmd()",
    ),
)
VALUES = (
    *(
        None,
        True,
        False,
        0,
        -1,
        3,
        1.5,
        10**30,
        10**400,
        1e300,
        float("nan"),
        float("inf"),
        "",
        " ",
        "x",
        "a",
        "\ud800",
        "\0",
    ),
    *("\n", "1_000", "1e400", [], {}, [[]], [{}], ["a", "a"], ["a", ""], ["a", None], {"a": 1}, "y" * 3000, ...),
)
TABLE = Settings("classify", "text", labels=("a", "b"), skip_bad_rows=False)


class Format(NamedTuple):
    """A kind of file.

    Attributes:
        name: Of the file.
        good: What is in it.
        read: (path, whether to skip what is bad) -> (what was read, how many of what skipping leaves out).
        total: Bytes of a file -> what there is to read; None if that cannot be said.
        parts: Likewise, of what skipping leaves out.
    """

    name: str
    good: bytes
    read: Callable
    total: Callable
    parts: Callable


def text_of(data):
    return re.sub(r"\r(?=\n|\Z)", "", data.removeprefix(b"\xef\xbb\xbf").decode("utf-8", "replace"))


def table(name, good, **settings):
    header = name.startswith("x.tsv") or name.startswith("x.csv")

    def read(path, skip):
        given = dataclasses.replace(TABLE, skip_bad_rows=skip, **settings)
        count = len(sentence_files.read(given, path))
        return count, count

    def total(data):
        if name.startswith("x.csv") and b'"' in data:
            return None
        return text_of(data).rstrip("\n").count("\n") + 1 - header

    return Format(name, good, read, total, total)


def tagged(name, good, is_word):
    def read(path, skip):
        found = conll_files.read(path, skip_bad=skip)
        return sum(len(s.words) for s in found), len(found)

    def groups(data):
        lines = text_of(data).split("\n")
        return [[is_word(line) for line in group] for blank, group in itertools.groupby(lines, is_blank) if not blank]

    def is_blank(line):
        return not line.strip() or (name == "x.conll" and re.split("[ \t]", line.strip(" "))[0] == "-DOCSTART-")

    return Format(name, good, read, lambda data: sum(map(sum, groups(data))), lambda data: sum(map(any, groups(data))))


def questions(name, good):
    def read(path, skip):
        count = len(squad_files.read(path, True, skip))
        return count, count

    def total(data):
        return sum(len(p["qas"]) for article in json.loads(text_of(data))["data"] for p in article["paragraphs"])

    return Format(name, good, read, total, total)


ROWS = [("one", "a", "0.5"), ('two, "é"', "b", "-1"), ("three\u2028", "a", "3e2"), ("four", "b", ".5")]
COLUMNS = "-DOCSTART- O\n\nEU B-ORG\nrejects O\n\nGerman B-MISC\n. O\n"
CONLLU = (
    "# sent_id = 1\n1\tVámonos\tir\tVERB\tVV\t_\t0\troot\t_\t_\n2-3\tal\t_\t_\t_\t_\t_\t_\t_\t_\n"
    "2\ta\ta\tADP\tIN\t_\t4\tcase\t_\t_\n3\tel\tel\tDET\tDT\tA=b\t4\tdet\t_\t_\n\n"
    "1\t10 000\t10000\tNUM\tCD\t_\t0\troot\t_\t_\n"
)
TSV = "".join("\t".join(row) + "\n" for row in [("text", "label", "score"), *ROWS])
CSV = "text,label,score\n" + "".join(f'"{t.replace(chr(34), chr(34) * 2)}",{x},{y}\n' for t, x, y in ROWS)
JSONL = "".join(json.dumps({"text": t, "label": x, "score": float(y)}) + "\n" for t, x, y in ROWS)
LISTS = '{"text": "one", "label": ["a", "b"]}\n{"text": "two", "label": []}\n'
FORMATS = (
    table("x.tsv", TSV.encode()),
    table("x.csv", CSV.encode()),
    table("x.csv", CSV.replace('"', "").replace(", ", " ").encode(), kind="regress", label_column="score"),
    table("x.jsonl", JSONL.encode(), labels=()),
    table("x.jsonl", JSONL.encode(), kind="regress", label_column="score"),
    table("x.jsonl", LISTS.encode(), kind="multi_label"),
    tagged("x.conll", COLUMNS.encode(), lambda line: True),
    tagged("x.conllu", CONLLU.encode(), lambda line: not re.match(r"#|[0-9]+-[0-9]+\t|[0-9]+\.[0-9]+\t", line)),
    questions("x.json", json.dumps(tiny_squad.impossible()).encode()),
)


def changed_bytes(rng, data):
    """Bytes put in, taken out or changed, at one place."""
    at = rng.randrange(len(data) + 1)
    return data[:at] + rng.choice([b"", rng.choice(SPICE)]) + data[at + rng.choice([0, 0, 1, rng.randrange(9)]) :]


def changed_lines(rng, data):
    """A line twice, gone, or elsewhere; a cell of one gone, twice, or another value."""
    lines = data.split(b"\n")
    i, j = (rng.randrange(len(lines)) for _ in "ij")
    cells = re.split(rb"([\t, ])", lines[i])
    k = rng.randrange(len(cells))
    change = rng.randrange(6)
    if change == 0:
        lines.insert(j, lines[i])
    elif change == 1:
        del lines[i]
    elif change == 2:
        lines[i], lines[j] = lines[j], lines[i]
    else:
        cells[k : k + 1] = ([], [cells[k]] * 3, [rng.choice(SPICE)])[change - 3]
        lines[i] = b"".join(cells)
    return b"\n".join(lines)


def changed_whole(rng, data):
    """Another encoding, other ends of lines, cut off, or twice in one file."""
    text = data.decode("utf-8", "replace")
    return rng.choice(
        [
            data.replace(b"\n", b"\r\n"),
            data.replace(b"\n", b"\r"),
            b"\xef\xbb\xbf" + data,
            text.encode("utf-16"),
            text.encode("latin-1", "replace"),
            data[: rng.randrange(len(data) + 1)],
            data + data,
            data.rstrip(b"\n"),
            data + b"\n" * rng.randrange(4),
            b"",
        ]
    )


def places(value, path=()):
    """Paths to every value inside of JSON."""
    yield path
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, each in items:
        yield from places(each, (*path, key))


def changed_json(rng, data):
    """A value in JSON replaced or gone, nested deep, or given twice; of JSON lines, in one of them."""
    lines = data.split(b"\n")
    i = rng.randrange(len(lines))
    try:
        content = json.loads(lines[i])
    except (ValueError, RecursionError):
        return changed_bytes(rng, data)
    *parents, key = ("top", *rng.choice(list(places(content))))
    holder = parent = {"top": content}
    for each in parents:
        parent = parent[each]
    change = rng.randrange(12)
    if change == 0 and isinstance(parent, dict) and parents:
        parent[f"{key}~"] = rng.choice(VALUES[:-1])
        made = json.dumps(holder["top"]).replace(f'"{key}~"', json.dumps(key))
    elif change == 1:
        parent[key] = "deep"
        made = json.dumps(holder["top"]).replace('"deep"', "[" * rng.choice([5, 985, 100_000]) + "]" * 985)
    else:
        value = rng.choice(VALUES)
        parent[key] = None if value is ... else value
        if value is ... and parents:
            del parent[key]
        made = json.dumps(holder["top"])
    lines[i] = made.encode()
    return b"\n".join(lines)


def changed(rng, form):
    """(name, bytes) of a file that was good."""
    name, data = form.name, form.good
    for _ in range(rng.choice([1, 1, 1, 2, 3])):
        change = rng.choice([changed_bytes, changed_lines, changed_whole, changed_json])
        data = change(rng, data)
    if rng.random() < 0.1:
        packed = bytearray(gzip.compress(data, mtime=0))
        if rng.random() < 0.7:
            packed = packed[: rng.randrange(len(packed))]
        elif packed:
            packed[rng.randrange(len(packed))] ^= 1 << rng.randrange(8)
        return f"{name}.gz", bytes(packed)
    return name, data


def try_one(form, path, data, skip, capsys):
    """What came of a file: "read", "skipped", or "refused"; checks that nothing is silent."""
    try:
        read, used = form.read(path, skip)
    except checks.InputError as e:
        words = str(e)
        assert path in words and len(words) < 2000 and words.isprintable(), words
        assert PLACE.search(words) or any(of_file in words for of_file in OF_FILES), words
        capsys.readouterr()
        return "refused"
    told = re.search(r": (\d+) (?:rows|sentences|entries) left out, (\d+) (?:questions )?used", capsys.readouterr().out)
    if path.endswith(".gz"):
        data = gzip.decompress(data)
    if told:
        assert skip and int(told[2]) == used
        assert form.parts(data) in (None, int(told[1]) + used)
        return "skipped"
    assert form.total(data) in (None, read)
    assert "\0" not in data.decode()  # all of it is text
    return "read"


@pytest.mark.parametrize(
    "kind, value, words",
    [
        ("regress", "1e39", "label must be a finite number; got 1e+39"),  # of float32, which is what is learned
        ("regress", "1" * 400, "label must be a finite number; got inf"),
        ("regress", '"1_000"', "label must be a finite number; got '1_000'"),
        ("regress", "true", "label must be a finite number; got True"),
        ("classify", "NaN", "label must be one label; got nan"),
        ("classify", '{"a": [[]]}', "label must be one label; got an object of 1"),
        ("multi_label", '["a", " "]', "labels must not be empty; got ''"),
        ("multi_label", '["a", null]', "label must be one label; got None"),
        ("classify", '"a\\u0000"', r"labels must have no tabs and line breaks; got 'a\x00'"),
        ("classify", '"' + "a" * 999 + '"', f"labels must be of a, b; got '{'a' * 60}'... (999 characters)"),
    ],
)
def test_labels_that_are_none(tmp_path, kind, value, words):
    path = tmp_path / "x.jsonl"
    path.write_text(f'{{"text": "one", "label": {value}}}\n')
    with pytest.raises(checks.InputError) as caught:
        sentence_files.read(dataclasses.replace(TABLE, kind=kind), str(path))
    assert str(caught.value) == f"{words} (at {path}, line 1)."


def test_blank_labels_are_no_labels(tmp_path):
    (tmp_path / "x.tsv").write_text("text\tlabel\none\ta\ntwo\t  \n")
    with pytest.raises(checks.InputError, match=r"label must not be empty; got no label \(at .*x\.tsv, line 3\)"):
        sentence_files.read(TABLE, str(tmp_path / "x.tsv"))


def test_examples_of_the_documents(tmp_path):
    """Each format's example in BUILD.md, "Data files", is read as it stands there."""
    text = (pathlib.Path(__file__).parents[1] / "BUILD.md").read_text()
    examples = dict(re.findall(r"^```(tsv|csv|jsonl|conll|conllu|squad)\n(.*?)^```$", text, re.DOTALL | re.MULTILINE))
    paths = {name: str(tmp_path / f"x.{name}") for name in examples}
    for name, content in examples.items():
        pathlib.Path(paths[name]).write_text(content)
    for name in ("tsv", "csv", "jsonl"):
        found = sentence_files.read(Settings("classify", "text"), paths[name])
        assert [e.label for e in found] == ["card_arrival", "declined_payment"] and "declined" in found[1].text
    assert [s.label for s in conll_files.read(paths["conll"])] == [("B-ORG", "O", "B-MISC")]
    assert [s.label for s in conll_files.read(paths["conllu"])] == [("NOUN", "VERB", "PUNCT")]
    assert [q.answers for q in squad_files.read(paths["squad"])] == [(("France", 24),)]


@pytest.mark.parametrize("number", range(len(FORMATS)), ids=lambda i: f"{i}-{FORMATS[i].name}")
def test_fuzz(tmp_path, number, capsys):
    form, found = FORMATS[number], collections.Counter()
    for case in range(CASES // len(FORMATS)):
        rng = random.Random(f"{number}, {case}")
        name, data = changed(rng, form)
        path = tmp_path / f"{case}-{name}"  # the one that is left is the one that failed
        path.write_bytes(data)
        for skip in (False, True):
            found[try_one(form, str(path), data, skip, capsys)] += 1
        path.unlink()
    with capsys.disabled():
        if "TFBERT_FUZZ_CASES" in os.environ:
            print(f"\n{form.name}: {dict(found)}")
    assert min(found[outcome] for outcome in ("read", "skipped", "refused")) > CASES // len(FORMATS) // 50
