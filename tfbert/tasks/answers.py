"""Extractive question answering: Devlin et al. 2019, sections 4.2 and 4.3, on files as SQuAD 1.1 and 2.0 have them."""

import dataclasses
import json
import os
import sys

import numpy as np
import tensorflow as tf

from tfbert import checks, config, heads
from tfbert.layers import packs
from tfbert.loop import trainer
from tfbert.tasks import answer_views, in_graph, pieces, spans, squad_files, squad_metrics, task, windows

KIND = "answer"
METRICS = ("exact_match", "f1"), ("exact", "f1", "best_exact", "best_f1")  # of SQuAD 1.1 and 2.0
_SPECIALS = 3  # [CLS] question [SEP] context [SEP]


@dataclasses.dataclass(frozen=True)
class Flags(task.MixFlags):
    """What question answering is told, beside the files; names and defaults of google-research/bert's run_squad.py."""

    doc_stride: int = config.field(
        128, "Wordpieces from one window of a long text to the next, in question answering.", lower_bound=1
    )
    max_query_length: int = config.field(64, "Wordpieces of a question, at most; longer ones are cut.", lower_bound=1)
    n_best_size: int = config.field(20, "Answers in nbest_predictions.json.", lower_bound=1)
    max_answer_length: int = config.field(30, "Wordpieces of an answer, at most.", lower_bound=1)
    version_2_with_negative: bool = config.field(False, "Whether questions may have no answer, as in SQuAD 2.0.")
    null_score_diff_threshold: float = config.field(
        0.0, "How far no answer must be above the best one to be predicted."
    )


@dataclasses.dataclass(frozen=True)
class Settings(Flags):
    """What a run folder keeps of the task, under "task"."""

    kind: str = KIND
    best_metric: str = ""
    skip_bad_rows: bool = False
    tfds_data_dir: str = ""


def begin(flags):
    """Reads the questions to train on.

    Args:
        flags: Has the fields of `Settings`, and `train_file`.

    Returns:
        (`task.Task`, list of `squad_files.Question`).

    Raises:
        InputError: the file cannot be used.
    """
    given = {f.name: getattr(flags, f.name) for f in dataclasses.fields(Settings) if f.name != "kind"}
    the_task = make(Settings(**given))
    questions = the_task.read(flags.train_file)
    checks.require(task.has_labels(questions), "questions to train on must have answers", "none", flags.train_file)
    return the_task, questions


def from_config(about):
    """The `task.Task` of what `Settings` were written as."""
    return make(config.from_dict(Settings, about))


def make(settings):
    """The `task.Task` of `Settings`."""
    layer_dropout = task.layer_dropout(settings)
    best, known = settings.best_metric or "f1", (*METRICS[settings.version_2_with_negative], "loss")
    checks.require(best in known, f"best_metric must be one of {', '.join(known)}", f"best_metric={best!r}")
    return task.Task(
        kind=KIND,
        about=config.to_dict(settings),
        read=lambda path: squad_files.read(
            path, settings.version_2_with_negative, settings.skip_bad_rows, settings.tfds_data_dir
        ),
        featurize=lambda *arguments: featurize(settings, *arguments),
        build_model=lambda encoder, rematerialize, unpacks=False: heads.build_span_finder(
            encoder, rematerialize, layer_dropout, unpacks
        ),
        objective=OBJECTIVE,
        outputs=("logits",),
        per_token=True,
        decode=lambda outputs, rows, questions: decode(settings, outputs["logits"], rows, questions),
        score=lambda answers, questions: score(settings, answers, questions),
        best_metric=(best, "min" if best == "loss" else "max"),
        write=lambda *arguments: write(settings, *arguments),
        view=lambda *arguments: answer_views.of(settings.version_2_with_negative, *arguments),
        of_texts=of_texts,
        show=show,
        serve=lambda model, vocab, *limits: in_graph.AnswerText(model, vocab, settings, *limits),
    )


def place(answer, starts, ends):
    """The wordpieces of a text that an answer touches.

    Args:
        answer: A `squad_files.Answer` with its place.
        starts: int [T], bytes at which the wordpieces of the context begin, ascending.
        ends: int [T], bytes at which they end (exclusive).

    Returns:
        (first, last), the last included; None if there is none, as for an answer of a soft hyphen alone.
    """
    first = int(np.searchsorted(ends, answer.start, side="right"))
    last = int(np.searchsorted(starts, answer.start + len(answer.text.encode("utf-8")), side="left")) - 1
    return (first, last) if first <= last else None


def _placed(settings, question, starts, ends):
    """(first, last) of the first answer that has its place, (-1, -1) if the question has none; None if none is placed.

    Raises:
        InputError: none is placed, and `skip_bad_rows` is not set.
    """
    if not question.answers:
        return -1, -1
    found = (place(answer, starts, ends) for answer in question.answers if answer.start >= 0)
    found = next((span for span in found if span), None)
    checks.require(
        found or settings.skip_bad_rows,
        "an answer must have a wordpiece",
        repr(question.answers[0].text),
        question.where,
        "Mend the file, or give --skip_bad_rows to leave such questions out of training",
    )
    return found


