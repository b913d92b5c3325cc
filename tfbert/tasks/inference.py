"""What a model of a task says about examples: while it trains, in tfbert.evaluate and in tfbert.predict."""

import os
import sys
from typing import NamedTuple

import keras
import numpy as np
import tensorflow as tf

from tfbert import checks, run_folder
from tfbert.layers import dtype_policy, initializers
from tfbert.loop import checkpoints, distribution
from tfbert.tasks import batches, kinds, task
from tfbert.text import tokenizer
from tfbert.watching import views


def every_length(max_seq_length, max_chunks=1):
    """All lengths of batches: one graph does for all here, so that few would gain nothing; chunks are whole."""
    return (*range(1, max_seq_length), *(max_seq_length * n for n in range(1, max_chunks + 1)))


class Inference:
    """Asks a model about the same examples each time.

    Args:
        strategy: The `tf.distribute.Strategy` that the model was built under.
        model: Of `the_task.build_model`.
        the_task: The `task.Task`.
        rows: The `task.Rows` of the examples.
        examples: The task's examples.
        batch_size: Rows a batch, over all replicas.
        lengths: What batches are filled up to, ascending.
        as_packs: Whether the model unpacks rows.
    """

    def __init__(self, strategy, model, the_task, rows, examples, batch_size, lengths, as_packs=False):
        self._strategy, self._model, self._task = strategy, model, the_task
        self._rows, self._examples, self._batch_size = rows, examples, batch_size
        self._labelled = task.has_labels(examples)
        self._shared = distribution.members(strategy) is not None
        self._predictions = None  # of the last evaluation
        self._dataset = distribution.distribute(
            strategy, lambda *pipeline: batches.eval_dataset(rows, lengths, batch_size, *pipeline, as_packs=as_packs)
        )

    def some(self, count):
        """None: there are no masked words to guess in these examples."""
        del count

    def view(self):
        """What the last evaluation looks like, a `views.View`; None if there was none."""
        return None if self._predictions is None else self._task.view(self._predictions, self._examples)

    def evaluate(self, stop=None):
        """{name: value}: "loss", the objective's losses, and what `task.score` gives; None if `stop` asked to end.

        Args:
            stop: A `stop_request.StopRequest`, or None.

        Raises:
            InputError: the examples have no labels.
        """
        answered = self.answer(stop)
        return answered and answered[1]

    def answer(self, stop=None):
        """(predictions, what `evaluate` gives), or None if `stop` asked to end."""
        checks.require(self._labelled, "an evaluation needs labels", "none", self._examples[0].where)
        outputs, sums = self._ask(stop)
        if outputs is None:
            return None
        means = self._task.objective.means(sums)
        losses = {name: means[name] for name in ("loss", *self._task.objective.loss_names)}
        self._predictions = predictions = self._task.decode(outputs, self._rows, self._examples)
        return predictions, {**losses, **self._task.score(predictions, self._examples)}

    def predict(self):
        """A list of predictions, one an example."""
        outputs, _ = self._ask()
        return self._task.decode(outputs, self._rows, self._examples)

    def _ask(self, stop=None):
        """({output: float32 [R, ...]}, sums of losses and metrics float64 [names, 2]); (None, None) if `stop` asked."""
        found, sums = {}, 0.0
        iterator = iter(self._dataset)
        asked, agreed = (stop.variable, stop.agreed) if stop else (None, None)
        for _ in range(-(-len(self._rows) // self._batch_size)):
            if stop and stop.asked:
                return None, None
            outputs, numbers, more = self._step(iterator, asked, agreed)
            sums = sums + more.numpy().astype(np.float64)
            of_replicas = self._strategy.experimental_local_results
            for rows, *values in zip(of_replicas(numbers), *(of_replicas(outputs[n]) for n in self._task.outputs)):
                self._keep(found, rows.numpy(), [value.numpy() for value in values])
        # Of several processes each has asked about rows of its own, and has zeros for the others.
        return {name: distribution.added_up(self._strategy, values) for name, values in found.items()}, sums

    def _keep(self, found, numbers, values):
        """Puts a replica's outputs where their rows are."""
        real = numbers >= 0
        longest = int(self._rows.lengths.max())
        for name, value in zip(self._task.outputs, values):
            if name not in found:
                shape = (longest, *value.shape[2:]) if self._task.per_token else value.shape[1:]
                found[name] = np.zeros((len(self._rows), *shape), np.float32)
            if self._task.per_token:
                value = value[:, :longest]
                found[name][numbers[real], : value.shape[1]] = value[real]
            else:
                found[name][numbers[real]] = value[real]

    @tf.function(autograph=False, reduce_retracing=True)
    def _step(self, iterator, asked, agreed):
        asked = asked.read_value() if self._shared and asked is not None else None
        # Taken in here a batch is of no certain length, and one graph does for all.
        outputs, numbers, sums, asked = self._strategy.run(self._replica, args=(next(iterator), asked))
        if asked is not None:
            agreed.assign(self._strategy.experimental_local_results(asked)[0])
        return outputs, numbers, self._strategy.experimental_local_results(sums)[0]

    def _replica(self, features, asked):
        outputs = self._model({x.name: features[x.name] for x in self._model.inputs}, training=False)
        objective = self._task.objective
        sums = tf.zeros([len(objective.loss_names + objective.metric_names), 2])
        if self._labelled:
            sums = objective.reports(objective.losses(outputs, features), objective.metrics(outputs, features))
        context = tf.distribute.get_replica_context()
        if asked is None:
            sums = context.all_reduce("SUM", sums)
        else:
            sums, asked = context.all_reduce("SUM", [sums, tf.cast(asked, tf.float32)])
            asked = asked > 0
        return {n: tf.cast(outputs[n], tf.float32) for n in self._task.outputs}, features[batches.ROW], sums, asked


class Loaded(NamedTuple):
    """A run folder of a task, ready to be asked.

    Attributes:
        run: The `run_folder.RunFolder`.
        task: Its `task.Task`.
        model: Its model.
        tokenizer: The `tokenizer.Tokenizer` of its vocabulary.
        max_seq_length: The longest row in wordpieces that it was trained on.
        step: Of the checkpoint.
    """

    run: run_folder.RunFolder
    task: task.Task
    model: keras.Model
    tokenizer: tokenizer.Tokenizer
    max_seq_length: int
    step: int

    def about(self, examples, batch_size):
        """The `Inference` on examples."""
        rows = self.task.featurize(examples, self.tokenizer, self.max_seq_length, False)
        lengths = every_length(self.max_seq_length, self.task.max_chunks)
        return Inference(tf.distribute.get_strategy(), self.model, self.task, rows, examples, batch_size, lengths)


def load(run_dir, checkpoint=None, policy="float32"):
    """The `Loaded` of a run folder, or None if it was pre-trained and has no task.

    Args:
        run_dir: The run folder.
        checkpoint: As of `run_folder.checkpoint_prefix`. None says which it takes, if that is not simply the newest.
        policy: Keras's name of what its layers compute in.

    Raises:
        InputError: not a run folder, no such checkpoint, a damaged one, or one of another model.
    """
    run = run_folder.read(run_dir)
    the_task = kinds.of_run(run)
    if the_task is None:
        return None
    prefix = run_folder.checkpoint_prefix(run_dir, checkpoint)
    best = run_folder.best_of_task(run_dir)
    if checkpoint is None and best:
        newest = checkpoints.saved_steps(run_dir)[-1]
        others = "" if newest == best.step else f"; the newest is ckpt-{newest}"
        text = f"{run_dir}: ckpt-{best.step}, the best by {best.metric} ({best.value:.6g}){others}"
        print(text, file=sys.stderr, flush=True)
    with dtype_policy.building_in(policy), initializers.left_out():
        model = the_task.build_model(run.encoder, False)
    checkpoints.restore_model(prefix, model)
    length = run.config.get("records", {}).get("max_seq_length", run.encoder.max_position_embeddings)
    return Loaded(run, the_task, model, tokenizer.Tokenizer(run.vocab), length, int(prefix.rpartition("-")[2]))


def write_results(folder, loaded, split, examples, predictions, scores=None):
    """Writes what the field knows into a folder, which is made if it is not there.

    `eval_results.txt` is google-research/bert's: lines `eval_NAME = value`, sorted, and global_step. What tfbert.report
    draws of the same answers lies beside it: `views.VIEW_FILE`.

    Args:
        folder: Its path.
        loaded: The `Loaded`.
        split: "eval" or "test".
        examples: The task's examples.
        predictions: One an example.
        scores: {name: float}, or None if there are no labels.

    Raises:
        InputError: the folder cannot be written.
    """
    try:
        os.makedirs(folder, exist_ok=True)
        if scores is not None:
            lines = {f"{split}_{name}": f"{value:.6f}" for name, value in scores.items()}
            lines["global_step"] = str(loaded.step)
            with open(os.path.join(folder, f"{split}_results.txt"), "w", encoding="utf-8") as f:
                f.writelines(f"{name} = {lines[name]}\n" for name in sorted(lines))
            views.write(folder, loaded.step, loaded.task.view(predictions, examples))
        loaded.task.write(predictions, examples, folder, split)
    except OSError as e:
        raise checks.error("results need a folder that can be written", e.strerror or str(e), folder) from e


def read_scores(folder):
    """{name: float} of a folder's eval_results.txt, names without "eval_"; None if there is no such file."""
    path = os.path.join(folder, "eval_results.txt")
    if not os.path.isfile(path):
        return None
    with open(path, encoding="utf-8") as f:
        lines = dict(line.rstrip("\n").split(" = ") for line in f)
    return {name.removeprefix("eval_"): float(value) for name, value in lines.items() if name.startswith("eval_")}
