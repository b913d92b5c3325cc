"""Tests of tfbert.config and tfbert.checks."""

import dataclasses
import json
import subprocess
import sys
import textwrap

import pytest

from tfbert import checks, config
from tfbert.config import EncoderConfig

# What google-research/bert ships with multilingual BERT, keys of its tools included.
GOOGLE_MULTILINGUAL = {
    "attention_probs_dropout_prob": 0.1,
    "directionality": "bidi",
    "hidden_act": "gelu",
    "hidden_dropout_prob": 0.1,
    "hidden_size": 768,
    "initializer_range": 0.02,
    "intermediate_size": 3072,
    "max_position_embeddings": 512,
    "num_attention_heads": 12,
    "num_hidden_layers": 12,
    "pooler_fc_size": 768,
    "pooler_num_attention_heads": 12,
    "pooler_num_fc_layers": 3,
    "pooler_size_per_head": 128,
    "pooler_type": "first_token_transform",
    "type_vocab_size": 2,
    "vocab_size": 105879,
}

PROGRAM = """
    import dataclasses
    from tfbert import checks, config

    @dataclasses.dataclass(frozen=True)
    class Config:
        input_file: tuple[str, ...] = config.field((), "Files.")
        steps: int = config.field(10, "Steps.", lower_bound=1)
        rate: float = config.field(0.5, "Rate.", lower_bound=0.0, upper_bound=1.0)
        max_steps: int | None = config.field(None, "Steps at most.", lower_bound=1)
        source: str = config.field("text", "Kind of input.", choices=("text", "tfds"))
        lower: bool = config.field(True, "Lower-case.")

    def main(argv):
        made = config.from_flags(Config)
        checks.require(made.steps != 13, "steps must not be 13", f"steps={made.steps}", "--steps", "Take 14")
        print(made)

    if __name__ == "__main__":
        config.define_flags(Config, rate=0.25)
        checks.run_program(main)
"""


def run_program(*args):
    """(exit status, standard output, standard error) of a program made as the project's are."""
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(PROGRAM), *args], capture_output=True, text=True, check=False
    )
    return done.returncode, done.stdout, done.stderr


def write_json(folder, content):
    path = folder / "bert_config.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return str(path)


def test_defaults_are_bert_base():
    assert EncoderConfig() == config.preset("base")
    assert config.to_dict(EncoderConfig())["hidden_size"] == 768


@pytest.mark.parametrize(
    "size, sizes",
    [
        ("tiny", (2, 128, 2, 512)),
        ("small", (4, 512, 8, 2048)),
        ("base", (12, 768, 12, 3072)),
        ("large", (24, 1024, 16, 4096)),
    ],
)
def test_presets_are_the_published_sizes(size, sizes):
    made = config.preset(size, vocab_size=97)
    found = (made.num_hidden_layers, made.hidden_size, made.num_attention_heads, made.intermediate_size)
    assert found == sizes and made.vocab_size == 97
    assert made.hidden_size // made.num_attention_heads == 64


def test_unknown_preset():
    with pytest.raises(checks.InputError, match=r"one of tiny, .*large; got model='huge'"):
        config.preset("huge")


@pytest.mark.parametrize(
    "name, value, message",
    [
        ("vocab_size", 0, "vocab_size must be at least 1; got vocab_size=0"),
        ("num_hidden_layers", -1, "num_hidden_layers must be at least 1"),
        ("hidden_dropout_prob", 1.5, r"hidden_dropout_prob must be at most 1.0; got hidden_dropout_prob=1.5"),
        ("attention_probs_dropout_prob", -0.1, "must be at least 0.0"),
        ("attention_probs_dropout_prob", float("nan"), "must be at least 0.0"),
        (
            "hidden_act",
            "gelu_new",
            "hidden_act must be one of gelu, gelu_erf, relu, tanh, linear; got hidden_act='gelu_new'",
        ),
        ("hidden_size", "768", "hidden_size must be of type int; got hidden_size='768'"),
        ("hidden_size", 768.0, "hidden_size must be of type int"),
        ("num_hidden_layers", True, "num_hidden_layers must be of type int; got num_hidden_layers=True"),
        ("hidden_size", None, "hidden_size must be of type int"),
        ("initializer_range", "0.02", "initializer_range must be of type float"),
        ("layer_norm_eps", -1e-12, "layer_norm_eps must be at least 0.0; got layer_norm_eps=-1e-12"),
        ("embedding_size", 0, "embedding_size must be at least 1; got embedding_size=0"),
        ("embedding_size", 4.0, "embedding_size must be of type int"),
        ("tie_word_embeddings", 1, "tie_word_embeddings must be of type bool; got tie_word_embeddings=1"),
        ("num_attention_heads", 7, "hidden_size must be a multiple of num_attention_heads; got hidden_size=768, .*=7"),
    ],
)
def test_what_does_not_hold_is_named(name, value, message):
    with pytest.raises(checks.InputError, match=message):
        EncoderConfig(**{name: value})


