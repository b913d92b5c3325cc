"""Tests of data_prep.beam_pipelines: a pipeline makes what processes make. Needs requirements-beam.txt."""

import collections
import gzip
import itertools
import random

import numpy as np
import pytest
import tensorflow as tf

pytest.importorskip("apache_beam", reason="Apache Beam is not installed: pip install -r requirements-beam.txt")

from data_prep import beam_pipelines, learn_vocab, shards, text_files
from tests.tiny_corpus import snapshot, text
from tfbert import checks

TWO_PROCESSES = ("--direct_num_workers=2", "--direct_running_mode=multi_processing")


@pytest.fixture
def corpus_of_many_spans(tmp_path, monkeypatch):
    """Globs of three files, cut into spans of 700 bytes, with documents and sentences that come again."""
    first = text(0)
    documents = first.split("\n\n")
    again = "\n\n".join([documents[3], "An own line.\n" + documents[5], "\n\n\n", documents[3], documents[41]])
    for name, content in (("a", first), ("b", again), ("c", text(1, num_documents=23))):
        (tmp_path / f"{name}.txt").write_text(content)
    monkeypatch.setattr(text_files, "span_bytes", lambda total: 700)
    monkeypatch.setattr(shards, "PART_TOKENS", 60)
    monkeypatch.setattr(shards, "TOKENIZED_AT_ONCE", 200)
    return tuple(str(tmp_path / f"{name}.txt") for name in "abc")


def records(folder):
    """The multiset of the records of a folder."""
    files = [str(path) for path in folder.glob("*.tfrecord")]
    return collections.Counter(tf.data.TFRecordDataset(files).as_numpy_iterator())


@pytest.mark.slow
def test_two_processes_of_the_direct_runner_make_the_same_records(make, tmp_path, corpus_of_many_spans, monkeypatch):
    monkeypatch.undo()  # what is patched here is not in Beam's processes: the corpus is small enough for one part
    monkeypatch.setattr(text_files, "span_bytes", lambda total: 700)
    flags = {"input_file": corpus_of_many_spans, "held_out_fraction": 0.2}
    make("processes", **flags)
    make("beam", TWO_PROCESSES, runner="DirectRunner", **flags)
    assert records(tmp_path / "beam") == records(tmp_path / "processes")
    assert sum(records(tmp_path / "beam").values()) > 200
    # And not only the multiset: each file is the same, records.json too.
    assert snapshot(tmp_path / "beam") == snapshot(tmp_path / "processes")
    assert not (tmp_path / "beam" / ".unfinished").exists()


@pytest.mark.slow
@pytest.mark.parametrize(
    "flags",
    [
        {"dedup": "document"},
        {"dedup": "sentence", "mask_unit": "span"},
        {"dedup": "none", "masking": "dynamic", "sentence_objective": "sop"},
        {"sentence_objective": "none", "pack_sequences": True, "held_out_fraction": 0.0},
        {"num_shards": 29, "held_out_fraction": 0.4},  # of few documents: they borrow from one another
    ],
    ids=lambda flags: "-".join(map(str, flags.values())),
)
def test_every_kind_of_records_is_the_same(make, tmp_path, corpus_of_many_spans, flags):
    about = make("processes", input_file=corpus_of_many_spans, **flags)
    assert make("beam", runner="DirectRunner", input_file=corpus_of_many_spans, **flags) == about
    assert snapshot(tmp_path / "beam") == snapshot(tmp_path / "processes")
    if "dedup" in flags:
        assert (about["corpus"]["documents_duplicate"] > 0) == (flags["dedup"] != "none")


def test_records_of_another_run_are_not_replaced(make, corpus_of_many_spans):
    make(input_file=corpus_of_many_spans)
    with pytest.raises(checks.InputError, match="must not hold records of another run"):
        make(input_file=corpus_of_many_spans, runner="DirectRunner")


@pytest.mark.slow
def test_input_and_records_in_a_store(make, tmp_path, monkeypatch):
    # TensorFlow's store in memory stands in for gs://, which cannot be reached from everywhere.
    monkeypatch.setattr(text_files, "span_bytes", lambda total: 700)
    content = text(0).encode() + b"\n" + text(1).encode()
    tf.io.gfile.makedirs("ram://bucket/input")
    for name, data in (("a.txt", content), ("b.txt.gz", gzip.compress(text(2).encode()))):
        (tmp_path / name).write_bytes(data)
        with tf.io.gfile.GFile(f"ram://bucket/input/{name}", "wb") as f:
            f.write(data)
    make("local", input_file=(str(tmp_path / "?.txt*"),))
    stored = {"input_file": ("ram://bucket/input/?.txt*",), "output_dir": "ram://bucket/records"}
    make(**stored, runner="DirectRunner")
    assert not tf.io.gfile.exists("ram://bucket/records/.unfinished")
    there = {}
    for name in tf.io.gfile.listdir("ram://bucket/records"):
        with tf.io.gfile.GFile(f"ram://bucket/records/{name}", "rb") as f:
            there[name] = f.read()
    here = snapshot(tmp_path / "local")
    assert there.keys() == here.keys()
    assert {n: b for n, b in there.items() if n.endswith("record")} == {
        n: b for n, b in here.items() if n.endswith("record")
    }
    with pytest.raises(checks.InputError, match="must not hold records of another run"):
        make(**stored, runner="DirectRunner")
    make(**stored, runner="DirectRunner", overwrite=True, random_seed=7)
    with pytest.raises(checks.InputError, match=r"must be a folder of this machine.*Pass --runner"):
        make(**stored, overwrite=True)


