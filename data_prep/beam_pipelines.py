"""Data preparation as Apache Beam pipelines: the functions of `shards`, carried out by the workers of a cluster.

What a worker makes of a span or of a shard is what a process of one machine makes of it, so the records are
the same. No worker holds the corpus: a span is a few megabytes of text, a shard's documents lie in a
temporary file, and the random segments of a shard come from its own documents, or, where it has only a few,
from some that its neighbours lend.

The input, `output_dir` and nothing else must be where every worker sees them under the same name.
"""

import collections
import contextlib
import functools
import heapq
import json
import logging
import os
import tempfile
import uuid
import zlib

import apache_beam as beam
import numpy as np
import tensorflow as tf
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.runners.portability.fn_api_runner import fn_runner

from data_prep import blocks, corpus, record_files, report, shards, storage, token_files
from tfbert import checks, config

_ERRORS, _CORPUS = "errors", "corpus.json"
_WORD_FILES = 16


@contextlib.contextmanager
def _pipeline(runner, options, scratch):
    """A pipeline that is run when the block is left; what a worker finds wrong with the input is an `InputError`.

    Args:
        runner: One of `runners.RUNNERS`.
        options: Beam's own, as command-line flags.
        scratch: A folder that every worker sees.

    Raises:
        InputError: an option is unknown, or a worker said what is wrong.
    """
    parsed = PipelineOptions(list(options))
    unknown = sorted(set(parsed.get_all_options(retain_unknown_options=True)) - set(parsed.get_all_options()))
    named = ", ".join(f"--{name}" for name in unknown)
    checks.require(not unknown, "options behind -- must be Apache Beam's", named, f"--runner={runner}")
    if runner == "DirectRunner":  # on a cluster the states of the job are worth a line
        logging.getLogger("apache_beam").setLevel(logging.WARNING)
    errors = os.path.join(scratch, _ERRORS)
    with record_files.writing(scratch):
        if tf.io.gfile.exists(errors):
            tf.io.gfile.rmtree(errors)
        tf.io.gfile.makedirs(errors)
    # By the name alone Beam would first try a runner of another language, which it downloads.
    pipeline = beam.Pipeline(fn_runner.FnApiRunner() if runner == "DirectRunner" else runner, parsed)
    try:
        yield pipeline
        pipeline.run().wait_until_finish()
    finally:
        # Runners wrap what a worker raises in exceptions of their own, each in another.
        for name in tf.io.gfile.listdir(errors):
            told = _read_json(os.path.join(errors, name))
            error = checks.InputError(told["message"])
            error.can_go_on = told["can_go_on"]
            raise error


def _write_json(path, content):
    """Writes JSON under a name of its own and renames it: a task may be carried out twice, even at once."""
    aside = f"{path}.{uuid.uuid4().hex}.part"
    with tf.io.gfile.GFile(aside, "w") as f:
        f.write(json.dumps(content))
    storage.rename(aside, path)


def _read_json(path):
    with tf.io.gfile.GFile(path) as f:
        return json.loads(f.read())


def _telling(function):
    """The generator function `function(element, *, scratch, ...)`, which leaves an `InputError` in a file too."""

    @functools.wraps(function)
    def told(*args, scratch, **kwargs):
        try:
            yield from function(*args, scratch=scratch, **kwargs)
        except checks.InputError as e:
            said = {"message": str(e), "can_go_on": getattr(e, "can_go_on", False)}
            _write_json(os.path.join(scratch, _ERRORS, uuid.uuid4().hex), said)
            raise

    return told


def _add(counters):
    """The sum of dicts of numbers."""
    total = collections.Counter()
    for counter in counters:
        total.update(counter)
    return dict(total)


@_telling
def _digests(element, cfg, *, scratch):
    """(number, span) -> (digest, (number, place)) of what may come twice."""
    del scratch
    number, span = element
    high, low, places = shards.digests(cfg, corpus.Span(*span))
    whole = np.stack([high, low], 1).tobytes()
    for at, place in enumerate(places.tolist()):
        yield whole[16 * at : 16 * at + 16], (number, place)


def _all_but_first(element):
    """(digest, its places) -> every place but the first in the corpus; so many may be too many for memory."""
    _, places = element
    places = iter(places)
    first = next(places)
    for place in places:
        yield max(first, place)
        first = min(first, place)


def _wanted(pipeline, cfg, spans, scratch):
    """(number, {"span": [span], "dropped": [numbers of documents or sentences that come again]})."""
    numbered = (
        pipeline
        | "spans" >> beam.Create([(number, tuple(span)) for number, span in enumerate(spans)])
        | "spread spans" >> beam.Reshuffle()
    )
    if cfg.dedup == "none":
        return numbered | beam.MapTuple(lambda number, span: (number, {"span": [span], "dropped": []}))
    dropped = (
        numbered
        | "digests" >> beam.FlatMap(_digests, cfg, scratch=scratch)
        | "by digest" >> beam.GroupByKey()
        | "duplicates" >> beam.FlatMap(_all_but_first)
    )
    return {"span": numbered, "dropped": dropped} | "by span" >> beam.CoGroupByKey()


