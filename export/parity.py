"""Proves that an export answers as its run folder does, and writes parity.json.

The reference takes the run folder's Keras model and tokenizer and does the rest in NumPy: it packs,
pads every text to the full length and takes the softmax in float64. It shares no code with the graph
that is exported (`tfbert.fill_mask`), so a slip there is seen here.
"""

import json
import os
import platform

import keras
import numpy as np
import tensorflow as tf
import tensorflow_text as tf_text

from tfbert import checks, fill_mask
from tfbert.text import tokenizer
from tfbert.text import vocab as vocab_lib

FILE = "parity.json"
# Of log-probabilities and of the elements of the encoder's outputs. Logits of float32 models, computed
# by other kernels and with other padding, were seen to differ by some 1e-6 to 1e-5.
TOLERANCE = 1e-4
_LEAST = 1e-30  # float32 has no much smaller probability, so below it the logarithms cannot be compared

_SENTENCES = (
    "The quick brown fox jumps over the lazy dog near the old bridge.",
    "Returns the number of elements in the list, or zero if it is empty.",
    "She opened the door and saw that the garden was full of snow.",
    "The function raises an error when the file does not exist.",
    "In 1969 two people walked on the Moon for the first time.",
    "Le café était fermé, naïve Schüler warteten draußen in Zürich.",
)
_EDGES = (
    "",
    "A text without any mask.",
    "[MASK]",
    "[MASK][MASK] and x[MASK]y, but not [mask] or [ MASK ].",
    "A user may type [SEP] or [CLS] beside a [MASK].",
    "東京は[MASK]の首都です。 Москва [MASK] 🙂",
    b"bytes \xff\xfe that are not UTF-8, then [MASK]",
    "[MASK] " * 64,
    "word " * 600 + "[MASK]",
)


def texts():
    """The texts that exports are compared on: sentences with each third word masked, and hard cases."""
    masked = []
    for sentence in _SENTENCES:
        words = sentence.split()
        for i in range(0, len(words), 3):
            masked.append(" ".join([*words[:i], vocab_lib.MASK, *words[i + 1 :]]))
    return [t if isinstance(t, bytes) else t.encode() for t in (*masked, *_EDGES)]


def reference(model, vocab, max_seq_length, max_masks, rows):
    """What the run folder's model says, without the exported graph.

    Args:
        model: Keras model of `heads.build_pretrainer`.
        vocab: Its `Vocab`.
        max_seq_length: L; each row is padded to it.
        max_masks: The most masks of a row that are scored.
        rows: A list of `bytes`.

    Returns:
        A dict: "input_ids", "input_mask", "segment_ids" int32 [B, L]; "sequence_output", "pooled_output";
        "mask_count" [B], "truncated" [B]; "positions", a list of B arrays; "log_probabilities", a list of
        B float64 arrays [masks, V].
    """
    ids = tokenizer.Tokenizer(vocab).tokenize(tf.constant(rows, tf.string), special_tokens=(vocab_lib.MASK,)).to_list()
    input_ids = np.full([len(rows), max_seq_length], vocab.pad_id, np.int32)
    input_mask = np.zeros_like(input_ids)
    for i, row in enumerate(ids):
        packed = [vocab.cls_id, *row[: max_seq_length - 2], vocab.sep_id]
        input_ids[i, : len(packed)], input_mask[i, : len(packed)] = packed, 1
    positions = [np.flatnonzero(row == vocab.mask_id)[:max_masks] for row in input_ids]
    padded = np.zeros([len(rows), max([1, *map(len, positions)])], np.int32)
    for i, row in enumerate(positions):
        padded[i, : len(row)] = row
    features = {"input_ids": input_ids, "input_mask": input_mask, "segment_ids": np.zeros_like(input_ids)}
    outputs = in_batches(model, {**features, "masked_lm_positions": padded})
    logits = outputs["masked_lm_logits"].astype(np.float64)
    logits -= logits.max(-1, keepdims=True, initial=-np.inf)
    log_probabilities = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    return {
        **features,
        "sequence_output": outputs["sequence_output"],
        "pooled_output": outputs["pooled_output"],
        "mask_count": np.array([row.count(vocab.mask_id) for row in ids], np.int32),
        "truncated": np.array([len(row) > max_seq_length - 2 for row in ids], bool),
        "positions": positions,
        "log_probabilities": [p[: len(row)] for p, row in zip(log_probabilities, positions)],
    }


def in_batches(model, inputs, size=8):
    """The model's outputs, `size` rows at a time: the scores of all rows at once may not fit into memory."""
    parts = []
    for i in range(0, len(inputs["input_ids"]), size):
        parts.append(model({name: value[i : i + size] for name, value in inputs.items()}, training=False))
    return {name: np.concatenate([np.asarray(p[name]) for p in parts]) for name in parts[0]}


