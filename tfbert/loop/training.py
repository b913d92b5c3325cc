"""What every program that trains does alike: its flags, optimizer, checkpoints, logs and the loop."""

import contextlib
import dataclasses
import functools
import os
import signal
import sys
import zlib
from collections.abc import Callable

import keras

from tfbert import checks, initial_weights, input_pipeline, run_folder
from tfbert.layers import dtype_policy
from tfbert.loop import (
    batch_ramp,
    checkpoints,
    distribution,
    faults,
    loss_scale,
    lost_worker,
    profiling,
    retention,
    spikes,
    stop_request,
    train_loop,
    training_clock,
    training_config,
)
from tfbert.loop import trainer as trainer_lib
from tfbert.optimizers import param_groups
from tfbert.watching import hooks, progress, summaries

GUESSES = 4  # held-out examples that TensorBoard shows the model's answers on


def _say(text):
    """Tells the person at the terminal."""
    print(text, file=sys.stderr, flush=True)


@dataclasses.dataclass(frozen=True)
class Job:
    """What one program trains, as functions.

    Attributes:
        build_model: () -> a Keras model; called under the strategy and the precision of the flags.
        objective: The `trainer.Objective`.
        train_dataset: (rows of a part, first part, num_pipelines, pipeline_index, replicas_per_pipeline) -> the
            endless dataset of per-replica parts; an optimizer step takes one part or several.
        held_out: (strategy, model) -> what has `evaluate(stop)`, `view()`, `some(count)` and, unless that gives None,
            `wordpiece_counts`, such as `held_out.HeldOut`; or None if there is nothing to evaluate on.
        reading: () -> a context in which errors of reading are told by file and record.
        about: What is trained on, as text for people.
        hparams: {name: value} of the configuration, for TensorBoard.
        max_seq_length: Tokens in a row, filled up; None if batches are filled up to lengths of their own.
        skipped: Text about each damaged record that is left out.
        best_by: (held-out metric, "max" or "min"), by which the best checkpoint is kept too; None: it is not.
        begins_anew: {glob of names of variables that begin with fresh weights, whatever init_checkpoint has: why}.
    """

    build_model: Callable
    objective: trainer_lib.Objective
    train_dataset: Callable
    held_out: Callable | None
    reading: Callable
    about: str
    hparams: dict
    max_seq_length: int | None
    skipped: tuple = ()
    best_by: tuple[str, str] | None = None
    begins_anew: dict = dataclasses.field(default_factory=dict)


def check_batches(flags, strategy):
    """Raises an `InputError` unless the batches can be divided among the replicas."""
    parts = flags.gradient_accumulation_steps * strategy.num_replicas_in_sync
    checks.require(
        flags.train_batch_size % parts == 0 and flags.eval_batch_size % strategy.num_replicas_in_sync == 0,
        "batch sizes must be multiples of the number of replicas (times gradient_accumulation_steps in training)",
        f"train_batch_size={flags.train_batch_size}, eval_batch_size={flags.eval_batch_size}, "
        f"{strategy.num_replicas_in_sync} replicas",
    )


def _build(flags, encoder, strategy, build_model, schedule):
    """(model, optimizer), built under the strategy; fresh weights are a function of the seed."""
    keras.utils.set_random_seed(flags.random_seed)
    with dtype_policy.building_in(training_config.POLICIES[flags.mixed_precision]), strategy.scope():
        model = build_model()
        frozen = param_groups.freeze(model, flags.freeze)
        paths = [v.path for v in model.trainable_variables]
        scales = param_groups.rate_scales(paths, encoder.num_hidden_layers, flags.layerwise_lr_decay)
        optimizer = training_config.OPTIMIZERS[flags.optimizer](
            schedule,
            flags.weight_decay,
            flags.adam_beta1,
            flags.adam_beta2,
            flags.adam_epsilon,
            decays=param_groups.decay_mask(paths).__getitem__,
            rate_scale=scales.__getitem__,
        )
        optimizer.build(model.trainable_variables)
    if frozen:
        _say("\n  ".join([f"frozen, {len(frozen)} variables:", *frozen]))
    return model, optimizer


def open_folder(flags, strategy, *made_of, may_change, defaults):
    """The run folder: the chief makes or checks it, the others see that they have the same flags and records.

    Args:
        flags: A `TrainingConfig`.
        strategy: Of `distribution.make_strategy`.
        made_of: As of `run_folder.create`, like `may_change` and `defaults`.

    Returns:
        The `run_folder.RunFolder`.

    Raises:
        InputError: as of `run_folder.create` and `run_folder.join`, or one of another process.
    """
    with distribution.together(strategy):
        if distribution.is_chief(strategy):
            folder = run_folder.create(flags.output_dir, *made_of, may_change, defaults)
    with distribution.together(strategy):
        if not distribution.is_chief(strategy):
            folder = run_folder.join(flags.output_dir, *made_of, may_change, defaults)
    return folder


