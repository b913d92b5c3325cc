"""What all readers begin with: lines of text files, plain or .gz, each with its number; JSON; values in errors."""

import gzip
import json
import re
import zlib
from typing import NamedTuple

from tfbert import checks

CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")  # control characters and line breaks
_SHOWN = 60  # characters of a value in an error
_DIGITS = 300  # of a whole number in JSON; longer ones are as floats, since int() and float() of them can fail


class Twice(NamedTuple):
    """What stands for a JSON object that has a name twice: Python would take one of its values, and nobody knew."""

    name: str


def read(path, what):
    """The lines of a file.

    Args:
        path: Of a text file in UTF-8; compressed, if it ends in .gz. A byte order mark at its beginning is no text.
        what: What the file is, for errors: "a table".

    Yields:
        (number from 1, the line without its end, None); or, for a line that is no text though those after it may be,
        (number, what can be read of it, an `InputError`). Lines end in \\n or \\r\\n.

    Raises:
        InputError: the file is not there, or is not whole.
    """
    number = 0
    try:
        with gzip.open(path) if path.endswith(".gz") else open(path, "rb") as f:
            for number, raw in enumerate(f, 1):
                raw = raw.removesuffix(b"\n").removesuffix(b"\r")
                raw = raw.removeprefix(b"\xef\xbb\xbf") if number == 1 else raw
                fault = _fault(raw, path, number)
                yield number, raw.decode("utf-8", "replace").replace("\0", "\ufffd") if fault else raw.decode(), fault
    except (OSError, EOFError, zlib.error) as e:
        reason = getattr(e, "strerror", None) or str(e)
        where = f"{path}, line {number + 1}" if number else path
        raise checks.error(f"{what} must be a file that can be read", reason, where) from e


def _fault(raw, path, number):
    """What is wrong with the bytes of a line, an `InputError`; or None."""
    if raw.isascii() and b"\0" not in raw:
        return None
    where = f"{path}, line {number}"
    if b"\0" in raw:
        return checks.error("text must have no NUL bytes", f"one at byte {raw.index(0)} of the line", where)
    try:
        raw.decode("utf-8")
    except UnicodeDecodeError as e:
        got = f"byte {raw[e.start]:#04x} at byte {e.start} of the line"
        return checks.error("text must be UTF-8", got, where)
    return None


def parse_json(text):
    """A value as `json.loads` has it, but that objects with a name twice are `Twice`, and no number is beyond float.

    Raises:
        ValueError: it is no JSON (`json.JSONDecodeError`, which knows the place), or brackets are nested in thousands.
    """
    try:
        return json.loads(text, object_pairs_hook=_object, parse_int=_whole)
    except RecursionError as e:
        raise ValueError("brackets that are nested too deep") from e


def _object(pairs):
    made = dict(pairs)
    if len(made) == len(pairs):
        return made
    names = [name for name, _ in pairs]
    return Twice(next(name for i, name in enumerate(names) if name in names[:i]))


def _whole(digits):
    return int(digits) if len(digits) <= _DIGITS else float(digits)


def brief(value):
    """A value as an error shows it: short, and of lists and objects no more than their size, since they may be deep."""
    if isinstance(value, Twice):
        return f"an object with {brief(value.name)} more than once"
    if isinstance(value, list | dict):
        return f"{'a list' if isinstance(value, list) else 'an object'} of {len(value)}"
    if isinstance(value, str) and len(value) > _SHOWN:
        return f"{value[:_SHOWN]!r}... ({len(value):,} characters)"
    text = repr(value)
    return text if len(text) <= 2 * _SHOWN else f"{text[:_SHOWN]}..."


def names(values):
    """Names of columns or labels, as an error shows them: the first twenty."""
    values = list(values)
    shown = ", ".join(map(brief, values[:20]))
    return f"[{shown}]" if len(values) <= 20 else f"[{shown}, ...] ({len(values):,})"