@pytest.mark.parametrize(
    "name, value", [("hidden_dropout_prob", 0), ("hidden_dropout_prob", 1), ("type_vocab_size", 1)]
)
def test_bounds_are_included(name, value):
    assert getattr(EncoderConfig(**{name: value}), name) == value


def test_is_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        EncoderConfig().hidden_size = 5


def test_dictionary_and_back():
    made = config.preset("tiny", vocab_size=97, hidden_act="relu", hidden_dropout_prob=0.25)
    assert config.from_dict(EncoderConfig, json.loads(json.dumps(config.to_dict(made)))) == made


def test_tuples_survive_json():
    @dataclasses.dataclass(frozen=True)
    class Config:
        files: tuple[str, ...] = config.field(("a", "b"), "Files.")
        limit: int | None = config.field(None, "Limit.", lower_bound=1)

    made = Config(files=("c",))
    assert config.from_dict(Config, json.loads(json.dumps(config.to_dict(made)))) == made
    config.check_bounds(made)
    with pytest.raises(checks.InputError, match="limit must be at least 1"):
        config.check_bounds(Config(limit=0))


def test_unknown_fields_are_refused():
    with pytest.raises(
        checks.InputError, match=r"EncoderConfig takes only .*unknown \['hiden_size'\] \(at config.json\)"
    ):
        config.from_dict(EncoderConfig, {"hiden_size": 768}, "config.json")


def test_googles_file_loads_as_it_is(tmp_path):
    made = config.read_bert_config(write_json(tmp_path, GOOGLE_MULTILINGUAL))
    assert made == config.preset("base", vocab_size=105879)


@pytest.mark.parametrize(
    "content, message",
    [
        ("{", "must hold JSON"),
        ("[1, 2]", "must hold a JSON object; got list"),
        ({"hidden_size": 768}, "must give vocab_size"),
        (GOOGLE_MULTILINGUAL | {"num_attention_heads": 7}, "multiple of num_attention_heads"),
        (GOOGLE_MULTILINGUAL | {"hidden_size": "big"}, "hidden_size must be of type int"),
    ],
)
def test_bad_files_are_named(tmp_path, content, message):
    with pytest.raises(checks.InputError, match=message) as caught:
        config.read_bert_config(write_json(tmp_path, content))
    assert "bert_config.json" in str(caught.value)


# As transformers writes the configuration of a BertForPreTraining, in part.
HUGGING_FACE = {
    "_name_or_path": "bert-base-uncased",
    "architectures": ["BertForPreTraining"],
    "hidden_act": "gelu",
    "hidden_size": 64,
    "intermediate_size": 96,
    "layer_norm_eps": 1e-5,
    "model_type": "bert",
    "num_attention_heads": 4,
    "num_hidden_layers": 2,
    "tie_word_embeddings": False,
    "transformers_version": "4.57.1",
    "vocab_size": 97,
}


def test_hugging_faces_configuration(tmp_path):
    made = config.read_bert_config(write_json(tmp_path, HUGGING_FACE))
    assert made == config.EncoderConfig(
        vocab_size=97,
        hidden_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=96,
        hidden_act="gelu_erf",
        layer_norm_eps=1e-5,
        tie_word_embeddings=False,
    )


@pytest.mark.parametrize("key", config.HUGGING_FACE_KEYS)
@pytest.mark.parametrize(
    "theirs, ours", [("gelu", "gelu_erf"), ("gelu_new", "gelu"), ("gelu_pytorch_tanh", "gelu"), ("relu", "relu")]
)
def test_each_key_of_hugging_face_tells_its_activations(tmp_path, key, theirs, ours):
    path = write_json(tmp_path, GOOGLE_MULTILINGUAL | {key: HUGGING_FACE[key], "hidden_act": theirs})
    assert config.read_bert_config(path).hidden_act == ours


