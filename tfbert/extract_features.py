"""Writes what the encoder makes of lines of text: hidden states of every wordpiece, or one embedding a line.

    python -m tfbert.extract_features --run_dir=/tmp/run --input_file=lines.txt --output_file=features.jsonl
    python -m tfbert.extract_features --init_checkpoint=minilm --pooling=mean --normalize \\
        --input_file=lines.txt --output_file=embeddings.npy --projector_dir=/tmp/projector

A line is a text, or two with ` ||| ` between them. Without --pooling the output is that of google-research/bert's
extract_features.py, one JSON object a line; with it, a float32 array [lines, hidden size] for `numpy.load`, whose
points `tensorboard --logdir` shows in its projector if --projector_dir is given.
"""

from tfbert import quiet  # noqa: F401 (first: it imports TensorFlow without its start-up noise)

# isort: split
import contextlib
import dataclasses
import itertools
import json
import os
import sys

import keras
import numpy as np
import tensorflow as tf

from tfbert import checks, config, encoder
from tfbert.convert import assign, formats, names
from tfbert.layers import dtype_policy, initializers
from tfbert.text import packing, tokenizer
from tfbert.text import vocab as vocab_lib
from tfbert.watching import progress, projector

SEPARATOR = b" ||| "
SORTED_BATCHES = 64  # texts of so many batches are sorted by length, so that rows of a batch are alike
DECIMALS = 6  # of the JSON values, as google-research/bert writes them

TENSOR = "sentence_embeddings"  # what the projector calls them


def _mean(hidden, mask):
    mask = tf.cast(mask[:, :, tf.newaxis], tf.float32)  # [B, L, 1]
    return tf.reduce_sum(hidden * mask, axis=1) / tf.reduce_sum(mask, axis=1)  # [B, D]


def _cls(hidden, mask):
    del mask
    return hidden[:, 0]  # [B, D]


def _max(hidden, mask):
    real = tf.cast(mask[:, :, tf.newaxis], tf.bool)  # [B, L, 1]
    return tf.reduce_max(tf.where(real, hidden, hidden.dtype.min), axis=1)  # [B, D]


# Of hidden states [B, L, D] and an input mask [B, L]; [CLS] and [SEP] count as the other tokens do.
POOLING = {"mean": _mean, "cls": _cls, "max": _max}


@dataclasses.dataclass(frozen=True)
class ExtractConfig:
    """The flags; names are those of google-research/bert's extract_features.py where the meaning is the same."""

    run_dir: str = config.field("", "A run folder to take the encoder from; this or init_checkpoint.")
    init_checkpoint: str = config.field("", "Weights of any format; this or run_dir.")
    allow_missing: tuple[str, ...] = config.field(
        (), "Globs of names that the weights may lack, or have and not be used, such as cls/*."
    )
    vocab_file: str = config.field("", "vocab.txt; by default the one beside the weights.")
    do_lower_case: bool | None = config.field(None, "Lower-case text; by default as the vocabulary says.")
    input_file: str = config.field("", "Lines of text; two texts are separated by ` ||| `.")
    output_file: str = config.field("", "The JSON lines, or with --pooling the .npy file, to write.")
    layers: tuple[str, ...] = config.field(
        (), "Layers to write, -1 for the last; by default -1,-2,-3,-4, and -1 with --pooling."
    )
    pooling: str = config.field("", "How a line's tokens make one embedding.", choices=("", *POOLING))
    normalize: bool = config.field(False, "Divide embeddings by their length.")
    projector_dir: str = config.field("", "Folder for TensorBoard's projector of the embeddings.")
    max_seq_length: int = config.field(128, "Wordpieces of a line that are used, at most.", lower_bound=3)
    batch_size: int = config.field(32, "Lines that are computed together.", lower_bound=1)

    def __post_init__(self):
        config.check_bounds(self)
        for name in ("input_file", "output_file"):
            checks.require(getattr(self, name), f"--{name} must be given", f"{name}={getattr(self, name)!r}")
        checks.require(
            bool(self.run_dir) != bool(self.init_checkpoint),
            "one of --run_dir and --init_checkpoint must be given",
            f"run_dir={self.run_dir!r}, init_checkpoint={self.init_checkpoint!r}",
        )
        checks.require(
            self.pooling or not (self.normalize or self.projector_dir),
            "--normalize and --projector_dir must come with --pooling: they are about one embedding a line",
            "none",
        )
        checks.require(
            not self.pooling or len(self.layers) <= 1, "--pooling takes one layer", f"layers={','.join(self.layers)}"
        )


