"""Steps and evaluation under any strategy, for any objective.

An objective gives sums and weights, never means. A step takes the micro-batches of all replicas together,
divides once by the weight of the whole, sums the gradients over micro-batches and replicas, clips by their
true global norm, and applies them: so the update does not depend on how the batch was cut.

Several steps run in one call of the graph and nothing comes back to Python in between. The graph's loop
ends early when a stop is asked for or when a step was not finite.
"""

import dataclasses
import functools
from collections.abc import Callable

import numpy as np
import tensorflow as tf

from tfbert.layers import compiled, dropout
from tfbert.loop import batch_ramp, distribution, input_wait, training_clock
from tfbert.watching import probes

GRADIENT_NORM, PADDING_SHARE = "gradient_norm", "padding_share"
# Keeps the seeds of dropout apart from those that the input pipeline makes of the same number.
_DROPOUT = 0x64726F70
# Named, so that masks do not hang on the device or compiler that TensorFlow would choose an algorithm by.
_fold_in = functools.partial(tf.random.experimental.stateless_fold_in, alg="philox")


@dataclasses.dataclass(frozen=True)
class Objective:
    """What is learned and what is reported, as functions of a replica's features.

    Attributes:
        losses: (outputs, features) -> {name: (sum, weight)}; the sum of their means is minimised.
        weights: features -> {name: weight}, the weights of `losses`.
        metrics: (outputs, features) -> {name: (sum, weight)}.
        loss_names: Names that `losses` and `weights` give.
        metric_names: Names that `metrics` gives.
    """

    losses: Callable
    weights: Callable
    metrics: Callable
    loss_names: tuple
    metric_names: tuple

    def reports(self, losses, metrics):
        """(sum, weight) of each loss and metric, in the order of their names: float32 [names, 2]."""
        pairs = [losses[name] for name in self.loss_names] + [metrics[name] for name in self.metric_names]
        return tf.stack([tf.stack([tf.cast(x, tf.float32) for x in pair]) for pair in pairs])

    def means(self, sums):
        """{name: mean} of float64 [names, 2], and "loss", the sum of the losses' means."""
        names = self.loss_names + self.metric_names
        means = {name: float(s / w) if w else 0.0 for name, (s, w) in zip(names, sums)}
        return {"loss": sum(means[name] for name in self.loss_names), **means}


def _inputs_of(model, features):
    """The features that the model takes."""
    return {tensor.name: features[tensor.name] for tensor in model.inputs}


def _before_cast(gradient):
    """The bfloat16 gradient that a float32 one was made of; it holds the same numbers in half the memory.

    A layer casts a variable to what it computes in, so the gradient comes with a cast as its last operation. Where
    gradients are added up they stay float32.
    """
    op = gradient.op
    return op.inputs[0] if op.type == "Cast" and op.inputs[0].dtype == tf.bfloat16 else gradient


@compiled.compiled
def _sum_of_squares_of_rows(x):
    return tf.reduce_sum(tf.square(tf.cast(x, tf.float32)), -1)


def _sum_of_squares(gradient):
    """float32 [], added in float32 whatever the dtype."""
    if gradient.dtype == tf.float32:
        return 2.0 * tf.nn.l2_loss(gradient)
    return tf.reduce_sum(_sum_of_squares_of_rows(gradient))


def host_variable(value, dtype):
    """State of the loop: one copy, on the host, whatever the strategy."""
    with tf.device("CPU:0"):
        return tf.Variable(value, dtype=dtype, trainable=False)


