"""Tests of TensorFlow checkpoints: Google's TF1 ones read and written, ELECTRA's, ALBERT's, the Model Garden's read."""

import json
import shutil

import numpy as np
import pytest
import tensorflow as tf

from tests import convert_samples, reference, tiny, tiny_run
from tfbert import checks, config, heads
from tfbert.convert import assign, bundles, formats, google, names
from tfbert.text import vocab as vocab_lib

ENCODER = tiny.config()  # "gelu": what google-research/bert computes


def save_v1(prefix, arrays):
    """Writes {name: array} with TF1's own Saver."""
    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        for name, array in arrays.items():
            tf.compat.v1.get_variable(name, initializer=array)
        session.run(tf.compat.v1.global_variables_initializer())
        tf.compat.v1.train.Saver().save(session, str(prefix), write_meta_graph=False)


def write(folder, arrays, encoder=ENCODER, prefix="bert_model.ckpt", **more):
    folder.mkdir(exist_ok=True)
    save_v1(folder / prefix, arrays)
    (folder / "checkpoint").unlink(missing_ok=True)
    content = {k: v for k, v in config.to_dict(encoder).items() if k not in google.FIXED and v is not None}
    (folder / "bert_config.json").write_text(json.dumps({**content, "directionality": "bidi", **more}))
    (folder / "vocab.txt").write_text("".join(f"{t}\n" for t in tiny_run.vocab().tokens))
    return str(folder)


def ours_of(source, head=None, **kwargs):
    tensors, account = assign.match(
        source, names.shapes(source.encoder, head or source.head, len(source.labels)), **kwargs
    )
    return convert_samples.arrays(tensors), account


@pytest.fixture(scope="module")
def released(tmp_path_factory):
    """A folder as Google released them, and its numbers."""
    arrays = convert_samples.numbers(ENCODER)
    return write(tmp_path_factory.mktemp("google") / "tiny", arrays), arrays


@pytest.mark.parametrize(
    "path", ["", "/bert_model.ckpt", "/bert_model.ckpt.index", "/bert_model.ckpt.data-00000-of-00001"]
)
def test_reads_a_released_checkpoint_by_any_of_its_names(released, path):
    folder, arrays = released
    source = formats.open_source(folder + path)
    assert (source.kind, source.head, source.encoder) == ("google", "pretraining", ENCODER)
    assert source.vocab == tiny_run.vocab()
    found, account = ours_of(source)
    convert_samples.check_equal(found, arrays)
    assert len(account.used) == 3 + 2 + 16 * ENCODER.num_hidden_layers + 2 + 7


def test_what_it_computes_is_googles(released):
    folder, arrays = released
    model = heads.build_pretrainer(ENCODER)
    assign.load(formats.open_source(folder), model)
    features = tiny.features()
    expected = reference.pretrainer(features, {n: a.astype(np.float64) for n, a in arrays.items()}, tiny.LAYERS, tiny.N)
    found = model(tiny.inputs(features))
    for name in expected:
        np.testing.assert_allclose(found[name], expected[name], atol=2e-5, err_msg=name)


def test_slots_of_the_optimizer_are_left_alone(tmp_path):
    arrays = convert_samples.numbers(ENCODER)
    slots = {f"{name}/{slot}": array for name, array in arrays.items() for slot in ("adam_m", "adam_v")}
    folder = write(tmp_path, {**arrays, **slots, "global_step": np.int64(7)}, prefix="model.ckpt-7")
    found, account = ours_of(formats.open_source(folder))
    convert_samples.check_equal(found, arrays)
    assert {name for name, _ in account.unused} == {*slots, "global_step"} and not account.left_over
    assert f"left alone, {len(slots) + 1}:" in account.text()


def test_reads_shards(tmp_path):
    arrays = convert_samples.numbers(ENCODER)
    folder = write(tmp_path / "whole", arrays)
    parts = []
    for k in range(3):
        part = {n: convert_samples.tensor(a) for i, (n, a) in enumerate(arrays.items()) if i % 3 == k}
        parts.append(str(tmp_path / f"part{k}"))
        bundles.write(parts[-1], part)
    for name in ("index", "data-00000-of-00001"):
        (tmp_path / f"whole/bert_model.ckpt.{name}").unlink()
    tf.raw_ops.MergeV2Checkpoints(
        checkpoint_prefixes=parts, destination_prefix=f"{folder}/bert_model.ckpt", delete_old_dirs=False
    )
    assert (tmp_path / "whole/bert_model.ckpt.data-00002-of-00003").exists()
    convert_samples.check_equal(ours_of(formats.open_source(folder))[0], arrays)
    (tmp_path / "whole/bert_model.ckpt.data-00001-of-00003").unlink()
    with pytest.raises(checks.InputError, match="a checkpoint must be whole"):
        ours_of(formats.open_source(folder))


