"""Tests of data_prep.create_pretraining_data: objectives, masks, rows, processes, and going on after a kill."""

import contextlib
import itertools
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import tensorflow as tf

from data_prep import create_pretraining_data as program
from data_prep import record_files, shards, workers
from tests import worker_tasks
from tests.tiny_corpus import PIECES, VOCAB, L, P, documents_of, original, read, snapshot, text, within
from tfbert import checks, features
from tfbert.text import masking


class TestObjectives:
    def test_sentence_order(self, make, tmp_path):
        about = make(sentence_objective="sop", dupe_factor=10)
        records, counts = read(tmp_path / "records"), about["counts"]["train"]
        labels = records["next_sentence_labels"][:, 0]
        assert within(labels.sum(), len(labels), 0.5)
        assert counts["swapped"] == labels.sum()
        assert counts["in_order"] + counts["swapped"] == counts["instances"]
        for a, b in zip(documents_of(records, 0), documents_of(records, 1)):
            assert not a or not b or a == b

    def test_full_sentences(self, make, tmp_path):
        about = make(sentence_objective="none", short_seq_prob=0.0, dupe_factor=1)
        records, counts = read(tmp_path / "records"), about["counts"]["train"]
        assert not records["next_sentence_labels"].any()
        assert not records["segment_ids"].any()
        assert counts["truncated_tokens"] == 0
        assert "next_is_real" not in counts
        ids = original(records)
        assert (ids > VOCAB.ids["[unused0]"]).sum() == counts["tokens"]
        assert max(map(len, documents_of(records, 0))) > 1  # segments go on into the next document
        assert counts["padding_positions"] < 0.25 * ids.size

    def test_one_document_is_enough_where_none_is_drawn_from_others(self, make, tmp_path):
        (tmp_path / "text.txt").write_text(text(0, num_documents=1))
        for objective in ("sop", "none"):
            about = make(objective, sentence_objective=objective, held_out_fraction=0.0)
            assert about["counts"]["train"]["instances"] > 0


class TestMasking:
    def test_google_says_whole_word(self, make, tmp_path):
        make("google", do_whole_word_mask=True)
        make("ours", mask_unit="word")
        assert snapshot(tmp_path / "google") == snapshot(tmp_path / "ours")
        with pytest.raises(checks.InputError, match="mask_unit=span"):
            make(do_whole_word_mask=True, mask_unit="span")

    @pytest.mark.parametrize("unit", ["ngram", "span"])
    def test_units_of_words_are_never_cut(self, make, tmp_path, unit):
        make(mask_unit=unit)
        records = read(tmp_path / "records")
        ids, pieces = original(records), [VOCAB.ids[p] for p in PIECES]
        chosen = np.zeros((len(ids), L), bool)
        rows, slots = np.nonzero(records["masked_lm_weights"])
        chosen[rows, records["masked_lm_positions"][rows, slots]] = True
        inside = np.isin(ids[:, 1:], pieces) & ~np.isin(ids[:, :-1], VOCAB.special_ids)
        np.testing.assert_array_equal(chosen[:, 1:][inside], chosen[:, :-1][inside])
        assert chosen[:, 1:][inside].sum() > 20

    @pytest.mark.parametrize("unit", ["token", "word"])
    def test_dynamic_records_masked_with_the_same_seeds_are_the_static_ones(self, make, tmp_path, monkeypatch, unit):
        seeds = []
        of_maker = shards.Maker.mask

        def mask(self, batch, with_seeds):
            seeds.append(with_seeds)
            return of_maker(self, batch, with_seeds)

        monkeypatch.setattr(shards.Maker, "mask", mask)
        flags = {"mask_unit": unit, "num_shards": 1, "held_out_fraction": 0.0, "dupe_factor": 1}
        make("static", **flags)
        about = make("dynamic", masking="dynamic", **flags)
        assert about["masked"] == "no"
        static, dynamic = read(tmp_path / "static"), read(tmp_path / "dynamic", layout=features.Layout(L, P, False))
        masked = masking.mask(
            dynamic["input_ids"],
            dynamic["input_mask"],
            VOCAB,
            unit,
            about["masked_lm_prob"],
            P,
            np.concatenate(seeds),
            dynamic["word_starts"] > 0,
        )
        for name, value in masked.items():
            np.testing.assert_array_equal(value, static[name], name)

    def test_held_out_records_are_masked_whatever_the_others_are(self, make, tmp_path):
        make("static")
        make("dynamic", masking="dynamic")
        held_out = [snapshot(tmp_path / n)["held_out-00000-of-00001.tfrecord"] for n in ("static", "dynamic")]
        assert held_out[0] == held_out[1]


