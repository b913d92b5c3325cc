"""Where documents come from, which are held out, and what happens to input that cannot be used."""

import json
import os
import pickle
import random
import sys

import numpy as np
import pytest

from data_prep import corpus, seen
from data_prep.corpus import CorpusConfig, Span
from tests.sources import as_text, many, read, read_counted, read_spans, texts, write
from tfbert import checks, config


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


class TestDedup:
    TEXT = "one\ntwo\n\nthree\none\n\none\ntwo\n\ntwo\n\nfour\n\nfour\nfour"

    def found(self, folder, dedup):
        path = write(folder, "a.txt", self.TEXT)
        found, counts = read_counted(CorpusConfig(input_file=(path,), dedup=dedup, held_out_fraction=0.5))
        kept = counts["documents_train"] + counts["documents_held_out"]
        assert kept == len(found) and counts["documents_read"] == 6 == kept + counts["documents_duplicate"]
        assert counts["sentences"] == sum(len(d.sentences) for d in found)
        assert counts["bytes"] == sum(len(s) + 1 for d in found for s in d.sentences)
        return found, counts

    def test_documents(self, tmp_path):
        found, counts = self.found(tmp_path, "document")
        assert texts(found) == [["one", "two"], ["three", "one"], ["two"], ["four"], ["four", "four"]]
        assert counts["documents_duplicate"] == 1

    def test_sentences_are_dropped_wherever_they_stood_before(self, tmp_path):
        found, counts = self.found(tmp_path, "sentence")
        assert texts(found) == [["one", "two"], ["three"], ["four"]]
        assert counts["documents_duplicate"] == 3 and counts["sentences_duplicate"] == 6

    def test_none(self, tmp_path):
        found, counts = self.found(tmp_path, "none")
        assert texts(found) == [d.split("\n") for d in self.TEXT.split("\n\n")]
        assert counts["documents_duplicate"] == 0

    def test_what_is_dropped_moves_no_document_to_the_other_side(self, tmp_path):
        documents = [[*d, "The same end."] for d in many(100)]
        path = write(tmp_path, "a.txt", as_text(documents))
        sides = [
            [d.held_out for d in read(path, dedup=dedup, held_out_fraction=0.5)] for dedup in ("sentence", "document")
        ]
        assert sides[0] == sides[1] and 20 < sum(sides[0]) < 80


class TestRead:
    def test_spans_have_what_the_corpus_has(self, tmp_path):
        documents = many(300)
        paths = [write(tmp_path, f"{i}.txt", as_text(documents[i::3])) for i in range(3)]
        cfg = CorpusConfig(input_file=tuple(paths))
        found, counts = read_spans(cfg)
        assert sorted(texts(found)) == sorted(documents)
        assert [(d.sentences, d.where) for d in found] == [(d.sentences, d.where) for d in read(*paths)]
        assert counts["documents_read"] == 300 and counts["documents_empty"] == 0
        assert counts["sentences"] == sum(map(len, documents))
        assert counts["bytes"] == sum(len(s) + 1 for d in documents for s in d)

    def test_spans_are_small_values(self, tmp_path):
        path = write(tmp_path, "a.txt", "one")
        (span,) = corpus.spans(CorpusConfig(input_file=(path,)))
        assert span == Span(path, 0, 3) == Span(*json.loads(json.dumps(span)))
        assert pickle.loads(pickle.dumps(span)) == span

    def test_digest(self):
        digests = [corpus.digest(d) for d in ([b"a", b"b"], [b"ab"], [b"a"], [b"b", b"a"], [])]
        assert all(len(d) == 16 for d in digests) and len(set(digests)) == 5
        assert corpus.digest([b"a\nb"]) == digests[0]
        assert digests[2].hex() == "27c35e6e9373877f29e562464e46497e"  # as it always was: BLAKE2b of "a"


class TestIdentity:
    def test_files(self, tmp_path):
        path = write(tmp_path, "a.txt", "one")
        cfg = CorpusConfig(input_file=(str(tmp_path / "*"),))
        before = corpus.identity(cfg)
        os.utime(path, ns=(5, 1_234_567_890_123_456_789))
        assert corpus.identity(cfg) == [[path, 3, 1_234_567_890_123_456_789]] != before
        write(tmp_path, "b.txt", "")
        assert [i[:2] for i in corpus.identity(cfg)] == [[path, 3], [str(tmp_path / "b.txt"), 0]]

    def test_pydocs(self):
        cfg = CorpusConfig(source="pydocs")
        found = corpus.identity(cfg)
        assert found == json.loads(json.dumps(found)) == corpus.identity(cfg)
        assert found[0] == ["python", sys.version.split()[0]] and ["numpy", np.__version__] in found
        assert corpus.spans(cfg) == [("pydocs", 0, 1)]


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
            (
                {"source": "pydocs", "input_file": ("a",)},
                r"--input_file must be given with --source=text\|jsonl\|parquet, and only then; got source=pydocs",
            ),
            ({"source": "web"}, "source must be one of text, pydocs, tfds, jsonl, parquet"),
            ({"input_file": ("a",), "tfds": "b"}, "--input_file must be given with .* source=tfds, input_file"),
            (
                {"source": "text", "input_file": ("a",), "tfds": "b"},
                "--tfds must be given with --source=tfds, and only",
            ),
            ({"source": "jsonl"}, "--input_file must be given"),
            ({"input_file": ("a.txt", "b.jsonl")}, r"must be of one kind.*got a.txt \(text\) and b.jsonl \(jsonl\)"),
            ({"input_file": ("a.parquet",), "split_sentences": True}, "--split_sentences is for text files"),
            ({"input_file": ("a.txt",), "text_feature": "body"}, "--text_feature must be given with --source=jsonl"),
            ({"input_file": ("a",), "errors": "ignore"}, "errors must be one of strict, replace"),
            ({"input_file": ("a",), "dedup": "all"}, "dedup must be one of document, sentence, none"),
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
        for name, source in (
            ("a.jsonl", "jsonl"),
            ("a.jsonl.gz", "jsonl"),
            ("*.json.gz", "jsonl"),
            ("a.parquet", "parquet"),
            ("a.txt.gz", "text"),
            ("a.json", "text"),
        ):
            assert CorpusConfig(input_file=(name, name)).source == source
        assert CorpusConfig(input_file=("a.jsonl", "b.txt"), source="text").source == "text"
        cfg = CorpusConfig(input_file=("a",))
        assert config.from_dict(CorpusConfig, config.to_dict(cfg)) == cfg

    @pytest.mark.parametrize("text", ["", "\n \n\t\n"])
    @pytest.mark.parametrize("split_sentences", [False, True])
    def test_an_empty_corpus(self, tmp_path, text, split_sentences):
        path = write(tmp_path, "a.txt", text)
        with pytest.raises(checks.InputError, match=r"at least one document; got 0 documents.*a\.txt"):
            read(path, split_sentences=split_sentences)
