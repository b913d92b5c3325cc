"""Google's TF1 checkpoints: bert_model.ckpt, bert_config.json and vocab.txt, as google-research/bert has them.

ELECTRA's and ALBERT's are read too; the names tell which it is.
"""

import json
import os

from tfbert import checks, config
from tfbert.convert import bundles, names, sources, spellings
from tfbert.text import vocab as vocab_lib

CONFIG_FILES = ("bert_config.json", "albert_config.json")
PREFIX = "bert_model.ckpt"

# What google-research/bert computes and its configuration cannot say otherwise.
FIXED = {"layer_norm_eps": 1e-12, "tie_word_embeddings": True}
ACTIVATIONS = ("gelu", "relu", "tanh", "linear")


def _layout(found):
    if any(name.startswith("electra/") for name in found):
        return "google electra"
    if any("/inner_group_" in name for name in found):
        return "google albert"
    return "google"


def config_path(folder):
    """The path of the configuration in a folder, or None."""
    paths = (os.path.join(folder, name) for name in CONFIG_FILES)
    return next((path for path in paths if os.path.isfile(path)), None)


def read_vocab(folder):
    """The vocabulary of vocab.txt, or None if there is no such file."""
    path = os.path.join(folder, vocab_lib.VOCAB_FILE)
    return vocab_lib.load(path) if os.path.isfile(path) else None


def read_config(folder):
    """(`EncoderConfig`, path) of the configuration beside a checkpoint."""
    path = config_path(folder)
    checks.require(
        path, "a checkpoint must have its configuration beside it", f"no {' or '.join(CONFIG_FILES)}", folder
    )
    return config.read_bert_config(path), path


def read(path):
    """The `sources.Source` of a checkpoint.

    Args:
        path: Its folder, its prefix (`bert_model.ckpt`) or one of its files.

    Raises:
        InputError: there is none, it is damaged, or there is no configuration beside it.
    """
    prefix = bundles.prefix_of(path)
    checks.require(prefix, "a checkpoint of TensorFlow must be given", "none", path)
    folder = os.path.dirname(prefix)
    tensors = bundles.read(prefix)
    encoder, config_file = read_config(folder)
    layout = _layout(tensors)
    groups = 1
    raw = sources.read_json(config_file)
    if layout == "google albert":
        groups = raw.get("num_hidden_groups", 1)
        checks.require(
            groups in range(1, encoder.num_hidden_layers + 1) and raw.get("inner_group_num", 1) == 1,
            "an ALBERT must have one layer a group",
            f"num_hidden_groups={groups}, inner_group_num={raw.get('inner_group_num')}",
            config_file,
        )
    spelt = {spellings.plain(layout, name) for name in tensors}
    head = names.head_of(layout, spelt, encoder)
    classes = tensors["output_weights"].shape[0] if head == "classify" else 0
    labels = sources.labels(raw.get("labels"), classes)
    return sources.Source(
        "google", prefix, tensors, encoder, head, read_vocab(folder), labels, layout=layout, groups=groups
    )


def wanted(source):
    """{our name: shape} of what is written: as much as the source has a head for."""
    return names.shapes(source.encoder, source.head, len(source.labels))


def unlike(source):
    """What google-research/bert cannot be told: ["config/hidden_act=gelu_erf"]."""
    encoder = source.encoder
    odd = {name: getattr(encoder, name) for name, value in FIXED.items() if getattr(encoder, name) != value}
    if encoder.hidden_act not in ACTIVATIONS:
        odd["hidden_act"] = encoder.hidden_act
    if names.width(encoder) != encoder.hidden_size:
        odd["embedding_size"] = encoder.embedding_size
    return [f"config/{name}={value}" for name, value in odd.items()]


def write(folder, source):
    """Writes bert_model.ckpt, bert_config.json and, if the source has one, its vocabulary.

    Args:
        folder: An empty one.
        source: A `sources.Source` with our names.

    Returns:
        {our name: name in the checkpoint}.
    """
    encoder = source.encoder
    places = names.places("google", encoder)
    written = {ours: places[ours].theirs for ours in source.tensors}
    bundles.write(os.path.join(folder, PREFIX), {written[ours]: t for ours, t in source.tensors.items()})
    content = config.to_dict(encoder)
    for name in (*FIXED, "embedding_size"):
        content.pop(name)
    if source.labels:
        content["labels"] = list(source.labels)  # their code keeps keys that it does not know
    content["hidden_act"] = "gelu" if encoder.hidden_act not in ACTIVATIONS else encoder.hidden_act
    with open(os.path.join(folder, CONFIG_FILES[0]), "w", encoding="utf-8") as f:
        f.write(json.dumps(content, indent=2, sort_keys=True) + "\n")
    if source.vocab:
        source.vocab.write(folder)
    return written
