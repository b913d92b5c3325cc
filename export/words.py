"""Parity of exported taggers and of exported question answering: the graph against rows in memory.

What the graph is compared with takes the other road: rows made in NumPy, decoded in float64 (`tfbert.tasks.tags` and
`tfbert.tasks.answers`); the two share the tokenizer and the model.
"""

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


def proof(loaded, answering):
    """The `parity.Proof` of an `inference.Loaded` of one of KINDS, and of what is exported."""
    given = columns(loaded, answering.truncation)
    expected = reference(loaded, given)
    requests = parity.requests(**dict(zip(answering.inputs, given)))
    return parity.Proof(requests, lambda answers: compare(parity.joined(answers), given, *expected), COMPARED)


def _fits(loaded, text, truncation):
    """Whether nothing of a text to tag is cut, and each of its words has a wordpiece: rows in memory have all."""
    pieces = [len(ids) for ids in loaded.tokenizer.tokenize(tf.constant(text.split() or [""])).to_list()]
    return all(pieces) and (truncation == "windows" or sum(pieces) <= loaded.max_seq_length - 2)


def columns(loaded, truncation):
    """What exports are compared on: a list of `bytes` for each input."""
    texts = [text for text in parity.texts() if text.isascii() and text.split()]
    if loaded.task.kind == tags.KIND:
        fitting = [text for text in texts if _fits(loaded, text.decode(), truncation)]
        return [fitting or [b"a"]]
    texts = [text for text in texts if len(text) < 400]
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


def _compare_tags(found, texts, sentences, predictions):
    parity.require_equal(found["truncated"], np.zeros(len(sentences), bool), "truncated")
    differences, same = [0.0], []
    for i, (text, sentence, expected) in enumerate(zip(texts, sentences, predictions)):
        count = len(sentence.words)
        starts, ends = found["starts"][i], found["ends"][i]
        parity.require_equal((starts >= 0).sum(), count, "number of words")
        words = [text[a:b].decode() for a, b in zip(starts[:count], ends[:count])]
        parity.require_equal(words, list(sentence.words), "words")
        if "words" in found:  # not in a .tflite
            parity.require_equal([w.decode() for w in found["words"][i, :count]], words, "words")
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
        start, end = found["answer_start"][i], found["answer_end"][i]
        answer = context[start:end] if start >= 0 else b""
        if "answers" in found:  # not in a .tflite
            parity.require_equal(found["answer"][i], answer, "answer")
            spans = zip(found["starts"][i], found["ends"][i], found["answers"][i])
            wrong = [text for a, b, text in spans if a >= 0 and context[a:b] != text]
            checks.require(not wrong, "answers must stand at their bytes", f"{wrong[:1]}", question.where)
        same.append(answer.decode() == expected.text)
    return {"max_score_difference": max(differences), "answer_agreement": float(np.mean(same))}


def compare(found, given, examples, predictions):
    """Differences of an export's answers from the reference: {name: float}.

    Args:
        found: Answers as arrays.
        given: Of `columns`.
        examples: Of `reference`, as are `predictions`.

    Raises:
        InputError: what is no score differs.
    """
    if "tags" in found:
        return _compare_tags(found, given[0], examples, predictions)
    return _compare_answers(found, examples, predictions)
