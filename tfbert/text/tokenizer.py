"""BERT's WordPiece tokenization in the graph: strings in, ids, word starts and byte offsets out.

It is BERT's BasicTokenizer and WordpieceTokenizer (appendix A of the paper gives the vocabulary; the rules
are those of google-research/bert's tokenization.py), made of the two ops that tensorflow-text has for
TensorFlow Serving and TensorFlow Lite alike, and of arithmetic on their results. Training, evaluation and
export all use this one code, so they cannot drift apart.
"""

import functools
import re
from typing import NamedTuple

import numpy as np
import tensorflow as tf
import tensorflow_text as tf_text

from tfbert import checks
from tfbert.text import normalizer_table
from tfbert.text import vocab as vocab_lib

MAX_CHARACTERS_PER_WORD = 200  # as tokenization.py has it
MAX_BYTES_PER_WORD = 4 * MAX_CHARACTERS_PER_WORD  # no UTF-8 character has more than 4
MAX_BYTES_PER_PIECE = 256  # what the op can store
LITERAL = re.compile(r"\[[A-Za-z0-9]+\]")
# Private-use characters, which no clean text has. The first stands for [MASK] in the table of wordpieces, and in texts
# of servers; where a user has written it, the second takes its place.
MARK, NO_MARK = "\ue000", "\ue001"
# \C is any byte, as there may be some that are not UTF-8; a word that holds one of those is [UNK] however long it is.
LONG_RUN = rf"\C*[^ ]{{{MAX_CHARACTERS_PER_WORD + 1}}}\C*"


class Tokens(NamedTuple):
    """Wordpieces of a batch of texts, each a RaggedTensor [B, (T)].

    Attributes:
        ids: int32, places in the vocabulary.
        word_starts: bool, whether the piece begins a word (it does not begin with "##").
        starts: int32, the byte of the given text at which the piece begins.
        ends: int32, the byte at which it ends (exclusive). Characters that the tokenizer deletes, such as
            a combining accent, belong to the piece before them; a piece that is part of a character (a
            Hangul letter of a syllable) has the whole character.
    """

    ids: tf.RaggedTensor
    word_starts: tf.RaggedTensor
    starts: tf.RaggedTensor
    ends: tf.RaggedTensor


