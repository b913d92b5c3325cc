"""Proofs of the signatures that every run has: embeddings, states, ids in, wordpieces and back.

What they are compared with is made by the Keras model on rows packed in NumPy; wordpieces by the tokenizer of
`tfbert.text`, called on one text at a time.
"""

import numpy as np
import tensorflow as tf

from export import parity, signatures
from tfbert.text import vocab as vocab_lib

COMPARED = "the encoder's outputs with the run folder's Keras model (float32) on rows packed and padded in NumPy"
WORDPIECES = "wordpieces with those of each text alone; texts with wordpieces joined in Python"
STATES = ("sequence_output", "pooled_output")


def _difference(found, expected):
    """The largest difference of two arrays; NaN if there is one."""
    return float(np.max(np.abs(np.asarray(found, np.float64) - expected), initial=0.0))


def _compare_states(answers, outputs, mask):
    """Largest differences of a model's outputs, over what is not padding: {"max_..._difference": float}."""
    length = answers["sequence_output"].shape[1]
    parity.require_equal(mask[:, length:].any(), False, "length of sequence_output")
    real = mask[:, :length].astype(bool)
    found = {}
    for name, expected in outputs.items():
        answer = answers[name]
        if expected.ndim > 2:  # something for each wordpiece
            answer, expected = answer[:, :length][real], expected[:, :length][real]
        found[f"max_{name}_difference"] = _difference(answer, expected)
    return found


def _of_rows(packed, outputs, with_mask):
    """What compares the answers about whole rows with a model's outputs of them."""
    mask = packed.features["input_mask"]

    def compare(answers):
        joined = parity.joined(answers)
        if with_mask:
            length = joined["input_mask"].shape[1]
            # What fills answers of a shorter batch up is -1, and so is no wordpiece.
            parity.require_equal(np.maximum(joined["input_mask"], 0), mask[:, :length], "input_mask")
            parity.require_equal(joined["truncated"], packed.truncated, "truncated")
        return _compare_states(joined, outputs, mask)

    return compare


def _embeddings(packed, outputs, served):
    """The embeddings of texts, float64 [B, D], as the top of `export.saved_model` says they are made."""
    if served.pooling == "pooled":
        rows = outputs["pooled_output"].astype(np.float64)
    else:
        states, mask = outputs["sequence_output"].astype(np.float64), packed.features["input_mask"][..., np.newaxis]
        rows = states[:, 0] if served.pooling == "cls" else (states * mask).sum(1) / mask.sum(1)
    found = np.stack([rows[packed.text == i].mean(0) for i in range(len(packed.truncated))])
    return found / np.linalg.norm(found, axis=-1, keepdims=True) if served.normalize else found


def proofs(served, model, texts, compare_masks=None):
    """{signature: `parity.Proof`} of embed, encode and from_ids.

    Args:
        served: A `signatures.Served`.
        model: The Keras model, in float32.
        texts: List of `bytes`.
        compare_masks: Of `parity.of_masks`, if from_ids answers the same masks.
    """
    of, vocab = served.answering, served.answering.vocab
    ids = of.tokenizer.tokenize(tf.constant(texts, tf.string), of.special_tokens).to_list()
    cut = "head" if of.truncation == "windows" else of.truncation
    rows, packed = (parity.pack(ids, of.max_seq_length, vocab, how) for how in (cut, of.truncation))
    outputs = parity.in_batches(model, rows.features)
    of_packed = outputs if cut == of.truncation else parity.in_batches(model, packed.features)
    expected = _embeddings(packed, of_packed, served)

    def compare_embeddings(answers):
        joined = parity.joined(answers)
        parity.require_equal(joined["truncated"], packed.truncated, "truncated")
        return {"max_embedding_difference": _difference(joined["embedding"], expected)}

    states = {name: outputs[name] for name in STATES if name in outputs}
    raw = {name: x for name, x in outputs.items() if name != "masked_lm_logits"}
    features = {name: rows.features[name] for name in signatures.IDS}
    of_rows = _of_rows(rows, raw, False)

    def compare_ids(answers):
        return {**of_rows(answers), **(compare_masks(answers) if compare_masks else {})}

    return {
        "embed": parity.Proof(parity.requests(text=texts), compare_embeddings, COMPARED),
        "encode": parity.Proof(parity.requests(text=texts), _of_rows(rows, states, True), COMPARED),
        "from_ids": parity.Proof(parity.requests(**features), compare_ids, COMPARED),
    }


