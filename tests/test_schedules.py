"""Tests of tfbert.optimizers.schedules: each shape against its formula, in steps and in seconds."""

import math

import numpy as np
import pytest
import tensorflow as tf

from tfbert import checks
from tfbert.optimizers import schedules

PEAK, WARMUP, TOTAL = 0.5, 4, 23


def rates(steps=range(TOTAL + 4), **kwargs):
    schedule = schedules.Schedule(**{"learning_rate": PEAK, "warmup": WARMUP, "total": TOTAL, **kwargs})
    return [float(schedule(step)) for step in steps]


def formula(step, shape, power=1.0, decay_share=0.1, floor=0.0, begin=0.0):
    """In plain Python, of what the docstrings say."""
    if step < WARMUP:
        return PEAK * (begin + (1 - begin) * step / WARMUP)
    way = min(1.0, (step - WARMUP) / (TOTAL - WARMUP))
    stable = TOTAL - decay_share * TOTAL
    value = {
        "polynomial": max(0.0, 1 - step / TOTAL) ** power,
        "triangle": 1 - way,
        "cosine": (1 + math.cos(math.pi * way)) / 2,
        "wsd": 1 - math.sqrt(min(1.0, max(0.0, (step - stable) / (TOTAL - stable)))),
    }[shape]
    return PEAK * (floor + (1 - floor) * value)


@pytest.mark.parametrize(
    "shape, options",
    [
        ("polynomial", {}),
        ("polynomial", {"power": 0.5}),
        ("triangle", {}),
        ("cosine", {}),
        ("wsd", {}),
        ("wsd", {"decay_share": 0.4}),
    ],
)
@pytest.mark.parametrize("floor, begin", [(0.0, 0.0), (0.1, 0.25)])
def test_equals_the_formula(shape, options, floor, begin):
    want = [formula(s, shape, floor=floor, begin=begin, **options) for s in range(TOTAL + 4)]
    got = rates(shape=shape, min_ratio=floor, initial_ratio=begin, **options)
    np.testing.assert_allclose(got, want, rtol=2e-6, atol=1e-7)


def test_known_points():
    lamb = schedules.Schedule(6e-3, 2133, 7506, power=0.5)  # NVIDIA's first phase
    np.testing.assert_allclose(
        [float(lamb(s)) for s in (0, 2132, 2133, 7505, 7506)],
        [0, 6e-3 * 2132 / 2133, 6e-3 * math.sqrt(5373 / 7506), 6e-3 * math.sqrt(1 / 7506), 0],
        rtol=1e-4,
        atol=1e-9,
    )
    cosine = schedules.Schedule(1.0, 0, 100, "cosine", min_ratio=0.1)
    np.testing.assert_allclose([float(cosine(s)) for s in (0, 50, 100, 1000)], [1, 0.55, 0.1, 0.1], rtol=1e-6)
    wsd = schedules.Schedule(1.0, 10, 100, "wsd", decay_share=0.2)
    np.testing.assert_allclose([float(wsd(s)) for s in (10, 50, 80, 85, 100)], [1, 1, 1, 0.5, 0], atol=1e-5)
    cycle = schedules.Schedule(1.0, 75, 100, "triangle", initial_ratio=0.25)
    np.testing.assert_allclose([float(cycle(s)) for s in (0, 75, 100)], [0.25, 1, 0], atol=1e-6)


@pytest.mark.parametrize("shape", schedules.SHAPES)
def test_no_warmup_begins_at_the_peak_and_all_warmup_ends_there(shape):
    assert rates([0], shape=shape, warmup=0) == [PEAK]
    if shape != "wsd":
        assert rates([TOTAL - 1], shape=shape, warmup=TOTAL) == [pytest.approx(PEAK * (TOTAL - 1) / TOTAL)]


@pytest.mark.parametrize("shape", schedules.SHAPES)
def test_seconds_in_place_of_steps(shape):
    """The unit does not matter: an hour's schedule is that of 3,600 steps, and a share of it the same share."""
    seconds = [float(schedules.Schedule(PEAK, 360.0, 3600.0, shape)(x)) for x in (0.0, 180.5, 360.0, 1800.0, 3599.0)]
    steps = [float(schedules.Schedule(PEAK, 3600, 36000, shape)(x)) for x in (0, 1805, 3600, 18000, 35990)]
    np.testing.assert_allclose(seconds, steps, rtol=1e-5)


def test_a_time_keyed_one_follows_the_clock_alone():
    class Clock:
        at_update = tf.Variable(0.0, dtype=tf.float64)

    clock = Clock()
    schedule = schedules.Schedule(PEAK, WARMUP, TOTAL, "cosine")
    keyed = schedules.TimeKeyed(schedule, clock)
    call = tf.function(keyed)
    for seconds in (0.0, 2.5, 11.0):
        clock.at_update.assign(seconds)
        assert float(call(tf.constant(99))) == float(keyed(7)) == float(schedule(seconds))


def test_config_makes_it_again():
    schedule = schedules.Schedule(PEAK, WARMUP, TOTAL, "wsd", decay_share=0.3, initial_ratio=0.2, min_ratio=0.1)
    again = schedules.Schedule.from_config(schedule.get_config())
    assert [float(again(s)) for s in range(TOTAL)] == [float(schedule(s)) for s in range(TOTAL)]


def test_refuses_what_cannot_be():
    with pytest.raises(checks.InputError, match="lr_schedule must be one of polynomial, triangle, cosine, wsd"):
        rates(shape="line")
    with pytest.raises(checks.InputError, match=r"must fit into training.*4 of 23 in warm-up, decay_proportion=0\.9"):
        rates(shape="wsd", decay_share=0.9)
