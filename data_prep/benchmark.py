"""How fast data preparation is, part by part and as a whole: `python -m data_prep.benchmark --help`.

Prints JSON lines: first the machine, then for each part and number of processes the median of the repeats.
All parts and numbers of processes take turns, so that whatever else the machine does meets all of them alike.
"""

from tfbert import quiet  # isort: skip  # noqa: F401

import collections
import concurrent.futures
import contextlib
import dataclasses
import functools
import itertools
import json
import multiprocessing
import os
import statistics
import subprocess
import sys
import tempfile
import time

import numpy as np
import tensorflow as tf

from data_prep import corpus, create_pretraining_data, learn_vocab, shards, training_step
from tfbert import checks, config, features
from tfbert import machine as machine_lib
from tfbert.config import field
from tfbert.text import vocab

PARTS = ("reading", "tokenizer", "instances", "serialisation", "whole")
PACKING = "packing"  # trains a model, so it is measured where it is asked for
SAMPLE_BYTES = 8_000_000  # of the corpus, for every part but the whole
SECONDS = 1.0  # at least, for one measurement of a part
PACKING_SECONDS = 5.0  # likewise, of training
ROWS = 1 << 15  # serialised in one go
TINY = "A first sentence of a small document.\nA second one follows it.\n\nAnother document begins.\nIt ends here.\n"


@dataclasses.dataclass(frozen=True)
class Config(create_pretraining_data.Config):
    """The flags of `create_pretraining_data`, and what to measure. The default corpus is the embedded one."""

    parts: tuple[str, ...] = field(
        PARTS,
        f"What to measure, of {', '.join(PARTS)}; and {PACKING}: the share of the slots that hold tokens, and real "
        "tokens a second in training, of rows of one example and of several.",
    )
    num_workers: tuple[str, ...] = field(("1",), "Numbers of processes to measure, e.g. 1,2.")
    repeats: int = field(5, "Measurements of each, of which the median counts.", lower_bound=1)
    model: str = field("tiny", "--parts=packing: size of the model.", choices=tuple(config.PRESETS))
    train_batch_size: int = field(8, "--parts=packing: rows in a batch.", lower_bound=1)

    def __post_init__(self):
        if self.source is None and not self.input_file and not self.tfds:
            object.__setattr__(self, "source", "pydocs")
        super().__post_init__()
        unknown = sorted(set(self.parts) - {*PARTS, PACKING})
        checks.require(not unknown, f"parts must be of {', '.join(PARTS)}, {PACKING}", f"parts={','.join(unknown)}")
        checks.require(
            self.num_workers and all(n.isdecimal() and int(n) for n in self.num_workers),
            "num_workers must be positive integers with commas between them",
            f"num_workers={','.join(self.num_workers)}",
        )

    def preparation(self, **changes):
        """The `create_pretraining_data.Config` of these flags, with changes."""
        names = {f.name for f in dataclasses.fields(create_pretraining_data.Config)} - {"num_workers"}
        return create_pretraining_data.Config(**{**{n: getattr(self, n) for n in names}, **changes})


def machine():
    """What the numbers hang on, beside the code."""
    return {**machine_lib.of_benchmark(), "numpy": np.__version__}


