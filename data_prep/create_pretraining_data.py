"""Documents -> TFRecords of masked sentence pairs: `python -m data_prep.create_pretraining_data --help`.

Spans of the corpus are read and tokenized, duplicates are found, and each shard is made of the documents
that were given to it. Every step is done by `--num_workers` processes, whose number changes nothing but the
time; what is finished is on disk, so that a run that was killed goes on.
"""

from tfbert import quiet  # isort: skip  # noqa: F401

import collections
import contextlib
import dataclasses

from data_prep import corpus, dedup, record_files, report, runners, shards, storage, token_files, workers
from tfbert import checks, config, features, machine
from tfbert.config import field
from tfbert.text import masking, selection, vocab
from tfbert.watching import progress

# Seconds that one process takes for a byte of text and for a token of a pass, roughly; and those that the work
# must take before several processes, which need some to start, are sooner done.
BYTE_SECONDS, TOKEN_SECONDS, LARGE_SECONDS = 5e-8, 1.5e-7, 12.0
NOT_IN_THE_RECORDS = ("output_dir", "overwrite", "num_workers", "runner")
LABELS = {"nsp": ("next_is_real", "next_is_random"), "sop": ("in_order", "swapped"), "none": ()}


@dataclasses.dataclass(frozen=True)
class Config(corpus.CorpusConfig):
    """Where the text comes from (`CorpusConfig`), and google-research/bert's flags under their names."""

    output_dir: str = field("", "Folder for the records; made if it is not there.")
    vocab_file: str = field("", "vocab.txt, or the folder that holds it.")
    do_lower_case: bool | None = field(
        None, "Lower-case and strip accents. Default: as tokenizer.json beside the vocabulary says, else true."
    )
    mask_unit: str = field(
        "token",
        "What is masked whole: a token; a word with its pieces; an n-gram of 1 to 3 words (ALBERT); a span of "
        "words (SpanBERT).",
        choices=tuple(selection.UNITS),
    )
    do_whole_word_mask: bool = field(False, "Google's name for --mask_unit=word.")
    word_boundaries: str = field(
        "wordpiece",
        "Where words begin: where no ## piece is; where input_file has spaces, also between Han characters; or "
        "where the segmenter jieba says (requirements-segmentation.txt).",
        choices=("wordpiece", "spaces", "jieba"),
    )
    masking: str = field(
        "static",
        "static: records are masked; dynamic: each epoch of training masks them anew.",
        choices=("static", "dynamic"),
    )
    sentence_objective: str = field(
        "nsp",
        "nsp: is segment B the next? sop: are the segments in order (ALBERT)? none: full sentences only (RoBERTa).",
        choices=tuple(LABELS),
    )
    pack_sequences: bool = field(False, "Fill each row of max_seq_length with several examples.")
    max_sequences_per_pack: int = field(
        0, "Most examples in a row of --pack_sequences; 0: max_seq_length // 16.", lower_bound=0
    )
    max_seq_length: int = field(128, "Tokens in a sequence, [CLS] and [SEP] counted.", lower_bound=5)
    max_predictions_per_seq: int = field(20, "Most masked tokens in a sequence, or in a row of several.", lower_bound=1)
    random_seed: int = field(12345, "Seed of everything drawn.", lower_bound=0)
    dupe_factor: int = field(10, "Passes over the training documents, each cut and masked anew.", lower_bound=1)
    masked_lm_prob: float = field(0.15, "Share of the tokens to mask.", lower_bound=0.0, upper_bound=1.0)
    short_seq_prob: float = field(0.1, "Share of the sequences made shorter.", lower_bound=0.0, upper_bound=1.0)
    num_shards: int = field(
        8, "Training files; held-out files in proportion. Each holds whole documents.", lower_bound=1, upper_bound=99999
    )
    num_workers: int = field(0, "Processes; 0: one for each core. The records are the same.", lower_bound=0)
    runner: str | None = field(None, runners.HELP, choices=runners.RUNNERS)
    overwrite: bool = field(False, "Replace records that output_dir already holds.")

    def __post_init__(self):
        super().__post_init__()
        if self.do_whole_word_mask:
            checks.require(
                self.mask_unit in ("token", "word"),
                "--do_whole_word_mask is --mask_unit=word, so another mask_unit must not be given with it",
                f"mask_unit={self.mask_unit}",
            )
            object.__setattr__(self, "mask_unit", "word")
        object.__setattr__(self, "do_whole_word_mask", self.mask_unit == "word")

    @property
    def sequences_per_pack(self):
        """M, the most examples in a row; 0 if each has its own."""
        return (self.max_sequences_per_pack or max(2, self.max_seq_length // 16)) if self.pack_sequences else 0

    def layout(self, split):
        """The `features.Layout` of a split's records: what is held out is always masked once and for all."""
        masked = self.masking == "static" or split == "held_out"
        return features.Layout(self.max_seq_length, self.max_predictions_per_seq, masked, self.sequences_per_pack)


def said(cfg, vocabulary):
    """The flags that the records are a function of, as JSON can hold them."""
    flags = {k: v for k, v in config.to_dict(cfg).items() if k not in NOT_IN_THE_RECORDS}
    return {**flags, "do_lower_case": vocabulary.do_lower_case}


def _prepare_span(maker, task):
    """A worker's task: makes the token file of a span."""
    scratch, number, span = task
    parts, digests, counts = shards.prepare(maker, number, span)

    def told():
        before = 0
        for part in parts:
            yield part
            after = counts()["bytes"]
            workers.advance(after - before)
            before = after

    with record_files.writing(scratch):
        token_files.write(scratch, number, told(), digests, counts)


def _make_shard(maker, task):
    """A worker's task: makes the records of a shard; returns what to tell of it."""
    scratch, code, num_spans = task

    def read(code):
        return token_files.read(scratch, num_spans, code, maker.cfg.dedup == "sentence")

    counts, statistics = collections.Counter(), report.Statistics()
    shard = record_files.Shard(scratch, code)
    with shard.write() as append:
        for records, more, seen in shards.make(maker, code, read):
            append(records)
            counts.update(more)
            statistics = statistics + seen
            workers.advance(more["real_positions"])
    about = {"counts": dict(counts), "statistics": statistics.to_dict()}
    shard.finish(about)
    return about


def _prepare(cfg, pool, scratch, spans, work):
    """Makes the token files that are missing; returns the corpus's counts."""
    todo = [i for i in range(len(spans)) if token_files.counts(scratch, i) is None]
    finished, began = len(spans) - len(todo), work.seconds()

    def say():
        speed = workers.done() / 1e6 / max(work.seconds() - began, 1e-3)
        work(f"tokenizing: {finished:,} of {len(spans):,} spans, {speed:.2f} MB/s", finished, len(spans))

    size = sum(s.end - s.begin for s in spans)
    seconds = size * (BYTE_SECONDS + TOKEN_SECONDS / 4 * cfg.dupe_factor)
    for _ in pool.map(_prepare_span, [(scratch, i, spans[i]) for i in todo], seconds > LARGE_SECONDS, say):
        finished += 1
    read = collections.Counter(dict.fromkeys(corpus.COUNTS, 0))
    for i in range(len(spans)):
        read.update(token_files.counts(scratch, i))
    return read


def _make(cfg, pool, scratch, num_spans, tokens, work):
    """Makes the shards that are missing; returns {shard code: what to tell of it}."""
    used = sorted(set().union(*(token_files.codes(scratch, i) for i in range(num_spans))))
    about = {code: record_files.Shard(scratch, code).finished() for code in used}
    todo = [code for code in used if about[code] is None]
    total = tokens * cfg.dupe_factor * len(todo) / max(1, len(used))
    began = work.seconds()

    def say():
        speed = workers.done() / 1e6 / max(work.seconds() - began, 1e-3)
        work(f"writing: {len(todo)} shards, {speed:.2f} M tokens/s", workers.done(), total)

    tasks = [(scratch, code, num_spans) for code in todo]
    for place, found in pool.map(_make_shard, tasks, total * TOKEN_SECONDS > LARGE_SECONDS, say):
        about[todo[place]] = found
    return about


def _account(read, about, known, dropped, by_sentence):
    """{split: counts} of the shards, and the corpus's counts completed by what they hold."""
    made = {split: collections.Counter() for split in shards.SPLITS}
    for code, of_shard in about.items():
        made[known[code][0]].update(of_shard["counts"])
    tokenized = read["documents_read"] - read["documents_empty"] - read["documents_without_tokens"]
    for split, counts in made.items():
        read[f"documents_{split}"] = counts["documents"]
    read["documents_duplicate"] = tokenized - sum(counts["documents"] for counts in made.values())
    if by_sentence:
        read["sentences_duplicate"] = dropped
    return made


def _check_documents(cfg, read, used):
    """Raises `InputError` unless the shards with these codes hold text to train on."""
    known = shards.codes(cfg)
    checks.require(
        read["documents_read"] > read["documents_empty"],
        "a corpus must hold at least one document",
        f"{read['documents_read']} documents, {read['documents_empty']} of them without text",
        ", ".join(cfg.input_file) or cfg.tfds or cfg.source,
    )
    held_out = read["documents_read"] - read["documents_empty"] - read["documents_without_tokens"]
    checks.require(
        any(known[code][0] == "train" for code in used),
        "the corpus must hold text to train on",
        f"0 documents with text, {held_out} of them held out",
        cfg.source,
        "Check --input_file and --held_out_fraction",
    )


def _about(cfg, vocabulary, read, made, files):
    """What records.json says: nothing of when, where to and how fast, so that equal flags give equal bytes."""
    layout = cfg.layout("train")
    shapes = {
        f.name: {"dtype": "int64" if f.dtype == "int32" else f.dtype, "shape": list(layout.shape_of(f))}
        for f in layout.features
    }
    names = LABELS[cfg.sentence_objective]
    counts = {}
    for split, of_split in made.items():
        labels = {name: of_split[f"label_{i}"] for i, name in enumerate(names)}
        rest = {k: v for k, v in of_split.items() if not k.startswith("label_")}
        counts[split] = {"instances": of_split["instances"], **dict(sorted(rest.items())), **labels}
    return {
        "features": shapes,
        "tokenizer_digest": vocabulary.digest,
        "vocab_size": len(vocabulary),
        "max_seq_length": cfg.max_seq_length,
        "max_predictions_per_seq": cfg.max_predictions_per_seq,
        "max_sequences_per_pack": cfg.sequences_per_pack,
        "masked": "static" if layout.masked else "no",
        "mask_unit": cfg.mask_unit,
        "masked_lm_prob": cfg.masked_lm_prob,
        "sentence_objective": cfg.sentence_objective,
        "seed": cfg.random_seed,
        "config": said(cfg, vocabulary),
        "corpus": dict(sorted(read.items())),
        "counts": counts,
        "files": files,
    }


def _share(part, whole):
    return f"{part:,} ({100 * part / whole:.2f} %)" if whole else "0"


_ROWS = (
    ("documents", lambda c: f"{c['documents']:,}"),
    ("sentences", lambda c: f"{c['sentences']:,}"),
    ("tokens", lambda c: f"{c['tokens']:,}"),
    ("unknown tokens", lambda c: _share(c["unknown_tokens"], c["tokens"])),
    ("instances", lambda c: f"{c['instances']:,}"),
    ("rows", lambda c: f"{c['rows']:,}"),
    *(
        (name.replace("_", " "), lambda c, name=name: _share(c[name], c["instances"]) if name in c else None)
        for names in LABELS.values()
        for name in names
    ),
    ("masked positions", lambda c: _share(c["masked_positions"], c["real_positions"])),
    ("padding", lambda c: _share(c["padding_positions"], c["real_positions"] + c["padding_positions"])),
    ("tokens cut by truncation", lambda c: f"{c['truncated_tokens']:,}"),
)


def table(about, seconds):
    """What was made, as lines for a person; every document that was read is in one of the document lines.

    Args:
        about: What records.json holds.
        seconds: Wall time.
    """
    rows = [("corpus", "")]
    read = sorted(about["corpus"].items(), key=lambda item: item[0] != "documents_read")
    rows += [(f"  {key.replace('_', ' ')}", f"{value:,}") for key, value in read]
    rows.append(("records", *(split.replace("_", " ") for split in shards.SPLITS)))
    for name, show in _ROWS:
        shown = [show(collections.Counter(about["counts"][s])) for s in shards.SPLITS]
        if any(shown):
            rows.append((f"  {name}", *(s or "0" for s in shown)))
    rows.append(("  files", *(str(sum(name.startswith(s) for name in about["files"])) for s in shards.SPLITS)))
    rows.append(("wall time", f"{seconds:.1f} s"))
    return "\n".join(f"{name:<28}" + "".join(f"{v:>24}" for v in values) for name, *values in rows)


def names_of(about, known):
    """{shard code: name of its file}, numbered without gaps; shards that hold nothing have none."""
    names = {}
    for split in shards.SPLITS:
        used = [code for code, a in sorted(about.items()) if known[code][0] == split and a["counts"].get("rows")]
        names.update({code: f"{split}-{i:05}-of-{len(used):05}.tfrecord" for i, code in enumerate(used)})
    return names


def _with_processes(cfg, vocabulary, spans, scratch, work):
    """Makes every shard in the scratch folder, by processes: what `beam_pipelines.make_records` does on a cluster."""
    with workers.Workers(cfg.num_workers or machine.cores(), shards.Maker, (cfg, vocabulary)) as pool:
        read = _prepare(cfg, pool, scratch, spans, work)
        _check_documents(cfg, read, set().union(*(token_files.codes(scratch, i) for i in range(len(spans)))))
        with record_files.writing(cfg.output_dir):
            dropped = dedup.find(scratch, len(spans))
        return read, dropped, _make(cfg, pool, scratch, len(spans), read["tokens"], work)


def run(cfg, beam_options=()):
    """Makes the records of a `Config`.

    Args:
        cfg: The `Config`.
        beam_options: Apache Beam's own flags, with `cfg.runner`.

    Returns:
        What records.json holds, as a dict.

    Raises:
        InputError: a flag, the vocabulary, the corpus or the output folder cannot be used.
    """
    work = progress.WorkLine()
    runners.check_options(cfg.runner, beam_options)
    pipelines = cfg.runner and runners.pipelines(cfg.runner)
    vocabulary = vocab.load(cfg.vocab_file, cfg.do_lower_case)
    masking.ordinary_ids(vocabulary)  # refuses a vocabulary without any
    spans, known = corpus.spans(cfg), shards.codes(cfg)
    checks.require(
        cfg.runner or not storage.is_remote(cfg.output_dir),
        "output_dir must be a folder of this machine where its processes do the work",
        cfg.output_dir,
        do="Pass --runner to work on a cluster, or copy the records there afterwards",
    )
    plan = {
        "config": said(cfg, vocabulary),
        "tokenizer_digest": vocabulary.digest,
        "input": corpus.identity(cfg),
        "spans": len(spans),
    }
    with contextlib.closing(work), record_files.unfinished(cfg.output_dir, cfg.overwrite, plan) as scratch:
        if pipelines:
            read, dropped, about = pipelines.make_records(cfg, vocabulary, spans, scratch, beam_options)
            _check_documents(cfg, read, about)
        else:
            read, dropped, about = _with_processes(cfg, vocabulary, spans, scratch, work)
        del read["tokens"]  # before repetitions were dropped; what is told are those of the records
        made = _account(read, about, known, dropped, cfg.dedup == "sentence")
        names = names_of(about, known)
        files = {names[code]: about[code]["counts"]["rows"] for code in sorted(names, key=names.get)}
        told = _about(cfg, vocabulary, read, made, files)
        statistics = {split: report.Statistics() for split in shards.SPLITS}
        for code, of_shard in about.items():
            split = known[code][0]
            statistics[split] = statistics[split] + report.Statistics.from_dict(of_shard["statistics"])
        html = report.html(told, statistics, vocabulary)
        paths = {name: record_files.Shard(scratch, code).path for code, name in names.items()}
        record_files.publish(cfg.output_dir, paths, told, html)
    print(table(told, work.seconds()))
    return told


def main(argv):
    """Runs the program with its flags."""
    run(config.from_flags(Config), argv[1:])


if __name__ == "__main__":
    config.define_flags(Config)
    checks.run_program(main, foreign_flags=True)
