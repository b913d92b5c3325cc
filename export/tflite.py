"""Exports a run folder as a .tflite that takes raw strings; proves it by running it in the interpreter.

    python -m export.tflite --run_dir=/tmp/run --output=/tmp/bert.tflite --quantize=none,float16,dynamic,full

The tokenizer is inside, strings come out, batch and length are dynamic; the file needs TFLite's builtin
ops and tensorflow-text's custom ops (`tf_text.tflite_registrar.SELECT_TFTEXT_OPS`), and no Flex delegate.
Signatures, inputs and outputs are those of the SavedModel: see `export.saved_model`. But TFLite has no op that
cuts strings: of tags there are no words, of answers no texts. Their bytes are there (starts, ends, answer_start,
answer_end), and the caller cuts; it also sees to it that no text is longer than it has time for.

--quantize says what becomes of the weights; several kinds are several files, of which "none" has the name --output and
the others have /tmp/bert.KIND.tflite.
  none      float32
  float16   half of the size; computed in float32
  dynamic   8-bit matrices; what is multiplied with them is rounded to 8 bits when it is there
  full      8-bit matrices in the encoder that take and give 8-bit integers of scales that are known before, as many
            accelerators need it; --calibration_file has the real texts that they are taken from. See `export.int8`.
--signatures=serving_default,embed,encode,from_ids,tokenize are all in one file, which has each matrix once.
--remove_padding is for batches of texts of several lengths: no padding goes through the layers.
--inputs=ids leaves the tokenizer out, for runtimes without tensorflow-text's ops: the one signature is from_ids, and
the file is a zip archive too, of vocab.txt, tokenizer.json (with max_seq_length) and, if there are labels, labels.txt.
Beside each file lies one with `.parity.json`.
"""

from tfbert import quiet  # isort: skip  # noqa: F401 (first: it holds back start-up noise)

import dataclasses
import json
import os
import tempfile
import time
import zipfile
from typing import NamedTuple

import tensorflow as tf

from export import flatbuffer, fused_model, int8, loaders, parity, prepared, real_inputs, signatures, states
from tfbert import checks, config, heads
from tfbert.text import packing
from tfbert.text import vocab as vocab_lib

# What an unfrozen variable, or an op that needs the delegate of full TensorFlow, would be called.
FORBIDDEN = ("VAR_HANDLE", "READ_VARIABLE", "ASSIGN_VARIABLE", "Flex")
KINDS = {
    "none": "float32",
    "float16": "float16",
    "dynamic": "dynamic range, 8-bit weights",
    "full": "full int8, 8-bit weights and activations of the encoder's dense layers",
}
BOTH = ("none", "dynamic")
# Those that TFLite has all ops for; choose and detokenize cut strings.
SIGNATURES = ("serving_default", "embed", "encode", "from_ids", "tokenize")
_DAY = (1980, 1, 1, 0, 0, 0)  # of files in an archive, so that the same export has the same bytes


@dataclasses.dataclass(frozen=True)
class TFLiteConfig:
    """Flags of this program."""

    run_dir: str = config.field("", "Run folder to export.")
    output: str = config.field("", "The .tflite file to write.")
    quantize: str = config.field("none", f"Kinds of weights, with commas: {', '.join(KINDS)}; both is none,dynamic.")
    top_k: int = config.field(5, "Answers for each mask, labels of a text, or answers to a question.", lower_bound=1)
    max_masks: int = config.field(20, "Masks of a text that are answered.", lower_bound=1)
    max_seq_length: int | None = config.field(
        None, "Longest text in wordpieces; what the run was trained on by default.", lower_bound=3
    )
    truncation: str = config.field("", prepared.TRUNCATION, choices=("", *packing.TRUNCATIONS))
    inputs: str = config.field("text", "What it takes: strings, or ids of wordpieces.", choices=("text", "ids"))
    signatures: tuple[str, ...] = config.field(
        ("serving_default",), f"What a file of texts has, with commas: {', '.join(SIGNATURES)}."
    )
    pooling: str = config.field("mean", "What embed gives, as of export.saved_model.", choices=heads.POOLINGS)
    normalize: bool = config.field(False, "Divide embeddings by their length.")
    remove_padding: bool = config.field(
        False,
        "Let tokens alone go through the layers: faster in batches of several lengths, slower for one text.",
    )
    calibration_file: str = config.field(
        "", "Of full: a file as for training, or a glob of masked records; by default what the run was trained on."
    )
    calibration_examples: int = config.field(128, "How many of its examples or records are looked at.", lower_bound=1)

    def __post_init__(self):
        config.check_bounds(self)
        checks.require(self.output.endswith(".tflite"), "output must end in .tflite", f"output={self.output!r}")
        _require_known("quantize", self.kinds, KINDS)
        _require_known("signatures", self.signatures, SIGNATURES)
        checks.require(
            self.inputs == "text" or self.signatures == ("serving_default",),
            "signatures must be left out where ids are taken: the one there is from_ids",
            f"signatures={','.join(self.signatures)}",
        )
        checks.require(
            self.inputs == "text" or not self.remove_padding,
            "remove_padding must be left out where ids are taken, whose caller chooses how rows are filled up",
            f"inputs={self.inputs}",
        )

    @property
    def kinds(self):
        """Of `KINDS`: a tuple."""
        return BOTH if self.quantize == "both" else tuple(self.quantize.split(","))

    @property
    def names(self):
        """Of the signatures: a tuple."""
        return ("from_ids",) if self.inputs == "ids" else self.signatures

    @property
    def files(self):
        """{kind: path}; one kind alone has the name `output` whatever it is."""
        stem = self.output.removesuffix(".tflite")
        return {k: self.output if k == "none" or len(self.kinds) == 1 else f"{stem}.{k}.tflite" for k in self.kinds}


