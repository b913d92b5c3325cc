"""Proves that an export answers as its run folder does, and writes parity.json.

Each signature has a `Proof`: requests, and what compares the answers with a reference. The reference takes the run
folder's Keras model and tokenizer and does the rest in NumPy: it packs, pads every text to the full length and takes
the softmax in float64. It shares no code with the graph that is exported (`tfbert.fill_mask`), so a slip there is seen
here. The proofs are here (masks), in `export.states`, `export.tasks` and `export.words`.
"""

import hashlib
import json
import os
import platform
import shutil
import subprocess
from collections.abc import Callable
from typing import NamedTuple

import keras
import numpy as np
import tensorflow as tf
import tensorflow_text as tf_text

from tfbert import checks, config, fill_mask
from tfbert.tasks import windows
from tfbert.text import tokenizer
from tfbert.text import vocab as vocab_lib

FILE = "parity.json"
# Of log-probabilities and of the elements of the encoder's outputs. Logits of float32 models, computed
# by other kernels and with other padding, were seen to differ by some 1e-6 to 1e-5.
TOLERANCE = 1e-4
BATCH = 8  # rows a request
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


class Proof(NamedTuple):
    """How a signature of an export is compared with its run folder.

    Attributes:
        requests: List of {input name: array or list}.
        compare: A list of answers to them, {output name: array} each -> {name: difference}. It raises an `InputError`
            if what is no score differs.
        compared: What is compared with what, for parity.json.
    """

    requests: list
    compare: Callable
    compared: str


def requests(**columns):
    """Requests of a few rows each, of whole columns of the same length."""
    count = len(next(iter(columns.values())))
    return [{name: c[i : i + BATCH] for name, c in columns.items()} for i in range(0, count, BATCH)]


def prove(proofs, answer, where, tolerance=TOLERANCE):
    """Asks an export and compares what it says.

    Args:
        proofs: {signature: `Proof`}.
        answer: A list of (signature, inputs) -> list of {output name: array}.
        where: Through what the export is asked, for errors.
        tolerance: The largest difference, or None where differences are only told.

    Returns:
        {signature: {name: difference}}.

    Raises:
        InputError: a score differs by more, or something that is no score differs.
    """
    asked = [(signature, inputs) for signature, proof in proofs.items() for inputs in proof.requests]
    answers, found = iter(answer(asked)), {}
    for signature, proof in proofs.items():
        found[signature] = proof.compare([next(answers) for _ in proof.requests])
        if tolerance is not None:
            require_close(found[signature], tolerance, f"{where}, signature {signature}")
    return found


def joined(parts):
    """Answers to several requests as one: {name: array}; rows that have less than others are filled up as in each."""
    found = {}
    for name in parts[0]:
        arrays = [part[name] for part in parts]
        shape = np.max([a.shape[1:] for a in arrays], 0, initial=0).astype(int) if arrays[0].ndim > 1 else ()
        fill = {"O": b"", "S": b"", "i": -1, "f": 0.0}.get(arrays[0].dtype.kind, 0)
        found[name] = np.concatenate(
            [
                np.pad(a, [(0, 0), *((0, n - m) for n, m in zip(shape, a.shape[1:]))], constant_values=fill)
                for a in arrays
            ]
        )
    return found


class Packed(NamedTuple):
    """Rows [CLS] A [SEP], made in NumPy.

    Attributes:
        features: {"input_ids", "input_mask", "segment_ids"}: int32 [N, L], all of the full length.
        text: int [N], which text a row is of.
        places: List of N int arrays, the wordpieces of the text that the row has.
        best: List of N bool arrays, whether the row is the one that counts for them.
        truncated: bool [B].
    """

    features: dict
    text: np.ndarray
    places: list
    best: list
    truncated: np.ndarray


