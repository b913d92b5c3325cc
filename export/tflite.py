"""Exports a run folder as a .tflite that takes raw strings; proves it by running it in the interpreter.

    python -m export.tflite --run_dir=/tmp/run --output=/tmp/bert.tflite --quantize=both

The tokenizer is inside, strings come out, batch and length are dynamic; the file needs TFLite's builtin
ops and tensorflow-text's custom ops (`tf_text.tflite_registrar.SELECT_TFTEXT_OPS`), and no Flex delegate.
Input and outputs are those of the SavedModel's signature `serving_default`: see `export.saved_model`. But TFLite has no
op that cuts strings: of tags there are no words, of answers no texts. Their bytes are there (starts, ends,
answer_start, answer_end), and the caller cuts; it also sees to it that no text is longer than it has time for.
--quantize=dynamic stores the matrices as 8-bit integers (activations stay float32); with both, the second
file is named after the first, /tmp/bert.dynamic.tflite. Beside each file lies one with `.parity.json`.
"""

from tfbert import quiet  # isort: skip  # noqa: F401 (first: it holds back start-up noise)

import dataclasses
import os
import tempfile
import time

import tensorflow as tf

from export import loaders, parity, prepared
from tfbert import checks, config
from tfbert.text import packing

# What an unfrozen variable, or an op that needs the delegate of full TensorFlow, would be called.
FORBIDDEN = ("VAR_HANDLE", "READ_VARIABLE", "ASSIGN_VARIABLE", "Flex")
SIGNATURE = "serving_default"


@dataclasses.dataclass(frozen=True)
class TFLiteConfig:
    """Flags of this program."""

    run_dir: str = config.field("", "Run folder to export.")
    output: str = config.field("", "The .tflite file to write.")
    quantize: str = config.field("none", "Kind of weights.", choices=("none", "dynamic", "both"))
    top_k: int = config.field(5, "Answers for each mask, labels of a text, or answers to a question.", lower_bound=1)
    max_masks: int = config.field(20, "Masks of a text that are answered.", lower_bound=1)
    max_seq_length: int | None = config.field(
        None, "Longest text in wordpieces; what the run was trained on by default.", lower_bound=3
    )
    truncation: str = config.field("", prepared.TRUNCATION, choices=("", *packing.TRUNCATIONS))

    def __post_init__(self):
        config.check_bounds(self)
        checks.require(self.output.endswith(".tflite"), "output must end in .tflite", f"output={self.output!r}")


def convert(answering, quantized):
    """The flatbuffer of what answers texts (`fill_mask.FillMask`, or of a task's `serve`): bytes."""
    function = answering.signature(strings=False)
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


def check(path, proof, tolerance=None):
    """Runs a .tflite and compares it with its run folder.

    Args:
        path: The file.
        proof: The `parity.Proof` of its signature.
        tolerance: The largest difference of scores, or None.

    Returns:
        (differences, the names of the ops in the file).

    Raises:
        InputError: an op of `FORBIDDEN` is in the file, scores differ by more, or what is no score differs.
    """
    model = loaders.Lite(path)
    ops = check_ops(model, path)

    def answer(requests):
        return [model.run(**inputs) for _, inputs in requests]

    return parity.prove({SIGNATURE: proof}, answer, "tflite interpreter", tolerance)[SIGNATURE], ops


def _found(differences):
    """What differed, for people."""
    if "masks" in differences:
        return (
            f"same first answer for {100 * differences['top_1_agreement']:.0f} % of {differences['masks']} masks, "
            f"largest difference of a probability {differences['max_probability_difference']:.1e}"
        )
    return ", ".join(f"{name.replace('_', ' ')} {value:.1e}" for name, value in differences.items())


def _export(ready, path, quantized):
    """Writes one file and its parity.json; returns the differences."""
    with tempfile.TemporaryDirectory(prefix=".unfinished-", dir=os.path.dirname(os.path.abspath(path))) as aside:
        file, about = os.path.join(aside, "model.tflite"), os.path.join(aside, parity.FILE)
        with open(file, "wb") as f:
            f.write(convert(ready.answering, quantized))
        differences, ops = check(file, ready.proof, None if quantized else parity.TOLERANCE)
        kind = "dynamic range, 8-bit weights" if quantized else "float32"
        files = {os.path.basename(path): parity.digests(aside)["model.tflite"]}
        comparisons, proofs = {"tflite_interpreter": {SIGNATURE: differences}}, {SIGNATURE: ready.proof}
        more = {"weights": kind, "bytes": os.path.getsize(file), "ops": ops, "settings": ready.settings}
        tolerance = None if quantized else parity.TOLERANCE
        parity.write(about, ready.run, ready.step, comparisons, proofs, files, tolerance, **more)
        os.replace(about, path.removesuffix(".tflite") + "." + parity.FILE)
        os.replace(file, path)
    size = os.path.getsize(path) / 1e6
    print(f"{path}: {kind}, {size:.1f} MB, step {ready.step}; run in the interpreter: {_found(differences)}.")
    return differences


def run(cfg):
    """Exports, compares, and returns {path: differences}."""
    started = time.monotonic()
    ready = prepared.prepare(cfg)
    second = cfg.output.removesuffix(".tflite") + ".dynamic.tflite"
    wanted = {
        "none": {cfg.output: False},
        "dynamic": {cfg.output: True},
        "both": {cfg.output: False, second: True},
    }[cfg.quantize]
    try:
        os.makedirs(os.path.dirname(os.path.abspath(cfg.output)), exist_ok=True)
        found = {path: _export(ready, path, quantized) for path, quantized in wanted.items()}
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
