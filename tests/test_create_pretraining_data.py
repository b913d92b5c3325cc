"""Tests of data_prep.create_pretraining_data: the whole program, from text files to records."""

import collections
import dataclasses
import itertools
import json
import os

import numpy as np
import pytest
import tensorflow as tf

from data_prep import corpus, instances, record_files, shards, token_files
from data_prep import create_pretraining_data as program
from tests import commands
from tests.tiny_corpus import NAMES, PIECES, VOCAB, L, P, documents_of, original, read, snapshot, text, within
from tfbert import checks
from tfbert.text.vocab import SPECIAL_TOKENS, Vocab


def test_records_hold_what_the_paper_says(make, tmp_path):
    about = make(dupe_factor=10)
    records = read(tmp_path / "records")
    ids, mask = original(records), records["input_mask"]
    n, lengths = len(ids), mask.sum(1)
    assert n == about["counts"]["train"]["instances"]

    assert (ids[:, 0] == VOCAB.cls_id).all()
    assert ((ids == VOCAB.sep_id).sum(1) == 2).all()
    assert (np.take_along_axis(ids, lengths[:, None] - 1, 1) == VOCAB.sep_id).all()
    assert (mask == (np.arange(L) < lengths[:, None])).all()
    assert (ids[mask == 0] == VOCAB.pad_id).all()
    first_sep = (ids == VOCAB.sep_id).argmax(1)[:, None]
    assert (records["segment_ids"] == ((np.arange(L) > first_sep) & (mask == 1))).all()

    masked = records["masked_lm_weights"].sum(1)
    assert masked.tolist() == [min(P, max(1, round(int(k) * 0.15))) for k in lengths]
    real = records["masked_lm_weights"] > 0
    positions = np.where(real, records["masked_lm_positions"], 1 << 20)
    assert ((np.diff(positions, axis=1) > 0) | ~real[:, 1:]).all()
    assert (records["masked_lm_ids"][real] > VOCAB.ids["[unused0]"]).all()

    seen = np.take_along_axis(records["input_ids"], records["masked_lm_positions"], 1)[real]
    ordinary = len(VOCAB) - len(VOCAB.special_ids)
    assert within((seen == VOCAB.mask_id).sum(), seen.size, 0.8)
    assert within((seen == records["masked_lm_ids"][real]).sum(), seen.size, 0.1 + 0.1 / ordinary)
    assert not np.isin(seen[seen != VOCAB.mask_id], VOCAB.special_ids).any()


def test_half_are_next_and_random_ones_are_of_another_document(make, tmp_path):
    make(dupe_factor=10)
    records = read(tmp_path / "records")
    label = records["next_sentence_labels"][:, 0]
    assert within(label.sum(), len(label), 0.5)
    compared = collections.Counter()
    for a, b, is_random in zip(documents_of(records, 0), documents_of(records, 1), label):
        assert len(a) <= 1 and len(b) <= 1
        if a and b:  # truncation can take the name away
            assert (a != b) == is_random
            compared[int(is_random)] += 1
    assert min(compared.values()) > 100


def test_held_out_documents_are_apart_and_made_once(make, tmp_path):
    once, thrice = make("once", dupe_factor=1), make("thrice", dupe_factor=3)
    held_out, train = read(tmp_path / "thrice", "held_out"), read(tmp_path / "thrice")
    assert once["counts"]["held_out"] == thrice["counts"]["held_out"]
    assert thrice["counts"]["train"]["instances"] > 2.5 * once["counts"]["train"]["instances"]
    names = [set().union(*documents_of(r, 0), *documents_of(r, 1)) for r in (held_out, train)]
    assert names[0] and names[1]
    assert not names[0] & names[1]
    assert held_out["masked_lm_weights"].sum() == thrice["counts"]["held_out"]["masked_positions"]


def test_passes_differ(make, tmp_path):
    make(dupe_factor=2, held_out_fraction=0.0)
    records = read(tmp_path / "records")
    assert len(np.unique(records["input_ids"], axis=0)) == len(records["input_ids"])


def test_neighbours_are_of_different_documents(make, tmp_path):
    make(dupe_factor=1, num_shards=1)
    names = documents_of(read(tmp_path / "records"), 0)
    alike = np.mean([a == b for a, b in itertools.pairwise(names) if a and b])
    assert alike < 0.2  # in the order of the documents it would be nearly one half