def test_the_checkpoint_file_says_which_of_several(tmp_path):
    arrays = convert_samples.numbers(ENCODER)
    folder = write(tmp_path, arrays, prefix="model.ckpt-1")
    write(tmp_path, {n: a + 1 for n, a in arrays.items()}, prefix="model.ckpt-2")
    with pytest.raises(checks.InputError, match=r"model\.ckpt-1, model\.ckpt-2"):
        formats.open_source(folder)
    convert_samples.check_equal(ours_of(formats.open_source(f"{folder}/model.ckpt-1"))[0], arrays)
    (tmp_path / "checkpoint").write_text('model_checkpoint_path: "/gone/model.ckpt-1"\n')
    convert_samples.check_equal(ours_of(formats.open_source(folder))[0], arrays)
    (tmp_path / "checkpoint").write_text('model_checkpoint_path: "../../model.ckpt-3"\n')
    with pytest.raises(checks.InputError, match="one checkpoint"):
        formats.open_source(folder)


@pytest.mark.parametrize(
    "head, classes, theirs", [("classify", 4, "output_weights"), ("span", 0, "cls/squad/output_weights")]
)
def test_fine_tuned_heads(tmp_path, head, classes, theirs):
    source = convert_samples.source(head, classes, ENCODER)
    formats.convert(source, str(tmp_path / "out"), "google")
    assert theirs in dict(tf.train.list_variables(str(tmp_path / "out/bert_model.ckpt")))
    again = formats.open_source(str(tmp_path / "out"))
    assert (again.head, again.labels) == (head, source.labels)
    convert_samples.check_equal(ours_of(again)[0], convert_samples.arrays(source))


def test_what_is_written_is_what_tf1_writes(tmp_path, released):
    folder, arrays = released
    source = convert_samples.source(encoder_config=ENCODER)
    account = formats.convert(source, str(tmp_path / "out"), "google")
    ours, theirs = (tf.train.list_variables(f"{f}/bert_model.ckpt") for f in (tmp_path / "out", folder))
    assert ours == theirs and len(account.written) == len(ours)
    reader = tf.train.load_checkpoint(str(tmp_path / "out/bert_model.ckpt"))
    convert_samples.check_equal({n: reader.get_tensor(n) for n, _ in ours}, arrays)
    about = json.loads((tmp_path / "out/bert_config.json").read_text())
    assert about["hidden_act"] == "gelu" and about["hidden_size"] == tiny.D and "layer_norm_eps" not in about
    assert vocab_lib.load(str(tmp_path / "out")) == source.vocab
    # As google-research/bert restores them: into variables of these names.
    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        variables = {n: tf.compat.v1.get_variable(n, shape) for n, shape in theirs}
        tf.compat.v1.train.init_from_checkpoint(str(tmp_path / "out/bert_model.ckpt"), {n: n for n in variables})
        session.run(tf.compat.v1.global_variables_initializer())
        convert_samples.check_equal(session.run(variables), arrays)


def test_files_as_tf1_names_them(tmp_path):
    formats.convert(convert_samples.source(encoder_config=ENCODER), str(tmp_path / "out"), "google")
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == [
        "bert_config.json",
        "bert_model.ckpt.data-00000-of-00001",
        "bert_model.ckpt.index",
        "tokenizer.json",
        "vocab.txt",
    ]


@pytest.mark.parametrize(
    "overrides, name",
    [
        ({"hidden_act": "gelu_erf"}, "hidden_act=gelu_erf"),
        ({"layer_norm_eps": 1e-5}, "layer_norm_eps=1e-05"),
        ({"tie_word_embeddings": False}, "tie_word_embeddings=False"),
    ],
)
def test_what_googles_code_cannot_compute_is_left_over(tmp_path, overrides, name):
    source = convert_samples.source(encoder_config=tiny.config(**overrides))
    with pytest.raises(checks.InputError, match=f"config/{name} has no place"):
        formats.convert(source, str(tmp_path / "out"), "google")
    assert not (tmp_path / "out").exists()
    formats.convert(source, str(tmp_path / "out"), "google", ["config/*"])
    assert json.loads((tmp_path / "out/bert_config.json").read_text())["hidden_act"] == "gelu"


def test_electra(tmp_path):
    encoder = tiny.config(embedding_size=9)
    expected = convert_samples.numbers(encoder, "none")
    theirs = {
        name.replace("bert/encoder/embedding_hidden_mapping_in", "electra/embeddings_project").replace(
            "bert/", "electra/"
        ): a
        for name, a in expected.items()
        if "pooler" not in name
    }
    more = {"discriminator_predictions/dense/bias": np.ones(3, np.float32), "generator/x": np.ones(3, np.float32)}
    source = formats.open_source(write(tmp_path, {**theirs, **more}, encoder))
    assert source.head == "none" and source.layout == "google electra"
    with pytest.raises(checks.InputError, match="discriminator_predictions/dense/bias has no place"):
        ours_of(source)
    found, account = ours_of(source, allow_missing=["discriminator*", "generator*"])
    convert_samples.check_equal(found, {n: np.zeros_like(a) if "pooler" in n else a for n, a in expected.items()})
    assert len(account.derived) == 2


