"""Measures how fast exports answer, text in to answer out, and others beside them.

    python -m export.benchmark --saved_model=bert,bert_bfloat16 --tflite=bert.tflite --batch_sizes=1,8,32 \
        --lengths=16,128,512 --threads=1,2

Prints JSON lines: first the machine, then one for each export, number of threads, batch size and length. Each export
and number of threads has a process of its own, and they take turns (--rounds), so that a disturbance of the machine
meets all alike. Texts are made of words of the vocabulary, one wordpiece each, and fill the length with [CLS] and
[SEP]; where masks are answered, the first word is one. --texts=FILE takes lines of a file in place of lengths.

The share of tokenization is that of a SavedModel which has what a request does with its texts before the model, and no
more. With --texts, lines say what share of the rows' slots was padding, as rows are filled up to the longest of their
batch. With --peer the same is asked of ONNX Runtime or PyTorch with Hugging Face's tokenizer, in a Python that has them
(--peer_python), on weights in their format (--hf_model: `python -m tfbert.convert_weights`). Beside the first
SavedModel each line says how far the scores of the first text are from that one's.
"""

from tfbert import quiet  # isort: skip  # noqa: F401 (first: it holds back start-up noise)

import contextlib
import dataclasses
import itertools
import json
import os
import statistics
import sys
import tempfile

import numpy as np
import tensorflow as tf

from export import loaders, parity, timed
from tfbert import checks, config, machine
from tfbert.config import field
from tfbert.text import byte_limit, tokenizer
from tfbert.text import vocab as vocab_lib

PEERS = ("onnx", "onnx_int8", "torch", "torch_bf16")
PEER_PROGRAM = os.path.join(os.path.dirname(os.path.dirname(__file__)), "tests", "peers", "serve_transformers.py")
SAMPLE = 64  # lines of --texts
QUESTION = 8  # words of a question, where the rest of a row is its context
TOKENIZING_S = 0.2  # of a window that tokenizes alone


@dataclasses.dataclass(frozen=True)
class Config:
    """The flags."""

    saved_model: tuple[str, ...] = field((), "SavedModels, or folders with numbered versions of one.")
    tflite: tuple[str, ...] = field((), "The .tflite files.")
    batch_sizes: tuple[str, ...] = field(("1", "8", "32"), "Texts a request.")
    lengths: tuple[str, ...] = field(("16", "128", "512"), "Wordpieces a row, with [CLS] and [SEP].")
    texts: str = field("", f"A file of texts, one a line: {SAMPLE} of them are asked, in place of --lengths.")
    threads: tuple[str, ...] = field(("1", "2"), "Threads of a process.")
    rounds: int = field(5, "Windows of each, of which the median counts.", lower_bound=1)
    seconds: float = field(1.0, "Of a window, at least.", lower_bound=0.0)
    peer: tuple[str, ...] = field((), f"Measured beside them, of {', '.join(PEERS)}.")
    peer_python: str = field("", "A Python with transformers, torch, onnx and onnxruntime.")
    hf_model: str = field("", "The same weights as a folder of Hugging Face's.")

    def __post_init__(self):
        config.check_bounds(self)
        must = "--saved_model must be given: it has the vocabulary of which texts are made"
        checks.require(self.saved_model, must, "none")
        unknown = sorted(set(self.peer) - set(PEERS))
        checks.require(not unknown, f"peer must be of {', '.join(PEERS)}", f"peer={','.join(unknown)}")
        checks.require(
            not self.peer or (self.peer_python and self.hf_model),
            "--peer needs --peer_python and --hf_model",
            f"peer_python={self.peer_python!r}, hf_model={self.hf_model!r}",
        )
        for name, least in (("batch_sizes", 1), ("lengths", 4), ("threads", 1)):
            values = getattr(self, name)
            checks.require(
                values and all(n.isdecimal() and int(n) >= least for n in values),
                f"{name} must be integers from {least} with commas between them",
                f"{name}={','.join(values)}",
            )

    def numbers(self, name):
        """The values of a flag that holds numbers, ascending."""
        return sorted({int(n) for n in getattr(self, name)})


def words_of(tokens):
    """The entries of a vocabulary that, written in a text, are one wordpiece: lower-case words of ASCII letters."""
    words = [t for t in tokens if t.isascii() and t.isalpha() and t.islower()]
    checks.require(words, "the vocabulary must have a word of ASCII letters", f"none among {len(tokens)} entries")
    return words


