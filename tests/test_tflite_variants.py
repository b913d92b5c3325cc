"""Tests of the kinds of .tflite: float16, full int8, ids in, several signatures; and of ai-edge-litert."""

import json
import os
import shutil
import zipfile

import numpy as np
import pytest
import tensorflow as tf

from export import accuracy, flatbuffer, inspect, int8, loaders, parity, real_inputs, tflite
from tests import reference, tiny, tiny_records, tiny_run, tiny_tasks
from tfbert import checks, heads, run_folder
from tfbert.loop import checkpoints
from tfbert.tasks import kinds
from tfbert.text import vocab as vocab_lib

pytestmark = pytest.mark.slow  # whole programs

# TFLite leaves matrices of fewer than 1,024 elements as they are.
WIDE = {"hidden_size": 36, "intermediate_size": 52}
K, LENGTH = 3, 19
TEXTS = ["the lazy fox returns", "of a list, warm up", "the [MASK] of the mask.", "un dogs able word", ""]


def spread(model):
    """Gives a model weights of which a few are far larger, as real ones have them."""
    tiny.randomize(model, scale=0.12)
    for v in model.variables:
        if v.path.endswith("output/dense/bias") and "attention" not in v.path:
            v.assign(np.where(np.arange(v.shape[0]) == 5, 60.0, np.asarray(v)))
    return model


@pytest.fixture(scope="module")
def masked(tmp_path_factory):
    """A pre-trained run folder, and its records: `[MASK]`s, other words, and what stays."""
    folder, vocab = tmp_path_factory.mktemp("masked"), tiny_run.vocab()
    config = tiny.config(**WIDE)
    pretrain = {"max_seq_length": tiny.L, "max_predictions_per_seq": tiny.P, "input_file": [f"{folder}/train-*"]}
    run_folder.create(f"{folder}/run", config, vocab, {"pretrain": pretrain, "records": {"max_seq_length": LENGTH}})
    checkpoints.Checkpoints(f"{folder}/run", spread(heads.build_pretrainer(config))).save(tiny_run.STEP)
    words = [i for i, t in enumerate(vocab.tokens) if t.isalpha() and t.islower() and len(t) > 2]
    batch, rng = tiny.features(3, 70), np.random.default_rng(3)
    batch["input_ids"] = np.where(batch["input_mask"] > 0, rng.choice(words, batch["input_ids"].shape), vocab.pad_id)
    batch["masked_lm_ids"] = rng.choice(words, batch["masked_lm_ids"].shape)
    for ids, positions, weights in zip(*(batch[n] for n in ("input_ids", "masked_lm_positions", "masked_lm_weights"))):
        slots = np.flatnonzero(weights > 0)
        ids[positions[slots[:-1]]] = vocab.mask_id  # the last of them is masked by another word
    tiny_records.write(f"{folder}/train-0.tfrecord", batch)
    return str(folder), batch


@pytest.fixture(scope="module")
def classify(tmp_path_factory):
    """A fine-tuned run folder, and the file of examples that it says it was trained on."""
    folder = tmp_path_factory.mktemp("classify")
    with open(folder / "train.csv", "w", encoding="utf-8") as f:
        f.write("text,label\n" + "".join(f'"{t}",{["animal", "thing"][i % 2]}\n' for i, t in enumerate(TEXTS[:4] * 5)))
    about = {**tiny_tasks.ABOUT["classify"], "label_column": "label"}
    more = {"finetune": {"train_file": str(folder / "train.csv")}, "records": {"max_seq_length": LENGTH}, "task": about}
    config = tiny.config(**WIDE)
    run = run_folder.create(f"{folder}/run", config, tiny_run.vocab(), more)
    checkpoints.Checkpoints(f"{folder}/run", spread(kinds.of_run(run).build_model(config, False))).save(3)
    return str(folder)


@pytest.fixture(scope="module")
def files(classify):
    """{kind: path} of a classifier's variants, with two signatures."""
    cfg = tflite.TFLiteConfig(
        f"{classify}/run",
        f"{classify}/bert.tflite",
        "none,float16,dynamic,full",
        signatures=("serving_default", "embed"),
    )
    assert list(tflite.run(cfg)) == list(cfg.files.values())
    return cfg.files


def about(path):
    with open(path.removesuffix(".tflite") + ".parity.json", encoding="utf-8") as f:
        return json.load(f)


