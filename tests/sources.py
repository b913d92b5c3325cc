"""Small corpora for tests: written to files, and read as programs read them."""

import collections
import gzip
import itertools
import random

from data_prep import corpus
from data_prep.corpus import CorpusConfig, Span


def write(folder, name, text):
    """Writes a text, or bytes, gzipped if the name says so; returns the path."""
    path = folder / name
    data = text if isinstance(text, bytes) else text.encode()
    path.write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
    return str(path)


def many(n, seed=0):
    """n different documents of one to five sentences."""
    rng = random.Random(seed)
    return [[f"Sentence {j} of document {i}." for j in range(rng.randint(1, 5))] for i in range(n)]


def as_text(documents):
    """Documents as a text file holds them."""
    return "\n\n".join("\n".join(d) for d in documents) + "\n"


def read_counted(cfg):
    """(the documents of a whole corpus, the counts)."""
    counts = collections.Counter()
    return list(corpus.documents(cfg, counts)), counts


def read(*patterns, **kwargs):
    """The documents of files."""
    return read_counted(CorpusConfig(input_file=patterns, **kwargs))[0]


def read_spans(cfg, spans=None):
    """(the documents of spans, by default all, one after another; the counts)."""
    counts = collections.Counter()
    spans = corpus.spans(cfg) if spans is None else spans
    return [d for span in spans for d in corpus.read(cfg, span, counts)], counts


def cut(path, places):
    """The spans of a file between bytes."""
    return [Span(path, begin, end) for begin, end in itertools.pairwise(places)]


def texts(documents):
    """The sentences of documents, as strings."""
    return [[s.decode() for s in d.sentences] for d in documents]
