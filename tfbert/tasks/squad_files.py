"""Questions on texts, read from JSON as SQuAD 1.1 and 2.0 have it (Rajpurkar et al. 2016, 2018)."""

import dataclasses
import json
from typing import NamedTuple

from tfbert import checks
from tfbert.tasks import tables


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


def _answer(content, raw, where, skip_bad):
    """The `Answer` in a JSON object, to be found in a context."""
    text, start = _get(raw, "text", str, where), _get(raw, "answer_start", int, where)
    _check(text.strip(), "an answer must have text", repr(text), where)
    if 0 <= start <= len(content) - len(text) and content.startswith(text, start):
        return Answer(text, len(content[:start].encode("utf-8")))
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


def _answers(raw, context, where, with_negative, skip_bad):
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
    return tuple(_answer(context, answer, where, skip_bad) for answer in answers)


def _of_file(path):
    """(where it is, title, context, JSON object of a question) of each question of a file."""
    for a, article in enumerate(_load(path), 1):
        where = f"{path}, article {a}"
        title = _get(article, "title", str, where, default=f"article {a}")
        for p, paragraph in enumerate(_get(article, "paragraphs", list, where), 1):
            where = f"{path}, {title}, paragraph {p}"
            context = _get(paragraph, "context", str, where)
            for i, raw in enumerate(_get(paragraph, "qas", list, where), 1):
                yield f"{where}, question {i}", title, context, raw


def _of_dataset(path, data_dir):
    """The same of a dataset with the features that TensorFlow Datasets gives SQuAD."""
    for where, row in tables.read(path, tfds_data_dir=data_dir):
        if isinstance(row, checks.InputError):
            raise row
        context, title = _get(row, "context", str, where), _get(row, "title", str, where, default="no title")
        answers = row.pop("answers", None)
        if isinstance(answers, dict):
            texts, starts = (list(answers.get(name, ())) for name in ("text", "answer_start"))
            pairs = zip((text.decode("utf-8", "replace") for text in texts), map(int, starts), strict=True)
            row["answers"] = [{"text": text, "answer_start": start} for text, start in pairs]
        yield where, title, context, row


def read(path, with_negative=False, skip_bad=False, tfds_data_dir=""):
    """Reads the questions of a file.

    Args:
        path: Of a JSON file in SQuAD's layout; or `tfds:NAME:SPLIT`, such as `tfds:squad/v1.1:train`.
        with_negative: Whether questions may have no answer, as in SQuAD 2.0.
        skip_bad: Whether answers that do not stand where the file says are taken, with start -1, and no error.
        tfds_data_dir: See `tables.read`.

    Returns:
        A list of `Question`, in the order of the file; either all of them have `answers` or none has.

    Raises:
        InputError: it is no such file; it says the file, the title, the question's id and what is wrong.
    """
    questions, seen = [], {}
    of_dataset = path.startswith(tables.TFDS)
    for where, title, context, raw in _of_dataset(path, tfds_data_dir) if of_dataset else _of_file(path):
        id_ = _get(raw, "id", str, where)
        at = f"{path}, {title}, question {id_}"
        _check(id_ not in seen, "every id must be of one question", f"that of {seen.get(id_)} again", at)
        seen[id_] = at
        answers = _answers(raw, context, at, with_negative, skip_bad)
        questions.append(Question(id_, _get(raw, "question", str, at), context, answers, at))
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
