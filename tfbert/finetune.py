"""Fine-tunes a pre-trained BERT on a task: classes or scores of texts and pairs, tags of words, answers from texts.

    python -m tfbert.finetune --task=classify --train_file=train.csv --dev_file=dev.csv --text_column=text \
        --label_column=category --run_dir=out/run --output_dir=out/finetuned
    python -m tfbert.finetune --task=tag --train_file=train.conll --dev_file=dev.conll --run_dir=out/run \
        --output_dir=out/tagger
    python -m tfbert.finetune --task=answer --train_file=train-v1.1.json --dev_file=dev-v1.1.json --max_seq_length=384 \
        --run_dir=out/run --output_dir=out/answers

--run_dir (or --init_checkpoint) takes weights of any format: a run folder of tfbert.pretrain, Google's, Hugging Face's,
KerasHub's. GLUE's tasks know their files and columns: --task_name=mrpc --data_dir=glue/MRPC, or --tfds=glue/mrpc.
The same command goes on with a run that was interrupted, to the same weights. The output folder is a run folder:
tfbert.evaluate and tfbert.predict need nothing else.
"""

from tfbert import quiet  # noqa: F401 (first: it imports TensorFlow without its start-up noise)

# isort: split
import contextlib
import dataclasses
import hashlib
import os
import sys
from typing import NamedTuple

import keras
import numpy as np

from tfbert import checks, config, machine, run_folder
from tfbert.convert import formats
from tfbert.loop import distribution, lost_worker, training, training_config
from tfbert.tasks import answers, batches, fresh_heads, glue, inference, kinds, ladder, sentences, tables, trials
from tfbert.text import tokenizer
from tfbert.text import vocab as vocab_lib

FILES = ("train_file", "dev_file", "test_file")

# Files may move: what was read from them is compared.
MAY_CHANGE = (
    *training_config.MAY_CHANGE,
    *FILES,
    "data_dir",
    "run_dir",
    "init_checkpoint",
    "vocab_file",
    "tfds_data_dir",
)


