"""Tests of tfbert.optimizers.lamb against Algorithm 2 of You et al. 2020 in NumPy."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from tfbert import checks
from tfbert.optimizers import lamb, schedules

RATE, DECAY, B1, B2, EPSILON = 0.03, 0.2, 0.8, 0.95, 1e-6
SHAPES = {"kernel": (3, 5), "bias": (5,), "word_embeddings": (7, 2)}


def variables(seed=0):
    rng = np.random.default_rng(seed)
    return [keras.Variable(rng.normal(size=shape), dtype="float32", name=name) for name, shape in SHAPES.items()]


def gradients(step):
    rng = np.random.default_rng(100 + step)
    return [rng.normal(size=shape).astype(np.float32) for shape in SHAPES.values()]


def decays(path):
    return not path.endswith("bias")


def make(vs, rate=RATE, **kwargs):
    optimizer = lamb.Lamb(rate, DECAY, B1, B2, EPSILON, decays=decays, **kwargs)
    optimizer.build(vs)
    return optimizer


def reference(x, all_gradients, decay, rate=lambda step: RATE):
    """Algorithm 2, line by line, with phi(z) = z; x is one layer."""
    x, m, v = x.astype(np.float64), np.zeros(x.shape), np.zeros(x.shape)
    for t, g in enumerate(all_gradients, 1):
        m = B1 * m + (1 - B1) * g
        v = B2 * v + (1 - B2) * g.astype(np.float64) ** 2
        m_hat, v_hat = m / (1 - B1**t), v / (1 - B2**t)
        r = m_hat / (np.sqrt(v_hat) + EPSILON)
        step = r + decay * x
        top, bottom = np.sqrt((x**2).sum()), np.sqrt((step**2).sum())
        x = x - rate(t - 1) * (top / bottom if top > 0 and bottom > 0 else 1.0) * step
    return x


def expected(start, steps, **kwargs):
    return [
        reference(x, [gradients(s)[i] for s in range(steps)], DECAY if decays(name) else 0.0, **kwargs)
        for i, (name, x) in enumerate(zip(SHAPES, start))
    ]


def assert_close(vs, want):
    for v, x in zip(vs, want):
        np.testing.assert_allclose(v.numpy(), x, rtol=2e-5, atol=1e-6, err_msg=v.path)


def run(vs, optimizer, steps):
    for step in steps:
        optimizer.apply([tf.constant(g) for g in gradients(step)], vs)


@pytest.mark.parametrize("compiled", [False, True])
def test_follows_the_algorithm_over_steps(compiled):
    vs = variables()
    start = [v.numpy() for v in vs]
    optimizer = make(vs)

    def apply(g):
        optimizer.apply(g, vs)

    apply = tf.function(apply) if compiled else apply
    for step in range(6):
        apply([tf.constant(g) for g in gradients(step)])
    assert_close(vs, expected(start, 6))
    assert int(optimizer.iterations.numpy()) == 6


def test_scaled_gradients():
    """As `apply` of the products, and for one update only."""
    one, other = variables(), variables()
    optimizers, scale = (make(one), make(other)), 0.25
    optimizers[0].apply([tf.constant(g) * scale for g in gradients(0)], one)
    tf.function(lambda g, x: optimizers[1].apply_scaled(g, x, other))(
        [tf.constant(g) for g in gradients(0)], tf.constant(scale)
    )
    for optimizer, vs in zip(optimizers, (one, other)):
        run(vs, optimizer, [1])
    for a, b in zip(one, other):
        np.testing.assert_allclose(a.numpy(), b.numpy(), rtol=1e-6, atol=1e-7)


def test_the_first_step_is_as_long_as_the_rate_times_the_weights():
    """The ratio makes it so for every variable, whether it decays or not."""
    vs = variables()
    start = [v.numpy() for v in vs]
    run(vs, make(vs), [0])
    for v, x in zip(vs, start):
        assert np.linalg.norm(v.numpy() - x) == pytest.approx(RATE * np.linalg.norm(x), rel=1e-5)


def test_the_scale_of_a_gradient_does_not_matter():
    ends = []
    for scale in (1.0, 1000.0):
        vs = variables()
        optimizer = make(vs)
        for step in range(3):
            optimizer.apply([tf.constant(scale * g) for g in gradients(step)], vs)
        ends.append([v.numpy() for v in vs])
    for a, b in zip(*ends):
        np.testing.assert_allclose(a, b, rtol=1e-4)


def test_a_norm_of_zero_makes_the_ratio_one():
    vs = variables()
    vs[0].assign(tf.zeros_like(vs[0]))  # weights of zeros: they must be able to leave it
    start = [v.numpy() for v in vs]
    all_gradients = [gradients(s) for s in range(3)]
    for g in all_gradients:
        g[1][:] = 0.0  # an update of zeros, of a variable that does not decay
    optimizer = make(vs)
    for g in all_gradients:
        optimizer.apply([tf.constant(x) for x in g], vs)
    np.testing.assert_array_equal(vs[1].numpy(), start[1])
    want = [reference(x, [g[i] for g in all_gradients], DECAY if i != 1 else 0.0) for i, x in enumerate(start)]
    assert_close(vs, want)
    assert np.linalg.norm(vs[0].numpy()) > RATE


def test_follows_a_schedule_and_scales():
    vs = variables()
    start = [v.numpy() for v in vs]
    schedule = schedules.Schedule(0.1, 2, 6, power=0.5)
    run(vs, make(vs, schedule), range(4))
    rates = [0.0, 0.05, 0.1 * (4 / 6) ** 0.5, 0.1 * (3 / 6) ** 0.5]
    assert_close(vs, expected(start, 4, rate=rates.__getitem__))
    vs = variables()
    run(vs, make(vs, rate_scale=lambda path: 0.25), range(4))
    assert_close(vs, expected(start, 4, rate=lambda step: RATE / 4))


def test_slices_count_as_the_dense_gradient_that_they_stand_for():
    ends = []
    for sparse in (False, True):
        vs = variables()
        optimizer = make(vs)
        for step in range(3):
            *rest, table = gradients(step)
            slices = tf.IndexedSlices(tf.constant(table[:3]), tf.constant([1, 4, 1]), tf.constant([7, 2]))
            optimizer.apply([*map(tf.constant, rest), slices if sparse else tf.convert_to_tensor(slices)], vs)
        ends.append([v.numpy() for v in vs])
    for a, b in zip(*ends):
        np.testing.assert_array_equal(a, b)


def test_two_replicas_sum_their_gradients(mirrored):
    with mirrored.scope():
        vs = variables()
        optimizer = make(vs)
    start = [v.numpy() for v in vs]

    @tf.function
    def step(gs):
        def replica():
            share = tf.cast(tf.distribute.get_replica_context().replica_id_in_sync_group, tf.float32) * 0.5 + 0.25
            optimizer.apply([g * share for g in gs], vs)

        mirrored.run(replica)

    for s in range(4):
        step([tf.constant(g) for g in gradients(s)])
    for v, want in zip(vs, expected(start, 4)):
        for copy in v.value.values:
            np.testing.assert_allclose(copy.numpy(), want, rtol=2e-5, atol=1e-6)
    assert [int(copy.numpy()) for copy in optimizer._updates.value.values] == [4, 4]


def test_bias_correction_counts_the_updates_of_m_and_v_and_not_of_the_schedule():
    """State that comes from a run before: the schedule begins anew, m and v do not."""
    vs = variables()
    start = [v.numpy() for v in vs]
    before = make(vs)
    run(vs, before, range(3))
    after = make(vs)
    for new, old in zip(after.variables, before.variables):
        if not new.path.endswith(("iteration", "learning_rate")):
            new.assign(old)
    run(vs, after, range(3, 5))
    assert int(after.iterations.numpy()) == 2
    assert_close(vs, expected(start, 5))


def test_arguments_are_in_the_config():
    config = make(variables()).get_config()
    assert {"weight_decay": DECAY, "beta_1": B1, "beta_2": B2, "epsilon": EPSILON}.items() <= config.items()
    assert "decays" not in config


def test_refuses_a_beta_of_one():
    with pytest.raises(checks.InputError, match=r"must be below 1 with LAMB.*adam_beta1=0\.9, adam_beta2=1"):
        lamb.Lamb(RATE, DECAY, 0.9, 1.0, decays=decays)
