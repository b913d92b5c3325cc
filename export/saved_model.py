"""Exports a run folder as a SavedModel for TensorFlow Serving, raw strings in; proves it by reloading.

    python -m export.saved_model --run_dir=/tmp/run --output_dir=/tmp/bert

writes /tmp/bert/1 (the next free number, as TensorFlow Serving counts versions; made aside and renamed,
so that a server never sees half of one) with these signatures. B is the rows of a request.

serving_default, of a pre-trained run: text string [B] ->
    for each of the M masks that the batch's fullest row has (at least 1, at most --max_masks):
    tokens string, ids int32 and probabilities float32 [B, M, K], likeliest first;
    positions int32 [B, M] of the masks among the wordpieces of the text, from 1;
    where a row has no such mask they hold "", -1, 0.0 and -1;
    mask_count int32 [B], masks in the whole text, also those that were not answered because the text was
    cut or has more than --max_masks; truncated bool [B].
serving_default, of a fine-tuned run:
    classes: text string [B] (and text_pair string [B], of pairs) -> labels string and probabilities float32 [B, K],
        likeliest first; or score float32 [B]; truncated.
    tags: text string [B] -> words and tags string [B, W], starts and ends int32 (bytes of the text; -1 after the last
        word), probabilities float32, truncated.
    questions: question and context string [B] -> answer string [B], answer_start and answer_end int32 [B] (bytes of the
        context; -1 for no answer), and the K best answers string [B, K] with starts, ends, scores and probabilities;
        null_odds float32 [B] if there may be no answer; truncated.
choose, of a pre-trained run: text string [B], candidates string [B, C] -> what serving_default gives, from these alone,
    K = C. What is not one wordpiece (or "", which fills rows up) comes last with the id -1 and probability 0.
Of every run, but that embed, encode and from_ids are not there where it was trained on texts in chunks:
embed: text string [B] -> embedding float32 [B, D] of --pooling, divided by its length with --normalize; truncated.
encode: text string [B] -> sequence_output float32 [B, L, D], pooled_output float32 [B, D] (where there is a pooler),
    input_mask int32 [B, L] (L is the longest row of the batch), truncated bool [B].
from_ids: input_ids, input_mask, segment_ids int32 [B, L] -> all that the model gives: sequence_output, pooled_output,
    logits float32; of a pre-trained run next_sentence_logits float32 [B, 2] (0: is next, 1: random), and tokens, ids,
    probabilities, positions as above (columns of input_ids) for the ids that are [MASK].
tokenize: text string [B] -> ids int32 and tokens string [B, T], starts and ends int32 (bytes), -1 or "" after the last;
    count int32 [B], those of the whole text; truncated, if it has more than a row of the model has room for.
detokenize: input_ids int32 [B, L] -> text string [B].

`truncated` says whether something of a text was left out: what is beyond --max_input_bytes (strings are cut there
between two characters, before anything else is done with them), or beyond --max_seq_length in the way of --truncation.
In windows nothing is left out: a mask or word is answered in the one that has most context of it, and logits and
embeddings are means.

With --tf_hub there are two more SavedModels in tf_hub/: see `export.tf_hub`. With --dtype=bfloat16 scores are float32
still, and parity.json says how far they are from those of float32.

`[MASK]` is recognised as it is written here, in pre-trained runs; no other special token is. vocab.txt and
tokenizer.json are in assets/, warm-up requests in assets.extra/, and parity.json says how each signature was compared,
and the SHA-256 of each file.
"""

from tfbert import quiet  # isort: skip  # noqa: F401 (first: it holds back start-up noise)

import dataclasses
import functools
import os
import tempfile
import time

import tensorflow as tf

from export import audit, fused_model, loaders, parity, prepared, serving, signatures, states, tf_hub
from tfbert import checks, config, heads
from tfbert.text import packing

LOADERS = {"v1_session": loaders.v1_session, "c_api": loaders.c_api}


@dataclasses.dataclass(frozen=True)
class SavedModelConfig:
    """Flags of this program."""

    run_dir: str = config.field("", "Run folder to export.")
    output_dir: str = config.field("", "Folder of versions; a new number is made in it.")
    top_k: int = config.field(5, "Answers for each mask, labels of a text, or answers to a question.", lower_bound=1)
    max_masks: int = config.field(20, "Masks of a text that are answered.", lower_bound=1)
    max_seq_length: int | None = config.field(
        None, "Longest text in wordpieces; what the run was trained on by default.", lower_bound=3
    )
    truncation: str = config.field("", prepared.TRUNCATION, choices=("", *packing.TRUNCATIONS))
    model_name: str = config.field("bert", "The name under which it will be served, for the warm-up requests.")
    dtype: str = config.field(
        "float32", "Of the matrices; bfloat16 is smaller, and its scores differ.", choices=fused_model.DTYPES
    )
    tensor_parallelism: int = config.field(
        1,
        "Parts of each layer that are computed side by side: for a server of as many threads, each of which computes "
        "one operation alone (--tensorflow_intra_op_parallelism=1).",
        lower_bound=1,
    )
    tf_hub: bool = config.field(False, "Also write what TF-Hub's common API has: tf_hub/encoder and preprocessor.")
    serving_version: str = config.field("", "Release of TensorFlow Serving that must know every op, as 2.13.")
    pooling: str = config.field(
        "mean",
        "What an embedding is: the mean of all states, that of [CLS], or the pooled output.",
        choices=heads.POOLINGS,
    )
    normalize: bool = config.field(False, "Divide embeddings by their length.")
    max_input_bytes: int = config.field(65536, "Bytes of a string that are looked at; what is beyond is cut off.")

    def __post_init__(self):
        config.check_bounds(self)
        audit.release(self.serving_version)


