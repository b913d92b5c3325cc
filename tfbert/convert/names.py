"""THE table of names: what each variable of ours is called in every format, and how it is stored there.

Our names are those of Google's TF1 checkpoints, and `variable.path` of the models of `tfbert.heads`. All
directions of conversion use this one table. `tfbert.convert.spellings` has what formats write otherwise, and what
stands in files beside the tensors of the table: buffers, tied copies, optimizer slots.

KerasHub's names are paths in the .h5 files of a preset, after `backbone/` (model.weights.h5) or `task/`
(task.weights.h5); the Model Garden's are paths in an object graph, without the root and the common ending.
"""

import re
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from tfbert.convert import spellings

KINDS = ("tfbert", "google", "garden", "huggingface", "keras_hub")


class Transform(NamedTuple):
    """How a tensor of ours is stored elsewhere; `to_ours` and `from_ours` are inverses, and keep every bit.

    Attributes:
        name: For the account.
        their_shape: (our shape, heads) -> the shape as stored.
        to_ours: (stored array, our shape) -> our array.
        from_ours: (our array, stored shape) -> stored array.
    """

    name: str
    their_shape: Callable
    to_ours: Callable
    from_ours: Callable


def _reshape(name, their_shape):
    reshape = lambda x, shape: np.reshape(x, shape)  # noqa: E731 (both ways)
    return Transform(name, their_shape, reshape, reshape)


