"""Exports a run folder as a .tflite that takes raw strings; proves it by running it in the interpreter.

    python -m export.tflite --run_dir=/tmp/run --output=/tmp/bert.tflite --quantize=both

The tokenizer is inside, strings come out, batch and length are dynamic; the file needs TFLite's builtin
ops and tensorflow-text's custom ops (`tf_text.tflite_registrar.SELECT_TFTEXT_OPS`), and no Flex delegate.
Input and outputs are those of the SavedModel's signature `serving_default`: see `export.saved_model`.
--quantize=dynamic stores the matrices as 8-bit integers (activations stay float32); with both, the second
file is named after the first, /tmp/bert.dynamic.tflite. Beside each file lies one with `.parity.json`.
"""

from tfbert import quiet  # isort: skip  # noqa: F401 (first: it holds back start-up noise)

import dataclasses
import os
import tempfile
import time
from collections.abc import Callable
from typing import NamedTuple

import tensorflow as tf

from export import loaders, parity, tasks, words
from tfbert import checks, config, fill_mask, run_folder
from tfbert.tasks import inference

# What an unfrozen variable, or an op that needs the delegate of full TensorFlow, would be called.
FORBIDDEN = ("VAR_HANDLE", "READ_VARIABLE", "ASSIGN_VARIABLE", "Flex")
_BATCH = 8


@dataclasses.dataclass(frozen=True)
class TFLiteConfig:
    """Flags of this program."""

    run_dir: str = config.field("", "Run folder to export.")
    output: str = config.field("", "The .tflite file to write.")
    quantize: str = config.field("none", "Kind of weights.", choices=("none", "dynamic", "both"))
    top_k: int = config.field(5, "Answers for each mask.", lower_bound=1)
    max_masks: int = config.field(20, "Masks of a text that are answered.", lower_bound=1)
    max_seq_length: int | None = config.field(
        None, "Longest text in wordpieces; what the run was trained on by default.", lower_bound=3
    )

    def __post_init__(self):
        config.check_bounds(self)
        checks.require(self.output.endswith(".tflite"), "output must end in .tflite", f"output={self.output!r}")


def convert(answering, quantized):
    """The flatbuffer of what answers texts (`fill_mask.FillMask`, or of a task's `serve`): bytes."""
    function = answering.signature()
    converter = tf.lite.TFLiteConverter.from_concrete_functions([function.get_concrete_function()], answering)
    converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS]
    converter.allow_custom_ops = True
    if quantized:
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
    return converter.convert()


def check_ops(model, path):
    """Names of the ops of a `loaders.Lite`.

    Raises:
        InputError: an op of `FORBIDDEN` is in the file.
    """
    ops = model.ops()
    wrong = [op for op in ops if op.startswith(FORBIDDEN)]
    checks.require(not wrong, "a .tflite must hold its weights and need no Flex delegate", f"ops {wrong}", path)
    return ops


def check(path, expected, vocab):
    """Runs a .tflite on `parity.texts()` and compares it with the reference.

    Args:
        path: The file.
        expected: Of `parity.reference`.
        vocab: The run's `Vocab`.

    Returns:
        (differences as of `parity.compare`, the names of the ops in the file).

    Raises:
        InputError: an op of `FORBIDDEN` is in the file, or what is no score differs.
    """
    model = loaders.Lite(path)
    ops = check_ops(model, path)
    rows, parts = parity.texts(), []
    for i in range(0, len(rows), _BATCH):
        answers = model.run(text=rows[i : i + _BATCH])
        parts.append(parity.compare(answers, {n: v[i : i + _BATCH] for n, v in expected.items()}, vocab))
    return parity.merge(parts), ops


class Prepared(NamedTuple):
    """A run folder of either kind, ready to be exported.

    Attributes:
        answering: What is converted.
        check: path of a .tflite -> (differences, names of its ops).
        run: The `run_folder.RunFolder`.
        step: Of the checkpoint.
        about: What parity.json says besides.
    """

    answering: tf.Module
    check: Callable
    run: run_folder.RunFolder
    step: int
    about: dict


