"""Fine-tunes with tfbert and with transformers by turns, on the same files with the same flags, and compares.

    python -m tests.peers.finetune_both --data=out/labelled --init_checkpoint=FOLDER --output=out/both \
        --peer=.transformers/bin/python

--data is what tests/peers/finetune_data.py made. Each run is a process of its own, whose end leaves result.json in
OUTPUT/TASK/SIDE-SEED; what is there already is not run again. One scorer, tfbert's, reads the predictions of both.

Batches are by default of rows in a random order, as BERT's; transformers fills each up to its longest row, as its
examples do, and tfbert packs it. With --batches=alike both put rows of about one length together.

With --together the two run at the same time, each on one core of its own (they swap them from seed to seed): so that
both have the same neighbours on a machine that others work on too.
"""

import concurrent.futures
import csv
import json
import os
import shutil
import subprocess
import sys
import threading
import time
import typing

import numpy as np
from absl import app, flags

from tfbert.tasks import entity_metrics, scores, squad_metrics

OURS, THEIRS = "tfbert", "transformers"
LABELS, TAGS, ANSWERS = "test_predictions.tsv", "test_tags.tsv", "test_predictions.json"


class Task(typing.NamedTuple):
    """What is done in one task.

    Attributes:
        ending: Of its files train and test.
        flags: Of both programs, beside the files.
        metrics: {name: what is shown as}, of `score`.
    """

    ending: str
    flags: dict
    metrics: dict


TASKS = {
    "banking77": Task(
        ".csv", {"task": "classify", "label_column": "category", "num_train_epochs": 0.6}, {"accuracy": "accuracy"}
    ),
    "stsb": Task(
        ".csv",
        {
            "task": "regress",
            "text_column": "sentence1",
            "text_pair_column": "sentence2",
            "label_column": "score",
            "num_train_epochs": 1.5,
            "learning_rate": 1e-4,  # at three times that the loss stays where it begins for a hundred steps
        },
        {"pearson": "Pearson", "spearman": "Spearman"},
    ),
    "snips": Task(
        ".csv", {"task": "classify", "label_column": "intent", "num_train_epochs": 0.15}, {"accuracy": "accuracy"}
    ),
    "wnut17": Task(".conll", {"task": "tag", "max_seq_length": 256, "num_train_epochs": 1.0}, {"f1": "F1 of entities"}),
    "ud_ewt": Task(
        ".conllu", {"task": "tag", "max_seq_length": 256, "num_train_epochs": 0.2}, {"accuracy": "accuracy of tags"}
    ),
    "xquad": Task(
        ".json",
        {"task": "answer", "max_seq_length": 384, "num_train_epochs": 0.75, "train_batch_size": 8},
        {"exact_match": "exact match", "f1": "F1"},
    ),
}
SHARED = {  # flags that all have
    "learning_rate": 3e-4,
    "warmup_proportion": 0.1,
    "weight_decay": 0.01,
    "adam_epsilon": 1e-6,
    "clip_norm": 1.0,
    "eval_batch_size": 64,
    "mixed_precision": "bfloat16",
}


# Our optimizer and schedule as PyTorch and transformers have them; a new head whose numbers deviate as much as theirs,
# which are not cut at two deviations; and no checkpoint to go back to, as they have none.
OF_OURS = ("--optimizer=adamw_corrected", "--lr_schedule=triangle", "--initializer_range=0.02274", "--on_spike=stop")

BATCHES = {
    "random": {OURS: ("--pack_sequences",), THEIRS: ()},
    "alike": {OURS: ("--bucket_by_length",), THEIRS: ("--bucket_by_length",)},
}


class Result(typing.NamedTuple):
    """What one run gave: seconds of the process, of training, of the CPU; and {metric: percent}."""

    seconds: float
    train_seconds: float
    cpu_seconds: float
    scores: dict


def _of_labels(path):
    with open(path, encoding="utf-8", newline="") as f:
        rows = list(csv.DictReader(f, delimiter="\t", quoting=csv.QUOTE_NONE))
    said, truth = [row["prediction"] for row in rows], [row["label"] for row in rows]
    try:
        said, truth = [float(x) for x in said], [float(x) for x in truth]
    except ValueError:
        return {"accuracy": float(np.mean([a == b for a, b in zip(said, truth)]))}
    return {"pearson": scores.pearson(said, truth), "spearman": scores.spearman(said, truth)}