SAME = Transform("", lambda shape, heads: shape, lambda x, shape: x, lambda x, shape: x)
TRANSPOSED = Transform(
    "transposed", lambda shape, heads: shape[::-1], lambda x, shape: x.T, lambda x, shape: np.ascontiguousarray(x.T)
)
# [D, D] <-> [D, N, H], [D] <-> [N, H], [D, D] <-> [N, H, D]
HEADS_OUT = _reshape("heads split", lambda shape, heads: (shape[0], heads, shape[1] // heads))
HEADS_BIAS = _reshape("heads split", lambda shape, heads: (heads, shape[0] // heads))
HEADS_IN = _reshape("heads split", lambda shape, heads: (heads, shape[0] // heads, shape[1]))

# What a tensor is -> how each format stores it, where that differs from ours.
STORED = {
    "plain": {},
    "kernel": {"huggingface": TRANSPOSED},
    "kernel of heads": {"huggingface": TRANSPOSED, "keras_hub": HEADS_OUT, "garden": HEADS_OUT},
    "bias of heads": {"keras_hub": HEADS_BIAS, "garden": HEADS_BIAS},
    "kernel from heads": {"huggingface": TRANSPOSED, "keras_hub": HEADS_IN, "garden": HEADS_IN},
    "class rows": {"keras_hub": TRANSPOSED, "garden": TRANSPOSED},  # [C, D]
}


class Row(NamedTuple):
    """One variable, or one a layer where names have `{i}`.

    Attributes:
        part: Which part of a model it belongs to, as in PARTS.
        ours: Its name.
        shape: Its shape, one letter an axis: see `shapes`.
        stored: A key of STORED.
        google, huggingface, keras_hub, garden: Its names there; "" where it has none.
    """

    part: str
    ours: str
    shape: str
    stored: str
    google: str
    huggingface: str
    keras_hub: str
    garden: str


def _plain(part, ours, shape, huggingface, keras_hub="", garden="", google=None, stored="plain"):
    return (Row(part, ours, shape, stored, ours if google is None else google, huggingface, keras_hub, garden),)


def _pair(part, ours, shapes, kinds, names, huggingface, keras_hub, garden):
    """Two rows: the kernel and bias of a dense layer, or the gamma and beta of a norm."""
    rows = ()
    for i, (name, shape, stored) in enumerate(zip(names, shapes, kinds)):
        theirs = f"{huggingface}.{('weight', 'bias')[i]}", keras_hub and f"{keras_hub}/vars/{i}"
        rows += _plain(part, f"{ours}/{name}", shape, *theirs, garden and f"{garden}/{name}", stored=stored)
    return rows


def _dense(part, ours, shape, huggingface, keras_hub="", garden="", stored=("kernel", "plain")):
    return _pair(part, ours, (shape, shape[1]), stored, ("kernel", "bias"), huggingface, keras_hub, garden)


def _norm(part, ours, shape, huggingface, keras_hub="", garden=""):
    kinds = ("plain", "plain")
    return _pair(part, ours, (shape, shape), kinds, ("gamma", "beta"), huggingface, keras_hub, garden)


def _layer():
    """Rows of one transformer layer; `{k}` is how KerasHub numbers layers: "", "_1", "_2", ..."""
    ours, theirs = "bert/encoder/layer_{i}", "encoder.layer.{i}"
    hub, garden = "backbone/layers/transformer_encoder{k}", "_transformer_layers/{i}"
    rows = ()
    for name in ("query", "key", "value"):
        rows += _dense(
            "encoder",
            f"{ours}/attention/self/{name}",
            "DD",
            f"{theirs}.attention.self.{name}",
            f"{hub}/_self_attention_layer/{name}_dense",
            f"{garden}/_attention_layer/_{name}_dense",
            ("kernel of heads", "bias of heads"),
        )
    rows += _dense(
        "encoder",
        f"{ours}/attention/output/dense",
        "DD",
        f"{theirs}.attention.output.dense",
        f"{hub}/_self_attention_layer/output_dense",
        f"{garden}/_attention_layer/_output_dense",
        ("kernel from heads", "plain"),
    )
    more = (
        (_norm, "attention/output/LayerNorm", "D", "_self_attention_layer_norm", "_attention_layer_norm"),
        (_dense, "intermediate/dense", "DI", "_feedforward_intermediate_dense", "_intermediate_dense"),
        (_dense, "output/dense", "ID", "_feedforward_output_dense", "_output_dense"),
        (_norm, "output/LayerNorm", "D", "_feedforward_layer_norm", "_output_layer_norm"),
    )
    for make, name, shape, in_hub, in_garden in more:
        dotted = name.replace("/", ".")
        rows += make(
            "encoder", f"{ours}/{name}", shape, f"{theirs}.{dotted}", f"{hub}/{in_hub}", f"{garden}/{in_garden}"
        )
    return rows


WORDS = "bert/embeddings/word_embeddings"
_HEAD = "task/layers/masked_lm_head"

TABLE = (
    *_plain(
        "encoder",
        WORDS,
        "VE",
        "embeddings.word_embeddings.weight",
        "backbone/layers/reversible_embedding/vars/0",
        "_embedding_layer/embeddings",
    ),
    *_plain(
        "encoder",
        "bert/embeddings/token_type_embeddings",
        "TE",
        "embeddings.token_type_embeddings.weight",
        "backbone/layers/embedding/vars/0",
        "_type_embedding_layer/embeddings",
    ),
    *_plain(
        "encoder",
        "bert/embeddings/position_embeddings",
        "PE",
        "embeddings.position_embeddings.weight",
        "backbone/layers/position_embedding/vars/0",
        "_position_embedding_layer/embeddings",
    ),
    *_norm(
        "encoder",
        "bert/embeddings/LayerNorm",
        "E",
        "embeddings.LayerNorm",
        "backbone/layers/layer_normalization",
        "_embedding_norm_layer",
    ),
    *_dense("factorised", "bert/encoder/embedding_hidden_mapping_in", "ED", "embeddings_project"),
    *_layer(),
    *_dense("pooler", "bert/pooler/dense", "DD", "pooler.dense", "backbone/layers/dense", "_pooler_layer"),
    *_dense(
        "masked_lm",
        "cls/predictions/transform/dense",
        "DE",
        "cls.predictions.transform.dense",
        f"{_HEAD}/_intermediate_dense",
        "masked_lm/dense",
    ),
    *_norm(
        "masked_lm",
        "cls/predictions/transform/LayerNorm",
        "E",
        "cls.predictions.transform.LayerNorm",
        f"{_HEAD}/_intermediate_layer_norm",
        "masked_lm/layer_norm",
    ),
    *_plain(
        "masked_lm",
        "cls/predictions/output_bias",
        "V",
        "cls.predictions.bias",
        f"{_HEAD}/vars/0",
        "masked_lm/output_bias.Sbias",
    ),
    *_plain("untied", "cls/predictions/output_weights", "VE", "cls.predictions.decoder.weight"),
    *_plain(
        "next_sentence",
        "cls/seq_relationship/output_weights",
        "2D",
        "cls.seq_relationship.weight",
        "",
        "classification_heads/0/out_proj/kernel",
        stored="class rows",
    ),
    *_plain(
        "next_sentence",
        "cls/seq_relationship/output_bias",
        "2",
        "cls.seq_relationship.bias",
        "",
        "classification_heads/0/out_proj/bias",
    ),
    *_plain(
        "classify",
        "classifier/output_weights",
        "CD",
        "classifier.weight",
        "task/layers/dense/vars/0",
        google="output_weights",
        stored="class rows",
    ),
    *_plain(
        "classify",
        "classifier/output_bias",
        "C",
        "classifier.bias",
        "task/layers/dense/vars/1",
        google="output_bias",
    ),
    *_plain("tokens", "tokens/output_weights", "CD", "classifier.weight", google="tokens/output_weights"),
    *_plain("tokens", "tokens/output_bias", "C", "classifier.bias", google="tokens/output_bias"),
    *_plain("span", "cls/squad/output_weights", "2D", "qa_outputs.weight"),
    *_plain("span", "cls/squad/output_bias", "2", "qa_outputs.bias"),
    # No other format has a mix of layers, nor attention over chunks of a text.
    *_plain("mix", "mix/weights", "M", "", google=""),
    *_plain("mix", "mix/scale", "", "", google=""),
    *_plain("chunks", "chunks/hidden/kernel", "DD", "", google=""),
    *_plain("chunks", "chunks/hidden/bias", "D", "", google=""),
    *_plain("chunks", "chunks/score/kernel", "D1", "", google=""),
)

# Parts of a model with a head, beside "encoder"; "factorised" and "untied" follow from the configuration.
PARTS = {
    "pretraining": ("pooler", "masked_lm", "next_sentence"),
    "masked_lm": ("masked_lm",),
    "none": ("pooler",),
    "classify": ("pooler", "classify"),
    "tokens": ("tokens",),
    "span": ("span",),
}

# ALBERT's one layer (of a group), in the place of each of ours.
_ALBERT = (
    (r"^bert/encoder/layer_(\d+)/", "bert/encoder/transformer/group_{g}/inner_group_0/"),
    (r"/attention/output/LayerNorm/", "/LayerNorm/"),
    (r"/inner_group_0/output/LayerNorm/", "/inner_group_0/LayerNorm_1/"),
    (r"/attention/(self|output)/", r"/attention_1/\1/"),
    (r"/inner_group_0/intermediate/", "/inner_group_0/ffn_1/intermediate/"),
    (r"/inner_group_0/output/dense/", "/inner_group_0/ffn_1/intermediate/output/dense/"),
)


def width(encoder):
    """Width of the embeddings."""
    return encoder.embedding_size or encoder.hidden_size


def _parts(encoder, head):
    parts = ("encoder", *PARTS[head])
    if width(encoder) != encoder.hidden_size:
        parts += ("factorised",)
    if "masked_lm" in parts and not encoder.tie_word_embeddings:
        parts += ("untied",)
    return parts


def _expand(rows, encoder):
    """(row, layer or None) of every variable."""
    for row in rows:
        if "{i}" in row.ours:
            yield from ((row, i) for i in range(encoder.num_hidden_layers))
        else:
            yield row, None


def _fill(name, i):
    return name if i is None else name.format(i=i, k=f"_{i}" if i else "")


def shapes(encoder, head, classes=0):
    """{our name: shape} of all variables of a model with a head of HEADS and that number of classes."""
    sizes = {
        "V": encoder.vocab_size,
        "E": width(encoder),
        "D": encoder.hidden_size,
        "I": encoder.intermediate_size,
        "P": encoder.max_position_embeddings,
        "T": encoder.type_vocab_size,
        "C": classes,
        "M": encoder.num_hidden_layers + 1,
        "2": 2,
        "1": 1,
    }
    parts = _parts(encoder, head)
    rows = [row for row in TABLE if row.part in parts]
    return {_fill(row.ours, i): tuple(sizes[letter] for letter in row.shape) for row, i in _expand(rows, encoder)}


class Place(NamedTuple):
    """Where a variable of ours is in a format.

    Attributes:
        theirs: Its name there.
        transform: How it is stored.
        part: The part of a model that it belongs to.
    """

    theirs: str
    transform: Transform
    part: str


def places(layout, encoder, groups=1):
    """{our name: Place} for a layout, of every row that has a name there.

    Args:
        layout: A key of `spellings.ALIASES`, or "google albert".
        encoder: Its sizes.
        groups: Of layers that share weights, in ALBERT.
    """
    name = spellings.column(layout)
    found = {}
    for row, i in _expand(TABLE, encoder):
        theirs = row.ours if name == "tfbert" else getattr(row, name)
        if not theirs:
            continue
        theirs = _fill(theirs, i)
        if layout == "google albert":
            for pattern, replacement in _ALBERT:
                theirs = re.sub(pattern, replacement, theirs)
            theirs = theirs.replace("{g}", str((i or 0) * groups // encoder.num_hidden_layers))
        found[_fill(row.ours, i)] = Place(theirs, STORED[row.stored].get(name, SAME), row.part)
    return found


def head_of(layout, names, encoder, architectures=()):
    """The head that the tensors of a file belong to, one of `sources.HEADS`.

    Args:
        layout: A key of `spellings.ALIASES`.
        names: In the table's spelling.
        encoder: Its sizes.
        architectures: Names of classes that a configuration states; they tell a classifier of sequences from one of
            tokens, whose tensors have the same names.
    """
    parts = {place.part for place in places(layout, encoder).values() if place.theirs in names}
    if "masked_lm" in parts:
        return "pretraining" if "next_sentence" in parts else "masked_lm"
    of_tokens = "classify" not in parts or "pooler" not in parts or "BertForTokenClassification" in architectures
    if "tokens" in parts and of_tokens:
        return "tokens"
    return next((head for head in ("classify", "span") if head in parts), "none")
