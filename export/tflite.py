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

import tensorflow as tf

from export import loaders, parity
from tfbert import checks, config, fill_mask

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
    """The flatbuffer of a `FillMask`: bytes."""
    function = tf.function(answering.__call__, input_signature=[tf.TensorSpec([None], tf.string, "text")])
    converter = tf.lite.TFLiteConverter.from_concrete_functions([function.get_concrete_function()], answering)
    converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS]
    converter.allow_custom_ops = True
    if quantized:
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
    return converter.convert()


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
    ops = model.ops()
    wrong = [op for op in ops if op.startswith(FORBIDDEN)]
    checks.require(not wrong, "a .tflite must hold its weights and need no Flex delegate", f"ops {wrong}", path)
    rows, parts = parity.texts(), []
    for i in range(0, len(rows), _BATCH):
        answers = model.run(text=rows[i : i + _BATCH])
        parts.append(parity.compare(answers, {n: v[i : i + _BATCH] for n, v in expected.items()}, vocab))
    return parity.merge(parts), ops


def _export(loaded, expected, path, quantized):
    """Writes one file and its parity.json; returns the differences."""
    with tempfile.TemporaryDirectory(prefix=".unfinished-", dir=os.path.dirname(os.path.abspath(path))) as aside:
        file, about = os.path.join(aside, "model.tflite"), os.path.join(aside, parity.FILE)
        with open(file, "wb") as f:
            f.write(convert(loaded.answering, quantized))
        differences, ops = check(file, expected, loaded.run.vocab)
        if not quantized:
            parity.require_close(differences, parity.TOLERANCE, "tflite interpreter")
        kind = "dynamic range, 8-bit weights" if quantized else "float32"
        comparisons = {"tflite_interpreter": {"serving_default": differences}}
        more = {"weights": kind, "bytes": os.path.getsize(file), "ops": ops}
        parity.write(about, loaded.run, loaded.step, comparisons, **more)
        os.replace(about, path.removesuffix(".tflite") + "." + parity.FILE)
        os.replace(file, path)
    print(
        f"{path}: {kind}, {os.path.getsize(path) / 1e6:.1f} MB, step {loaded.step}; run in the interpreter: "
        f"same first answer for {100 * differences['top_1_agreement']:.0f} % of {differences['masks']} masks, "
        f"largest difference of a probability {differences['max_probability_difference']:.1e}."
    )
    return differences


def run(cfg):
    """Exports, compares, and returns {path: differences}."""
    started = time.monotonic()
    checks.require(cfg.run_dir, "--run_dir must be given", "none")
    loaded = fill_mask.load(cfg.run_dir, cfg.max_seq_length, cfg.top_k, cfg.max_masks)
    limits = loaded.answering.max_seq_length, cfg.max_masks
    expected = parity.reference(loaded.model, loaded.run.vocab, *limits, parity.texts())
    second = cfg.output.removesuffix(".tflite") + ".dynamic.tflite"
    wanted = {
        "none": {cfg.output: False},
        "dynamic": {cfg.output: True},
        "both": {cfg.output: False, second: True},
    }[cfg.quantize]
    try:
        os.makedirs(os.path.dirname(os.path.abspath(cfg.output)), exist_ok=True)
        found = {path: _export(loaded, expected, path, quantized) for path, quantized in wanted.items()}
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
