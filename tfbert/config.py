"""Frozen dataclasses <-> command-line flags <-> JSON. Refuses what it does not know."""

import dataclasses
import json
import types
import typing

from absl import flags

from tfbert import checks

# Flags belong to the program that defines them, so that --helpshort lists them.
flags.disclaim_key_flags()


def field(default, help, **bounds):
    """A dataclass field that is also a flag.

    Args:
        default: Its default; its annotation must be int, float, str, bool, one of those `| None`,
            or `tuple[str, ...]` (a comma-separated flag).
        help: The flag's help text.
        **bounds: `lower_bound`, `upper_bound` for numbers, `choices` for strings.
    """
    return dataclasses.field(default=default, metadata={"help": help, **bounds})


def _scalar_type(hint):
    """int for `int` and for `int | None`."""
    if isinstance(hint, types.UnionType):
        return next(a for a in typing.get_args(hint) if a is not type(None))
    return hint


def check_bounds(instance):
    """Raises `InputError` if a field of a dataclass instance has a wrong type or is out of bounds."""
    hints = typing.get_type_hints(type(instance))
    for f in dataclasses.fields(instance):
        value, hint, name = getattr(instance, f.name), hints[f.name], f.name
        if value is None and isinstance(hint, types.UnionType):
            continue
        kind = _scalar_type(hint)
        if kind in (int, float, str, bool):
            right = isinstance(value, (int, float) if kind is float else kind)
            right = right and (kind is bool or not isinstance(value, bool))
            checks.require(right, f"{name} must be of type {kind.__name__}", f"{name}={value!r}")
        low, high = f.metadata.get("lower_bound"), f.metadata.get("upper_bound")
        checks.require(low is None or value >= low, f"{name} must be at least {low}", f"{name}={value}")
        checks.require(high is None or value <= high, f"{name} must be at most {high}", f"{name}={value}")
        choices = f.metadata.get("choices")
        checks.require(
            not choices or value in choices, f"{name} must be one of {', '.join(choices or ())}", f"{name}={value!r}"
        )


def define_flags(cls, **defaults):
    """Defines a flag for each field of a dataclass made with `field`; `defaults` override some."""
    hints = typing.get_type_hints(cls)
    unknown = set(defaults) - set(hints)
    if unknown:
        raise TypeError(f"{cls.__name__} has no fields {sorted(unknown)}.")
    for f in dataclasses.fields(cls):
        meta = dict(f.metadata)
        help_, choices = meta.pop("help"), meta.pop("choices", None)
        default, hint = defaults.get(f.name, f.default), hints[f.name]
        if typing.get_origin(hint) is tuple:
            flags.DEFINE_list(f.name, list(default), help_)
            continue
        if choices:
            flags.DEFINE_enum(f.name, default, list(choices), help_)
            continue
        define = {
            int: flags.DEFINE_integer,
            float: flags.DEFINE_float,
            str: flags.DEFINE_string,
            bool: flags.DEFINE_bool,
        }
        define[_scalar_type(hint)](f.name, default, help_, **meta)


def from_flags(cls):
    """An instance of a dataclass from the parsed flags that `define_flags` defined."""
    values = {f.name: flags.FLAGS[f.name].value for f in dataclasses.fields(cls)}
    return cls(**{k: tuple(v) if isinstance(v, list) else v for k, v in values.items()})


def to_dict(instance):
    """A dataclass instance as what JSON can hold."""
    return json.loads(json.dumps(dataclasses.asdict(instance)))


def from_dict(cls, raw, where=None):
    """The dataclass instance that `to_dict` came from; unknown fields are an `InputError`."""
    known = {f.name for f in dataclasses.fields(cls)}
    unknown = sorted(set(raw) - known)
    checks.require(not unknown, f"{cls.__name__} takes only {sorted(known)}", f"unknown {unknown}", where)
    return cls(**{k: tuple(v) if isinstance(v, list) else v for k, v in raw.items()})


# Bottom-up order of the published sizes (Turc et al. 2019, table 1; Devlin et al. 2019, section 3):
# layers, hidden size, heads. The intermediate size is always four times the hidden size.
PRESETS = {
    "tiny": (2, 128, 2),
    "mini": (4, 256, 4),
    "small": (4, 512, 8),
    "medium": (8, 512, 8),
    "base": (12, 768, 12),
    "large": (24, 1024, 16),
}


