"""Tests of tfbert.optimizers: AdamW, parameter groups and schedules against the paper's recipe in NumPy."""

import re

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests import tiny
from tfbert import checks, heads
from tfbert.optimizers import adamw, param_groups, schedules

RATE, DECAY, B1, B2, EPSILON = 0.03, 0.2, 0.8, 0.95, 1e-6
SHAPES = {"kernel": (3, 5), "bias": (5,), "word_embeddings": (7, 2)}


class Weights(keras.layers.Layer):
    """A layer that only holds variables of the names above."""

    def build(self, _=None):
        for name, shape in SHAPES.items():
            setattr(self, name, self.add_weight(shape=shape, name=name, initializer="random_normal"))


def variables(seed=0):
    layer = Weights(name="dense")
    layer.build()
    rng = np.random.default_rng(seed)
    for v in layer.trainable_variables:
        v.assign(rng.normal(size=v.shape))
    return layer.trainable_variables


def gradients(step):
    rng = np.random.default_rng(100 + step)
    return [rng.normal(size=shape).astype(np.float32) for shape in SHAPES.values()]


def make(vs, rate=RATE, **kwargs):
    decays = param_groups.decay_mask([v.path for v in vs]).__getitem__
    optimizer = adamw.AdamW(rate, DECAY, B1, B2, EPSILON, decays=decays, **kwargs)
    optimizer.build(vs)
    return optimizer


def reference(start, all_gradients, decayed, rate=lambda step: RATE, corrected=False):
    """Appendix A.2: Adam without bias correction; decay is part of the update. Corrected: as Kingma and Ba 2015."""
    w, m, v = start.astype(np.float64), 0.0, 0.0
    for step, g in enumerate(all_gradients):
        m = B1 * m + (1 - B1) * g
        v = B2 * v + (1 - B2) * g.astype(np.float64) ** 2
        m_hat, v_hat = (m / (1 - B1 ** (step + 1)), v / (1 - B2 ** (step + 1))) if corrected else (m, v)
        w = w - rate(step) * (m_hat / (np.sqrt(v_hat) + EPSILON) + (DECAY * w if decayed else 0))
    return w