class Tokenizer(tf.Module):
    """Splits text into wordpieces as BERT does.

    1. Clean: NUL, U+FFFD, control, format and private-use characters are deleted, white space becomes a
       space.
    2. If `vocab.do_lower_case`: lower-case, decompose (NFD), strip accents.
    3. Split at white space, and around each punctuation mark and CJK ideograph.
    4. Greedy longest match from the left; a word that cannot be spelt, or has more than 200 characters, is
       one [UNK].

    Text that spells a special token, "[MASK]" say, is ordinary text unless the call asks for it: no user can
    smuggle a [SEP] into the model.

    Differences from the reference that remain. Against Hugging Face's BertNormalizer, BertPreTokenizer and
    WordPiece (tests/test_tokenizer.py counts them over every assigned code point):
      * U+2B820..U+2CEAF is CJK here and in tokenization.py; Hugging Face begins it 256 code points late,
        at U+2B920 instead of U+2B820.
      * Characters that are newer than Hugging Face's tables, or were reclassified since, are what Unicode
        says: punctuation is split off, marks and format characters are removed. They are 504 uncased and 119
        cased of the 144,762 that Unicode 14 assigns.
    Against google-research/bert's tokenization.py besides:
      * A capital sigma at the end of a word becomes σ, as with Hugging Face, and not ς: the op sees one
        character at a time.
      * Private-use characters are deleted, as with Hugging Face; tokenization.py keeps them.
      * A word that holds a byte that is not UTF-8 is one [UNK]; tokenization.py drops such bytes.
      * Two combining marks that are no accents (Mc with a combining class, in musical notation) keep the
        order that they came in.
    Case, decomposition and categories are those of the running Python's `unicodedata`, punctuation that of
    tensorflow-text's ICU, so characters of the latest Unicode versions can differ between installations.
    """

    def __init__(self, vocab: vocab_lib.Vocab):
        """Builds the tables of the two ops, in about a second for 30,000 entries.

        Args:
            vocab: A `Vocab`.

        Raises:
            InputError: an entry is longer than the op can store.
        """
        super().__init__(name="tokenizer")
        self.vocab = vocab
        bare = [t.removeprefix(vocab_lib.SUFFIX) or t for t in vocab.tokens]
        with tf.init_scope():  # eager constants, whatever graph is being built around this
            normalizer = np.frombuffer(normalizer_table.build(vocab.do_lower_case), np.uint8)
            self._normalizer = tf_text.FastBertNormalizer(model_buffer=tf.constant(normalizer))
            self._wordpiece = tf_text.FastWordpieceTokenizer(
                vocab=_matchable(vocab.tokens),
                max_bytes_per_word=MAX_BYTES_PER_WORD,
                token_out_type=tf.int32,
                unknown_token=vocab_lib.UNK,
            )
            self._is_start = tf.constant([t == b for t, b in zip(vocab.tokens, bare)])  # [V]
            self._characters = tf.constant([len(b) for b in bare], tf.int32)  # [V]

    def tokenize(self, text: tf.Tensor, special_tokens: tuple = (), for_server: bool = False) -> tf.RaggedTensor:
        """Splits a batch of texts into wordpieces.

        Args:
            text: string [B].
            special_tokens: Entries of the vocabulary such as "[MASK]" that are recognised in the text where
                they stand exactly so; all others are ordinary text.
            for_server: Whether there may be operations that TFLite lacks. The same ids come from a third of the
                operations then, which are most of the time of a short text to a small model.

        Returns:
            Ids, int32 RaggedTensor [B, (T)].

        Raises:
            InputError: a special token is not of the form "[LETTERS]", or not in the vocabulary.
        """
        if for_server and self._checked(special_tokens) in ((), (vocab_lib.MASK,)):
            return self._tokenize_for_server(text, bool(special_tokens))
        if special_tokens:
            return self.tokenize_with_offsets(text, special_tokens).ids
        splits, ids, *_ = self._split(self._normalizer.normalize(text))
        return _ragged(splits, ids)

    def _tokenize_for_server(self, text, masked):
        """`tokenize` with regular expressions; `masked` says whether [MASK] is recognised."""
        normalizer = self._normalizer
        if masked:
            normalizer = _marking_normalizer(self.vocab.do_lower_case)
            text = tf.strings.regex_replace(text, MARK, NO_MARK)
            text = tf.strings.regex_replace(text, re.escape(vocab_lib.MASK), f" {MARK} ")
        normalized = normalizer.normalize(text)

        def words_of_any_length():
            return self._split(normalized)[:2]

        def short_words():
            ids = self._wordpiece.tokenize(normalized)
            return ids.row_splits, ids.flat_values

        some = tf.reduce_any(tf.strings.regex_full_match(normalized, LONG_RUN))
        return _ragged(*tf.cond(some, words_of_any_length, short_words))

    def tokenize_with_offsets(self, text: tf.Tensor, special_tokens: tuple = ()) -> Tokens:
        """Splits a batch of texts into wordpieces that know where they come from.

        Args:
            text: string [B].
            special_tokens: As of `tokenize`.

        Returns:
            `Tokens`.

        Raises:
            InputError: as of `tokenize`.
        """
        special_tokens = self._checked(special_tokens)
        normalized, origins = self._normalizer.normalize_with_offsets(text)
        splits, ids, begins, starts, ends = self._split(normalized)
        row = _row_of(splits, ids)
        first = tf.gather(tf.cast(origins.row_splits, tf.int32), row)  # of the row's origins
        starts, ends = _to_source(origins.flat_values, first + starts, first + ends)
        if special_tokens:
            bases = _row_bases(origins)
            # One longer than the line: of no texts at all it is empty, and TFLite divides by its length.
            line = tf.gather(bases, row), tf.reshape(bases[-1] + 1, [1])
            found = _find_literals(text, special_tokens, bases)
            pieces = splits, ids, begins, starts, ends
            splits, ids, begins, starts, ends = self._recognise(special_tokens, found, line, *pieces)
        return Tokens(*(_ragged(splits, x) for x in (ids, begins, starts, ends)))

    def _checked(self, special_tokens):
        for token in special_tokens:
            checks.require(
                LITERAL.fullmatch(token) and token in self.vocab.ids,
                "special_tokens must be entries of the vocabulary of the form [LETTERS]",
                repr(token),
            )
        return tuple(dict.fromkeys(special_tokens))

    def _split(self, normalized):
        """Splits clean text.

        Args:
            normalized: string [B].

        Returns:
            splits int64 [B + 1], and for each of the T pieces of the batch: ids int32, begins bool, starts
            and ends int32 in bytes of the clean text.
        """
        ids, starts, ends = self._wordpiece.tokenize_with_offsets(normalized)
        begins = tf.gather(self._is_start, ids.flat_values)
        starts, ends = (tf.cast(x.flat_values, tf.int32) for x in (starts, ends))
        pieces = ids.row_splits, ids.flat_values, begins, starts, ends
        bounds = tf.cast(tf.where(begins)[:, 0], tf.int32)
        bounds = tf.concat([bounds, [tf.size(begins)]], 0)  # [W + 1], the pieces at which words begin
        # The op's own limit counts bytes, of which a word has at least as many as characters. Hardly any
        # word has so many, and to look for one costs a fraction of counting characters.
        size = tf.gather(ends, bounds[1:] - 1) - tf.gather(starts, bounds[:-1])  # [W]
        some = tf.reduce_any(size > MAX_CHARACTERS_PER_WORD)
        return tf.cond(some, lambda: self._limit_words(bounds, *pieces), lambda: pieces)

    def _limit_words(self, bounds, splits, ids, begins, starts, ends):
        """Turns each word of too many characters into one [UNK].

        A piece matches itself and nothing else, so the characters of a word are those of its pieces.

        Args:
            bounds: int32 [W + 1], the pieces at which words begin, and T.
            splits: As all that follow, what `_split` returns.
            ids: int32 [T].
            begins: bool [T].
            starts: int32 [T].
            ends: int32 [T].

        Returns:
            splits, ids, begins, starts, ends of the pieces that are left.
        """
        characters = _sums_before(tf.gather(self._characters, ids))  # [T + 1]
        characters = tf.gather(characters, bounds)
        too_long = characters[1:] - characters[:-1] > MAX_CHARACTERS_PER_WORD  # [W]
        word = tf.cumsum(tf.cast(begins, tf.int32)) - 1  # [T]
        unknown = tf.gather(too_long, word)
        last = tf.where(unknown, tf.gather(bounds, word + 1) - 1, tf.range(tf.size(ids)))
        ids = tf.where(unknown, self.vocab.unk_id, ids)
        return _keep(begins | ~unknown, splits, ids, begins, starts, tf.gather(ends, last))

    def _recognise(self, special_tokens, found, line, splits, ids, begins, starts, ends):
        """Puts special tokens where the text spells them.

        Brackets are words of their own, so the pieces of a literal are exactly those that begin inside it.

        Args:
            special_tokens: Literals to look for.
            found: Places and numbers, as of `_find_literals`.
            line: int32 [T], where the row of each piece begins on the line of bytes, and [1], its length.
            splits: int64 [B + 1], of the pieces that follow.
            ids: int32 [T].
            begins: bool [T].
            starts: int32 [T], in bytes of the text.
            ends: int32 [T].

        Returns:
            splits, ids, begins, starts, ends of the pieces that are left.
        """
        places, numbers = found
        bases, size = line
        token_ids = tf.gather(tf.constant([self.vocab.ids[t] for t in special_tokens]), numbers)
        lengths = tf.gather(tf.constant([len(t) for t in special_tokens]), numbers)
        # On the line of bytes: 1 + id inside of a literal and 0 elsewhere; its length where it begins.
        change = tf.concat([token_ids + 1, -token_ids - 1], 0)
        inside = tf.cumsum(tf.scatter_nd(tf.concat([places, places + lengths], 0)[:, tf.newaxis], change, size))
        length = tf.scatter_nd(places[:, tf.newaxis], lengths, size)

        inside = tf.gather(inside, bases + starts) - 1  # [T], -1 outside
        length = tf.gather(length, bases + starts)
        ids = tf.where(inside >= 0, inside, ids)
        ends = tf.where(inside >= 0, starts + length, ends)
        return _keep((inside < 0) | (length > 0), splits, ids, begins, starts, ends)