def written(ids, vocab):
    """The text of ids, as `Served.detokenize` writes it."""
    words = []
    for token in (vocab.tokens[i] for i in ids if i >= 0):
        if token in (vocab_lib.CLS, vocab_lib.SEP, vocab_lib.PAD):
            continue
        if token.startswith(vocab_lib.SUFFIX) and len(token) > len(vocab_lib.SUFFIX):
            words[-1:] = [(words[-1] if words else "") + token.removeprefix(vocab_lib.SUFFIX)]
        else:
            words.append(token)
    return " ".join(words)


def wordpieces(served, texts):
    """{signature: `parity.Proof`} of tokenize and detokenize; arguments as of `proofs`."""
    of, vocab = served.answering, served.answering.vocab
    room = of.max_seq_length - 2
    expected = [of.tokenizer.tokenize_with_offsets(tf.constant([text]), of.special_tokens) for text in texts]
    expected = [[x[0].numpy().tolist() for x in (t.ids, t.starts, t.ends)] for t in expected]

    def compare_pieces(answers):
        joined = parity.joined(answers)
        for i, columns in enumerate(expected):
            for name, column in zip(("ids", "starts", "ends"), columns):
                kept = column[:room]
                parity.require_equal(joined[name][i, : len(kept)], kept, f"{name} of text {i}")
                parity.require_equal((joined[name][i, len(kept) :] == -1).all(), True, f"{name} after text {i}")
            parity.require_equal(joined["count"][i], len(columns[0]), f"count of text {i}")
        return {"wordpieces": sum(len(columns[0]) for columns in expected)}

    width = max(len(columns[0][:room]) for columns in expected) + 2
    rows = np.full([len(texts), width], vocab.pad_id, np.int32)
    for i, (ids, *_) in enumerate(expected):
        row = [vocab.cls_id, *ids[:room], vocab.sep_id]
        rows[i, : len(row)] = row

    def compare_texts(answers):
        found = [text.decode() for text in parity.joined(answers)["text"]]
        parity.require_equal(found, [written(row, vocab) for row in rows], "text")
        return {"texts": len(found)}

    return {
        "tokenize": parity.Proof(parity.requests(text=texts), compare_pieces, WORDPIECES),
        "detokenize": parity.Proof(parity.requests(input_ids=rows), compare_texts, WORDPIECES),
    }


def chosen(served, expected, texts):
    """{"choose": `parity.Proof`}: candidates that the vocabulary has, some that it has not.

    Args:
        served: A `signatures.Served` of masks.
        expected: Of `parity.reference`.
        texts: List of `bytes`.
    """
    vocab = served.answering.vocab
    known = [t for t in vocab.tokens if t.isascii() and t.isalpha() and t == t.lower()][:7]
    candidates = np.array([[*known, "no such word", ""]] * len(texts), object)

    def compare(answers):
        joined, differences = parity.joined(answers), [0.0]
        for i, (positions, log_p) in enumerate(zip(expected["positions"], expected["log_probabilities"])):
            masks = len(positions)
            parity.require_equal(joined["positions"][i, :masks], positions, f"positions of text {i}")
            ids = joined["ids"][i, :masks]
            parity.require_equal(
                np.sort(ids, -1), [sorted([-1, -1, *(vocab.ids[t] for t in known)])] * masks or ids, "ids"
            )
            p = np.where(ids >= 0, np.exp(np.take_along_axis(log_p, np.maximum(ids, 0), -1)), 0)
            found = joined["probabilities"][i, :masks]
            parity.require_equal((np.diff(found, axis=-1) <= 0).all(), True, f"order of text {i}")
            differences.append(_difference(found, p))
        return {"max_chosen_probability_difference": max(differences)}

    requests = parity.requests(text=texts, candidates=candidates)
    return {"choose": parity.Proof(requests, compare, "probabilities with those of the run folder's Keras model")}
