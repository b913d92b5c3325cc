"""KerasHub presets: BertBackbone, BertMaskedLM and BertTextClassifier, read and written.

A preset is a folder of JSON files and two .h5 files, model.weights.h5 (the backbone) and task.weights.h5 (what the
task adds). Reading takes the .h5 files apart by the table of names; writing lets KerasHub save a model of the right
sizes and then fills in the numbers, one tensor at a time.

KerasHub's masked language model is not BERT's: its head has the exact GELU and an epsilon of 1e-5, and a preset
cannot say otherwise. `load_masked_lm` loads one with the head that the weights were trained with.
"""

import json
import os

import h5py
import keras

from tfbert import checks, config
from tfbert.convert import names, sources, spellings
from tfbert.text import vocab as vocab_lib

CONFIG_FILE, TASK_FILE, OURS_FILE = "config.json", "task.json", "tfbert.json"
WEIGHTS_FILES = {"backbone": "model.weights.h5", "task": "task.weights.h5"}
TOKENIZER_FILE, VOCAB_FILE = "tokenizer.json", os.path.join("assets", "tokenizer", "vocabulary.txt")

# BertBackbone's configuration, by our fields.
_FIELDS = {
    "vocab_size": "vocabulary_size",
    "num_hidden_layers": "num_layers",
    "num_attention_heads": "num_heads",
    "hidden_size": "hidden_dim",
    "intermediate_size": "intermediate_dim",
    "hidden_dropout_prob": "dropout",
    "max_position_embeddings": "max_sequence_length",
    "type_vocab_size": "num_segments",
}
# What BertBackbone computes and cannot be told otherwise.
FIXED = {"hidden_act": "gelu", "layer_norm_eps": 1e-12, "tie_word_embeddings": True}
# What its BertMaskedLM computes in the head.
HEAD = {"intermediate_activation": "gelu_erf", "layer_norm_epsilon": 1e-5}
_TRUE_HEAD = {"intermediate_activation": "gelu", "layer_norm_epsilon": 1e-12}


def _h5_tensors(path, prefix):
    """{prefix/name: `sources.Tensor`} of the data sets that lie in an .h5 file itself."""
    must = "a preset's weights must be a whole .h5 file"
    found = {}

    def visit(name, item):
        if not isinstance(item, h5py.Dataset):
            return
        inside = item.external is None and not item.is_virtual
        checks.require(inside, "weights must lie in their file", f"{name}, which lies in another", path)
        found[f"{prefix}/{name}"] = sources.Tensor(tuple(item.shape), item.dtype.name, lambda: read(name))

    def read(name):
        try:
            with h5py.File(path, "r") as f:
                return f[name][()]
        except (OSError, KeyError) as e:
            raise checks.error(must, f"{e}, reading {name}", path) from e

    try:
        with h5py.File(path, "r") as f:
            f.visititems(visit)  # goes along no link out of the file
    except (OSError, RuntimeError) as e:
        raise checks.error(must, str(e), path) from e
    return found


def _read_vocab(folder):
    """(`Vocab` or None, what its tokenizer does otherwise than ours)."""
    path = os.path.join(folder, VOCAB_FILE)
    if not os.path.isfile(path):
        return None, {}
    about = sources.read_json(os.path.join(folder, TOKENIZER_FILE)).get("config", {})
    lower_case = about.get("lowercase", False)
    strip = about.get("strip_accents", False)
    # KerasHub's own presets lower-case without stripping accents, though the models were trained with.
    unlike = {} if strip == lower_case else {"strip_accents": strip}
    return vocab_lib.load(path, lower_case), unlike


def _read_encoder(folder):
    """The `EncoderConfig` of a preset and what tfbert.json adds to it."""
    path = os.path.join(folder, CONFIG_FILE)
    raw = sources.read_json(path)
    checks.require(
        raw.get("class_name") == "BertBackbone" and isinstance(raw.get("config"), dict),
        "a preset must be of a BertBackbone",
        f"class_name={raw.get('class_name')!r}",
        path,
    )
    lacking = sorted(set(_FIELDS.values()) - set(raw["config"]))
    checks.require(not lacking, "config.json must give the sizes of the model", f"none for {lacking}", path)
    ours = os.path.join(folder, OURS_FILE)
    more = sources.read_json(ours) if os.path.isfile(ours) else {}
    given = {name: raw["config"][theirs] for name, theirs in _FIELDS.items()}
    given |= {"attention_probs_dropout_prob": given["hidden_dropout_prob"], **more.get("encoder", {})}
    return config.from_dict(config.EncoderConfig, {**given, **FIXED}, path), more


def read(path):
    """The `sources.Source` of a preset's folder.

    Raises:
        InputError: files are missing, damaged or of another kind of model.
    """
    checks.require(os.path.isdir(path), "a preset must be a folder", "none", path)
    encoder, more = _read_encoder(path)
    weights = os.path.join(path, WEIGHTS_FILES["backbone"])
    checks.require(os.path.isfile(weights), "a preset must hold its weights", f"no {WEIGHTS_FILES['backbone']}", path)
    tensors = _h5_tensors(weights, "backbone")
    if os.path.isfile(os.path.join(path, WEIGHTS_FILES["task"])):
        tensors |= _h5_tensors(os.path.join(path, WEIGHTS_FILES["task"]), "task")
    spelt = spellings.of("keras_hub", tensors, path)
    head = names.head_of("keras_hub", spelt, encoder)
    labels = ()
    if head == "classify":
        count = tensors[spelt["task/layers/dense/vars/0"]].shape[-1]
        labels = sources.labels(more.get("labels"), count)
    vocab, unlike = _read_vocab(path)
    if head == "masked_lm" and more.get("masked_lm_head") != _TRUE_HEAD:
        unlike |= {f"masked_lm_head_{name}": value for name, value in HEAD.items()}
    return sources.Source("keras_hub", path, tensors, encoder, head, vocab, labels, layout="keras_hub", unlike=unlike)


