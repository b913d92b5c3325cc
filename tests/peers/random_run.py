"""Writes a run folder of a published size with random weights: enough to measure speed, and nothing else.

    python -m tests.peers.random_run --model=base --vocab_file=vocab --output_dir=out/runs/base

Biases are no zeros and gammas no ones, as they are in no trained model: TensorFlow would leave their operations out.
"""

from tfbert import quiet  # isort: skip  # noqa: F401

import dataclasses

import keras

from tests import tiny
from tfbert import checks, config, heads, run_folder
from tfbert.loop import checkpoints
from tfbert.text import vocab as vocab_lib


@dataclasses.dataclass(frozen=True)
class Config:
    """The flags."""

    model: str = config.field("tiny", "Published size.", choices=tuple(config.PRESETS))
    vocab_file: str = config.field("", "Folder of a vocabulary.")
    output_dir: str = config.field("", "The run folder to make.")


def run(cfg):
    """Makes it."""
    vocab = vocab_lib.load(cfg.vocab_file)
    encoder = config.preset(cfg.model, vocab_size=len(vocab))
    keras.utils.set_random_seed(0)
    model = tiny.randomize(heads.build_pretrainer(encoder), scale=0.02)
    records = {"max_seq_length": encoder.max_position_embeddings}
    run_folder.create(cfg.output_dir, encoder, vocab, {"pretrain": {}, "records": records})
    checkpoints.Checkpoints(cfg.output_dir, model).save(1)


if __name__ == "__main__":
    config.define_flags(Config)
    checks.run_program(lambda _: run(config.from_flags(Config)))