def _write_sum(counters, path):
    """The step that adds up dicts of numbers and writes the sum."""
    added = counters | "add counts" >> beam.CombineGlobally(_add)
    return added | "write counts" >> beam.Map(lambda total: _write_json(path, total))


# ---- records


@functools.lru_cache(maxsize=1)
def _maker(flags, vocabulary):
    """The `shards.Maker` of this process."""
    # The program's own module is called __main__ where it runs, which workers cannot import.
    from data_prep import create_pretraining_data

    return shards.Maker(config.from_dict(create_pretraining_data.Config, json.loads(flags)), vocabulary)


@_telling
def _prepare(element, flags, vocabulary, *, scratch):
    """A span without its duplicates -> (shard code, (span, part, documents, block as bytes)), and its counts."""
    del scratch
    number, found = element
    maker = _maker(flags, vocabulary)
    dropped = np.array(sorted(found["dropped"]), np.int64)
    parts, _, counts = shards.prepare(maker, number, corpus.Span(*found["span"][0]))
    for place, part in enumerate(parts):
        for code, block in part.items():
            block = token_files.without_dropped(block, dropped, maker.cfg.dedup == "sentence")
            if len(block.documents):
                yield code, (number, place, len(block.documents), blocks.to_bytes(block))
    yield beam.pvalue.TaggedOutput("counts", {**counts(), "dropped": len(dropped)})


def lenders(documents, known):
    """Which shards lend documents to which: {lender: [(borrower, documents that it has before)]}.

    As `shards.make` borrows: a shard with too few documents takes from those that follow, in a circle.

    Args:
        documents: {shard code: documents that it has}.
        known: `shards.codes`.
    """
    plan = collections.defaultdict(list)
    for split in shards.SPLITS:
        of_split = [code for code, (s, _) in enumerate(known) if s == split]
        for at, code in enumerate(of_split):
            held = documents.get(code, 0)
            for other in of_split[at + 1 :] + of_split[:at] if held else ():
                if held >= shards.ENOUGH_DOCUMENTS:
                    break
                if documents.get(other):
                    plan[other].append((code, held))
                    held += documents[other]
    return dict(plan)


def first_blocks(found, enough):
    """The first blocks that hold enough documents together, in the order of the corpus; the rest is not kept.

    Args:
        found: Iterable of (span, part, documents, block as bytes), in any order.
        enough: Documents.
    """
    heap, held = [], 0  # the last in the order of the corpus comes first
    for span, part, documents, data in found:
        heapq.heappush(heap, (-span, -part, documents, data))
        held += documents
        while held - heap[0][2] >= enough:
            held -= heapq.heappop(heap)[2]
    return [(-span, -part, documents, data) for span, part, documents, data in sorted(heap, reverse=True)]


def _lend(element, plan):
    """(lender, its blocks) -> (borrower, (lender, ordinal, block as bytes))."""
    lender, found = element
    found = first_blocks(found, shards.ENOUGH_DOCUMENTS - min(held for _, held in plan[lender]))
    for borrower, held in plan[lender]:
        for ordinal, (_, _, documents, data) in enumerate(found):
            if held >= shards.ENOUGH_DOCUMENTS:
                break
            held += documents
            yield borrower, (lender, ordinal, data)


def _borrowed(parts, cfg):
    """What shards borrow: (shard code, (lender, ordinal, block as bytes))."""
    plan = (
        parts
        | "count documents" >> beam.Map(lambda element: (element[0], element[1][2]))
        | "documents by shard" >> beam.CombinePerKey(sum)
        | "all shards" >> beam.combiners.ToDict()
        | "who lends" >> beam.Map(lenders, shards.codes(cfg))
    )
    plan = beam.pvalue.AsSingleton(plan)
    return (
        parts
        | "lenders only" >> beam.Filter(lambda element, plan: element[0] in plan, plan)
        | "by lender" >> beam.GroupByKey()
        | "lend" >> beam.FlatMap(_lend, plan)
    )


@_telling
def _make(element, flags, vocabulary, *, scratch):
    """A shard's blocks, its own and those that it borrows -> its file in the scratch folder."""
    code, found = element
    maker, shard = _maker(flags, vocabulary), record_files.Shard(scratch, code)
    own, lent = [], collections.defaultdict(list)
    with tempfile.TemporaryFile() as file:
        for is_lent, first, second, data in found:
            (lent[first] if is_lent else own).append((first, second, file.tell(), len(data)))
            file.write(data)

        def read(of):
            for _, _, at, size in sorted(own if of == code else lent[of]):
                file.seek(at)
                yield blocks.from_bytes(file.read(size))

        counts, statistics = collections.Counter(), report.Statistics()
        aside = f"{shard.path}.{uuid.uuid4().hex}.part"
        with record_files.writing(scratch), tf.io.TFRecordWriter(aside) as writer:
            for records, more, seen in shards.make(maker, code, read):
                for record in records:
                    writer.write(record)
                counts.update(more)
                statistics = statistics + seen
    with record_files.writing(scratch):
        storage.rename(aside, shard.path)
        _write_json(shard.path + ".json", {"counts": dict(counts), "statistics": statistics.to_dict()})
    yield code


