"""BERT's text clean-up as a table from code points to strings, in the format that FastBertNormalize reads.

The op of tensorflow-text replaces every character by what a table holds for it. Its own table lower-cases
with NFKC_Casefold ("ﬁ" becomes "fi", "½" becomes "1⁄2") and turns control characters into spaces; BERT's
reference tokenization does neither. So the table is made here, from the Unicode data of the running Python.

The table is a Darts-clone double array: units of 32 bits, in which a unit at position p holds
  bits 0-7    the label, the byte by which it is reached; a unit with bit 31 set is a value instead,
  bit  8      whether a value hangs on it,
  bits 10-30  an offset: the child by byte b lies at p ^ offset ^ b, the value at p ^ offset.
A double array is usually packed by search. UTF-8 spares the search: every byte after the first lies in
80..BF, so the children of a unit fit one aligned block of 64 units. Equal blocks are stored once, which is
what makes the table small: a unit that nothing changes leads nowhere, and all 137,000 private-use
characters of planes 15 and 16 share one block.
"""

import functools
import unicodedata

import flatbuffers
import numpy as np

CODE_POINTS = 0x110000
CONTINUATION = 64  # values of a byte of UTF-8 after the first
ROOT_BLOCK = 256  # where the children of unit 0 lie, by their first byte
FIRST_VALUE = 512

# A value says how a character is written: bit 30 "differs from itself", bits 6-29 where its string lies in
# the pool, bits 0-5 the string's bytes.
DIFFERS = 1 << 30
LENGTH_BITS = 6
HAS_VALUE, IS_VALUE = 1 << 8, 1 << 31
OFFSET_SHIFT, OFFSET_BITS = 10, 21

SPACES = ("Zs", "Zl", "Zp")
DELETED = ("Cc", "Cf", "Co")


def normal_form(char, category, lower_case):
    """What BERT's reference makes of one character, before text is split into words.

    Args:
        char: One character.
        category: Its general category in Unicode.
        lower_case: Whether it is also lower-cased, decomposed (NFD) and stripped of its marks (Mn).

    Returns:
        "" for what is deleted (NUL, U+FFFD, control, format and private-use characters), " " for white
        space, else the character in its normal form.
    """
    if char in "\t\n\r" or category in SPACES:
        return " "
    if char == "\ufffd" or category in DELETED:
        return ""
    if not lower_case:
        return char
    return "".join(c for c in unicodedata.normalize("NFD", char.lower()) if unicodedata.category(c) != "Mn")


def is_kept(char):
    """Whether a character is neither deleted nor white space."""
    return normal_form(char, unicodedata.category(char), lower_case=False) == char != " "


def _values(lower_case, kept):
    """The value of every code point, 0 where it stays as it is, and the pool of strings: uint32 [N], bytes."""
    values = np.zeros(CODE_POINTS, np.uint32)
    pool, offsets = bytearray(), {"": 0}
    for code_point, category in enumerate(map(unicodedata.category, map(chr, range(CODE_POINTS)))):
        char = chr(code_point)
        if category in ("Cn", "Cs") or char == kept:  # unassigned, surrogate
            continue
        form = normal_form(char, category, lower_case)
        if form == char:
            continue
        encoded = form.encode()
        if form not in offsets:
            offsets[form] = len(pool)
            pool += encoded
        values[code_point] = DIFFERS | offsets[form] << LENGTH_BITS | len(encoded)
    return values, bytes(pool)


class _DoubleArray:
    """Units of a double array over UTF-8, grown block by block."""

    def __init__(self, values):
        self.values = values
        distinct = np.unique(values)  # sorted; the 0 of unchanged characters is first, and its place unused
        self.place = {int(v): FIRST_VALUE + i for i, v in enumerate(distinct)}
        self.units = np.zeros(-(-(FIRST_VALUE + len(distinct)) // CONTINUATION) * CONTINUATION, np.uint32)
        self.units[FIRST_VALUE : FIRST_VALUE + len(distinct)] = distinct | IS_VALUE
        self.blocks = {}
        self._write(0, 0, ROOT_BLOCK, 0)
        for byte in range(1, 0x80):
            self._write_leaf(ROOT_BLOCK + byte, byte, byte)
        # The first byte of a character of n bytes leaves it 6 bits fewer for each byte that follows.
        for marker, end, following in ((0xC0, 0xE0, 1), (0xE0, 0xF0, 2), (0xF0, 0xF5, 3)):
            for byte in range(marker, end):
                block = self._block((byte - marker) << 6 * following, following)
                if block:
                    self._write(ROOT_BLOCK + byte, byte, block, 0x80)

    def _write(self, position, label, target, first_label, flags=0):
        """Lets the unit at `position` lead to `target`, the place of its child by the byte `first_label`."""
        offset = position ^ target ^ first_label
        if offset >> OFFSET_BITS:
            raise ValueError(f"the table must hold fewer than {1 << OFFSET_BITS} units; got {len(self.units)}.")
        self.units[position] = offset << OFFSET_SHIFT | flags | label

    def _write_leaf(self, position, label, code_point):
        value = int(self.values[code_point])
        if value:
            self._write(position, label, self.place[value], 0, HAS_VALUE)

    def _block(self, first, following):
        """The block of the 64 continuations from code point `first` on, `following` bytes before the end.

        Returns:
            Its position; 0 if it changes nothing.
        """
        span = CONTINUATION ** (following - 1)
        if first >= CODE_POINTS or not self.values[first : first + span * CONTINUATION].any():
            return 0
        code_points = range(first, first + span * CONTINUATION, span)
        if following == 1:
            key = self.values[first : first + CONTINUATION].tobytes()
        else:
            key = tuple(self._block(c, following - 1) for c in code_points)
        if key in self.blocks:
            return self.blocks[key]
        block = self.blocks[key] = len(self.units)
        self.units = np.append(self.units, np.zeros(CONTINUATION, np.uint32))
        for i, code_point in enumerate(code_points):
            if following == 1:
                self._write_leaf(block + i, 0x80 + i, code_point)
            elif key[i]:
                self._write(block + i, 0x80 + i, key[i], 0x80)
        return block


@functools.cache
def build(lower_case, kept=None):
    """The model buffer for `tf_text.FastBertNormalizer`; made once in a process, in about half a second.

    Args:
        lower_case: Whether text is lower-cased and stripped of accents.
        kept: A character that stays as it is, whatever BERT's reference makes of it.

    Returns:
        A FastBertNormalizerModel flatbuffer as bytes.
    """
    values, pool = _values(lower_case, kept)
    units = _DoubleArray(values).units
    builder = flatbuffers.Builder(4 * len(units) + len(pool) + 256)
    pool_at = builder.CreateByteVector(pool)
    units_at = builder.CreateNumpyVector(units)
    builder.StartObject(4)
    builder.PrependBoolSlot(0, lower_case, False)
    builder.PrependUOffsetTRelativeSlot(1, units_at, 0)
    # A key of the trie cannot be empty, and NUL would end it, so the value of NUL stands beside.
    builder.PrependInt32Slot(2, int(values[0]), 0)
    builder.PrependUOffsetTRelativeSlot(3, pool_at, 0)
    builder.Finish(builder.EndObject())
    return bytes(builder.Output())
