"""Tests of tfbert.extract_features."""

import json
import os

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests import reference, tiny, tiny_run, wordpiece
from tests.tiny import LAYERS, D, N
from tfbert import checks, extract_features, heads, run_folder
from tfbert.convert import formats
from tfbert.loop import checkpoints
from tfbert.watching import progress

LENGTH = tiny_run.MAX_SEQ_LENGTH
# Of different lengths, so that sorting moves them and rows are padded; the last lacks its end of line.
LINES = [
    b"the lazy dog returns a word of the list.",
    b"dog",
    b"  the fox ||| lazy dogs !  ",
    b"",
    b"a ||| b ||| c",
    b"word " * 30,
    b"of [MASK] caf\xc3\xa9",
    b"fox ||| " + b"list " * 30,
    b"|||",
    b"the \xff dog\tof",
    b"mask ||| ",
]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """(folder of a run, its model, a file of LINES)."""
    folder = tmp_path_factory.mktemp("run")
    model = tiny_run.make(folder / "run")
    (folder / "lines.txt").write_bytes(b"\n".join(LINES))
    return str(folder / "run"), model, str(folder / "lines.txt")


@pytest.fixture(scope="module")
def means(run, tmp_path_factory):
    """The embeddings of LINES: means of the last layer."""
    folder = tmp_path_factory.mktemp("means")
    extract_features.run(flags(run, folder, pooling="mean"))
    return np.load(folder / "out")


def flags(run, folder, **overrides):
    fields = {
        "run_dir": run[0],
        "input_file": run[2],
        "output_file": str(folder / "out"),
        "max_seq_length": LENGTH,
        "batch_size": 3,
    }
    return extract_features.ExtractConfig(**{**fields, **overrides})


def packed(line):
    """([CLS] A [SEP] B [SEP], segments) of a line, in plain Python."""
    vocab = tiny_run.vocab()
    parts = line.strip().rsplit(b" ||| ", 1)
    # What is not UTF-8 is [UNK], as is a word that nothing spells.
    texts = [part.decode("utf-8", "replace").replace("\ufffd", "\u2603") for part in parts]
    rows = [wordpiece.tokenize(text, vocab) for text in texts]
    if len(rows) == 1:
        ids = [vocab.cls_id, *rows[0][: LENGTH - 2], vocab.sep_id]
        return ids, [0] * len(ids)
    a, b = rows
    while len(a) + len(b) > LENGTH - 3:
        (a if len(a) > len(b) else b).pop()
    return [vocab.cls_id, *a, vocab.sep_id, *b, vocab.sep_id], [0] * (len(a) + 2) + [1] * (len(b) + 1)


def expected_states(model, line):
    """(ids, [a float64 [T, D] for each layer]) of the reference."""
    ids, segments = packed(line)
    features = {"input_ids": np.array([ids]), "input_mask": np.ones((1, len(ids))), "segment_ids": np.array([segments])}
    states = reference.hidden_states(features, tiny.weights(model), LAYERS, N)[1:]
    return ids, [layer[0] for layer in states]


def read(path):
    with open(path, encoding="utf-8") as f:
        return [json.loads(line) for line in f]