def _require_known(name, given, known):
    right = given and set(given) <= set(known) and len(set(given)) == len(given)
    checks.require(right, f"{name} must be some of {', '.join(known)}, each once", f"{name}={','.join(given)!r}")


class _Holder(tf.Module):
    """What has the variables of all signatures."""

    def __init__(self, answering):
        super().__init__(name="holder")
        self.answering = answering


def _functions(cfg, ready):
    """({signature: `tf.function`}, {signature: `parity.Proof`}) of what is exported."""
    answering, names = ready.answering, cfg.names
    functions, proofs = {"serving_default": answering.signature(strings=False)}, {"serving_default": ready.proof}
    if set(names) - set(functions):
        served = signatures.Served(answering, ready.model, ready.run.dir, cfg.pooling, cfg.normalize, for_server=False)
        functions = {**served.signatures(), **functions}
        known = [name for name in SIGNATURES if name in functions]
        must = f"signatures of this run must be some of {', '.join(known)}"
        checks.require(set(names) <= set(known), must, ",".join(names), cfg.run_dir)
        texts = parity.texts()
        proofs |= states.wordpieces(served, texts) if "tokenize" in names else {}
        if set(names) & {"embed", "encode", "from_ids"}:
            # Positions are columns of input_ids there, which are those of the text if its head stays.
            same = ready.expected and answering.truncation == "head"
            proofs |= states.proofs(served, ready.reference, texts, ready.proof.compare if same else None)
    return {name: functions[name] for name in names}, {name: proofs[name] for name in names}


def convert(folder, names, kind):
    """The flatbuffer of a SavedModel's signatures: bytes.

    Args:
        folder: The SavedModel.
        names: The signatures.
        kind: Of `KINDS`; "full" begins as "dynamic".
    """
    converter = tf.lite.TFLiteConverter.from_saved_model(folder, signature_keys=list(names))
    converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS]
    converter.allow_custom_ops = True
    if kind != "none":
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
    if kind == "float16":
        converter.target_spec.supported_types = [tf.float16]
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


def check(path, proofs, tolerance=None):
    """Runs a .tflite and compares it with its run folder: in TensorFlow's interpreter and, where it is, in LiteRT's.

    Args:
        path: The file.
        proofs: {signature: `parity.Proof`}.
        tolerance: The largest difference of scores, or None.

    Returns:
        ({interpreter: {signature: differences}}, the names of the ops in the file).

    Raises:
        InputError: an op of `FORBIDDEN` is in the file, scores differ by more, or what is no score differs.
    """
    ops, found = check_ops(loaders.Lite(path), path), {}
    for litert in (False, True) if loaders.has_litert() else (False,):
        name, model = "litert_interpreter" if litert else "tflite_interpreter", loaders.Lite(path, litert=litert)

        def answer(requests, model=model):
            return [model.run(signature, **inputs) for signature, inputs in requests]

        found[name] = parity.prove(proofs, answer, name.replace("_", " "), tolerance)
    return found, ops


def _found(differences):
    """What differed, for people."""
    if "masks" in differences:
        return (
            f"same first answer for {100 * differences['top_1_agreement']:.0f} % of {differences['masks']} masks, "
            f"largest difference of a probability {differences['max_probability_difference']:.1e}"
        )
    return ", ".join(f"{name.replace('_', ' ')} {value:.1e}" for name, value in differences.items())


