"""Questions on texts, read from JSON as SQuAD 1.1 and 2.0 have it (Rajpurkar et al. 2016, 2018)."""

import dataclasses
import json
from typing import NamedTuple

from tfbert import checks


class Answer(NamedTuple):
    """An answer as a person gave it.

    Attributes:
        text: Its words.
        start: Byte of the context (UTF-8) at which it begins; -1 if it does not stand where the file says.
    """

    text: str
    start: int


@dataclasses.dataclass(frozen=True)
class Question:
    """One question on one text.

    Attributes:
        id: By which answers are told apart.
        question: The question.
        context: The text that answers it. Questions on one paragraph share the same string.
        answers: What people answered, () if the text has no answer; None if the file does not say.
        where: "dev.json, Normans, question 56ddde6b".
    """

    id: str
    question: str
    context: str
    answers: tuple[Answer, ...] | None
    where: str

    @property
    def label(self):
        """As every example has it: None if it is not known."""
        return self.answers


def _check(ok, must, got, where, do=None):
    checks.require(ok, must, got, where, do)


def _get(content, name, kind, where, default=None):
    """A value of a JSON object, of one type; `default` where there is none, if it is not None."""
    words = {str: "a string", list: "a list", int: "a whole number", bool: "true or false"}[kind]
    _check(isinstance(content, dict), "every entry must be a JSON object", _brief(content), where)
    if name not in content and default is not None:
        return default
    _check(name in content, f"every entry must have {name!r}, {words}", f"only {sorted(content)}", where)
    value = content[name]
    good = isinstance(value, kind) and (kind is not int or not isinstance(value, bool))
    _check(good, f"{name!r} must be {words}", _brief(value), where)
    if kind is str:
        _check(_is_text(value), f"{name!r} must be Unicode text", "half of a surrogate pair", where)
    return value


def _is_text(value):
    return value.isascii() or not any("\ud800" <= c <= "\udfff" for c in value)


def _brief(value):
    """A value as an error shows it; lists and objects by their size, since they may be large and deep."""
    if isinstance(value, list | dict):
        return f"{'a list' if isinstance(value, list) else 'an object'} of {len(value)}"
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _load(path):
    try:
        with open(path, encoding="utf-8-sig") as f:
            content = json.load(f)
    except OSError as e:
        raise checks.error("a file of questions must be readable", e.strerror, path) from e
    except json.JSONDecodeError as e:
        raise checks.error(
            "a file of questions must hold JSON", e.msg, f"{path}, line {e.lineno}, column {e.colno}"
        ) from e
    except (ValueError, RecursionError) as e:  # not UTF-8, an endless number, brackets in thousands
        raise checks.error("a file of questions must hold JSON", str(e), path) from e
    _check(
        isinstance(content, dict) and isinstance(content.get("data"), list),
        'a file of questions must be a JSON object with a list "data", as SQuAD has it',
        _brief(content),
        path,
    )
    return content["data"]


def _answer(content, raw, bounds, where, skip_bad):
    """The `Answer` in a JSON object; `bounds` are the bytes at which the characters of the context begin."""
    text, start = _get(raw, "text", str, where), _get(raw, "answer_start", int, where)
    _check(text.strip(), "an answer must have text", repr(text), where)
    if 0 <= start <= len(content) - len(text) and content.startswith(text, start):
        return Answer(text, bounds(start))
    elsewhere = content.find(text)
    _check(
        skip_bad,
        "an answer must stand in its context at answer_start",
        f"{_brief(text)} at {start}, where the context has {_brief(content[max(start, 0) :][: len(text)])}"
        + ("" if elsewhere < 0 else f"; it stands at {elsewhere}"),
        where,
        "Mend the file, or give --skip_bad_rows to leave such questions out of training",
    )
    return Answer(text, -1)


def _answers(raw, context, bounds, where, with_negative, skip_bad):
    """The answers of a question, or None if the file does not say."""
    impossible = _get(raw, "is_impossible", bool, where, default=False) if "is_impossible" in raw else None
    if "answers" not in raw and not impossible:
        return None
    answers = _get(raw, "answers", list, where, default=[])
    if not with_negative:
        _check(
            answers and not impossible,
            "every question must have an answer in SQuAD 1.1",
            "none",
            where,
            "Give --version_2_with_negative if questions may have none, as in SQuAD 2.0",
        )
    _check(
        impossible is None or impossible == (not answers),
        "a question must have answers if and only if it is not is_impossible",
        f"is_impossible={impossible} and {len(answers)} answers",
        where,
    )
    return tuple(_answer(context, answer, bounds, where, skip_bad) for answer in answers)


def _byte_of_character(context):
    """A function from a character's place to the byte at which it begins."""
    return (lambda i: i) if context.isascii() else (lambda i: len(context[:i].encode("utf-8")))


def read(path, with_negative=False, skip_bad=False):
    """Reads the questions of a file.

    Args:
        path: Of a JSON file in SQuAD's layout.
        with_negative: Whether questions may have no answer, as in SQuAD 2.0.
        skip_bad: Whether answers that do not stand where the file says are taken, with start -1, and no error.

    Returns:
        A list of `Question`, in the order of the file; either all of them have `answers` or none has.

    Raises:
        InputError: it is no such file; it says the file, the title, the question's id and what is wrong.
    """
    questions, seen = [], {}
    for a, article in enumerate(_load(path)):
        where = f"{path}, article {a + 1}"
        title = _get(article, "title", str, where, default=f"article {a + 1}")
        for p, paragraph in enumerate(_get(article, "paragraphs", list, where)):
            where = f"{path}, {title}, paragraph {p + 1}"
            context = _get(paragraph, "context", str, where)
            bounds = _byte_of_character(context)
            for i, raw in enumerate(_get(paragraph, "qas", list, where)):
                id_ = _get(raw, "id", str, f"{where}, question {i + 1}")
                at = f"{path}, {title}, question {id_}"
                _check(id_ not in seen, "every id must be of one question", f"that of {seen.get(id_)} again", at)
                seen[id_] = at
                text = _get(raw, "question", str, at)
                answers = _answers(raw, context, bounds, at, with_negative, skip_bad)
                questions.append(Question(id_, text, context, answers, at))
    _check(questions, "a file of questions must hold some", "none", path)
    first = questions[0]
    for q in questions:
        _check(
            (q.answers is None) == (first.answers is None),
            "all questions of a file must have answers, or none of them",
            f"{'none' if q.answers is None else 'some'}, unlike the first one",
            q.where,
        )
    return questions