def test_whole_words_are_masked_whole(make, tmp_path):
    make(do_whole_word_mask=True)
    records = read(tmp_path / "records")
    ids = original(records)
    pieces = [VOCAB.ids[p] for p in PIECES]
    split = 0
    for row, positions, weights in zip(ids, records["masked_lm_positions"], records["masked_lm_weights"]):
        chosen = set(positions[weights > 0].tolist())
        for p in range(2, L):
            if row[p] in pieces and row[p - 1] not in VOCAB.special_ids:
                assert (p in chosen) == (p - 1 in chosen)
                split += p in chosen
    assert split > 20


def test_the_same_flags_give_the_same_bytes_and_another_seed_others(make, tmp_path, monkeypatch):
    make("first")
    make("second")
    make("third", random_seed=12346)
    first, second, third = (snapshot(tmp_path / n) for n in ("first", "second", "third"))
    assert first == second
    shards = [n for n in first if n.endswith("-of-00004.tfrecord")]
    assert len(shards) == 4
    assert all(first[n] != third.get(n) for n in shards)


def test_small_windows_and_batches_leave_nothing_out(make, tmp_path, monkeypatch):
    monkeypatch.setattr(shards, "TOKENIZED_AT_ONCE", 500)
    monkeypatch.setattr(shards, "PART_TOKENS", 300)
    monkeypatch.setattr(instances, "WINDOW_TOKENS", 200)
    monkeypatch.setattr(shards, "MASKED_AT_ONCE", 3)
    about = make(dupe_factor=1, held_out_fraction=0.0)
    records = read(tmp_path / "records")
    assert set().union(*documents_of(records, 0)) == {VOCAB.ids[n] for n in NAMES}
    assert len(records["input_ids"]) == about["counts"]["train"]["instances"]


def test_records_json_says_what_there_is(make, tmp_path):
    about = make()
    folder = tmp_path / "records"
    assert json.loads((folder / "records.json").read_text()) == about
    assert about["tokenizer_digest"] == VOCAB.digest
    assert (about["masked"], about["seed"]) == ("static", 12345)
    assert (about["max_seq_length"], about["max_predictions_per_seq"]) == (L, P)
    assert about["features"]["masked_lm_weights"] == {"dtype": "float32", "shape": [P]}
    assert about["features"]["input_ids"] == {"dtype": "int64", "shape": [L]}
    assert about["config"]["do_lower_case"] is True
    assert set(about["files"]) | {"records.json", "records_report.html"} == set(os.listdir(folder))
    for name, count in about["files"].items():
        assert sum(1 for _ in tf.data.TFRecordDataset(str(folder / name))) == count
    for split in ("train", "held_out"):
        counts, records = about["counts"][split], read(folder, split)
        n = len(records["input_ids"])
        assert sum(c for f, c in about["files"].items() if f.startswith(split)) == counts["instances"] == n
        assert counts["next_is_random"] == records["next_sentence_labels"].sum()
        assert counts["next_is_real"] + counts["next_is_random"] == n
        assert counts["real_positions"] == records["input_mask"].sum()
        assert counts["real_positions"] + counts["padding_positions"] == n * L
        assert counts["masked_positions"] == records["masked_lm_weights"].sum()


def test_every_document_is_accounted_for(make, tmp_path, capsys):
    documents = text(1).split("\n\n")
    documents[5] = documents[3]  # a duplicate
    documents[7] = "\x00\x01\n\x02"  # nothing but control characters
    documents[9] = "unheard of words"
    (tmp_path / "text.txt").write_text("\n\n".join(documents))
    about = make()
    counts, read_ = about["counts"], about["corpus"]
    assert read_["documents_read"] == 60
    assert (read_["documents_duplicate"], read_["documents_without_tokens"], read_["documents_empty"]) == (1, 1, 0)
    assert read_["documents_train"] + read_["documents_held_out"] == 58
    assert [read_[f"documents_{s}"] for s in counts] == [counts[s]["documents"] for s in counts]
    assert sum(counts[s]["unknown_tokens"] for s in counts) == 3
    out = capsys.readouterr().out
    lines = {line[:26].strip(): line[26:].split() for line in out.splitlines()}
    assert lines["documents without tokens"] == ["1"]
    assert lines["instances"] == [str(counts[s]["instances"]) for s in counts]
    assert lines["documents read"] == ["60"]
    assert lines["wall time"][1] == "s"


