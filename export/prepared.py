"""A run folder of either kind, pre-trained or fine-tuned, ready to be exported: what answers, and the proofs."""

from typing import NamedTuple

import keras
import tensorflow as tf

from export import fused_model, parity, tasks, words
from tfbert import checks, fill_mask, heads, run_folder
from tfbert.tasks import inference
from tfbert.text import byte_limit

COMPARED = (
    "log-probabilities with the run folder's Keras model (float32), packed, padded to max_seq_length and normalised in "
    "NumPy"
)


TRUNCATION = (
    "What becomes of a text that is longer: its head stays, its tail, both, or all of it in windows; by default what "
    "the run was fine-tuned with, and the head of texts with masks."
)


class Prepared(NamedTuple):
    """What is exported.

    Attributes:
        answering: What answers texts: `fill_mask.FillMask`, or of a task's `serve`.
        model: Its Keras model, of `fused_model`, or the run folder's.
        reference: That of the run folder, in float32.
        proof: The `parity.Proof` of its signature.
        expected: Of `parity.reference`, for `parity.texts()`; None of a run with a task.
        run: The run folder.
        step: Of the checkpoint.
    """

    answering: tf.Module
    model: keras.Model
    reference: keras.Model
    proof: parity.Proof
    expected: dict | None
    run: run_folder.RunFolder
    step: int

    @property
    def settings(self):
        """What parity.json says of how texts are taken."""
        names = ("top_k", "max_masks", "max_seq_length", "truncation", "max_input_bytes")
        return {name: getattr(self.answering, name) for name in names if hasattr(self.answering, name)}


def _of_task(loaded, cfg, max_input_bytes, served):
    """The `Prepared` of an `inference.Loaded`."""
    task, longest = loaded.task, loaded.run.encoder.max_position_embeddings
    checks.require(task.serve, "a task must be one that can be exported", f"{task.kind}", loaded.run.dir)
    length = cfg.max_seq_length or loaded.max_seq_length
    checks.require(
        length <= longest,
        f"max_seq_length must be at most the model's max_position_embeddings {longest}",
        f"max_seq_length={length}",
    )
    loaded = loaded._replace(max_seq_length=length)
    limits = length, cfg.top_k, cfg.truncation or None, max_input_bytes
    model = served(lambda: task.build_model(loaded.run.encoder, False), loaded.model)
    answering = task.serve(model, loaded.run.vocab, *limits)
    proof = (words if task.kind in words.KINDS else tasks).proof(loaded, answering)
    return Prepared(answering, model, loaded.model, proof, None, loaded.run, loaded.step)


def prepare(cfg, max_input_bytes=None, served=fused_model.build):
    """The `Prepared` of a run folder.

    Args:
        cfg: Has run_dir, top_k, max_masks, max_seq_length and truncation, as both programs have them.
        max_input_bytes: See `byte_limit.cut`.
        served: What makes the model that is exported of the run's: `fused_model.build`, or what takes and gives the
            same.

    Raises:
        InputError: it is none, it cannot be exported, or not in this way.
    """
    checks.require(cfg.run_dir, "--run_dir must be given", "none")
    least = byte_limit.LEAST
    checks.require(
        max_input_bytes is None or max_input_bytes >= least,
        f"max_input_bytes must be at least {least}",
        f"max_input_bytes={max_input_bytes}",
    )
    if loaded := inference.load(cfg.run_dir):
        return _of_task(loaded, cfg, max_input_bytes, served)
    truncation = cfg.truncation or "head"
    loaded = fill_mask.load(
        cfg.run_dir, cfg.max_seq_length, cfg.top_k, cfg.max_masks, None, truncation, max_input_bytes
    )
    answering, run, vocab, texts = loaded.answering, loaded.run, loaded.run.vocab, parity.texts()
    limits = answering.max_seq_length, cfg.max_masks
    expected = parity.reference(loaded.model, vocab, *limits, texts, truncation)
    proof = parity.of_masks(expected, vocab, {"text": texts}, COMPARED)
    model = served(lambda: heads.build_pretrainer(run.encoder), loaded.model)
    if model is not loaded.model:
        answering = fill_mask.FillMask(model, vocab, limits[0], cfg.top_k, cfg.max_masks, truncation, max_input_bytes)
    return Prepared(answering, model, loaded.model, proof, expected, run, loaded.step)
