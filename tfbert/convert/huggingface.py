"""Hugging Face folders: config.json, weights and tokenizer files, read and written.

Read: BERT in the shapes that its classes save (with or without the prefix `bert.`, norms as weight/bias or
gamma/beta), DistilBERT and ELECTRA. Written: what `transformers` saves itself for the same head, so that nothing is
missing or unexpected when it loads.
"""

import json
import os

from tfbert import checks, config
from tfbert.convert import hf_tokenizer, names, safetensors_file, sources, spellings, torch_pickle

CONFIG_FILE, WEIGHTS_FILE = "config.json", "model.safetensors"
OLD_CONFIG_FILE = "bert_config.json"  # of pytorch_pretrained_bert
# In the order in which `transformers` looks for them.
WEIGHTS_FILES = (
    WEIGHTS_FILE,
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)

ARCHITECTURES = {
    "pretraining": "BertForPreTraining",
    "masked_lm": "BertForMaskedLM",
    "none": "BertModel",
    "classify": "BertForSequenceClassification",
    "tokens": "BertForTokenClassification",
    "span": "BertForQuestionAnswering",
}

# Our activations, as they call them.
_THEIRS = {"gelu": "gelu_new", "gelu_erf": "gelu"}

_SIZES = (
    "vocab_size",
    "hidden_size",
    "num_hidden_layers",
    "num_attention_heads",
    "intermediate_size",
    "max_position_embeddings",
)
_RATES = ("hidden_dropout_prob", "attention_probs_dropout_prob", "initializer_range", "layer_norm_eps")
_BERT = {name: name for name in (*_SIZES, "type_vocab_size", *_RATES)}
# Our field -> theirs, by model_type.
FIELDS = {
    "bert": _BERT,
    "electra": {**_BERT, "embedding_size": "embedding_size"},
    "distilbert": {
        "vocab_size": "vocab_size",
        "hidden_size": "dim",
        "num_hidden_layers": "n_layers",
        "num_attention_heads": "n_heads",
        "intermediate_size": "hidden_dim",
        "max_position_embeddings": "max_position_embeddings",
        "hidden_dropout_prob": "dropout",
        "attention_probs_dropout_prob": "attention_dropout",
        "initializer_range": "initializer_range",
    },
}
# What a BERT of theirs may be asked for and ours is not.
_PLAIN = {"position_embedding_type": "absolute", "is_decoder": False, "add_cross_attention": False}


def read_config(path):
    """Reads a config.json.

    Returns:
        (`EncoderConfig`, model_type, the file's content).

    Raises:
        InputError: it is of another kind of model, or lacks a size.
    """
    raw = sources.read_json(path)
    kind = raw.get("model_type", "bert")
    checks.require(kind in FIELDS, f"model_type must be one of {', '.join(FIELDS)}", f"{kind!r}", path)
    for name, value in _PLAIN.items():
        found = raw.get(name, value)
        checks.require(found == value, f"{name} must be {value!r}", f"{found!r}", path)
    fields = FIELDS[kind]
    lacking = [fields[name] for name in _SIZES if fields[name] not in raw]
    checks.require(not lacking, "config.json must give the sizes of the model", f"none for {', '.join(lacking)}", path)
    activation = raw.get("activation" if kind == "distilbert" else "hidden_act", "gelu")
    checks.require(
        isinstance(activation, str) and activation in config.HUGGING_FACE_ACTIVATIONS,
        f"the activation must be one of {', '.join(config.HUGGING_FACE_ACTIVATIONS)}",
        f"{activation!r}",
        path,
    )
    given = {ours: raw[theirs] for ours, theirs in fields.items() if theirs in raw}
    tied = raw.get("tie_word_embeddings", True)
    activation = config.HUGGING_FACE_ACTIVATIONS[activation]
    try:
        encoder = config.EncoderConfig(**given, hidden_act=activation, tie_word_embeddings=tied)
    except checks.InputError as e:
        raise checks.InputError(f"{path}: {e}") from e
    return encoder, kind, raw


def weights_path(folder):
    """The path of a folder's weights, or None."""
    paths = (os.path.join(folder, name) for name in WEIGHTS_FILES)
    return next((path for path in paths if os.path.isfile(path)), None)


def read_weights(path):
    """{name: `sources.Tensor`} of a file of weights, or of an index of several."""
    if path.endswith(".index.json"):
        reader = safetensors_file.read if "safetensors" in os.path.basename(path) else torch_pickle.read
        return safetensors_file.read_sharded(path, reader)
    return safetensors_file.read(path) if path.endswith(".safetensors") else torch_pickle.read(path)