def weights(path, kind):
    """How many elements the tensors of a file have that hold constants of a type."""
    with open(path, "rb") as f:
        model = flatbuffer.read(f.read())
    return sum(len(model.buffers[t.buffer].data) for g in model.subgraphs for t in g.tensors
               if t.type == kind and model.buffers[t.buffer].data is not None)  # fmt: skip


def dense_types(path):
    """The types of what the dense layers of a file take, from the first signature."""
    with open(path, "rb") as f:
        model = flatbuffer.read(f.read())
    graph = model.subgraphs[flatbuffer.graph_of(model, "serving_default")]
    code = int8.schema.BuiltinOperator.FULLY_CONNECTED
    layers = [o for o in graph.operators if flatbuffer.code(model, o) == code]
    return [graph.tensors[o.inputs[0]].type for o in layers]


def test_kinds(files):
    """Each is what it is called; scores lie the nearer to the run folder's the more bits there are."""
    types = int8.schema.TensorType
    names = {"none": "bert", "float16": "bert.float16", "dynamic": "bert.dynamic", "full": "bert.full"}
    assert {k: os.path.basename(p) for k, p in files.items()} == {k: f"{n}.tflite" for k, n in names.items()}
    told = {kind: about(path) for kind, path in files.items()}
    assert [t["kind"] for t in told.values()] == list(files)
    assert weights(files["float16"], types.FLOAT16) > 10000 > weights(files["float16"], types.INT8)
    assert weights(files["dynamic"], types.INT8) > 10000 and types.INT8 not in dense_types(files["dynamic"])
    layers = dense_types(files["full"])
    assert layers.count(types.INT8) >= 6 * tiny.LAYERS - 2 and layers.count(types.FLOAT32) >= 2
    assert told["full"]["calibration"] == {"rows": 20, "int8_layers": 2 * layers.count(types.INT8)}
    found = [t["loaders"]["tflite_interpreter"]["serving_default"] for t in told.values()]
    far = [d["max_log_probability_difference"] for d in found]
    assert far[0] < 2e-5 < far[1] < 0.02 and far[1] < far[2] and far[3] < 1


def test_one_scale_for_each_element_that_a_layer_gives(classify, files):
    """One element is some hundred times as large as others, which is why there is a scale for each."""
    model = loaders.Lite(files["none"])
    small = {kind: loaders.Lite(path) for kind, path in files.items()}
    texts = [text.encode() for text in TEXTS[:4]]
    expected = np.concatenate([model.run(signature="embed", text=[t])["embedding"] for t in texts])
    for kind in ("dynamic", "full"):
        found = np.concatenate([small[kind].run(signature="embed", text=[t])["embedding"] for t in texts])
        assert np.abs(found - expected).max() < 0.12 * np.abs(expected).max(), kind


def test_a_padded_row_answers_as_alone(files):
    """The additive mask blocks what is padding in full int8 too."""
    model = loaders.Lite(files["full"])
    several = model.run(text=[TEXTS[0], "the " * 16])
    alone = model.run(text=[TEXTS[0]])
    assert several["labels"][0].tolist() == alone["labels"][0].tolist()
    np.testing.assert_allclose(several["probabilities"][0], alone["probabilities"][0], atol=1e-5)


@pytest.mark.parametrize("kind", ["none", "full"])
def test_signatures_share_their_weights(files, kind):
    """Nothing is in a file twice."""
    with open(files[kind], "rb") as f:
        model = flatbuffer.read(f.read())
    stored = [bytes(b.data) for b in model.buffers if b.data is not None and len(b.data)]
    assert sum(map(len, set(stored))) == sum(map(len, stored)) > 10000
    assert list(loaders.Lite(files[kind]).signatures()) == ["embed", "serving_default"]


def test_sharing_keeps_answers_and_frees_what_is_there_twice(files):
    with open(files["dynamic"], "rb") as f:
        content = f.read()
    model = flatbuffer.read(content)
    for graph in model.subgraphs:
        for tensor in graph.tensors:
            if tensor.type == int8.schema.TensorType.INT8 and model.buffers[tensor.buffer].data is not None:
                tensor.buffer = flatbuffer.add_buffer(model, model.buffers[tensor.buffer].data)
    twice = flatbuffer.write(model)
    again = flatbuffer.share(twice)
    assert len(twice) > len(content) + 10000 and abs(len(again) - len(content)) < 2000
    expected, found = (loaders.Lite(content=c).run(text=TEXTS)["probabilities"] for c in (content, again))
    np.testing.assert_array_equal(found, expected)


