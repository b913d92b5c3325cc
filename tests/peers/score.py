"""Scores what tests/peers/train_*.py left, each save by tfbert.evaluate on one set of held-out records.

    python -m tests.peers.score --saves=out/transformers --input_file='out/google/records/held_out-*'

Each folder of weights is converted to a run folder in it and evaluated; the results go to SAVES/curve.jsonl, a line
{"seconds", "steps", "sequences", "masked_lm_loss", "masked_lm_accuracy", ...} a save. What a format has that
pre-training does not need, or lacks (a second pooler; the sentence head of BertForMaskedLM), is left out by name.
"""

from tfbert import quiet  # noqa: F401 (first: it imports TensorFlow without its start-up noise)

# isort: split
import dataclasses
import glob
import json
import os

from tfbert import checks, config, evaluate
from tfbert.convert import formats

ALLOWED = ("cls/seq_relationship/*", "bert/pooler/*", "pooler_transform/*")


@dataclasses.dataclass(frozen=True)
class ScoreConfig:
    """The flags."""

    saves: str = config.field("", "Folder with a folder of weights for each save.")
    input_file: tuple[str, ...] = config.field((), "Globs of held-out TFRecord files.")
    max_seq_length: int = config.field(128, "Wordpieces a row.", lower_bound=4)
    max_predictions_per_seq: int = config.field(20, "Masked wordpieces a row, at most.", lower_bound=1)
    eval_batch_size: int = config.field(64, "Rows a batch.", lower_bound=1)
    max_eval_steps: int | None = config.field(None, "Batches; by default all.", lower_bound=1)

    def __post_init__(self):
        config.check_bounds(self)
        for name in ("saves", "input_file"):
            checks.require(getattr(self, name), f"--{name} must be given", f"{name}={getattr(self, name)!r}")


def score(cfg):
    """Writes and returns the rows of the curve.

    Raises:
        InputError: there is no save, or one cannot be converted or evaluated.
    """
    folders = [os.path.dirname(path) for path in sorted(glob.glob(os.path.join(cfg.saves, "*", "progress.json")))]
    checks.require(folders, "--saves must hold what a peer's trainer left", "no progress.json in it", cfg.saves)
    rows = []
    for folder in folders:
        run_dir = os.path.join(folder, "run")
        formats.convert(formats.open_source(folder), run_dir, "tfbert", ALLOWED, overwrite=True)
        lengths = cfg.max_seq_length, cfg.max_predictions_per_seq
        how = evaluate.EvaluateConfig(
            run_dir, cfg.input_file, *lengths, eval_batch_size=cfg.eval_batch_size, max_eval_steps=cfg.max_eval_steps
        )
        with open(os.path.join(folder, "progress.json"), encoding="utf-8") as f:
            rows.append({**json.load(f), **evaluate.evaluate(how)})
        print(json.dumps(rows[-1]), flush=True)
    with open(os.path.join(cfg.saves, "curve.jsonl"), "w", encoding="utf-8") as f:
        f.writelines(json.dumps(row) + "\n" for row in rows)
    return rows


def main(argv):
    """The program."""
    del argv
    score(config.from_flags(ScoreConfig))


if __name__ == "__main__":
    config.define_flags(ScoreConfig)
    checks.run_program(main)
