"""GLUE's tasks (Wang et al. 2018): how their files and their TFDS sets are laid out.

Names of folders' files, columns and label lists are those of the published archives, as google-research/bert's
run_classifier.py reads them.
"""

from typing import NamedTuple

PAIR = ("sentence1", "sentence2")


class Layout(NamedTuple):
    """Where one of GLUE's tasks has what.

    Attributes:
        kind: "classify" or "regress".
        columns: Of the text, the second text ("" if there is none) and the label, in the files.
        tfds_columns: The same in `tfds:glue/...`.
        labels: In the order of the classes.
        files: Names of the training, development and test file; "" where there is none.
        column_names: Of files without a header.
        best_metric: What the task is judged by.
    """

    kind: str
    columns: tuple
    tfds_columns: tuple
    labels: tuple
    files: tuple = ("train.tsv", "dev.tsv", "test.tsv")
    column_names: tuple = ()
    best_metric: str = "accuracy"


_ENTAILMENT = ("entailment", "not_entailment")
_THREE = ("contradiction", "entailment", "neutral")
_MATCHED = "train.tsv", "dev_matched.tsv", "test_matched.tsv"
_MISMATCHED = "train.tsv", "dev_mismatched.tsv", "test_mismatched.tsv"
_SENTENCE = ("sentence", "", "label")
_MNLI = (*PAIR, "gold_label"), ("premise", "hypothesis", "label"), _THREE

TASKS = {
    "mnli": Layout("classify", *_MNLI, _MATCHED),
    "mnli-mm": Layout("classify", *_MNLI, _MISMATCHED),
    "ax": Layout("classify", (*PAIR, "label"), _MNLI[1], _THREE, ("", "", "diagnostic.tsv")),
    "qqp": Layout(
        "classify",
        ("question1", "question2", "is_duplicate"),
        ("question1", "question2", "label"),
        ("0", "1"),
        best_metric="f1",
    ),
    "qnli": Layout("classify", *[("question", "sentence", "label")] * 2, _ENTAILMENT),
    "rte": Layout("classify", *[(*PAIR, "label")] * 2, _ENTAILMENT),
    "wnli": Layout("classify", *[(*PAIR, "label")] * 2, ("0", "1")),
    "mrpc": Layout("classify", ("#1 String", "#2 String", "Quality"), (*PAIR, "label"), ("0", "1"), best_metric="f1"),
    "sts-b": Layout("regress", (*PAIR, "score"), (*PAIR, "label"), (), best_metric="pearson"),
    "sst-2": Layout("classify", *[_SENTENCE] * 2, ("0", "1")),
    "cola": Layout(
        "classify",
        *[_SENTENCE] * 2,
        ("0", "1"),
        column_names=("source", "label", "mark", "sentence"),
        best_metric="matthews",
    ),
}

# TFDS' own names of sets, splits and classes.
TFDS = {name: f"glue/{name.replace('-', '')}" for name in TASKS if name != "mnli-mm"}
_TFDS_SPLITS = {
    "mnli": ("train", "validation_matched", "test_matched"),
    "mnli-mm": ("train", "validation_mismatched", "test_mismatched"),
    "ax": ("", "", "test"),
}


def splits(name):
    """Names of the training, development and test split of a task's TFDS set."""
    return _TFDS_SPLITS.get(name, ("train", "validation", "test"))


def of_tfds(tfds):
    """The task whose TFDS set has this name, or None: "mrpc" of "glue/mrpc"."""
    return next((name for name, theirs in TFDS.items() if theirs == tfds.partition(":")[0]), None)