@pytest.fixture(scope="module")
def ids_file(masked):
    """A file of ids of the pre-trained run, float32; beside it lies full int8."""
    path, records = f"{masked[0]}/ids.tflite", 9
    tflite.run(
        tflite.TFLiteConfig(f"{masked[0]}/run", path, "none,full", top_k=K, inputs="ids", calibration_examples=records)
    )
    return path


@pytest.fixture
def unproven(monkeypatch):
    """Exports are not compared: other tests are about that."""
    monkeypatch.setattr(
        tflite, "check", lambda path, proofs, tolerance: ({"tflite_interpreter": {name: {} for name in proofs}}, [])
    )


class TestIds:
    def test_needs_no_op_from_elsewhere(self, ids_file):
        interpreter = tf.lite.Interpreter(ids_file)  # knows TFLite's own ops and no others
        assert list(interpreter.get_signature_list()) == ["from_ids"]
        assert [op for op in loaders.Lite(ids_file).ops() if op != op.upper()] == []

    def test_the_vocabulary_is_read_back_and_the_answer_is_the_references(self, ids_file, masked):
        """As a program does it that has the file and nothing else: words -> ids -> model -> words."""
        with zipfile.ZipFile(ids_file) as archive:
            assert archive.namelist() == ["vocab.txt", "tokenizer.json"] and archive.testzip() is None
            tokens = archive.read("vocab.txt").decode().splitlines()
            how = json.loads(archive.read("tokenizer.json"))
        assert how["do_lower_case"] is True and how["max_seq_length"] == LENGTH
        ids = [tokens.index(t) for t in ("[CLS]", "the", "[MASK]", "dog", "returns", "[SEP]")]
        row = np.array([[*ids, *[tokens.index("[PAD]")] * 4]], np.int32)
        features = {"input_ids": row, "input_mask": (np.arange(10) < 6)[None].astype(np.int32), "segment_ids": 0 * row}
        found = tf.lite.Interpreter(ids_file).get_signature_runner("from_ids")(**features)
        model, _, _ = run_folder.load_pretrainer(f"{masked[0]}/run")
        outputs = reference.pretrainer(
            {"input_ids": row[:, :6], "input_mask": np.ones([1, 6], int), "segment_ids": np.zeros([1, 6], int),
             "masked_lm_positions": np.array([[2]])}, tiny.weights(model), tiny.LAYERS, tiny.N)  # fmt: skip
        expected = reference.softmax(outputs["masked_lm_logits"][0, 0])
        assert found["positions"].tolist() == [[2]]
        assert found["ids"][0, 0].tolist() == np.argsort(-expected)[:K].tolist()
        np.testing.assert_allclose(found["probabilities"][0, 0], np.sort(expected)[::-1][:K], atol=1e-5)
        assert found["tokens"][0, 0, 0].decode() == tokens[found["ids"][0, 0, 0]]

    def test_the_archive_has_no_clock_in_it(self, ids_file):
        with zipfile.ZipFile(ids_file) as archive:
            assert {i.date_time for i in archive.infolist()} == {(1980, 1, 1, 0, 0, 0)}

    def test_inspect_tells_of_the_archive_and_its_size(self, ids_file):
        told = inspect.of_tflite(ids_file)
        assert told["associated_files"] == ["vocab.txt", "tokenizer.json"] and told["checksums"] == "verified"
        assert "  associated files: vocab.txt, tokenizer.json" in list(inspect.lines(told))


def ids_of(folder):
    """The inputs of a row that says nothing."""
    vocab = vocab_lib.load(f"{folder}/run")
    row = np.array([[vocab.cls_id, vocab.sep_id]], np.int32)
    return {"input_ids": row, "input_mask": 0 * row + 1, "segment_ids": 0 * row}


