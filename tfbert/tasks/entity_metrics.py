"""Entities in sequences of tags, and how they are counted: as CoNLL's conlleval does, and seqeval by default.

A tag is "O" or a prefix and a type, B-PER. An entity begins at B, at S (or U), wherever its type changes, and after "O"
or the E (or L) that ended the one before; so an I that continues nothing begins an entity too, and IOB1, IOB2, IOBES
and BILOU are all read alike. A predicted entity is right if its type, its first and its last word are.
"""

import collections
import itertools
import re
from typing import NamedTuple

_TAG = re.compile(r"O|[BIESLU]-.+", re.DOTALL)
_ALONE, _LAST = "SU", "EL"


class Entity(NamedTuple):
    """An entity of a sentence: its type, its first word and the one after its last."""

    kind: str
    start: int
    end: int


def are_entities(labels):
    """Whether labels are tags of entities; if not, they are tags of words, such as parts of speech."""
    labels = set(labels)
    return labels != {"O"} and bool(labels) and all(_TAG.fullmatch(label) for label in labels)


def continues(tag, before):
    """Whether a tag goes on with the entity of the tag before it ("O" at the beginning of a sentence)."""
    (prefix, _, kind), (prefix_before, _, kind_before) = tag.partition("-"), before.partition("-")
    return prefix in ("I", *_LAST) and prefix_before not in ("O", *_ALONE, *_LAST) and kind == kind_before


def entities(tags):
    """The `Entity`s of one sentence's tags, from left to right."""
    found, begin = [], None
    for i, (before, tag) in enumerate(itertools.pairwise(["O", *tags, "O"])):
        if begin is not None and not continues(tag, before):
            found.append(Entity(before.partition("-")[2], begin, i))
            begin = None
        if begin is None and tag != "O":
            begin = i
    return found


def repair(tags, labels):
    """Tags in which every entity begins with B (or S, U), wherever there is such a label; the entities are the same.

    A model scores each word alone, so its likeliest tags may hold an I-PER after an O.

    Args:
        tags: Of one sentence.
        labels: All labels that there are.
    """
    return tuple(repaired(tag, before, labels) for before, tag in itertools.pairwise(["O", *tags]))


def repaired(tag, before, labels):
    """A tag as `repair` has it; `before` is the one before it, not repaired."""
    prefix, _, kind = tag.partition("-")
    wrong = prefix in ("I", *_LAST) and not continues(tag, before)
    return f"B-{kind}" if wrong and f"B-{kind}" in labels else tag


def _figures(right, predicted, gold):
    precision, recall = right / predicted if predicted else 0.0, right / gold if gold else 0.0
    f1 = 2 * precision * recall / (precision + recall) if right else 0.0
    return precision, recall, f1


def accuracy(predicted, gold):
    """The share of tags that are right, from 0 to 1; as of `score`."""
    pairs = [pair for tags in zip(predicted, gold, strict=True) for pair in zip(*tags, strict=True)]
    return sum(a == b for a, b in pairs) / len(pairs)


def score(predicted, gold):
    """Precision, recall and F1 of entities, over all and of each type.

    Args:
        predicted: Tags of each sentence.
        gold: The right ones.

    Returns:
        {"precision", "recall", "f1", "f1_PER" of each type}, from 0 to 1; what has nothing to be counted by is 0.
    """
    counts = collections.defaultdict(lambda: [0, 0, 0])  # type -> right, predicted, gold
    for tags, right_tags in zip(predicted, gold, strict=True):
        found, wanted = set(entities(tags)), set(entities(right_tags))
        for i, group in enumerate((found & wanted, found, wanted)):
            for entity in group:
                counts[entity.kind][i] += 1
    precision, recall, f1 = _figures(*(sum(c[i] for c in counts.values()) for i in range(3)))
    return {"precision": precision, "recall": recall, "f1": f1} | {
        f"f1_{kind}": _figures(*counts[kind])[2] for kind in sorted(counts)
    }
