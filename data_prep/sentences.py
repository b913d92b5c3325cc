"""Paragraphs to sentences, by tensorflow-text's sentence breaker, many paragraphs a call."""

import concurrent.futures
import itertools
import re

import tensorflow as tf
import tensorflow_text as tf_text

# The breaker ends a sentence at every full stop, also in `tf.data`, `3.5` and `e.g.`, at the smiley in
# `https://`, and before a closing straight quote. So it is shown a copy of the text, byte by byte as
# long, in which the marks that end nothing are another byte and a quote after a mark has changed
# places with it; the sentences are cut from the text itself by the offsets that come back.
_NO_END = "\x01"
_INSIDE_TOKEN = re.compile(r"[.?!:](?=[!-~])(?![.?!\"')\]}])")
_ABBREVIATION = re.compile(r"\b(?:e\.g|i\.e|cf|vs|Mr|Mrs|Ms|Dr|Prof|Fig|Eq|(?:etc|al|resp|approx)(?=\. [^A-Z]))\.(?= )")
_QUOTED = re.compile(r"([.?!])[\"'](?=\s|$)")

# Paragraphs a call: the time is linear in the bytes, and a call costs some milliseconds more.
_BATCH = 2048

_breaker = tf_text.StateBasedSentenceBreaker()


def _for_breaker(text):
    text = _QUOTED.sub(_NO_END + r"\1", text)
    text = _ABBREVIATION.sub(lambda m: m[0].replace(".", _NO_END), text)
    return _INSIDE_TOKEN.sub(_NO_END, text)


def split(paragraphs):
    """Splits paragraphs into sentences.

    Args:
        paragraphs: Strings, each one paragraph of running text.

    Returns:
        For each paragraph the list of its sentences, UTF-8, white space at the ends removed.
    """
    if not paragraphs:
        return []
    texts = [p.encode() for p in paragraphs]
    shown = tf.constant([_for_breaker(p) for p in paragraphs])
    _, starts, ends = _breaker.break_sentences_with_offsets(shown)
    splits = starts.row_splits.numpy().tolist()
    starts, ends = starts.flat_values.numpy().tolist(), ends.flat_values.numpy().tolist()
    out = []
    for text, first, last in zip(texts, splits, splits[1:]):
        sentences = (text[starts[i] : ends[i]].strip() for i in range(first, last))
        out.append([s for s in sentences if s])
    return out


def _batches(documents):
    """Lists of documents of about `_BATCH` paragraphs."""
    batch, size = [], 0
    for document in documents:
        batch.append(document)
        size += len(document[1])
        if size >= _BATCH:
            yield batch
            batch, size = [], 0
    yield batch


def split_documents(documents):
    """Splits the paragraphs of a stream of documents.

    A thread splits one batch while the next is being read: the breaker does not hold Python's lock.

    Args:
        documents: Iterable of (where, list of paragraphs).

    Yields:
        (where, list of the paragraphs, each a list of sentences as UTF-8 bytes), in the same order.
    """

    def finished(batch, job):
        sentences = iter(job.result())
        for where, paragraphs in batch:
            yield where, list(itertools.islice(sentences, len(paragraphs)))

    with concurrent.futures.ThreadPoolExecutor(1) as thread:
        last = None
        for batch in _batches(documents):
            job = thread.submit(split, [p for _, paragraphs in batch for p in paragraphs])
            if last:
                yield from finished(*last)
            last = batch, job
        yield from finished(*last)
