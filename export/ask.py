"""Asks a SavedModel and a .tflite, and prints their answers: for the wordpieces of each [MASK], or of a task.

    python -m export.ask --saved_model=/tmp/bert --tflite=/tmp/bert.tflite --text="A list of [MASK]."
    python -m export.ask --saved_model=/tmp/squad --question="Who?" --context="She opened the door."

Each of --text, --text_pair, --question and --context may be given several times. Answers of a task are JSON, a line for
each row. The SavedModel is loaded as TensorFlow Serving loads it (a session on
the saved graph), the .tflite in the interpreter with tensorflow-text's custom ops: nothing else of the
project takes part in the answers.
"""

from tfbert import quiet  # isort: skip  # noqa: F401 (first: it holds back start-up noise)

import dataclasses
import json

from absl import flags

from export import loaders
from tfbert import checks, config, fill_mask

_TEXTS = ("text", "text_pair", "question", "context")


@dataclasses.dataclass(frozen=True)
class AskConfig:
    """Flags of this program, besides --text."""

    saved_model: str = config.field("", "A SavedModel, or the folder with its numbered versions.")
    tflite: str = config.field("", "A .tflite file.")

    def __post_init__(self):
        config.check_bounds(self)
        checks.require(self.saved_model or self.tflite, "--saved_model or --tflite must be given", "neither")


def _require_inputs(given, wanted, where):
    must = f"what is asked must be {', '.join(sorted(wanted))}"
    checks.require(set(given) == set(wanted), must, ", ".join(sorted(given)), where)


def _lines(inputs, answers, row):
    """What is printed of a row."""
    if "tokens" in answers:
        return fill_mask.table(inputs["text"][row], answers, row)
    row_values = {name: value[row] for name, value in answers.items()}
    told = {name: v.tolist() if hasattr(v, "tolist") else v for name, v in row_values.items()}
    return [json.dumps(told, ensure_ascii=False, default=lambda v: v.decode("utf-8", "replace"))]


def run(cfg, texts):
    """Asks, prints, and returns {"saved_model" and "tflite": outputs as arrays}.

    Args:
        cfg: An `AskConfig`.
        texts: Texts, or {input name: texts} of a model that asks for something else.

    Raises:
        InputError: a model asks for other inputs, or they are not of one length.
    """
    texts = texts if isinstance(texts, dict) else {"text": texts}
    inputs = {name: [t.encode("utf-8", "surrogateescape") for t in column] for name, column in texts.items()}
    counts = {name: len(column) for name, column in inputs.items()}
    checks.require(len(set(counts.values())) == 1, "as many texts must be given of each kind", counts)
    answers, titles = {}, {}
    if cfg.saved_model:
        folder = loaders.newest_version(cfg.saved_model)
        titles["saved_model"] = f"SavedModel {folder}"
        _require_inputs(inputs, loaders.signatures(folder)["serving_default"].inputs, folder)
        answers["saved_model"] = loaders.v1_session(folder, [("serving_default", inputs)])[0]
    if cfg.tflite:
        titles["tflite"], model = f"TFLite {cfg.tflite}", loaders.Lite(cfg.tflite)
        _require_inputs(inputs, model.inputs(), cfg.tflite)
        answers["tflite"] = model.run(**inputs)
    for name, title in titles.items():
        print(f"{title}:")
        for row in range(next(iter(counts.values()))):
            print("\n".join(_lines(inputs, answers[name], row)))
    return answers


def main(argv):
    """The program."""
    del argv
    loaders.hush()
    given = {name: getattr(flags.FLAGS, name) for name in _TEXTS if getattr(flags.FLAGS, name)}
    checks.require(given, "a text must be given, as --text", "none")
    run(config.from_flags(AskConfig), given)


if __name__ == "__main__":
    config.define_flags(AskConfig)
    flags.DEFINE_multi_string("text", None, "A text, with [MASK]s for a pre-trained model; may be given several times.")
    flags.DEFINE_multi_string("text_pair", None, "The second text of a pair.")
    flags.DEFINE_multi_string("question", None, "A question to be answered from a context.")
    flags.DEFINE_multi_string("context", None, "What a question is answered from.")
    checks.run_program(main)