def _associated(ready):
    """{name: bytes} of what a program needs beside an export of ids: how texts become ids, and the labels."""
    run, found = ready.run, {}
    for name in (vocab_lib.VOCAB_FILE, vocab_lib.TOKENIZER_FILE):
        with open(os.path.join(run.dir, name), "rb") as f:
            found[name] = f.read()
    about = {**json.loads(found[vocab_lib.TOKENIZER_FILE]), "max_seq_length": ready.answering.max_seq_length}
    found[vocab_lib.TOKENIZER_FILE] = (json.dumps(about, indent=2) + "\n").encode()
    if labels := run.config.get("task", {}).get("labels"):
        found["labels.txt"] = "".join(f"{label}\n" for label in labels).encode()
    return found


def _associate(path, files):
    """Makes a .tflite a zip archive too, as TFLite's metadata has files that are associated with a model."""
    with zipfile.ZipFile(path, "a") as archive:
        for name, content in files.items():
            archive.writestr(zipfile.ZipInfo(name, _DAY), content)


class _Work(NamedTuple):
    """What all files of an export are made of.

    Attributes:
        ready: The `prepared.Prepared`.
        folder: A SavedModel of the signatures.
        proofs: {signature: `parity.Proof`}.
        calibration: Of `real_inputs.calibration`; {} if nothing is full int8.
    """

    ready: prepared.Prepared
    folder: str
    proofs: dict
    calibration: dict


def _content(cfg, work, kind):
    """(the flatbuffer of a kind, more for its parity.json)."""
    content, more = convert(work.folder, cfg.names, kind), {}
    if kind == "full":
        content, layers = int8.quantize(content, work.calibration)
        rows = max(len(asked) for asked in work.calibration.values())
        more = {"calibration": {"rows": rows, "int8_layers": layers}}
    return flatbuffer.share(content) if len(cfg.names) > 1 else content, more


def _export(cfg, work, kind):
    """Writes one file and its parity.json; returns the differences of its first signature."""
    ready, proofs, path, first = work.ready, work.proofs, cfg.files[kind], cfg.names[0]
    tolerance = parity.TOLERANCE if kind == "none" else None
    with tempfile.TemporaryDirectory(prefix=".unfinished-", dir=os.path.dirname(os.path.abspath(path))) as aside:
        file, about = os.path.join(aside, "model.tflite"), os.path.join(aside, parity.FILE)
        content, more = _content(cfg, work, kind)
        with open(file, "wb") as f:
            f.write(content)
        if cfg.inputs == "ids":
            _associate(file, _associated(ready))
        comparisons, ops = check(file, proofs, tolerance)
        files = {os.path.basename(path): parity.digests(aside)["model.tflite"]}
        settings = {**ready.settings, "inputs": cfg.inputs, "remove_padding": cfg.remove_padding}
        if "embed" in cfg.names:
            settings |= {"pooling": cfg.pooling, "normalize": cfg.normalize}
        more |= {"kind": kind, "weights": KINDS[kind], "bytes": os.path.getsize(file), "ops": ops, "settings": settings}
        parity.write(about, ready.run, ready.step, comparisons, proofs, files, tolerance, **more)
        os.replace(about, path.removesuffix(".tflite") + "." + parity.FILE)
        os.replace(file, path)
    differences, where = comparisons["tflite_interpreter"][first], " and ".join(c.split("_")[0] for c in comparisons)
    size = os.path.getsize(path) / 1e6
    print(f"{path}: {KINDS[kind]}, {size:.1f} MB, step {ready.step}; run in {where}: {_found(differences)}.")
    return differences


def run(cfg):
    """Exports, compares, and returns {path: differences of its first signature}."""
    started = time.monotonic()
    ready = prepared.prepare(cfg, served=fused_model.build_lite if cfg.remove_padding else lambda _, model: model)
    functions, proofs = _functions(cfg, ready)
    calibration = {}
    if "full" in cfg.kinds:
        calibration = real_inputs.calibration(ready, cfg.calibration_file, cfg.calibration_examples, cfg.names)
    try:
        os.makedirs(os.path.dirname(os.path.abspath(cfg.output)), exist_ok=True)
        with tempfile.TemporaryDirectory(prefix="tflite-") as folder:
            tf.saved_model.save(_Holder(ready.answering), folder, signatures=functions)
            work = _Work(ready, folder, proofs, calibration)
            found = {cfg.files[kind]: _export(cfg, work, kind) for kind in cfg.kinds}
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