class TestWords:
    @pytest.mark.parametrize("dedup", ["document", "sentence", "none"])
    def test_the_vocabulary_is_the_same(self, tmp_path, corpus_of_many_spans, dedup, capsys):
        flags = {"input_file": corpus_of_many_spans, "dedup": dedup, "vocab_size": 150, "held_out_fraction": 0.3}
        tables = []
        for name, runner in (("one", None), ("beam", "DirectRunner")):
            learn_vocab.run(learn_vocab.Config(output_dir=str(tmp_path / name), runner=runner, **flags))
            tables.append(capsys.readouterr().out.split("written to")[0])
        assert snapshot(tmp_path / "beam") == snapshot(tmp_path / "one")
        assert tables[0] == tables[1]  # every count of documents, words and pieces
        assert not (tmp_path / "beam" / ".unfinished").exists()

    @pytest.mark.slow
    def test_two_processes_count_the_same_words(self, tmp_path, corpus_of_many_spans):
        cfg = learn_vocab.Config(input_file=corpus_of_many_spans, output_dir=str(tmp_path / "beam"))
        counts, expected = collections.Counter(), collections.Counter()
        words = learn_vocab.count_words(cfg, expected, lambda _: None)
        cfg = learn_vocab.Config(input_file=corpus_of_many_spans, output_dir=str(tmp_path), runner="DirectRunner")
        assert beam_pipelines.count_words(cfg, counts, TWO_PROCESSES) == words
        assert counts == expected


class TestErrors:
    def test_what_a_worker_finds_wrong_is_said_as_anywhere(self, make, tmp_path, corpus_of_many_spans):
        (tmp_path / "b.txt").write_bytes(b"A line.\nAnother \xff line.\n")
        with pytest.raises(checks.InputError, match=r"UTF-8; got byte 0xff.*b\.txt, line 2"):
            make(input_file=corpus_of_many_spans, runner="DirectRunner")
        assert list((tmp_path / "records").iterdir()) == []

    def test_a_corpus_without_documents(self, make, tmp_path):
        (tmp_path / "text.txt").write_text("\n\n  \n")
        with pytest.raises(checks.InputError, match="a corpus must hold at least one document"):
            make(runner="DirectRunner")

    def test_one_document(self, make, tmp_path):
        (tmp_path / "text.txt").write_text(text(0, num_documents=1))
        with pytest.raises(checks.InputError, match="a split must hold two different ones"):
            make(runner="DirectRunner", held_out_fraction=0.0)

    def test_options_that_beam_does_not_know(self, make):
        with pytest.raises(checks.InputError, match="must be Apache Beam's; got --flonk_master"):
            make(beam_options=("--flink_master=h:1", "--flonk_master=h:1"), runner="DirectRunner")


def test_all_but_the_first_place_is_dropped():
    places = [(0, 7), (1, 3), (3, 0), (3, 9), (12, 1)]
    for order in itertools.permutations(places):
        assert sorted(beam_pipelines._all_but_first((b"digest", iter(order)))) == places[1:]
    assert list(beam_pipelines._all_but_first((b"digest", [(4, 2)]))) == []


def test_first_blocks_are_those_that_hold_enough():
    rng = random.Random(3)
    for enough in (1, 9, 37, 1000):
        found = [(span, part, rng.randint(1, 6), b"%d" % span) for span in range(7) for part in range(3)]
        needed, held = [], 0
        for block in found:
            if held < enough:
                needed.append(block)
                held += block[2]
        assert beam_pipelines.first_blocks(rng.sample(found, len(found)), enough) == needed


def test_lenders_are_those_that_a_shard_reads():
    rng = np.random.default_rng(5)
    known = [("train", i) for i in range(17)] + [("held_out", i) for i in range(4)]
    for high in (3, 30, 200):
        documents = {code: int(n) for code, n in enumerate(rng.integers(0, high, len(known))) if n}
        blocks = {code: [Blocks(1)] * n for code, n in documents.items()}  # of one document each
        expected = collections.defaultdict(dict)
        for code, held in documents.items():
            asked = []

            def read(other, asked=asked, blocks=blocks):
                asked.append(other)
                return iter(blocks.get(other, ()))

            if held < shards.ENOUGH_DOCUMENTS:
                shards._borrow(read, code, [c for c, k in enumerate(known) if k[0] == known[code][0]], held)
            for other in asked:
                if other in documents:
                    expected[other][code] = held
                    held += documents[other]
        assert {o: dict(borrowers) for o, borrowers in beam_pipelines.lenders(documents, known).items()} == expected


class Blocks(collections.namedtuple("Blocks", "number")):
    """As much of a `Block` as borrowing looks at."""

    @property
    def documents(self):
        return range(self.number)
