"""Tables with named columns: every format, and every place of an error."""

import gzip
import json

import numpy as np
import pytest

from tfbert import checks, finetune
from tfbert.tasks import conll_files, tables

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
            ("x.jsonl", '{"a": 1}\n[1]\n', "a line must be a JSON object; got a list of 1 .*line 2"),
            ("x.jsonl", '{"a": 1, "b": 2, "a": 3}\n', "object; got an object with 'a' more than once .*line 1"),
            ("x.tsv", "a\tb\n1\t2\na\tb\n", "a row must not be the header again; got the same names .*line 3"),
            ("x.tsv", "a\tb\n1\t2\n3\t\0\n", "text must have no NUL bytes; got one at byte 2 of the line .*line 3"),
            ("x.csv", b'a,b\n1,2\n"3\n\xff",4\n5,6\n', "text must be UTF-8; got byte 0xff at byte 0 .*line 4"),
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


def prepare(folder, name, features, rows):
    """Writes a dataset of TensorFlow Datasets, {split: rows}; returns the folder of its files."""
    import tensorflow_datasets as tfds

    place = folder / name / "1.0.0"
    place.mkdir(parents=True)
    identity = tfds.core.DatasetIdentity(
        name=name, version=tfds.core.Version("1.0.0"), data_dir=str(place), module_name="tests"
    )
    info = tfds.core.DatasetInfo(builder=identity, features=features, description="For a test.")
    writer = tfds.core.SequentialWriter(info, max_examples_per_shard=2)
    writer.initialize_splits(list(rows))
    writer.add_examples(rows)
    writer.close_all()
    return place


