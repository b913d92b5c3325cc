"""Logs of a made-up run, in a run folder of `tests.tiny_run` or in one without a checkpoint."""

import json
import math
import os

from tests import tiny, tiny_run
from tfbert import run_folder

MACHINE = {"cpu": "Processor 9000", "cores": 3, "memory_gb": 12.5, "devices": ["CPU:0"]}


def make(
    folder, steps=tuple(range(100, 1001, 100)), sentences=True, held_out=True, checkpoint=True, shift=0.0, **flags
):
    """Writes config.json, vocabulary, metrics.jsonl and speed.jsonl; with a checkpoint if asked for.

    Training lasts 2 seconds a step, `shift` more; half of the reports of training are followed by an evaluation.
    Returns the folder's path as str.
    """
    if checkpoint:
        tiny_run.make(folder)
    else:
        run_folder.create(str(folder), tiny.config(), tiny_run.vocab(), {})
    path = os.path.join(folder, "config.json")
    with open(path) as f:
        content = json.load(f)
    content["pretrain"] = {"learning_rate": 1e-4, "clip_norm": 1.0, "train_batch_size": 32, "model": "", **flags}
    content["records"] = {
        "max_seq_length": tiny_run.MAX_SEQ_LENGTH,
        "max_predictions_per_seq": tiny.P,
        "train": {"instances": 12345, **({} if sentences else {"sentence_objective": "none"})},
        "held_out": {"instances": 67} if held_out else None,
    }
    content["machine"] = MACHINE
    with open(path, "w") as f:
        json.dump(content, f)
    _write_reports(str(folder), steps, sentences, held_out, shift)
    return str(folder)


def _write_reports(folder, steps, sentences, held_out, shift):
    tasks = ("masked_lm", "next_sentence") if sentences else ("masked_lm",)
    metrics, speed = [], []
    for number, (before, step) in enumerate(zip((0, *steps), steps)):
        values = {}
        for task in tasks:
            values[f"{task}_loss"] = 1 + 7 * math.exp(-step / 400) + shift
            values[f"{task}_accuracy"] = 0.6 - 0.5 * math.exp(-step / 400)
        more = {"learning_rate": 1e-4 * step / steps[-1], "gradient_norm": 1.5, "padding_share": 0.125}
        metrics.append({"step": step, "split": "train", **values, **more})
        if held_out and number % 2:
            metrics.append({"step": step, "split": "held_out", **values, "masked_lm_unigram_accuracy": 0.06})
        seconds = (2 + shift) * (step - before)
        row = {"step": step, "sequences_per_second": 32 / (2 + shift), "tokens_per_second": 250.5}
        speed.append({**row, "input_wait_share": 0.02, "seconds": seconds})
    for name, rows in (("metrics.jsonl", metrics), ("speed.jsonl", speed)):
        with open(os.path.join(folder, name), "w") as f:
            f.writelines(json.dumps(row) + "\n" for row in rows)
