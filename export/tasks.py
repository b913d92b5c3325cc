"""Exports fine-tuned run folders, and proves that they answer as the folder does.

The reference takes the folder's Keras model and tokenizer, packs in NumPy, pads every row to the full length and
decodes in float64, so that it shares no code with the graph that is exported (`tfbert.tasks.served_sentences`).
"""

import os

import numpy as np
import tensorflow as tf

from export import loaders, parity, serving, words
from tfbert import checks
from tfbert.text import vocab as vocab_lib

_BATCH = 8
COMPARED = (
    "log-probabilities or scores with the run folder's Keras model (float32), packed, padded to max_seq_length and "
    "normalised in NumPy"
)


def texts(count):
    """The rows that exports are compared on: a list of `bytes` for each of `count` inputs."""
    rows = parity.texts()
    return [rows[i * 7 :] + rows[: i * 7] for i in range(count)]


def reference(loaded, columns):
    """What the run folder's model says, without the exported graph: ([prediction], truncated bool [N]).

    Args:
        loaded: An `inference.Loaded`.
        columns: Of `texts`.
    """
    vocab, longest, about = loaded.run.vocab, loaded.max_seq_length, loaded.task.about
    ids = [loaded.tokenizer.tokenize(tf.constant(column, tf.string)).to_list() for column in columns]
    most = loaded.task.max_chunks
    names = ("input_ids", "input_mask", "segment_ids")
    features = {
        name: np.full([len(columns[0]), most * longest], vocab.pad_id * (name == names[0]), np.int32) for name in names
    }
    truncated = []
    for i, segments in enumerate(zip(*ids, strict=True)):
        segments = [list(segment) for segment in segments]
        if most > 1:
            truncated.append(len(segments[0]) > most * (longest - 2))
            for k in range(most):
                piece = segments[0][k * (longest - 2) : (k + 1) * (longest - 2)]
                if piece or k == 0:
                    row = [vocab.cls_id, *piece, vocab.sep_id]
                    features["input_ids"][i, k * longest :][: len(row)] = row
                    features["input_mask"][i, k * longest :][: len(row)] = 1
            continue
        truncated.append(sum(map(len, segments)) + 1 + len(segments) > longest)
        if truncated[-1] and len(segments) == 1 and about["long_text"] != "head":
            first = longest // 4 if about["long_text"] == "head_tail" else 0
            segments = [segments[0][:first] + segments[0][len(segments[0]) - (longest - 2 - first) :]]
        while sum(map(len, segments)) + 1 + len(segments) > longest:
            # The longer one, the second if both are equal.
            max(reversed(segments), key=len).pop()
        row, of = [vocab.cls_id], [0]
        for number, segment in enumerate(segments):
            row += [*segment, vocab.sep_id]
            of += [number] * (len(segment) + 1)
        for name, values in zip(names, (row, [1] * len(row), of)):
            features[name][i, : len(row)] = values
    outputs = parity.in_batches(loaded.model, features)
    rows = None  # one row an example: nothing to be told
    return loaded.task.decode({name: outputs[name] for name in loaded.task.outputs}, rows, rows), np.array(truncated)


def compare(answers, predictions, truncated):
    """Differences of an export's answers from the reference: {name: float}.

    Raises:
        InputError: what is no score differs: labels that are not likeliest first, the flag of cut texts.
    """
    parity.require_equal(answers["truncated"], truncated, "truncated")
    if "score" in answers:
        return {"max_score_difference": float(np.abs(answers["score"] - [p.label for p in predictions]).max())}
    differences, agreeing = [], []
    for labels, probabilities, expected in zip(answers["labels"], answers["probabilities"], predictions):
        by_label = dict(zip(expected.labels, expected.probabilities))
        # Ties do not matter: each probability is compared with that of the same label, and with that of the same rank.
        same = [by_label[label.decode()] for label in labels]
        ranked = sorted(expected.probabilities, reverse=True)[: len(labels)]
        for other in (same, ranked):
            differences.append(
                np.abs(np.log(np.maximum(probabilities, 1e-30)) - np.log(np.maximum(other, 1e-30))).max()
            )
        agreeing.append(labels[0].decode() == expected.labels[int(np.argmax(expected.probabilities))])
    return {"max_log_probability_difference": float(np.max(differences)), "top_1_agreement": float(np.mean(agreeing))}


class Served(tf.Module):
    """What a SavedModel holds: the graph, and the vocabulary as assets."""

    def __init__(self, answering, run_dir):
        super().__init__(name="served")
        self.answering = answering
        self.vocab_txt = tf.saved_model.Asset(os.path.join(run_dir, vocab_lib.VOCAB_FILE))
        self.tokenizer_json = tf.saved_model.Asset(os.path.join(run_dir, vocab_lib.TOKENIZER_FILE))


def _slices(columns, names):
    """Requests of a few rows each: [{input name: list of bytes}]."""
    return [
        {name: column[i : i + _BATCH] for name, column in zip(names, columns)}
        for i in range(0, len(columns[0]), _BATCH)
    ]


def _joined(parts):
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def _proof(loaded, answering):
    """How an export is compared: a `words.Proof`."""
    if loaded.task.kind in words.KINDS:
        return words.proof(loaded)
    columns = texts(len(answering.inputs))
    expected = reference(loaded, columns)
    return words.Proof(columns, lambda parts: compare(_joined(parts), *expected), COMPARED)


def write_saved_model(folder, loaded, answering, model_name):
    """Writes a SavedModel with one signature, reloads it as servers do, and adds parity.json.

    Args:
        folder: Where to.
        loaded: The `inference.Loaded`.
        answering: Of its task's `serve`.
        model_name: For the warm-up requests.

    Returns:
        {loader: {"serving_default": differences}}.

    Raises:
        InputError: an answer differs.
    """
    served = Served(answering, loaded.run.dir)
    tf.saved_model.save(served, folder, signatures={"serving_default": answering.signature()})
    warm = [("serving_default", {name: [b"warm up"] * n for name in answering.inputs}) for n in (1, 8)]
    serving.write_warmup(folder, model_name, warm)
    proof = _proof(loaded, answering)
    requests = [("serving_default", request) for request in _slices(proof.columns, answering.inputs)]
    found = {}
    for name, load in {"v1_session": loaders.v1_session, "c_api": loaders.c_api}.items():
        found[name] = {"serving_default": proof.compare(load(folder, requests))}
        parity.require_close(found[name]["serving_default"], parity.TOLERANCE, name)
    settings = {"top_k": answering.top_k, "max_seq_length": answering.max_seq_length}
    more = {"compared": proof.compared, "settings": settings}
    parity.write(os.path.join(folder, parity.FILE), loaded.run, loaded.step, found, **more)
    return found


def check_tflite(path, loaded, answering):
    """Runs a .tflite and compares it with the reference: {name: float}."""
    model = loaders.Lite(path)
    columns = texts(len(answering.inputs))
    answers = _joined([model.run(**request) for request in _slices(columns, answering.inputs)])
    return compare(answers, *reference(loaded, columns))


def answering_of(loaded, max_seq_length, top_k):
    """The module that answers for a fine-tuned run.

    Raises:
        InputError: its task cannot be exported, or a length is too large.
    """
    serve = loaded.task.serve
    checks.require(serve, "a task must be one that can be exported", f"{loaded.task.kind}", loaded.run.dir)
    longest = loaded.max_seq_length
    checks.require(
        max_seq_length in (None, longest),
        "a fine-tuned run is exported with the length that it was trained on",
        f"max_seq_length={max_seq_length}, and {longest}",
    )
    return serve(loaded.model, loaded.run.vocab, longest, top_k)