class Evaluator:
    """Means of an objective's losses and metrics over a fixed dataset.

    Args:
        strategy: The `tf.distribute.Strategy` that the model was built under.
        model: Takes and gives dictionaries.
        objective: The `Objective`.
    """

    def __init__(self, strategy, model, objective):
        self._strategy, self._model, self._objective = strategy, model, objective
        self._sums = host_variable(np.zeros([len(objective.loss_names + objective.metric_names), 2]), tf.float64)
        self._shared = distribution.members(strategy) is not None

    def evaluate(self, dataset, stop=None):
        """{name: mean} over the dataset, each mean weighted; None if `stop` asked before the end.

        Args:
            dataset: An iterable of batches as `distribution.distribute` gives it.
            stop: A `stop_request.StopRequest`, or None.
        """
        self._sums.assign(tf.zeros_like(self._sums))
        for batch in dataset:
            if stop is not None and stop.asked:
                return None
            asked, agreed = (stop.variable, stop.agreed) if stop else (None, None)
            self._add(batch, asked, agreed)
        return self._objective.means(self._sums.numpy())

    @tf.function(autograph=False, reduce_retracing=True)
    def _add(self, batch, asked, agreed):
        asked = asked.read_value() if self._shared and agreed is not None else None
        sums, asked = self._strategy.run(self._replica, args=(batch, asked))
        self._sums.assign_add(tf.cast(self._strategy.experimental_local_results(sums)[0], tf.float64))
        if asked is not None:
            agreed.assign(self._strategy.experimental_local_results(asked)[0])

    def _replica(self, features, asked):
        outputs = self._model(_inputs_of(self._model, features), training=False)
        objective = self._objective
        sums = objective.reports(objective.losses(outputs, features), objective.metrics(outputs, features))
        context = tf.distribute.get_replica_context()
        if asked is None:
            return context.all_reduce("SUM", sums), None
        sums, asked = context.all_reduce("SUM", [sums, tf.cast(asked, tf.float32)])
        return sums, asked > 0


