"""Tagging of words: entities and parts of speech, Devlin et al. 2019, section 5.3.

The first wordpiece of a word has its tag, the others have none. A sentence that is longer than the model is cut into
windows that overlap by half; a word is tagged, and learned, in the window that has the most context of it. A word of
which the tokenizer leaves nothing, such as a lone variation selector, is one [UNK]: every word gets a tag.
"""

import dataclasses
import os
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from tfbert import checks, config, heads
from tfbert.loop import trainer
from tfbert.tasks import conll_files, entity_metrics, in_graph, lines, pieces, tag_views, task, windows

KIND = "tag"


@dataclasses.dataclass(frozen=True)
class Settings:
    """What a run folder keeps of the task, under "task"; the columns as of `conll_files.read`."""

    kind: str = KIND
    text_column: str = ""
    label_column: str = ""
    labels: tuple[str, ...] = ()
    best_metric: str = ""
    skip_bad_rows: bool = False
    tfds_data_dir: str = ""
    mix_layers: bool = False
    layer_dropout: float = 0.1

    def read(self, path):
        """List of `conll_files.Sentence` of a file."""
        columns = self.text_column, self.label_column
        return conll_files.read(path, *columns, self.labels, self.skip_bad_rows, self.tfds_data_dir)


class Tags(NamedTuple):
    """What a model says of one sentence.

    Attributes:
        tags: One a word. Those of entities are repaired: see `entity_metrics.repair`.
        probabilities: float64 [words], of each word's likeliest tag before any repair.
        losses: float64 [words], how unlikely each right tag is, in nats; None if the tags are not known.
    """

    tags: tuple
    probabilities: np.ndarray
    losses: np.ndarray | None = None


def in_order(labels):
    """Labels sorted, "O" first."""
    return tuple(sorted(labels, key=lambda label: (label != "O", label)))


def begin(flags):
    """Reads the sentences to train on, and finds the labels in them, if none are given.

    Args:
        flags: Has the fields of `Settings`, and `train_file`.

    Returns:
        (`task.Task`, list of `conll_files.Sentence`).

    Raises:
        InputError: the file cannot be used.
    """
    given = {f.name: getattr(flags, f.name) for f in dataclasses.fields(Settings) if f.name != "kind"}
    settings = Settings(**given)
    sentences = settings.read(flags.train_file)
    checks.require(
        task.has_labels(sentences),
        "sentences to train on must have tags",
        "words without tags",
        flags.train_file,
        "Is --label_column the right one?",
    )
    if not settings.labels:
        settings = dataclasses.replace(settings, labels=in_order({tag for s in sentences for tag in s.label}))
    where = flags.train_file
    checks.require(len(settings.labels) > 1, "tagging needs 2 labels", lines.names(settings.labels), where)
    return make(settings), sentences


def from_config(about):
    """The `task.Task` of what `Settings` were written as."""
    return make(config.from_dict(Settings, about))


def make(settings):
    """The `task.Task` of `Settings` that are complete."""
    entities, layer_dropout = entity_metrics.are_entities(settings.labels), task.layer_dropout(settings)
    known = ("f1", "precision", "recall", "accuracy") if entities else ("accuracy",)
    best = settings.best_metric or known[0]
    checks.require(
        best in (*known, "loss"), f"best_metric must be one of {', '.join((*known, 'loss'))}", f"best_metric={best!r}"
    )
    return task.Task(
        kind=KIND,
        about=config.to_dict(settings),
        read=settings.read,
        featurize=lambda *arguments: featurize(settings, *arguments),
        build_model=lambda encoder, rematerialize, unpacks=False: heads.build_tagger(
            encoder, len(settings.labels), rematerialize, layer_dropout, unpacks
        ),
        objective=OBJECTIVE,
        outputs=("logits",),
        per_token=True,
        decode=lambda outputs, rows, sentences: decode(settings, outputs["logits"], rows, sentences),
        score=lambda tags, sentences: score(settings, tags, sentences),
        best_metric=(best, "min" if best == "loss" else "max"),
        write=write,
        view=lambda tags, sentences: tag_views.of(settings.labels, tags, sentences),
        of_texts=of_texts,
        show=show,
        serve=lambda model, vocab, length, top_k, *more: in_graph.TagText(model, vocab, settings.labels, length, *more),
    )


