"""Tables with named columns: every format, every place of an error, and whatever a fuzzer makes of them."""

import gzip
import json
import random

import numpy as np
import pytest

from tfbert import checks
from tfbert.tasks import tables

ROWS = [{"a": "one", "b": "1"}, {"a": "two é", "b": "2"}, {"a": ' "three" ', "b": "3"}]


def read(path, *args):
    return list(tables.read(str(path), *args))


def good(path, *args):
    rows = read(path, *args)
    errors = [row for _, row in rows if isinstance(row, checks.InputError)]
    assert errors == []
    return [row for _, row in rows]


def write(path, text):
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


TSV = 'a\tb\none\t1\ntwo é\t2\n "three" \t3\n'


class TestFormats:
    @pytest.mark.parametrize(
        "name, text",
        [
            ("x.tsv", TSV),
            ("x.txt", TSV.replace("\n", "\r\n")),
            ("x.tsv", TSV.rstrip("\n") + "\n\n\n"),
            ("x.tsv", "\ufeff" + TSV),
            ("x.csv", 'a,b\none,1\n"two é",2\n" ""three"" ",3\n'),
            ("x.jsonl", "".join(json.dumps(row) + "\n" for row in ROWS)),
            ("x.json", "\n".join(json.dumps(row, ensure_ascii=False) for row in ROWS)),
        ],
    )
    def test_same_rows(self, tmp_path, name, text):
        assert good(write(tmp_path / name, text)) == ROWS
        with gzip.open(tmp_path / f"{name}.gz", "wb") as f:
            f.write(text.encode())
        assert good(tmp_path / f"{name}.gz") == ROWS

    def test_rows_know_their_lines(self, tmp_path):
        path = write(tmp_path / "x.csv", 'a,b\n"one\nmore",1\ntwo,2\n')
        assert read(path) == [
            (f"{path}, line 2", {"a": "one\nmore", "b": "1"}),
            (f"{path}, line 4", {"a": "two", "b": "2"}),
        ]
        path = write(tmp_path / "x.tsv", TSV)
        assert [where for where, _ in read(path)] == [f"{path}, line {n}" for n in (2, 3, 4)]

    def test_columns_without_a_header(self, tmp_path):
        path = write(tmp_path / "x.tsv", TSV.split("\n", 1)[1])
        assert good(path, ("a", "b"), "a") == ROWS
        # A file that has one nevertheless keeps it.
        assert good(write(tmp_path / "y.tsv", TSV), ("c", "d", "e"), "a") == ROWS

    def test_long_cells(self, tmp_path):
        long = "x" * 200_000
        assert good(write(tmp_path / "x.csv", f"a,b\n{long},1\n")) == [{"a": long, "b": "1"}]


class TestErrors:
    @pytest.mark.parametrize(
        "name, text, words",
        [
            ("x.tsv", "a\tb\n1\n2\t2\n", r"a row must have 2 cells, as the header has; got 1 \(at .*x.tsv, line 2\)"),
            ("x.tsv", "a\tb\n1\t2\t3\n", "got 3 .*line 2"),
            ("x.csv", "a,b\n1\n", "got 1 .*line 2"),
            ("x.tsv", "a\tb\n1\t2\n\n3\t4\n", "a line must not be empty; got an empty one .*line 3"),
            ("x.tsv", b"a\tb\n1\t2\n\xe9\t4\n", "text must be UTF-8; got .*0xe9.*line 3"),
            ("x.jsonl", '{"a": 1}\n{"a": \n', "a line must be JSON; got .*line 2"),
            ("x.jsonl", '{"a": 1}\n[1]\n', "a line must be a JSON object; got list .*line 2"),
            ("x.jsonl", b'{"a": "\xff"}\n', "text must be UTF-8.*line 1"),
            ("x.jsonl", "[" * 100_000 + "\n", "a line must be JSON.*line 1"),
        ],
    )
    def test_of_a_row(self, tmp_path, name, text, words):
        errors = [row for _, row in read(write(tmp_path / name, text)) if isinstance(row, checks.InputError)]
        assert len(errors) == 1
        with pytest.raises(checks.InputError, match=words):
            raise errors[0]

    @pytest.mark.parametrize(
        "name, text, words",
        [
            ("x.tsv", "", "a table must have a row; got none"),
            ("x.tsv", "a\tb\n", "a table must have a row; got none"),
            ("x.jsonl", "\n\n", "a table must have a row; got none"),
            ("x.tsv", "a\tb\ta\n1\t2\t3\n", r"each column must have its own name; got \['a'\] more than once .*line 1"),
            ("x.tsv", b"a\xff\tb\n1\t2\n", "UTF-8.*line 1"),
            ("x.csv", 'a,b\n1,2\n"3,4\n5,6\n', r"CSV must be quoted as RFC 4180 says; .*line 3"),
            ("x.csv", 'a,b\n1,2\n"3"x,4\n', "CSV must be quoted as RFC 4180 says; .*line 3"),
            ("x.xlsx", "a", r"a table must be a file .tsv, .txt, .csv, .jsonl, .json"),
            ("x.tsv.gz", "plain text", "a table must be a file that can be read; got Not a gzipped file"),
        ],
    )
    def test_of_a_file(self, tmp_path, name, text, words):
        with pytest.raises(checks.InputError, match=words):
            read(write(tmp_path / name, text))

    def test_no_file(self, tmp_path):
        with pytest.raises(checks.InputError, match="can be read; got No such file"):
            read(tmp_path / "none.tsv")
        with pytest.raises(checks.InputError, match="can be read; got Is a directory"):
            (tmp_path / "folder.tsv").mkdir()
            read(tmp_path / "folder.tsv")
        whole = gzip.compress(TSV.encode() * 100)
        with pytest.raises(checks.InputError, match="can be read; got Compressed file ended"):
            read(write(tmp_path / "cut.tsv.gz", whole[:40]))


