"""JSON lines: one object a line, one of whose values is the text of a document."""

import json

from data_prep import text_files, texts
from tfbert import checks

MAX_JSON = 1 << 26  # bytes of a line, which has to be parsed as a whole


def documents(config, span, counts):
    """The documents of a span: one a line that is not blank, and begins in the span.

    Args:
        config: A `CorpusConfig`; of it `text_feature` ("a.b" is the key b in the object under a) and `errors`.
        span: A `Span` of a file.
        counts: A Counter; gets lines_cut, characters_replaced and texts_replaced.

    Yields:
        (where, list of the paragraphs of the text as UTF-8 bytes, none empty; no text is null, too).

    Raises:
        InputError: the file cannot be read, or a line is no JSON object with such a text.
    """
    for run in text_files.runs(span, MAX_JSON):
        if run.is_beyond:
            return
        checks.require(
            not run.is_cut,
            f"a line of JSON must be at most {MAX_JSON >> 20} MB",
            "a longer one",
            f"{span.name}, line {text_files.line_at(span.name, run.begin)}",
            "Split the document",
        )
        raw, lines = text_files.lines(run, span.name, config.errors)
        where_is = text_files.place(run, raw, span.name)
        for i, line in enumerate(lines):
            if not line:
                continue
            where = where_is(i)
            try:
                text = _text(config, line, where, counts)
            except checks.InputError:
                if run.line:
                    raise
                # Only now is it worth a pass over the file to name the line.
                number = text_files.line_at(span.name, run.begin) + i
                _text(config, line, f"{span.name}, line {number}", counts)
                raise
            yield where, texts.paragraphs(text, counts)


def _text(config, line, where, counts):
    """The text of one line, as UTF-8."""
    if config.errors == "replace":
        line = texts.replaced(line, counts)
    try:
        value = json.loads(line.decode())
    except (json.JSONDecodeError, RecursionError) as e:
        raise checks.error("a line must be JSON", str(e), where, "Pass --source=text for plain text") from e
    path = []
    for key in config.text_feature.split("."):
        if not isinstance(value, dict) or key not in value:
            raise _no_text(config, value, ".".join(path), where)
        value = value[key]
        path.append(key)
    if not (value is None or isinstance(value, str)):
        raise checks.error(f"{config.text_feature} must be a string or null", type(value).__name__, where)
    return texts.of_str(value or "", config.errors, where, counts)


def _no_text(config, value, path, where):
    """The `InputError` for a value, found at a path of keys, that has not the next key."""
    if not isinstance(value, dict):
        return checks.error(f"{path or 'a line'} must be a JSON object", type(value).__name__, where)
    return checks.error(
        "text_feature must be a key of every line",
        f"text_feature={config.text_feature!r}, and {path or 'the line'} has {sorted(value)[:20]}",
        where,
    )
