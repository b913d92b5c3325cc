"""Tests of tfbert.layers.dropout."""

import threading

import numpy as np
import pytest
import tensorflow as tf

from tfbert.layers import dropout

SEED = (7, 11)


def layer(rate, name="dropout"):
    made = dropout.Dropout(rate, name=name)
    made.build(None)
    return made


def mask(made, shape=(3, 5, 7), seed=SEED):
    """What the layer makes of ones under a seed, or without one if it is None."""
    ones = tf.ones(shape)
    if seed is None:
        return made(ones, training=True).numpy()
    with dropout.seeded(tf.constant(seed)):
        return made(ones, training=True).numpy()


def test_rate_0_and_inference_change_nothing():
    x = tf.random.normal([3, 5, 7])
    with dropout.seeded(tf.constant(SEED)):
        np.testing.assert_array_equal(layer(0.0)(x, training=True), x)
        for rate in (0.4, 1.0):
            np.testing.assert_array_equal(layer(rate)(x, training=False), x)
            np.testing.assert_array_equal(layer(rate)(x), x)


def test_rate_1_gives_zeros_and_no_gradient():
    x = tf.random.normal([3, 5, 7])
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = layer(1.0)(x, training=True)
    np.testing.assert_array_equal(y, np.zeros((3, 5, 7)))
    gradient = tape.gradient(y, x)
    assert gradient is None or not np.any(gradient)


@pytest.mark.parametrize("rate", [0.001, 0.1, 0.37, 0.999])
def test_drops_at_its_rate_and_keeps_the_mean(rate):
    n = 300_001  # odd: half of the last random number is left over
    drawn = mask(layer(rate), (n,))
    deviation = np.sqrt(rate * (1 - rate) / n)
    assert abs((drawn == 0).mean() - rate) < 5 * deviation + 1 / 65536
    np.testing.assert_allclose(np.unique(drawn[drawn != 0]), 1 / (1 - rate), rtol=0.01)
    assert abs(drawn.mean() - 1) < 5 * deviation / (1 - rate)


def test_neighbours_are_independent():
    dropped = mask(layer(0.3), (400, 500)) == 0
    both_across = (dropped[:, 1:] & dropped[:, :-1]).mean()
    both_down = (dropped[1:] & dropped[:-1]).mean()
    assert abs(both_across - 0.09) < 0.004
    assert abs(both_down - 0.09) < 0.004


def test_gradient_is_the_mask():
    made, x = layer(0.4), tf.random.normal([3, 5, 7])
    with tf.GradientTape() as tape, dropout.seeded(tf.constant(SEED)):
        tape.watch(x)
        y = made(x, training=True)
    np.testing.assert_array_equal(tape.gradient(y, x), mask(made))
    np.testing.assert_allclose(y, x * mask(made), rtol=1e-6)


def test_mask_is_a_function_of_seed_and_path():
    first = mask(layer(0.5))
    np.testing.assert_array_equal(first, mask(layer(0.5)))
    for other in (mask(layer(0.5), seed=(8, 11)), mask(layer(0.5), seed=(7, 12)), mask(layer(0.5, "another"))):
        assert 20 < (first != other).sum() < 85  # of 105; half on average


def test_int64_seeds():
    made = layer(0.5)
    with dropout.seeded(tf.constant([2**40, -3], tf.int64)):
        first, second = (made(tf.ones([50]), training=True).numpy() for _ in range(2))
    np.testing.assert_array_equal(first, second)


def test_without_a_seed_every_call_draws_afresh():
    made = layer(0.5)
    assert (mask(made, seed=None) != mask(made, seed=None)).any()

    graph = tf.function(lambda: made(tf.ones([50]), training=True))
    assert (graph().numpy() != graph().numpy()).any()


def test_seeds_nest_and_end_even_after_an_error():
    made = layer(0.5)
    with dropout.seeded(tf.constant(SEED)):
        with pytest.raises(KeyError), dropout.seeded(tf.constant([1, 2])):
            raise KeyError
        np.testing.assert_array_equal(made(tf.ones([3, 5, 7]), training=True), mask(made))
    assert (mask(made, seed=None) != mask(made, seed=None)).any()


