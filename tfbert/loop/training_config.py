"""The flags that all programs which train share, and what they mean."""

import dataclasses
import functools

from tfbert import checks, config
from tfbert.loop import distribution, faults, profiling
from tfbert.optimizers import adamw, lamb, schedules

# Flags that do not change what is computed.
MAY_CHANGE = (
    "output_dir",
    "save_checkpoints_steps",
    "keep_checkpoint_max",
    "keep_checkpoint_every_n_hours",
    "early_stopping_patience",  # with more of it, a run that it has ended goes on
    "on_spike",  # these three matter after a bad step only
    "max_rollbacks",
    "spike_factor",
    "iterations_per_loop",
    "profile_steps",
    "tpu_name",
    "allow_missing",  # matters before the first step only
)

POLICIES = {"float32": "float32", "bfloat16": "mixed_bfloat16", "float16": "mixed_float16"}
OPTIMIZERS = {
    "adamw": adamw.AdamW,
    "adamw_corrected": functools.partial(adamw.AdamW, bias_correction=True),
    "lamb": lamb.Lamb,
}


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
    optimizer: str = config.field(
        "adamw",
        "What updates the weights: adamw as BERT was trained, adamw_corrected with the bias correction of Adam and of "
        "PyTorch, or lamb.",
        choices=tuple(OPTIMIZERS),
    )
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
    early_stopping_patience: int | None = config.field(
        None,
        "Ends the run after so many evaluations on end that were no better than the best, by the metric that the best "
        "checkpoint is kept by.",
        lower_bound=1,
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

        checks.require(
            not self.early_stopping_patience or self.eval_steps != 0,
            "early_stopping_patience counts evaluations, which come every eval_steps",
            f"early_stopping_patience={self.early_stopping_patience}, eval_steps=0",
        )

    @property
    def last_step(self):
        """The number of optimizer steps, or None if the time decides."""
        return None if self.train_hours else self.num_train_steps


def schedule(flags, clock):
    """The learning rate of a `TrainingConfig`, keyed to the step or to a clock.

    Args:
        flags: The `TrainingConfig`.
        clock: The `training_clock.TrainingClock` of a run that ends by the time, or None.

    Returns:
        A Keras LearningRateSchedule.
    """
    total = clock.budget if clock else flags.num_train_steps
    warmup = flags.num_warmup_steps
    if flags.warmup_proportion is not None:
        warmup = flags.warmup_proportion * total if clock else round(flags.warmup_proportion * total)
    shape = schedules.Schedule(
        flags.learning_rate,
        warmup,
        total,
        flags.lr_schedule,
        flags.lr_power,
        flags.lr_decay_proportion,
        flags.initial_lr_ratio,
        flags.min_lr_ratio,
    )
    return schedules.TimeKeyed(shape, clock) if clock else shape