class TestRows:
    def test_rows_are_full_and_hold_the_same_examples(self, make, tmp_path):
        (tmp_path / "text.txt").write_text(text(4, num_documents=60, num_sentences=(1, 3)))
        flags = {"max_seq_length": 82, "dupe_factor": 5, "num_shards": 1, "held_out_fraction": 0.0}
        plain = make("plain", **flags)["counts"]["train"]
        about = make("packed", pack_sequences=True, **flags)
        packed, m = about["counts"]["train"], about["max_sequences_per_pack"]
        assert m == 5
        assert packed["instances"] == plain["instances"]
        assert packed["real_positions"] == plain["real_positions"]
        assert packed["padding_positions"] < 0.2 * plain["padding_positions"]
        assert packed["rows"] == about["files"]["train-00000-of-00001.tfrecord"] < 0.7 * plain["rows"]
        records = read(tmp_path / "packed", layout=features.Layout(82, P, True, m))
        assert records["next_sentence_weights"].sum() == packed["instances"]
        assert records["input_mask"].max() <= m

        def examples(records, numbers):
            for ids, mask in zip(original(records), records["input_mask"]):
                yield from (tuple(ids[mask == n].tolist()) for n in range(1, numbers + 1) if (mask == n).any())

        both = [
            sorted(examples(r, n))
            for r, n in ((records, m), (read(tmp_path / "plain", layout=features.Layout(82, P)), 1))
        ]
        assert both[0] == both[1]


class TestDuplicates:
    def test_sentences(self, make, tmp_path):
        documents = text(1).split("\n\n")
        repeated = documents[3].split("\n")[0]
        documents[5] = repeated  # nothing else is in it
        documents[7] += "\n" + repeated
        (tmp_path / "text.txt").write_text("\n\n".join(documents))
        about = make(dedup="sentence")["corpus"]
        assert (about["documents_read"], about["documents_duplicate"]) == (60, 1)
        assert about["sentences_duplicate"] == 2

    def test_none(self, make, tmp_path):
        (tmp_path / "text.txt").write_text("\n\n".join([text(1, num_documents=3)] * 2))
        assert make("two", dedup="none")["corpus"]["documents_duplicate"] == 0
        assert make("one")["corpus"]["documents_duplicate"] == 3


@contextlib.contextmanager
def interrupted_after(monkeypatch, files):
    """Within it, the program is interrupted when it has written so many files."""
    renamed, replace = itertools.count(1), os.replace

    def count(a, b):
        replace(a, b)
        if next(renamed) >= files:
            raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(os, "replace", count)
        yield


