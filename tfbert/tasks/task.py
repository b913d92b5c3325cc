"""What a downstream task is: a value of functions, and the rows of wordpieces that they hand to one another.

A module of tasks has, beside its own readers and metrics:

    Flags                    a frozen dataclass of the flags that only its tasks have; tfbert.finetune takes them over
    begin(flags) -> (Task, examples)    reads flags.train_file; finds out what a run folder is to keep, such as labels
    from_config(about) -> Task          the same task again from the "task" part of a run folder's config.json
"""

import dataclasses
from collections.abc import Callable

import numpy as np

from tfbert import checks, config
from tfbert.loop import trainer


@dataclasses.dataclass(frozen=True)
class MixFlags:
    """What any task is told about the layers whose states it takes."""

    mix_layers: bool = config.field(
        False, "Take a learned mix of what all layers give, as ELMo, in place of what the last one gives."
    )
    layer_dropout: float = config.field(
        0.1, "How often a layer is left out of the mix in training.", lower_bound=0.0, upper_bound=1.0
    )


def layer_dropout(settings):
    """What `encoder.build_encoder` takes as `layer_dropout`, of anything with the fields of `MixFlags`.

    Raises:
        InputError: there is a rate, and no mix.
    """
    default = next(f.default for f in dataclasses.fields(MixFlags) if f.name == "layer_dropout")
    checks.require(
        settings.mix_layers or settings.layer_dropout == default,
        "layer_dropout is of a mix of layers",
        f"layer_dropout={settings.layer_dropout}",
        do="Give --mix_layers too",
    )
    return settings.layer_dropout if settings.mix_layers else None


@dataclasses.dataclass(frozen=True)
class Rows:
    """What a model is fed, in memory: R rows of T wordpieces in all.

    An example is one row, or several where it is cut into windows; a row may be several chunks of a text. Rows have
    lengths of their own here; they are filled up when batches are made of them (`tfbert.tasks.batches`), which also
    makes "input_mask".

    Attributes:
        splits: int64 [R + 1], where each row begins among the wordpieces.
        tokens: {name: integers [T]} of what has a value for each wordpiece: "input_ids", "segment_ids", and what else
            the objective needs. All go to the model and the objective as int32 [B, L], filled up with 0.
        dense: {name: [R, ...]} of what has a value for each row, such as "labels"; integers become int32, others
            float32.
        example: int64 [R], the place of each row's example in the list that the rows were made of; ascending.
        extra: {name: value} of what `decode` needs and the model does not, such as byte offsets [T].
    """

    splits: np.ndarray
    tokens: dict
    dense: dict
    example: np.ndarray
    extra: dict = dataclasses.field(default_factory=dict)

    def __len__(self):
        return len(self.splits) - 1

    @property
    def lengths(self):
        """int64 [R], the wordpieces of each row."""
        return np.diff(self.splits)


@dataclasses.dataclass(frozen=True)
class Task:
    """One downstream task, with all of its settings inside of its functions.

    An example is a frozen dataclass of the task's own; `example.where` says where it came from ("dev.tsv, line 7").
    All functions raise `checks.InputError` that names such a place.

    Attributes:
        kind: "classify", "regress", "tag" or "answer".
        about: What config.json keeps under "task", as JSON can hold it; `about["kind"]` is the kind. The module's
            `from_config(about)` gives an equal task.
        read: path -> list of examples. Labels may be missing in all of a file's examples (a test set).
        featurize: (examples, tokenizer, max_seq_length, training) -> `Rows`; `tokenizer` is a
            `tfbert.text.tokenizer.Tokenizer`. In training every example must have its label; else rows have labels
            (for the loss) if all examples have.
        build_model: (EncoderConfig, rematerialize, unpacks=False) -> a functional keras.Model from {"input_ids",
            "input_mask", "segment_ids"}, and `layers.packs.INPUTS` if it unpacks rows, to a dictionary with `outputs`
            in it.
        objective: The `trainer.Objective`; its functions heed a feature "example_weights" float32 [B], which is 0 for
            rows that only fill a batch.
        outputs: Names of the model's outputs that `decode` takes, float [B, ...]; where `per_token`, [B, L, ...].
        per_token: Whether they have an axis of wordpieces; it is filled up to the longest row with what the model gives
            for padding, or with 0.
        decode: ({name: float32 [R, ...]}, Rows, examples) -> list of predictions, one an example.
        score: (predictions, examples) -> {metric: float}; the examples have labels.
        best_metric: (one of the metrics or "loss", "max" or "min"), by which the best checkpoint is chosen.
        write: (predictions, examples, folder, split) -> None; writes the files that the field knows for a split such as
            "eval" or "test". The scores (eval_results.txt) are not among them: the program writes those.
        max_chunks: A row is up to so many chunks of max_seq_length, as `layers.chunks` has them.
        of_texts: (texts, second texts or None) -> examples without labels, of what a person typed; None if the task has
            no such thing.
        view: (predictions, examples with labels) -> a `views.View`: what people look at, such as worst examples.
        show: (prediction, example) -> text of a line or several, for a person at a terminal; goes with `of_texts`.
        serve: (model, vocab, max_seq_length, top_k, truncation or None, max_input_bytes or None) -> what exports save:
            a tf.Module with `inputs` (names of tensors, string [B]), `signature(strings)` (a tf.function of them; not
            `strings`: without ops that TFLite lacks), `tokenizer`, `special_tokens`, `truncation`, `top_k` and
            `max_seq_length`; None if there is none.
    """

    kind: str
    about: dict
    read: Callable
    featurize: Callable
    build_model: Callable
    objective: trainer.Objective
    outputs: tuple[str, ...]
    per_token: bool
    decode: Callable
    score: Callable
    best_metric: tuple[str, str]
    write: Callable
    view: Callable
    max_chunks: int = 1
    of_texts: Callable | None = None
    show: Callable | None = None
    serve: Callable | None = None


def has_labels(examples):
    """Whether examples have labels: all or, in a test set, none of them do (readers see to that)."""
    return bool(examples) and examples[0].label is not None