def test_their_activation_is_gelu_where_none_is_given(tmp_path):
    """Theirs: the exact one; Google's: the approximation."""
    without = {k: v for k, v in HUGGING_FACE.items() if k != "hidden_act"}
    assert config.read_bert_config(write_json(tmp_path, without)).hidden_act == "gelu_erf"
    without = {k: v for k, v in GOOGLE_MULTILINGUAL.items() if k != "hidden_act"}
    assert config.read_bert_config(write_json(tmp_path, without)).hidden_act == "gelu"


def test_factorised_embeddings_of_a_configuration(tmp_path):
    path = write_json(tmp_path, HUGGING_FACE | {"model_type": "electra", "embedding_size": 16})
    assert config.read_bert_config(path).embedding_size == 16


@pytest.mark.parametrize(
    "changed, message",
    [
        ({"hidden_act": "quick_gelu"}, "hidden_act of Hugging Face must be one of gelu, .*; got 'quick_gelu'"),
        ({"hidden_act": ["gelu"]}, r"got \['gelu'\]"),
        ({"model_type": "roberta"}, "model_type must be one of bert, electra; got 'roberta'"),
        ({"model_type": "distilbert", "dim": 64}, "got 'distilbert'"),
    ],
)
def test_what_is_not_like_bert_is_refused(tmp_path, changed, message):
    with pytest.raises(checks.InputError, match=message):
        config.read_bert_config(write_json(tmp_path, HUGGING_FACE | changed))


def test_configurations_from_before_the_newer_fields():
    newer = ("layer_norm_eps", "embedding_size", "tie_word_embeddings")
    old = {k: v for k, v in config.to_dict(EncoderConfig(vocab_size=97)).items() if k not in newer}
    assert config.from_dict(EncoderConfig, old) == EncoderConfig(vocab_size=97)


def test_file_that_is_not_there(tmp_path):
    with pytest.raises(checks.InputError, match=r"readable file; got No such file.*nowhere\.json"):
        config.read_bert_config(str(tmp_path / "nowhere.json"))


def test_flags_make_the_config(tmp_path):
    status, out, _ = run_program()
    assert status == 0
    expected = "Config(input_file=(), steps=10, rate=0.25, max_steps=None, source='text', lower=True)"
    assert out.strip() == expected  # rate: the program's own default

    recipe = tmp_path / "recipe.flags"
    recipe.write_text("--steps=5\n--source=tfds\n")
    status, out, _ = run_program(f"--flagfile={recipe}", "--input_file=a,b", "--rate=1", "--max_steps=3", "--nolower")
    assert status == 0
    assert "input_file=('a', 'b'), steps=5, rate=1.0, max_steps=3, source='tfds', lower=False" in out


@pytest.mark.parametrize(
    "flag, message",
    [
        ("--steps=0", "positive|must|>= 1|equal or greater|bound"),
        ("--rate=1.5", "rate"),
        ("--source=web", "text|tfds"),
        ("--step=3", "Did you mean"),
    ],
)
def test_bad_flags_stop_the_program(flag, message):
    status, out, err = run_program(flag)
    assert status == 1 and "Config(" not in out
    assert any(part in out + err for part in message.split("|"))
    assert "Traceback" not in out + err


def test_short_help_lists_the_flags():
    _, out, _ = run_program("--helpshort")
    for name in ("--input_file", "--steps", "--rate", "--[no]lower"):
        assert name in out


def test_input_errors_end_a_program_without_a_traceback():
    status, _, err = run_program("--steps=13")
    assert status == 2
    assert err.strip() == "error: steps must not be 13; got steps=13 (at --steps). Take 14."


def test_stray_arguments_are_refused():
    status, _, err = run_program("steps=3")
    assert status == 2 and "no positional arguments are taken; got ['steps=3']" in err


def test_defaults_of_flags_must_be_fields():
    with pytest.raises(TypeError, match=r"EncoderConfig has no fields \['hiden'\]"):
        config.define_flags(EncoderConfig, hiden=3)


def test_wording_of_errors():
    assert str(checks.error("x must be 1", "x=2")) == "x must be 1; got x=2."
    assert str(checks.error("x must be 1", "x=2", "file f", "Why not?")) == "x must be 1; got x=2 (at file f). Why not?"
    checks.require(True, "never", "raised")
    with pytest.raises(ValueError, match="x must be 1; got x=2"):
        checks.require(False, "x must be 1", "x=2")
