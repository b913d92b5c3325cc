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

from tfbert import (
    batch_ramp,
    checkpoints,
    checks,
    config,
    distribution,
    faults,
    hooks,
    initial_weights,
    input_pipeline,
    loss_scale,
    lost_worker,
    profiling,
    progress,
    retention,
    run_folder,
    spikes,
    stop_request,
    summaries,
    train_loop,
    training_clock,
)
from tfbert import trainer as trainer_lib
from tfbert.optimizers import adamw, lamb, param_groups, schedules

GUESSES = 4  # held-out examples that TensorBoard shows the model's answers on

# Flags that do not change what is computed.
MAY_CHANGE = (
    "output_dir",
    "save_checkpoints_steps",
    "keep_checkpoint_max",
    "keep_checkpoint_every_n_hours",
    "keep_best_metric",
    "on_spike",  # these three matter after a bad step only
    "max_rollbacks",
    "spike_factor",
    "iterations_per_loop",
    "profile_steps",
    "tpu_name",
    "allow_missing",  # matters before the first step only
)

POLICIES = {"float32": "float32", "bfloat16": "mixed_bfloat16", "float16": "mixed_float16"}
OPTIMIZERS = {"adamw": adamw.AdamW, "lamb": lamb.Lamb}


@dataclasses.dataclass(frozen=True)
class TrainingConfig:
    """The flags that programs which train share."""

    output_dir: str = config.field("", "The run folder; one that is there goes on.")
    init_checkpoint: str = config.field(
        "", "Weights to begin with: a run folder, a checkpoint, a Hugging Face folder or a KerasHub preset."
    )
    allow_missing: tuple[str, ...] = config.field(
        (), "Globs of names that init_checkpoint may lack, or have and not be used, such as cls/*."
    )
    keep_optimizer: bool = config.field(
        False, "Whether init_checkpoint, a run folder, also gives the state of its optimizer."
    )
    freeze: tuple[str, ...] = config.field((), "Globs of variables that are not trained, such as bert/embeddings/*.")
    train_batch_size: int = config.field(32, "Rows of records an optimizer step, over all replicas.", lower_bound=1)
    gradient_accumulation_steps: int = config.field(1, "Parts that a step's batch is computed in.", lower_bound=1)
    batch_ramp: float = config.field(
        0.0,
        "Share of the steps in which the batch grows, from one of gradient_accumulation_steps parts to all.",
        lower_bound=0.0,
        upper_bound=1.0,
    )
    eval_batch_size: int = config.field(32, "Rows a batch of evaluation, over all replicas.", lower_bound=1)
    optimizer: str = config.field("adamw", "What updates the weights.", choices=tuple(OPTIMIZERS))
    adam_beta1: float = config.field(0.9, "Decay of the mean gradient.", lower_bound=0.0, upper_bound=1.0)
    adam_beta2: float = config.field(0.999, "Decay of the mean squared gradient.", lower_bound=0.0, upper_bound=1.0)
    adam_epsilon: float = config.field(1e-6, "Added to the root of the mean square.", lower_bound=0.0)
    learning_rate: float = config.field(1e-4, "Peak learning rate.", lower_bound=0.0)
    layerwise_lr_decay: float = config.field(
        1.0, "Share of the learning rate that a layer has of the one above.", lower_bound=0.0, upper_bound=1.0
    )
    num_train_steps: int = config.field(100_000, "Optimizer steps.", lower_bound=1)
    train_hours: float | None = config.field(
        None, "Hours of training, evaluations not counted; in place of num_train_steps.", lower_bound=0.0
    )
    num_warmup_steps: int = config.field(10_000, "Steps in which the learning rate rises.", lower_bound=0)
    warmup_proportion: float | None = config.field(
        None, "Share of the training that is warm-up; in place of num_warmup_steps.", lower_bound=0.0, upper_bound=1.0
    )
    lr_schedule: str = config.field("polynomial", "How the learning rate falls.", choices=schedules.SHAPES)
    lr_power: float = config.field(1.0, "Power of the polynomial schedule.", lower_bound=0.0)
    lr_decay_proportion: float = config.field(
        0.1, "Share of the training in which wsd falls.", lower_bound=0.0, upper_bound=1.0
    )
    initial_lr_ratio: float = config.field(
        0.0, "Share of the peak that warm-up begins with.", lower_bound=0.0, upper_bound=1.0
    )
    min_lr_ratio: float = config.field(
        0.0, "Share of the peak that the learning rate ends with.", lower_bound=0.0, upper_bound=1.0
    )
    weight_decay: float = config.field(0.01, "How much weights shrink.", lower_bound=0.0)
    clip_norm: float = config.field(1.0, "Bound of the gradient's global norm; 0: none.", lower_bound=0.0)
    random_seed: int = config.field(12345, "Seed of weights, order and dropout.", lower_bound=0, upper_bound=2**31 - 1)
    save_checkpoints_steps: int = config.field(1000, "Steps from checkpoint to checkpoint.", lower_bound=1)
    keep_checkpoint_max: int = config.field(5, "Newest checkpoints that are kept; 0: all.", lower_bound=0)
    keep_checkpoint_every_n_hours: float = config.field(
        0.0, "Also keeps the first checkpoint, and one for each so many hours after it; 0: none.", lower_bound=0.0
    )
    keep_best_metric: str = config.field(
        "", "Also keeps the checkpoint that is the best by this held-out metric, such as masked_lm_loss."
    )
    on_spike: str = config.field(
        "rollback",
        "After a step whose loss leaps or is not finite: rollback goes back to the last checkpoint and on without the "
        "records of that step; stop ends the run.",
        choices=faults.ON_SPIKE,
    )
    spike_factor: float = config.field(
        10.0, "A loss so many deviations above its running mean is a spike; 0: none is.", lower_bound=0.0
    )
    max_rollbacks: int = config.field(3, "Rollbacks from one checkpoint to the next, at most.", lower_bound=1)
    eval_steps: int = config.field(
        1000, "Steps from evaluation to evaluation; 0: at the start and the end only.", lower_bound=0
    )
    log_steps: int = config.field(100, "Steps from report to report.", lower_bound=1)
    iterations_per_loop: int = config.field(100, "Steps a call of the graph, at most.", lower_bound=1)
    profile_steps: str = config.field(
        "",
        "FIRST:LAST writes a profile of the steps after FIRST up to LAST to output_dir/tensorboard/profile. Calls of "
        "the graph are cut there, so that each of these steps is one; the result of the run is the same.",
    )
    shuffle_buffer_size: int = config.field(100_000, "Records that are shuffled together.", lower_bound=1)
    strategy: str = config.field(
        "default",
        "default: one device; mirrored: all of this machine; multi_worker: several processes, as TF_CONFIG or Slurm "
        "names them; tpu.",
        choices=distribution.STRATEGIES,
    )
    tpu_name: str = config.field("", "The TPU's name or address.")
    mixed_precision: str = config.field(
        "float32", "What layers compute in; float16 is for GPUs without bfloat16.", choices=tuple(POLICIES)
    )
    rematerialize: bool = config.field(
        False, "Keep less for the backward pass and compute each layer again there: less memory for more time."
    )
    hidden_dropout_prob: float | None = config.field(
        None, "In place of the model's own.", lower_bound=0.0, upper_bound=1.0
    )
    attention_probs_dropout_prob: float | None = config.field(
        None, "In place of the model's own.", lower_bound=0.0, upper_bound=1.0
    )
    initializer_range: float | None = config.field(None, "In place of the model's own.", lower_bound=0.0)

    def __post_init__(self):
        config.check_bounds(self)
        checks.require(self.output_dir, "--output_dir must be given", f"output_dir={self.output_dir!r}")
        profiling.parse_steps(self.profile_steps, self.last_step)
        checks.require(
            self.train_batch_size % self.gradient_accumulation_steps == 0,
            "train_batch_size must be a multiple of gradient_accumulation_steps",
            f"train_batch_size={self.train_batch_size}, gradient_accumulation_steps={self.gradient_accumulation_steps}",
        )
        checks.require(
            not self.keep_optimizer or self.init_checkpoint,
            "--keep_optimizer needs --init_checkpoint",
            f"keep_optimizer={self.keep_optimizer}, init_checkpoint={self.init_checkpoint!r}",
        )
        checks.require(
            self.train_hours is None or (self.train_hours > 0 and self.warmup_proportion is not None),
            "train_hours must be positive, and go with warmup_proportion, since the number of steps is not known",
            f"train_hours={self.train_hours}, warmup_proportion={self.warmup_proportion}",
        )
        checks.require(
            not (self.batch_ramp and self.train_hours),
            "a batch grows over steps, whose number train_hours does not know",
            f"batch_ramp={self.batch_ramp}, train_hours={self.train_hours}",
            do="Give one of the two",
        )
        checks.require(
            not (self.train_hours and self.strategy == "multi_worker"),
            "several processes train by steps, since each has a clock of its own",
            f"train_hours={self.train_hours}, strategy={self.strategy}",
            do="Give --num_train_steps",
        )

    @property
    def last_step(self):
        """The number of optimizer steps, or None if the time decides."""
        return None if self.train_hours else self.num_train_steps