def _of_tags(path):
    with open(path, encoding="utf-8") as f:
        sentences = [s.split("\n") for s in f.read().strip("\n").split("\n\n")]
    truth, said = ([[line.split("\t")[i] for line in s] for s in sentences] for i in (1, 2))
    found = {"accuracy": entity_metrics.accuracy(said, truth)}
    if entity_metrics.are_entities({tag for tags in truth for tag in tags}):
        found["f1"] = entity_metrics.score(said, truth)["f1"]
    return found


def _of_answers(path, gold_file):
    with open(path, encoding="utf-8") as f, open(gold_file, encoding="utf-8") as g:
        said, articles = json.load(f), json.load(g)["data"]
    questions = [q for article in articles for p in article["paragraphs"] for q in p["qas"]]
    golds = [[answer["text"] for answer in q["answers"]] for q in questions]
    return squad_metrics.score([said[q["id"]] for q in questions], golds)


def score(folder, gold_file):
    """{metric: percent} of the predictions in a folder.

    Args:
        folder: With test_predictions.tsv (index, prediction, label), test_tags.tsv (word, tag, predicted tag) or
            test_predictions.json ({id: text}).
        gold_file: The file that was predicted, for answers.
    """
    path = os.path.join(folder, ANSWERS)
    if os.path.isfile(path):
        return _of_answers(path, gold_file)
    path = os.path.join(folder, TAGS)
    found = _of_tags(path) if os.path.isfile(path) else _of_labels(os.path.join(folder, LABELS))
    return {name: 100.0 * value for name, value in found.items()}


def command(side, name, seed, folder, values):
    """The words of a run."""
    task = TASKS[name]
    given = {**SHARED, **task.flags, "random_seed": seed, "init_checkpoint": values.init_checkpoint}
    given["num_train_epochs"] *= values.share
    for split in ("train", "test"):
        given[f"{split}_file"] = os.path.join(values.data, name, split + task.ending)
    given["output_dir"] = folder
    program = [values.peer, "tests/peers/finetune_transformers.py"]
    if side == OURS:
        program = [sys.executable, "-m", "tfbert.finetune", *OF_OURS]
    return [*program, *BATCHES[values.batches][side], *(f"--{key}={value}" for key, value in given.items())]


def _timed(words, log, environment, cores):
    """Runs a command: (exit status, seconds, seconds of training, CPU seconds), what it says going to a log."""
    begin, marks = time.perf_counter(), []
    words = ["taskset", "--cpu-list", ",".join(map(str, cores)), *words]
    process = subprocess.Popen(
        words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=environment, start_new_session=True
    )

    def listen():
        with open(log, "wb") as f:
            for line in process.stdout:
                f.write(line)
                f.flush()
                # Both programs say "... parameters, ... rows ..." or "... rows to train on" before, and this after.
                if b" rows" in line or line.startswith(b"Finished "):
                    marks.append(time.perf_counter())

    listener = threading.Thread(target=listen)
    listener.start()
    _, status, usage = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - begin
    process.returncode = os.waitstatus_to_exitcode(status)
    listener.join()
    training = marks[-1] - marks[0] if len(marks) > 1 else float("nan")
    return process.returncode, seconds, training, usage.ru_utime + usage.ru_stime


def run(side, name, seed, values, cores):
    """Does one run, unless it was done, and leaves result.json; cores: the numbers of those that it may have."""
    folder = os.path.join(values.output, name, f"{side}-{seed}")
    if os.path.isfile(os.path.join(folder, "result.json")):
        return
    shutil.rmtree(folder, ignore_errors=True)
    os.makedirs(os.path.dirname(folder), exist_ok=True)
    words = command(side, name, seed, folder, values)
    words += [f"--threads={len(cores)}"] if side == THEIRS else []
    environment = dict(os.environ)
    if side == OURS:
        cache = os.path.abspath(os.path.join(values.output, "compiled"))
        environment["TF_XLA_FLAGS"] = f"--tf_xla_persistent_cache_directory={cache}"
    status, *times = _timed(words, f"{folder}.log", environment, cores)
    if status:
        raise SystemExit(f"{' '.join(words)}\nended with status {status}; see {folder}.log")
    task = TASKS[name]
    found = score(folder, os.path.join(values.data, name, "test" + task.ending))
    result = Result(*(round(t, 2) for t in times), {m: found[m] for m in task.metrics})
    for path in os.listdir(folder):
        if path.startswith("ckpt-"):
            os.remove(os.path.join(folder, path))
    shutil.rmtree(os.path.join(folder, "model"), ignore_errors=True)
    with open(os.path.join(folder, "result.json"), "w", encoding="utf-8") as f:
        json.dump(result._asdict(), f)
    print(time.strftime("%H:%M:%S"), name, side, seed, result, flush=True)


