"""Answers texts from a run folder: a pre-trained run guesses each [MASK], a fine-tuned one does its task.

    python -m tfbert.predict --run_dir=out/run --text="The capital of France is [MASK]."
    python -m tfbert.predict --run_dir=out/finetuned --text="A man is eating." --text_pair="Somebody eats."
    python -m tfbert.predict --run_dir=out/finetuned --input_file=test.csv --output_dir=out/test

--text (with --text_pair, of pairs) may be given several times.
"""

from tfbert import quiet  # isort: skip  # noqa: F401 (first: it holds back start-up noise)

import dataclasses

import numpy as np
import tensorflow as tf
from absl import flags

from tfbert import checks, config, fill_mask
from tfbert.tasks import inference


@dataclasses.dataclass(frozen=True)
class PredictConfig:
    """Flags of this program, besides --text and --text_pair."""

    run_dir: str = config.field("", "Run folder to ask.")
    checkpoint: str = config.field(
        "", "Name `ckpt-N` or number of a checkpoint, or best; by default the newest, of a fine-tuned run the best."
    )
    top_k: int = config.field(5, "Answers for each mask.", lower_bound=1)
    max_masks: int = config.field(20, "Masks of a text that are answered.", lower_bound=1)
    input_file: str = config.field("", "Of a fine-tuned run, in place of --text: a table, or tfds:NAME:SPLIT.")
    output_dir: str = config.field("", "With --input_file: where test_results.tsv and what else the task has goes.")
    predict_batch_size: int = config.field(32, "Rows a batch of a fine-tuned run.", lower_bound=1)

    def __post_init__(self):
        config.check_bounds(self)


def _answer(cfg, loaded, texts, pairs):
    """Prints or writes what a fine-tuned run says, and returns its predictions."""
    checks.require(
        bool(texts) != bool(cfg.input_file),
        "a fine-tuned run takes --text, or --input_file with --output_dir",
        f"{len(texts)} texts, input_file={cfg.input_file!r}",
    )
    checks.require(
        bool(cfg.input_file) == bool(cfg.output_dir),
        "--input_file and --output_dir go together",
        f"input_file={cfg.input_file!r}, output_dir={cfg.output_dir!r}",
    )
    of_texts = loaded.task.of_texts
    checks.require(cfg.input_file or of_texts, f"{loaded.task.kind} takes --input_file", f"{len(texts)} texts")
    examples = loaded.task.read(cfg.input_file) if cfg.input_file else of_texts(texts, pairs)
    predictions = loaded.about(examples, cfg.predict_batch_size).predict()
    if cfg.input_file:
        inference.write_results(cfg.output_dir, loaded, "test", examples, predictions)
        print(f"{len(predictions):,} predictions: {cfg.output_dir}")
    else:
        print(f"{cfg.run_dir}, step {loaded.step}:")
        print("\n".join(loaded.task.show(*both) for both in zip(predictions, examples)))
    return predictions


def run(cfg, texts, pairs=None):
    """Answers texts (str), and prints the answers.

    Args:
        cfg: A `PredictConfig`.
        texts: List of str; may be empty with an input_file.
        pairs: Second texts, if the run's task takes pairs.

    Returns:
        The outputs of `FillMask` as arrays; of a fine-tuned run, a list of its task's predictions.

    Raises:
        InputError: not a run folder, no such checkpoint, or not what the run can answer.
    """
    checks.require(cfg.run_dir, "--run_dir must be given", "none")
    if loaded := inference.load(cfg.run_dir, cfg.checkpoint or None):
        return _answer(cfg, loaded, texts, pairs)
    checks.require(texts, "--text must be given", "none")
    others = {"text_pair": pairs, "input_file": cfg.input_file, "output_dir": cfg.output_dir}
    others = [f"--{name}" for name, value in others.items() if value]
    checks.require(not others, f"{', '.join(others)} must be left out", "a run that was not fine-tuned", cfg.run_dir)
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
    run(config.from_flags(PredictConfig), flags.FLAGS.text or [], flags.FLAGS.text_pair)


if __name__ == "__main__":
    config.define_flags(PredictConfig)
    flags.DEFINE_multi_string("text", None, "A text, with [MASK]s or as the task takes it; may be given several times.")
    flags.DEFINE_multi_string("text_pair", None, "The second text of a pair, as often as --text.")
    checks.run_program(main)