def _schedule(flags, clock):
    """The learning rate, keyed to the step or to a clock."""
    total = clock.budget if clock else flags.num_train_steps
    warmup = flags.num_warmup_steps
    if flags.warmup_proportion is not None:
        warmup = flags.warmup_proportion * total if clock else round(flags.warmup_proportion * total)
    schedule = schedules.Schedule(
        flags.learning_rate,
        warmup,
        total,
        flags.lr_schedule,
        flags.lr_power,
        flags.lr_decay_proportion,
        flags.initial_lr_ratio,
        flags.min_lr_ratio,
    )
    return schedules.TimeKeyed(schedule, clock) if clock else schedule


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
        held_out: (strategy, model) -> what has `evaluate(stop)`, `some(count)` and, unless that gives None,
            `wordpiece_counts`, such as `held_out.HeldOut`; or None if there is nothing to evaluate on.
        reading: () -> a context in which errors of reading are told by file and record.
        about: What is trained on, as text for people.
        hparams: {name: value} of the configuration, for TensorBoard.
        max_seq_length: Tokens in a row.
        skipped: Text about each damaged record that is left out.
    """

    build_model: Callable
    objective: trainer_lib.Objective
    train_dataset: Callable
    held_out: Callable | None
    reading: Callable
    about: str
    hparams: dict
    max_seq_length: int
    skipped: tuple = ()


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
    policy = keras.config.dtype_policy()
    keras.config.set_dtype_policy(POLICIES[flags.mixed_precision])
    try:
        with strategy.scope():
            model = build_model()
            frozen = param_groups.freeze(model, flags.freeze)
            paths = [v.path for v in model.trainable_variables]
            scales = param_groups.rate_scales(paths, encoder.num_hidden_layers, flags.layerwise_lr_decay)
            optimizer = OPTIMIZERS[flags.optimizer](
                schedule,
                flags.weight_decay,
                flags.adam_beta1,
                flags.adam_beta2,
                flags.adam_epsilon,
                decays=param_groups.decay_mask(paths).__getitem__,
                rate_scale=scales.__getitem__,
            )
            optimizer.build(model.trainable_variables)
    finally:
        keras.config.set_dtype_policy(policy)
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


def _begin(flags, run, strategy, saved, model, optimizer):
    """Restores the newest checkpoint and returns its step; None for a run that is new, which gets its weights."""
    resume_step = saved.restore_latest()
    with distribution.together(strategy):
        if resume_step is None and flags.init_checkpoint:
            _say(initial_weights.take(flags.init_checkpoint, flags.allow_missing, model, run))
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
        job.held_out is not None or not flags.keep_best_metric,
        "keep_best_metric needs something to evaluate on",
        f"keep_best_metric={flags.keep_best_metric}, and nothing held out",
        do="Give --eval_input_file, or leave it out",
    )
    clock = training_clock.TrainingClock(flags.train_hours * 3600) if flags.train_hours else None
    schedule = _schedule(flags, clock)
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
        retention.Policy(flags.keep_checkpoint_max, flags.keep_checkpoint_every_n_hours, flags.keep_best_metric),
        background=True,
        zero_if_absent=[*watch.state, *bad_steps.state],
        writes=chief,
        of_chief=functools.partial(distribution.of_chief, strategy),
    )
    resume_step = _begin(flags, run, strategy, saved, model, optimizer)
    _say(f"{model.count_params():,} parameters, {job.about}, {strategy.num_replicas_in_sync} replicas")
    evaluation = job.held_out and job.held_out(strategy, model)
    plan = train_loop.Plan(
        flags.last_step, flags.log_steps, flags.eval_steps, flags.save_checkpoints_steps, flags.iterations_per_loop
    )

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
        step = train_loop.train(
            profiled,
            lambda: iter(distribution.distribute(strategy, make_dataset)),
            plan,
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
    return step, stop.signal, plan.is_over(step) or trainer.time_is_over


def _last_checkpoint(flags, run_dir, evaluates):
    """The prefix of the last checkpoint of a run that is finished, or None.

    Args:
        flags: A `TrainingConfig`.
        run_dir: The run folder.
        evaluates: Whether a finished run ends with an evaluation.
    """
    steps = checkpoints.saved_steps(run_dir)
    if not steps or (evaluates and not run_folder.was_evaluated(run_dir, steps[-1])):
        return None
    prefix = checkpoints.prefix_of(run_dir, steps[-1])
    if not (flags.train_hours or steps[-1] == flags.num_train_steps) or not checkpoints.is_whole(prefix):
        return None
    is_over = not flags.train_hours or training_clock.seconds_in(prefix) >= flags.train_hours * 3600
    return prefix if is_over else None


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
        last = _last_checkpoint(flags, folder.dir, job.held_out is not None)
        if distribution.of_chief(strategy, int(last is not None)):
            _say(f"{folder.dir} is finished: {last} is its last checkpoint.")
            return 0
        step, stopped_by, is_over = _train(flags, folder, strategy, job)
        distribution.everyones(strategy, 0)  # no worker ends well before the chief has saved
    if not is_over:
        _say(f"Stopped at step {step:,}, saved. The same command goes on.")
        if stopped_by is None and distribution.members(strategy):
            _say("Another worker was asked to stop.")
            return lost_worker.STATUS
        return 128 + stopped_by if stopped_by == signal.SIGINT else 0
    _say(f"Finished {step:,} steps: {checkpoints.prefix_of(folder.dir, step)}")
    return 0