@dataclasses.dataclass(frozen=True)
class FinetuneConfig(training_config.TrainingConfig, sentences.Flags, answers.Flags):
    """The flags; names are those of google-research/bert's run_classifier.py where the meaning is the same."""

    task: str = config.field(
        "", "What is learned; task_name and tfds=glue/... say it too.", choices=("", *kinds.MODULES)
    )
    task_name: str = config.field(
        "", "One of GLUE's tasks, whose files and columns are known.", choices=("", *glue.TASKS)
    )
    data_dir: str = config.field("", "The folder with the files of task_name.")
    tfds: str = config.field("", "A set of TensorFlow Datasets in place of files, such as glue/mrpc.")
    train_file: str = config.field(
        "",
        "Examples to train on: .tsv, .csv or .jsonl, or tfds:NAME:SPLIT; columns of CoNLL or .conllu to tag; JSON as "
        "SQuAD's to answer.",
    )
    dev_file: str = config.field("", "Examples to evaluate on; none: no evaluation.")
    test_file: str = config.field("", "Examples to predict at the end; they need no labels.")
    run_dir: str = config.field("", "A run folder to begin from; the same as init_checkpoint.")
    vocab_file: str = config.field("", "vocab.txt, or its folder; by default that of the weights.")
    do_lower_case: bool | None = config.field(None, "Lower-case text; by default as the vocabulary says.")
    model: str = config.field(
        "", "A published size, to train from random weights in place of init_checkpoint.", choices=("", *config.PRESETS)
    )
    max_seq_length: int = config.field(128, "Wordpieces a row, at most; longer texts are cut.", lower_bound=4)
    num_train_epochs: float = config.field(3.0, "How often each example is trained on.", lower_bound=0.0)
    num_train_steps: int | None = config.field(None, "Optimizer steps, in place of num_train_epochs.", lower_bound=1)
    learning_rate: float = config.field(5e-5, "Peak learning rate.", lower_bound=0.0)
    num_warmup_steps: int | None = config.field(None, "Steps of warm-up, in place of warmup_proportion.", lower_bound=0)
    warmup_proportion: float | None = config.field(
        0.1, "Share of the training that is warm-up.", lower_bound=0.0, upper_bound=1.0
    )
    eval_steps: int | None = config.field(
        None,
        "Steps from evaluation to evaluation; 0: at the start and the end only; by default an epoch.",
        lower_bound=0,
    )
    save_checkpoints_steps: int | None = config.field(
        None, "Steps from checkpoint to checkpoint; by default an epoch.", lower_bound=1
    )
    log_steps: int = config.field(20, "Steps from report to report.", lower_bound=1)
    iterations_per_loop: int = config.field(20, "Steps a call of the graph, at most.", lower_bound=1)
    bucket_by_length: bool = config.field(
        False, "Put texts of about the same length into a batch, so that little is filled up."
    )
    pack_sequences: bool = config.field(
        False, "Lay the texts of a batch side by side, so that next to nothing is filled up."
    )
    max_train_examples: int | None = config.field(None, "Train on so many examples, chosen by the seed.", lower_bound=1)

    num_trials: int = config.field(1, "Runs with seeds of their own, each in a folder of output_dir.", lower_bound=1)
    num_folds: int | None = config.field(
        None, "Cross-validation: each part of the training examples is held out in a run of its own.", lower_bound=2
    )
    fold: int | None = config.field(None, "With num_folds, the one part (from 0) to hold out.", lower_bound=0)
    sweep: tuple[str, ...] = config.field(
        (), "A grid of runs, such as learning_rate=2e-5:3e-5,train_batch_size=16:32; bert: that of its appendix A.3."
    )

    def __post_init__(self):
        super().__post_init__()
        checks.require(
            not (self.num_folds and self.dev_file), "num_folds holds out training examples", f"{self.dev_file=}"
        )
        checks.require(
            self.fold is None or (self.num_folds or 0) > self.fold,
            "fold must be less than num_folds",
            f"fold={self.fold}, num_folds={self.num_folds}",
        )
        checks.require(
            not (self.bucket_by_length and self.gradient_accumulation_steps > 1),
            "with bucket_by_length a step is one part, since parts of a step must be equally long",
            f"gradient_accumulation_steps={self.gradient_accumulation_steps}",
        )
        parts = self.gradient_accumulation_steps
        checks.require(
            not (self.pack_sequences and (self.bucket_by_length or parts > 1 or self.strategy == "tpu")),
            "pack_sequences needs no bucket_by_length, makes a step one part, and batches of several shapes, which are "
            "not for a TPU",
            f"bucket_by_length={self.bucket_by_length}, gradient_accumulation_steps={parts}, strategy={self.strategy}",
        )
        checks.require(
            not (self.train_hours and self.num_train_steps),
            "a run ends by the time or by its steps",
            f"train_hours={self.train_hours}, num_train_steps={self.num_train_steps}",
            do="Give one of the two",
        )
        weights = [self.init_checkpoint, self.run_dir, self.model]
        checks.require(
            sum(map(bool, weights)) == 1,
            "one of --run_dir, --init_checkpoint and --model must be given",
            f"run_dir={self.run_dir!r}, init_checkpoint={self.init_checkpoint!r}, model={self.model!r}",
        )
        checks.require(
            not self.model or self.vocab_file, "--model needs --vocab_file", f"vocab_file={self.vocab_file!r}"
        )


