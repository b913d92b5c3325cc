"""Run folders of ours as a source and as an output."""

import os

from tfbert import checks, heads, run_folder
from tfbert.convert import bundles, names, sources
from tfbert.layers import chunks
from tfbert.loop import checkpoints

STEP = 0  # of the checkpoint that a conversion writes

_CLASS_WEIGHTS = {"classify": "classifier/output_weights", "tokens": "tokens/output_weights"}

# A run of pre-training has both heads, whatever of them its weights came with.
_PRETRAINING = ("pretraining", "masked_lm", "none")


def read(path):
    """The `sources.Source` of a run folder, or of a checkpoint prefix in one.

    Raises:
        InputError: no run folder, or no such checkpoint.
    """
    run_dir, checkpoint = run_folder.split(path.removesuffix(".index"))
    run = run_folder.read(run_dir)
    prefix = run_folder.checkpoint_prefix(run_dir, checkpoint)
    about = run.config.get("convert") or run.config.get("task", {})
    tensors = bundles.read(prefix)
    head = names.head_of("tfbert", tensors, run.encoder)
    weights = tensors.get(_CLASS_WEIGHTS.get(head))
    labels = sources.labels(about.get("labels"), weights.shape[0]) if weights else ()
    # No other format has a classifier of another output, or of several chunks. A mix of layers shows in the tensors.
    unlike = {"pooling": about.get("pooling", "pooled"), "long_text": about.get("long_text", "head")}
    others = {"pooling": heads.POOLINGS[1:], "long_text": chunks.POOLINGS}
    unlike = {name: value for name, value in unlike.items() if value in others[name]}
    return sources.Source(
        "tfbert", prefix, tensors, run.encoder, head, run.vocab, labels, layout="tfbert", unlike=unlike
    )


def wanted(source):
    """{our name: shape} of what a run folder holds."""
    head = "pretraining" if source.head in _PRETRAINING else source.head
    return names.shapes(source.encoder, head, len(source.labels))


def unlike(source):
    """What a run folder cannot hold: nothing."""
    del source
    return []


def write(folder, source):
    """Writes a run folder with the checkpoint `ckpt-0`.

    Args:
        folder: An empty one.
        source: A `sources.Source` with our names.

    Returns:
        {our name: name in the checkpoint}, the same.

    Raises:
        InputError: there is no vocabulary, or it does not fit the model.
    """
    vocab = source.vocab
    checks.require(
        vocab is not None,
        "a run folder must have a WordPiece vocabulary",
        "none beside the weights",
        source.where,
        "Put the model's vocab.txt beside them",
    )
    checks.require(
        len(vocab) <= source.encoder.vocab_size,
        "vocab_size of the model must hold the vocabulary",
        f"vocab_size={source.encoder.vocab_size}, and {len(vocab)} entries",
        source.where,
    )
    about = {"convert": {"from": source.kind, "head": source.head, "labels": list(source.labels)}}
    run_folder.create(folder, source.encoder, vocab, about)
    bundles.write(checkpoints.prefix_of(folder, STEP), source.tensors)
    return {name: name for name in source.tensors}


def is_run_folder(path):
    """Whether a path is a run folder, or a checkpoint in one."""
    folder = path if os.path.isdir(path) else os.path.dirname(path)
    file = os.path.join(folder, run_folder.CONFIG_FILE)
    if not os.path.isfile(file):
        return False
    return isinstance(sources.read_json(file).get("encoder"), dict)
