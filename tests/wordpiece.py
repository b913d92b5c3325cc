"""BERT's tokenization in plain Python, from the rules of the paper's code, as an oracle for the one in the graph.

Two of its rules follow Hugging Face and not google-research/bert, as tfbert.text.tokenizer says: private-use
characters are deleted, and a character is lower-cased without looking at its neighbours.
"""

import string
import unicodedata

CJK = (
    (0x4E00, 0x9FFF),
    (0x3400, 0x4DBF),
    (0x20000, 0x2A6DF),
    (0x2A700, 0x2B73F),
    (0x2B740, 0x2B81F),
    (0x2B820, 0x2CEAF),
    (0xF900, 0xFAFF),
    (0x2F800, 0x2FA1F),
)


def _clean(text):
    for c in text:
        category = unicodedata.category(c)
        if c in "\t\n\r" or category == "Zs":
            yield " "
        elif c not in "\0\ufffd" and category not in ("Cc", "Cf", "Co"):
            yield f" {c} " if any(a <= ord(c) <= b for a, b in CJK) else c


def _is_punctuation(c):
    return c in string.punctuation or unicodedata.category(c).startswith("P")


def words(text, lower_case):
    """The words and punctuation marks of a text."""
    text = "".join(_clean(text))
    if lower_case:
        text = unicodedata.normalize("NFD", "".join(c.lower() for c in text))
        text = "".join(c for c in text if unicodedata.category(c) != "Mn")
    return "".join(f" {c} " if _is_punctuation(c) else c for c in text).split()


def wordpieces(word, ids, longest=200):
    """The ids of a word, by greedy longest match from the left."""
    pieces, start = [], 0
    while len(word) <= longest and start < len(word):
        prefix = "##" if start else ""
        end = next((e for e in range(len(word), start, -1) if prefix + word[start:e] in ids), None)
        if end is None:
            return [ids["[UNK]"]]
        pieces.append(ids[prefix + word[start:end]])
        start = end
    return pieces or [ids["[UNK]"]]


def tokenize(text, vocab):
    """The ids of a text."""
    return [i for w in words(text, vocab.do_lower_case) for i in wordpieces(w, vocab.ids)]
