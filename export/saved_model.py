"""Exports a run folder as a SavedModel for TensorFlow Serving, raw strings in; proves it by reloading.

    python -m export.saved_model --run_dir=/tmp/run --output_dir=/tmp/bert

writes /tmp/bert/1 (the next free number, as TensorFlow Serving counts versions; made aside and renamed,
so that a server never sees half of one) with these signatures:

serving_default: text string [B] ->
    for each of the M masks that the batch's fullest row has (at least 1, at most --max_masks):
    tokens string, ids int32 and probabilities float32 [B, M, K], likeliest first;
    positions int32 [B, M] of the masks in the wordpieces ([CLS] is 0);
    where a row has no such mask they hold "", -1, 0.0 and -1;
    mask_count int32 [B], masks in the whole text, also those that were not answered because the text was
    cut or has more than --max_masks; truncated bool [B], whether the text was cut to --max_seq_length.
embed: text string [B] ->
    sequence_output float32 [B, L, D], pooled_output float32 [B, D], input_mask int32 [B, L] (L is the
    longest text of the batch), truncated bool [B].
from_ids: input_ids, input_mask, segment_ids int32 [B, L] ->
    sequence_output, pooled_output, next_sentence_logits float32 [B, 2] (0: is next, 1: random), and tokens,
    ids, probabilities, positions as above for the ids that are [MASK].

Of a fine-tuned run there is serving_default alone: text string [B] (and text_pair string [B], of pairs) ->
    labels string and probabilities float32 [B, K], likeliest first; or score float32 [B]; truncated bool [B].
Of a tagger: text string [B] -> words and tags string [B, W], starts and ends int32 (bytes of the text), probabilities
    float32, and truncated. Of question answering: question and context string [B] -> answer string [B], and the K best
    answers string [B, K] with starts, ends, scores and probabilities; null_odds float32 [B] if there may be no answer.

`[MASK]` is recognised as it is written here; no other special token is. vocab.txt and tokenizer.json are
in assets/, warm-up requests in assets.extra/, and parity.json says how the scores were compared.
"""

from tfbert import quiet  # isort: skip  # noqa: F401 (first: it holds back start-up noise)

import dataclasses
import os
import tempfile
import time

import tensorflow as tf

from export import audit, loaders, parity, serving, tasks
from tfbert import checks, config, fill_mask
from tfbert.tasks import inference
from tfbert.text import vocab as vocab_lib

LOADERS = {"v1_session": loaders.v1_session, "c_api": loaders.c_api}
_BATCH = 8  # rows a request while comparing


@dataclasses.dataclass(frozen=True)
class SavedModelConfig:
    """Flags of this program."""

    run_dir: str = config.field("", "Run folder to export.")
    output_dir: str = config.field("", "Folder of versions; a new number is made in it.")
    top_k: int = config.field(5, "Answers for each mask.", lower_bound=1)
    max_masks: int = config.field(20, "Masks of a text that are answered.", lower_bound=1)
    max_seq_length: int | None = config.field(
        None, "Longest text in wordpieces; what the run was trained on by default.", lower_bound=3
    )
    model_name: str = config.field("bert", "The name under which it will be served, for the warm-up requests.")
    serving_version: str = config.field("", "Release of TensorFlow Serving that must know every op, as 2.13.")

    def __post_init__(self):
        config.check_bounds(self)
        audit.release(self.serving_version)


class Served(tf.Module):
    """What is saved: the graph, and the vocabulary as assets."""

    def __init__(self, answering, run_dir):
        super().__init__(name="served")
        self.fill_mask = answering
        self.vocab_txt = tf.saved_model.Asset(os.path.join(run_dir, vocab_lib.VOCAB_FILE))
        self.tokenizer_json = tf.saved_model.Asset(os.path.join(run_dir, vocab_lib.TOKENIZER_FILE))

    def signatures(self):
        """{signature name: function}; see the top of this file."""
        text = tf.TensorSpec([None], tf.string, "text")
        ids = [tf.TensorSpec([None, None], tf.int32, n) for n in ("input_ids", "input_mask", "segment_ids")]
        return {
            "serving_default": tf.function(self.fill_mask.__call__, input_signature=[text]),
            "embed": tf.function(self._embed, input_signature=[text]),
            "from_ids": tf.function(self._from_ids, input_signature=ids),
        }

    def _embed(self, text):
        features, about = self.fill_mask.featurize(text)
        states = self.fill_mask.encode(features)
        return {**states, "input_mask": features["input_mask"], "truncated": about["truncated"]}

    def _from_ids(self, input_ids, input_mask, segment_ids):
        return self.fill_mask.answer({"input_ids": input_ids, "input_mask": input_mask, "segment_ids": segment_ids})