def test_each_thread_has_its_own_seed():
    """MirroredStrategy traces replicas in threads that run at the same time."""
    made, seeds, meet, found = layer(0.5), [(1, 2), (3, 4), None], threading.Barrier(3), {}

    def run(seed):
        if seed is None:
            meet.wait()
            found[seed] = [mask(made, seed=None) for _ in range(2)]
            meet.wait()
        else:
            with dropout.seeded(tf.constant(seed)):
                meet.wait()
                found[seed] = made(tf.ones([3, 5, 7]), training=True).numpy()
                meet.wait()

    threads = [threading.Thread(target=run, args=(seed,)) for seed in seeds]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    for seed in seeds[:2]:
        np.testing.assert_array_equal(found[seed], mask(made, seed=seed))
    assert (found[None][0] != found[None][1]).any()


@pytest.mark.parametrize("jit", [False, True])
def test_graph_and_xla_draw_what_eager_draws(jit):
    made = layer(0.3)

    @tf.function(jit_compile=jit)
    def run(x, seed):
        with dropout.seeded(seed):
            return made(x, training=True)

    x = tf.ones([3, 5, 7])
    for seed in (SEED, (-2147483648, 2147483647)):
        np.testing.assert_array_equal(run(x, tf.constant(seed)), mask(made, seed=seed))


@pytest.mark.parametrize("shape", [(), (0, 3), (1,), (2, 0)])
def test_odd_shapes(shape):
    assert mask(layer(0.5), shape).shape == shape


def test_any_shape_in_a_graph_and_in_bfloat16():
    made = dropout.Dropout(0.25, dtype="bfloat16", name="dropout")

    @tf.function(input_signature=[tf.TensorSpec([None, None], tf.bfloat16)])
    def run(x):
        with dropout.seeded(tf.constant(SEED)):
            return made(x, training=True)

    for shape in ((3, 5), (4, 2)):
        y = run(tf.ones(shape, tf.bfloat16))
        assert y.dtype == tf.bfloat16 and y.shape == shape
        assert set(np.asarray(y, np.float32).ravel()) <= {0.0, np.float32(tf.cast(4 / 3, tf.bfloat16))}


def test_has_no_variables():
    """What is not there need not be in the checkpoint."""
    made = layer(0.5)
    mask(made)
    assert not made.variables


def _random_bits(shape, low, high):
    """`dropout.random_bits`, place by place in Python's integers."""
    found = []
    for place in range(int(np.prod(shape))):
        x = (place * 0x9E3779B9 + low) % 2**32
        for shift, factor in ((16, 0x7FEB352D), (15, 0x846CA68B)):
            x = ((x ^ (x >> shift)) * factor + high) % 2**32
        found.append(x ^ (x >> 16))
    return np.array(found, np.uint32).reshape(shape)


@pytest.mark.parametrize("shape", [(), (3,), (4, 5), (2, 3, 5, 7)])
def test_random_bits_are_the_published_hash_of_places(shape):
    words = tf.constant([123456789, -5])
    expected = _random_bits(shape, 123456789, 2**32 - 5)
    np.testing.assert_array_equal(dropout.random_bits(shape, words).numpy(), expected)
    compiled = tf.function(lambda w: dropout.random_bits(shape, w), jit_compile=True, autograph=False)
    np.testing.assert_array_equal(compiled(words).numpy(), expected)


def test_a_compiled_program_holds_no_numbers_of_places():
    """As large as what is dropped they would be, in every function and for every shape."""
    drop = tf.function(lambda x, w: dropout.drop(x, 0.1, w), jit_compile=True, autograph=False)
    x, words = tf.zeros([5, 6, 7, 64]), tf.constant([1, 2])
    program = drop.experimental_get_compiler_ir(x, words)(stage="optimized_hlo")
    assert "iota" in program and "constant({...})" not in program  # how one too long to print is written