class TestAdamW:
    def expected(self, start, steps, **kwargs):
        per_step = [gradients(s) for s in range(steps)]
        return [
            reference(w, [g[i] for g in per_step], name != "bias", **kwargs)
            for i, (name, w) in enumerate(zip(SHAPES, start))
        ]

    @pytest.mark.parametrize("compiled", [False, True])
    def test_follows_the_recipe_over_steps(self, compiled):
        vs = variables()
        start = [v.numpy() for v in vs]
        optimizer = make(vs)
        apply = tf.function(lambda g: optimizer.apply(g, vs)) if compiled else lambda g: optimizer.apply(g, vs)
        for step in range(5):
            apply([tf.constant(g) for g in gradients(step)])
        for v, want in zip(vs, self.expected(start, 5)):
            np.testing.assert_allclose(v.numpy(), want, rtol=2e-5, atol=1e-6)
        assert int(optimizer.iterations.numpy()) == 5

    @pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
    def test_scaled_gradients(self, dtype):
        """As `apply` of the products; a bfloat16 gradient counts for the numbers that it holds."""
        one, other = variables(), variables()
        optimizers, scales = (make(one), make(other)), (0.5, 0.1, 1.0)

        @tf.function
        def scaled(rounded, scale):
            optimizers[1].apply_scaled(rounded, scale, other)

        for step, scale in enumerate(scales):
            rounded = [tf.cast(g, dtype) for g in gradients(step)]
            optimizers[0].apply([tf.cast(g, tf.float32) * scale for g in rounded], one)
            scaled(rounded, tf.constant(scale))
        optimizers[0].apply([tf.constant(g) for g in gradients(9)], one)
        optimizers[1].apply([tf.constant(g) for g in gradients(9)], other)  # the scale was for one update
        for a, b in zip(one, other):
            np.testing.assert_allclose(a.numpy(), b.numpy(), rtol=1e-6, atol=1e-7)

    @pytest.mark.parametrize("compiled", [False, True])
    def test_bias_correction_follows_adam_as_published(self, compiled):
        vs = variables()
        start = [v.numpy() for v in vs]
        optimizer = make(vs, bias_correction=True)
        apply = tf.function(lambda g: optimizer.apply(g, vs)) if compiled else lambda g: optimizer.apply(g, vs)
        for step in range(5):
            apply([tf.constant(g) for g in gradients(step)])
        for v, want in zip(vs, self.expected(start, 5, corrected=True)):
            np.testing.assert_allclose(v.numpy(), want, rtol=2e-5, atol=1e-6)

    def test_bias_correction_of_small_gradients_minds_epsilon(self):
        vs = variables()
        before = vs[1].numpy()
        make(vs, bias_correction=True).apply([tf.fill(s, 1e-6) for s in SHAPES.values()], vs)
        # m and v are corrected to g and g^2, so the first step is g / (g + epsilon) of the rate: half of it.
        np.testing.assert_allclose(before - vs[1].numpy(), RATE / 2, rtol=1e-4)

    def test_bias_correction_counts_its_own_updates(self):
        """A run that takes over m and v begins its schedule anew, and not its correction."""
        vs = variables()
        start = [v.numpy() for v in vs]
        optimizer = make(vs, bias_correction=True)
        for step in range(4):
            optimizer.apply([tf.constant(g) for g in gradients(step)], vs)
            optimizer.iterations.assign(0)
        for v, want in zip(vs, self.expected(start, 4, corrected=True)):
            np.testing.assert_allclose(v.numpy(), want, rtol=2e-5, atol=1e-6)

    def test_no_bias_to_correct(self):
        with pytest.raises(
            checks.InputError, match=r"must be below 1 where their bias is corrected; got 0\.9 and 1\.0"
        ):
            adamw.AdamW(RATE, DECAY, 0.9, 1.0, EPSILON, decays=bool, bias_correction=True)

    def test_first_step_by_hand(self):
        vs = variables()
        before = vs[1].numpy()  # the bias: no decay
        make(vs).apply([tf.ones(s) * 4.0 for s in SHAPES.values()], vs)
        # m = 0.2 * 4, v = 0.05 * 16: without bias correction the step is m / sqrt(v), not 1.
        np.testing.assert_allclose(before - vs[1].numpy(), RATE * 0.8 / np.sqrt(0.8), rtol=1e-4)

    def test_schedule_moves_nothing_at_step_zero_and_follows_after(self):
        vs = variables()
        start = [v.numpy() for v in vs]
        optimizer = make(vs, schedules.Schedule(0.1, 2, 6))
        optimizer.apply([tf.constant(g) for g in gradients(0)], vs)
        for v, w in zip(vs, start):
            np.testing.assert_array_equal(v.numpy(), w)
        for step in range(1, 4):
            optimizer.apply([tf.constant(g) for g in gradients(step)], vs)
        rates = [0.0, 0.05, 0.1 * 4 / 6, 0.1 * 3 / 6]
        for v, want in zip(vs, self.expected(start, 4, rate=rates.__getitem__)):
            np.testing.assert_allclose(v.numpy(), want, rtol=2e-5, atol=1e-6)

    def test_slices_count_as_the_dense_gradient_that_they_stand_for(self):
        ends = []
        for sparse in (False, True):
            vs = variables()
            optimizer = make(vs)
            for step in range(3):
                *rest, table = gradients(step)
                rows = tf.constant([1, 4, 1])  # row 1 twice: its slices add up
                slices = tf.IndexedSlices(tf.constant(table[:3]), rows, tf.constant(SHAPES["word_embeddings"]))
                optimizer.apply([*map(tf.constant, rest), slices if sparse else tf.convert_to_tensor(slices)], vs)
            ends.append([v.numpy() for v in vs])
        for sparse, dense in zip(*ends):
            np.testing.assert_array_equal(sparse, dense)

    def test_rows_without_gradient_decay_too(self):
        vs = variables()
        before = vs[2].numpy()
        slices = tf.IndexedSlices(tf.ones((1, 2)), tf.constant([3]), tf.constant([7, 2]))
        make(vs).apply([tf.zeros((3, 5)), tf.zeros(5), slices], vs)
        np.testing.assert_allclose(vs[2].numpy()[0], before[0] * (1 - RATE * DECAY), rtol=1e-6)

    @pytest.mark.parametrize("sparse", [False, True])
    @pytest.mark.parametrize("corrected", [False, True])
    def test_two_replicas_sum_their_gradients(self, mirrored, sparse, corrected):
        with mirrored.scope():
            vs = variables()
            optimizer = make(vs, bias_correction=corrected)
        start = [v.numpy() for v in vs]

        @tf.function
        def step(gs):
            def replica():
                share = tf.cast(tf.distribute.get_replica_context().replica_id_in_sync_group, tf.float32) * 0.5 + 0.25
                mine = [g * share for g in gs]  # a quarter and three quarters
                if sparse:
                    mine[2] = tf.IndexedSlices(mine[2], tf.range(7), tf.constant([7, 2]))
                optimizer.apply(mine, vs)

            mirrored.run(replica)

        for s in range(4):
            step([tf.constant(g) for g in gradients(s)])
        for v, want in zip(vs, self.expected(start, 4, corrected=corrected)):
            for copy in v.value.values:
                np.testing.assert_allclose(copy.numpy(), want, rtol=2e-5, atol=1e-6)

    def test_mixed_precision_keeps_float32(self):
        keras.config.set_dtype_policy("mixed_bfloat16")
        vs = variables()
        optimizer = make(vs)
        start = [v.numpy() for v in vs]
        for step in range(3):
            optimizer.apply([tf.constant(g) for g in gradients(step)], vs)
        assert {v.dtype for v in [*vs, *optimizer.variables[2:]]} == {"float32"}
        for v, want in zip(vs, self.expected(start, 3)):
            np.testing.assert_allclose(v.numpy(), want, rtol=2e-5, atol=1e-6)

    def test_a_scale_multiplies_the_rate_and_so_the_decay(self):
        vs = variables()
        start = [v.numpy() for v in vs]
        scales = dict(zip((v.path for v in vs), (0.5, 1.0, 0.25)))
        optimizer = adamw.AdamW(
            RATE, DECAY, B1, B2, EPSILON, decays=lambda path: "bias" not in path, rate_scale=scales.__getitem__
        )
        for step in range(3):
            optimizer.apply([tf.constant(g) for g in gradients(step)], vs)
        for i, (v, scale) in enumerate(zip(vs, scales.values())):
            own = [gradients(s)[i] for s in range(3)]
            want = reference(start[i], own, i != 1, rate=lambda step, scale=scale: RATE * scale)
            np.testing.assert_allclose(v.numpy(), want, rtol=2e-5, atol=1e-6)

    def test_restored_state_goes_on_to_the_bit(self, tmp_path):
        def run(vs, optimizer, steps):
            for step in steps:
                optimizer.apply([tf.constant(g) for g in gradients(step)], vs)
            return [v.numpy() for v in vs] + [v.numpy() for v in optimizer.variables]

        def checkpoint(vs, optimizer):
            return tf.train.Checkpoint(optimizer=optimizer, model={v.path: v.value for v in vs})

        schedule = schedules.Schedule(0.1, 2, 9)
        vs = variables()
        optimizer = make(vs, schedule)
        run(vs, optimizer, range(3))
        saved = checkpoint(vs, optimizer).save(str(tmp_path / "ckpt"))
        want = run(vs, optimizer, range(3, 6))

        other = variables(seed=1)
        other_optimizer = make(other, schedule)
        status = checkpoint(other, other_optimizer).restore(saved)
        status.assert_consumed()
        status.assert_existing_objects_matched()
        for got, expected in zip(run(other, other_optimizer, range(3, 6)), want):
            np.testing.assert_array_equal(got, expected)

    def test_refuses_a_variable_that_no_group_knows(self):
        layer = keras.layers.BatchNormalization(name="norm")
        layer.build((2, 3))
        with pytest.raises(checks.InputError, match=r"2 in neither or both: norm/beta, norm/gamma"):
            make(layer.trainable_variables)