def complete(flags):
    """The flags, their files and task filled up by what task_name, data_dir and tfds stand for.

    Args:
        flags: A `FinetuneConfig`.

    Raises:
        InputError: they contradict one another, or do not say what to train on.
    """
    name = flags.task_name or glue.of_tfds(flags.tfds) or ""
    layout = glue.TASKS.get(name)
    kind = layout.kind if layout else flags.task
    checks.require(flags.task in ("", kind), f"{name} is of the task {kind}", f"task={flags.task!r}")
    checks.require(kind, "--task must be given, or --task_name", f"task={flags.task!r}")
    checks.require(
        not (flags.tfds and flags.data_dir),
        "data comes from one place",
        f"tfds={flags.tfds!r}, data_dir={flags.data_dir!r}",
    )
    parts = ["", "", ""]
    if flags.tfds:
        parts = [split and f"{tables.TFDS}{flags.tfds}:{split}" for split in glue.splits(name)] if layout else None
        parts = parts or list(tables.splits(flags.tfds, flags.tfds_data_dir))
    elif flags.data_dir:
        checks.require(layout, "--data_dir needs --task_name, which says how its files are called", "none")
        first, *others = (file and os.path.join(flags.data_dir, file) for file in layout.files)
        parts = [first, *(file if os.path.isfile(file) else "" for file in others)]
    if flags.num_folds:
        parts[1] = ""
    files = {file: getattr(flags, file) or part for file, part in zip(FILES, parts)}
    must = "--train_file must be given, or --tfds, or --task_name and --data_dir"
    checks.require(files["train_file"], must, f"task_name={name!r}")
    return dataclasses.replace(flags, task=kind, task_name=name, **files)


def _start(flags):
    """(EncoderConfig, vocabulary, `convert.sources.Source` or None) of the weights that training begins with."""
    weights = flags.init_checkpoint or flags.run_dir
    source = formats.open_source(weights) if weights else None
    if flags.vocab_file:
        vocab = vocab_lib.load(flags.vocab_file, flags.do_lower_case)
    else:
        vocab = source.vocab
        checks.require(vocab, "weights need a vocabulary", "none beside them", weights, "Pass --vocab_file")
        if flags.do_lower_case is not None:
            vocab = dataclasses.replace(vocab, do_lower_case=flags.do_lower_case)
    encoder = source.encoder if source else config.preset(flags.model, vocab_size=len(vocab))
    overrides = ("hidden_dropout_prob", "attention_probs_dropout_prob", "initializer_range")
    given = {name: getattr(flags, name) for name in overrides if getattr(flags, name) is not None}
    encoder = dataclasses.replace(encoder, **given)
    checks.require(
        flags.max_seq_length <= encoder.max_position_embeddings,
        "max_seq_length must be at most max_position_embeddings",
        f"max_seq_length={flags.max_seq_length}, max_position_embeddings={encoder.max_position_embeddings}",
    )
    return encoder, vocab, source


def _digest(rows):
    """sha256 of all that rows feed to a model."""
    sha256 = hashlib.sha256(rows.splits.tobytes())
    for name, values in sorted({**rows.tokens, **rows.dense}.items()):
        sha256.update(name.encode() + values.tobytes())
    return sha256.hexdigest()


def _some(examples, count, seed):
    """So many of the examples in their order, chosen by a seed; all of them for None."""
    if count is None or count >= len(examples):
        return examples
    chosen = np.random.default_rng(seed).permutation(len(examples))[:count]
    return [examples[i] for i in sorted(chosen)]


def _scheduled(flags, num_rows):
    """The flags, their steps filled in from epochs; what google-research/bert trains, rounded to whole steps."""
    epoch = max(1, round(num_rows / flags.train_batch_size))
    steps = flags.num_train_steps or max(1, round(num_rows * flags.num_train_epochs / flags.train_batch_size))
    return dataclasses.replace(
        flags,
        num_train_steps=steps,
        num_warmup_steps=flags.num_warmup_steps or 0,
        warmup_proportion=flags.warmup_proportion if flags.num_warmup_steps is None else None,
        eval_steps=epoch if flags.eval_steps is None else flags.eval_steps,
        save_checkpoints_steps=flags.save_checkpoints_steps or epoch,
    )


def _say_about(name, rows):
    """Tells how many examples there are, how long, and how many were cut."""
    cut = int(np.sum(rows.extra.get("truncated", 0)))
    text = f"{name}: {rows.example[-1] + 1:,} examples, {rows.lengths.mean():.0f} wordpieces a row"
    print(f"{text}, {cut:,} cut to {rows.lengths.max()}" if cut else text, file=sys.stderr, flush=True)