def _labels(raw, count):
    """Names of `count` classes, as config.json gives them if it gives that many."""
    stated = raw.get("id2label")
    stated = stated if isinstance(stated, dict) else {}
    return sources.labels([stated.get(str(i)) for i in range(len(stated))], count)


def read(path):
    """The `sources.Source` of a folder, or of one file of weights in it.

    Raises:
        InputError: files are missing, damaged or of another kind of model.
    """
    folder = path if os.path.isdir(path) else os.path.dirname(path)
    weights = weights_path(folder) if os.path.isdir(path) else path
    checks.require(weights, "a folder must hold weights", f"none of {', '.join(WEIGHTS_FILES)}", folder)
    config_path, old_path = (os.path.join(folder, name) for name in (CONFIG_FILE, OLD_CONFIG_FILE))
    encoder, kind, raw = read_config(old_path if os.path.isfile(old_path) else config_path)
    tensors = read_weights(weights)
    layout = "huggingface" if kind == "bert" else kind
    spelt = spellings.of(layout, tensors, weights)
    architectures = [name for name in raw.get("architectures") or () if isinstance(name, str)]
    head = names.head_of(layout, spelt, encoder, architectures)
    labels = _labels(raw, tensors[spelt["classifier.weight"]].shape[0]) if head in ("classify", "tokens") else ()
    vocab, unlike = hf_tokenizer.read(folder)
    if kind == "electra" and head == "masked_lm" and encoder.hidden_act != "gelu_erf":
        unlike["generator_hidden_act"] = "gelu"  # theirs is fixed, ours is hidden_act
    return sources.Source("huggingface", weights, tensors, encoder, head, vocab, labels, layout=layout, unlike=unlike)


def wanted(source):
    """{our name: shape} of what is written: what the class for the source's head holds."""
    return names.shapes(source.encoder, source.head, len(source.labels))


def unlike(source):
    """What `transformers` cannot be told: nothing, except that embeddings must be as wide as the encoder."""
    encoder = source.encoder
    checks.require(
        names.width(encoder) == encoder.hidden_size,
        "embeddings must be as wide as the encoder to be written for transformers' BERT",
        f"embedding_size={encoder.embedding_size}, hidden_size={encoder.hidden_size}",
        source.where,
    )
    return []


def _config(source):
    encoder = source.encoder
    content = {
        "architectures": [ARCHITECTURES[source.head]],
        "model_type": "bert",
        **{theirs: getattr(encoder, ours) for ours, theirs in _BERT.items()},
        "hidden_act": _THEIRS.get(encoder.hidden_act, encoder.hidden_act),
        "tie_word_embeddings": encoder.tie_word_embeddings,
        "position_embedding_type": "absolute",
        "pad_token_id": source.vocab.pad_id if source.vocab else 0,
        "torch_dtype": "float32",
    }
    if source.labels:
        content["id2label"] = {str(i): label for i, label in enumerate(source.labels)}
        content["label2id"] = {label: i for i, label in enumerate(source.labels)}
    return content


def _stored(tensor, place, heads):
    shape = tuple(place.transform.their_shape(tensor.shape, heads))
    return sources.Tensor(shape, tensor.dtype, lambda: place.transform.from_ours(tensor.read(), shape))


def write(folder, source):
    """Writes config.json, model.safetensors and, if the source has a vocabulary, the tokenizer's files.

    Args:
        folder: An empty one.
        source: A `sources.Source` with our names.

    Returns:
        {our name: name in the file}.
    """
    encoder = source.encoder
    places = names.places("huggingface", encoder)
    tensors, written = {}, {}
    for ours, tensor in source.tensors.items():
        place = places[ours]
        bare = source.head == "none" or place.part not in ("encoder", "pooler")
        written[ours] = place.theirs if bare else f"bert.{place.theirs}"
        tensors[written[ours]] = _stored(tensor, place, encoder.num_attention_heads)
    if spellings.DECODER in tensors:  # untied: the decoder's own bias is the one that counts
        tensors[spellings.DECODER_BIAS] = tensors["cls.predictions.bias"]
    safetensors_file.write(os.path.join(folder, WEIGHTS_FILE), tensors, {"format": "pt"})
    with open(os.path.join(folder, CONFIG_FILE), "w", encoding="utf-8") as f:
        f.write(json.dumps(_config(source), indent=2, ensure_ascii=False) + "\n")
    if source.vocab:
        hf_tokenizer.write(folder, source.vocab, encoder.max_position_embeddings)
    return written
