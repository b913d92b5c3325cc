"""A small task that a tiny model learns in seconds: the first words tell the label; and flags to fine-tune on it."""

import random

import keras

from tests import tiny, tiny_run
from tfbert import finetune, heads, run_folder
from tfbert.loop import checkpoints

L = 13
TRAIN, DEV = 61, 23  # examples: no multiple of a batch size
ANIMALS, THINGS = ("fox", "dog", "cafe"), ("list", "word", "mask")
FILLERS = ("the", "lazy", "of", "warm", "up", ".", ",", "unable", "warmed", "!")


def examples(seed, count):
    """[(text, label)]; texts differ in length."""
    rng = random.Random(seed)
    found = []
    for i in range(count):
        words = [rng.choice((ANIMALS, THINGS)[i % 2]) for _ in range(2)]
        words += [rng.choice(FILLERS) for _ in range(rng.randrange(0, 8))]
        found.append((" ".join(words), ("animal", "thing")[i % 2]))
    rng.shuffle(found)
    return found


def write(path, rows, header=("text", "label")):
    """Writes a TSV file and returns its path."""
    path.write_text("".join("\t".join(map(str, row)) + "\n" for row in [header, *rows] if row), encoding="utf-8")
    return str(path)


def make(folder, **encoder):
    """Writes train.tsv, dev.tsv and a run folder `pre` with random weights, of fields of an encoder, into a folder.

    The weights are the same each time: some begin worse than others.
    """
    folder.mkdir(exist_ok=True)
    write(folder / "train.tsv", examples(1, TRAIN))
    write(folder / "dev.tsv", examples(2, DEV))
    fields = {"hidden_dropout_prob": 0.1, "attention_probs_dropout_prob": 0.1, "initializer_range": 0.3}
    keras.utils.set_random_seed(1)
    encoder = tiny.config(**{**fields, **encoder})
    vocab = tiny_run.vocab()
    run_folder.create(str(folder / "pre"), encoder, vocab, {"pretrain": {}, "records": {"max_seq_length": L}})
    checkpoints.Checkpoints(str(folder / "pre"), heads.build_pretrainer(encoder)).save(0)
    return folder


def flags(folder, output_dir, **overrides):
    """A `FinetuneConfig` of 18 steps in three epochs, whose checkpoints and evaluations fall on different steps."""
    values = {
        "task": "classify",
        "train_file": str(folder / "train.tsv"),
        "dev_file": str(folder / "dev.tsv"),
        "run_dir": str(folder / "pre"),
        "output_dir": str(output_dir),
        "max_seq_length": L,
        "train_batch_size": 10,
        "eval_batch_size": 8,
        "num_train_epochs": 3.0,
        "learning_rate": 2e-3,
        "save_checkpoints_steps": 4,
        "eval_steps": 6,
        "log_steps": 5,
        "iterations_per_loop": 4,
        **overrides,
    }
    return finetune.FinetuneConfig(**values)