def _job(flags, run, the_task, rows, dev_rows, dev_examples, begins_anew, num_replicas):
    """The `training.Job` of fine-tuning."""
    packed = flags.pack_sequences
    # Parts of a step are stacked, and a TPU compiles each shape for minutes: one length for all then.
    one_length = flags.gradient_accumulation_steps > 1 or flags.strategy == "tpu"
    shapes = asked = (flags.max_seq_length * the_task.max_chunks,)
    if packed:
        shapes = ladder.choose_packs(
            rows.lengths, flags.train_batch_size // num_replicas, flags.num_train_steps, run.encoder
        )
    elif not one_length:
        operations = ladder.operations_a_token(run.encoder)
        how = flags.train_batch_size, flags.bucket_by_length, flags.num_train_steps, operations
        shapes = ladder.choose(rows.lengths, *how, flags.max_seq_length, the_task.max_chunks)
    if not one_length:
        asked = inference.every_length(flags.max_seq_length, the_task.max_chunks)

    def train_dataset(part, first_part, *pipeline):
        return batches.train_dataset(
            rows, shapes, flags.bucket_by_length, part, first_part, flags.random_seed, *pipeline
        )

    def evaluation(strategy, model):
        size = flags.eval_batch_size
        return inference.Inference(strategy, model, the_task, dev_rows, dev_examples, size, asked, packed)

    return training.Job(
        lambda: the_task.build_model(run.encoder, flags.rematerialize, packed),
        the_task.objective,
        train_dataset,
        evaluation if dev_rows else None,
        reading=contextlib.nullcontext,
        about=f"{len(rows):,} rows, {len(dev_rows) if dev_rows else 0:,} held out",
        hparams=run.config["finetune"],
        # Batches of many lengths: tokens a second cannot be told from rows a second.
        max_seq_length=shapes[0] if one_length else None,
        best_by=the_task.best_metric if dev_rows else None,
        begins_anew=begins_anew,
    )


def _write_results(flags, run_dir, examples):
    """Writes eval_results.txt and the files of predictions, of the best checkpoint in the run folder.

    The model computes as it did in training, so that its scores are those that it was chosen by.
    """
    loaded = inference.load(run_dir, policy=training_config.POLICIES[flags.mixed_precision])
    if examples.dev:
        predictions, scores = loaded.about(examples.dev, flags.eval_batch_size).answer()
        inference.write_results(run_dir, loaded, "eval", examples.dev, predictions, scores)
        for name, value in sorted(scores.items()):
            print(f"{name} = {value:.6f}")
    if examples.test:
        predictions = loaded.about(examples.test, flags.eval_batch_size).predict()
        inference.write_results(run_dir, loaded, "test", examples.test, predictions)


def run(flags):
    """Trains one run or, if the flags ask for trials, folds or a sweep, several; returns the exit status.

    Args:
        flags: A `FinetuneConfig`.

    Raises:
        InputError: as of `run_one`.
    """
    flags = complete(flags)
    runs = trials.plan(flags)
    if not runs:
        return run_one(flags)
    has_dev = flags.dev_file or flags.num_folds
    checks.require(has_dev, "trials are compared by examples that are held out", "no dev_file, no num_folds")
    results = []
    for point, name, own in runs:
        print(f"--- {name}", file=sys.stderr, flush=True)
        status = run_one(own)
        scores = inference.read_scores(own.output_dir)
        if status or scores is None:
            return status  # stopped: the same command goes on
        results.append((point, name, scores))
        keras.utils.clear_session(free_memory=False)
    best_metric = kinds.of_run(run_folder.read(runs[0][2].output_dir)).best_metric
    groups = trials.summarise(results, best_metric)
    if distribution.is_chief(distribution.make_strategy(flags.strategy, flags.tpu_name)):
        trials.write(flags.output_dir, groups)
        print("\n".join(trials.table(groups)))
    return 0


