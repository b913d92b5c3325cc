"""Where documents come from, which are held out, and what happens to input that cannot be used."""

import collections
import gzip
import os
import random

import numpy as np
import pytest

from data_prep import corpus, seen, sentences
from data_prep.corpus import CorpusConfig
from tfbert import checks, config


def write(folder, name, text):
    path = folder / name
    data = text if isinstance(text, bytes) else text.encode()
    path.write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
    return str(path)


def read(*patterns, **kwargs):
    return list(corpus.documents(CorpusConfig(input_file=patterns, **kwargs), collections.Counter()))


def read_counted(cfg):
    counts = collections.Counter()
    return list(corpus.documents(cfg, counts)), counts


def texts(documents):
    return [[s.decode() for s in d.sentences] for d in documents]


def many(n, seed=0):
    """n different documents of one to five sentences."""
    rng = random.Random(seed)
    return [[f"Sentence {j} of document {i}." for j in range(rng.randint(1, 5))] for i in range(n)]


def as_text(documents):
    return "\n\n".join("\n".join(d) for d in documents) + "\n"


class TestTextFiles:
    def test_blank_lines_and_the_ends_of_files_part_documents(self, tmp_path):
        write(tmp_path, "b.txt", "\n\n one \ntwo\n \t \n\nthrée\n\n\n")
        write(tmp_path, "a.txt.gz", "four\nfive")
        assert texts(read(str(tmp_path / "*"))) == [["four", "five"], ["one", "two"], ["thrée"]]

    def test_where_names_file_and_line(self, tmp_path):
        path = write(tmp_path, "a.txt", "\none\n\n\ntwo\nthree\n")
        assert [d.where for d in read(path)] == [f"{path}, line 2", f"{path}, line 5"]

    def test_windows_files(self, tmp_path):
        path = write(tmp_path, "a.txt", b"\xef\xbb\xbfone\r\ntwo\r\n\r\nthree\r\n")
        assert texts(read(path)) == [["one", "two"], ["three"]]

    def test_globs_come_in_their_order_sorted_within_and_each_file_once(self, tmp_path):
        for name in ("c.txt", "a.txt", "b.md"):
            write(tmp_path, name, f"text of {name}")
        found = read(str(tmp_path / "b*"), str(tmp_path / "*.txt"), str(tmp_path / "./a.txt"), str(tmp_path / "*"))
        assert texts(found) == [["text of b.md"], ["text of a.txt"], ["text of c.txt"]]

    def test_a_name_with_glob_characters_is_a_name(self, tmp_path):
        assert texts(read(write(tmp_path, "a[1].txt", "one"))) == [["one"]]

    def test_raw_prose_is_split_by_paragraph(self, tmp_path):
        path = write(tmp_path, "a.txt", "It is one. It is two.\nIs it three?\n\nIt is four, e.g. this! It is five.")
        assert texts(read(path, split_sentences=True)) == [
            ["It is one.", "It is two.", "Is it three?"],
            ["It is four, e.g. this!", "It is five."],
        ]

    def test_batches_change_nothing(self, tmp_path, monkeypatch):
        path = write(tmp_path, "a.txt", as_text([[" ".join(d), d[0]] for d in many(60)]))
        whole = read(path, split_sentences=True)
        monkeypatch.setattr(sentences, "_BATCH", 7)
        assert read(path, split_sentences=True) == whole
        assert len(whole) == 60

    def test_one_long_line(self, tmp_path):
        path = write(tmp_path, "a.txt", "A sentence of five words. " * 100_000)
        (document,) = read(path, split_sentences=True)
        assert set(document.sentences) == {b"A sentence of five words."} and len(document.sentences) == 100_000


class TestCounts:
    def test_every_document_is_accounted_for(self, tmp_path):
        documents = many(300)
        path = write(tmp_path, "a.txt", as_text(documents + documents[5:12] + documents[:3]))
        found, counts = read_counted(CorpusConfig(input_file=(path,), held_out_fraction=0.3))
        assert counts["documents_read"] == 310 and counts["documents_duplicate"] == 10
        assert counts["documents_train"] + counts["documents_held_out"] == 300 == len(found)
        assert counts["documents_held_out"] == sum(d.held_out for d in found)
        assert counts["sentences"] == sum(map(len, documents))
        assert counts["bytes"] == sum(len(s) + 1 for d in documents for s in d)

    def test_documents_that_share_sentences_are_no_duplicates(self, tmp_path):
        path = write(tmp_path, "a.txt", "one\ntwo\n\none two\n\none\n\ntwo\none\n\none\ntwo")
        assert texts(read(path)) == [["one", "two"], ["one two"], ["one"], ["two", "one"]]

    def test_seen_remembers_what_was_added(self):
        known, items = seen.Seen(), [str(i).encode() for i in range(60_000)]
        assert all(known.add(x) for x in items)
        assert not any(known.add(x) for x in items)
        assert known.add(b"new") and not known.add(b"new")