def test_fuzz(tmp_path):
    """Whatever bytes stand there: rows, an error of a row, or an error of the file, each with its place."""
    rng = random.Random(7)
    seeds = {
        "x.tsv": TSV.encode(),
        "x.csv": b'a,b\n"o,ne",1\ntwo,2\n',
        "x.jsonl": b'{"a": "\\u00e9", "b": [1]}\n{"a": 2}\n',
    }
    spice = [
        b"\t",
        b"\n",
        b'"',
        b",",
        b"\r",
        b"\0",
        b"\xff",
        b"\xef\xbb\xbf",
        b"{",
        b"}",
        b"\\ud800",
        b"\xe2\x80\xa8",
        b"1e999",
    ]
    outcomes = {"good": 0, "row": 0, "file": 0}
    for round_ in range(600):
        name = rng.choice(list(seeds))
        text = bytearray(seeds[name])
        for _ in range(rng.randrange(1, 5)):
            at = rng.randrange(len(text) + 1)
            if rng.random() < 0.5:
                text[at:at] = rng.choice(spice)
            else:
                del text[at : at + rng.randrange(1, 6)]
        path = write(tmp_path / name, bytes(text))
        try:
            rows = read(path)
        except checks.InputError as e:
            assert str(path) in str(e), round_
            outcomes["file"] += 1
            continue
        for where, row in rows:
            assert where.startswith(f"{path}, line ")
            assert isinstance(row, dict) or where in str(row)
        outcomes["row" if any(isinstance(row, checks.InputError) for _, row in rows) else "good"] += 1
    assert min(outcomes.values()) > 50


@pytest.fixture(scope="module")
def tfds_dir(tmp_path_factory):
    """`glue/mrpc` in miniature, on disk: class names, and a test split without labels."""
    import tensorflow_datasets as tfds

    folder = tmp_path_factory.mktemp("tfds")
    place = folder / "tiny_pairs" / "1.0.0"
    place.mkdir(parents=True)
    identity = tfds.core.DatasetIdentity(
        name="tiny_pairs", version=tfds.core.Version("1.0.0"), data_dir=str(place), module_name="tests"
    )
    texts = {name: tfds.features.Text() for name in ("sentence1", "sentence2")}
    label = tfds.features.ClassLabel(names=["other", "same"])
    features = tfds.features.FeaturesDict({**texts, "label": label, "score": tfds.features.Scalar(np.float32)})
    info = tfds.core.DatasetInfo(builder=identity, features=features, description="For a test.")
    writer = tfds.core.SequentialWriter(info, max_examples_per_shard=2)
    writer.initialize_splits(["train", "test"])
    rows = [{"sentence1": f"é {i}", "sentence2": "b", "label": i % 2, "score": i / 2} for i in range(5)]
    writer.add_examples({"train": rows, "test": [{**row, "label": -1} for row in rows]})
    writer.close_all()
    return str(folder)


@pytest.mark.slow
class TestTfds:
    def test_rows(self, tfds_dir):
        rows = read("tfds:tiny_pairs:train", (), "", tfds_dir)
        assert rows[3] == (
            "tfds:tiny_pairs:train, example 4",
            {"sentence1": "é 3", "sentence2": "b", "label": "same", "score": 1.5},
        )
        assert [row["label"] for _, row in read("tfds:tiny_pairs:test", (), "", tfds_dir)] == [None] * 5
        assert tables.class_names("tfds:tiny_pairs:train", "label", tfds_dir) == ("other", "same")
        assert tables.class_names("tfds:tiny_pairs:train", "score", tfds_dir) == ()

    @pytest.mark.parametrize(
        "path, words",
        [
            ("tfds:tiny_pairs:dev", r"the dataset has the splits \['test', 'train'\]; got 'dev'"),
            ("tfds:no_such_pairs:train", "prepared or known; got Dataset no_such_pairs not found"),
            ("tfds:tiny_pairs", "a dataset must be given as tfds:NAME:SPLIT"),
            ("tfds:glue/mrpc:train", "a dataset must be prepared; got nothing in"),
        ],
    )
    def test_errors(self, tfds_dir, path, words):
        with pytest.raises(checks.InputError, match=words):
            read(path, (), "", tfds_dir)