def _matchable(tokens):
    """The entries as the op may match them.

    The op would match an entry with white space across words, and cannot store some control characters; no
    clean text has either inside of a word. Nor does an entry match that has more characters than a word may
    have. Such entries keep their ids under names that no text has: the op matches nothing of several
    characters that holds punctuation.
    """
    tokens = list(tokens)
    for i, token in enumerate(tokens):
        bare = token.removeprefix(vocab_lib.SUFFIX)
        clean = (token.isprintable() and " " not in token) or all(map(normalizer_table.is_kept, token))
        if not clean or len(bare) > MAX_CHARACTERS_PER_WORD:
            tokens[i] = f"[never {i}]"
            continue
        if token == vocab_lib.MASK:
            tokens[i] = MARK
        size = len(bare.encode("utf-8", "surrogatepass"))
        checks.require(
            size <= MAX_BYTES_PER_PIECE,
            f"vocabulary entries must have at most {MAX_BYTES_PER_PIECE} bytes",
            f"{size} bytes on line {i + 1}: {token[:40]}...",
        )
    return tokens


def _ragged(splits, values):
    return tf.RaggedTensor.from_row_splits(values, splits, validate=False)


def _sums_before(values):
    """int32 [T] -> [T + 1]: the sum of all values before each place, and of all."""
    return tf.concat([[0], tf.cumsum(values)], 0)