def _begin(flags, run, strategy, job, saved, model, optimizer):
    """Restores the newest checkpoint and returns its step; None for a run that is new, which gets its weights."""
    resume_step = saved.restore_latest()
    with distribution.together(strategy):
        if resume_step is None and flags.init_checkpoint:
            _say(initial_weights.take(flags.init_checkpoint, flags.allow_missing, model, run, job.begins_anew))
            if flags.keep_optimizer:
                _say(initial_weights.take_optimizer(flags.init_checkpoint, model, optimizer))
    if distribution.members(strategy):
        sums = distribution.everyones(strategy, _checksum(model))
        must = "all workers must begin with the same weights"
        checks.require(len(set(sums)) == 1, must, f"checksums {sums}", do="Give all the same --init_checkpoint")
    return resume_step


def _checksum(model):
    """A number that two models share if their weights are equal to the bit."""
    checksum = 0
    for variable in model.variables:
        checksum = zlib.crc32(variable.numpy().tobytes(), checksum)
    return checksum


def _tell_of_start(logs, job, saved, resume_step):
    """Writes to the logs how this process found the data and the run."""
    if resume_step is None:
        if job.skipped:
            logs.event(0, "skipped_records", f"{len(job.skipped)} that are damaged: {'; '.join(job.skipped)}")
    else:
        for prefix in saved.damaged:
            name = os.path.basename(prefix)
            logs.event(resume_step, "damaged_checkpoint", f"{name} could not be read and was renamed {name}.*.damaged")
        logs.event(resume_step, "restart", f"going on from {os.path.basename(saved.latest)}")


def _plan(flags):
    """The `train_loop.Plan` of a `TrainingConfig`."""
    return train_loop.Plan(
        flags.last_step,
        flags.log_steps,
        flags.eval_steps,
        flags.save_checkpoints_steps,
        flags.iterations_per_loop,
        flags.early_stopping_patience,
    )


def _train(flags, run, strategy, job):
    """Builds, restores and trains.

    Args:
        flags: A `TrainingConfig`.
        run: The `run_folder.RunFolder`, locked by this process.
        strategy: Of `distribution.make_strategy`.
        job: The `Job`.

    Returns:
        (step reached, the signal that came or None, whether the run is over).

    Raises:
        InputError: what is read or written cannot be, or training went wrong.
    """
    checks.require(
        job.held_out is not None or not job.best_by,
        "keep_best_metric needs something to evaluate on",
        f"{job.best_by and job.best_by[0]}, and nothing held out",
        do="Give --eval_input_file, or leave it out",
    )
    checks.require(
        job.best_by or not flags.early_stopping_patience,
        "early_stopping_patience needs a metric, --keep_best_metric, and something to evaluate on",
        f"early_stopping_patience={flags.early_stopping_patience}",
    )
    clock = training_clock.TrainingClock(flags.train_hours * 3600) if flags.train_hours else None
    schedule = training_config.schedule(flags, clock)
    model, optimizer = _build(flags, run.encoder, strategy, job.build_model, schedule)
    ramp = batch_ramp.BatchRamp(flags.gradient_accumulation_steps, round(flags.batch_ramp * flags.num_train_steps))
    part = flags.train_batch_size // ramp.parts
    watch = spikes.SpikeWatch(flags.spike_factor)
    scale = loss_scale.LossScale() if flags.mixed_precision == "float16" else None
    trainer = trainer_lib.Trainer(
        strategy, model, optimizer, job.objective, ramp, flags.clip_norm, flags.random_seed, clock, watch, scale
    )
    bad_steps = faults.Faults(ramp, part, watch, flags.on_spike, flags.max_rollbacks)
    chief = distribution.is_chief(strategy)
    saved = checkpoints.Checkpoints(
        run.dir,
        model,
        optimizer,
        trainer.state | bad_steps.state,
        retention.Policy(flags.keep_checkpoint_max, flags.keep_checkpoint_every_n_hours, job.best_by),
        background=True,
        zero_if_absent=[*watch.state, *bad_steps.state],
        writes=chief,
        of_chief=functools.partial(distribution.of_chief, strategy),
    )
    resume_step = _begin(flags, run, strategy, job, saved, model, optimizer)
    _say(f"{model.count_params():,} parameters, {job.about}, {strategy.num_replicas_in_sync} replicas")
    evaluation = job.held_out and job.held_out(strategy, model)

    def make_dataset(*pipeline):
        # Parts take the place of steps, since steps are not of one size.
        first = bad_steps.part_at(trainer.step)
        dataset = job.train_dataset(part, first, *pipeline)
        return input_pipeline.without(dataset, first, bad_steps.left_out, pipeline[-1])

    profiled = profiling.Profiled(
        trainer,
        profiling.parse_steps(flags.profile_steps if chief else "", flags.last_step),
        os.path.join(run.dir, summaries.FOLDER),
    )
    guess_features = evaluation and evaluation.some(GUESSES)
    evaluated = resume_step is not None and run_folder.was_evaluated(run.dir, resume_step)
    evaluate_first = not distribution.of_chief(strategy, int(evaluated))
    watched = progress.Watched(
        run.dir,
        flags.last_step,
        lambda step: part * ramp.before(step),
        resume_step,
        hparams=job.hparams,
        model=model,
        guess_features=guess_features,
        view=evaluation and evaluation.view,
        vocab=run.vocab,
        wordpiece_counts=guess_features and evaluation.wordpiece_counts,
        max_seq_length=job.max_seq_length,
        train_seconds=clock and clock.budget,
        waited=lambda: trainer.input_wait_seconds,
    )
    logs = hooks.Logs(watched, hooks.of_run if chief else lambda _: [])
    stopping = stop_request.StopRequest(shared=distribution.members(strategy) is not None)
    with train_loop.closing([logs, profiled, saved]), stopping as stop, job.reading():
        _tell_of_start(logs, job, saved, resume_step)
        step, is_over = train_loop.train(
            profiled,
            lambda: iter(distribution.distribute(strategy, make_dataset)),
            _plan(flags),
            saved,
            logs,
            evaluate=evaluation and (lambda: evaluation.evaluate(stop)),
            learning_rate=lambda step: float(schedule(step)),
            stop=stop,
            faults=bad_steps,
            evaluate_first=evaluate_first,
        )
    if profiled.profiled:
        _say("profile of steps {:,} to {:,}: {}".format(*profiled.profiled, profiled.folder))
    return step, stop.signal, is_over