def results(output):
    """{(task, side): {seed: `Result`}} of what is done."""
    found = {}
    for name in TASKS:
        folder = os.path.join(output, name)
        for run_of in sorted(os.listdir(folder)) if os.path.isdir(folder) else ():
            path = os.path.join(folder, run_of, "result.json")
            if os.path.isfile(path):
                side, _, seed = run_of.rpartition("-")
                with open(path, encoding="utf-8") as f:
                    found.setdefault((name, side), {})[int(seed)] = Result(**json.load(f))
    return found


def _mean(values, digits=1):
    """Mean ± deviation."""
    values = np.array(list(values))
    deviation = f" ± {values.std(ddof=1):.{digits}f}" if len(values) > 1 else ""
    return f"{values.mean():.{digits}f}{deviation}"


def _mark(ours, theirs):
    """How many standard errors of the difference of means ours is above theirs."""
    ours, theirs = np.array(ours), np.array(theirs)
    error = np.sqrt(ours.var(ddof=1) / len(ours) + theirs.var(ddof=1) / len(theirs)) if len(ours) > 1 else 0.0
    difference = ours.mean() - theirs.mean()
    return f"{difference:+.1f} ± {error:.1f}"


def table(found):
    """Lines of two Markdown tables, of quality and of time; only seeds that both sides have count."""
    quality = [f"| task | {OURS} | {THEIRS} | difference |", "|---|---|---|---|"]
    speed = [
        f"| task | training, {OURS} | {THEIRS} | ratio | process, {OURS} | {THEIRS} | ratio | CPU, {OURS} | {THEIRS} |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for name, task in TASKS.items():
        ours, theirs = (found.get((name, side), {}) for side in (OURS, THEIRS))
        seeds = sorted(ours.keys() & theirs.keys())
        if not seeds:
            continue
        for metric, shown in task.metrics.items():
            a, b = ([side[seed].scores[metric] for seed in seeds] for side in (ours, theirs))
            cells = [f"{_mean(x)} ({', '.join(f'{v:.1f}' for v in x)})" for x in (a, b)]
            quality.append(f"| {name}, {shown} | {cells[0]} | {cells[1]} | {_mark(a, b)} |")
        cells = [name]
        for field in ("train_seconds", "seconds", "cpu_seconds"):
            a, b = ([getattr(side[seed], field) for seed in seeds] for side in (ours, theirs))
            cells += [f"{_mean(x, 0)} ({', '.join(f'{v:.0f}' for v in x)})" for x in (a, b)]
            if field != "cpu_seconds":
                cells.append(f"{np.mean(a) / np.mean(b):.2f}")
        speed.append(f"| {' | '.join(cells)} |")
    return [*quality, "", *speed]


def both(name, seed, values):
    """Does the runs of both sides."""
    cores = sorted(os.sched_getaffinity(0))
    # The one that begins, or that has the first core, is another one from seed to seed.
    sides = (OURS, THEIRS) if seed % 2 else (THEIRS, OURS)
    if not values.together:
        for side in sides:
            run(side, name, seed, values, cores)
        return
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        done = [pool.submit(run, side, name, seed, values, [core]) for side, core in zip(sides, cores)]
    for future in done:
        future.result()


def main(argv):
    """The program."""
    del argv
    values = flags.FLAGS
    for seed in values.seeds:
        for name in values.tasks:
            both(name, int(seed), values)
    print("\n".join(table(results(values.output))))


if __name__ == "__main__":
    flags.DEFINE_string("data", None, "Folder that tests/peers/finetune_data.py made.", required=True)
    flags.DEFINE_string("init_checkpoint", None, "Hugging Face folder of weights.", required=True)
    flags.DEFINE_string("output", None, "Folder of the runs.", required=True)
    flags.DEFINE_string("peer", None, "A Python with transformers and PyTorch.", required=True)
    flags.DEFINE_list("tasks", list(TASKS), "Tasks to run.")
    flags.DEFINE_list("seeds", ["1", "2", "3"], "Seeds.")
    flags.DEFINE_enum("batches", "random", list(BATCHES), "Which rows are in a batch.")
    flags.DEFINE_bool("together", False, "Both at the same time, each on one core, in place of by turns.")
    flags.DEFINE_float("share", 1.0, "Share of the training, for pilots.")
    app.run(main)