class TestGoingOn:
    @pytest.mark.slow
    @pytest.mark.parametrize("files", [1, 2, 3, 5, 8, 12, 14, 16, 18])
    def test_wherever_it_was_stopped_the_same_records_come_out(self, make, tmp_path, monkeypatch, files, capsys):
        make("whole")
        with interrupted_after(monkeypatch, files), pytest.raises(KeyboardInterrupt):
            make("stopped")
        assert not (tmp_path / "stopped" / record_files.RECORDS_FILE).exists()
        make("stopped")
        assert "going on with what an earlier run finished" in capsys.readouterr().err
        assert snapshot(tmp_path / "stopped") == snapshot(tmp_path / "whole")
        assert not (tmp_path / "stopped" / record_files.UNFINISHED).exists()

    def test_what_is_finished_is_not_made_again(self, make, tmp_path, monkeypatch):
        made, of_program = [], program._make_shard

        def shard(maker, task):
            made.append(task[1])
            return of_program(maker, task)

        monkeypatch.setattr(program, "_make_shard", shard)
        with interrupted_after(monkeypatch, 9), pytest.raises(KeyboardInterrupt):
            make()
        before, made[:] = list(made), []
        make()
        assert before
        assert sorted({*before, *made}) == [0, 1, 2, 3, 4]
        assert len(before) + len(made) <= 6

    def test_other_flags_or_input_are_refused_until_overwritten(self, make, tmp_path, monkeypatch):
        with interrupted_after(monkeypatch, 5), pytest.raises(KeyboardInterrupt):
            make()
        with pytest.raises(
            checks.InputError, match=r"unfinished records of another run; got .* differs in random_seed"
        ):
            make(random_seed=3)
        os.utime(tmp_path / "text.txt", (1, 1))
        with pytest.raises(checks.InputError, match="differs in input"):
            make()
        make(random_seed=3, overwrite=True)
        make("fresh", random_seed=3)
        assert snapshot(tmp_path / "records") == snapshot(tmp_path / "fresh")

    def test_records_in_place_stay_until_the_new_ones_are_whole(self, make, tmp_path, monkeypatch):
        make()
        before = snapshot(tmp_path / "records")
        with interrupted_after(monkeypatch, 9), pytest.raises(KeyboardInterrupt):
            make(random_seed=3, overwrite=True)
        assert snapshot(tmp_path / "records") == before

    def test_two_at_once_are_refused(self, make, tmp_path, monkeypatch):
        def second(*args, **kwargs):
            with pytest.raises(checks.InputError, match="one process at a time"):
                make()
            raise KeyboardInterrupt

        monkeypatch.setattr(program, "_prepare", second)
        with pytest.raises(KeyboardInterrupt):
            make()


class TestWorkers:
    def test_one_process_needs_no_other(self):
        with workers.Workers(1, worker_tasks.nothing, ()) as pool:
            assert list(pool.map(worker_tasks.fail, [1, 2, 4])) == [(0, 2), (1, 4), (2, 8)]
            with pytest.raises(checks.InputError, match="three must not come"):
                list(pool.map(worker_tasks.fail, [1, 3]))

    @pytest.mark.slow
    def test_an_error_of_a_worker_is_the_programs_and_a_killed_worker_is_told(self, tmp_path, monkeypatch):
        """By the same processes, which outlive an error. Their TensorFlow is none, since it takes seconds to import."""
        no_threads = "import types\n\nconfig = types.SimpleNamespace(threading=types.SimpleNamespace())\n"
        setters = (f"config.threading.set_{kind}_op_parallelism_threads = int\n" for kind in ("intra", "inter"))
        (tmp_path / "tensorflow.py").write_text(no_threads + "".join(setters))
        monkeypatch.syspath_prepend(tmp_path)
        with workers.Workers(2, worker_tasks.nothing, ()) as pool:
            assert sorted(pool.map(worker_tasks.fail, [1, 2, 4, 5])) == [(0, 2), (1, 4), (2, 8), (3, 10)]
            with pytest.raises(checks.InputError, match=r"^three must not come; got 3\.$"):
                list(pool.map(worker_tasks.fail, [1, 2, 3, 4]))
            with pytest.raises(checks.InputError, match=r"worker processes must stay alive.*num_workers"):
                list(pool.map(worker_tasks.fail, [1, 2, "die", 4]))

    @pytest.mark.slow
    def test_the_number_of_processes_changes_no_byte(self, make, tmp_path, monkeypatch):
        monkeypatch.setattr(program, "LARGE_SECONDS", 0.0)
        (tmp_path / "more.txt").write_text(text(9))
        for name, n in (("one", 1), ("two", 2)):
            make(
                name,
                num_workers=n,
                input_file=(str(tmp_path / "text.txt"), str(tmp_path / "more.txt")),
                pack_sequences=True,
            )
        assert snapshot(tmp_path / "one") == snapshot(tmp_path / "two")


