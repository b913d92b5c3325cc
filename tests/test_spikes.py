"""Tests of tfbert.loop.spikes."""

import numpy as np
import pytest
import tensorflow as tf

from tfbert.loop import spikes


def reference(losses, factor, window=spikes.WINDOW):
    """[(is a spike, bound)] written plainly, from the module's docstring."""
    mean = variance = 0.0
    seen, found = 0, []
    for loss in np.float64(losses):
        bound = mean + factor * max(variance**0.5, abs(mean) / 20, 0.1) if seen >= window and factor else np.inf
        is_spike = bool(loss > bound and np.isfinite(loss))
        found.append((is_spike, bound))
        if np.isfinite(loss) and not is_spike:
            share = 1 / min(seen + 1, window)
            mean, variance, seen = (
                mean + share * (loss - mean),
                (1 - share) * (variance + share * (loss - mean) ** 2),
                seen + 1,
            )
    return found


def seen_by(watch, losses):
    """What the watch says of each loss, all of them in one call of a graph."""

    @tf.function(autograph=False)
    def look(losses):
        def one(loss):
            watch.look(loss)
            return watch.found.read_value(), watch._bound.read_value()

        return tf.map_fn(one, losses, fn_output_signature=(tf.bool, tf.float64))

    found, bounds = look(tf.constant(losses, tf.float32))
    return list(zip(found.numpy().tolist(), bounds.numpy().tolist()))


def falling(count, noise, seed=3):
    """Losses as of a run that learns: from 11 down to 3, with noise."""
    steps = np.arange(count)
    return np.float32(3 + 8 * np.exp(-steps / 30) + np.random.default_rng(seed).normal(0, noise, count))


@pytest.mark.parametrize("noise", [0.01, 0.5])
def test_equals_the_plain_one(noise):
    losses = falling(400, noise)
    losses[[130, 250, 251, 399]] += [9, 9, 9, 0.5]
    losses[[20, 300]] = np.nan, np.inf
    expected = reference(losses, 3.0)
    got = seen_by(spikes.SpikeWatch(3.0), losses)
    assert [f for f, _ in got] == [f for f, _ in expected]
    np.testing.assert_allclose([b for _, b in got], [b for _, b in expected], rtol=1e-9)
    assert {250, 251} <= {i for i, (f, _) in enumerate(got) if f}


def test_what_falls_and_what_only_varies_is_none():
    for noise in (0.0, 0.05, 0.6):
        assert not any(found for found, _ in seen_by(spikes.SpikeWatch(10.0), falling(3000, noise)))


@pytest.mark.parametrize("level, no, yes", [(4.0, 5.9, 6.1), (0.01, 0.99, 1.1)])
def test_a_constant_loss_may_still_vary(level, no, yes):
    """By ten times a twentieth of the mean, or 0.1."""
    losses = np.full(300, level, np.float32)
    losses[[150, 200]] = yes, no
    assert [i for i, (f, _) in enumerate(seen_by(spikes.SpikeWatch(10.0), losses)) if f] == [150]


def test_factor_zero_and_the_first_steps_find_none():
    losses = falling(150, 0.01)
    losses[[99, 120]] += 50
    assert not any(found for found, _ in seen_by(spikes.SpikeWatch(0.0), losses))
    assert [i for i, (f, _) in enumerate(seen_by(spikes.SpikeWatch(10.0), losses[:100])) if f] == []


def test_goes_on_from_its_state():
    losses = falling(300, 0.3)
    losses[200:] += np.random.default_rng(0).exponential(2.0, 100)
    whole = seen_by(spikes.SpikeWatch(2.0), losses)
    first, second = spikes.SpikeWatch(2.0), spikes.SpikeWatch(2.0)
    got = seen_by(first, losses[:170])
    for name, variable in second.state.items():
        variable.assign(first.state[name])
    assert got + seen_by(second, losses[170:]) == whole
    assert sum(found for found, _ in whole) > 2
