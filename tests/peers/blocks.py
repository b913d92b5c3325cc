"""Writes the text of our records as blocks of whole length for tests/peers/train_transformers.py.

    python -m tests.peers.blocks --input_file='out/sentences/records/train-*' --vocab_file=out/vocab \
        --output=out/blocks.npz

What transformers' example run_mlm.py makes of a corpus: all texts on end, with their special tokens, cut into blocks
of --max_seq_length with no padding; the rest that fills no block is left out. It reads records that are not masked.
"""

from tfbert import quiet  # noqa: F401 (first: it imports TensorFlow without its start-up noise)

# isort: split
import dataclasses

import numpy as np
import tensorflow as tf

from tfbert import checks, config, tfrecords
from tfbert.text import vocab as vocab_lib


@dataclasses.dataclass(frozen=True)
class BlocksConfig:
    """The flags."""

    input_file: tuple[str, ...] = config.field((), "Globs of TFRecord files that are not masked.")
    vocab_file: str = config.field("", "vocab.txt, or the folder that holds it.")
    output: str = config.field("", "The .npz file to write: input_ids int32 [N, max_seq_length].")
    max_seq_length: int = config.field(128, "Wordpieces a block.", lower_bound=4)

    def __post_init__(self):
        config.check_bounds(self)
        for name in ("input_file", "vocab_file", "output"):
            checks.require(getattr(self, name), f"--{name} must be given", f"{name}={getattr(self, name)!r}")


def blocks(rows, mask_id, length):
    """int32 [N, length]: the ids of all rows on end.

    Args:
        rows: Iterable of int [n], one row's ids without its padding.
        mask_id: Id of [MASK], which must not be among them.
        length: Of a block.

    Raises:
        InputError: the rows are masked, or fill no block.
    """
    ids = np.concatenate([np.zeros(0, np.int32), *rows]).astype(np.int32)
    checks.require(not (ids == mask_id).any(), "records must not be masked yet", "[MASK] in them")
    checks.require(len(ids) >= length, "records must fill a block", f"{len(ids)} wordpieces, and blocks of {length}")
    return ids[: len(ids) // length * length].reshape(-1, length)


def _rows(patterns):
    """The ids of each record, without padding."""
    for file in tfrecords.find(patterns):
        for raw in tf.data.TFRecordDataset(file).as_numpy_iterator():
            values = tf.train.Example.FromString(raw).features.feature
            mask = np.array(values["input_mask"].int64_list.value)
            yield np.array(values["input_ids"].int64_list.value)[mask > 0]


def main(argv):
    """The program."""
    del argv
    cfg = config.from_flags(BlocksConfig)
    vocab = vocab_lib.load(cfg.vocab_file)
    made = blocks(_rows(cfg.input_file), vocab.mask_id, cfg.max_seq_length)
    np.savez(cfg.output, input_ids=made)
    print(f"{cfg.output}: {made.shape[0]:,} blocks of {made.shape[1]}")


if __name__ == "__main__":
    config.define_flags(BlocksConfig)
    checks.run_program(main)
