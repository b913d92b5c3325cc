"""Tests of export.benchmark: its texts, its arithmetic, its processes, bad flags, and a whole run."""

import json
import re
import sys

import pytest

from export import benchmark, timed
from tests import tiny_run
from tfbert import checks
from tfbert.text import tokenizer

FAKE = "from export import timed\ntimed.serve(lambda: lambda part, texts: print('noise') or [part, len(texts['text'])])"


def settings(**changes):
    return benchmark.Config(**{"saved_model": ("x",), **changes})


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"saved_model": ()}, "--saved_model must be given"),
        ({"batch_sizes": ("8", "x")}, "batch_sizes must be integers from 1.*got batch_sizes=8,x"),
        ({"lengths": ("3",)}, "lengths must be integers from 4.*got lengths=3"),
        ({"threads": ()}, "threads must be integers from 1.*got threads="),
        ({"rounds": 0}, "rounds must be at least 1"),
        ({"peer": ("onnx", "jax")}, "peer must be of onnx,.*got peer=jax"),
        ({"peer": ("onnx",), "hf_model": "x"}, "--peer needs --peer_python and --hf_model"),
    ],
)
def test_bad_flags_are_refused(changes, said):
    with pytest.raises(checks.InputError, match=said):
        settings(**changes)


@pytest.mark.parametrize("inputs", [("text",), ("text", "text_pair"), ("question", "context")])
def test_made_up_texts_fill_their_rows(inputs):
    vocab = tiny_run.vocab()
    words = benchmark.words_of(vocab.tokens)
    assert "fox" in words and not {"##s", "word0", "[MASK]", "東"} & set(words)
    texts = benchmark.made_up(words, inputs, 3, 13, masked=len(inputs) == 1)
    pieces = [tokenizer.Tokenizer(vocab).tokenize(texts[name], ("[MASK]",)).to_list() for name in inputs]
    lengths = [sum(map(len, rows)) + 1 + len(inputs) for rows in zip(*pieces)]
    assert lengths == [13] * 3
    assert [row[0] == vocab.mask_id for row in pieces[0]] == [len(inputs) == 1] * 3
    assert len({*map(tuple, pieces[0])}) > 1


def test_words_must_be_there():
    with pytest.raises(checks.InputError, match="must have a word of ASCII letters; got none among 2 entries"):
        benchmark.words_of(["##s", "東"])


def test_texts_of_a_file_are_from_all_over_it(tmp_path):
    (tmp_path / "texts").write_text("".join(f"line {i}\n\n" for i in range(640)))
    batches = benchmark.read_texts(str(tmp_path / "texts"), ("text", "text_pair"), 24, masked=False)
    assert [len(batch["text"]) for batch in batches] == [24, 24, 16]
    assert batches[0]["text"][:3] == ["line 0", "line 10", "line 20"] and batches[2]["text"][-1] == "line 630"
    assert batches[0]["text_pair"][0] == "line 10" and batches[2]["text_pair"][-1] == "line 0"
    with pytest.raises(checks.InputError, match="texts must be a file that can be read"):
        benchmark.read_texts(str(tmp_path / "none"), ("text",), 1, masked=False)
    (tmp_path / "empty").write_text("\n \n")
    with pytest.raises(checks.InputError, match="must have a line that is not empty"):
        benchmark.read_texts(str(tmp_path / "empty"), ("text",), 1, masked=False)


def test_padding():
    """Rows of 5, 12 and 12 (20 are cut to that) slots in a batch of 36, and a row that is full."""
    assert benchmark.padding([[3, 10, 20], [8]], 12) == round(7 / 46, 3)


def test_a_line():
    class Asked:
        tokenizes = True

        def window(self, part, batches, seconds):
            return ([10.0, 30.0] if part == "whole" else [1.0, 3.0]), 50.0

    times = benchmark.Times()
    for _ in range(3):
        times.add(Asked(), [{"text": ["a", "b", "c"]}, {"text": ["d"]}], 1.0)
    line = times.line()
    assert line["sequences_s"] == 100 and line["median_ms"] == 20 and line["p99_ms"] == 30
    assert (line["tokenization_share"], line["peak_rss_mb"], line["requests"], line["spread"]) == (0.1, 50.0, 6, 0.0)


def test_a_process_answers_and_is_timed():
    process = timed.Process([sys.executable, "-c", FAKE], 1)
    assert process.answer("whole", {"text": ["a", "b"]}) == ["whole", 2]
    ms, peak = process.window("tokenize", [{"text": ["a"]}, {"text": ["b"]}], 0.01)
    assert len(ms) % 2 == 0 and all(0 <= m < 1000 for m in ms)
    assert 1 < peak < 60  # of a Python without anything, and not of the one that started it
    process.close()


def test_a_process_that_ends_says_why():
    with pytest.raises(RuntimeError, match=r"ended with 3: no model there"):
        timed.Process([sys.executable, "-c", "import sys; print('no model there', file=sys.stderr); sys.exit(3)"], 1)


@pytest.fixture(scope="module")
def kept():
    """Processes of the same command are one for all tests here, which have to start it for seconds."""
    make, started = timed.Process, {}

    def process(*args):
        key = re.sub(r"[^']*/(wordpieces_)", r"\1", repr(args))  # without the folder, which is another each time
        if key not in started:
            started[key] = make(*args)
            started[key].end, started[key].close = started[key].close, lambda: None
        return started[key]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(timed, "Process", process)
        yield started
    for made in started.values():
        made.end()
    assert [made._process.returncode for made in started.values()] == [0]


def test_every_case_has_a_line(tiny_versions, capsys, kept):
    lengths, sizes = ("7", "16"), ("2", "1")
    cfg = benchmark.Config((tiny_versions,), (), sizes, lengths, threads=("1",), rounds=2, seconds=0.0)
    machine, *lines = benchmark.run(cfg)
    assert [json.loads(line) for line in capsys.readouterr().out.splitlines()] == [machine, *lines]
    assert machine["cores"] >= 1
    assert [(line["batch_size"], line["length"]) for line in lines] == [(1, 7), (2, 7), (1, 16), (2, 16)]
    for line in lines:
        assert (line["kind"], line["path"], line["threads"]) == ("saved_model", f"{tiny_versions}/1", 1)
        assert line["requests"] == 2 and line["score_difference"] == 0 and line["tokenization_share"] > 0
        assert line["sequences_s"] > 0 and 0 < line["median_ms"] <= line["p99_ms"] and line["peak_rss_mb"] > 50
        assert line["size_mb"] > 0 and line["load_s"] > 0


@pytest.mark.slow
def test_texts_of_a_file_and_what_is_too_long(tiny_versions, tmp_path, kept):
    (tmp_path / "texts").write_text("the fox\nthe lazy dog returns the list of words.\n")
    asked = {"saved_model": (tiny_versions,), "threads": ("1",), "rounds": 1, "seconds": 0.0}
    _, line = benchmark.run(settings(**asked, texts=str(tmp_path / "texts"), batch_sizes=("64",)))
    assert line["length"] == str(tmp_path / "texts") and 0 < line["padding"] < 0.5
    with pytest.raises(checks.InputError, match="lengths must be at most what the exports take; got lengths=23"):
        benchmark.run(settings(**asked, lengths=("23",)))