def _say(settings, questions, queries, bad):
    """Tells what is not as the file has it: questions that were cut, and those that are left out."""
    cut = int(np.sum(np.diff(queries.splits) > settings.max_query_length))
    if cut:
        print(f"{cut:,} of {len(questions):,} questions cut to {settings.max_query_length} wordpieces", file=sys.stderr)
    if bad:
        text = f"{len(bad):,} of {len(questions):,} questions left out, whose answers have no place in their contexts"
        print(f"{text}; the first: {bad[0].where}", file=sys.stderr)


def _columns(query, text, cut, best, number, vocab):
    """Columns of the row for one window.

    Args:
        query: Ids of the question.
        text: (ids, starts, ends) of the context.
        cut: The window's begin and end among the wordpieces of the context.
        best: Numbers of the windows that hold each wordpiece of the context best.
        number: That of this window.
        vocab: The `Vocab`.

    Returns:
        (input_ids, segment_ids, starts, ends, is_best), [T] each.
    """
    begin, end = cut
    ids, starts, ends = (column[begin:end] for column in text)
    head = len(query) + 2

    def around(values, fill):
        return np.concatenate([np.full(head, fill, values.dtype), values, np.full(1, fill, values.dtype)])

    input_ids = np.concatenate([[vocab.cls_id], query, [vocab.sep_id], ids, [vocab.sep_id]]).astype(np.int32)
    segment_ids = (np.arange(len(input_ids)) >= head).astype(np.uint8)
    is_best = around(best[begin:end] == number, False)
    return input_ids, segment_ids, around(starts, -1), around(ends, -1), is_best


def featurize(settings, questions, tokenizer, max_seq_length, training=False):
    """Rows [CLS] question [SEP] window of the context [SEP].

    Args:
        settings: `Settings`.
        questions: List of `squad_files.Question`.
        tokenizer: A `tokenizer.Tokenizer`.
        max_seq_length: The longest row in wordpieces.
        training: Whether rows are to train on: a question whose answer has no place makes none then (and is counted),
            and nothing is kept for `decode`.

    Returns:
        `task.Rows`, one or several a question. With answers "spans" int32 [R, 2] is where the first one begins and ends
        in the row, and 0, the [CLS], where it does not lie in the window or there is none. Of rows that are not to
        train on, `extra` is what `spans.Window` has, for all wordpieces.

    Raises:
        InputError: a row has no room for a context or for its stride, or an answer has no wordpiece.
    """
    room = max_seq_length - _SPECIALS - settings.max_query_length
    checks.require(
        room >= 1,
        f"max_seq_length must hold a question, {_SPECIALS} special tokens and some of the context",
        f"max_seq_length={max_seq_length}, max_query_length={settings.max_query_length}",
    )
    checks.require(
        settings.doc_stride <= room,
        "doc_stride must be at most max_seq_length - max_query_length - 3, so that windows leave nothing out",
        f"doc_stride={settings.doc_stride}, max_seq_length={max_seq_length}, "
        f"max_query_length={settings.max_query_length}",
        do="run_squad.py has 128, 384 and 64",
    )
    contexts = {context: i for i, context in enumerate(dict.fromkeys(q.context for q in questions))}
    texts = pieces.tokenize(tokenizer, list(contexts))
    queries = pieces.tokenize(tokenizer, [q.question for q in questions])
    labelled = task.has_labels(questions)
    columns, lengths, examples, answers, bad = [], [], [], [], []
    for i, question in enumerate(questions):
        query = queries.ids[queries.splits[i] : queries.splits[i + 1]][: settings.max_query_length]
        of_context = slice(*texts.splits[contexts[question.context] :][:2])
        text = texts.ids[of_context], texts.starts[of_context], texts.ends[of_context]
        found = _placed(settings, question, *text[1:]) if labelled else None
        if training and found is None:
            bad.append(question)
            continue
        cuts = windows.cut(len(text[0]), max_seq_length - _SPECIALS - len(query), settings.doc_stride)
        best = windows.best(cuts, len(text[0]))
        for number, (begin, end) in enumerate(cuts):
            columns.append(_columns(query, text, (begin, end), best, number, tokenizer.vocab)[: 2 if training else 5])
            lengths.append(len(columns[-1][0]))
            examples.append(i)
            inside = found is not None and begin <= found[0] and found[1] < end
            answers.append([piece - begin + len(query) + 2 for piece in found] if inside else [0, 0])
    checks.require(columns, "there must be a question to train on", f"{len(bad)} whose answers have no place")
    _say(settings, questions, queries, bad)
    names = ("input_ids", "segment_ids", "starts", "ends", "is_best")
    joined = {name: np.concatenate(parts) for name, parts in zip(names, zip(*columns))}
    tokens = {name: joined.pop(name) for name in names[:2]}
    splits = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    dense = {"spans": np.array(answers, np.int32)} if labelled else {}
    return task.Rows(splits, tokens, dense, np.array(examples, np.int64), joined)


