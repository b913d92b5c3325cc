"""Pre-trains BERT on records of text: masked language model, and next sentence or sentence order prediction.

    python -m tfbert.pretrain --flagfile=base.flags

The same command goes on with a run that was interrupted, to the same weights; on a finished run it says so.
"""

from tfbert import quiet  # noqa: F401 (first: it imports TensorFlow without its start-up noise)

# isort: split
import dataclasses

from tfbert import checks, config, heads, held_out, initial_attention, input_pipeline, machine, record_sets
from tfbert.convert import formats
from tfbert.loop import distribution, lost_worker, retention, training, training_config
from tfbert.text import selection
from tfbert.text import vocab as vocab_lib

# Files may move: their contents are compared.
MAY_CHANGE = (
    *training_config.MAY_CHANGE,
    "keep_best_metric",
    "input_file",
    "eval_input_file",
    "vocab_file",
    "do_lower_case",
    "bert_config_file",
    "skip_corrupt_records",  # which were skipped is compared
)


INITS = ("random", "neighbours")


@dataclasses.dataclass(frozen=True)
class PretrainConfig(training_config.TrainingConfig):
    """The flags; names are those of google-research/bert's run_pretraining.py where the meaning is the same."""

    input_file: tuple[str, ...] = config.field((), "Globs of TFRecord files to train on.")
    eval_input_file: tuple[str, ...] = config.field((), "Globs of held-out TFRecord files; none: no evaluation.")
    skip_corrupt_records: bool = config.field(
        False, "Reads all files through before the first step, and leaves out records that are damaged or cut short."
    )
    vocab_file: str = config.field("", "vocab.txt, or the folder that holds it.")
    do_lower_case: bool | None = config.field(None, "Lower-case text; by default as the vocabulary says.")
    bert_config_file: str = config.field("", "A bert_config.json; this or model, or neither with init_checkpoint.")
    model: str = config.field(
        "",
        "A published size; this or bert_config_file; by default the model is that of init_checkpoint.",
        choices=("", *config.PRESETS),
    )
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
    shuffle_buffer_size: int = config.field(100_000, "Records that are shuffled together.", lower_bound=1)
    keep_best_metric: str = config.field(
        "", "Also keeps the checkpoint that is the best by this held-out metric, such as masked_lm_loss."
    )
    max_eval_steps: int | None = config.field(None, "Batches of an evaluation; by default all.", lower_bound=1)
    attention_init: str = config.field(
        "random", "How fresh attention begins: random, as BERT's; or each head looks at a neighbour.", choices=INITS
    )

    def __post_init__(self):
        super().__post_init__()
        for name in ("input_file", "vocab_file"):
            checks.require(getattr(self, name), f"--{name} must be given", f"{name}={getattr(self, name)!r}")
        checks.require(
            bool(self.model or self.init_checkpoint) if not self.bert_config_file else not self.model,
            "one of --model and --bert_config_file must be given, or weights that tell with --init_checkpoint",
            f"model={self.model!r}, bert_config_file={self.bert_config_file!r}",
        )
        checks.require(
            self.attention_init == "random" or not self.init_checkpoint,
            "attention_init is for fresh weights, and those of init_checkpoint are not",
            f"attention_init={self.attention_init}, init_checkpoint={self.init_checkpoint!r}",
            do="Give one of the two",
        )


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


def _open_records(flags, vocab):
    """(records to train on, held-out records or None)."""
    sizes = flags.max_seq_length, flags.max_predictions_per_seq, vocab
    skip = flags.skip_corrupt_records
    records = record_sets.open_records(flags.input_file, *sizes, flags.mask_unit, flags.masked_lm_prob, skip)
    if not flags.eval_input_file:
        return records, None
    held_out_records = record_sets.open_records(flags.eval_input_file, *sizes, skip_corrupt_records=skip)
    held_out_records = record_sets.for_evaluation(held_out_records, records.sentence_objective)
    packed = records.packed or held_out_records.packed  # one model takes both
    return tuple(dataclasses.replace(r, packed=packed) for r in (records, held_out_records))


def _job(flags, run, records, held_out_records):
    """The `training.Job` of pre-training."""

    def build_model():
        model = heads.build_pretrainer(run.encoder, records.packed, flags.rematerialize)
        if records.sentence_objective == record_sets.NO_SENTENCES:
            heads.freeze_next_sentence(model)
        if flags.attention_init == "neighbours":
            initial_attention.look_at_neighbours(model, run.encoder)
        return model

    def train_dataset(part, first_part, *pipeline):
        return input_pipeline.train_dataset(
            records, part, 1, flags.random_seed, first_part, flags.shuffle_buffer_size, *pipeline
        )

    def evaluation(strategy, model):
        return held_out.HeldOut(strategy, model, held_out_records, flags.eval_batch_size, flags.max_eval_steps)

    return training.Job(
        build_model,
        held_out.objective(records),
        train_dataset,
        evaluation if held_out_records else None,
        reading=lambda: record_sets.clear_errors(records),
        about=f"{records.total:,} records, {held_out_records.total if held_out_records else 0:,} held out",
        hparams=run.config["pretrain"],
        max_seq_length=flags.max_seq_length,
        skipped=(*records.skipped, *(held_out_records.skipped if held_out_records else ())),
        best_by=retention.by_name(flags.keep_best_metric),
    )


def run(flags):
    """Trains to the end, or until a signal; returns the exit status of `training.run_job`.

    Raises:
        InputError: the flags, the records or the run folder cannot be used, or training went wrong.
    """
    strategy = distribution.make_strategy(flags.strategy, flags.tpu_name)  # first: it starts TensorFlow
    with lost_worker.told(strategy, flags.output_dir):
        return _run(flags, strategy)


def _run(flags, strategy):
    """`run` under its strategy."""
    with distribution.together(strategy):
        training.check_batches(flags, strategy)
        vocab = vocab_lib.load(flags.vocab_file, flags.do_lower_case)
        encoder = _encoder_config(flags, vocab)
        records, held_out_records = _open_records(flags, vocab)
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
    folder = training.open_folder(flags, strategy, encoder, vocab, about, may_change=may_change, defaults=defaults)
    return training.run(flags, folder, strategy, _job(flags, folder, records, held_out_records))


def main(argv):
    """The program."""
    del argv
    return run(config.from_flags(PretrainConfig))


if __name__ == "__main__":
    config.define_flags(PretrainConfig)
    checks.run_program(main)