def make_records(cfg, vocabulary, spans, scratch, options):
    """Makes every shard in the scratch folder.

    Args:
        cfg: The `create_pretraining_data.Config`.
        vocabulary: `Vocab`.
        spans: `corpus.spans(cfg)`.
        scratch: A folder that every worker sees.
        options: Beam's own, as command-line flags.

    Returns:
        The corpus's counts, how many documents or sentences were dropped, {shard code: what to tell of it}.

    Raises:
        InputError: what reading or making raised.
    """
    flags = json.dumps(config.to_dict(cfg))
    of_corpus = corpus.CorpusConfig(**{name: getattr(cfg, name) for name in corpus.CorpusConfig.__dataclass_fields__})
    with _pipeline(cfg.runner, options, scratch) as pipeline:
        prepare = beam.FlatMap(_prepare, flags, vocabulary, scratch=scratch).with_outputs("counts", main="parts")
        prepared = _wanted(pipeline, of_corpus, spans, scratch) | "tokenize" >> prepare
        _write_sum(prepared.counts, os.path.join(scratch, _CORPUS))
        found = [prepared.parts | "own" >> beam.MapTuple(lambda code, part: (code, (False, part[0], part[1], part[3])))]
        if cfg.sentence_objective == "nsp":
            lent = _borrowed(prepared.parts, cfg)
            found.append(lent | "lent" >> beam.MapTuple(lambda code, part: (code, (True, *part))))
        (
            found
            | "own and lent" >> beam.Flatten()
            | "by shard" >> beam.GroupByKey()
            | "make" >> beam.FlatMap(_make, flags, vocabulary, scratch=scratch)
        )
    read = collections.Counter({**dict.fromkeys(corpus.COUNTS, 0), **_read_json(os.path.join(scratch, _CORPUS))})
    told = {code: record_files.Shard(scratch, code).finished() for code in range(len(shards.codes(cfg)))}
    return read, read.pop("dropped"), {code: about for code, about in told.items() if about}


# ---- words


@functools.lru_cache(maxsize=1)
def _splitter(do_lower_case):
    """The `learn_vocab.WordSplitter` of this process."""
    from data_prep import learn_vocab

    return learn_vocab.WordSplitter(do_lower_case)


@_telling
def _count_words(element, cfg, do_lower_case, *, scratch):
    """A span without its duplicates -> (word, how often) of the documents not held out, and its counts."""
    del scratch
    _, found = element
    counts, words, dropped = collections.Counter(), collections.Counter(), set(found["dropped"])
    span = corpus.Span(*found["span"][0])
    for document in corpus.without(cfg, span, lambda number, _: number in dropped, counts):
        if not document.held_out:
            for of_text in _splitter(do_lower_case)(document.sentences):
                words.update(of_text)
    yield from words.items()
    yield beam.pvalue.TaggedOutput("counts", dict(counts))


def _write_words(element, scratch):
    number, words = element
    path = os.path.join(scratch, f"words-{number}")
    with tf.io.gfile.GFile(f"{path}.{uuid.uuid4().hex}.part", "w") as f:
        for word, n in words:
            f.write(f"{n} {word.decode()}\n")
    storage.rename(f.name, path)


def count_words(cfg, counts, options):
    """{word: how often} of the documents that are not held out: what `learn_vocab` learns from.

    Args:
        cfg: The `learn_vocab.Config`.
        counts: A Counter; gets what `corpus.documents` counts.
        options: Beam's own, as command-line flags.

    Raises:
        InputError: what reading raised.
    """
    of_corpus = corpus.CorpusConfig(**{name: getattr(cfg, name) for name in corpus.CorpusConfig.__dataclass_fields__})
    scratch = os.path.join(cfg.output_dir, record_files.UNFINISHED)
    with _pipeline(cfg.runner, options, scratch) as pipeline:
        count = beam.FlatMap(_count_words, of_corpus, cfg.do_lower_case, scratch=scratch)
        counted = _wanted(pipeline, of_corpus, corpus.spans(cfg), scratch) | "split into words" >> count.with_outputs(
            "counts", main="words"
        )
        _write_sum(counted.counts, os.path.join(scratch, _CORPUS))
        (
            counted.words
            | "add words" >> beam.CombinePerKey(sum)
            | "number files" >> beam.Map(lambda word: (zlib.crc32(word[0]) % _WORD_FILES, word))
            | "by file" >> beam.GroupByKey()
            | "write words" >> beam.Map(_write_words, scratch)
        )
    counts.update({**dict.fromkeys(corpus.COUNTS, 0), **_read_json(os.path.join(scratch, _CORPUS))})
    corpus.check_documents(cfg, counts)
    words = {}
    for path in tf.io.gfile.glob(os.path.join(scratch, "words-*[0-9]")):
        with tf.io.gfile.GFile(path) as f:
            for line in f:
                n, word = line.rstrip("\n").split(" ", 1)
                words[word] = int(n)
    tf.io.gfile.rmtree(scratch)
    return words