def prepare(cfg):
    """The `Prepared` of a configuration."""
    if loaded := inference.load(cfg.run_dir):
        checks.require(
            loaded.task.kind not in words.KINDS,
            "a .tflite labels texts and fills masks: it has no op that cuts words or answers out of a text",
            f"a run of the task {loaded.task.kind}",
            cfg.run_dir,
            "Export it with python -m export.saved_model",
        )
        answering = tasks.answering_of(loaded, cfg.max_seq_length, cfg.top_k)

        def check_task(path):
            return tasks.check_tflite(path, loaded, answering), check_ops(loaders.Lite(path), path)

        return Prepared(answering, check_task, loaded.run, loaded.step, {"compared": tasks.COMPARED})
    loaded = fill_mask.load(cfg.run_dir, cfg.max_seq_length, cfg.top_k, cfg.max_masks)
    limits = loaded.answering.max_seq_length, cfg.max_masks
    expected = parity.reference(loaded.model, loaded.run.vocab, *limits, parity.texts())
    return Prepared(loaded.answering, lambda path: check(path, expected, loaded.run.vocab), loaded.run, loaded.step, {})


def _found(differences):
    """What differed, for people."""
    if "masks" in differences:
        return (
            f"same first answer for {100 * differences['top_1_agreement']:.0f} % of {differences['masks']} masks, "
            f"largest difference of a probability {differences['max_probability_difference']:.1e}"
        )
    return ", ".join(f"{name.replace('_', ' ')} {value:.1e}" for name, value in differences.items())


def _export(prepared, path, quantized):
    """Writes one file and its parity.json; returns the differences."""
    with tempfile.TemporaryDirectory(prefix=".unfinished-", dir=os.path.dirname(os.path.abspath(path))) as aside:
        file, about = os.path.join(aside, "model.tflite"), os.path.join(aside, parity.FILE)
        with open(file, "wb") as f:
            f.write(convert(prepared.answering, quantized))
        differences, ops = prepared.check(file)
        if not quantized:
            parity.require_close(differences, parity.TOLERANCE, "tflite interpreter")
        kind = "dynamic range, 8-bit weights" if quantized else "float32"
        comparisons = {"tflite_interpreter": {"serving_default": differences}}
        more = {"weights": kind, "bytes": os.path.getsize(file), "ops": ops, **prepared.about}
        parity.write(about, prepared.run, prepared.step, comparisons, **more)
        os.replace(about, path.removesuffix(".tflite") + "." + parity.FILE)
        os.replace(file, path)
    size = os.path.getsize(path) / 1e6
    print(f"{path}: {kind}, {size:.1f} MB, step {prepared.step}; run in the interpreter: {_found(differences)}.")
    return differences


def run(cfg):
    """Exports, compares, and returns {path: differences}."""
    started = time.monotonic()
    checks.require(cfg.run_dir, "--run_dir must be given", "none")
    prepared = prepare(cfg)
    second = cfg.output.removesuffix(".tflite") + ".dynamic.tflite"
    wanted = {
        "none": {cfg.output: False},
        "dynamic": {cfg.output: True},
        "both": {cfg.output: False, second: True},
    }[cfg.quantize]
    try:
        os.makedirs(os.path.dirname(os.path.abspath(cfg.output)), exist_ok=True)
        found = {path: _export(prepared, path, quantized) for path, quantized in wanted.items()}
    except OSError as e:
        must = "output must be a file that can be written"
        raise checks.error(must, e.strerror, cfg.output, "Choose another --output, or free the disk") from e
    print(f"Done in {time.monotonic() - started:.0f} s.")
    return found


def main(argv):
    """The program."""
    del argv
    loaders.hush()
    run(config.from_flags(TFLiteConfig))


if __name__ == "__main__":
    config.define_flags(TFLiteConfig)
    checks.run_program(main)