class TestJsonLines:
    @pytest.mark.slow
    def test_equals_reference(self, run, tmp_path):
        assert extract_features.run(flags(run, tmp_path, layers=("-1", "0", "1"))) == len(LINES)
        found = read(tmp_path / "out")
        assert [line["linex_index"] for line in found] == list(range(len(LINES)))
        for line, text in zip(found, LINES):
            ids, states = expected_states(run[1], text)
            assert set(line) == {"linex_index", "features"}
            assert [f["token"] for f in line["features"]] == [tiny_run.vocab().tokens[i] for i in ids], text
            for t, feature in enumerate(line["features"]):
                assert [layer["index"] for layer in feature["layers"]] == [-1, 0, 1]
                for layer in feature["layers"]:
                    np.testing.assert_allclose(layer["values"], states[layer["index"]][t], atol=2e-5, err_msg=text)
                    assert all(round(x, 6) == x for x in layer["values"])
        assert os.listdir(tmp_path) == ["out"]

    @pytest.mark.slow
    def test_default_is_the_last_layers_that_there_are(self, run, tmp_path):
        extract_features.run(flags(run, tmp_path))
        indices = [layer["index"] for layer in read(tmp_path / "out")[0]["features"][0]["layers"]]
        assert indices == [-1, -2]  # of two layers; -1,-2,-3,-4 of four or more

    @pytest.mark.slow
    def test_batches_do_not_matter(self, run, tmp_path):
        extract_features.run(flags(run, tmp_path, layers=("-1",), batch_size=1))
        one = read(tmp_path / "out")
        extract_features.run(flags(run, tmp_path, layers=("-1",), batch_size=100))
        for a, b in zip(one, read(tmp_path / "out"), strict=True):
            for x, y in zip(a["features"], b["features"], strict=True):
                np.testing.assert_allclose(x["layers"][0]["values"], y["layers"][0]["values"], atol=2e-6)


REDUCE = {"mean": lambda h: h.mean(0), "cls": lambda h: h[0], "max": lambda h: h.max(0)}


class TestEmbeddings:
    @pytest.mark.parametrize("pooling", extract_features.POOLING)
    @pytest.mark.parametrize("layers, normalize", [((), False), pytest.param(("0",), True, marks=pytest.mark.slow)])
    def test_equals_reference(self, run, tmp_path, pooling, layers, normalize):
        extract_features.run(flags(run, tmp_path, pooling=pooling, layers=layers, normalize=normalize))
        found = np.load(tmp_path / "out")
        assert found.shape == (len(LINES), D) and found.dtype == np.float32
        for row, line in zip(found, LINES, strict=True):
            want = REDUCE[pooling](expected_states(run[1], line)[1][0 if layers else -1])
            want = want / np.linalg.norm(want) if normalize else want
            np.testing.assert_allclose(row, want, atol=2e-5, err_msg=line)

    @pytest.mark.slow
    @pytest.mark.parametrize("sorted_batches", [1, 2, 3])
    def test_rows_are_in_the_order_of_the_lines(self, run, means, tmp_path, monkeypatch, sorted_batches):
        monkeypatch.setattr(extract_features, "SORTED_BATCHES", sorted_batches)
        extract_features.run(flags(run, tmp_path, pooling="mean", batch_size=2))
        np.testing.assert_allclose(np.load(tmp_path / "out"), means, atol=1e-6)

    @pytest.mark.slow
    def test_progress(self, run, tmp_path, monkeypatch, capsys):
        said = []
        monkeypatch.setattr(progress.WorkLine, "__call__", lambda line, *given: said.append(given))
        extract_features.run(flags(run, tmp_path, pooling="mean"))
        assert said[-1][1:] == (len(LINES), len(LINES)) and f"{len(LINES)} of {len(LINES)} lines" in said[-1][0]
        assert capsys.readouterr().out == f"{tmp_path}/out: {len(LINES)} embeddings of {D} numbers\n"