def _row_of(splits, values):
    """The row of each value: int32 [T]. (RaggedTensor.value_rowids has no counterpart in TFLite.)"""
    inner = tf.cast(splits[1:-1], tf.int32)[:, tf.newaxis]
    marks = tf.scatter_nd(inner, tf.ones_like(inner[:, 0]), [tf.size(values) + 1])
    return tf.cumsum(marks)[:-1]


def _keep(keep, splits, *columns):
    """Drops the values where `keep` [T] is False: the new splits, then each of the columns [T]."""
    kept = tf.where(keep)[:, 0]
    splits = tf.gather(_sums_before(tf.cast(keep, tf.int32)), splits)
    return tf.cast(splits, tf.int64), *(tf.gather(c, kept) for c in columns)


def _to_source(origins, starts, ends):
    """Offsets into the normalised text as offsets into the given one.

    Args:
        origins: int64 [N], the given byte for each normalised byte, and one at the end of each row. All
            bytes of a character that was changed have the byte at which that character begins.
        starts: int32 [T], places in `origins`.
        ends: int32 [T], exclusive.

    Returns:
        starts and ends, int32 [T].
    """
    after, last = tf.gather(origins, ends), tf.gather(origins, ends - 1)

    def next_characters():
        """What comes after the character that holds the last byte, where the piece ends inside of it."""
        changes = origins != tf.concat([tf.constant([-1], tf.int64), origins], 0)[:-1]
        character = tf.cumsum(tf.cast(changes, tf.int32)) - 1  # [N], counted over the batch
        begin = tf.gather(origins, tf.where(changes)[:, 0])  # of each character
        return tf.gather(begin, tf.gather(character, ends - 1) + 1)

    after = tf.cond(tf.reduce_any(after == last), next_characters, lambda: after)
    return tf.cast(tf.gather(origins, starts), tf.int32), tf.cast(after, tf.int32)


def _row_bases(origins):
    """Where each text begins when all are laid on one line with a byte between: int32 [B + 1]."""
    lengths = tf.gather(origins.flat_values, origins.row_splits[1:] - 1)
    return _sums_before(tf.cast(lengths, tf.int32) + 1)


@functools.cache
def _marking_normalizer(lower_case):
    """Cleans texts as a `Tokenizer`'s normalizer does, but that MARK stays."""
    with tf.init_scope():
        table = np.frombuffer(normalizer_table.build(lower_case, MARK), np.uint8)
        return tf_text.FastBertNormalizer(model_buffer=tf.constant(table))


@functools.cache
def _literal_tokenizer(special_tokens):
    """Knows "[" as 1, "]" as 2 and the letters of special token i as 3 + i."""
    with tf.init_scope():
        names = [t[1:-1] for t in special_tokens]
        return tf_text.FastWordpieceTokenizer(vocab=[vocab_lib.UNK, "[", "]", *names], token_out_type=tf.int32)


def _find_literals(text, special_tokens, bases):
    """Where the text spells special tokens.

    Args:
        text: string [B].
        special_tokens: The literals.
        bases: int32 [B + 1], as of `_row_bases`.

    Returns:
        places: int32 [M], where they begin on the line of bytes.
        numbers: int32 [M], which of `special_tokens`.
    """
    pieces, starts, ends = _literal_tokenizer(special_tokens).tokenize_with_offsets(text)
    base = tf.gather(bases, _row_of(pieces.row_splits, pieces.flat_values))
    padding = [[0, 2]]
    kinds = tf.pad(pieces.flat_values, padding)
    starts = tf.pad(base + tf.cast(starts.flat_values, tf.int32), padding)
    ends = tf.pad(base + tf.cast(ends.flat_values, tf.int32), padding)
    # Three pieces that touch; those of neighbouring rows have a byte between.
    touch = starts[1:] == ends[:-1]
    found = (kinds[:-2] == 1) & (kinds[1:-1] > 2) & (kinds[2:] == 2) & touch[:-1] & touch[1:]
    at = tf.where(found)[:, 0]
    return tf.gather(starts, at), tf.gather(kinds, at + 1) - 3