def bert_paths(layers):
    """The names of Google's checkpoints."""
    norm, dense = ("LayerNorm/beta", "LayerNorm/gamma"), ("dense/kernel", "dense/bias")
    yield from (f"bert/embeddings/{t}_embeddings" for t in ("word", "token_type", "position"))
    yield from (f"bert/embeddings/{n}" for n in norm)
    for i in range(layers):
        at = f"bert/encoder/layer_{i}"
        yield from (f"{at}/attention/self/{q}/{w}" for q in ("query", "key", "value") for w in ("kernel", "bias"))
        yield from (f"{at}/{part}/{w}" for part in ("attention/output", "output") for w in (*norm, *dense))
        yield from (f"{at}/intermediate/{w}" for w in dense)
    yield from (f"bert/pooler/{w}" for w in dense)
    yield from (f"cls/predictions/transform/{w}" for w in (*norm, *dense))
    yield "cls/predictions/output_bias"
    yield from ("cls/seq_relationship/output_weights", "cls/seq_relationship/output_bias")


class TestParamGroups:
    def test_agrees_with_googles_rule_on_every_name(self):
        paths = list(bert_paths(12))
        assert len(paths) == 206
        excluded = re.compile("LayerNorm|layer_norm|bias")  # what BERT's code excludes by
        assert param_groups.decay_mask(paths) == {p: not excluded.search(p) for p in paths}

    def test_decays_embeddings_and_the_next_sentence_weights(self):
        mask = param_groups.decay_mask(bert_paths(1))
        assert mask["bert/embeddings/word_embeddings"] and mask["cls/seq_relationship/output_weights"]
        assert not mask["cls/seq_relationship/output_bias"] and not mask["bert/embeddings/LayerNorm/gamma"]

    def test_covers_the_real_model(self):
        model = heads.build_pretrainer(tiny.config())
        paths = [v.path for v in model.trainable_variables]
        assert sorted(paths) == sorted(bert_paths(tiny.LAYERS))
        assert sum(param_groups.decay_mask(paths).values()) == 3 + 6 * tiny.LAYERS + 3

    @pytest.mark.parametrize("path", ["bert/adapter/scale", "gamma", "bert/mybias", "bert/kernel/extra"])
    def test_refuses_what_it_does_not_know(self, path):
        with pytest.raises(checks.InputError, match=re.escape(path)):
            param_groups.decay_mask(["dense/bias", path])