def _layer_indices(cfg, count):
    """The layers to write, as ints; they are places in a list of `count`, from either end."""
    texts = cfg.layers or (("-1",) if cfg.pooling else ("-1", "-2", "-3", "-4")[:count])
    try:
        indices = [int(text) for text in texts]
    except ValueError as e:
        raise checks.error("layers must be whole numbers", f"layers={','.join(texts)}") from e
    wrong = [i for i in indices if not -count <= i < count]
    checks.require(not wrong, f"layers must be from {-count} to {count - 1}, or fewer", f"{wrong}", "--layers")
    return indices


def _vocab(cfg, source):
    """The vocabulary that the weights were trained with."""
    if cfg.vocab_file:
        vocab = vocab_lib.load(cfg.vocab_file, cfg.do_lower_case)
    else:
        do = "Give --vocab_file"
        checks.require(source.vocab is not None, "weights must have a vocabulary", "none beside them", source.where, do)
        vocab = source.vocab
        if cfg.do_lower_case not in (None, vocab.do_lower_case):
            # Google's folders do not say whether text was lower-cased; all others do.
            checks.require(
                source.kind in ("google", "garden"),
                "do_lower_case must be what the vocabulary was learned with",
                f"do_lower_case={cfg.do_lower_case}",
                source.where,
            )
            vocab = dataclasses.replace(vocab, do_lower_case=cfg.do_lower_case)
    rows = source.encoder.vocab_size
    fits = len(vocab) <= rows
    checks.require(fits, "vocab_size of the model must hold the vocabulary", f"vocab_size={rows}, {len(vocab)} entries")
    return vocab


def load(cfg):
    """Builds the part of the encoder that is needed, in float32, with its weights.

    Every tensor of the weights must have its place, those of heads too, which are not used here.

    Returns:
        (keras.Model from the encoder's inputs to a list of hidden states [B, L, D], `Vocab`, the layers' indices).

    Raises:
        InputError: the weights cannot be read, are not whole, or do not go with the flags.
    """
    source = formats.open_source(cfg.run_dir or cfg.init_checkpoint, "tfbert" if cfg.run_dir else None)
    vocab = _vocab(cfg, source)
    longest = source.encoder.max_position_embeddings
    checks.require(
        cfg.max_seq_length <= longest,
        f"max_seq_length must be at most the model's max_position_embeddings {longest}",
        f"max_seq_length={cfg.max_seq_length}",
    )
    indices = _layer_indices(cfg, source.encoder.num_hidden_layers)
    wanted = names.shapes(source.encoder, source.head, len(source.labels))
    tensors, account = assign.match(source, wanted, cfg.allow_missing)
    with dtype_policy.building_in("float32"), initializers.left_out():
        built = encoder.build_encoder(source.encoder)
    outputs = encoder.layer_outputs(built)
    model = keras.Model(built.input, [outputs[i] for i in indices])
    lacking = [v.path for v in model.variables if v.path not in tensors]
    checks.require(not lacking, "the encoder's weights must be there", f"none for {', '.join(lacking)}", source.where)
    for v in model.variables:
        v.assign(tensors[v.path].read())
    print(account.title, file=sys.stderr)
    return model, vocab, indices