def proofs(served, ready):
    """{signature: `parity.Proof`} of all signatures.

    Args:
        served: A `signatures.Served`.
        ready: The `prepared.Prepared`.
    """
    texts = parity.texts()
    found = {"serving_default": ready.proof, **states.wordpieces(served, texts)}
    if ready.expected:
        found |= states.chosen(served, ready.expected, texts)
    if signatures.has_rows(ready.answering):
        # Positions are columns of input_ids there, which are those of the text if its head stays.
        same = ready.expected and ready.answering.truncation == "head"
        found |= states.proofs(served, ready.reference, texts, ready.proof.compare if same else None)
    return found


def check(folder, wanted, tolerance=parity.TOLERANCE):
    """Reloads a SavedModel through each of `LOADERS` and compares each signature.

    Args:
        folder: The SavedModel.
        wanted: Of `proofs`.
        tolerance: The largest difference of scores, or None where it is only told.

    Returns:
        {loader: {signature: differences}}.

    Raises:
        InputError: scores differ by more, or what is no score differs.
        RuntimeError or tf.errors.OpError: it cannot be loaded or run.
    """
    return {
        name: parity.prove(wanted, lambda requests, load=load: load(folder, requests), name, tolerance)
        for name, load in LOADERS.items()
    }


def next_version(folder):
    """The number after the highest in a folder of versions: int."""
    return max([0, *(int(n) for n in os.listdir(folder) if n.isdecimal())]) + 1


def _warm(answering):
    """Requests that a server is to answer before the first one comes: [(signature, inputs)]."""
    word = b"warm [MASK] up" if answering.special_tokens else b"warm up"
    found = [("serving_default", {name: [word] * n for name in answering.inputs}) for n in (1, 8)]
    if signatures.has_rows(answering):
        found += [("embed", {"text": [word] * n}) for n in (1, 8)]
    return found


def _write(folder, cfg, ready):
    """Writes the SavedModel, compares it and adds parity.json; returns the comparisons."""
    served = signatures.Served(ready.answering, ready.model, ready.run.dir, cfg.pooling, cfg.normalize)
    tf.saved_model.save(served, folder, signatures=served.signatures())
    serving.write_warmup(folder, cfg.model_name, _warm(ready.answering))
    wanted = proofs(served, ready)
    # Scores in bfloat16 are told, and judged by who takes them: 8 bits are 2 to 3 decimal digits.
    tolerance = parity.TOLERANCE if cfg.dtype == "float32" else None
    comparisons = check(folder, wanted, tolerance)
    if cfg.tf_hub:
        comparisons["tf_hub"] = tf_hub.write(os.path.join(folder, tf_hub.FOLDER), ready.reference, ready.run)
    settings = {**ready.settings, "pooling": cfg.pooling, "normalize": cfg.normalize, "dtype": cfg.dtype}
    settings["tensor_parallelism"] = cfg.tensor_parallelism
    path = os.path.join(folder, parity.FILE)
    parity.write(
        path, ready.run, ready.step, comparisons, wanted, parity.digests(folder), tolerance=tolerance, settings=settings
    )
    return comparisons


def run(cfg):
    """Exports, compares, and returns the path of the new version."""
    started = time.monotonic()
    checks.require(cfg.output_dir, "--output_dir must be given", "none")
    served = functools.partial(fused_model.build, dtype=cfg.dtype, parts=cfg.tensor_parallelism)
    ready = prepared.prepare(cfg, cfg.max_input_bytes, served)
    checks.require(
        not cfg.tf_hub or signatures.has_rows(ready.answering),
        "tf_hub takes a run whose texts are one row",
        "one that was trained on chunks",
        cfg.run_dir,
    )
    try:
        os.makedirs(cfg.output_dir, exist_ok=True)
        # Aside and renamed: a server that watches the folder takes only numbers for versions.
        with tempfile.TemporaryDirectory(prefix=".unfinished-", dir=cfg.output_dir) as aside:
            folder = os.path.join(aside, "model")
            comparisons = _write(folder, cfg, ready)
            since = audit.require_loads(folder, cfg.serving_version)
            version = os.path.join(cfg.output_dir, str(next_version(cfg.output_dir)))
            os.rename(folder, version)
    except OSError as e:
        must = "output_dir must be a folder that can be written"
        raise checks.error(must, e.strerror, cfg.output_dir, "Choose another --output_dir, or free the disk") from e
    named = ("max_log_probability_difference", "max_score_difference")
    largest = max(s.get(name, 0.0) for c in comparisons.values() for s in c.values() for name in named)
    print(
        f"SavedModel of step {ready.step}: {version} ({time.monotonic() - started:.0f} s). "
        f"Reloaded through {' and '.join(comparisons)}: log-probabilities (or scores) differ by {largest:.1e} at most. "
        f"TensorFlow Serving has its ops since {since}."
    )
    return version


def main(argv):
    """The program."""
    del argv
    loaders.hush()
    run(config.from_flags(SavedModelConfig))


if __name__ == "__main__":
    config.define_flags(SavedModelConfig)
    checks.run_program(main)
