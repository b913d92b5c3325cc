"""Tests of tfbert.tasks.entity_metrics, by hand and against seqeval."""

import random

import pytest

from tfbert.tasks import entity_metrics

LABELS = ["O", *(f"{p}-{t}" for p in "BIES" for t in ("PER", "LOC", "a-b"))]


def found(tags):
    return [tuple(e) for e in entity_metrics.entities(tags.split())]


@pytest.mark.parametrize(
    "tags, expected",
    [
        ("O O", []),
        ("B-PER I-PER O B-LOC", [("PER", 0, 2), ("LOC", 3, 4)]),
        ("B-PER B-PER I-PER", [("PER", 0, 1), ("PER", 1, 3)]),
        ("O I-PER I-PER O", [("PER", 1, 3)]),  # continues nothing, and is an entity (IOB1)
        ("B-PER I-LOC I-LOC", [("PER", 0, 1), ("LOC", 1, 3)]),
        ("I-PER B-PER", [("PER", 0, 1), ("PER", 1, 2)]),
        ("B-PER E-PER I-PER", [("PER", 0, 2), ("PER", 2, 3)]),
        ("S-PER S-PER E-PER", [("PER", 0, 1), ("PER", 1, 2), ("PER", 2, 3)]),
        ("B-PER I-PER L-PER U-LOC", [("PER", 0, 3), ("LOC", 3, 4)]),
        ("B-a-b I-a-b", [("a-b", 0, 2)]),
        ("", []),
    ],
)
def test_entities(tags, expected):
    assert found(tags) == expected


def random_tags(rng, labels=LABELS):
    return [rng.choice(labels) if rng.random() < 0.7 else "O" for _ in range(rng.randint(1, 9))]


def test_repair_leaves_the_entities():
    rng = random.Random(2)
    for _ in range(500):
        tags = random_tags(rng)
        repaired = entity_metrics.repair(tags, LABELS)
        assert entity_metrics.entities(repaired) == entity_metrics.entities(tags)
        assert entity_metrics.repair(repaired, LABELS) == repaired
        begins = [e.start for e in entity_metrics.entities(tags)]
        assert all(repaired[i][0] in "BS" for i in begins)
        assert all(a == b for i, (a, b) in enumerate(zip(tags, repaired)) if i not in begins)


def test_repair_takes_no_label_that_is_not_there():
    assert entity_metrics.repair(["O", "I-PER"], ["O", "I-PER"]) == ("O", "I-PER")
    assert entity_metrics.repair(["O", "I-PER"], ["O", "I-PER", "B-PER"]) == ("O", "B-PER")


def test_score():
    gold = [["B-PER", "I-PER", "O", "B-LOC"], ["B-LOC", "O"]]
    predicted = [["B-PER", "I-PER", "B-LOC", "O"], ["B-LOC", "O"]]
    scores = entity_metrics.score(predicted, gold)
    assert scores == pytest.approx({"precision": 2 / 3, "recall": 2 / 3, "f1": 2 / 3, "f1_PER": 1, "f1_LOC": 0.5})
    assert entity_metrics.accuracy(predicted, gold) == pytest.approx(4 / 6)


def test_nothing_to_count():
    assert entity_metrics.score([["O"]], [["O"]]) == {"precision": 0, "recall": 0, "f1": 0}
    assert entity_metrics.score([["B-X"]], [["O"]]) == {"precision": 0, "recall": 0, "f1": 0, "f1_X": 0}


@pytest.mark.parametrize(
    "labels, expected",
    [
        (["O", "B-PER", "I-PER"], True),
        (["O", "S-a b", "L-x"], True),
        (["O"], False),
        ([], False),
        (["NOUN", "X", "O"], False),
        (["B-PER", "-LRB-"], False),
        (["B", "I"], False),
    ],
)
def test_are_entities(labels, expected):
    assert entity_metrics.are_entities(labels) == expected


@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # theirs, where there is no entity
def test_equals_seqeval():
    theirs = pytest.importorskip("seqeval.metrics", reason="requirements-dev.txt is not installed: no seqeval")
    from seqeval.metrics import sequence_labeling

    rng = random.Random(11)
    for _ in range(300):
        gold = [random_tags(rng) for _ in range(rng.randint(1, 4))]
        predicted = [[g if rng.random() < 0.6 else rng.choice(LABELS) for g in tags] for tags in gold]
        for tags in (*gold, *predicted):
            ours = [(e.kind, e.start, e.end - 1) for e in entity_metrics.entities(tags)]
            assert ours == sequence_labeling.get_entities(tags), tags
        scores = entity_metrics.score(predicted, gold)
        for name in ("precision", "recall", "f1"):
            assert scores[name] == pytest.approx(getattr(theirs, f"{name}_score")(gold, predicted, zero_division=0))
        report = theirs.classification_report(gold, predicted, output_dict=True, zero_division=0)
        for name in report.keys() - {"micro avg", "macro avg", "weighted avg"}:
            assert scores[f"f1_{name}"] == pytest.approx(report[name]["f1-score"])
        assert entity_metrics.accuracy(predicted, gold) == pytest.approx(theirs.accuracy_score(gold, predicted))
