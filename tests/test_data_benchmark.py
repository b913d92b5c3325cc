"""Tests of data_prep.benchmark: what it measures is what the program does; its arithmetic; bad flags."""

import concurrent.futures
import contextlib
import dataclasses
import io
import json

import pytest
import tensorflow as tf

from data_prep import benchmark, create_pretraining_data, shards
from tests.tiny_corpus import VOCAB, L, P, text, tokenizer
from tfbert import checks


@pytest.fixture
def flags(tmp_path):
    VOCAB.write(tmp_path / "vocab")
    (tmp_path / "text.txt").write_text(text(0))
    return {
        "input_file": (str(tmp_path / "text.txt"),),
        "vocab_file": str(tmp_path / "vocab"),
        "max_seq_length": L,
        "max_predictions_per_seq": P,
    }


@pytest.fixture
def sample(flags, monkeypatch):
    monkeypatch.setattr(shards, "Tokenizer", tokenizer)
    cfg = benchmark.Config(**flags).preparation(num_shards=1, held_out_fraction=0.0, dupe_factor=1)
    return benchmark.Sample(cfg, VOCAB)


class TestSample:
    def test_parts_do_what_the_program_does(self, sample, make, tmp_path):
        about = make(held_out_fraction=0.0, dupe_factor=1, num_shards=1)
        size, counts = about["corpus"]["bytes"], about["counts"]["train"]
        assert sample.reading() == (size, 0)
        assert sample.tokenizer() == (size, 0)
        assert sample.instances() == (size, counts["instances"])
        written, rows = sample.serialisation()
        assert rows == counts["rows"]
        frames = 16 * rows  # of TFRecord: lengths and checksums
        assert written == (tmp_path / "records" / "train-00000-of-00001.tfrecord").stat().st_size - frames

    def test_the_sample_ends(self, sample, monkeypatch):
        monkeypatch.setattr(benchmark, "SAMPLE_BYTES", 500)
        size, _ = sample.reading()
        assert 500 <= size < 1500
        assert sample.bytes == size
        assert sample.tokenizer() == (size, 0)

    def test_batches_of_text_hold_every_sentence_once(self, sample, monkeypatch):
        whole = [sentence for batch in sample.texts for sentence in batch]
        del sample.texts
        monkeypatch.setattr(shards, "TOKENIZED_AT_ONCE", 700)
        assert len(sample.texts) > 3
        assert [sentence for batch in sample.texts for sentence in batch] == whole


class TestFlags:
    def test_the_embedded_corpus_is_the_default(self, flags):
        assert benchmark.Config().source == "pydocs"
        assert benchmark.Config(**flags).source == "text"

    @pytest.mark.parametrize(
        ("changes", "said"),
        [
            ({"parts": ("whole", "wohle")}, "parts must be of reading,.*got parts=wohle"),
            ({"num_workers": ("1", "0")}, "num_workers must be positive.*got num_workers=1,0"),
            ({"num_workers": ()}, "num_workers must be positive"),
            ({"repeats": 0}, "repeats must be at least 1"),
        ],
    )
    def test_bad_ones_are_refused(self, changes, said):
        with pytest.raises(checks.InputError, match=said):
            benchmark.Config(**changes)

    def test_the_program_gets_what_was_given(self, flags):
        given = {**flags, "dupe_factor": 3, "split_sentences": True, "masked_lm_prob": 0.2, "mask_unit": "word"}
        cfg = benchmark.Config(**given, num_workers=("1", "2"))
        words = benchmark._flags(cfg.preparation(num_workers=2))
        assert f"--input_file={flags['input_file'][0]}" in words
        assert {"--dupe_factor=3", "--split_sentences=true", "--masked_lm_prob=0.2", "--num_workers=2"} <= set(words)
        values = dict(word.removeprefix("--").split("=", 1) for word in words)
        for field in dataclasses.fields(create_pretraining_data.Config):
            assert (field.name in values) == (getattr(cfg.preparation(num_workers=2), field.name) != field.default)