def run_one(flags):
    """Trains to the end, or until a signal, and writes the results; returns the exit status of `training.run`.

    Args:
        flags: A `FinetuneConfig`, complete.

    Raises:
        InputError: the flags, the files, the weights or the run folder cannot be used, or training went wrong.
    """
    kinds.check_flags(flags)
    strategy = distribution.make_strategy(flags.strategy, flags.tpu_name)  # first: it starts TensorFlow
    with lost_worker.told(strategy, flags.output_dir):
        return _run_one(flags, strategy)


class _Examples(NamedTuple):
    """The examples of a run, read and checked before its first step; [] where there are none."""

    train: list
    dev: list
    test: list


def _read(flags):
    """(`task.Task`, `_Examples`) of the flags."""
    the_task, examples = kinds.MODULES[flags.task].begin(flags)
    examples = _some(examples, flags.max_train_examples, flags.random_seed)
    dev_examples = the_task.read(flags.dev_file) if flags.dev_file else []
    if flags.num_folds:
        # One order for all seeds: folds of trials are the same examples.
        examples, dev_examples = trials.split(examples, flags.num_folds, flags.fold, np.random.default_rng(0))
    for name in ("best_metric", "early_stopping_patience"):
        value = getattr(flags, name)
        checks.require(dev_examples or not value, f"{name} needs --dev_file", f"{name}={value!r} and no dev_file")
    return the_task, _Examples(examples, dev_examples, the_task.read(flags.test_file) if flags.test_file else [])


def _run_one(flags, strategy):
    """`run_one` under its strategy."""
    with distribution.together(strategy):
        training.check_batches(flags, strategy)
        encoder, vocab, source = _start(flags)
        the_task, examples = _read(flags)
        may_pack = the_task.max_chunks == 1 or not flags.pack_sequences
        checks.require(may_pack, "chunks of texts are not packed", "--pack_sequences", do="Leave it out")
        tokens = tokenizer.Tokenizer(vocab)
        rows = the_task.featurize(examples.train, tokens, flags.max_seq_length, True)
        _say_about("to train on", rows)
        dev_rows = the_task.featurize(examples.dev, tokens, flags.max_seq_length, False) if examples.dev else None
        if dev_rows:
            _say_about("held out", dev_rows)
        begins_anew = fresh_heads.begins_anew(source, the_task)
    about = {
        "finetune": config.to_dict(flags),
        "task": the_task.about,
        "records": {
            "max_seq_length": flags.max_seq_length,
            "train": _digest(rows),
            "held_out": dev_rows and _digest(dev_rows),
        },
        "machine": machine.describe(),
    }
    may_change = [f"finetune.{name}" for name in MAY_CHANGE]
    may_change += ["task.tfds_data_dir", "machine", *(f"machine.{name}" for name in about["machine"])]
    defaults = {"finetune": {f.name: f.default for f in dataclasses.fields(FinetuneConfig)}}
    folder = training.open_folder(flags, strategy, encoder, vocab, about, may_change=may_change, defaults=defaults)
    flags = _scheduled(flags, len(rows))
    begin_with = dataclasses.replace(
        flags,
        init_checkpoint=flags.init_checkpoint or flags.run_dir,
        run_dir="",
        allow_missing=(*flags.allow_missing, *fresh_heads.may_lack(the_task)),
    )
    job = _job(flags, folder, the_task, rows, dev_rows, examples.dev, begins_anew, strategy.num_replicas_in_sync)
    status = training.run(begin_with, folder, strategy, job)
    with distribution.together(strategy):
        if distribution.is_chief(strategy) and training.is_finished(flags, folder.dir, job):
            _write_results(flags, folder.dir, examples)
    return status


def main(argv):
    """The program."""
    del argv
    return run(config.from_flags(FinetuneConfig))


if __name__ == "__main__":
    config.define_flags(FinetuneConfig)
    checks.run_program(main)