class Sample:
    """The first megabytes of a corpus in the shape that each part takes; a process makes what it is asked for.

    Args:
        cfg: A `create_pretraining_data.Config` of one shard.
        vocabulary: `Vocab`.
    """

    def __init__(self, cfg, vocabulary):
        self.cfg, self.maker = cfg, shards.Maker(cfg, vocabulary)

    def _read(self):
        """The documents of the sample."""
        size = 0
        for span in corpus.spans(self.cfg):
            for document in corpus.read(self.cfg, span, collections.Counter()):
                size += sum(map(len, document.sentences)) + len(document.sentences)
                yield document
                if size >= SAMPLE_BYTES:
                    return

    @functools.cached_property
    def texts(self):
        """Lists of sentences of about a megabyte each."""
        batches, size = [[]], 0
        for sentence in itertools.chain.from_iterable(d.sentences for d in self._read()):
            batches[-1].append(sentence)
            size += len(sentence)
            if size >= shards.TOKENIZED_AT_ONCE:
                batches, size = [*batches, []], 0
        return [batch for batch in batches if batch]

    @functools.cached_property
    def bytes(self):
        """Of the sample, with a line end each."""
        return sum(len(sentence) + 1 for batch in self.texts for sentence in batch)

    @functools.cached_property
    def prepared(self):
        """The blocks of the one training shard, as far as the sample reaches, and the bytes of their text."""
        found, size = [], 0
        for number, span in enumerate(corpus.spans(self.cfg)):
            parts, _, counts = shards.prepare(self.maker, number, span)
            found += [part[0] for part in parts]
            size += counts()["bytes"]
            if size >= SAMPLE_BYTES:
                break
        return found, size

    def _batches(self):
        found, _ = self.prepared
        return shards.batches(self.maker, 0, lambda _: iter(found), sum(len(block.documents) for block in found))

    @functools.cached_property
    def rows(self):
        """Masked rows, as many as `ROWS` if there are."""
        return [batch for batch, *_ in itertools.islice(self._batches(), ROWS // shards.MASKED_AT_ONCE)]

    def reading(self):
        """Reads and digests the documents: returns (bytes, instances)."""
        size = 0
        for document in self._read():
            corpus.digest(document.sentences)
            size += sum(map(len, document.sentences)) + len(document.sentences)
        return size, 0

    def tokenizer(self):
        """Tokenizes the sentences: returns (bytes, instances)."""
        for batch in self.texts:
            self.maker.tokenizer.tokenize(tf.constant(batch)).flat_values.numpy()
        return self.bytes, 0

    def instances(self):
        """Draws, packs and masks the instances of one pass: returns (bytes of text, instances)."""
        _, size = self.prepared
        return size, sum(examples for _, examples, _ in self._batches())

    def serialisation(self):
        """Writes the rows as TFRecords: returns (bytes of records, rows)."""
        size, layout = 0, self.maker.layout["train"]
        with tempfile.NamedTemporaryFile() as file, tf.io.TFRecordWriter(file.name) as writer:
            for batch in self.rows:
                for record in features.serialize_batch({f.name: batch[f.name] for f in layout.features}, layout):
                    writer.write(record)
                    size += len(record)
        return size, sum(len(batch["input_ids"]) for batch in self.rows)

    def training(self, size, rows):
        """Trains on the rows: returns what `training_step.measure` does."""
        step = training_step.measure
        return step(self.rows, len(self.maker.vocab), size, self.cfg.pack_sequences, rows, PACKING_SECONDS)


_sample = None  # in a process: its `Sample`


def _begin(cfg, vocabulary):
    global _sample
    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    _sample = Sample(cfg, vocabulary)


def _measure(part):
    """(bytes a second, instances a second, cores used) of a part in this process."""
    work = getattr(_sample, part)
    size = made = 0
    wall, cpu = time.perf_counter(), time.process_time()
    while time.perf_counter() - wall < SECONDS:
        more = work()
        size, made = size + more[0], made + more[1]
    seconds = time.perf_counter() - wall
    return {"mb_s": size / 1e6 / seconds, "instances_s": made / seconds, "cores": (time.process_time() - cpu) / seconds}


def _parts(cfg, processes, part, number):
    """Measures a part in so many processes at once."""
    found = [job.result() for job in [p.submit(_measure, part) for p in processes[:number]]]
    return {name: sum(f[name] for f in found) for name in found[0]}


@functools.lru_cache(maxsize=2)
def _rows_to_train_on(cfg, vocabulary):
    return Sample(cfg, vocabulary)


def _train(cfg, vocabulary, size, rows):
    """Measures training in this process, on rows that it makes once."""
    return _rows_to_train_on(cfg, vocabulary).training(size, rows)


def _packing(cfg, process, vocabulary):
    """What training gets from rows of one example, and from packed ones."""
    found = {}
    for name, packed in (("one", False), ("several", True)):
        sample = cfg.preparation(
            num_shards=1, held_out_fraction=0.0, dupe_factor=1, masking="static", pack_sequences=packed
        )
        measured = process.submit(_train, sample, vocabulary, cfg.model, cfg.train_batch_size).result()
        found |= {f"{key}_{name}": value for key, value in measured.items()}
    return {**found, "gain": found["real_tokens_s_several"] / found["real_tokens_s_one"]}


def _flags(cfg):
    """A `create_pretraining_data.Config` as command-line flags."""
    out = []
    for f in dataclasses.fields(cfg):
        value = getattr(cfg, f.name)
        if value != f.default:
            text = ",".join(value) if isinstance(value, tuple) else str(value)
            out.append(f"--{f.name}={text.lower() if isinstance(value, bool) else text}")
    return out


def _command(cfg):
    """Runs the program: returns what it took, and what it made."""
    with tempfile.TemporaryDirectory(dir=cfg.output_dir or None) as folder:
        folder = os.path.join(folder, "records")
        command = [sys.executable, "-m", "data_prep.create_pretraining_data"]
        command += _flags(dataclasses.replace(cfg, output_dir=folder))
        began = time.perf_counter()
        with tempfile.TemporaryFile("w+") as said:
            process = subprocess.Popen(command, stdout=said, stderr=subprocess.STDOUT)
            _, status, usage = os.wait4(process.pid, 0)
            process.returncode = os.waitstatus_to_exitcode(status)
            seconds = time.perf_counter() - began
            said.seek(0)
            well = process.returncode == 0
            checks.require(well, "create_pretraining_data must end well", said.read(), " ".join(command))
        with open(os.path.join(folder, "records.json"), encoding="utf-8") as f:
            about = json.load(f)
    return {
        "wall_s": seconds,
        "cpu_s": usage.ru_utime + usage.ru_stime,
        "peak_rss_mb": usage.ru_maxrss * 1024 / 1e6,  # of the largest of its processes
        "text_mb": about["corpus"]["bytes"] / 1e6,
        "instances": sum(counts["instances"] for counts in about["counts"].values()),
    }


def _whole(cfg, tiny, number):
    """Measures the program from its start to its end; what it takes for next to no text is told apart."""
    took = _command(cfg.preparation(num_workers=number))
    tiny = _command(cfg.preparation(num_workers=1, source="text", input_file=(tiny,), tfds="", dupe_factor=1))
    return {**took, **{f"start_up_{name}": tiny[name] for name in ("wall_s", "cpu_s", "peak_rss_mb")}}


def _speeds(whole):
    """What `_whole` measured as speeds, start-up not counted."""
    wall, cpu = (whole[name] - whole[f"start_up_{name}"] for name in ("wall_s", "cpu_s"))
    return {"mb_s": whole["text_mb"] / wall, "instances_s": whole["instances"] / wall, "cores": cpu / wall, **whole}


def _line(cfg, part, number, measured):
    """What is printed of a part."""
    median = {name: statistics.median(m[name] for m in measured) for name in measured[0]}
    median = _speeds(median) if part == "whole" else median
    if part == PACKING:
        sizes = {"max_seq_length": cfg.max_seq_length, "model": cfg.model, "train_batch_size": cfg.train_batch_size}
        return {"part": part, **sizes, "repeats": len(measured), **{k: round(v, 4) for k, v in median.items()}}
    line = {"part": part, "num_workers": number, "dupe_factor": cfg.dupe_factor, "repeats": len(measured), **median}
    timed = [m["wall_s" if part == "whole" else "mb_s"] for m in measured]
    line["spread"] = (max(timed) - min(timed)) / statistics.median(timed)
    # Of a core that is busy: of one that the program leaves idle nothing can be said.
    line |= {f"{name}_core": median[name] / median["cores"] for name in ("mb_s", "instances_s")}
    return {name: round(value, 3) if isinstance(value, float) else value for name, value in line.items()}


def _vocabulary(cfg, folder):
    """The vocabulary that was given, or one that is learned from the corpus."""
    if cfg.vocab_file:
        return vocab.load(cfg.vocab_file, cfg.do_lower_case)
    flags = {f.name: getattr(cfg, f.name) for f in dataclasses.fields(corpus.CorpusConfig)}
    lower = cfg.do_lower_case is not False
    with contextlib.redirect_stdout(sys.stderr):
        return learn_vocab.run(learn_vocab.Config(**flags, output_dir=folder, do_lower_case=lower))


def run(cfg):
    """Measures the parts of a `Config` and prints a line for each.

    Returns:
        The lines, as dicts; the first is of the machine.
    """
    numbers = [int(n) for n in cfg.num_workers]
    lines = [machine()]
    print(json.dumps(lines[0]), flush=True)
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        vocabulary = _vocabulary(cfg, folder)
        cfg = dataclasses.replace(cfg, vocab_file=cfg.vocab_file or folder)
        tiny = os.path.join(folder, "tiny.txt")
        with open(tiny, "w", encoding="utf-8") as f:
            f.write(TINY)
        sample = cfg.preparation(num_shards=1, held_out_fraction=0.0, dupe_factor=1)
        spawn = multiprocessing.get_context("spawn")
        # A pool of one for each process, so that it is certain which does what.
        pool = functools.partial(concurrent.futures.ProcessPoolExecutor, 1, spawn, _begin, (sample, vocabulary))
        few = [part for part in cfg.parts if part not in ("whole", PACKING)]
        processes = [stack.enter_context(pool()) for _ in range(max(numbers) if few or PACKING in cfg.parts else 0)]
        for part in few:  # makes what is measured on, and compiles the graphs
            _parts(cfg, processes, part, max(numbers))
        measured = collections.defaultdict(list)
        for _, part, number in itertools.product(range(cfg.repeats), cfg.parts, numbers):
            if part == PACKING:
                found = _packing(cfg, processes[0], vocabulary)
            elif part == "whole":
                found = _whole(cfg, tiny, number)
            else:
                found = _parts(cfg, processes, part, number)
            measured[part, number].append(found)
    for (part, number), found in measured.items():
        lines.append(_line(cfg, part, number, found))
        print(json.dumps(lines[-1]), flush=True)
    return lines


def main(_):
    """Runs the program with its flags."""
    run(config.from_flags(Config))


if __name__ == "__main__":
    config.define_flags(Config)
    checks.run_program(main)