def pack(ids, longest, vocab, truncation="head"):
    """The `Packed` of lists of wordpieces; the arguments as of `tfbert.text.packing.cutting`."""
    room, text, places, best = longest - 2, [], [], []
    for i, row in enumerate(ids):
        place = np.arange(len(row))
        parts, counts = [place], [np.ones(len(row), bool)]
        if len(row) > room and truncation == "windows":
            cuts = windows.cut(len(row), room, max(1, room // 2))
            number = windows.best(cuts, len(row))
            parts = [place[a:b] for a, b in cuts]
            counts = [number[a:b] == n for n, (a, b) in enumerate(cuts)]
        elif len(row) > room:
            first = {"head": room, "tail": 0, "head_tail": longest // 4}[truncation]
            parts = [np.concatenate([place[:first], place[len(row) - (room - first) :]])]
            counts = [np.ones(room, bool)]
        text += [i] * len(parts)
        places += parts
        best += counts
    features = {name: np.zeros([len(text), longest], np.int32) for name in ("input_ids", "input_mask", "segment_ids")}
    features["input_ids"][:] = vocab.pad_id
    for n, (i, place) in enumerate(zip(text, places)):
        packed = [vocab.cls_id, *np.asarray(ids[i], np.int32)[place], vocab.sep_id]
        features["input_ids"][n, : len(packed)], features["input_mask"][n, : len(packed)] = packed, 1
    truncated = np.array([len(row) > room and truncation != "windows" for row in ids], bool)
    return Packed(features, np.array(text, int), places, best, truncated)


def reference(model, vocab, max_seq_length, max_masks, rows, truncation="head"):
    """What the run folder's model says, without the exported graph.

    Args:
        model: Keras model of `heads.build_pretrainer`.
        vocab: Its `Vocab`.
        max_seq_length: L; each row is padded to it.
        max_masks: The most masks of a text that are scored.
        rows: A list of B `bytes`.
        truncation: What becomes of texts that are too long.

    Returns:
        A dict: "input_ids", "input_mask", "segment_ids" int32 [N, L]; "sequence_output", "pooled_output", of N rows;
        "mask_count" [B], "truncated" [B]; "positions", a list of B arrays, places in the text from 1;
        "log_probabilities", a list of B float64 arrays [masks, V].
    """
    ids = tokenizer.Tokenizer(vocab).tokenize(tf.constant(rows, tf.string), special_tokens=(vocab_lib.MASK,)).to_list()
    packed = pack(ids, max_seq_length, vocab, truncation)
    columns = [  # at most max_masks of a row can be among the first of its text
        [1 + c for c, place in enumerate(places) if best[c] and ids[i][place] == vocab.mask_id][:max_masks]
        for i, places, best in zip(packed.text, packed.places, packed.best)
    ]
    padded = np.zeros([len(columns), max([1, *map(len, columns)])], np.int32)
    for n, row in enumerate(columns):
        padded[n, : len(row)] = row
    outputs = in_batches(model, {**packed.features, "masked_lm_positions": padded})
    logits = outputs["masked_lm_logits"].astype(np.float64)
    logits -= logits.max(-1, keepdims=True, initial=-np.inf)
    log_probabilities = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    positions, scores = [[] for _ in rows], [[] for _ in rows]
    for n, (i, row) in enumerate(zip(packed.text, columns)):
        positions[i] += [1 + packed.places[n][c - 1] for c in row]
        scores[i].append(log_probabilities[n, : len(row)])
    return {
        **packed.features,
        "sequence_output": outputs["sequence_output"],
        "pooled_output": outputs["pooled_output"],
        "mask_count": np.array([row.count(vocab.mask_id) for row in ids], np.int32),
        "truncated": packed.truncated,
        "positions": [np.array(row[:max_masks], int) for row in positions],
        "log_probabilities": [np.concatenate(parts)[:max_masks] for parts in scores],
    }


def of_masks(expected, vocab, columns, compared):
    """The `Proof` of a signature that fills masks.

    Args:
        expected: Of `reference`.
        vocab: The `Vocab`.
        columns: {input name: column}.
        compared: What is compared with what.
    """
    names = ("mask_count", "truncated", "positions", "log_probabilities")
    count = len(expected["positions"])
    slices = [{n: expected[n][i : i + BATCH] for n in names} for i in range(0, count, BATCH)]

    def compare_all(answers):
        return merge([compare(*both, vocab) for both in zip(answers, slices, strict=True)])

    return Proof(requests(**columns), compare_all, compared)


def in_batches(model, inputs, size=8):
    """The model's outputs, `size` rows at a time: the scores of all rows at once may not fit into memory."""
    if "masked_lm_positions" in {x.name for x in model.inputs}:
        inputs = {"masked_lm_positions": np.zeros([len(inputs["input_ids"]), 1], np.int32), **inputs}
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


def _commit():
    """The commit of this checkout; "" where there is none."""
    root = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    if not (os.path.exists(os.path.join(root, ".git")) and shutil.which("git")):
        return ""
    command = ["git", "-C", root, "rev-parse", "HEAD"]
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()


def digests(folder):
    """{path within a folder: {"bytes", "sha256"}} of all of its files, sorted."""
    found = {}
    for place, folders, names in os.walk(folder):
        folders.sort()
        for name in names:
            path, digest = os.path.join(place, name), hashlib.sha256()
            with open(path, "rb") as f:
                while block := f.read(1 << 20):
                    digest.update(block)
            found[os.path.relpath(path, folder)] = {"bytes": os.path.getsize(path), "sha256": digest.hexdigest()}
    return dict(sorted(found.items()))


def write(path, run, step, comparisons, proofs, files, tolerance=TOLERANCE, **more):
    """Writes parity.json.

    Args:
        path: Of the file.
        run: The `RunFolder` that was exported.
        step: The checkpoint's step.
        comparisons: {loader: {signature: differences}}.
        proofs: {signature: `Proof`}.
        files: Of `digests`.
        tolerance: Of `prove`.
        **more: Anything else that belongs there (sizes, flags).
    """
    about = {
        "run_dir": os.path.basename(os.path.abspath(run.dir)),  # its name alone: an export goes to other machines
        "checkpoint_step": int(step),
        "tokenizer_digest": run.vocab.digest,
        "texts": len(texts()),
        "tolerance": tolerance,
        "compared": {signature: proof.compared for signature, proof in proofs.items()},
        "loaders": comparisons,
        "config": config.to_dict(run.encoder),
        "commit": _commit(),
        "versions": {
            "python": platform.python_version(),
            "tensorflow": tf.__version__,
            "tensorflow-text": tf_text.__version__,
            "keras": keras.__version__,
        },
        **more,
        "files": files,
    }
    with open(path, "w", encoding="utf-8") as f:
        f.write(json.dumps(about, indent=2) + "\n")


def settings(folder):
    """How an export takes texts, as its parity.json says: a dict, empty where there is no such file."""
    path = os.path.join(folder, FILE)
    if not os.path.isfile(path):
        return {}
    with open(path, encoding="utf-8") as f:
        return json.load(f).get("settings", {})


def threads(folder, cores):
    """How many threads a SavedModel is to have for one operation, and for operations side by side: (int, int).

    Of layers in parts (`--tensor_parallelism`) each part is computed by a thread of its own; without, it is () and
    TensorFlow's own choice is good.

    Args:
        folder: The SavedModel.
        cores: That there are.
    """
    parts = settings(folder).get("tensor_parallelism", 1)
    return (max(1, cores // parts), cores) if parts > 1 else ()
