"""Where words begin in languages that write none, for masking whole words of Chinese.

BERT's tokenizer makes each Han character a token of its own, so masking whole words changes nothing for
Chinese (Cui et al. 2019, "Pre-Training with Whole Word Masking for Chinese BERT", mask the characters of a
word together). A Han character that follows another continues its word here, unless a space in the text or a
word segmenter parts the two; all other words are those of the tokenizer.
"""

import functools
import importlib
import itertools
import logging
import re

import numpy as np

from tfbert import checks

KINDS = ("wordpiece", "spaces", "jieba")

# The ideographs that BERT's tokenizer makes tokens of (`_is_chinese_char` of google-research/bert).
_HAN = (
    (0x3400, 0x4DBF),
    (0x4E00, 0x9FFF),
    (0xF900, 0xFAFF),
    (0x20000, 0x2A6DF),
    (0x2A700, 0x2B73F),
    (0x2B740, 0x2B81F),
    (0x2B820, 0x2CEAF),
    (0x2F800, 0x2FA1F),
)
_TWO_HAN = re.compile("[{0}][{0}]".format("".join(f"{chr(a)}-{chr(b)}" for a, b in _HAN)))


def word_starts(kind, sentences, starts, row_lengths, word_starts):
    """Which tokens begin a word.

    Args:
        kind: "wordpiece": where the tokenizer says, thus all but the ## pieces. "spaces": besides, a Han
            character that follows another directly continues its word; in such text there is a space
            between words. "jieba": it does unless that segmenter begins a word with it.
        sentences: S byte strings, UTF-8.
        starts: int32 [T], the byte of its sentence at which each token begins.
        row_lengths: int64 [S], tokens of each sentence.
        word_starts: bool [T], as the tokenizer has them.

    Returns:
        bool [T].

    Raises:
        InputError: jieba is asked for and not installed.
    """
    if kind == "wordpiece":
        return word_starts
    text = np.frombuffer(b"".join(sentences) + bytes(4), np.uint8)  # a character can be read at its end as well
    bases = np.cumsum([0, *map(len, sentences)])[:-1]
    begins = np.repeat(bases, row_lengths) + starts  # [T], in `text`
    han, size = _han_characters(text, begins)
    follows = np.zeros(len(begins), bool)
    follows[1:] = han[1:] & han[:-1] & (begins[1:] == begins[:-1] + size[:-1])
    follows[(np.cumsum(row_lengths) - row_lengths)[row_lengths > 0]] = False
    if kind == "jieba":
        cut = np.zeros(len(text), bool)
        cut[_segmented(sentences, bases)] = True
        follows &= ~cut[begins]
    return word_starts & ~follows


def _han_characters(text, places):
    """(whether, bytes): of the character at each place of UTF-8 text."""
    first, second, third, fourth = (text[places + i].astype(np.int32) for i in range(4))
    short = (first & 15) << 12 | (second & 63) << 6 | third & 63
    long = (first & 7) << 18 | (second & 63) << 12 | (third & 63) << 6 | fourth & 63
    is_long = first >= 0xF0
    code = np.where(is_long, long, np.where(first >= 0xE0, short, 0))
    return np.logical_or.reduce([(code >= a) & (code <= b) for a, b in _HAN]), np.where(is_long, 4, 3)


def _segmented(sentences, bases):
    """The bytes of the whole text at which jieba's words begin, in sentences where that can matter."""
    segment, found = _jieba(), []
    for sentence, base in zip(sentences, bases.tolist()):
        decoded = sentence.decode()
        if _TWO_HAN.search(decoded):
            sizes = [len(word.encode()) for word in segment(decoded)]
            found += itertools.accumulate(sizes[:-1], initial=base)
    return found


@functools.cache
def _jieba():
    """jieba's function from a sentence to the list of its words."""
    try:
        jieba = importlib.import_module("jieba")
    except ImportError as e:
        raise checks.error(
            "jieba must be installed to find the words of Chinese text",
            str(e),
            "--word_boundaries=jieba",
            "Run pip install -r requirements-segmentation.txt, or put spaces between the words of the text "
            "and pass --word_boundaries=spaces",
        ) from e
    jieba.setLogLevel(logging.WARNING)  # it tells of its dictionary otherwise
    return jieba.Tokenizer().lcut
