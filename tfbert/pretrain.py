"""Pre-trains BERT on records of text: masked language model, and next sentence or sentence order prediction.

    python -m tfbert.pretrain --flagfile=base.flags

The same command goes on with a run that was interrupted, to the same weights; on a finished run it says so.
"""

from tfbert import quiet  # noqa: F401 (first: it imports TensorFlow without its start-up noise)

# isort: split
import dataclasses
import os
import signal
import sys

import keras

from tfbert import (
    batch_ramp,
    checkpoints,
    checks,
    config,
    distribution,
    heads,
    held_out,
    hooks,
    initial_weights,
    input_pipeline,
    machine,
    profiling,
    record_sets,
    run_folder,
    summaries,
    train_loop,
    training_clock,
)
from tfbert.convert import formats
from tfbert.optimizers import adamw, lamb, param_groups, schedules
from tfbert.text import selection
from tfbert.text import vocab as vocab_lib

GUESSES = 4  # held-out records that TensorBoard shows the model's answers on

# Flags that do not change what is computed. Files may move: their contents are compared.
MAY_CHANGE = (
    "output_dir",
    "input_file",
    "eval_input_file",
    "vocab_file",
    "do_lower_case",
    "bert_config_file",
    "save_checkpoints_steps",
    "keep_checkpoint_max",
    "iterations_per_loop",
    "profile_steps",
    "tpu_name",
    "allow_missing",  # matters before the first step only
)

OPTIMIZERS = {"adamw": adamw.AdamW, "lamb": lamb.Lamb}


@dataclasses.dataclass(frozen=True)
class PretrainConfig:
    """The flags; names are those of google-research/bert's run_pretraining.py where the meaning is the same."""

    input_file: tuple[str, ...] = config.field((), "Globs of TFRecord files to train on.")
    eval_input_file: tuple[str, ...] = config.field((), "Globs of held-out TFRecord files; none: no evaluation.")
    output_dir: str = config.field("", "The run folder; one that is there goes on.")
    vocab_file: str = config.field("", "vocab.txt, or the folder that holds it.")
    do_lower_case: bool | None = config.field(None, "Lower-case text; by default as the vocabulary says.")
    bert_config_file: str = config.field("", "A bert_config.json; this or model, or neither with init_checkpoint.")
    model: str = config.field(
        "",
        "A published size; this or bert_config_file; by default the model is that of init_checkpoint.",
        choices=("", *config.PRESETS),
    )
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
    max_seq_length: int = config.field(128, "Wordpieces a row, as the records have.", lower_bound=4)
    max_predictions_per_seq: int = config.field(20, "Masked wordpieces a row, at most.", lower_bound=1)
    mask_unit: str | None = config.field(
        None, "What to mask together in unmasked records; by default as they say.", choices=tuple(selection.UNITS)
    )
    masked_lm_prob: float | None = config.field(
        None,
        "Share of the tokens to mask in unmasked records; by default as they say.",
        lower_bound=0.0,
        upper_bound=1.0,
    )
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
    eval_steps: int = config.field(
        1000, "Steps from evaluation to evaluation; 0: at the start and the end only.", lower_bound=0
    )
    max_eval_steps: int | None = config.field(None, "Batches of an evaluation; by default all.", lower_bound=1)
    log_steps: int = config.field(100, "Steps from report to report.", lower_bound=1)
    iterations_per_loop: int = config.field(100, "Steps a call of the graph, at most.", lower_bound=1)
    profile_steps: str = config.field(
        "",
        "FIRST:LAST writes a profile of the steps after FIRST up to LAST to output_dir/tensorboard/profile. Calls of "
        "the graph are cut there, so that each of these steps is one; the result of the run is the same.",
    )
    shuffle_buffer_size: int = config.field(100_000, "Records that are shuffled together.", lower_bound=1)
    strategy: str = config.field(
        "default", "default: one device; mirrored: all of this machine; tpu.", choices=distribution.STRATEGIES
    )
    tpu_name: str = config.field("", "The TPU's name or address.")
    mixed_precision: str = config.field("float32", "What layers compute in.", choices=("float32", "bfloat16"))
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
        for name in ("input_file", "output_dir", "vocab_file"):
            checks.require(getattr(self, name), f"--{name} must be given", f"{name}={getattr(self, name)!r}")
        checks.require(
            bool(self.model or self.init_checkpoint) if not self.bert_config_file else not self.model,
            "one of --model and --bert_config_file must be given, or weights that tell with --init_checkpoint",
            f"model={self.model!r}, bert_config_file={self.bert_config_file!r}",
        )
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

    @property
    def last_step(self):
        """The number of optimizer steps, or None if the time decides."""
        return None if self.train_hours else self.num_train_steps