class TestHeldOut:
    def sides(self, folder, order, **kwargs):
        os.makedirs(folder, exist_ok=True)
        for i in range(3):
            write(folder, f"{i}.txt", as_text(order[i::3]))
        found = read(str(folder / "*.txt"), **kwargs)
        return {tuple(d.sentences): d.held_out for d in found}

    def test_a_document_is_on_one_side_wherever_it_stands(self, tmp_path):
        documents = many(400)
        sides = self.sides(tmp_path / "a", documents, held_out_fraction=0.25)
        random.Random(7).shuffle(documents)
        assert self.sides(tmp_path / "b", documents, held_out_fraction=0.25) == sides
        some = {k: v for k, v in sides.items() if k in {tuple(s.encode() for s in d) for d in documents[:50]}}
        assert self.sides(tmp_path / "c", documents[:50], held_out_fraction=0.25) == some
        assert 0.15 < sum(sides.values()) / 400 < 0.35  # 4.6 deviations

    def test_a_larger_fraction_holds_out_more_of_the_same(self, tmp_path):
        held = [self.sides(tmp_path / str(f), many(200), held_out_fraction=f) for f in (0.0, 0.1, 0.4, 1.0)]
        held = [{k for k, v in sides.items() if v} for sides in held]
        assert held[0] < held[1] < held[2] < held[3]
        assert len(held[0]) == 0 and len(held[3]) == 200

    def test_the_side_is_as_it_always_was(self):
        # What sha256 gives; another version must not move documents over.
        numbers = [i for i in range(40) if corpus.is_held_out(b"document %d" % i, 0.2)]
        assert numbers == [4, 10, 15, 26, 34]


class TestBadInput:
    @pytest.mark.parametrize(
        "kwargs, words",
        [
            ({}, "a corpus must be given"),
            ({"source": "text"}, "--input_file must be given"),
            ({"source": "tfds"}, "--tfds must be given"),
            ({"source": "pydocs", "input_file": ("a",)}, "--input_file must be given with --source=text, and only"),
            ({"source": "web"}, "source must be one of text, pydocs, tfds"),
            ({"input_file": ("a",), "tfds": "b"}, "--tfds must be given with --source=tfds, and only"),
            ({"source": "pydocs", "split_sentences": True}, "--split_sentences is for text files"),
            ({"source": "pydocs", "held_out_fraction": 1.5}, "held_out_fraction must be at most"),
        ],
    )
    def test_flags(self, kwargs, words):
        with pytest.raises(checks.InputError, match=words):
            CorpusConfig(**kwargs)

    def test_the_source_follows_from_what_is_given(self):
        assert CorpusConfig(input_file=("a",)).source == "text"
        assert CorpusConfig(tfds="a").source == "tfds"
        cfg = CorpusConfig(input_file=("a",))
        assert config.from_dict(CorpusConfig, config.to_dict(cfg)) == cfg

    def test_a_glob_that_matches_nothing(self, tmp_path):
        with pytest.raises(checks.InputError, match=r"at least one file; got none \(at .*no\*\.txt\)"):
            read(str(tmp_path / "no*.txt"))

    def test_a_folder(self, tmp_path):
        with pytest.raises(checks.InputError, match="files only; got a folder"):
            read(str(tmp_path))

    def test_an_unreadable_file(self, tmp_path, monkeypatch):
        path = write(tmp_path, "a.txt", "one")

        def refuse(*_):
            raise PermissionError(13, "Permission denied")

        monkeypatch.setattr(corpus, "open", refuse, raising=False)  # root may read everything
        with pytest.raises(checks.InputError, match=r"must be readable; got Permission denied \(at .*a\.txt\)"):
            read(path)

    def test_invalid_utf8_names_file_and_line(self, tmp_path):
        path = write(tmp_path, "a.txt", b"one\n\nn\xc3\xa4chste\ncaf\xe9\n")
        with pytest.raises(checks.InputError, match=r"UTF-8; got byte 0xe9 at byte 4 of the line \(at .*txt, line 4"):
            read(path)

    @pytest.mark.parametrize("broken", [b"no gzip", gzip.compress(b"one\n" * 999)[:-20], gzip.compress(b"one")[:-4]])
    def test_a_broken_gz(self, tmp_path, broken):
        (tmp_path / "a.gz").write_bytes(broken)
        with pytest.raises(checks.InputError, match=r"must be whole and gzipped; got .*a\.gz, line"):
            read(str(tmp_path / "a.gz"))

    @pytest.mark.parametrize("text", ["", "\n \n\t\n"])
    @pytest.mark.parametrize("split_sentences", [False, True])
    def test_an_empty_corpus(self, tmp_path, text, split_sentences):
        path = write(tmp_path, "a.txt", text)
        with pytest.raises(checks.InputError, match=r"at least one document; got 0 documents.*a\.txt"):
            read(path, split_sentences=split_sentences)


