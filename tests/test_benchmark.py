"""Tests of tfbert.benchmark: that it trains, its arithmetic, its records, bad flags."""

import concurrent.futures
import json

import numpy as np
import pytest

from tests import tiny
from tfbert import benchmark, checks, config, record_sets

SIZES = {"max_seq_length": 16, "max_predictions_per_seq": 3}


def test_flops_are_those_of_the_products():
    """Counted one product at a time: 2 x rows x depth x columns, forward; twice as much backward."""
    encoder, length, predictions = tiny.config(), 7, 3
    hidden, wide, vocab = encoder.hidden_size, encoder.intermediate_size, encoder.vocab_size
    products = [(length, hidden, hidden)] * 4 + [(length, hidden, wide), (length, wide, hidden)]  # of a layer
    products += [(length, hidden, length), (length, length, hidden)]  # scores and context, all heads together
    products *= encoder.num_hidden_layers
    products += [(predictions, hidden, hidden), (predictions, hidden, vocab), (1, hidden, hidden), (1, hidden, 2)]
    expected = 3 * sum(2 * rows * depth * columns for rows, depth, columns in products)
    assert benchmark.step_flops(encoder, length, predictions) == expected


def test_made_up_records_are_what_training_takes(tmp_path):
    cfg = benchmark.Config(**SIZES)
    benchmark.write_records(str(tmp_path / "x.tfrecord"), cfg, 30522)
    records = record_sets.open_records([str(tmp_path / "x.tfrecord")], 16, 3)
    assert records.total == benchmark.ROWS and records.layout.masked and not records.packed


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"model": ("tiny", "tinny")}, "model must be of tiny,.*got model=tinny"),
        ({"train_batch_size": ("8", "x")}, "train_batch_size must be positive.*got train_batch_size=8,x"),
        ({"train_batch_size": ("0",)}, "train_batch_size must be positive"),
        ({"train_batch_size": ()}, "train_batch_size must not be empty"),
        ({"num_hidden_layers": ("2", "-4")}, "num_hidden_layers must be positive.*got num_hidden_layers=2,-4"),
        ({"repeats": 0}, "repeats must be at least 1"),
        ({"mixed_precision": "float16"}, "mixed_precision must be one of"),
    ],
)
def test_bad_flags_are_refused(changes, said):
    with pytest.raises(checks.InputError, match=said):
        benchmark.Config(**changes)


def test_a_line():
    cfg = benchmark.Config(mixed_precision="bfloat16", **SIZES)
    line = benchmark._line(cfg, "tiny", None, 8, 100.0, 2.5, [90.0, 100.0, 120.0], (0.75, 1234.5))
    gflop_s = 100 * benchmark.step_flops(config.preset("tiny"), 16, 3) / 1e9
    assert line["sequences_s"] == 100 and line["step_ms"] == 80 and line["num_hidden_layers"] == 2
    assert line["real_tokens_s"] == 1200 and line["spread"] == 0.3
    assert line["gflop_s"] == round(gflop_s, 1) and line["share_of_matmul"] == round(gflop_s / 100, 3)
    assert (line["peak_rss_mb"], line["compile_s"], line["repeats"]) == (1234.5, 2.5, 3)


def test_layers_in_place_of_the_models_own():
    cfg = benchmark.Config(model=("tiny", "base"), num_hidden_layers=("3", "5"), train_batch_size=("8", "32"))
    assert cfg.runs() == [(m, n, b) for m in ("tiny", "base") for n in (3, 5) for b in (8, 32)]
    assert cfg.encoder("base", 5) == config.preset("base", num_hidden_layers=5)
    assert benchmark.Config().runs() == [("base", None, 32)]
    line = benchmark._line(cfg, "tiny", 3, 8, 100.0, 2.5, [100.0], (0.75, 1234.5))
    gflop_s = 100 * benchmark.step_flops(config.preset("tiny", num_hidden_layers=3), 128, 20) / 1e9
    assert (line["num_hidden_layers"], line["gflop_s"]) == (3, round(gflop_s, 1))


@pytest.fixture
def short(monkeypatch):
    """Windows of hundredths of a second, and small matrices to compare with."""
    monkeypatch.setattr(benchmark, "SHAPES", ((64, 48, 96), (32, 128, 64)))
    monkeypatch.setattr(benchmark, "SECONDS", 0.05)


@pytest.fixture
def one_process(monkeypatch):
    """The first batch size is trained on in a process, others in threads here: to start processes takes most time."""
    process, thread, started = concurrent.futures.ProcessPoolExecutor, concurrent.futures.ThreadPoolExecutor, []

    def pool(number, context):
        started.append(thread(number) if started else process(number, context))
        return started[-1]

    monkeypatch.setattr(concurrent.futures, "ProcessPoolExecutor", pool)


@pytest.mark.slow
def test_lines_of_every_model_and_batch(short, capsys, one_process):
    layers = {"model": ("tiny",), "num_hidden_layers": ("1",)}
    cfg = benchmark.Config(**layers, train_batch_size=("2", "4"), repeats=2, rematerialize=True, **SIZES)
    lines = benchmark.run(cfg)
    assert [json.loads(line) for line in capsys.readouterr().out.splitlines()] == lines
    assert lines[0]["matmul_gflop_s"] > 1 and lines[0]["cores"] >= 1
    assert [(line["model"], line["train_batch_size"]) for line in lines[1:]] == [("tiny", 2), ("tiny", 4)]
    for line in lines[1:]:
        assert line["sequences_s"] > 0 and line["compile_s"] > 0 and line["peak_rss_mb"] > 100
        assert line["num_hidden_layers"] == 1
        assert 0.7 * 16 < line["real_tokens_s"] / line["sequences_s"] <= 16


def test_memory_along_the_way(short, monkeypatch):
    """In a thread in place of a process, of a training that only counts: both are tested above, and take long."""
    done = []

    class Counting:
        compile_s = 0.0

        def __init__(self, cfg, model, layers, batch_size, patterns):
            assert (model, layers, batch_size) == ("tiny", 1, 2)

        def run(self, count):
            done.append(count)
            return 0.5 * count

    pool = concurrent.futures.ThreadPoolExecutor
    monkeypatch.setattr(benchmark.concurrent.futures, "ProcessPoolExecutor", lambda number, _: pool(number))
    monkeypatch.setattr(benchmark, "Training", Counting)
    layers = {"model": ("tiny",), "num_hidden_layers": ("1",)}
    lines = benchmark.run(benchmark.Config(**layers, train_batch_size=("2",), steps=23, **SIZES))
    assert {name: lines[1][name] for name in ("model", "num_hidden_layers", "train_batch_size")} == {
        "model": "tiny",
        "num_hidden_layers": 1,
        "train_batch_size": 2,
    }
    grown = lines[1]["steps_seconds_rss_mb"]
    assert [row[0] for row in grown] == [2, 4, 6, 9, 11, 13, 16, 18, 20, 23] == np.cumsum(done).tolist()
    assert all(seconds == 0.5 and rss > 100 for _, seconds, rss in grown)