class TestSchedule:
    @pytest.mark.parametrize("warmup, total", [(4, 10), (0, 7), (10, 10), (1, 3)])
    def test_equals_the_formula(self, warmup, total):
        schedule = schedules.Schedule(0.5, warmup, total)
        for step in range(total + 3):
            want = 0.5 * step / warmup if step < warmup else 0.5 * max(0, 1 - step / total)
            assert float(schedule(step)) == pytest.approx(want, abs=1e-7)

    def test_known_points_of_the_published_recipe(self):
        schedule = schedules.Schedule(1e-4, 10_000, 1_000_000)
        steps = [0, 5_000, 10_000, 500_000, 999_999, 1_000_000, 2_000_000]
        want = [0, 5e-5, 9.9e-5, 5e-5, 1e-10, 0, 0]
        np.testing.assert_allclose([float(schedule(tf.constant(s, tf.int64))) for s in steps], want, atol=1e-11)

    def test_config_makes_it_again(self):
        schedule = schedules.Schedule(0.5, 4, 10)
        again = schedules.Schedule.from_config(schedule.get_config())
        assert [float(again(s)) for s in range(11)] == [float(schedule(s)) for s in range(11)]

    @pytest.mark.parametrize("warmup, total", [(11, 10), (-1, 10), (0, 0)])
    def test_refuses_steps_that_cannot_be(self, warmup, total):
        with pytest.raises(checks.InputError, match=f"num_warmup_steps={warmup}, num_train_steps={total}"):
            schedules.Schedule(0.5, warmup, total)
