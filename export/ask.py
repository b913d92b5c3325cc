"""Asks a SavedModel and a .tflite for the wordpieces of each [MASK], and prints their answers.

    python -m export.ask --saved_model=/tmp/bert --tflite=/tmp/bert.tflite --text="A list of [MASK]."

--text may be given several times. The SavedModel is loaded as TensorFlow Serving loads it (a session on
the saved graph), the .tflite in the interpreter with tensorflow-text's custom ops: nothing else of the
project takes part in the answers.
"""

from tfbert import quiet  # isort: skip  # noqa: F401 (first: it holds back start-up noise)

import dataclasses

from absl import flags

from export import loaders
from tfbert import checks, config, fill_mask


@dataclasses.dataclass(frozen=True)
class AskConfig:
    """Flags of this program, besides --text."""

    saved_model: str = config.field("", "A SavedModel, or the folder with its numbered versions.")
    tflite: str = config.field("", "A .tflite file.")

    def __post_init__(self):
        config.check_bounds(self)
        checks.require(self.saved_model or self.tflite, "--saved_model or --tflite must be given", "neither")


def run(cfg, texts):
    """Asks, prints, and returns {"saved_model" and "tflite": outputs as arrays}."""
    rows = [t.encode("utf-8", "surrogateescape") for t in texts]
    answers, titles = {}, {}
    if cfg.saved_model:
        folder = loaders.newest_version(cfg.saved_model)
        titles["saved_model"] = f"SavedModel {folder}"
        answers["saved_model"] = loaders.v1_session(folder, [("serving_default", {"text": rows})])[0]
    if cfg.tflite:
        titles["tflite"] = f"TFLite {cfg.tflite}"
        answers["tflite"] = loaders.Lite(cfg.tflite).run(text=rows)
    for name, title in titles.items():
        print(f"{title}:")
        for row, text in enumerate(rows):
            print("\n".join(fill_mask.table(text, answers[name], row)))
    return answers


def main(argv):
    """The program."""
    del argv
    loaders.hush()
    run(config.from_flags(AskConfig), flags.FLAGS.text)


if __name__ == "__main__":
    config.define_flags(AskConfig)
    flags.DEFINE_multi_string("text", None, "A text with [MASK]s; may be given several times.")
    flags.mark_flag_as_required("text")
    checks.run_program(main)