@pytest.mark.slow
class TestWeights:
    """The same numbers from every format, whatever head the weights have."""

    @pytest.mark.parametrize("kind", ["google", "huggingface"])
    def test_formats(self, run, tmp_path, means, kind):
        formats.convert(formats.open_source(run[0]), str(tmp_path / "there"), kind)
        extract_features.run(flags(run, tmp_path, run_dir="", init_checkpoint=str(tmp_path / "there"), pooling="mean"))
        np.testing.assert_array_equal(np.load(tmp_path / "out"), means)

    def test_a_classifier(self, run, tmp_path, means):
        """A run folder with that head: its encoder is the run's."""
        model = heads.build_classifier(tiny.config(), 3)
        ours = {v.path: v for v in run[1].variables}
        for v in model.variables:
            v.assign(ours[v.path] if v.path in ours else keras.ops.ones(v.shape))
        about = {"convert": {"labels": ["a", "b", "c"]}}
        run_folder.create(str(tmp_path / "run"), tiny.config(), tiny_run.vocab(), about)
        checkpoints.Checkpoints(str(tmp_path / "run"), model).save(3)
        for path in (tmp_path / "run", tmp_path / "run" / "ckpt-3"):
            extract_features.run(flags(run, tmp_path, run_dir=str(path), pooling="mean"))
            np.testing.assert_array_equal(np.load(tmp_path / "out"), means)

    def test_without_pooler(self, run, tmp_path, means):
        """A masked language model of Hugging Face's has none."""
        source = formats.open_source(run[0])
        kept = {n: t for n, t in source.tensors.items() if "pooler" not in n and "seq_relationship" not in n}
        formats.convert(source._replace(tensors=kept, head="masked_lm"), str(tmp_path / "there"), "huggingface")
        extract_features.run(flags(run, tmp_path, run_dir="", init_checkpoint=str(tmp_path / "there"), pooling="mean"))
        np.testing.assert_array_equal(np.load(tmp_path / "out"), means)

    def test_case_of_googles_folders(self, run, tmp_path, means):
        """They may leave it open."""
        formats.convert(formats.open_source(run[0]), str(tmp_path / "there"), "google")
        os.remove(tmp_path / "there" / "tokenizer.json")
        google = {"run_dir": "", "init_checkpoint": str(tmp_path / "there"), "layers": ("-1",)}
        (tmp_path / "cased").write_text("The dog")
        for case, token in ((None, "the"), (True, "the"), (False, "[UNK]")):
            cased = flags(run, tmp_path, input_file=str(tmp_path / "cased"), do_lower_case=case, **google)
            extract_features.run(cased)
            assert read(tmp_path / "out")[0]["features"][1]["token"] == token

    def test_encoder_that_is_not_whole(self, run, tmp_path):
        source = formats.open_source(run[0])
        kept = {n: t for n, t in source.tensors.items() if "layer_1/output" not in n}
        formats.convert(source._replace(tensors=kept), str(tmp_path / "there"), "google", ("*layer_1/output*",))
        checkpoint = tf.train.load_checkpoint(str(tmp_path / "there" / "bert_model.ckpt"))
        names = [n for n in checkpoint.get_variable_to_shape_map() if "layer_1/output" not in n]
        tf.raw_ops.SaveV2(
            prefix=str(tmp_path / "there" / "bert_model.ckpt"),
            tensor_names=names,
            shape_and_slices=[""] * len(names),
            tensors=[tf.constant(checkpoint.get_tensor(n)) for n in names],
        )
        google = {"run_dir": "", "init_checkpoint": str(tmp_path / "there")}
        with pytest.raises(checks.InputError, match="layer_1/output/dense/kernel is not in the file"):
            extract_features.run(flags(run, tmp_path, **google))
        with pytest.raises(
            checks.InputError, match="the encoder's weights must be there; got none for bert/encoder/lay"
        ):
            extract_features.run(flags(run, tmp_path, allow_missing=("bert/*",), **google))
        # What is not needed need not be there.
        extract_features.run(flags(run, tmp_path, allow_missing=("bert/*",), layers=("0",), **google))


class TestProjector:
    @pytest.mark.slow
    def test_the_points_are_the_embeddings(self, run, tmp_path):
        folder = tmp_path / "projector"
        for _ in range(2):  # the same command again
            extract_features.run(flags(run, tmp_path, pooling="mean", projector_dir=str(folder)))
        points = tf.train.load_checkpoint(str(folder)).get_tensor("sentence_embeddings")
        np.testing.assert_array_equal(points, np.load(tmp_path / "out"))
        labels = (folder / "metadata.tsv").read_text().split("\n")
        assert labels.pop() == "" and len(labels) == len(LINES)
        assert labels[3] == "(empty line)" and labels[9] == "the \ufffd dog of" and all(labels)
        with pytest.raises(checks.InputError, match="projector_dir must be new, empty, or a projector's"):
            extract_features.run(flags(run, tmp_path, pooling="mean", projector_dir=run[0]))