def _encoder_config(flags, vocab):
    """The model's sizes, checked against the vocabulary and the records' length."""
    if flags.model:
        encoder = config.preset(flags.model, vocab_size=len(vocab))
    elif flags.bert_config_file:
        encoder = config.read_bert_config(flags.bert_config_file)
    else:
        encoder = formats.open_source(flags.init_checkpoint).encoder
    overrides = ("hidden_dropout_prob", "attention_probs_dropout_prob", "initializer_range")
    given = {n: getattr(flags, n) for n in overrides}
    encoder = dataclasses.replace(encoder, **{n: value for n, value in given.items() if value is not None})
    checks.require(
        encoder.vocab_size >= len(vocab),
        "vocab_size of the model must hold the vocabulary",
        f"vocab_size={encoder.vocab_size}, and {len(vocab)} entries",
        flags.vocab_file,
    )
    checks.require(
        flags.max_seq_length <= encoder.max_position_embeddings,
        "max_seq_length must be at most max_position_embeddings",
        f"max_seq_length={flags.max_seq_length}, max_position_embeddings={encoder.max_position_embeddings}",
    )
    return encoder


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


def _build(flags, encoder, strategy, records, schedule):
    """(model, optimizer), built under the strategy for records; fresh weights are a function of the seed."""
    keras.utils.set_random_seed(flags.random_seed)
    policy = keras.config.dtype_policy()
    keras.config.set_dtype_policy("mixed_bfloat16" if flags.mixed_precision == "bfloat16" else "float32")
    try:
        with strategy.scope():
            model = heads.build_pretrainer(encoder, records.packed, flags.rematerialize)
            if records.sentence_objective == record_sets.NO_SENTENCES:
                heads.freeze_next_sentence(model)
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


def _say(text):
    print(text, file=sys.stderr, flush=True)


def _open_records(flags, vocab):
    """(records to train on, held-out records or None)."""
    sizes = flags.max_seq_length, flags.max_predictions_per_seq, vocab
    records = record_sets.open_records(flags.input_file, *sizes, flags.mask_unit, flags.masked_lm_prob)
    if not flags.eval_input_file:
        return records, None
    held_out_records = record_sets.open_records(flags.eval_input_file, *sizes)
    held_out_records = record_sets.for_evaluation(held_out_records, records.sentence_objective)
    packed = records.packed or held_out_records.packed  # one model takes both
    return tuple(dataclasses.replace(r, packed=packed) for r in (records, held_out_records))


def _train(flags, run, strategy, records, held_out_records):
    """Builds, restores and trains.

    Returns:
        (step reached, the signal that came or None, whether the run is over).
    """
    clock = training_clock.TrainingClock(flags.train_hours * 3600) if flags.train_hours else None
    schedule = _schedule(flags, clock)
    model, optimizer = _build(flags, run.encoder, strategy, records, schedule)
    ramp = batch_ramp.BatchRamp(flags.gradient_accumulation_steps, round(flags.batch_ramp * flags.num_train_steps))
    part = flags.train_batch_size // ramp.parts
    trainer = train_loop.Trainer(
        strategy,
        model,
        optimizer,
        held_out.objective(records),
        ramp,
        flags.clip_norm,
        flags.random_seed,
        clock,
    )
    saved = checkpoints.Checkpoints(run.dir, model, optimizer, trainer.state, flags.keep_checkpoint_max)
    resume_step = saved.restore_latest()
    if resume_step is not None:
        _say(f"going on from {saved.latest}")
    elif flags.init_checkpoint:
        _say(initial_weights.take(flags.init_checkpoint, flags.allow_missing, model, run))
        if flags.keep_optimizer:
            _say(initial_weights.take_optimizer(flags.init_checkpoint, model, optimizer))
    _say(
        f"{model.count_params():,} parameters, {records.total:,} records, "
        f"{held_out_records.total if held_out_records else 0:,} held out, {strategy.num_replicas_in_sync} replicas"
    )
    evaluation = None
    if held_out_records:
        limits = flags.eval_batch_size, flags.max_eval_steps
        evaluation = held_out.HeldOut(strategy, model, held_out_records, *limits)
    plan = train_loop.Plan(
        flags.last_step,
        flags.log_steps,
        flags.eval_steps,
        flags.save_checkpoints_steps,
        flags.iterations_per_loop,
    )

    def make_dataset(*pipeline):
        return input_pipeline.train_dataset(
            records,
            part,
            1,
            flags.random_seed,
            ramp.before(trainer.step),  # parts take the place of steps, since steps are not of one size
            flags.shuffle_buffer_size,
            *pipeline,
        )

    profiled = profiling.Profiled(
        trainer,
        profiling.parse_steps(flags.profile_steps, flags.last_step),
        os.path.join(run.dir, summaries.FOLDER),
    )
    evaluate_first = resume_step is None or not run_folder.was_evaluated(run.dir, resume_step)
    logs = hooks.of_run(
        run.dir,
        flags.last_step,
        lambda step: part * ramp.before(step),
        resume_step,
        hparams=run.config["pretrain"],
        model=model,
        guess_features=evaluation and evaluation.some(GUESSES),
        vocab=run.vocab,
        max_seq_length=flags.max_seq_length,
        train_seconds=clock and clock.budget,
        waited=lambda: trainer.input_wait_seconds,
    )
    with train_loop.closing([*logs, profiled]), train_loop.StopRequest() as stop, record_sets.clear_errors(records):
        step = train_loop.train(
            profiled,
            iter(distribution.distribute(strategy, make_dataset)),
            plan,
            saved,
            report=lambda *report: [hook(*report) for hook in logs],
            evaluate=evaluation and (lambda: evaluation.evaluate(stop)),
            learning_rate=lambda step: float(schedule(step)),
            stop=stop,
            evaluate_first=evaluate_first,
        )
    if profiled.profiled:
        _say("profile of steps {:,} to {:,}: {}".format(*profiled.profiled, profiled.folder))
    is_over = plan.is_over(step) or trainer.time_is_over
    return step, stop.signal, is_over