@dataclasses.dataclass(frozen=True)
class EncoderConfig:
    """The shape of an encoder, under the names of Google's `bert_config.json`."""

    vocab_size: int = field(30522, "Entries of the vocabulary.", lower_bound=1)
    hidden_size: int = field(768, "Width of the encoder.", lower_bound=1)
    num_hidden_layers: int = field(12, "Transformer layers.", lower_bound=1)
    num_attention_heads: int = field(12, "Attention heads a layer; divides hidden_size.", lower_bound=1)
    intermediate_size: int = field(3072, "Width of the feed-forward layer.", lower_bound=1)
    hidden_act: str = field(
        "gelu",
        "Activation; gelu is the tanh approximation, gelu_erf the exact one.",
        choices=("gelu", "gelu_erf", "relu", "tanh", "linear"),
    )
    hidden_dropout_prob: float = field(0.1, "Dropout of hidden states.", lower_bound=0.0, upper_bound=1.0)
    attention_probs_dropout_prob: float = field(
        0.1, "Dropout of attention probabilities.", lower_bound=0.0, upper_bound=1.0
    )
    max_position_embeddings: int = field(512, "Longest sequence.", lower_bound=1)
    type_vocab_size: int = field(2, "Segments.", lower_bound=1)
    initializer_range: float = field(0.02, "Deviation of the truncated normal initialiser.", lower_bound=0.0)
    layer_norm_eps: float = field(1e-12, "What layer norms add to the variance.", lower_bound=0.0)
    embedding_size: int | None = field(
        None, "Width of the embeddings, projected to hidden_size if it is another; None: hidden_size.", lower_bound=1
    )
    tie_word_embeddings: bool = field(True, "Whether the masked language model scores with the word embeddings.")

    def __post_init__(self):
        check_bounds(self)
        checks.require(
            self.hidden_size % self.num_attention_heads == 0,
            "hidden_size must be a multiple of num_attention_heads",
            f"hidden_size={self.hidden_size}, num_attention_heads={self.num_attention_heads}",
        )


# Activations of Hugging Face's configurations -> ours. "gelu" is the exact one there; here and in Google's
# configurations it is the tanh approximation, which BERT was trained with.
HUGGING_FACE_ACTIVATIONS = {
    "gelu": "gelu_erf",
    "gelu_python": "gelu_erf",
    "gelu_new": "gelu",
    "gelu_pytorch_tanh": "gelu",
    "gelu_python_tanh": "gelu",
    "gelu_accurate": "gelu",
    "gelu_fast": "gelu",
    "relu": "relu",
    "tanh": "tanh",
    "linear": "linear",
}
# A file with one of these keys is Hugging Face's.
HUGGING_FACE_KEYS = ("model_type", "architectures", "transformers_version")
# Models of theirs whose sizes have BERT's names, and whose layers are BERT's.
HUGGING_FACE_MODELS = ("bert", "electra")


def preset(name, **overrides):
    """The `EncoderConfig` of a published size ("tiny" ... "large")."""
    checks.require(name in PRESETS, f"model must be one of {', '.join(PRESETS)}", f"model={name!r}")
    layers, hidden, heads = PRESETS[name]
    sizes = {
        "num_hidden_layers": layers,
        "hidden_size": hidden,
        "num_attention_heads": heads,
        "intermediate_size": 4 * hidden,
    }
    return EncoderConfig(**{**sizes, **overrides})


def read_bert_config(path):
    """Reads Google's `bert_config.json` or Hugging Face's `config.json`; keys that are not ours are left alone.

    Released configs carry keys of their tools (`directionality`, `pooler_*`), so unknown keys are ignored
    here, and only here. A key of ours with a wrong value is an error. "gelu" is the tanh approximation in
    Google's files and the exact function in Hugging Face's, which are told by their own keys.

    Args:
        path: The file.

    Returns:
        An `EncoderConfig`.

    Raises:
        InputError: it cannot be read, is of another kind of model, or a value does not hold.
    """
    try:
        with open(path, encoding="utf-8") as f:
            raw = json.load(f)
    except OSError as e:
        raise checks.error("bert_config_file must be a readable file", e.strerror, path) from e
    except (json.JSONDecodeError, UnicodeDecodeError) as e:
        raise checks.error("bert_config_file must hold JSON", str(e), path) from e
    checks.require(isinstance(raw, dict), "bert_config_file must hold a JSON object", type(raw).__name__, path)
    checks.require("vocab_size" in raw, "bert_config_file must give vocab_size", f"keys {sorted(raw)}", path)
    known = {f.name for f in dataclasses.fields(EncoderConfig)}
    values = {k: v for k, v in raw.items() if k in known}
    if any(key in raw for key in HUGGING_FACE_KEYS):
        values["hidden_act"] = _hugging_face_activation(raw, path)
    try:
        return EncoderConfig(**values)
    except checks.InputError as e:
        raise checks.InputError(f"{path}: {e}") from e


def _hugging_face_activation(raw, path):
    """Our name for the activation of a Hugging Face configuration of a model like BERT."""
    model, theirs = raw.get("model_type", "bert"), raw.get("hidden_act", "gelu")
    like = ", ".join(HUGGING_FACE_MODELS)
    checks.require(model in HUGGING_FACE_MODELS, f"model_type must be one of {like}", f"{model!r}", path)
    names = ", ".join(HUGGING_FACE_ACTIVATIONS)
    is_known = isinstance(theirs, str) and theirs in HUGGING_FACE_ACTIVATIONS
    checks.require(is_known, f"hidden_act of Hugging Face must be one of {names}", f"{theirs!r}", path)
    return HUGGING_FACE_ACTIVATIONS[theirs]