KILLED = """
import sys
from data_prep import create_pretraining_data as program
program.LARGE_SECONDS = 0.0
if __name__ == "__main__":
    flags = dict(a.split("=") for a in sys.argv[1:])
    program.run(program.Config(input_file=(flags["input"],), vocab_file=flags["vocab"], output_dir=flags["output"],
        max_seq_length=41, max_predictions_per_seq=7, dupe_factor=60, num_workers=2, num_shards=4,
        held_out_fraction=0.2))
"""


@pytest.mark.slow
def test_killed_with_its_workers_at_any_moment_it_goes_on_to_the_same_bytes(make, tmp_path):
    """Killed while documents are counted and while shards are written. This process, alone, does the rest.

    `TestGoingOn` stops behind each file; here real processes are stopped in the midst of two. What lies there at the
    first moment is what a kill would leave; it is copied, and the processes go on to the second, when they are killed.
    """
    (tmp_path / "text.txt").write_text(text(0) + "\n" + text(7))
    (tmp_path / "program.py").write_text(KILLED)
    root = os.path.dirname(os.path.dirname(os.path.abspath(program.__file__)))
    command = [sys.executable, tmp_path / "program.py", f"input={tmp_path}/text.txt", f"vocab={tmp_path}/vocab"]
    command.append(f"output={tmp_path / 'killed'}")
    make("whole", dupe_factor=60)
    running = subprocess.Popen(command, env={**os.environ, "PYTHONPATH": root}, start_new_session=True)
    unfinished = tmp_path / "killed" / record_files.UNFINISHED

    def wait_for(pattern):
        while not list(unfinished.glob(pattern)):
            assert running.poll() is None
            time.sleep(0.005)
        assert not (tmp_path / "killed" / record_files.RECORDS_FILE).exists()

    wait_for("counts-*")
    os.killpg(running.pid, signal.SIGSTOP)
    os.waitpid(running.pid, os.WUNTRACED)  # until it has stopped
    shutil.copytree(tmp_path / "killed", tmp_path / "early")
    assert not list((tmp_path / "early").glob("*/shard-*.json"))
    os.killpg(running.pid, signal.SIGCONT)
    wait_for("shard-*.json")
    running.kill()  # the program alone: its workers have to notice
    running.wait()
    deadline = time.monotonic() + 20
    while _alive(running.pid) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not _alive(running.pid)
    assert not (tmp_path / "killed" / record_files.RECORDS_FILE).exists()
    for name in ("early", "killed"):
        make(name, dupe_factor=60)
        assert snapshot(tmp_path / name) == snapshot(tmp_path / "whole")
    assert json.loads((tmp_path / "killed" / "records.json").read_text())["counts"]["train"]["instances"] > 5000


def _alive(session):
    """Whether a process of the session is left; one that has ended and that nobody asked about is not."""
    for stat in pathlib.Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            state, _, _, its_session = stat.read_text().rpartition(")")[2].split()[:4]
            if int(its_session) == session and state != "Z":
                return True
    return False


def test_records_are_readable_as_plain_examples(make, tmp_path):
    make(pack_sequences=True, masking="dynamic")
    file = str(next((tmp_path / "records").glob("train-*")))
    example = tf.train.Example.FromString(next(tf.data.TFRecordDataset(file).as_numpy_iterator()))
    lengths = {name: len(v.int64_list.value or v.float_list.value) for name, v in example.features.feature.items()}
    assert lengths == {
        "input_ids": L,
        "input_mask": L,
        "segment_ids": L,
        "word_starts": L,
        "position_ids": L,
        "next_sentence_positions": 2,
        "next_sentence_labels": 2,
        "next_sentence_weights": 2,
    }