def _labels(settings, sentences):
    """int32 [words of all sentences]: the numbers of their tags."""
    number = {label: i for i, label in enumerate(settings.labels)}
    return np.array([number[tag] for sentence in sentences for tag in sentence.label], np.int32)


def _pieces(sentences, tokenizer):
    """Wordpieces of each different word: (list of ids int32 [at least 1], {word: its place there})."""
    place = {word: i for i, word in enumerate(dict.fromkeys(word for s in sentences for word in s.words))}
    found = pieces.tokenize(tokenizer, list(place))
    unknown = np.array([tokenizer.vocab.unk_id], np.int32)
    ids = [found.ids[a:b] if b > a else unknown for a, b in zip(found.splits, found.splits[1:])]
    return ids, place


def featurize(settings, sentences, tokenizer, max_seq_length, training=False):
    """Rows [CLS] window of a sentence [SEP].

    Args:
        settings: `Settings`.
        sentences: List of `conll_files.Sentence`.
        tokenizer: A `tokenizer.Tokenizer`.
        max_seq_length: The longest row in wordpieces.
        training: Unused: rows of training and evaluation are alike.

    Returns:
        `task.Rows`, one or several a sentence. With tags, tokens["label_ids"] is 1 + the number of the tag at the first
        wordpiece of a word, in the window that counts for it, and 0 elsewhere. extra["word"] int32 [T] is the number
        of the word, counted over all sentences, at the same places and -1 elsewhere.

    Raises:
        InputError: there is no room for words.
    """
    del training
    room, vocab = max_seq_length - 2, tokenizer.vocab
    checks.require(room >= 1, "max_seq_length must hold [CLS], [SEP] and a word", f"max_seq_length={max_seq_length}")
    labels = _labels(settings, sentences) if task.has_labels(sentences) else None
    ids_of, place = _pieces(sentences, tokenizer)
    ids, words, examples, first_word = [], [], [], 0
    for number, sentence in enumerate(sentences):
        parts = [ids_of[place[word]] for word in sentence.words]
        whole = np.concatenate(parts)
        word = np.full(len(whole), -1, np.int32)
        word[np.cumsum([0, *map(len, parts)])[:-1]] = first_word + np.arange(len(parts))
        first_word += len(parts)
        cuts = windows.cut(len(whole), room, max(1, room // 2))
        best = windows.best(cuts, len(whole))
        for i, (begin, end) in enumerate(cuts):
            ids.append(np.concatenate([[vocab.cls_id], whole[begin:end], [vocab.sep_id]]).astype(np.int32))
            words.append(np.concatenate([[-1], np.where(best[begin:end] == i, word[begin:end], -1), [-1]]))
            examples.append(number)
    splits = np.cumsum([0, *map(len, ids)], dtype=np.int64)
    word = np.concatenate(words).astype(np.int32)
    tokens = {"input_ids": np.concatenate(ids), "segment_ids": np.zeros(len(word), np.uint8)}
    if labels is not None:
        tokens["label_ids"] = np.where(word >= 0, labels[word] + 1, 0).astype(np.int32)
    return task.Rows(splits, tokens, {}, np.array(examples, np.int64), {"word": word})


def _weights(features):
    """float32 [B, L], 1 where a word is tagged."""
    tagged = tf.cast(features["label_ids"] > 0, tf.float32)
    return tagged * features["example_weights"][:, tf.newaxis]


def _losses(outputs, features):
    labels = tf.maximum(features["label_ids"] - 1, 0)
    nats = tf.nn.sparse_softmax_cross_entropy_with_logits(labels, tf.cast(outputs["logits"], tf.float32))  # [B, L]
    weights = _weights(features)
    # What has weight 0 adds 0 even if it is not finite.
    return {"tag_loss": (tf.reduce_sum(tf.math.multiply_no_nan(nats, weights)), tf.reduce_sum(weights))}


def _metrics(outputs, features):
    right = tf.argmax(outputs["logits"], -1, tf.int32) == features["label_ids"] - 1
    weights = _weights(features)
    return {"tag_accuracy": (tf.reduce_sum(tf.cast(right, tf.float32) * weights), tf.reduce_sum(weights))}


OBJECTIVE = trainer.Objective(
    _losses,
    lambda features: {"tag_loss": tf.reduce_sum(_weights(features))},
    _metrics,
    ("tag_loss",),
    ("tag_accuracy",),
)


def decode(settings, logits, rows, sentences):
    """`Tags` of each sentence, of float logits [R, L, C]."""
    row = np.repeat(np.arange(len(rows)), rows.lengths)
    word = rows.extra["word"]
    counts = word >= 0
    scores = np.empty((np.count_nonzero(counts), logits.shape[-1]))
    scores[word[counts]] = logits[row[counts], (np.arange(len(word)) - rows.splits[row])[counts]]
    likeliest = scores.argmax(-1)
    powers = np.exp(scores - scores.max(-1, keepdims=True))
    probabilities = 1.0 / powers.sum(-1)
    number = {label: i for i, label in enumerate(settings.labels)}
    entities, found, first = entity_metrics.are_entities(settings.labels), [], 0
    for sentence in sentences:
        mine = slice(first, first + len(sentence.words))
        tags = tuple(settings.labels[i] for i in likeliest[mine])
        losses = None
        if sentence.label is not None:
            right = scores[mine][np.arange(len(tags)), [number[tag] for tag in sentence.label]]
            losses = scores[mine].max(-1) - right - np.log(probabilities[mine])
        repaired = entity_metrics.repair(tags, settings.labels) if entities else tags
        found.append(Tags(repaired, probabilities[mine], losses))
        first = mine.stop
    return found


def score(settings, tags, sentences):
    """{metric: value from 0 to 1}: "accuracy", and of entities those of `entity_metrics.score`."""
    predicted, gold = [t.tags for t in tags], [s.label for s in sentences]
    found = {"accuracy": entity_metrics.accuracy(predicted, gold)}
    return entity_metrics.score(predicted, gold) | found if entity_metrics.are_entities(settings.labels) else found


def write(tags, sentences, folder, split):
    """Writes SPLIT_tags.tsv: a word, its tag if it is known, and the predicted tag a line, then an empty line.

    That is what conlleval reads, with -d '\\t'.
    """
    with open(os.path.join(folder, f"{split}_tags.tsv"), "w", encoding="utf-8") as f:
        for predicted, sentence in zip(tags, sentences, strict=True):
            columns = [sentence.words, *([sentence.label] if sentence.label else []), predicted.tags]
            f.writelines("\t".join(cells) + "\n" for cells in zip(*columns, strict=True))
            f.write("\n")


def of_texts(texts, pairs):
    """Sentences that a person typed, their words between spaces.

    Raises:
        InputError: second texts are given, or a sentence has no word.
    """
    checks.require(not pairs, "tagging takes single texts: no --text_pair", f"{len(pairs or ())} second texts")
    sentences = [conll_files.Sentence(tuple(text.split()), None, f"text {i}") for i, text in enumerate(texts, 1)]
    for sentence, text in zip(sentences, texts):
        checks.require(sentence.words, "a text must have words to tag", repr(text), sentence.where)
    return sentences


def show(tags, sentence):
    """The words, each with its tag; of those with "O" the word alone."""
    return " ".join(word if tag == "O" else f"{word}/{tag}" for word, tag in zip(sentence.words, tags.tags))
