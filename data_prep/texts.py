"""What every source does with text: decode it, strip it, and cut what is too long to be held in memory."""

import re

from tfbert import checks

MAX_LINE = 1 << 20  # bytes of a sentence or paragraph; longer ones are cut
MAX_DOCUMENT = 1 << 24  # bytes of a document; longer ones are cut

# `str.strip` takes these for white space, too; `bytes.strip` does not.
_SEPARATORS = (b"\x1c", b"\x1d", b"\x1e", b"\x1f")
_SENTENCE_ENDS = (b". ", b"! ", b"? ")
_HALF_PAIR = re.compile("[\ud800-\udfff]")
_REPLACEMENT = "\ufffd"


def lines_of(data):
    """The lines of some text, and the same without white space at their ends, that of Unicode included.

    Args:
        data: Bytes, not necessarily UTF-8.

    Returns:
        Two lists of bytes of the same length. A line feed at the end of the text begins no further line.
    """
    raw = data.split(b"\n")
    if not raw[-1]:
        raw.pop()
    return raw, strip(raw, data)


def strip(pieces, data):
    """Pieces of some text without white space at their ends, that of Unicode included, as `str.strip` does it.

    Args:
        pieces: List of bytes, not necessarily UTF-8.
        data: The text: what is not in that is not looked for in the pieces.
    """
    pieces = [piece.strip() for piece in pieces]
    if not data.isascii() or any(separator in data for separator in _SEPARATORS):
        return [_strip_unicode(piece) for piece in pieces]
    return pieces


def _strip_unicode(piece):
    if not piece or (32 < piece[0] < 128 and 32 < piece[-1] < 128):
        return piece
    return piece.decode("utf-8", "surrogateescape").strip().encode("utf-8", "surrogateescape")


def replaced(text, counts):
    """UTF-8 with U+FFFD in place of what is not, and counted.

    Args:
        text: Bytes.
        counts: Counter; gets characters_replaced, and texts_replaced if there were any.
    """
    try:
        text.decode()
        return text
    except UnicodeDecodeError:
        new = text.decode(errors="replace")
        counts["characters_replaced"] += new.count(_REPLACEMENT) - text.count(_REPLACEMENT.encode())
        counts["texts_replaced"] += 1
        return new.encode()


def of_bytes(text, errors, where, counts):
    """A text that a source gives as bytes, as UTF-8 that is right.

    Args:
        text: Bytes.
        errors: "strict" or "replace".
        where: Where it was read, for the error.
        counts: As for `replaced`.

    Raises:
        InputError: it is not UTF-8, and `errors` is "strict".
    """
    if errors == "replace":
        return replaced(text, counts)
    try:
        text.decode()
        return text
    except UnicodeDecodeError as e:
        raise not_utf8("text", text[e.start], f"byte {e.start + 1}", where) from e


def of_str(text, errors, where, counts):
    r"""A text that a source gives as characters, as UTF-8: JSON can write half a surrogate pair, "\ud800".

    Args and errors as of `of_bytes`.
    """
    try:
        return text.encode()
    except UnicodeEncodeError as e:
        checks.require(
            errors == "replace",
            "text must be of Unicode characters",
            f"half a surrogate pair, U+{ord(text[e.start]):04X}, as character {e.start + 1}",
            where,
            "Pass --errors=replace to put U+FFFD in its place",
        )
        text, n = _HALF_PAIR.subn(_REPLACEMENT, text)
        counts["characters_replaced"] += n
        counts["texts_replaced"] += 1
        return text.encode()


def not_utf8(what, byte, place, where):
    """The `InputError` for text that is not UTF-8."""
    return checks.error(
        f"{what} must be UTF-8",
        f"byte 0x{byte:02x} at {place}",
        where,
        "Convert it, e.g. with iconv -f LATIN1 -t UTF-8, or pass --errors=replace to put U+FFFD in its place",
    )


def cut_place(text):
    """How many bytes of a text longer than MAX_LINE are its first piece.

    That ends at the last end of a sentence, if one lies in the second half, else at the last white space,
    else before the last character that does not fit.
    """
    places = [text.rfind(mark, MAX_LINE // 2, MAX_LINE) for mark in _SENTENCE_ENDS]
    if max(places) >= 0:
        return max(places) + 1
    place = max(text.rfind(white, 1, MAX_LINE) for white in (b" ", b"\t"))
    if place > 0:
        return place
    place = MAX_LINE
    while place > max(1, MAX_LINE - 3) and 0x80 <= text[place] < 0xC0:  # inside a character
        place -= 1
    return MAX_LINE if 0x80 <= text[place] < 0xC0 else place


def cut_line(text, counts):
    """The pieces of one line, none longer than MAX_LINE: [text], as a rule.

    Args:
        text: Bytes.
        counts: Counter; gets lines_cut.
    """
    if len(text) <= MAX_LINE:
        return [text]
    counts["lines_cut"] += 1
    pieces = []
    while len(text) > MAX_LINE:
        place = cut_place(text)
        pieces.append(text[:place])
        text = text[place:]
    return [*pieces, text]


def paragraphs(text, counts):
    """The lines of a UTF-8 text that hold something, stripped; long ones in pieces.

    Args:
        text: Bytes.
        counts: Counter; gets lines_cut.
    """
    if len(text) > MAX_LINE:
        text = b"\n".join(piece for line in text.split(b"\n") for piece in cut_line(line, counts))
    return [line for line in lines_of(text)[1] if line]


def cut_document(lines, counts):
    """The pieces of one document, none longer than MAX_DOCUMENT: [lines], as a rule.

    Cutting the first lines of a document cuts them where cutting all of it does, but for the last piece.

    Args:
        lines: List of bytes, none longer than MAX_LINE.
        counts: Counter; gets documents_cut, the number of cuts.
    """
    if sum(map(len, lines)) + len(lines) <= MAX_DOCUMENT:
        return [lines]
    pieces, size = [[]], 0
    for line in lines:
        size += len(line) + 1
        if size > MAX_DOCUMENT and pieces[-1]:
            counts["documents_cut"] += 1
            pieces.append([])
            size = len(line) + 1
        pieces[-1].append(line)
    return pieces
