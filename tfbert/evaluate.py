"""Scores a run: a pre-trained one on held-out records, a fine-tuned one on examples with labels.

python -m tfbert.evaluate --run_dir=out/run --input_file='out/records/held_out-*'
python -m tfbert.evaluate --run_dir=out/finetuned --input_file=dev.csv --output_dir=out/dev

Weights that `convert_weights` brought here say nothing of lengths: give --max_seq_length and --max_predictions_per_seq.
"""

from tfbert import quiet  # noqa: F401 (first: it imports TensorFlow without its start-up noise)

# isort: split
import dataclasses

import tensorflow as tf

from tfbert import checks, config, held_out, record_sets, run_folder
from tfbert.tasks import inference, kinds


@dataclasses.dataclass(frozen=True)
class EvaluateConfig:
    """The flags."""

    run_dir: str = config.field("", "The run folder.")
    input_file: tuple[str, ...] = config.field(
        (), "Globs of TFRecord files; of a fine-tuned run a table, or tfds:NAME:SPLIT."
    )
    max_seq_length: int | None = config.field(None, "Wordpieces a row; by default the run's.", lower_bound=4)
    max_predictions_per_seq: int | None = config.field(
        None, "Masked wordpieces a row, at most; by default the run's.", lower_bound=1
    )
    output_dir: str = config.field("", "Where a fine-tuned run's eval_results.txt and predictions go, if anywhere.")
    checkpoint: str = config.field(
        "", "One of the run's, such as ckpt-1000, or best; by default the newest, of a fine-tuned run the best."
    )
    eval_batch_size: int = config.field(32, "Rows a batch.", lower_bound=1)
    max_eval_steps: int | None = config.field(None, "Batches; by default all.", lower_bound=1)

    def __post_init__(self):
        config.check_bounds(self)
        for name in ("run_dir", "input_file"):
            checks.require(getattr(self, name), f"--{name} must be given", f"{name}={getattr(self, name)!r}")


def _lengths(flags, run):
    """(L, P) of the records: what the flags say, or else what the run was trained with."""
    made_with, lengths = run.config.get("pretrain", {}), []
    for name in ("max_seq_length", "max_predictions_per_seq"):
        given = getattr(flags, name)
        checks.require(
            given is not None or name in made_with,
            f"--{name} must be given, since weights that were converted do not tell it",
            f"{name}=None",
            run.dir,
        )
        lengths.append(made_with[name] if given is None else given)
    return lengths


def _evaluate_task(flags, loaded):
    """{name: value} of a fine-tuned run; writes its files if asked to."""
    checks.require(len(flags.input_file) == 1, "a fine-tuned run is evaluated on one file", f"{flags.input_file}")
    for name in ("max_eval_steps", "max_seq_length", "max_predictions_per_seq"):
        value = getattr(flags, name)
        must = f"--{name} must be left out: a fine-tuned run has its own length, and is evaluated on all of a file"
        checks.require(value is None, must, f"{name}={value}")
    examples = loaded.task.read(flags.input_file[0])
    predictions, scores = loaded.about(examples, flags.eval_batch_size).answer()
    if flags.output_dir:
        inference.write_results(flags.output_dir, loaded, "eval", examples, predictions, scores)
    return {"step": loaded.step, "examples": len(examples), **scores}


def evaluate(flags):
    """{name: value}: "step", "instances" (or "examples"), and what `held_out.HeldOut.evaluate` or the task gives.

    Raises:
        InputError: not a run folder, no such checkpoint, or records or examples that do not fit the run.
    """
    run = run_folder.read(flags.run_dir)
    if kinds.of_run(run):
        return _evaluate_task(flags, inference.load(flags.run_dir, flags.checkpoint or None))
    checks.require(not flags.output_dir, "--output_dir is for fine-tuned runs", f"output_dir={flags.output_dir!r}")
    records = record_sets.open_records(flags.input_file, *_lengths(flags, run), run.vocab)
    if "records" in run.config:
        trained_on = run.config["records"]["train"].get("sentence_objective", record_sets.NEXT_SENTENCE)
        records = record_sets.for_evaluation(records, trained_on)
    model, _, step = run_folder.load_pretrainer(flags.run_dir, flags.checkpoint or None, packed=records.packed)
    evaluation = held_out.HeldOut(
        tf.distribute.get_strategy(), model, records, flags.eval_batch_size, flags.max_eval_steps
    )
    return {"step": step, "instances": evaluation.instances, **evaluation.evaluate()}


def run(flags):
    """Prints `name = value` lines, and returns the values."""
    results = evaluate(flags)
    for name, value in results.items():
        print(f"{name} = {value:.6f}" if isinstance(value, float) else f"{name} = {value}")
    return results


def main(argv):
    """The program."""
    del argv
    run(config.from_flags(EvaluateConfig))


if __name__ == "__main__":
    config.define_flags(EvaluateConfig)
    checks.run_program(main)
