"""Prints the likeliest wordpieces for each [MASK] of a text, from a run folder.

    python -m tfbert.predict --run_dir=/tmp/run --text="The capital of France is [MASK]."

--text may be given several times.
"""

from tfbert import quiet  # isort: skip  # noqa: F401 (first: it holds back start-up noise)

import dataclasses

import numpy as np
import tensorflow as tf
from absl import flags

from tfbert import checks, config, fill_mask


@dataclasses.dataclass(frozen=True)
class PredictConfig:
    """Flags of this program, besides --text."""

    run_dir: str = config.field("", "Run folder to ask.")
    checkpoint: str = config.field("", "Name `ckpt-N` or number of a checkpoint, or best; the newest by default.")
    top_k: int = config.field(5, "Answers for each mask.", lower_bound=1)
    max_masks: int = config.field(20, "Masks of a text that are answered.", lower_bound=1)

    def __post_init__(self):
        config.check_bounds(self)


def run(cfg, texts):
    """Answers texts (str), prints the answers and returns the outputs of `FillMask` as arrays."""
    checks.require(cfg.run_dir, "--run_dir must be given", "none")
    loaded = fill_mask.load(cfg.run_dir, None, cfg.top_k, cfg.max_masks, cfg.checkpoint or None)
    rows = [t.encode("utf-8", "surrogateescape") for t in texts]
    answers = {name: np.asarray(value) for name, value in loaded.answering(tf.constant(rows, tf.string)).items()}
    print(f"{cfg.run_dir}, step {loaded.step}:")
    for row, text in enumerate(rows):
        print("\n".join(fill_mask.table(text, answers, row)))
    return answers


def main(argv):
    """The program."""
    del argv
    run(config.from_flags(PredictConfig), flags.FLAGS.text)


if __name__ == "__main__":
    config.define_flags(PredictConfig)
    flags.DEFINE_multi_string("text", None, "A text with [MASK]s; may be given several times.")
    flags.mark_flag_as_required("text")
    checks.run_program(main)