def make_extractor(model, vocab, max_seq_length, pooling="", normalize=False):
    """The graph from texts to what is written of them.

    Args:
        model: Of `load`.
        vocab: Its `Vocab`.
        max_seq_length: Longest row in wordpieces.
        pooling: A key of POOLING, or "" for none.
        normalize: Whether embeddings are divided by their Euclidean length.

    Returns:
        A `tf.function` of (first text: string [B], second text: string [B], whether there is one: bool [B]) to
        float32 [B, D] with pooling, and otherwise to ("input_ids" int32 [B, L], lengths of the rows int32 [B],
        hidden states float32 [layers, B, L, D]); L is that of the longest row.
    """
    split = tokenizer.Tokenizer(vocab)
    texts, booleans = tf.TensorSpec([None], tf.string), tf.TensorSpec([None], tf.bool)

    @tf.function(input_signature=[texts, texts, booleans])
    def extract(first, second, is_pair):
        ids = split.tokenize(first)
        single = packing.pack_single(ids, max_seq_length, vocab)
        pair = packing.pack_pair(ids, split.tokenize(second), max_seq_length, vocab)
        features = {name: tf.where(is_pair[:, tf.newaxis], pair[name], single[name]) for name in single}  # [B, L]
        lengths = tf.reduce_sum(features["input_mask"], axis=1)  # [B]
        features = {name: value[:, : tf.reduce_max(lengths)] for name, value in features.items()}
        # A model of one output gives the output and not a list of one.
        states = tf.stack(tf.nest.flatten(model(features, training=False)))  # [layers, B, L, D]
        if not pooling:
            return features["input_ids"], lengths, states
        pooled = POOLING[pooling](states[0], features["input_mask"])
        return tf.math.l2_normalize(pooled, axis=-1) if normalize else pooled

    return extract


def _split_pair(line):
    """(first text, second text, whether there is one) of a line, as bytes; the last ` ||| ` counts."""
    first, separator, second = line.strip().rpartition(SEPARATOR)
    return (first, second, True) if separator else (second, b"", False)


class _Lines:
    """Tells a `progress.WorkLine` how many lines are done.

    Args:
        total: Lines of the input.
    """

    def __init__(self, total):
        self._total, self._done, self._line = total, 0, progress.WorkLine()

    def __call__(self, count):
        """Notes that so many more lines are done."""
        self._done += count
        speed = self._done / max(self._line.seconds(), 1e-9)
        text = f"embedding: {self._done:,} of {self._total:,} lines, {speed:,.1f} lines/s"
        self._line(text, self._done, self._total)

    def close(self):
        """Takes the line off the terminal."""
        self._line.close()


def _batches(path, batch_size, sorted_batches=1):
    """Yields (numbers of the lines, arguments of the extractor) for every line of a file.

    Args:
        path: The file.
        batch_size: Lines of a batch, at most.
        sorted_batches: Batches that are read at once and made of lines of like length; 1 keeps the file's order.
    """
    done = 0
    with open(path, "rb") as f:
        while lines := list(itertools.islice(f, batch_size * sorted_batches)):
            order = list(range(len(lines)))
            if sorted_batches > 1:
                order.sort(key=lambda i: len(lines[i]))
            for at in range(0, len(lines), batch_size):
                batch = order[at : at + batch_size]
                parts = zip(*(_split_pair(lines[i]) for i in batch))
                yield [done + i for i in batch], [tf.constant(part) for part in parts]
            done += len(lines)


def _count_lines(path):
    try:
        with open(path, "rb") as f:
            count = sum(1 for _ in f)
    except OSError as e:
        raise checks.error("input_file must be a readable file", e.strerror, path) from e
    checks.require(count, "input_file must hold a line", "an empty file", path)
    return count


