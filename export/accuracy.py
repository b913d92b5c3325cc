"""Scores .tflite files on a real task beside the run folder that they are of: what 8-bit weights cost.

    python -m export.accuracy --run_dir=/tmp/run --test_file=test.csv --tflite=bert.tflite,bert.dynamic.tflite
    python -m export.accuracy --run_dir=/tmp/run --test_file='records/held_out-*' --tflite=bert.tflite,bert.full.tflite

Prints a JSON line for the run folder and one for each file: its name, kind and size, the metric, its value, and
`points`, by how much of a hundred it is above the run folder's. A file is asked as a phone asks it, one text at a time.

Of a fine-tuned run the metric is the one that its task is judged by. Tags and answers are scored from ids alone
(--inputs=ids): of files that take texts, those of sentences are. Of a pre-trained run it is `mask_accuracy`, the
share of the [MASK]s in held-out records that are answered right. A file that takes texts is asked about wordpieces
put together to texts again, and so is the run folder that it is compared with.
"""

from tfbert import quiet  # isort: skip  # noqa: F401 (first: it holds back start-up noise)

import dataclasses
import json
import os

import numpy as np
import tensorflow as tf

from export import loaders, parity, real_inputs, signatures
from tfbert import checks, config, fill_mask
from tfbert.tasks import inference

METRIC = "mask_accuracy"
ALL = 1 << 20  # more masks than a row has
IDS, TEXT = "from_ids", "serving_default"
_OF_SENTENCES = ("classify", "multi_label", "regress")


@dataclasses.dataclass(frozen=True)
class AccuracyConfig:
    """Flags of this program."""

    run_dir: str = config.field("", "Run folder that the files were exported from.")
    test_file: str = config.field("", "A file of examples with labels, or a glob of masked records.")
    tflite: tuple[str, ...] = config.field((), "The .tflite files, with commas.")
    max_examples: int | None = config.field(None, "Only the first so many examples or records.", lower_bound=1)
    litert: bool = config.field(False, "Run them in ai-edge-litert and not in TensorFlow's interpreter.")

    def __post_init__(self):
        config.check_bounds(self)
        for name in ("run_dir", "test_file", "tflite"):
            checks.require(getattr(self, name), f"--{name} must be given", "none")


class _File:
    """A .tflite that is scored: its `loaders.Lite`, and what its parity.json says of it."""

    def __init__(self, path, litert):
        self.path, self.model = path, loaders.Lite(path, litert=litert)
        about = path.removesuffix(".tflite") + "." + parity.FILE
        checks.require(os.path.isfile(about), "a .tflite must have its parity.json", "no such file", about)
        with open(about, encoding="utf-8") as f:
            self.about = json.load(f)
        self.signature = TEXT if TEXT in self.model.signatures() else IDS

    def ask(self, inputs):
        """What it answers to {input name: array}."""
        return self.model.run(self.signature, **inputs)

    def line(self, told):
        """What is printed of it."""
        kind = self.about.get("kind", self.about.get("weights"))
        return {"file": self.path, "kind": kind, "bytes": os.path.getsize(self.path), **told}


def _first(answers, count):
    """The likeliest id of each mask of one row; -1 for those that have no answer."""
    ids = np.asarray(answers["ids"])[0, :count, 0]
    return np.concatenate([ids, np.full(count - len(ids), -1)])


def _of_masks(ask, records, vocab, with_ids):
    """The share of masks that are answered right."""
    right = [
        _first(ask(real_inputs.of_record(record, vocab, with_ids)), len(record.answers)) == record.answers
        for record in records
    ]
    return float(np.concatenate(right).mean())


def _masks(cfg, files):
    """Yields the lines of a pre-trained run."""
    ready = fill_mask.load(cfg.run_dir, top_k=1, max_masks=ALL)
    vocab = ready.run.vocab
    records = real_inputs.records(ready.run, cfg.test_file, cfg.max_examples)
    records = [record for record in records if len(record.answers)]
    checks.require(records, "records must have a [MASK]", "none", cfg.test_file)
    served = signatures.Served(ready.answering, ready.model, ready.run.dir, for_server=False)
    asked = {TEXT: ready.answering.signature(strings=False), IDS: served.signatures()[IDS]}
    count, best = sum(len(record.answers) for record in records), {}
    for file in (None, *files):
        for signature in [file.signature] if file else sorted({f.signature for f in files}):
            told = {"inputs": "ids" if signature == IDS else "text", "masks": count, "metric": METRIC}
            if file is None:
                function = asked[signature]
                best[signature] = told["value"] = _of_masks(
                    lambda x, f=function: f(**{name: tf.constant(v) for name, v in x.items()}),
                    records, vocab, signature == IDS,
                )  # fmt: skip
                yield {"file": cfg.run_dir, "kind": "run folder", **told}
                continue
            told["value"] = _of_masks(file.ask, records, vocab, signature == IDS)
            yield file.line({**told, "points": 100 * (told["value"] - best[signature])})


