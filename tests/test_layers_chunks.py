"""Tests of tfbert.layers.chunks against NumPy, and of the classifier of chunked texts against the plain one."""

import numpy as np
import pytest
import tensorflow as tf

from tests import tiny
from tests.tiny import V
from tfbert import checks, heads
from tfbert.layers import chunks
from tfbert.optimizers import param_groups

B, COUNT, LENGTH, D, CLASSES = 5, 3, 7, 11, 4  # rows, chunks of a row, length of a chunk
FILLED = np.array([3, 1, 2, 3, 0])  # chunks of each row; the last row only fills up a batch


def mask():
    """int32 [B, COUNT LENGTH]: all chunks are full but each row's last."""
    pieces = np.array([3 * LENGTH, 4, LENGTH + 2, 3 * LENGTH - 5, 0])
    return (np.arange(COUNT * LENGTH) < pieces[:, None]).astype(np.int32)


def pooling(how):
    layer = chunks.ChunkPooling(LENGTH, how, name="chunks")
    layer.build((None, D), (None, None))
    rng = np.random.default_rng(1)
    for v in layer.variables:
        v.assign(rng.normal(size=v.shape))
    return layer


def expected_of(x, how, layer):
    """Sun et al.'s three ways, and the attention of Yang et al. 2016, equations 5 to 7: [n, D] -> [D]."""
    if how == "attention":
        weights = {v.path.removeprefix("chunks/"): np.asarray(v) for v in layer.variables}
        scores = np.tanh(x @ weights["hidden/kernel"] + weights["hidden/bias"]) @ weights["score/kernel"]
        return (np.exp(scores) / np.exp(scores).sum() * x).sum(0)
    return x.max(0) if how == "max" else x.mean(0)


@pytest.mark.parametrize("how", chunks.POOLINGS)
@pytest.mark.parametrize("known", [True, False], ids=["sizes known", "sizes unknown"])
def test_pooling(how, known):
    layer = pooling(how)
    vectors = np.random.default_rng(0).normal(size=(B, COUNT, D)).astype(np.float32) - 2  # a chunk of 0 would show
    flat = vectors.reshape(-1, D)
    shapes = ([B * COUNT, D], [B, COUNT * LENGTH]) if known else ([None, D], [None, None])
    specs = [tf.TensorSpec(shape, dtype) for shape, dtype in zip(shapes, (tf.float32, tf.int32))]
    found = tf.function(layer.call, input_signature=specs)(flat, mask()).numpy()
    for row in range(B - 1):
        expected = expected_of(vectors[row, : FILLED[row]], how, layer)
        np.testing.assert_allclose(found[row], expected, rtol=1e-5, atol=1e-5, err_msg=str(row))
    assert np.abs(found[-1]).max() < 10  # finite, and no huge number either
    np.testing.assert_allclose(found[1], vectors[1, 0], rtol=1e-6)  # one chunk is what it is


def test_what_attention_learns():
    paths = [v.path for v in pooling("attention").trainable_variables]
    assert paths == ["chunks/hidden/kernel", "chunks/hidden/bias", "chunks/score/kernel"]
    assert param_groups.decay_mask(paths) == dict(zip(paths, (True, False, True)))
    assert set(param_groups.rate_scales(paths, 2, 0.5).values()) == {1.0}
    assert pooling("mean").variables == pooling("max").variables == []


@pytest.mark.parametrize("shape", [(None, None), (B, 3 * LENGTH)], ids=str)
def test_cutting(shape):
    x = np.arange(B * 3 * LENGTH).reshape(B, -1).astype(np.int32)
    cut = tf.function(chunks.ToChunks(LENGTH).call, input_signature=[tf.TensorSpec(shape, tf.int32)])
    np.testing.assert_array_equal(cut(x), x.reshape(-1, LENGTH))
    if shape[1] is None:
        np.testing.assert_array_equal(cut(x[:, :LENGTH]), x[:, :LENGTH])
        np.testing.assert_array_equal(cut(x[:, : LENGTH - 2]), x[:, : LENGTH - 2])  # a batch of short texts
        assert cut(x[:0]).shape == (0, LENGTH)