@contextlib.contextmanager
def _aside(path):
    """Gives the name of a file that takes the place of `path` when all went well, and goes away if not."""
    unfinished = f"{path}.unfinished"
    try:
        yield unfinished
        os.replace(unfinished, path)
    except OSError as e:
        do = "Choose another --output_file, or free the disk"
        raise checks.error("output_file must be a file that can be written", e.strerror or str(e), path, do) from e
    finally:
        with contextlib.suppress(OSError):
            os.remove(unfinished)


def _json_line(number, ids, states, vocab, indices):
    """One line of google-research/bert's output.

    Args:
        number: Of the line, from 0.
        ids: int [T], its tokens.
        states: float64 [layers, T, D], rounded.
        vocab: The `Vocab`.
        indices: The layers' names in the output.
    """
    features = []
    for token, id_ in enumerate(ids):
        layers = [{"index": index, "values": states[i, token].tolist()} for i, index in enumerate(indices)]
        features.append({"token": vocab.tokens[id_], "layers": layers})
    return json.dumps({"linex_index": number, "features": features})


def _write_json_lines(cfg, extract, vocab, indices, report):
    with _aside(cfg.output_file) as path, open(path, "w", encoding="utf-8") as file:
        for numbers, texts in _batches(cfg.input_file, cfg.batch_size):
            ids, lengths, states = (value.numpy() for value in extract(*texts))
            states = np.round(states.astype(np.float64), DECIMALS)
            for row, number in enumerate(numbers):
                n = lengths[row]
                file.write(_json_line(number, ids[row, :n], states[:, row, :n], vocab, indices) + "\n")
            report(len(numbers))


def _write_embeddings(cfg, extract, width, count, report):
    with _aside(cfg.output_file) as path:
        array = np.lib.format.open_memmap(path, mode="w+", dtype=np.float32, shape=(count, width))
        for numbers, texts in _batches(cfg.input_file, cfg.batch_size, SORTED_BATCHES):
            array[numbers] = extract(*texts).numpy()
            report(len(numbers))
        array.flush()


def _write_projector(folder, embeddings, input_file):
    """Writes the projector of the lines' embeddings; returns how many points it has."""
    try:
        with open(input_file, "rb") as lines:
            labels = {"text": (line.strip() or b"(empty line)" for line in lines)}
            return projector.write(folder, TENSOR, embeddings, labels)
    except (OSError, tf.errors.OpError) as e:
        reason = e.strerror if isinstance(e, OSError) else e.message
        raise checks.error("projector_dir must be a folder that can be written", reason, folder) from e


def run(cfg):
    """Reads, computes and writes; returns the number of lines.

    Raises:
        InputError: the flags, the weights or the lines cannot be used, or the output cannot be written.
    """
    if cfg.projector_dir:
        projector.check_folder(cfg.projector_dir)
    count = _count_lines(cfg.input_file)
    model, vocab, indices = load(cfg)
    extract = make_extractor(model, vocab, cfg.max_seq_length, cfg.pooling, cfg.normalize)
    if not cfg.pooling:
        with contextlib.closing(_Lines(count)) as report:
            _write_json_lines(cfg, extract, vocab, indices, report)
        print(f"{cfg.output_file}: {count:,} lines, layers {', '.join(map(str, indices))}")
        return count
    width = model.outputs[0].shape[-1]
    with contextlib.closing(_Lines(count)) as report:
        _write_embeddings(cfg, extract, width, count, report)
    print(f"{cfg.output_file}: {count:,} embeddings of {width} numbers")
    if cfg.projector_dir:
        points = _write_projector(cfg.projector_dir, np.load(cfg.output_file, mmap_mode="r"), cfg.input_file)
        print(f"{cfg.projector_dir}: {points:,} points; tensorboard --logdir={cfg.projector_dir} shows them")
    return count


def main(argv):
    """The program."""
    del argv
    run(config.from_flags(ExtractConfig))


if __name__ == "__main__":
    config.define_flags(ExtractConfig)
    checks.run_program(main)
