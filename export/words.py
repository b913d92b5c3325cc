"""Parity of exported taggers and of exported question answering: the graph against rows in memory.

What the graph is compared with takes the other road: rows made in NumPy, decoded in float64 (`tfbert.tasks.tags` and
`tfbert.tasks.answers`); the two share the tokenizer and the model.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from export import parity
from tfbert import checks
from tfbert.tasks import answers, tags

KINDS = (tags.KIND, answers.KIND)
COMPARED = (
    "log-probabilities of tags, or scores of answers, with the run folder's Keras model (float32) on rows made and "
    "decoded in NumPy"
)


class Proof(NamedTuple):
    """How an export of a task is compared.

    Attributes:
        columns: A list of `bytes` for each input.
        compare: Answers to a list of requests, together those of `columns` -> {name: difference}.
        compared: What is compared with what, for parity.json.
    """

    columns: list
    compare: Callable
    compared: str


def proof(loaded):
    """The `Proof` of an `inference.Loaded` of one of KINDS."""
    given = columns(loaded)
    expected = reference(loaded, given)
    return Proof(given, lambda parts: compare(joined(parts), *expected), COMPARED)


def _fits(loaded, text):
    """Whether a text to tag is one row, and each of its words has a wordpiece: nothing is cut or left out then."""
    pieces = [len(ids) for ids in loaded.tokenizer.tokenize(tf.constant(text.split() or [""])).to_list()]
    return all(pieces) and sum(pieces) <= loaded.max_seq_length - 2


def columns(loaded):
    """What exports are compared on: a list of `bytes` for each input."""
    texts = [text for text in parity.texts() if text and text.isascii() and len(text) < 400]
    if loaded.task.kind == tags.KIND:
        fitting = [text for text in texts if _fits(loaded, text.decode())]
        return [fitting or [b"a"]]
    long = b" ".join(texts)
    return [texts, [long[i * 31 :] if i % 2 else text for i, text in enumerate(texts)]]


def reference(loaded, given):
    """What the run folder says: (examples, predictions).

    Args:
        loaded: An `inference.Loaded`.
        given: Of `columns`.
    """
    texts = [[text.decode() for text in column] for column in given]
    examples = loaded.task.of_texts(texts[0], texts[1] if len(texts) > 1 else None)
    return examples, loaded.about(examples, 8).predict()


def joined(parts):
    """Answers to several requests as one: {name: array}; rows that have less than others are filled up as in each."""
    found = {}
    for name in parts[0]:
        arrays = [part[name] for part in parts]
        longest = max((a.shape[1] for a in arrays if a.ndim > 1), default=0)
        fill = {"O": b"", "S": b"", "i": -1, "f": 0.0}.get(arrays[0].dtype.kind, 0)
        found[name] = np.concatenate(
            [np.pad(a, [(0, 0), (0, longest - a.shape[1])], constant_values=fill) if a.ndim > 1 else a for a in arrays]
        )
    return found


def _compare_tags(found, sentences, predictions):
    parity.require_equal(found["truncated"], np.zeros(len(sentences), bool), "truncated")
    differences, same = [0.0], []
    for i, (sentence, expected) in enumerate(zip(sentences, predictions)):
        count = len(sentence.words)
        parity.require_equal([w.decode() for w in found["words"][i, :count]], list(sentence.words), "words")
        log = np.log(found["probabilities"][i, :count]) - np.log(expected.probabilities)
        differences.append(float(np.abs(log).max()))
        same += [tag.decode() == wanted for tag, wanted in zip(found["tags"][i], expected.tags)]
    return {"max_log_probability_difference": max(differences), "tag_agreement": float(np.mean(same))}


def _compare_answers(found, questions, predictions):
    differences, same = [0.0], []
    for i, (question, expected) in enumerate(zip(questions, predictions)):
        best = expected.n_best[0][0]
        differences.append(abs(float(found["scores"][i, 0]) - best.score))
        if expected.null_odds is not None:
            differences.append(abs(float(found["null_odds"][i]) - expected.null_odds))
        context = question.context.encode()
        spans = zip(found["starts"][i], found["ends"][i], found["answers"][i])
        wrong = [text for a, b, text in spans if a >= 0 and context[a:b] != text]
        checks.require(not wrong, "answers must stand at their bytes", f"{wrong[:1]}", question.where)
        same.append(found["answer"][i].decode() == expected.text)
    return {"max_score_difference": max(differences), "answer_agreement": float(np.mean(same))}


def compare(found, examples, predictions):
    """Differences of an export's answers from the reference: {name: float}.

    Raises:
        InputError: what is no score differs.
    """
    return (_compare_tags if "tags" in found else _compare_answers)(found, examples, predictions)
