"""Paragraphs to sentences, by tensorflow-text's sentence breaker, many paragraphs a call."""

import concurrent.futures
import itertools
import re

import numpy as np
import tensorflow as tf
import tensorflow_text as tf_text

from data_prep import texts

# The breaker ends a sentence at every full stop, also in `tf.data`, `3.5` and `e.g.`, at the smiley in
# `https://`, and before a closing straight quote. So it is shown a copy of the text, byte by byte as
# long, in which the marks that end nothing are another byte and a quote after a mark has changed
# places with it; the sentences are cut from the text itself by the offsets that come back.
_NO_END = "\x01"
_INSIDE_TOKEN = re.compile(r"[.?!:](?=[!-~])(?![.?!\"')\]}])")
# What begins with a letter of its own is found ten times as quickly as what begins with one of several.
_QUOTED = tuple((re.compile(rf"\{mark}[\"'](?=\s|$)"), _NO_END + mark) for mark in ".?!")
_ABBREVIATION = re.compile(
    r"\.(?= )(?:"
    r"(?<=\b(?:cf|vs|Mr|Ms|Dr|Eq)\.)|(?<=\b(?:e\.g|i\.e|Mrs|Fig)\.)|(?<=\bProf\.)|"
    r"(?= [^A-Z])(?:(?<=\bal\.)|(?<=\betc\.)|(?<=\bresp\.)|(?<=\bapprox\.)))"
)

# The breaker takes 2 MB/s: at each byte it looks for 170 smileys. But it remembers nothing across a letter
# or space that is in no smiley, so nothing changes if it is shown only the places where a sentence may end or
# a smiley lie, with the byte before and the two after: the first may still be of the smiley, the second not.
# What can begin or go on with an end is "marked": whatever is not a letter, digit, space or comma, and
# those letters and digits that have another or a bracket beside them in a smiley. Brackets, quotes and hyphens
# are looked at only near other marks.
_LOOSE = b"'\"`()[]{}-"
_MARKED = np.array([b not in b" ,\x01" and b > 32 and not chr(b).isalnum() for b in range(128)] + [True] * 128)
_MARKED[list(b"XD8B")] = True
# First bytes of two and three that stand for letters only: Latin, Greek, Cyrillic; ideographs, Hangul.
_LETTERS_OF_2 = np.isin(np.arange(256), [0xC3, 0xC4, 0xC5, 0xCE, 0xCF, *range(0xD0, 0xD4)])
_LETTERS_OF_3 = np.isin(np.arange(256), [*range(0xE4, 0xEA), 0xEB, 0xEC])
_IS_LOOSE = np.isin(np.arange(256), list(_LOOSE))
_IS_END = np.isin(np.arange(256), list(b".?!"))

# Paragraphs and bytes a call, the last document aside: the time is linear in the bytes, and a call costs
# some milliseconds more.
_BATCH = 2048
_BATCH_BYTES = 1 << 20

_breaker = tf_text.StateBasedSentenceBreaker()


def _for_breaker(text):
    for pattern, to in _QUOTED:
        text = pattern.sub(to, text)
    return _INSIDE_TOKEN.sub(_NO_END, _ABBREVIATION.sub(_NO_END, text))


def _near(marked, before, after):
    """What is marked, and as many places before and after that."""
    out = marked.copy()
    for d in range(1, before + 1):
        out[:-d] |= marked[d:]
    for d in range(1, after + 1):
        out[d:] |= marked[:-d]
    return out


def _ends(shown):
    """The places in a text after which the breaker ends a sentence, in order, the text's end aside."""
    data = np.frombuffer(b" " + shown + b" ", np.uint8)
    marked = _MARKED[data]
    if not shown.isascii():
        for first, bytes_ in ((_LETTERS_OF_2, 2), (_LETTERS_OF_3, 3)):
            at = np.flatnonzero(first[data])
            for d in range(bytes_):
                marked[at + d] = False
    # An end between a letter and a space is one whatever else there is.
    plain = np.zeros_like(marked)
    plain[1:-1] = _IS_END[data[1:-1]] & ~marked[:-2] & ((data[2:] == ord(" ")) | (data[2:] == ord("\n")))
    marked &= ~plain
    found = marked & ~_IS_LOOSE[data]
    while (more := _near(found, 2, 2) & marked).sum() > found.sum():
        found = more
    kept = np.flatnonzero(_near(found, 1, 2))
    _, _, ends = _breaker.break_sentences_with_offsets(tf.constant([data[kept].tobytes()]))
    ends = ends.flat_values.numpy()
    others = kept[ends[ends < len(kept)] - 1]  # what ends where the text does is no sentence's end by itself
    return np.sort(np.concatenate([np.flatnonzero(plain), others]))  # one byte is before the text in `data`


def split(paragraphs):
    """Splits paragraphs into sentences.

    Args:
        paragraphs: UTF-8 bytes, each one paragraph of running text without line feeds.

    Returns:
        For each paragraph the list of its sentences, UTF-8, white space at the ends removed.
    """
    if not paragraphs:
        return []
    text = b"\n".join(paragraphs)
    stops = np.cumsum([len(p) + 1 for p in paragraphs]) - 1  # of the paragraphs
    cuts = np.union1d(_ends(_for_breaker(text.decode()).encode()), stops)
    sentences = texts.strip([text[a:b] for a, b in itertools.pairwise([0, *cuts.tolist()])], text)
    splits = [0, *(np.searchsorted(cuts, stops) + 1).tolist()]
    return [[s for s in sentences[a:b] if s] for a, b in itertools.pairwise(splits)]


def _batches(documents):
    """Lists of documents of about `_BATCH` paragraphs or `_BATCH_BYTES`."""
    batch, paragraphs, size = [], 0, 0
    for document in documents:
        batch.append(document)
        paragraphs += max(1, len(document[1]))  # an empty document takes room, too
        size += sum(map(len, document[1]))
        if paragraphs >= _BATCH or size >= _BATCH_BYTES:
            yield batch
            batch, paragraphs, size = [], 0, 0
    if batch:
        yield batch


def split_documents(documents):
    """Splits the paragraphs of a stream of documents.

    A thread splits one batch while the next is being read: the breaker does not hold Python's lock.

    Args:
        documents: Iterable of (where, list of paragraphs as UTF-8 bytes).

    Yields:
        (where, list of the sentences of all its paragraphs, as UTF-8 bytes), in the same order.
    """

    def finished(batch, job):
        of_paragraphs = iter(job.result())
        for where, paragraphs in batch:
            yield where, list(itertools.chain.from_iterable(itertools.islice(of_paragraphs, len(paragraphs))))

    with concurrent.futures.ThreadPoolExecutor(1) as thread:
        last = None
        for batch in _batches(documents):
            job = thread.submit(split, [p for _, paragraphs in batch for p in paragraphs])
            if last:
                yield from finished(*last)
            last = batch, job
        if last:
            yield from finished(*last)