class TestAccuracy:
    def test_of_a_task(self, classify, files, capsys):
        """All files say what the run folder says, or little else; the lines are JSON."""
        cfg = accuracy.AccuracyConfig(f"{classify}/run", f"{classify}/train.csv", tuple(files.values()))
        found = accuracy.run(cfg)
        assert [json.loads(line)["kind"] for line in capsys.readouterr().out.splitlines()] == ["run folder", *files]
        whole, plain = found[:2]
        assert whole["metric"] == "accuracy" and whole["examples"] == 20 and whole["value"] == plain["value"]
        assert plain["points"] == 0 and plain["bytes"] == os.path.getsize(files["none"])
        for line in found[1:]:
            assert line["points"] == pytest.approx(100 * (line["value"] - whole["value"]))

    def test_a_file_of_other_weights_scores_otherwise(self, classify, tmp_path, unproven):
        """Its answers are scored, and not the run folder's. The labels are in the archive of ids."""
        run = run_folder.read(f"{classify}/run")
        folder = str(tmp_path / "run")
        config = tiny.config(num_hidden_layers=1)
        run_folder.create(folder, config, run.vocab, {n: run.config[n] for n in ("finetune", "records", "task")})
        model = spread(kinds.of_run(run).build_model(config, False))
        (bias,) = [v for v in model.variables if v.shape == (3,)]
        bias.assign([50.0, -50.0, -50.0])  # the label of every second example
        checkpoints.Checkpoints(folder, model).save(3)
        for inputs in ("text", "ids"):
            path = str(tmp_path / f"{inputs}.tflite")
            tflite.run(tflite.TFLiteConfig(folder, path, inputs=inputs))
            found = accuracy.run(accuracy.AccuracyConfig(f"{classify}/run", f"{classify}/train.csv", (path,)))
            assert found[0]["value"] < 0.5 == found[1]["value"] and found[1]["points"] == 50 - 100 * found[0]["value"]
            assert found[1]["inputs"] == inputs
        with zipfile.ZipFile(path) as archive:
            assert archive.read("labels.txt") == b"animal\nthing\nplace\n"

    def test_of_masks(self, masked, ids_file, tmp_path, unproven):
        folder, batch = masked
        of_text, full = str(tmp_path / "text.tflite"), ids_file.replace(".tflite", ".full.tflite")
        tflite.run(tflite.TFLiteConfig(f"{folder}/run", of_text))
        assert about(full)["calibration"]["rows"] == 9
        cfg = accuracy.AccuracyConfig(f"{folder}/run", f"{folder}/train-*", (of_text, ids_file, full))
        *whole, text, ids, small = accuracy.run(cfg)
        assert [w["inputs"] for w in whole] == ["ids", "text"] and small["kind"] == "full"
        masks = int((batch["input_ids"] == tiny_run.vocab().mask_id).sum())
        assert {line["masks"] for line in (*whole, text, ids, small)} == {masks}
        assert text["points"] == ids["points"] == 0 and abs(small["points"]) < 10
        answers = [record.answers for record in real_inputs.records(run_folder.read(cfg.run_dir), cfg.test_file)]
        assert sum(map(len, answers)) == masks
        model, _, _ = run_folder.load_pretrainer(cfg.run_dir)
        logits = parity.in_batches(
            model, {n: batch[n] for n in ("input_ids", "input_mask", "segment_ids", "masked_lm_positions")}
        )
        at = np.take_along_axis(batch["input_ids"], batch["masked_lm_positions"], 1) == tiny_run.vocab().mask_id
        at &= batch["masked_lm_weights"] > 0
        right = logits["masked_lm_logits"].argmax(-1) == batch["masked_lm_ids"]
        assert ids["value"] == pytest.approx((right & at).sum() / at.sum())

    def test_bad_input(self, files, tmp_path):
        with pytest.raises(checks.InputError, match="--tflite must be given; got none"):
            accuracy.AccuracyConfig("a", "b")
        run = tiny_tasks.make(tmp_path / "tag", "tag")
        path = shutil.copy(files["none"], tmp_path)  # any that takes texts
        about_path = shutil.copy(files["none"].replace(".tflite", ".parity.json"), tmp_path)
        (tmp_path / "test.txt").write_text("the O\nfox B-animal\n", encoding="utf-8")
        cfg = accuracy.AccuracyConfig(run, str(tmp_path / "test.txt"), (path,))
        with pytest.raises(checks.InputError, match="if it labels or scores texts; got one of the task tag"):
            accuracy.run(cfg)
        os.remove(about_path)
        with pytest.raises(checks.InputError, match=r"must have its parity\.json"):
            accuracy.run(cfg)


def test_tags_are_scored_from_ids(tmp_path, unproven):
    run = tiny_tasks.make(tmp_path / "tag", "tag")
    path = str(tmp_path / "tag.tflite")
    tflite.run(tflite.TFLiteConfig(run, path, inputs="ids"))
    (tmp_path / "test.txt").write_text("the O\nfox B-animal\n\nlazy O\ndogs B-animal\n\n" * 3, encoding="utf-8")
    whole, file = accuracy.run(accuracy.AccuracyConfig(run, str(tmp_path / "test.txt"), (path,)))
    assert file["points"] == 0 and whole["value"] == file["value"] and whole["examples"] == 6


