"""BERT's WordPiece tokenization with nothing but Python, for a .tflite that takes ids.

It is one of three files that say the same, line by line: the others are ../android/WordPiece.kt and
../ios/WordPiece.swift. Copy it; it imports nothing of tfbert.
"""

import json
import unicodedata
import zipfile

MAX_CHARACTERS = 200  # a longer word is one [UNK]
IDEOGRAPHS = (
    (0x4E00, 0x9FFF),
    (0x3400, 0x4DBF),
    (0x20000, 0x2A6DF),
    (0x2A700, 0x2B73F),
    (0x2B740, 0x2B81F),
    (0x2B820, 0x2CEAF),
    (0xF900, 0xFAFF),
    (0x2F800, 0x2FA1F),
)


class WordPiece:
    """Splits texts into wordpieces.

    Args:
        tokens: The lines of vocab.txt, in order.
        lower_case: `do_lower_case` of tokenizer.json.
        longest: `max_seq_length` of tokenizer.json: the longest row, in wordpieces.
    """

    def __init__(self, tokens, lower_case, longest=128):
        self.tokens, self.lower_case, self.longest = tokens, lower_case, longest
        self._ids = {token: i for i, token in enumerate(tokens)}

    def id(self, token):
        """The place of an entry in the vocabulary."""
        return self._ids[token]

    def ids(self, text):
        """The ids of a text. The literal [MASK] in it is a mask; all else is text, [SEP] and [CLS] too."""
        parts = [self._ids_of_part(part) for part in text.split("[MASK]")]
        found = parts[0]
        for part in parts[1:]:
            found += [self.id("[MASK]"), *part]
        return found

    def pack(self, first, second=None):
        """[CLS] first [SEP] second [SEP] as a row: {name: ids}; what does not fit is cut off
        the end of the longer one, and off the second when they are equally long."""
        first, second = list(first), list(second or [])
        room = self.longest - (3 if second else 2)
        while len(first) + len(second) > room:
            (second if len(second) >= len(first) else first).pop()
        separator = self.id("[SEP]")
        left = [self.id("[CLS]"), *first, separator]
        right = [*second, separator] if second else []
        return {
            "input_ids": left + right,
            "input_mask": [1] * (len(left) + len(right)),
            "segment_ids": [0] * len(left) + [1] * len(right),
        }

    def _ids_of_part(self, text):
        return [i for word in self._words(text) for i in self._pieces(word)]

    def _words(self, text):
        """Words, punctuation marks and ideographs."""
        words, word = [], []

        def end():
            if word:
                words.append("".join(word))
                word.clear()

        for character in text:
            kind = unicodedata.category(character)
            if character in "\t\n\r" or kind in ("Zs", "Zl", "Zp"):
                end()
            elif character == "\ufffd" or kind in ("Cc", "Cf", "Co"):
                continue
            elif any(first <= ord(character) <= last for first, last in IDEOGRAPHS):
                end()
                words.append(self._normal(character))
            else:
                for c in self._normal(character):
                    if _is_punctuation(c):
                        end()
                        words.append(c)
                    else:
                        word.append(c)
        end()
        return words

    def _normal(self, character):
        """One character in lower case and without accents, if the vocabulary is so."""
        if not self.lower_case:
            return character
        decomposed = unicodedata.normalize("NFD", character.lower())
        return "".join(c for c in decomposed if unicodedata.category(c) != "Mn")

    def _pieces(self, word):
        """The longest entries that spell a word, from the left; [UNK] if there are none."""
        if len(word) > MAX_CHARACTERS:
            return [self.id("[UNK]")]
        pieces, start = [], 0
        while start < len(word):
            end = len(word)
            while end > start and ("##" if start else "") + word[start:end] not in self._ids:
                end -= 1
            if end == start:
                return [self.id("[UNK]")]
            pieces.append(self._ids[("##" if start else "") + word[start:end]])
            start = end
        return pieces


def _is_punctuation(character):
    """Of Unicode's punctuation, or a sign of ASCII that is neither letter nor digit, as $ and +."""
    ascii_sign = "!" <= character <= "~" and not character.isalnum()
    return ascii_sign or unicodedata.category(character).startswith("P")


def read(path):
    """The `WordPiece` of the vocabulary that is associated with a .tflite: the file is also a zip.

    Returns:
        (`WordPiece`, labels; [] if the model has none).
    """
    with zipfile.ZipFile(path) as zipped:
        tokens = zipped.read("vocab.txt").decode("utf-8").split("\n")
        about = json.loads(zipped.read("tokenizer.json"))
        labels = zipped.read("labels.txt").decode("utf-8").splitlines() if "labels.txt" in zipped.namelist() else []
    tokens = tokens[:-1] if tokens[-1] == "" else tokens
    tokens = [token.removesuffix("\r") for token in tokens]
    return WordPiece(tokens, about["do_lower_case"], about.get("max_seq_length", 128)), labels
