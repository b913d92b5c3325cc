"""When the head of the weights that a task begins with is of use to it."""

import pytest

from tests import tiny, tiny_run
from tfbert import run_folder
from tfbert.convert import sources
from tfbert.tasks import answers, fresh_heads, sentences, tags
from tfbert.tasks.sentence_files import Settings

LABELS = ("ham", "spam", "other")


def source(head, labels=(), kind="huggingface", where="weights"):
    return sources.Source(kind, where, {}, tiny.config(), head, labels=labels)


def of_run(folder, kind, labels):
    """Weights of a run folder that was fine-tuned."""
    about = {"task": {"kind": kind, "text_column": "text", "labels": labels}}
    run_folder.create(str(folder), tiny.config(), tiny_run.vocab(), about)
    return source("classify", sources.labels(labels, max(1, len(labels))), "tfbert", str(folder / "ckpt-7"))


def task_of(kind, labels=()):
    return sentences.make(Settings(kind, "text", labels=labels))


TAGGER = tags.make(tags.Settings(labels=("O", "B-a", "I-a")))
ANSWERS = answers.make(answers.Settings())


@pytest.mark.parametrize(
    "weights, the_task",
    [
        (None, task_of("classify", LABELS)),
        (source("pretraining"), task_of("classify", LABELS)),
        (source("classify", LABELS), task_of("classify", LABELS)),
        (source("classify", ("LABEL_0", "LABEL_1", "LABEL_2")), task_of("classify", LABELS)),
        (source("classify", ("LABEL_0",)), task_of("regress")),
        (source("tokens", ("O", "B-a", "I-a")), TAGGER),
        (source("tokens", LABELS), task_of("classify", LABELS)),  # no head of this shape: it is missing
        (source("classify", LABELS), TAGGER),
        (source("span"), ANSWERS),
    ],
)
def test_goes_on_or_is_missing(weights, the_task):
    assert fresh_heads.begins_anew(weights, the_task) == {}


@pytest.mark.parametrize(
    "weights, the_task, glob, words",
    [
        (source("classify", LABELS[:2]), task_of("classify", LABELS), "classifier/*", "2 labels (ham, spam), and this"),
        (source("classify", LABELS[::-1]), task_of("classify", LABELS), "classifier/*", "(other, spam, ham)"),
        (
            source("classify", ("LABEL_0", "LABEL_1")),
            task_of("classify", LABELS),
            "classifier/*",
            "task, 2 labels, and",
        ),
        (source("classify", LABELS), task_of("regress"), "classifier/*", "and this task of regress"),
        (source("tokens", ("O", "B-a")), TAGGER, "tokens/*", "this task of tag, 3 labels (O, B-a, I-a)"),
    ],
)
def test_of_other_labels_begins_anew(weights, the_task, glob, words):
    [(found, why)] = fresh_heads.begins_anew(weights, the_task).items()
    assert found == glob and why.startswith("the head begins anew: that of weights is of ") and words in why


def test_of_another_task_with_the_same_labels_begins_anew(tmp_path):
    weights = of_run(tmp_path / "several", "multi_label", list(LABELS))
    [why] = fresh_heads.begins_anew(weights, task_of("classify", LABELS)).values()
    assert "of multi_label, 3 labels (ham, spam, other), and this task of classify, 3 labels" in why
    assert fresh_heads.begins_anew(weights, task_of("multi_label", LABELS)) == {}
    scores = of_run(tmp_path / "scores", "regress", [])
    assert fresh_heads.begins_anew(scores, task_of("regress")) == {}
    [why] = fresh_heads.begins_anew(scores, task_of("classify", LABELS[:2])).values()
    assert "is of regress, and this task of classify, 2 labels (ham, spam)" in why