def _best(run_dir, job):
    """The `retention.Best` of a run folder by what a `Job` is judged by, or None."""
    best = checkpoints.read_best(run_dir) if job.best_by else None
    return best if best and best.metric == job.best_by[0] else None


def _last_checkpoint(flags, run_dir, job):
    """The prefix of the last checkpoint of a run that is finished, or None.

    Args:
        flags: A `TrainingConfig`.
        run_dir: The run folder.
        job: The `Job`.
    """
    steps = checkpoints.saved_steps(run_dir)
    if not steps or (job.held_out and not run_folder.was_evaluated(run_dir, steps[-1])):
        return None
    prefix, best = checkpoints.prefix_of(run_dir, steps[-1]), _best(run_dir, job)
    is_over = _plan(flags).is_over(steps[-1]) or _plan(flags).gives_up_at(steps[-1], best and best.step)
    if not (flags.train_hours or is_over) or not checkpoints.is_whole(prefix):
        return None
    return prefix if is_over or training_clock.seconds_in(prefix) >= flags.train_hours * 3600 else None


def _ending(flags, run_dir, job, step):
    """What is to be said of a run that is over, beside its last step: lines."""
    best = _best(run_dir, job)
    lines = [f"The best by {best.metric} ({best.value:.6g}) is ckpt-{best.step}."] if best else []
    if not _plan(flags).is_over(step) and _plan(flags).gives_up_at(step, best and best.step):
        lines.append("It was stopped early; with a larger --early_stopping_patience the same command goes on.")
    return lines


def run(flags, folder, strategy, job):
    """Trains to the end, or until a signal, and says which; returns the exit status of the program.

    SIGTERM saves and gives 0, since machines that are taken away send it; SIGINT saves and gives 130. The workers that
    stop because another one was sent a signal end with 75, since what started them should do so again.

    Args:
        flags: A `TrainingConfig`.
        folder: The `run_folder.RunFolder`.
        strategy: Of `distribution.make_strategy`.
        job: The `Job`.

    Raises:
        InputError: what is read or written cannot be, or training went wrong.
    """
    with contextlib.ExitStack() as stack:
        with distribution.together(strategy):
            if distribution.is_chief(strategy):
                stack.enter_context(run_folder.lock(folder.dir))
        last = _last_checkpoint(flags, folder.dir, job)
        if distribution.of_chief(strategy, int(last is not None)):
            step = checkpoints.saved_steps(folder.dir)[-1]
            first = f"{folder.dir} is finished: {last} is its last checkpoint."
            _say("\n".join([first, *_ending(flags, folder.dir, job, step)]))
            return 0
        step, stopped_by, is_over = _train(flags, folder, strategy, job)
        distribution.everyones(strategy, 0)  # no worker ends well before the chief has saved
    if not is_over:
        _say(f"Stopped at step {step:,}, saved. The same command goes on.")
        if stopped_by is None and distribution.members(strategy):
            _say("Another worker was asked to stop.")
            return lost_worker.STATUS
        return 128 + stopped_by if stopped_by == signal.SIGINT else 0
    first = f"Finished {step:,} steps: {checkpoints.prefix_of(folder.dir, step)}"
    _say("\n".join([first, *_ending(flags, folder.dir, job, step)]))
    return 0


def is_finished(flags, run_dir, job):
    """Whether a run has trained to its end; arguments as of `_last_checkpoint`."""
    return _last_checkpoint(flags, run_dir, job) is not None