def test_litert(files, masked, ids_file):
    """ai-edge-litert answers as TensorFlow's interpreter does, texts and ids; parity.json tells of both."""
    if not loaders.has_litert():
        pytest.skip("ai-edge-litert is not installed: pip install -r requirements-litert.txt")
    for path in files.values():
        assert set(about(path)["loaders"]) == {"tflite_interpreter", "litert_interpreter"}
        ours, theirs = (loaders.Lite(path, litert=litert).run(text=TEXTS) for litert in (False, True))
        assert ours["labels"].tolist() == theirs["labels"].tolist()
        np.testing.assert_allclose(ours["probabilities"], theirs["probabilities"], atol=1e-5)
    from ai_edge_litert import interpreter

    found = interpreter.Interpreter(ids_file).get_signature_runner("from_ids")(**ids_of(masked[0]))
    assert found["ids"].shape == (1, 1, K)


def test_without_litert(monkeypatch, files):
    monkeypatch.setattr(loaders, "has_litert", lambda: False)
    assert set(tflite.check(files["none"], {})[0]) == {"tflite_interpreter"}
    with pytest.raises(checks.InputError, match=r"ai-edge-litert must be installed; got it is not\. pip install -r"):
        loaders.Lite(files["none"], litert=True)


def test_full_int8_without_padding(classify, files, tmp_path):
    """The scales of the dense layers are found where tokens alone go through them, and a batch is answered the same."""
    output = str(tmp_path / "bert.tflite")
    tflite.run(tflite.TFLiteConfig(f"{classify}/run", output, "full", remove_padding=True))
    found, padded = (loaders.Lite(path).run(text=TEXTS) for path in (output, files["full"]))
    np.testing.assert_allclose(found["probabilities"], padded["probabilities"], atol=0.02)
    with open(output.replace(".tflite", ".parity.json"), encoding="utf-8") as f:
        about = json.load(f)
    assert about["settings"]["remove_padding"] and about["calibration"]["int8_layers"] > 0


def test_bad_flags(classify, masked, tmp_path):
    def config(*args, run=classify, **more):
        return tflite.TFLiteConfig(f"{run}/run", str(tmp_path / "x.tflite"), *args, **more)

    for more, words in [
        ({"quantize": "int4"}, "quantize must be some of none, float16, dynamic, full, each once; got quantize='int4'"),
        ({"quantize": "none,none"}, "each once; got quantize='none,none'"),
        ({"signatures": ("choose",)}, "signatures must be some of serving_default, embed, .*; got signatures='choose'"),
        ({"signatures": ("embed",), "inputs": "ids"}, "signatures must be left out .*; got signatures=embed"),
        ({"remove_padding": True, "inputs": "ids"}, "remove_padding must be left out .*; got inputs=ids"),
        ({"calibration_examples": 0}, "calibration_examples must be at least 1"),
    ]:
        with pytest.raises(checks.InputError, match=words):
            config(**more)
    for more, words in [
        ({"calibration_file": str(tmp_path / "none.csv")}, "none.csv"),
        ({"run": masked[0], "calibration_file": str(tmp_path / "none-*")}, "none-"),
    ]:
        with pytest.raises(checks.InputError, match=words):
            tflite.run(config("full", **more))
    small = tiny_run.make(tmp_path / "small" / "run") and str(tmp_path / "small")
    with pytest.raises(
        checks.InputError, match=r"needs real texts to take its scales from; got none .*calibration_file"
    ):
        tflite.run(config("full", run=small))
    assert [n for n in os.listdir(tmp_path) if n.endswith(".tflite")] == []


def test_a_model_without_8_bit_layers_is_refused():
    """As the tiny models of other tests are, whose matrices TFLite leaves alone."""
    layer = tf.function(lambda x: {"y": x @ tf.ones([4, 4])}, input_signature=[tf.TensorSpec([None, 4], name="x")])
    converter = tf.lite.TFLiteConverter.from_concrete_functions([layer.get_concrete_function()], tf.Module())
    with pytest.raises(checks.InputError, match="needs dense layers of 8-bit weights in the encoder; got none"):
        int8.quantize(converter.convert(), {"serving_default": [{"x": np.ones([1, 4], np.float32)}]})
