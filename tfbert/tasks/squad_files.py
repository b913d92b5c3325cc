"""Questions on texts, read from JSON as SQuAD 1.1 and 2.0 have it (Rajpurkar et al. 2016, 2018)."""

import dataclasses
import json
from typing import NamedTuple

from tfbert import checks
from tfbert.tasks import lines, tables


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
    _check(isinstance(content, dict), "every entry must be a JSON object", lines.brief(content), where)
    if name not in content and default is not None:
        return default
    must = f"every entry must have {name!r}, {words}"
    _check(name in content, must, f"only {lines.names(sorted(content))}", where)
    value = content[name]
    good = isinstance(value, kind) and (kind is not int or not isinstance(value, bool))
    _check(good, f"{name!r} must be {words}", lines.brief(value), where)
    if kind is str:
        _check(_is_text(value), f"{name!r} must be Unicode text", "half of a surrogate pair", where)
    return value


def _is_text(value):
    return value.isascii() or not any("\ud800" <= c <= "\udfff" for c in value)


def _called(name):
    """A title or an id, as part of a place."""
    return name if len(name) <= 60 and name.isprintable() else lines.brief(name)


def _load(path):
    def texts():
        for _, line, fault in lines.read(path, "a set of questions"):
            if fault:
                raise fault
            yield line

    try:
        content = lines.parse_json("\n".join(texts()))
    except json.JSONDecodeError as e:
        raise checks.error(
            "a file of questions must hold JSON", e.msg, f"{path}, line {e.lineno}, column {e.colno}"
        ) from e
    except checks.InputError:
        raise
    except ValueError as e:
        raise checks.error("a file of questions must hold JSON", str(e), path) from e
    _check(
        isinstance(content, dict) and isinstance(content.get("data"), list),
        'a file of questions must be a JSON object with a list "data", as SQuAD has it',
        lines.brief(content),
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
        f"{lines.brief(text)} at {start}, where the context has {lines.brief(content[max(start, 0) :][: len(text)])}"
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
        title = _called(_get(article, "title", str, where, default=f"article {a}"))
        for p, paragraph in enumerate(_get(article, "paragraphs", list, where), 1):
            where = f"{path}, {title}, paragraph {p}"
            context = _get(paragraph, "context", str, where)
            for i, raw in enumerate(_get(paragraph, "qas", list, where), 1):
                yield f"{where}, question {i}", title, context, raw


def _of_dataset(path, data_dir):
    """The same of a dataset with the features that TensorFlow Datasets gives SQuAD."""
    for where, row in tables.read(path, tfds_data_dir=data_dir):
        if isinstance(row, checks.InputError):
            yield where, "no title", "", row
            continue
        context, title = _get(row, "context", str, where), _get(row, "title", str, where, default="no title")
        answers = row.get("answers")
        if isinstance(answers, dict):
            columns = (_get(answers, name, list, where) for name in ("text", "answer_start"))
            row["answers"] = [{"text": text, "answer_start": start} for text, start in zip(*columns, strict=True)]
        yield where, _called(title), context, row


def _question(where, title, context, raw, path, seen, with_negative, skip_bad):
    """The `Question` of a JSON object; `seen` are the places of the ids before it."""
    if isinstance(raw, checks.InputError):
        raise raw
    id_ = _get(raw, "id", str, where)
    at = f"{path}, {title}, question {_called(id_)}"
    _check(id_ not in seen, "every id must be of one question", f"that of {seen.get(id_)} again", at)
    question = _get(raw, "question", str, at)
    _check(question.strip(), "a question must have text", repr(question), at)
    _check(context.strip(), "a question must have a context", lines.brief(context), at)
    found = Question(id_, question, context, _answers(raw, context, at, with_negative, skip_bad), at)
    seen[id_] = at
    return found


def read(path, with_negative=False, skip_bad=False, tfds_data_dir=""):
    """Reads the questions of a file.

    Args:
        path: Of a JSON file in SQuAD's layout, plain or .gz; or `tfds:NAME:SPLIT`, such as `tfds:squad/v1.1:train`.
        with_negative: Whether questions may have no answer, as in SQuAD 2.0.
        skip_bad: Whether answers that do not stand where the file says are taken, with start -1, and no error; and
            entries that are no questions are left out: how many, and the first of them, is printed.
        tfds_data_dir: See `tables.read`.

    Returns:
        A list of `Question`, in the order of the file; either all of them have `answers` or none has.

    Raises:
        InputError: it is no such file; it says the file, the title, the question's id and what is wrong.
    """
    questions, seen, bad = [], {}, []
    of_dataset = path.startswith(tables.TFDS)
    for found in _of_dataset(path, tfds_data_dir) if of_dataset else _of_file(path):
        try:
            question = _question(*found, path, seen, with_negative, skip_bad)
            _check(
                not questions or (question.answers is None) == (questions[0].answers is None),
                "all questions of a file must have answers, or none of them",
                f"{'none' if question.answers is None else 'some'}, unlike the first one",
                question.where,
            )
            questions.append(question)
        except checks.InputError as e:
            if not skip_bad:
                raise
            bad.append(e)
    _check(questions, "a file of questions must hold some", f"{len(bad)} that are none" if bad else "none", path)
    if bad:
        print(f"{path}: {len(bad)} entries left out, {len(questions)} questions used. The first: {bad[0]}")
    return questions