def test_single_sentence_documents_get_random_nexts(make, tmp_path):
    (tmp_path / "text.txt").write_text(text(2, num_sentences=(1, 2)))
    about = make()
    assert about["counts"]["train"]["next_is_real"] == 0
    assert about["counts"]["train"]["instances"] == 3 * about["counts"]["train"]["documents"]


def test_more_shards_than_instances_make_no_empty_files(make, tmp_path):
    (tmp_path / "text.txt").write_text(text(3, num_documents=2))
    about = make(num_shards=500, dupe_factor=1, held_out_fraction=0.0)
    assert list(about["files"]) == [f"train-{i:05}-of-00002.tfrecord" for i in range(2)]
    assert sum(about["files"].values()) == about["counts"]["train"]["instances"]
    assert about["counts"]["held_out"]["instances"] == 0


def test_records_of_another_run_are_kept_unless_overwritten(make, tmp_path):
    make()
    folder = tmp_path / "records"
    before = snapshot(folder)
    with pytest.raises(checks.InputError, match=r"must not hold records of another run; got held_out-.*--overwrite"):
        make(random_seed=1)
    assert snapshot(folder) == before
    (folder / "notes.txt").write_text("mine")
    about = make(random_seed=1, num_shards=2, overwrite=True)
    assert set(os.listdir(folder)) == {*about["files"], "records.json", "records_report.html", "notes.txt"}
    assert json.loads((folder / "records.json").read_text())["seed"] == 1
    make("fresh", random_seed=1, num_shards=2)
    assert snapshot(tmp_path / "fresh") == {k: v for k, v in snapshot(folder).items() if k != "notes.txt"}


def test_a_records_json_alone_is_a_run_too(make, tmp_path):
    (tmp_path / "records").mkdir()
    (tmp_path / "records" / "records.json").write_text("{}")
    with pytest.raises(checks.InputError, match=r"got records.json \(at "):
        make()


def test_what_a_killed_run_left_is_in_no_ones_way(make, tmp_path):
    unfinished = tmp_path / "records" / record_files.UNFINISHED
    unfinished.mkdir(parents=True)
    (unfinished / "train-00000").write_bytes(b"half a record")
    make()
    assert not unfinished.exists()


@pytest.mark.slow
def test_a_full_disk_is_an_error_and_leaves_the_old_records(make, tmp_path, monkeypatch):
    make()
    before = snapshot(tmp_path / "records")
    writer = tf.io.TFRecordWriter
    monkeypatch.setattr(record_files.tf.io, "TFRecordWriter", lambda path: writer("/dev/full"))
    with pytest.raises(checks.InputError, match=r"with space left; got .*No space left"):
        make(overwrite=True, random_seed=5)
    assert snapshot(tmp_path / "records") == before
    with pytest.raises(checks.InputError, match=r"with space left; got .*No space left"):
        make("other")
    assert os.listdir(tmp_path / "other") == [record_files.UNFINISHED]
    monkeypatch.setattr(record_files.tf.io, "TFRecordWriter", writer)
    make("other")  # goes on
    make("fresh")
    assert snapshot(tmp_path / "other") == snapshot(tmp_path / "fresh")


def test_a_disk_full_of_tokens_is_an_error(make, tmp_path, monkeypatch):
    def full(path, mode="r", **kwargs):
        return open("/dev/full", mode, 0) if mode == "wb" else open(path, mode, **kwargs)

    monkeypatch.setattr(token_files, "open", full, raising=False)
    with pytest.raises(checks.InputError, match="with space left"):
        make()
    assert os.listdir(tmp_path / "records") == [record_files.UNFINISHED]


def test_an_unwritable_folder_is_an_error(make, tmp_path):
    (tmp_path / "file").write_text("")
    for name in ("file", "file/below"):
        with pytest.raises(checks.InputError, match="output_dir must be a folder"):
            make(name)
    with pytest.raises(checks.InputError, match="output_dir must be given"):
        make(output_dir="")