class TestErrors:
    @pytest.mark.parametrize(
        "overrides, message",
        [
            ({"run_dir": ""}, "one of --run_dir and --init_checkpoint must be given; got run_dir=''"),
            ({"init_checkpoint": "x"}, "one of --run_dir and --init_checkpoint"),
            ({"input_file": ""}, "--input_file must be given"),
            ({"output_file": ""}, "--output_file must be given"),
            ({"normalize": True}, "must come with --pooling"),
            ({"projector_dir": "x"}, "must come with --pooling"),
            ({"pooling": "sum"}, "pooling must be one of , mean, cls, max"),
            ({"pooling": "mean", "layers": ("-1", "-2")}, "--pooling takes one layer; got layers=-1,-2"),
            ({"max_seq_length": 2}, "max_seq_length must be at least 3"),
            ({"max_seq_length": tiny.MAX_L + 1}, "max_position_embeddings 23; got max_seq_length=24"),
            ({"layers": ("last",)}, "layers must be whole numbers; got layers=last"),
            ({"layers": ("-3",)}, r"layers must be from -2 to 1, or fewer; got \[-3\]"),
            ({"layers": ("2",)}, r"got \[2\]"),
            ({"do_lower_case": False}, "do_lower_case must be what the vocabulary was learned with"),
            ({"input_file": "/no/such"}, "input_file must be a readable file; got No such file"),
            ({"input_file": os.devnull}, "input_file must hold a line"),
            ({"output_file": "/no/such/out"}, "output_file must be a file that can be written; got No such file"),
            ({"run_dir": "/tmp"}, "weights must be of the format tfbert|a run folder must"),
        ],
    )
    def test_names_what_must_hold(self, run, tmp_path, overrides, message):
        with pytest.raises(checks.InputError, match=message):
            extract_features.run(flags(run, tmp_path, **overrides))
        assert os.listdir(tmp_path) == []

    @pytest.mark.slow
    def test_weights_without_a_vocabulary(self, run, tmp_path):
        formats.convert(formats.open_source(run[0])._replace(vocab=None), str(tmp_path / "there"), "huggingface")
        there = {"run_dir": "", "init_checkpoint": str(tmp_path / "there"), "pooling": "cls"}
        with pytest.raises(checks.InputError, match=r"weights must have a vocabulary; .* Give --vocab_file"):
            extract_features.run(flags(run, tmp_path, **there))
        extract_features.run(flags(run, tmp_path, vocab_file=run[0], **there))
        want = [expected_states(run[1], line)[1][-1][0] for line in LINES]
        np.testing.assert_allclose(np.load(tmp_path / "out"), want, atol=2e-5)
        (tmp_path / "long").mkdir()
        vocab = tiny_run.vocab()
        type(vocab)((*vocab.tokens, "more")).write(str(tmp_path / "long"))
        with pytest.raises(checks.InputError, match="vocab_size=97, 98 entries"):
            extract_features.run(flags(run, tmp_path, vocab_file=str(tmp_path / "long"), **there))

    @pytest.mark.slow
    @pytest.mark.parametrize("pooling", ["", "mean"])
    def test_what_was_interrupted_leaves_the_earlier_output(self, run, tmp_path, monkeypatch, pooling):
        extract_features.run(flags(run, tmp_path, pooling=pooling))
        before = (tmp_path / "out").read_bytes()

        def stop(*args):
            raise KeyboardInterrupt

        monkeypatch.setattr(extract_features._Lines, "__call__", stop)
        with pytest.raises(KeyboardInterrupt):
            extract_features.run(flags(run, tmp_path, pooling=pooling))
        assert (tmp_path / "out").read_bytes() == before and os.listdir(tmp_path) == ["out"]