def check(folder, expected, vocab):
    """Reloads a SavedModel through each of `LOADERS` and compares each signature.

    Args:
        folder: The SavedModel.
        expected: Of `parity.reference`, for `parity.texts()`.
        vocab: The run's `Vocab`.

    Returns:
        {loader: {signature: differences}}.

    Raises:
        InputError: scores differ by more than `parity.TOLERANCE`.
        RuntimeError or tf.errors.OpError: it cannot be loaded or run.
    """
    rows = parity.texts()
    starts = range(0, len(rows), _BATCH)
    slices = [{name: value[i : i + _BATCH] for name, value in expected.items()} for i in starts]
    requests = {
        "serving_default": [{"text": rows[i : i + _BATCH]} for i in starts],
        "embed": [{"text": rows[i : i + _BATCH]} for i in starts],
        "from_ids": [{name: s[name] for name in ("input_ids", "input_mask", "segment_ids")} for s in slices],
    }
    flat = [(signature, inputs) for signature, batches in requests.items() for inputs in batches]
    found = {}
    for name, load in LOADERS.items():
        answers, found[name] = iter(load(folder, flat)), {}
        for signature in requests:
            parts = []
            for part in slices:
                answer, differences = next(answers), {}
                if "ids" in answer:
                    differences.update(parity.compare(answer, part, vocab))
                if "sequence_output" in answer:
                    differences.update(parity.compare_states(answer, part))
                parts.append(differences)
            found[name][signature] = parity.merge(parts)
            parity.require_close(found[name][signature], parity.TOLERANCE, f"{name}, signature {signature}")
    return found


def next_version(folder):
    """The number after the highest in a folder of versions: int."""
    return max([0, *(int(n) for n in os.listdir(folder) if n.isdecimal())]) + 1


def _write(folder, cfg, loaded):
    """Writes the SavedModel, compares it and adds parity.json; returns the comparisons."""
    served = Served(loaded.answering, loaded.run.dir)
    tf.saved_model.save(served, folder, signatures=served.signatures())
    requests = [(name, {"text": [b"warm [MASK] up"] * n}) for name in ("serving_default", "embed") for n in (1, 8)]
    serving.write_warmup(folder, cfg.model_name, requests)
    limits = loaded.answering.max_seq_length, cfg.max_masks
    expected = parity.reference(loaded.model, loaded.run.vocab, *limits, parity.texts())
    comparisons = check(folder, expected, loaded.run.vocab)
    settings = {"top_k": cfg.top_k, "max_masks": cfg.max_masks, "max_seq_length": limits[0]}
    parity.write(os.path.join(folder, parity.FILE), loaded.run, loaded.step, comparisons, settings=settings)
    return comparisons


def _writer(cfg):
    """(what writes and compares a SavedModel: folder -> comparisons, step) of a run folder of either kind."""
    if loaded := inference.load(cfg.run_dir):
        answering = tasks.answering_of(loaded, cfg.max_seq_length, cfg.top_k)
        return lambda folder: tasks.write_saved_model(folder, loaded, answering, cfg.model_name), loaded.step
    loaded = fill_mask.load(cfg.run_dir, cfg.max_seq_length, cfg.top_k, cfg.max_masks)
    return lambda folder: _write(folder, cfg, loaded), loaded.step


def run(cfg):
    """Exports, compares, and returns the path of the new version."""
    started = time.monotonic()
    checks.require(cfg.output_dir, "--output_dir must be given", "none")
    checks.require(cfg.run_dir, "--run_dir must be given", "none")
    write, step = _writer(cfg)
    try:
        os.makedirs(cfg.output_dir, exist_ok=True)
        # Aside and renamed: a server that watches the folder takes only numbers for versions.
        with tempfile.TemporaryDirectory(prefix=".unfinished-", dir=cfg.output_dir) as aside:
            folder = os.path.join(aside, "model")
            comparisons = write(folder)
            since = audit.require_loads(folder, cfg.serving_version)
            version = os.path.join(cfg.output_dir, str(next_version(cfg.output_dir)))
            os.rename(folder, version)
    except OSError as e:
        must = "output_dir must be a folder that can be written"
        raise checks.error(must, e.strerror, cfg.output_dir, "Choose another --output_dir, or free the disk") from e
    named = ("max_log_probability_difference", "max_score_difference")
    largest = max(s.get(name, 0.0) for c in comparisons.values() for s in c.values() for name in named)
    print(
        f"SavedModel of step {step}: {version} ({time.monotonic() - started:.0f} s). "
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