def made_up(words, inputs, batch_size, length, masked, seed=0):
    """Texts that fill rows: {input name: list of str}.

    Args:
        words: Of `words_of`.
        inputs: Names of the export's inputs: one, of texts, or two, of pairs or of questions.
        batch_size: B.
        length: Wordpieces of a row, with [CLS] and two [SEP] of pairs.
        masked: Whether the first word is [MASK].
        seed: Of the words.
    """
    room = length - 1 - len(inputs)
    first = min(QUESTION, room // 2) if "question" in inputs else (room + 1) // 2
    sizes = {inputs[0]: room} if len(inputs) == 1 else dict(zip(inputs, (first, room - first)))
    rng = np.random.default_rng(seed)
    texts = {name: [list(rng.choice(words, n)) for _ in range(batch_size)] for name, n in sizes.items()}
    if masked:
        texts = {name: [[vocab_lib.MASK, *row[1:]] for row in rows] for name, rows in texts.items()}
    return {name: [" ".join(row) for row in rows] for name, rows in texts.items()}


def read_texts(path, inputs, batch_size, masked):
    """Batches of lines of a file, as `made_up`; pairs are a line and the next."""
    try:
        with open(path, encoding="utf-8", errors="replace") as f:
            lines = [line for line in map(str.strip, f) if line]
    except OSError as e:
        raise checks.error("texts must be a file that can be read", e.strerror, path) from e
    checks.require(lines, "texts must have a line that is not empty", "none", path)
    lines = [lines[i * len(lines) // SAMPLE] for i in range(SAMPLE)]  # from all over the file
    lines = [f"{vocab_lib.MASK} {line}" for line in lines] if masked else lines
    columns = {name: lines[i:] + lines[:i] for i, name in enumerate(inputs)}
    starts = range(0, SAMPLE, batch_size)
    return [{name: column[i : i + batch_size] for name, column in columns.items()} for i in starts]


def _size_mb(path):
    """Of a file, or of all files of a folder."""
    names = [path] if os.path.isfile(path) else [os.path.join(d, f) for d, _, files in os.walk(path) for f in files]
    return round(sum(map(os.path.getsize, names)) / 1e6, 1)


class Subject:
    """What is measured, in a process of its own.

    Args:
        kind: "saved_model", "tflite" or one of PEERS.
        path: What is loaded.
        threads: That it may use.
        command: Runs it.
    """

    def __init__(self, kind, path, threads, command):
        self.about = {"kind": kind, "path": path, "threads": threads}
        self._process = timed.Process([*command, str(threads)], threads)
        self.about["load_s"] = self._process.load_s
        self.tokenizes = kind != "tflite"
        self.answer, self.window, self.close = self._process.answer, self._process.window, self._process.close


class _Wordpieces(tf.Module):
    """What a request to a SavedModel begins with: texts cut, and their wordpieces; saved beside it, to be timed alone.

    Args:
        folder: The SavedModel.
    """

    def __init__(self, folder):
        super().__init__(name="wordpieces")
        outputs, limit = loaders.signatures(folder)["serving_default"].outputs, parity.settings(folder)
        made = tokenizer.Tokenizer(vocab_lib.load(os.path.join(folder, "assets")))
        specials = (vocab_lib.MASK,) if "mask_count" in outputs else ()

        def tokenize(text):
            text, _ = byte_limit.cut(text, limit.get("max_input_bytes"))
            if "starts" in outputs:  # words, or answers, have places in the text
                ids, *_, starts, ends = made.tokenize_with_offsets(text, specials)
                return {"count": ids.row_lengths(), "starts": starts.flat_values, "ends": ends.flat_values}
            ids = made.tokenize(text, specials, for_server=True)
            return {"count": ids.row_lengths(), "ids": ids.flat_values}

        self._made = made  # it has the tables
        self.tokenize = tf.function(tokenize, input_signature=[tf.TensorSpec([None], tf.string, "text")])


def _subjects(cfg, folder):
    """(kind, path, threads, command) of all that is measured; `folder` takes what is written for it."""
    ours, commands = [sys.executable, "-m", "export.timed_export"], []
    for i, path in enumerate(map(loaders.newest_version, cfg.saved_model)):
        module, beside = _Wordpieces(path), os.path.join(folder, f"wordpieces_{i}")
        tf.saved_model.save(module, beside, signatures={"tokenize": module.tokenize})
        commands.append(("saved_model", path, [*ours, "saved_model", path, beside]))
    commands += [("tflite", path, [*ours, "tflite", path, ""]) for path in cfg.tflite]
    for threads in cfg.numbers("threads"):
        yield from ((kind, path, threads, command) for kind, path, command in commands)
        for kind in cfg.peer:
            yield kind, cfg.hf_model, threads, [cfg.peer_python, PEER_PROGRAM, kind, cfg.hf_model, folder]


def _about_texts(cfg):
    """(vocabulary's tokens, names of the inputs, whether masks are answered) of what is exported."""
    folder = loaders.newest_version(cfg.saved_model[0])
    signature = loaders.signatures(folder)["serving_default"]
    vocab = vocab_lib.load(os.path.join(folder, "assets"))
    order = ("text", "text_pair", "question", "context")
    return vocab.tokens, [n for n in order if n in signature.inputs], "mask_count" in signature.outputs


def _cases(cfg):
    """{(batch size, length or None): batches}, from the smallest to the largest."""
    tokens, inputs, masked = _about_texts(cfg)
    sizes = cfg.numbers("batch_sizes")
    if cfg.texts:
        return {(n, None): read_texts(cfg.texts, inputs, n, masked) for n in sizes}
    words = words_of(tokens)
    keys = sorted(itertools.product(sizes, cfg.numbers("lengths")), key=lambda key: key[0] * key[1])
    return {key: [made_up(words, inputs, *key, masked)] for key in keys}


class Times:
    """What was measured of one subject and case."""

    def __init__(self):
        self.ms, self.rates, self.tokenizing, self.peak_rss_mb = [], [], [], None

    def add(self, subject, batches, seconds):
        """Measures one window, and one of tokenization alone."""
        ms, peak = subject.window("whole", batches, seconds)
        turns = len(ms) // len(batches)
        texts = turns * sum(len(next(iter(batch.values()))) for batch in batches)
        self.ms += ms
        self.rates.append(1e3 * texts / sum(ms))
        self.peak_rss_mb = self.peak_rss_mb or peak  # of the first round, which goes from the smallest case up
        if subject.tokenizes:
            alone, _ = subject.window("tokenize", batches, min(seconds, TOKENIZING_S))
            self.tokenizing.append(sum(alone) / len(alone) / (sum(ms) / len(ms)))

    def line(self):
        """For printing."""
        return {
            "median_ms": round(statistics.median(self.ms), 3),
            "p99_ms": round(float(np.percentile(self.ms, 99)), 3),
            "sequences_s": round(statistics.median(self.rates), 2),
            "tokenization_share": round(statistics.median(self.tokenizing), 4) if self.tokenizing else None,
            "peak_rss_mb": self.peak_rss_mb,
            "requests": len(self.ms),
            "spread": round((max(self.rates) - min(self.rates)) / statistics.median(self.rates), 3),
        }


def padding(counts, longest):
    """The share of padding in batches of single texts: lists of wordpieces of each text, a row's greatest length."""
    rows = [[min(n + 2, longest) for n in batch] for batch in counts]
    return round(1 - sum(map(sum, rows)) / sum(len(row) * max(row) for row in rows), 3)


def _padding(cfg, subject, batches):
    """`padding` of texts of a file; None of texts that are made up, which are alike, and of pairs."""
    longest = parity.settings(subject.about["path"]).get("max_seq_length")
    if not cfg.texts or len(batches[0]) > 1 or not longest:
        return None
    return padding([subject.answer("tokenize", batch)["counts"] for batch in batches], longest)


def _difference(scores, wanted):
    """The largest difference of two lists of scores of the same length, else None."""
    same = len(scores) == len(wanted)
    return float(f"{max(abs(a - b) for a, b in zip(scores, wanted)):.1e}") if same else None


def _compare(cfg, subjects, batches):
    """{subject: how far its scores of the first batch are from the first subject's}."""
    answers = [subject.answer("whole", batches[0]) for subject in subjects]
    for subject, answer in zip(subjects, answers):
        checks.require(
            cfg.texts or not answer["truncated"],
            "lengths must be at most what the exports take",
            f"lengths={','.join(cfg.lengths)}",
            subject.about["path"],
        )
    return [_difference(answer["scores"], answers[0]["scores"]) for answer in answers]


def _print(line):
    print(json.dumps(line), flush=True)
    return line


def run(cfg):
    """Measures what a `Config` asks for and prints a line for each.

    Returns:
        The lines, as dicts; the first is of the machine.

    Raises:
        InputError: an export cannot be loaded, or a length is beyond what it takes.
        RuntimeError: a process ended.
    """
    lines, cases = [_print(machine.of_benchmark())], _cases(cfg)
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        subjects = []
        for about in _subjects(cfg, folder):
            subjects.append(Subject(*about))
            stack.callback(subjects[-1].close)
        differences = {key: _compare(cfg, subjects, batches) for key, batches in cases.items()}
        filled = {key: _padding(cfg, subjects[0], batches) for key, batches in cases.items()}
        times = {(i, key): Times() for i in range(len(subjects)) for key in cases}
        for _, (key, batches), (i, subject) in itertools.product(
            range(cfg.rounds), cases.items(), list(enumerate(subjects))
        ):
            times[i, key].add(subject, batches, cfg.seconds)
        for i, subject in enumerate(subjects):
            size = _size_mb(subject.about["path"])
            for batch_size, length in cases:
                line = {**subject.about, "batch_size": batch_size, "length": length or cfg.texts}
                line |= times[i, (batch_size, length)].line()
                line |= {"size_mb": size, "score_difference": differences[batch_size, length][i]}
                line |= {"padding": filled[batch_size, length]} if cfg.texts else {}
                lines.append(_print(line))
    return lines


def main(_):
    """The program."""
    loaders.hush()
    run(config.from_flags(Config))


if __name__ == "__main__":
    config.define_flags(Config)
    checks.run_program(main)