def _last_checkpoint(flags, run_dir, held_out_records):
    """The prefix of the last checkpoint of a run that is finished, or None."""
    steps = checkpoints.saved_steps(run_dir)
    if not steps or (held_out_records is not None and not run_folder.was_evaluated(run_dir, steps[-1])):
        return None
    prefix = checkpoints.prefix_of(run_dir, steps[-1])
    if not (flags.train_hours or steps[-1] == flags.num_train_steps) or not checkpoints.is_whole(prefix):
        return None
    is_over = not flags.train_hours or training_clock.seconds_in(prefix) >= flags.train_hours * 3600
    return prefix if is_over else None


def run(flags):
    """Trains to the end, or until a signal; returns the exit status.

    SIGTERM saves and gives 0, since machines that are taken away send it; SIGINT saves and gives 130.

    Raises:
        InputError: the flags, the records or the run folder cannot be used, or training went wrong.
    """
    vocab = vocab_lib.load(flags.vocab_file, flags.do_lower_case)
    encoder = _encoder_config(flags, vocab)
    records, held_out_records = _open_records(flags, vocab)
    strategy = distribution.make_strategy(flags.strategy, flags.tpu_name)
    parts = flags.gradient_accumulation_steps * strategy.num_replicas_in_sync
    checks.require(
        flags.train_batch_size % parts == 0 and flags.eval_batch_size % strategy.num_replicas_in_sync == 0,
        "batch sizes must be multiples of the number of replicas (times gradient_accumulation_steps in training)",
        f"train_batch_size={flags.train_batch_size}, eval_batch_size={flags.eval_batch_size}, "
        f"{strategy.num_replicas_in_sync} replicas",
    )
    about = {
        "pretrain": config.to_dict(flags),
        "records": {
            "max_seq_length": flags.max_seq_length,
            "max_predictions_per_seq": flags.max_predictions_per_seq,
            "train": record_sets.about(records),
            "held_out": record_sets.about(held_out_records),
        },
        "machine": machine.describe(),
    }
    may_change = [f"pretrain.{name}" for name in MAY_CHANGE]
    may_change += ["machine", *(f"machine.{name}" for name in about["machine"])]
    defaults = {"pretrain": {f.name: f.default for f in dataclasses.fields(PretrainConfig)}}
    folder = run_folder.create(flags.output_dir, encoder, vocab, about, may_change, defaults)
    with run_folder.lock(folder.dir):
        if last := _last_checkpoint(flags, folder.dir, held_out_records):
            _say(f"{folder.dir} is finished: {last} is its last checkpoint.")
            return 0
        step, stopped_by, is_over = _train(flags, folder, strategy, records, held_out_records)
    if not is_over:
        _say(f"Stopped at step {step:,}, saved. The same command goes on.")
        return 128 + stopped_by if stopped_by == signal.SIGINT else 0
    _say(f"Finished {step:,} steps: {checkpoints.prefix_of(folder.dir, step)}")
    return 0


def main(argv):
    """The program."""
    del argv
    return run(config.from_flags(PretrainConfig))


if __name__ == "__main__":
    config.define_flags(PretrainConfig)
    checks.run_program(main)