class TestSentences:
    @pytest.mark.parametrize(
        "expected",
        [
            ["See `tf.data.Dataset` for x.", "It is 3.5 times faster, i.e. good."],
            ["Why?", "Because!", "No end here"],
            ["Read https://example.org/a?b=c first.", "Then go on."],
            ['He said "Stop."', 'Then he said "Go!"', "(In brackets.)"],
            ["Use lists, tuples, etc. as you like.", "Dr. Who came vs. others, cf. Smith et al. 2019."],
            ["Nächstes Jahr wird's schön.", "Ça va.", "你好。", "再见！"],
        ],
    )
    def test_known_traps(self, expected):
        text = " ".join(expected)
        assert [s.decode() for s in sentences.split([text])[0]] == expected

    def test_no_text_is_lost_or_changed(self):
        rng = random.Random(3)
        parts = ["a", "B", ".", "?", "!", " ", '"', "'", ")", ":", "é", "世", "\x01", "e.g.", "3.5", "  ", "。", "😀"]
        paragraphs = ["".join(rng.choices(parts, k=rng.randint(0, 40))) for _ in range(2000)]
        for paragraph, found in zip(paragraphs, sentences.split(paragraphs), strict=True):
            assert "".join(paragraph.split()) == "".join("".join(s.decode() for s in found).split())

    def test_documents_without_paragraphs_stay_in_their_place(self):
        stream = [("a", []), ("b", ["One. Two."]), ("c", [])]
        expected = [("a", []), ("b", [[b"One.", b"Two."]]), ("c", [])]
        assert list(sentences.split_documents(stream)) == expected
        assert list(sentences.split_documents([])) == []


@pytest.fixture(scope="module")
def dataset_dir(tmp_path_factory):
    """A dataset of TFDS with two splits, on disk."""
    import tensorflow_datasets as tfds

    folder = tmp_path_factory.mktemp("tfds")
    place = folder / "tiny_docs" / "1.0.0"
    place.mkdir(parents=True)
    identity = tfds.core.DatasetIdentity(
        name="tiny_docs", version=tfds.core.Version("1.0.0"), data_dir=str(place), module_name="tests"
    )
    strings = {name: tfds.features.Text() for name in ("title", "text")}
    features = tfds.features.FeaturesDict({**strings, "number": tfds.features.Scalar(np.int64)})
    info = tfds.core.DatasetInfo(builder=identity, features=features, description="For a test.")
    writer = tfds.core.SequentialWriter(info, max_examples_per_shard=2)
    writer.initialize_splits(["train", "test"])
    rows = [{"title": f"Title {i}.", "text": f"Head {i}\n\nOne é. Two.\n", "number": i} for i in range(5)]
    writer.add_examples({"train": rows, "test": [{**rows[0], "text": b"caf\xe9"}]})
    writer.close_all()
    return str(folder)


class TestTfds:
    def test_examples_are_documents_in_the_order_of_the_files(self, dataset_dir):
        cfg = CorpusConfig(tfds="tiny_docs", tfds_data_dir=dataset_dir)
        found, counts = read_counted(cfg)
        assert texts(found) == [[f"Head {i}", "One é.", "Two."] for i in range(5)]
        assert found[3].where == "tiny_docs, train, example 4"
        assert counts["documents_read"] == 5
        assert read_counted(cfg)[0] == found

    def test_another_feature_and_split(self, dataset_dir):
        cfg = CorpusConfig(tfds="tiny_docs", tfds_data_dir=dataset_dir, tfds_feature="title", tfds_split="train[1:3]")
        assert texts(read_counted(cfg)[0]) == [["Title 1."], ["Title 2."]]

    @pytest.mark.parametrize(
        "kwargs, words",
        [
            (
                {"tfds_feature": "number"},
                r"one string; got tfds_feature='number', and the dataset has \['text', 'title'\]",
            ),
            ({"tfds_feature": "body"}, "one string; got tfds_feature='body'"),
            ({"tfds_split": "dev"}, "tfds_split must be a split; got Unknown split 'dev'"),
            ({"tfds_split": "test"}, "UTF-8; got byte 4 is not .at tiny_docs, test, example 1"),
            ({"tfds": "no_such_docs"}, "prepared or known; got Dataset no_such_docs not found"),
            ({"tfds": "wikipedia/20230601.en"}, "prepared; got nothing in .*Pass the right --tfds_data_dir, or --tfds"),
        ],
    )
    def test_bad_input(self, dataset_dir, kwargs, words):
        cfg = CorpusConfig(**{"tfds": "tiny_docs", "tfds_data_dir": dataset_dir, **kwargs})
        with pytest.raises(checks.InputError, match=words):
            read_counted(cfg)