def compare(answers, expected, vocab):
    """Compares an export's answers for masks with the reference.

    Ties do not matter: each answer's probability is compared with the reference's for the same id, and
    the k-th best of the answers with the k-th best of the reference.

    Args:
        answers: Outputs of `FillMask`, as arrays.
        expected: Of `reference`, for the same texts.
        vocab: The `Vocab`.

    Returns:
        {"masks", "max_probability_difference", "max_log_probability_difference", "top_1_agreement"}.

    Raises:
        InputError: what is not a score differs: positions, counts, the flag of cut texts, the strings.
    """
    differences, logs, agree = [0.0], [0.0], []
    for name in ("mask_count", "truncated"):
        if name in answers:
            require_equal(answers[name], expected[name], name)
    for i, (positions, log_p) in enumerate(zip(expected["positions"], expected["log_probabilities"])):
        masks, k = len(positions), answers["ids"].shape[-1]
        require_equal(answers["positions"][i, :masks], positions, f"positions of text {i}")
        ids, p = answers["ids"][i, :masks], answers["probabilities"][i, :masks].astype(np.float64)
        words = [[vocab.tokens[j].encode() for j in row] for row in ids]
        require_equal(answers["tokens"][i, :masks].tolist(), words, f"tokens of text {i}")
        rest = answers["positions"][i, masks:], answers["ids"][i, masks:]
        require_equal([np.all(r == fill_mask.NO_ID) for r in rest], [True, True], f"padding of text {i}")
        if not masks:
            continue
        same_id, best = np.take_along_axis(log_p, ids, -1), -np.sort(-log_p, -1)[:, :k]
        for other in (same_id, best):
            differences.append(np.abs(p - np.exp(other)).max())
            logs.append(np.abs(np.log(np.maximum(p, _LEAST)) - np.maximum(other, np.log(_LEAST))).max())
        agree.extend(log_p.argmax(-1) == ids[:, 0])
    return {
        "masks": len(agree),
        "max_probability_difference": float(np.max(differences)),
        "max_log_probability_difference": float(np.max(logs)),
        "top_1_agreement": float(np.mean(agree)) if agree else 1.0,
    }


def compare_states(answers, expected):
    """Largest difference of the encoder's outputs, over what is not padding.

    Args:
        answers: {"sequence_output", "pooled_output"}; its rows may be shorter than the reference's.
        expected: Of `reference`.

    Returns:
        {"max_sequence_output_difference", "max_pooled_output_difference"}.
    """
    length = answers["sequence_output"].shape[1]
    require_equal(expected["input_mask"][:, length:].any(), False, "length of sequence_output")
    real = expected["input_mask"][:, :length].astype(bool)
    sequence = np.abs(answers["sequence_output"] - expected["sequence_output"][:, :length])[real]
    pooled = np.abs(answers["pooled_output"] - expected["pooled_output"])
    return {
        "max_sequence_output_difference": float(sequence.max(initial=0.0)),
        "max_pooled_output_difference": float(pooled.max(initial=0.0)),
    }


def merge(parts):
    """Differences of a whole from those of its parts: the largest, and the mean over masks."""
    # NumPy's max and not Python's, which may lose a NaN.
    merged = {name: float(np.max([p[name] for p in parts])) for name in parts[0]}
    if "masks" in merged:
        merged["masks"] = sum(p["masks"] for p in parts)
        agreeing = sum(p["top_1_agreement"] * p["masks"] for p in parts)
        merged["top_1_agreement"] = agreeing / merged["masks"]
    return merged


def require_equal(got, expected, what):
    """Raises an `InputError` unless an export's `what` is the reference's."""
    checks.require(
        np.array_equal(got, expected),
        f"the export's {what} must be the run folder's: {np.asarray(expected).tolist()}",
        np.asarray(got).tolist(),
    )


def require_close(differences, tolerance, where):
    """Raises `InputError` if a difference is above the tolerance; NaN is above every tolerance."""
    for name, value in differences.items():
        if name.startswith("max_") and name != "max_probability_difference":
            checks.require(
                value <= tolerance, "the export's scores must equal the run folder's", f"{name}={value:.3g}", where
            )


def write(path, run, step, comparisons, **more):
    """Writes parity.json.

    Args:
        path: Of the file.
        run: The `RunFolder` that was exported.
        step: The checkpoint's step.
        comparisons: {loader: {signature: differences}}.
        **more: Anything else that belongs there (sizes, flags).
    """
    about = {
        "run_dir": os.path.basename(os.path.abspath(run.dir)),  # its name alone: an export goes to other machines
        "checkpoint_step": int(step),
        "tokenizer_digest": run.vocab.digest,
        "texts": len(texts()),
        "tolerance": TOLERANCE,
        "compared": "log-probabilities and encoder outputs with the run folder's Keras model (float32), "
        "packed, padded to max_seq_length and normalised in NumPy",
        "loaders": comparisons,
        "versions": {
            "python": platform.python_version(),
            "tensorflow": tf.__version__,
            "tensorflow-text": tf_text.__version__,
            "keras": keras.__version__,
        },
        **more,
    }
    with open(path, "w", encoding="utf-8") as f:
        f.write(json.dumps(about, indent=2) + "\n")