@pytest.mark.parametrize("groups", [1, 2])
def test_albert_gives_its_layer_to_every_layer_of_its_group(tmp_path, groups):
    encoder = tiny.config(embedding_size=9, num_hidden_layers=4)
    arrays = convert_samples.numbers(encoder)
    first = {g: g * 4 // groups for g in range(groups)}
    theirs, expected = {}, {}
    words = (
        ("attention/output/LayerNorm", "LayerNorm"),
        ("attention/", "attention_1/"),
        ("intermediate/dense", "ffn_1/intermediate/dense"),
        ("output/LayerNorm", "LayerNorm_1"),
    )
    for name, array in arrays.items():
        if "layer_" not in name:
            theirs[name] = expected[name] = array
            continue
        layer, rest = name.removeprefix("bert/encoder/layer_").split("/", 1)
        group = int(layer) * groups // 4
        expected[name] = arrays[f"bert/encoder/layer_{first[group]}/{rest}"]
        if rest.startswith("output/dense"):
            rest = f"ffn_1/intermediate/{rest}"
        for ours, other in words:
            if rest.startswith(ours):
                rest = rest.replace(ours, other)
                break
        theirs[f"bert/encoder/transformer/group_{group}/inner_group_0/{rest}"] = expected[name]
    folder = write(tmp_path, theirs, encoder, prefix="model.ckpt-best", num_hidden_groups=groups, inner_group_num=1)
    (tmp_path / "bert_config.json").rename(tmp_path / "albert_config.json")
    source = formats.open_source(folder)
    found, account = ours_of(source)
    convert_samples.check_equal(found, expected)
    assert not account.left_over
    about = json.loads((tmp_path / "albert_config.json").read_text())
    (tmp_path / "albert_config.json").write_text(json.dumps({**about, "inner_group_num": 2}))
    with pytest.raises(checks.InputError, match="inner_group_num=2"):
        formats.open_source(folder)


def test_damaged_checkpoints(tmp_path, released):
    folder = tmp_path / "copy"
    shutil.copytree(released[0], folder)
    data = folder / "bert_model.ckpt.data-00000-of-00001"
    whole = data.read_bytes()
    data.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(checks.InputError, match="a checkpoint must be whole"):
        ours_of(formats.open_source(str(folder)))
    data.write_bytes(whole[:1000] + bytes([whole[1000] ^ 1]) + whole[1001:])
    with pytest.raises(checks.InputError, match="a checkpoint must be whole"):
        ours_of(formats.open_source(str(folder)))
    (folder / "bert_model.ckpt.index").write_bytes(b"nonsense")
    with pytest.raises(checks.InputError, match="a checkpoint must be whole"):
        formats.open_source(str(folder))


def test_a_checkpoint_without_its_configuration(tmp_path):
    write(tmp_path, convert_samples.numbers(ENCODER))
    (tmp_path / "bert_config.json").unlink()
    with pytest.raises(checks.InputError, match=r"no bert_config\.json or albert_config\.json"):
        formats.open_source(str(tmp_path))


# The Model Garden: objects that are built here as its encoders are, and saved with tf.train.Checkpoint.


class Node(tf.Module):
    """An object of the graph: its attributes are given as {path: array}."""

    def __init__(self, arrays):
        super().__init__()
        below = {}
        for path, array in arrays.items():
            first, _, rest = path.partition("/")
            if rest:
                below.setdefault(first, {})[rest] = array
            else:
                setattr(self, first, tf.Variable(array))
        for name, parts in below.items():
            if all(part.partition("/")[0].isdecimal() for part in parts):
                count = 1 + max(int(part.partition("/")[0]) for part in parts)
                several = [
                    {p.partition("/")[2]: a for p, a in parts.items() if p.startswith(f"{i}/")} for i in range(count)
                ]
                setattr(self, name, [Node(one) for one in several])
            else:
                setattr(self, name, Node(parts))


def garden_arrays(arrays):
    """{path in the encoder: array} from {our name: array}."""
    words = (
        ("bert/embeddings/word_embeddings", "_embedding_layer/embeddings"),
        ("bert/embeddings/token_type_embeddings", "_type_embedding_layer/embeddings"),
        ("bert/embeddings/position_embeddings", "_position_embedding_layer/embeddings"),
        ("bert/embeddings/LayerNorm", "_embedding_norm_layer"),
        ("bert/encoder/layer_", "_transformer_layers/"),
        ("attention/self/query", "_attention_layer/_query_dense"),
        ("attention/self/key", "_attention_layer/_key_dense"),
        ("attention/self/value", "_attention_layer/_value_dense"),
        ("attention/output/dense", "_attention_layer/_output_dense"),
        ("attention/output/LayerNorm", "_attention_layer_norm"),
        ("intermediate/dense", "_intermediate_dense"),
        ("output/dense", "_output_dense"),
        ("output/LayerNorm", "_output_layer_norm"),
        ("bert/pooler/dense", "_pooler_layer"),
        ("cls/predictions/transform/dense", "masked_lm/dense"),
        ("cls/predictions/transform/LayerNorm", "masked_lm/layer_norm"),
    )
    theirs = {}
    for name, array in arrays.items():
        for kind in ("query", "key", "value"):
            if f"/self/{kind}/" in name:
                array = array.reshape((-1, tiny.N, tiny.H) if array.ndim == 2 else (tiny.N, tiny.H))
        if name.endswith("attention/output/dense/kernel"):
            array = array.reshape(tiny.N, tiny.H, -1)
        for ours, other in words:
            name = name.replace(ours, other)
        theirs[name] = array
    return theirs


def write_garden(folder, **parts):
    folder.mkdir(exist_ok=True)
    tf.train.Checkpoint(**parts).write(str(folder / "bert_model.ckpt"))
    content = {k: v for k, v in config.to_dict(ENCODER).items() if k not in google.FIXED and v is not None}
    (folder / "bert_config.json").write_text(json.dumps(content))
    return str(folder)


@pytest.mark.parametrize("root", ["model", "encoder"])
def test_garden_encoder(tmp_path, root):
    arrays = convert_samples.numbers(ENCODER, "none")
    source = formats.open_source(write_garden(tmp_path, **{root: Node(garden_arrays(arrays))}))
    assert (source.kind, source.head) == ("garden", "none")
    found, account = ours_of(source)
    convert_samples.check_equal(found, arrays)
    assert [name for name, _ in account.unused] == ["_CHECKPOINTABLE_OBJECT_GRAPH"]
    assert f"{root}/_transformer_layers/{{0..1}}/_attention_layer/_query_dense/kernel" in account.text()


def test_garden_functional_encoder(tmp_path):
    arrays = convert_samples.numbers(ENCODER, "none")
    layers = {
        "_embedding_layer": 0,
        "_position_embedding_layer": 1,
        "_type_embedding_layer": 2,
        "_embedding_norm_layer": 3,
        "_pooler_layer": 4 + tiny.LAYERS,
    }
    theirs = {}
    for name, array in garden_arrays(arrays).items():
        first, _, rest = name.partition("/")
        if first == "_transformer_layers":
            number, _, rest = rest.partition("/")
            first = f"layer_with_weights-{int(number) + 4}"
        else:
            first = f"layer_with_weights-{layers[first]}"
        theirs[f"{first}/{rest}"] = array
    found, _ = ours_of(formats.open_source(write_garden(tmp_path, model=Node(theirs))))
    convert_samples.check_equal(found, arrays)


def test_garden_pretrainer_has_its_trained_pooler_in_the_head(tmp_path):
    arrays = convert_samples.numbers(ENCODER, "pretraining")
    theirs = garden_arrays({n: a for n, a in arrays.items() if not n.startswith(("cls/", "bert/pooler"))})
    encoder = Node(theirs | {f"_pooler_layer/{n}": np.ones(3, np.float32) for n in ("kernel", "bias")})
    head = Node({n: a for n, a in garden_arrays(arrays).items() if n.startswith("masked_lm/")}).masked_lm
    setattr(head, "output_bias/bias", tf.Variable(arrays["cls/predictions/output_bias"]))  # an attribute with a slash
    head.embedding_table = encoder._embedding_layer.embeddings  # one variable: saved once, under the shorter path
    pooler = Node({n: arrays[f"bert/pooler/dense/{n}"] for n in ("kernel", "bias")})
    folder = write_garden(tmp_path, **{"encoder": encoder, "masked_lm": head, "next_sentence.pooler_dense": pooler})
    source = formats.open_source(folder)
    assert "masked_lm/embedding_table/.ATTRIBUTES/VARIABLE_VALUE" in source.tensors
    tensors, account = assign.match(source, names.shapes(ENCODER, "pretraining"), ["cls/seq_relationship/*"])
    expected = {n: a for n, a in arrays.items() if "seq_relationship" not in n}
    convert_samples.check_equal(convert_samples.arrays(tensors), expected)
    assert sum("_pooler_layer" in name for name, _ in account.unused) == 2