@pytest.fixture(scope="module")
def tfds_dir(tmp_path_factory):
    """In miniature, on disk: glue/mrpc, with class names and a test split without labels; conll2003; and odd ones."""
    import tensorflow_datasets as tfds

    folder, fs = tmp_path_factory.mktemp("tfds"), tfds.features
    texts = {name: fs.Text() for name in ("sentence1", "sentence2")}
    features = {**texts, "label": fs.ClassLabel(names=["other", "same"]), "score": fs.Scalar(np.float32)}
    rows = [{"sentence1": f"é {i}", "sentence2": "b", "label": i % 2, "score": i / 2} for i in range(5)]
    rows = {"train": rows, "test": [{**row, "label": -1} for row in rows]}
    prepare(folder, "tiny_pairs", fs.FeaturesDict(features), rows)

    tags = fs.ClassLabel(names=["O", "B-LOC"])
    features = {"tokens": fs.Sequence(fs.Text()), "ner": fs.Sequence(tags), "pos": fs.Sequence(fs.Text())}
    rows = [
        {"tokens": ["in", "日本"], "ner": [0, 1], "pos": ["IN", "NNP"]},
        {"tokens": ["x"], "ner": [0], "pos": ["Y"]},
    ]
    hidden = [{**row, "ner": [-1] * len(row["ner"])} for row in rows]
    some = [{**rows[0], "ner": [0, -1]}, {**rows[0], "pos": ["IN"]}, {**rows[0], "tokens": [], "ner": []}, rows[1]]
    rows = {"train": rows, "dev": rows, "test": hidden, "some": some}
    prepare(folder, "tiny_tags", fs.FeaturesDict(features), rows)

    features = {
        "nested": fs.Sequence(fs.Sequence(tags)),
        "items": fs.Sequence({"text": fs.Text(), "tag": tags, "at": np.int32}),
        "one": {"text": fs.Text(), "matrix": fs.Tensor(shape=(2, 1), dtype=np.int32)},
    }
    row = {
        "nested": [[0], [1, 0]],
        "items": [{"text": "é", "tag": 1, "at": 7}],
        "one": {"text": "x", "matrix": [[1], [2]]},
    }
    latin = {**row, "one": {**row["one"], "text": b"\xe9"}}
    prepare(folder, "tiny_odd", fs.FeaturesDict(features), {"train": [row, latin, row]})
    prepare(folder, "tiny_bare", fs.FeaturesDict({"text": fs.Text()}), {"only": [{"text": "x"}]})
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
        assert tables.class_names("tfds:tiny_tags:train", "ner", tfds_dir) == ("O", "B-LOC")

    def test_values_in_values(self, tfds_dir):
        (_, first), (where, second), _ = read("tfds:tiny_odd:train", (), "", tfds_dir)
        assert first == {
            "nested": [["O"], ["B-LOC", "O"]],
            "items": {"text": ["é"], "tag": ["B-LOC"], "at": [7]},
            "one": {"text": "x", "matrix": [[1], [2]]},
        }
        assert isinstance(second, checks.InputError) and "UTF-8" in str(second) and where in str(second)

    def test_splits(self, tfds_dir):
        assert tables.splits("tiny_tags", tfds_dir) == tuple(f"tfds:tiny_tags:{s}" for s in ("train", "dev", "test"))
        assert tables.splits("tiny_pairs", tfds_dir) == ("tfds:tiny_pairs:train", "", "tfds:tiny_pairs:test")
        with pytest.raises(checks.InputError, match=r"must have a split train; got \['only'\] \(at tfds=tiny_bare"):
            tables.splits("tiny_bare", tfds_dir)
        given = finetune.FinetuneConfig(
            task="tag", tfds="tiny_tags", tfds_data_dir=tfds_dir, run_dir="x", output_dir="y"
        )
        assert finetune.complete(given).dev_file == "tfds:tiny_tags:dev"

    def test_tags(self, tfds_dir, capsys):
        found = conll_files.read("tfds:tiny_tags:train", tfds_data_dir=tfds_dir)
        assert [s[:2] for s in found] == [(("in", "日本"), ("O", "B-LOC")), (("x",), ("O",))]
        assert found[0].where_is(1) == "tfds:tiny_tags:train, example 1, word 2"
        found = conll_files.read("tfds:tiny_tags:dev", "tokens", "pos", tfds_data_dir=tfds_dir)
        assert [s.label for s in found] == [("IN", "NNP"), ("Y",)]
        assert [s.label for s in conll_files.read("tfds:tiny_tags:test", tfds_data_dir=tfds_dir)] == [None, None]
        found = conll_files.read("tfds:tiny_tags:some", skip_bad=True, tfds_data_dir=tfds_dir)
        assert [s.words for s in found] == [("in", "日本"), ("x",)]
        assert "some: 2 sentences left out, 2 used. The first: all words must have tags" in capsys.readouterr().out

    @pytest.mark.parametrize(
        "split, columns, words",
        [
            (
                "some",
                {},
                r"all words must have tags, or none of them; got none \(at tfds:tiny_tags:some, example 1, word 2",
            ),
            (
                "some",
                {"label_column": "pos"},
                "pos must be a list of 2 tags; got a list of 1 .*example 2.*--label_column",
            ),
            (
                "train",
                {"text_column": "text"},
                r"text must be a list of words; got None .* of \['ner', 'pos', 'tokens'\]",
            ),
            ("train", {"labels": ("O", "X")}, r"tags must be of O, X; got 'B-LOC' .*example 1, word 2"),
        ],
    )
    def test_tags_that_cannot_be_used(self, tfds_dir, split, columns, words):
        with pytest.raises(checks.InputError, match=words):
            conll_files.read(f"tfds:tiny_tags:{split}", **columns, tfds_data_dir=tfds_dir)

    @pytest.mark.parametrize(
        "path, words",
        [
            ("tfds:tiny_pairs:dev", r"the dataset has the splits \['test', 'train'\]; got 'dev'"),
            ("tfds:no_such_pairs:train", "prepared or known; got Dataset no_such_pairs not found"),
            ("tfds:tiny_pairs", "a dataset must be given as tfds:NAME:SPLIT"),
            ("tfds:glue/mrpc:train", "a dataset must be prepared; got nothing in"),
            ("tfds:../x y/\u00e9:train", "tfds must name a dataset"),
        ],
    )
    def test_errors(self, tfds_dir, path, words):
        with pytest.raises(checks.InputError, match=words):
            read(path, (), "", tfds_dir)

    @pytest.mark.parametrize("damage", ["cut", "gone", "changed", "info", "features"])
    def test_sets_that_are_not_whole(self, tmp_path, damage):
        import tensorflow_datasets as tfds

        features = tfds.features.FeaturesDict({"text": tfds.features.Text()})
        place = prepare(tmp_path, "tiny_cut", features, {"train": [{"text": "x" * 50}] * 3})
        file = sorted(place.glob("*tfrecord*"))[1]
        if damage == "gone":
            file.unlink()
        elif damage in ("cut", "changed"):
            data = file.read_bytes()
            file.write_bytes(data[:-9] if damage == "cut" else data[:-9] + b"?" * 9)
        else:
            (place / {"info": "dataset_info.json", "features": "features.json"}[damage]).write_text("{")
        with pytest.raises(
            checks.InputError, match=r"(dataset must be whole|that is prepared or known); got .*tiny_cut"
        ):
            read("tfds:tiny_cut:train", (), "", str(tmp_path))