def test_start_up_is_not_counted():
    whole = {
        "wall_s": 9.0,
        "start_up_wall_s": 5.0,
        "cpu_s": 8.0,
        "start_up_cpu_s": 2.0,
        "text_mb": 12.0,
        "instances": 20,
    }
    speeds = benchmark._speeds(whole)
    assert (speeds["mb_s"], speeds["instances_s"], speeds["cores"]) == (3.0, 5.0, 1.5)
    line = benchmark._line(benchmark.Config(), "whole", 2, [whole, {**whole, "wall_s": 8.0}, {**whole, "wall_s": 11.0}])
    assert (line["mb_s"], line["mb_s_core"], line["instances_s_core"]) == (3.0, 2.0, 3.333)
    assert (line["repeats"], line["num_workers"], line["wall_s"], line["spread"]) == (3, 2, 9.0, 0.333)


@pytest.fixture
def few_processes(monkeypatch, tmp_path):
    """One process measures parts for two, and the program is started once: starts would take most of the time.

    Whenever else it would be started it runs here, and is said to have taken what the first one took, or half of that.
    """
    make_pool, start, pools, took = concurrent.futures.ProcessPoolExecutor, benchmark._command, [], []

    def pool(*args):
        if not pools:
            pools.append(make_pool(*args))
        return pools[0]

    def command(cfg):
        if not took:
            took.append(start(cfg))
            return took[0]
        with contextlib.redirect_stdout(io.StringIO()):
            about = create_pretraining_data.run(dataclasses.replace(cfg, output_dir=str(tmp_path / str(len(took)))))
        made = sum(counts["instances"] for counts in about["counts"].values())
        share = 1.0 if cfg.dupe_factor > 1 else 0.5  # of the text, and of next to none
        seconds = {name: share * took[0][name] for name in ("wall_s", "cpu_s")}
        took.append({**took[0], **seconds, "text_mb": about["corpus"]["bytes"] / 1e6, "instances": made})
        return took[-1]

    monkeypatch.setattr(concurrent.futures, "ProcessPoolExecutor", pool)
    monkeypatch.setattr(benchmark, "_command", command)
    monkeypatch.setattr(shards, "Tokenizer", tokenizer)
    return took


@pytest.mark.slow
def test_lines_of_every_part(flags, capsys, monkeypatch, few_processes):
    monkeypatch.setattr(benchmark, "SECONDS", 0.01)
    lines = benchmark.run(benchmark.Config(**flags, num_workers=("1", "2"), repeats=1, dupe_factor=2))
    assert [json.loads(line) for line in capsys.readouterr().out.splitlines()] == lines
    assert lines[0]["tensorflow"] == tf.__version__
    assert [(line["part"], line["num_workers"]) for line in lines[1:]] == [
        (part, number) for part in benchmark.PARTS for number in (1, 2)
    ]
    for line in lines[1:]:
        assert "mb_s_core" in line and line["dupe_factor"] == 2
        if line["part"] == "whole":
            assert line["peak_rss_mb"] > 100 and line["instances"] > 100
        else:
            assert line["mb_s"] > 0
            assert (line["instances_s"] > 0) == (line["part"] in ("instances", "serialisation"))
    # The program as a process makes what it makes here, of the text and of next to none.
    first, tiny, second, tiny_too = few_processes
    assert (first["text_mb"], first["instances"]) == (second["text_mb"], second["instances"])
    assert 0 < tiny["text_mb"] == tiny_too["text_mb"] < first["text_mb"]


def test_a_run_that_fails_says_what_the_program_said(flags, tmp_path, monkeypatch):
    program = tmp_path / "python"  # in place of Python and all that it would import
    program.write_text("#!/bin/sh\necho 'made nothing'\necho 'error: text must be UTF-8' >&2\nexit 2\n")
    program.chmod(0o755)
    monkeypatch.setattr(benchmark.sys, "executable", str(program))
    with pytest.raises(checks.InputError, match=r"(?s)must end well.*made nothing.*UTF-8.*create_pretraining_data"):
        benchmark._command(benchmark.Config(**flags).preparation(num_workers=1))