def _logits(answers, loaded):
    """Logits [C] that give the scores of one text; labels that are not among the K likeliest have next to none."""
    if "score" in answers:
        return answers["score"]
    labels, found = list(loaded.task.about["labels"]), np.full(len(loaded.task.about["labels"]), 1e-9)
    found[[labels.index(label.decode()) for label in answers["labels"][0]]] = np.maximum(
        answers["probabilities"][0], 1e-9
    )
    odds = found / np.maximum(1 - found, 1e-9) if loaded.task.kind == "multi_label" else found
    return np.log(odds)


def _predictions(file, loaded, examples):
    """The task's predictions by what a file answers, one example or row at a time."""
    if file.signature == IDS:
        answering = loaded.task.serve(loaded.model, loaded.run.vocab, loaded.max_seq_length, 1, None, None)
        rows, inputs = real_inputs.rows_of(answering, loaded.task, examples)
        outputs = {}
        for i, asked in enumerate(inputs):
            answers = file.ask(asked)
            for name in loaded.task.outputs:
                value = answers[name][0]
                if name not in outputs:
                    shape = (int(rows.lengths.max()), *value.shape[1:]) if loaded.task.per_token else value.shape
                    outputs[name] = np.zeros((len(rows), *shape), np.float32)
                if loaded.task.per_token:
                    outputs[name][i, : len(value)] = value
                else:
                    outputs[name][i] = value
        return loaded.task.decode(outputs, rows, examples)
    must = "a .tflite that takes texts can be scored if it labels or scores texts"
    do = "Export it with --inputs=ids"
    checks.require(loaded.task.kind in _OF_SENTENCES, must, f"one of the task {loaded.task.kind}", file.path, do)
    names = file.model.inputs(TEXT)
    columns = [real_inputs.columns(loaded.task.kind, example) for example in examples]
    order = [name for name in ("text", "text_pair") if name in names]
    answers = [file.ask({n: np.array([t.encode()], object) for n, t in zip(order, row)}) for row in columns]
    return loaded.task.decode({"logits": np.stack([_logits(a, loaded) for a in answers])}, None, examples)


def _task(cfg, loaded, files):
    """Yields the lines of a fine-tuned run."""
    task = loaded.task
    examples = task.read(cfg.test_file)[: cfg.max_examples]
    metric = task.best_metric[0]
    _, scores = loaded.about(examples, 64).answer()
    checks.require(metric != "loss", "the task must be judged by a score of its answers", "loss", cfg.run_dir)
    told = {"examples": len(examples), "metric": metric}
    yield {"file": cfg.run_dir, "kind": "run folder", **told, "value": scores[metric]}
    for file in files:
        value = task.score(_predictions(file, loaded, examples), examples)[metric]
        scale = 1 if task.kind == "answer" else 100  # SQuAD's scores are of a hundred
        inputs = "ids" if file.signature == IDS else "text"
        yield file.line({"inputs": inputs, **told, "value": value, "points": scale * (value - scores[metric])})


def run(cfg):
    """Prints the lines, and returns them as dicts."""
    files = [_File(path, cfg.litert) for path in cfg.tflite]
    loaded, found = inference.load(cfg.run_dir), []
    for line in _task(cfg, loaded, files) if loaded else _masks(cfg, files):
        found.append(line)
        print(json.dumps({k: round(v, 6) if isinstance(v, float) else v for k, v in line.items()}), flush=True)
    return found


def main(argv):
    """The program."""
    del argv
    loaders.hush()
    run(config.from_flags(AccuracyConfig))


if __name__ == "__main__":
    config.define_flags(AccuracyConfig)
    checks.run_program(main)