def wanted(source):
    """{our name: shape} of what a preset holds; it has a place for neither next sentence prediction nor spans."""
    checks.require(
        source.head in ("pretraining", "masked_lm", "none", "classify"),
        "KerasHub's BERT has the heads of pre-training and of classifying texts only",
        source.head,
        source.where,
    )
    with_pooler = names.shapes(source.encoder, "none")
    head = "masked_lm" if source.head == "pretraining" else source.head
    return {**with_pooler, **names.shapes(source.encoder, head, len(source.labels))}


def unlike(source):
    """What KerasHub computes otherwise: ["config/hidden_act=gelu_erf"]."""
    encoder = source.encoder
    odd = {name: getattr(encoder, name) for name, value in FIXED.items() if getattr(encoder, name) != value}
    checks.require(
        names.width(encoder) == encoder.hidden_size,
        "embeddings must be as wide as the encoder in a BertBackbone",
        f"embedding_size={encoder.embedding_size}, hidden_size={encoder.hidden_size}",
        source.where,
    )
    return [f"config/{name}={value}" for name, value in odd.items()]


def _save_model(folder, source):
    """Lets KerasHub save a model of the sizes and head of a source, with fresh weights, and its tokenizer."""
    import keras_hub  # slow, and wanted here only

    encoder = source.encoder
    sizes = {theirs: getattr(encoder, ours) for ours, theirs in _FIELDS.items()}
    backbone = keras_hub.models.BertBackbone(**sizes, dtype="float32")
    tokenizer = None
    if source.vocab:
        case = source.vocab.do_lower_case
        tokenizer = keras_hub.models.BertTokenizer(
            vocabulary=list(source.vocab.tokens), lowercase=case, strip_accents=case
        )
    if source.head == "none":
        backbone.save_to_preset(folder)
        if tokenizer:
            tokenizer.save_to_preset(folder)
        return
    length = encoder.max_position_embeddings
    if source.head == "classify":
        make_task = keras_hub.models.BertTextClassifier
        make_preprocessor = keras_hub.models.BertTextClassifierPreprocessor
        more = {"num_classes": len(source.labels)}
    else:
        make_task, make_preprocessor = keras_hub.models.BertMaskedLM, keras_hub.models.BertMaskedLMPreprocessor
        more = {}
    preprocessor = make_preprocessor(tokenizer, sequence_length=length) if tokenizer else None
    make_task(backbone=backbone, preprocessor=preprocessor, **more).save_to_preset(folder)


def write(folder, source):
    """Writes a preset.

    Args:
        folder: An empty one.
        source: A `sources.Source` with our names.

    Returns:
        {our name: name in the preset}.
    """
    encoder = source.encoder
    _save_model(folder, source)
    places = names.places("keras_hub", encoder)
    unwritten = {}
    for part, file in WEIGHTS_FILES.items():
        path = os.path.join(folder, file)
        if not os.path.isfile(path):
            continue
        expected = {name for name in _h5_tensors(path, part) if "/optimizer/" not in name}
        with h5py.File(path, "r+") as f:
            for ours, tensor in source.tensors.items():
                theirs, transform, _ = places[ours]
                if theirs in expected:
                    data = f[theirs.removeprefix(f"{part}/")]
                    data[...] = transform.from_ours(tensor.read(), data.shape)
                    expected.discard(theirs)
        unwritten |= dict.fromkeys(expected, file)
    if unwritten:
        raise AssertionError(f"KerasHub saved tensors that the table of names does not have: {sorted(unwritten)}")
    more = {"initializer_range", "attention_probs_dropout_prob"}
    about = {"encoder": {name: getattr(encoder, name) for name in sorted(more)}, "labels": list(source.labels)}
    if source.head in ("masked_lm", "pretraining"):
        about["masked_lm_head"] = _TRUE_HEAD
    with open(os.path.join(folder, OURS_FILE), "w", encoding="utf-8") as f:
        f.write(json.dumps(about, indent=2, ensure_ascii=False) + "\n")
    return {ours: places[ours].theirs for ours in source.tensors}


def load_masked_lm(folder):
    """KerasHub's BertMaskedLM of a preset that `write` wrote, with BERT's own head.

    Returns:
        A `keras_hub.models.BertMaskedLM` that gives the scores of the model that was written.
    """
    import keras_hub  # slow, and wanted here only

    model = keras_hub.models.BertMaskedLM.from_preset(folder)
    head = model.masked_lm_head
    head._intermediate_dense.activation = gelu
    head._intermediate_layer_norm.epsilon = head.layer_norm_epsilon = _TRUE_HEAD["layer_norm_epsilon"]
    return model


def gelu(x):
    """The tanh approximation, as a function that Keras takes for an activation."""
    return keras.ops.gelu(x, approximate=True)


def is_preset(folder):
    """Whether a folder is a preset of KerasHub."""
    path = os.path.join(folder, CONFIG_FILE)
    return os.path.isfile(path) and str(sources.read_json(path).get("registered_name", "")).startswith("keras_hub>")