def _logits(outputs, features):
    """float32 [B, L, 2]; what fills a row up has no part in the softmax, however long the batch is."""
    mask = packs.mask_of_rows(features)[:, :, tf.newaxis] > 0
    return tf.where(mask, tf.cast(outputs["logits"], tf.float32), tf.float32.min)


def _weights(features):
    return {"span_loss": tf.reduce_sum(features["example_weights"])}


def _losses(outputs, features):
    """The mean of the cross-entropies of beginning and end."""
    logits = tf.transpose(_logits(outputs, features), [0, 2, 1])  # [B, 2, L]
    # A row that only fills up a batch may have places of a longer one.
    labels = tf.minimum(features["spans"], tf.shape(logits)[-1] - 1)
    each = tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(labels, logits), -1)  # [B]
    # What has weight 0 adds 0 even if it is not finite.
    each = tf.math.multiply_no_nan(each, features["example_weights"])
    return {"span_loss": (tf.reduce_sum(each), _weights(features)["span_loss"])}


def _metrics(outputs, features):
    """How often both are the likeliest."""
    best = tf.argmax(_logits(outputs, features), 1, tf.int32)  # [B, 2]
    right = tf.cast(tf.reduce_all(best == features["spans"], -1), tf.float32) * features["example_weights"]
    return {"span_accuracy": (tf.reduce_sum(right), tf.reduce_sum(features["example_weights"]))}


OBJECTIVE = trainer.Objective(_losses, _weights, _metrics, ("span_loss",), ("span_accuracy",))


def decode(settings, logits, rows, questions):
    """A `spans.Answer` to each question, of float logits [R, L, 2]."""
    threshold = settings.null_score_diff_threshold if settings.version_2_with_negative else None
    of_question = [[] for _ in questions]
    for i, (begin, end) in enumerate(zip(rows.splits, rows.splits[1:])):
        columns = (rows.extra[name][begin:end] for name in ("starts", "ends", "is_best"))
        of_question[rows.example[i]].append(spans.Window(logits[i, : end - begin], *columns))
    return [
        spans.answer(found, q.context, settings.n_best_size, settings.max_answer_length, threshold)
        for found, q in zip(of_question, questions)
    ]


def score(settings, answers, questions):
    """{metric: percent} of the official evaluation: see `squad_metrics.score`."""
    odds = [a.null_odds for a in answers] if settings.version_2_with_negative else None
    golds = [[a.text for a in q.answers] for q in questions]
    return squad_metrics.score([a.text for a in answers], golds, odds)


def write(settings, answers, questions, folder, split):
    """Writes predictions.json, nbest_predictions.json and, for SQuAD 2.0, null_odds.json, as run_squad.py does.

    Those of a split other than "eval" begin with its name: test_predictions.json. Entries of nbest_predictions.json
    also have "answer_start", the character of the context at which the text begins, or -1.
    """
    ids = [q.id for q in questions]
    n_best = [
        [
            {
                "text": span.text,
                "probability": probability,
                "start_logit": span.start_logit,
                "end_logit": span.end_logit,
                "answer_start": span.start,
            }
            for span, probability in a.n_best
        ]
        for a in answers
    ]
    files = {"predictions": [a.text for a in answers], "nbest_predictions": n_best}
    if settings.version_2_with_negative:
        files["null_odds"] = [a.null_odds for a in answers]
    for name, values in files.items():
        path = os.path.join(folder, f"{'' if split == 'eval' else f'{split}_'}{name}.json")
        with open(path, "w", encoding="utf-8") as f:
            f.write(json.dumps(dict(zip(ids, values)), indent=4, ensure_ascii=False) + "\n")


def of_texts(texts, pairs):
    """Questions that a person typed, each with its context.

    Args:
        texts: Questions, list of str.
        pairs: As many contexts, or None.

    Raises:
        InputError: there are not as many contexts.
    """
    count = len(pairs or ())
    must = "question answering takes pairs: a question as --text and its context as --text_pair"
    checks.require(count == len(texts), must, f"{len(texts)} texts, {count} second texts")
    return [
        squad_files.Question(str(i), question, context, None, f"text {i}")
        for i, (question, context) in enumerate(zip(texts, pairs), 1)
    ]


def show(answer, question):
    """The question, and under it the answer and the five likeliest ones with their characters and probabilities."""
    lines = [question.question, f"  {answer.text or '(no answer)'}"]
    for span, probability in sorted(answer.n_best, key=lambda pair: -pair[1])[:5]:
        place = f"characters {span.start} to {span.start + len(span.text)}" if span.start >= 0 else "no answer"
        lines.append(f"    {100 * probability:.1f} %  {span.text}  ({place})")
    return "\n".join(lines)
