"""Records that a tiny model can learn from in seconds, and a configuration to pre-train on them."""

import glob
import json
import os
import shutil

import numpy as np
import tensorflow as tf

from tests import tiny
from tfbert import config, features, pretrain
from tfbert.loop import checkpoints
from tfbert.text import vocab as vocab_lib

TRAIN, HELD_OUT = 53, 14  # records: no multiple of a batch size


def vocab():
    """tiny.V entries."""
    names = [f"w{i}" for i in range(tiny.V - len(vocab_lib.SPECIAL_TOKENS))]
    return vocab_lib.Vocab((*vocab_lib.SPECIAL_TOKENS, *names))


def examples(seed, count):
    """Random features, except that the masked wordpiece is its right neighbour's successor: learnable."""
    batch = tiny.features(seed, count)
    shifted = np.roll(batch["input_ids"], -1, 1)
    answers = np.take_along_axis(shifted, batch["masked_lm_positions"], 1)
    answers = (answers * 7 + 11) % (tiny.V - 5) + 5
    batch["masked_lm_ids"] = np.where(batch["masked_lm_weights"] > 0, answers, 0).astype(np.int32)
    return batch


def write(path, batch, layout=None):
    """Writes features as one TFRecord file; by default in Google's layout, of the features' own sizes."""
    layout = layout or features.Layout(batch["input_ids"].shape[1], batch["masked_lm_ids"].shape[1])
    with tf.io.TFRecordWriter(str(path)) as file:
        for record in features.serialize_batch(batch, layout):
            file.write(record)


def make(folder, **encoder):
    """Writes vocab.txt, bert_config.json, train-0.tfrecord, train-1.tfrecord, held_out.tfrecord to a folder.

    Fields of an encoder change the model: tests for which depth does not matter take one layer, which is traced and
    compiled in less time.
    """
    os.makedirs(folder, exist_ok=True)
    vocab().write(folder)
    with open(os.path.join(folder, "bert_config.json"), "w") as f:
        dropout = {"hidden_dropout_prob": 0.1, "attention_probs_dropout_prob": 0.1}
        json.dump(config.to_dict(tiny.config(**{**dropout, **encoder})), f)
    batch = examples(1, TRAIN)
    write(os.path.join(folder, "train-0.tfrecord"), {n: x[:20] for n, x in batch.items()})
    write(os.path.join(folder, "train-1.tfrecord"), {n: x[20:] for n, x in batch.items()})
    write(os.path.join(folder, "held_out.tfrecord"), examples(2, HELD_OUT))


def flags(folder, output_dir, **overrides):
    """A `PretrainConfig` of a short run on the records of a folder."""
    fields = {
        "input_file": (os.path.join(folder, "train-*"),),
        "eval_input_file": (os.path.join(folder, "held_out*"),),
        "vocab_file": str(folder),
        "bert_config_file": os.path.join(folder, "bert_config.json"),
        "output_dir": str(output_dir),
        "max_seq_length": tiny.L,
        "max_predictions_per_seq": tiny.P,
        "train_batch_size": 12,
        "eval_batch_size": 4,
        "learning_rate": 3e-3,
        "num_train_steps": 15,
        "num_warmup_steps": 2,
        "save_checkpoints_steps": 4,
        "eval_steps": 6,
        "log_steps": 5,
        "iterations_per_loop": 3,
        "shuffle_buffer_size": 30,
    }
    return pretrain.PretrainConfig(**{**fields, **overrides})


def cut_back(run_dir, to, step):
    """A copy of a run folder as SIGKILL leaves it: with later lines, but no checkpoint later than that of a step.

    To go on from it takes half the time of two runs, one up to the step and one from there.
    """
    shutil.copytree(run_dir, to)
    for later in checkpoints.saved_steps(str(to)):
        if later > step:
            for path in glob.glob(f"{checkpoints.prefix_of(str(to), later)}.*"):
                os.remove(path)
    assert checkpoints.saved_steps(str(to))[-1] == step