class Trainer:
    """Runs optimizer steps and keeps the sums that the next report is made of.

    Args:
        strategy: The `tf.distribute.Strategy` that model and optimizer were built under.
        model: Takes and gives dictionaries.
        optimizer: One of `tfbert.optimizers`, built for `model.trainable_variables`.
        objective: The `Objective`.
        micro_batches: Batches that a replica adds up to one step: a number, or a `batch_ramp.BatchRamp`.
        clip_norm: Bound of the global norm of the gradient; 0 for none.
        seed: The run's seed; dropout's masks are made of it.
        clock: A `training_clock.TrainingClock` that the run ends by, or None.
        watch: A `spikes.SpikeWatch` that looks at each loss, or None.
        loss_scale: A `loss_scale.LossScale` for a model that computes in float16, or None.
    """

    def __init__(
        self,
        strategy,
        model,
        optimizer,
        objective,
        micro_batches=1,
        clip_norm=1.0,
        seed=0,
        clock=None,
        watch=None,
        loss_scale=None,
    ):
        self._strategy, self._model, self._optimizer, self._objective = strategy, model, optimizer, objective
        is_number = isinstance(micro_batches, int)
        self._ramp = batch_ramp.BatchRamp(micro_batches) if is_number else micro_batches
        self._clip_norm, self._seed, self._clock, self._watch = clip_norm, seed, clock, watch
        self._loss_scale = loss_scale
        # Each replica applies the sum over all. Keras would add these sums up once more, over the network at worst.
        optimizer._all_reduce_sum_gradients = list
        self._parts, self._part_of = probes.parts_of([v.path for v in model.trainable_variables])
        rows = len(objective.loss_names + objective.metric_names) + 2 + len(self._parts)
        self._step = host_variable(0, tf.int64)
        self._sums = host_variable(np.zeros([rows, 2]), tf.float64)
        self._last = host_variable(np.zeros([2]), tf.float32)  # loss and gradient norm of the last step
        self._input_wait = input_wait.InputWait()
        self._shared = distribution.members(strategy) is not None

    @property
    def state(self):
        """{name: tf.Variable}: what a checkpoint must hold besides the model and the optimizer."""
        parts = [part.state for part in (self._clock, self._watch, self._loss_scale) if part]
        return {"step": self._step, "sums": self._sums, **{n: v for state in parts for n, v in state.items()}}

    @property
    def step(self):
        """Optimizer steps done."""
        return int(self._step.numpy())

    @property
    def time_is_over(self):
        """Whether the run has a clock and its time is used up."""
        return self._clock is not None and self._clock.is_over

    @property
    def input_wait_seconds(self):
        """Seconds that steps of this process have waited for input."""
        return self._input_wait.seconds

    def run(self, iterator, count, stop):
        """Does `count` steps, or fewer if `stop` asks, the time is over or the batch grows, without asking the host.

        A step whose loss is a spike, or which is not finite, is the last. With other processes the step is done in
        which they are told of a stop: that costs no operation of its own.

        Args:
            iterator: Gives per-replica micro-batches, `micro_batches` of them a step.
            count: Steps, at most.
            stop: A `stop_request.StopRequest`.

        Returns:
            (loss, gradient norm) of the last step: floats that may not be finite, and then it was the last.
        """
        if self._clock:
            self._clock.resume()
        if self._watch:
            self._watch.begin()
        count = min(count, self._ramp.same_from(self.step) or count)
        # A number of its own of micro-batches is a graph of its own.
        self._run(iterator, tf.constant(count), stop.variable, stop.agreed, self._ramp.at(self.step))
        loss, norm = self._last.numpy()
        return float(loss), float(norm)

    def take_report(self):
        """{name: mean} since the last report; begins the next."""
        sums = self._sums.numpy()
        self._sums.assign(tf.zeros_like(self._sums))
        names = (GRADIENT_NORM, PADDING_SHARE, *(f"{GRADIENT_NORM}/{part}" for part in self._parts))
        others = {name: float(s / w) if w else 0.0 for name, (s, w) in zip(names, sums[-len(names) :])}
        time = {training_clock.SECONDS: self._clock.seconds} if self._clock else {}
        scale = self._loss_scale.report if self._loss_scale else {}
        return {**self._objective.means(sums), **others, **time, **scale}

    @tf.function(autograph=False, reduce_retracing=True)
    def _run(self, iterator, count, asked, agreed, micro_batches):
        def going_on(i):
            more = (i < count) & tf.reduce_all(tf.math.is_finite(self._last)) & ~agreed
            if self._watch:
                more &= ~self._watch.found
            return more & self._clock.tick() if self._clock else more

        def one_step(i):
            if self._clock:
                self._clock.begin_update()
            batches = self._input_wait.take(iterator, micro_batches)
            stop = asked.read_value() if self._shared else None
            step = self._scaled_step if self._loss_scale else self._plain_step
            sums, last, stop = step((batches, self._step.read_value(), stop))
            if self._shared:
                agreed.assign(stop > 0)
            self._sums.assign_add(tf.cast(sums, tf.float64))
            self._last.assign(last)
            if self._watch:
                self._watch.look(last[0])
            self._step.assign_add(1)
            return i + 1

        self._last.assign(tf.zeros_like(self._last))
        tf.while_loop(going_on, one_step, [tf.constant(0)], parallel_iterations=1)

    def _of_first(self, values):
        """What this process's first replica has, of values that all replicas have."""
        return [self._strategy.experimental_local_results(value)[0] for value in values]

    def _plain_step(self, arguments):
        """One step: (sums of the report, (loss, gradient norm), stops asked for), as `_replica_step`."""
        return self._of_first(self._strategy.run(self._replica_step, args=arguments))

    def _scaled_step(self, arguments):
        """`_plain_step` under float16: gradients that are not finite change no weight, and the scale.

        There, and not inside a replica, can a step be left out: replicas that update variables must not branch.
        """
        scale = self._loss_scale.value()
        gradients, results = self._strategy.run(self._replica_gradients, args=(*arguments, scale))
        sums, last, stop = self._of_first(results)
        loss, norm = tf.unstack(last)
        finite = tf.math.is_finite(norm)

        def update():
            self._strategy.run(self._replica_update, args=(gradients, norm, scale))
            return tf.constant(True)

        tf.cond(finite, update, lambda: tf.constant(False))
        skipped = ~finite & self._loss_scale.may_skip()
        self._loss_scale.update(finite)
        # The norms of a step that is skipped are in no report, and are no fault.
        reports = sums.shape[0] - 2 - len(self._parts)
        of_norms = np.arange(sums.shape[0]) >= reports
        of_norms[reports + 1] = False  # the share of padding
        sums = tf.where(~finite & of_norms[:, None], 0.0, sums)
        return sums, tf.stack([loss, tf.where(skipped, 0.0, norm)]), stop

    def _replica_step(self, batches, step, stop):
        """One replica's part of a step; what it returns is the same on every replica."""
        gradients, results = self._replica_gradients(batches, step, stop)
        self._replica_update(gradients, results[1][1])
        return results

    def _replica_gradients(self, batches, step, stop, loss_scale=None):
        """(gradients of all replicas, times the loss scale; (sums of the report, (loss, norm), stops asked for))."""
        context = tf.distribute.get_replica_context()
        weights = [self._objective.weights(features) for features in batches]
        weights = [tf.add_n([w[name] for w in weights]) for name in self._objective.loss_names]
        # Whether a process was asked to stop goes to the others with what they must add up anyway.
        stop = tf.constant(0.0) if stop is None else tf.cast(stop, tf.float32)
        *weights, stop = tf.unstack(context.all_reduce("SUM", tf.stack([*weights, stop])))
        weights = dict(zip(self._objective.loss_names, weights))
        seed = _fold_in(tf.constant([self._seed, _DROPOUT], tf.int64), step)
        seed = _fold_in(seed, tf.cast(context.replica_id_in_sync_group, tf.int64))
        scaled = weights if loss_scale is None else {name: w / loss_scale for name, w in weights.items()}
        gradients, sums = self._accumulate(batches, scaled, seed)
        *gradients, sums = context.all_reduce("SUM", [*gradients, sums])
        squares = [_sum_of_squares(g) for g in gradients]
        norms = tf.sqrt(tf.math.unsorted_segment_sum(tf.stack(squares), self._part_of, len(self._parts)))  # [parts]
        norm = tf.sqrt(tf.add_n(squares))
        if loss_scale is not None:
            norm, norms = norm / loss_scale, norms / loss_scale
        loss = tf.add_n([tf.math.divide_no_nan(sums[i, 0], w) for i, w in enumerate(weights.values())])
        norms = tf.stack([norms, tf.ones_like(norms)], 1)  # [parts, 2]
        sums = tf.concat([sums[:-1], [[norm, 1.0]], sums[-1:], norms], 0)
        return gradients, (sums, tf.stack([loss, norm]), stop)

    def _replica_update(self, gradients, norm, loss_scale=1.0):
        """Applies the gradients, clipped: the same on every replica."""
        scale = 1.0 / loss_scale
        if self._clip_norm:
            scale *= self._clip_norm / tf.maximum(norm, self._clip_norm)
        if self._strategy.num_replicas_in_sync == 1:
            self._optimizer.apply_scaled(gradients, scale, self._model.trainable_variables)
        else:
            gradients = [tf.cast(g, tf.float32) * scale for g in gradients]
            self._optimizer.apply(gradients, self._model.trainable_variables)

    def _accumulate(self, batches, weights, seed):
        """Sums of gradients and reports over a replica's micro-batches, one after another."""
        if len(batches) == 1:
            gradients, sums = self._gradients(batches[0], weights, seed, tf.constant(0, tf.int64))
            alone = self._strategy.num_replicas_in_sync == 1
            return [_before_cast(g) if alone else g for g in gradients], sums
        stacked = {name: tf.stack([features[name] for features in batches]) for name in batches[0]}
        rows = len(self._objective.loss_names + self._objective.metric_names) + 1

        def add(i, gradients, sums):
            more, more_sums = self._gradients({n: x[i] for n, x in stacked.items()}, weights, seed, i)
            return i + 1, [g + m for g, m in zip(gradients, more)], sums + more_sums

        zeros = [tf.zeros(v.shape) for v in self._model.trainable_variables]
        start = [tf.constant(0, tf.int64), zeros, tf.zeros([rows, 2])]
        # One at a time: in parallel they would need the memory that micro-batches are there to save.
        _, gradients, sums = tf.while_loop(lambda i, *_: i < len(batches), add, start, parallel_iterations=1)
        return gradients, sums

    def _gradients(self, features, weights, seed, micro_batch):
        """Gradients of the losses' sums over the weights of the whole batch, and the reports' sums."""
        variables = self._model.trainable_variables
        with tf.GradientTape() as tape:
            with dropout.seeded(_fold_in(seed, micro_batch)):
                outputs = self._model(_inputs_of(self._model, features), training=True)
            losses = self._objective.losses(outputs, features)
            loss = tf.add_n([tf.math.divide_no_nan(losses[name][0], w) for name, w in weights.items()])
        gradients = tape.gradient(loss, [v.value for v in variables])
        unused = [v.path for v, g in zip(variables, gradients) if g is None]
        if unused:
            raise ValueError(f"Every trainable variable must have a gradient; {unused} have none.")
        sums = self._objective.reports(losses, self._objective.metrics(outputs, features))
        mask = tf.cast(features["input_mask"] > 0, tf.float32)
        size = tf.cast(tf.size(mask), tf.float32)
        padding = tf.stack([size - tf.reduce_sum(mask), size])
        return [tf.convert_to_tensor(g) for g in gradients], tf.concat([sums, [padding]], 0)
