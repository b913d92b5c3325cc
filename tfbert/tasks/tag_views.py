"""What tags of words look like: see `tfbert.watching.views`."""

import collections

import numpy as np

from tfbert.tasks import entity_metrics, scores, sentence_views
from tfbert.watching import views


def _kind(tag):
    """The type of an entity's tag: B-PER and I-PER are PER; O is O."""
    return tag.partition("-")[2] or tag


def of(labels, predictions, sentences):
    """The `views.View` of tags of sentences whose tags are known.

    Tags of entities are counted by type in the confusion matrix, whose figures are words; the table of types counts
    entities, as their scores do.

    Args:
        labels: All tags.
        predictions: `tags.Tags`, with losses.
        sentences: As many `conll_files.Sentence`s.
    """
    entities = entity_metrics.are_entities(labels)
    kind = _kind if entities else str
    kinds = tuple(dict.fromkeys(map(kind, labels)))
    number = {name: i for i, name in enumerate(kinds)}
    pairs = [pair for s, p in zip(sentences, predictions, strict=True) for pair in zip(s.label, p.tags, strict=True)]
    truth, said = (np.array([number[kind(tag)] for tag in column]) for column in zip(*pairs))
    confusion = views.Confusion(kinds, scores.confusion(truth, said, len(kinds)), "words")
    if entities:
        by_kind = _by_type(predictions, sentences)
    else:
        places = np.arange(len(kinds))
        by_kind = sentence_views.by_label(kinds, truth[:, None] == places, said[:, None] == places, "words")
    tables = (_worst(predictions, sentences), views.most_confused(confusion), by_kind)
    return views.View(tuple(filter(None, tables)), confusion)


def _by_type(predictions, sentences):
    """The table of types of entities, the lowest F1 first."""
    counts = collections.defaultdict(lambda: [0, 0, 0])  # type -> right, predicted, gold
    for p, s in zip(predictions, sentences):
        found, wanted = set(entity_metrics.entities(p.tags)), set(entity_metrics.entities(s.label))
        for i, group in enumerate((found & wanted, found, wanted)):
            for entity in group:
                counts[entity.kind][i] += 1
    rows = []
    for kind, (right, predicted, gold) in sorted(counts.items(), key=lambda c: 2 * c[1][0] / (c[1][1] + c[1][2])):
        figures = right / max(1, predicted), right / max(1, gold), 2 * right / (predicted + gold)
        rows.append((f"{gold:,}", f"{predicted:,}", *(f"{x:.3f}" for x in figures), kind))
    return sentence_views.label_table(rows, "entities")


def _worst(predictions, sentences):
    """The table of the sentences whose right tags are the least likely; behind each wrong word truth and answer."""
    losses = np.array([p.losses.sum() for p in predictions])
    rows = []
    for i in np.argsort(-losses, kind="stable")[: views.WORST]:
        three = zip(sentences[i].words, sentences[i].label, predictions[i].tags)
        words = [word if truth == said else f"{word} ⟦{truth} → {said}⟧" for word, truth, said in three]
        wrong = sum(truth != said for truth, said in zip(sentences[i].label, predictions[i].tags))
        text = views.shortened(" ".join(words), 2 * views.MOST_LETTERS)
        rows.append((f"{losses[i]:.3f}", f"{wrong} of {len(words)}", text))
    head = ("loss", "wrong words", "sentence, with ⟦truth → predicted⟧ where they differ")
    return views.Table("worst_sentences", "Worst sentences: the highest sums of their words' losses", head, tuple(rows))