def test_rows_that_are_no_whole_chunks():
    with pytest.raises(checks.InputError, match="must be whole chunks; got a row of 15, chunks of 7"):
        chunks.ToChunks(7)(tf.zeros([2, 15], tf.int32))


class TestClassifier:
    """A classifier of chunks is the plain encoder on each chunk, pooled and classified."""

    def build(self, how, **more):
        return tiny.randomize(heads.build_classifier(tiny.config(), CLASSES, chunk_length=LENGTH, **more, **how))

    @staticmethod
    def features():
        ids = np.random.default_rng(2).integers(1, V, (B, COUNT * LENGTH)).astype(np.int32)
        return {"input_ids": ids * mask(), "input_mask": mask(), "segment_ids": np.zeros_like(ids)}

    @pytest.mark.parametrize(
        "how",
        [
            {"chunk_pooling": "mean"},
            {"chunk_pooling": "max", "pooling": "mean"},
            {"chunk_pooling": "attention", "pooling": "cls", "layer_dropout": 0.3},
        ],
        ids=lambda how: "-".join(map(str, how.values())),
    )
    def test_equals_the_plain_one_on_each_chunk(self, how):
        built = self.build(how)
        same = {k: v for k, v in how.items() if k != "chunk_pooling"}
        plain = heads.build_classifier(tiny.config(), CLASSES, **same)
        values = {v.path: v for v in built.variables}
        for v in plain.variables:
            v.assign(values[v.path])
        # With the identity as its head the plain one gives what it classifies.
        plain.get_layer("classifier").output_weights = np.eye(tiny.D, dtype=np.float32)
        plain.get_layer("classifier").output_bias = np.zeros(tiny.D, np.float32)
        features = self.features()
        found = built(features)["logits"]
        weights = tiny.weights(built)
        for row in range(B - 1):
            one = {k: v[row].reshape(COUNT, LENGTH)[: FILLED[row]] for k, v in features.items()}
            vectors = plain(one)["logits"].numpy()
            pooled = expected_of(vectors, how["chunk_pooling"], built.get_layer("chunks"))
            expected = weights["classifier/output_weights"] @ pooled + weights["classifier/output_bias"]
            np.testing.assert_allclose(found[row], expected, atol=2e-5)
        assert np.isfinite(found[-1]).all()

    def test_more_filling_changes_nothing(self):
        built = self.build({"chunk_pooling": "attention"})
        features = {k: v[1:3] for k, v in self.features().items()}
        longer = {k: np.pad(v, [(0, 0), (0, 2 * LENGTH)]) for k, v in features.items()}
        np.testing.assert_allclose(built(longer)["logits"], built(features)["logits"], atol=1e-5)
        short = {k: v[:1, :LENGTH] for k, v in features.items()}
        shorter = {k: v[:, :4] for k, v in short.items()}
        for cut in (short, shorter):
            np.testing.assert_allclose(built(cut)["logits"], built(features)["logits"][:1], atol=1e-5)

    def test_all_learns(self):
        built = self.build({"chunk_pooling": "attention", "layer_dropout": 0.0})
        with tf.GradientTape() as tape:
            loss = tf.reduce_sum(built(self.features(), training=True)["logits"][:, 0] ** 2)
        gradients = tape.gradient(loss, [v.value for v in built.trainable_variables])
        for v, gradient in zip(built.trainable_variables, gradients):
            assert np.isfinite(tf.convert_to_tensor(gradient)).all(), v.path
            assert np.abs(tf.convert_to_tensor(gradient)).max() > 1e-7 or v.path.endswith("key/bias"), v.path

    def test_no_such_pooling(self):
        with pytest.raises(checks.InputError, match="must be one of mean, max, attention; got chunk_pooling='sum'"):
            heads.build_classifier(tiny.config(), CLASSES, chunk_length=LENGTH, chunk_pooling="sum")