def test_an_error_in_the_corpus_leaves_no_files(make, tmp_path):
    (tmp_path / "text.txt").write_bytes(text(0).encode() + b"\xff\xfe\n")
    with pytest.raises(checks.InputError, match="UTF-8"):
        make()
    assert os.listdir(tmp_path / "records") == []


def test_an_empty_corpus_is_an_error(make, tmp_path):
    (tmp_path / "text.txt").write_text("\n\n\n")
    with pytest.raises(checks.InputError, match="corpus must hold at least one document"):
        make()
    (tmp_path / "text.txt").write_text("\x00\n\n\x01\n")
    with pytest.raises(checks.InputError, match="text to train on; got 0 documents with text"):
        make(held_out_fraction=0.0)
    (tmp_path / "text.txt").write_text(text(0))
    with pytest.raises(checks.InputError, match="text to train on; got 0 documents with text, 60 of them held out"):
        make(held_out_fraction=1.0)


def test_one_document_alone_is_an_error(make, tmp_path):
    (tmp_path / "text.txt").write_text(text(0, num_documents=1))
    with pytest.raises(checks.InputError, match=r"1 different document in train.*blank line between documents"):
        make(held_out_fraction=0.0)
    (tmp_path / "text.txt").write_text("Bak bal\n\nbak BAL\n")  # the same once it is lower-cased
    with pytest.raises(checks.InputError, match="1 different document in train"):
        make(held_out_fraction=0.0)


def test_one_held_out_document_is_an_error(make, tmp_path, monkeypatch):
    monkeypatch.setattr(corpus, "is_held_out", lambda whole, fraction: whole.startswith(b"doc3 "))
    with pytest.raises(checks.InputError, match=r"1 different document in held_out.*Raise --held_out_fraction"):
        make()


def test_a_vocabulary_of_special_tokens_is_an_error(make, tmp_path):
    Vocab(SPECIAL_TOKENS).write(tmp_path / "vocab")
    with pytest.raises(checks.InputError, match="entries beside its special tokens"):
        make()
    assert not (tmp_path / "records").exists()


@pytest.mark.parametrize(
    "flag", [{"max_seq_length": 4}, {"dupe_factor": 0}, {"masked_lm_prob": 1.5}, {"num_shards": 0}]
)
def test_flags_out_of_bounds_are_refused(make, flag):
    with pytest.raises(checks.InputError, match=next(iter(flag))):
        make(**flag)


def test_the_shortest_sequences(make, tmp_path):
    about = make(max_seq_length=5, max_predictions_per_seq=9)
    assert about["counts"]["train"]["masked_positions"] == about["counts"]["train"]["instances"]
    assert about["counts"]["train"]["padding_positions"] == 0


def test_google_flags_have_googles_defaults():
    google = {
        "do_whole_word_mask": False,
        "max_seq_length": 128,
        "max_predictions_per_seq": 20,
        "random_seed": 12345,
        "dupe_factor": 10,
        "masked_lm_prob": 0.15,
        "short_seq_prob": 0.1,
    }
    defaults = {f.name: f.default for f in dataclasses.fields(program.Config)}
    assert google.items() <= defaults.items()


@pytest.mark.slow
def test_the_command_takes_flags_and_no_misspelt_ones_for_beams(tmp_path):
    VOCAB.write(tmp_path / "vocab")
    (tmp_path / "text.txt").write_text(text(0))
    words = ["--source=text", f"--max_seq_length={L}", f"--input_file={tmp_path}/text.txt"]
    words += [f"--vocab_file={tmp_path}/vocab", f"--output_dir={tmp_path}/out", "--dupe_factor=1"]
    words += ["--do_lower_case=true", "--held_out_fraction=0.2"]
    misspelt = {
        "Unknown command line flag 'dupe_facter'": ["--dupe_facter=2"],
        "no positional arguments are taken; got ['text.txt']": ["--source=pydocs", "text.txt"],
        "got --flink_master=h:1": ["--source=pydocs", "--", "--flink_master=h:1"],
    }
    done, *refused = commands.run("data_prep.create_pretraining_data", words, *misspelt.values())
    assert done.returncode == 0, done.stderr
    assert "next is random" in done.stdout
    for said, wrong in zip(misspelt, refused, strict=True):
        assert wrong.returncode != 0 and said in wrong.stderr + wrong.stdout
