"""Proves exports of runs that label texts, or score them.

The reference takes the folder's Keras model and tokenizer, packs in NumPy, pads every row to the full length and
decodes in float64, so that it shares no code with the graph that is exported (`tfbert.tasks.served_sentences`).
"""

import numpy as np
import tensorflow as tf

from export import parity

COMPARED = (
    "log-probabilities or scores with the run folder's Keras model (float32), packed, padded to max_seq_length and "
    "normalised in NumPy"
)


def texts(count):
    """The rows that exports are compared on: a list of `bytes` for each of `count` inputs."""
    rows = parity.texts()
    return [rows[i * 7 :] + rows[: i * 7] for i in range(count)]


def _pairs(ids, longest, vocab):
    """The features of pairs [CLS] A [SEP] B [SEP], and whether each was cut."""
    count = len(ids[0])
    features = {name: np.zeros([count, longest], np.int32) for name in ("input_ids", "input_mask", "segment_ids")}
    features["input_ids"][:] = vocab.pad_id
    truncated = []
    for i, segments in enumerate(zip(*ids, strict=True)):
        segments = [list(segment) for segment in segments]
        truncated.append(sum(map(len, segments)) + 3 > longest)
        while sum(map(len, segments)) + 3 > longest:
            # The longer one, the second if both are equal.
            max(reversed(segments), key=len).pop()
        row, of = [vocab.cls_id], [0]
        for number, segment in enumerate(segments):
            row += [*segment, vocab.sep_id]
            of += [number] * (len(segment) + 1)
        for name, values in zip(features, (row, [1] * len(row), of)):
            features[name][i, : len(row)] = values
    return features, np.array(truncated)


def _chunks(ids, longest, most, vocab):
    """The features of texts as chunks, and whether each was cut."""
    count, room = len(ids), longest - 2
    features = {
        name: np.zeros([count, most * longest], np.int32) for name in ("input_ids", "input_mask", "segment_ids")
    }
    features["input_ids"][:] = vocab.pad_id
    for i, pieces in enumerate(ids):
        for k in range(most):
            piece = pieces[k * room : (k + 1) * room]
            if piece or k == 0:
                row = [vocab.cls_id, *piece, vocab.sep_id]
                features["input_ids"][i, k * longest :][: len(row)] = row
                features["input_mask"][i, k * longest :][: len(row)] = 1
    return features, np.array([len(pieces) > most * room for pieces in ids])


def reference(loaded, columns, truncation):
    """What the run folder's model says, without the exported graph: ([prediction], truncated bool [N]).

    Args:
        loaded: An `inference.Loaded`.
        columns: Of `texts`.
        truncation: What becomes of single texts that are too long.
    """
    vocab, longest = loaded.run.vocab, loaded.max_seq_length
    ids = [loaded.tokenizer.tokenize(tf.constant(column, tf.string)).to_list() for column in columns]
    if len(ids) == 2 or loaded.task.max_chunks > 1:
        chunked = loaded.task.max_chunks > 1
        features, truncated = (
            _chunks(*ids, longest, loaded.task.max_chunks, vocab) if chunked else _pairs(ids, longest, vocab)
        )
        outputs = parity.in_batches(loaded.model, features)
    else:
        packed = parity.pack(ids[0], longest, vocab, truncation)
        truncated = packed.truncated
        of_rows = parity.in_batches(loaded.model, packed.features)["logits"]
        number = range(len(ids[0]))
        outputs = {"logits": np.stack([of_rows[packed.text == i].mean(0) for i in number])}
    rows = None  # nothing to be told
    return loaded.task.decode({name: outputs[name] for name in loaded.task.outputs}, rows, rows), truncated


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


def proof(loaded, answering):
    """The `parity.Proof` of an `inference.Loaded` whose task is one of texts, and of what is exported."""
    columns = texts(len(answering.inputs))
    expected = reference(loaded, columns, answering.truncation)
    requests = parity.requests(**dict(zip(answering.inputs, columns)))
    return parity.Proof(requests, lambda answers: compare(parity.joined(answers), *expected), COMPARED)
