"""Tests of tfbert.loop.batch_ramp: the counts, and a loop whose batch grows."""

import numpy as np
import pytest

from tests import test_train_loop
from tests.test_train_loop import CLIP, DEFAULT, OBJECTIVE, RATE, SGD, Stop, batch, feed, values
from tfbert import checks
from tfbert.loop import batch_ramp
from tfbert.loop import trainer as trainer_lib


@pytest.mark.parametrize("parts, steps", [(1, 0), (4, 0), (4, 4), (3, 10), (8, 30), (5, 6)])
def test_counts_agree_with_one_another(parts, steps):
    ramp = batch_ramp.BatchRamp(parts, steps)
    counts = [min(parts, 1 + s * parts // steps) if steps else parts for s in range(steps + 5)]
    assert [ramp.at(s) for s in range(steps + 5)] == counts
    assert [ramp.before(s) for s in range(steps + 5)] == [sum(counts[:s]) for s in range(steps + 5)]
    for s, count in enumerate(counts):
        more = next((n for n in range(1, len(counts) - s) if counts[s + n] != count), None)
        assert ramp.same_from(s) == more


def test_grows_evenly():
    assert [batch_ramp.BatchRamp(4, 8).at(s) for s in range(10)] == [1, 1, 2, 2, 3, 3, 4, 4, 4, 4]


@pytest.mark.parametrize("parts, steps", [(1, 10), (4, 3)])
def test_refuses_what_cannot_grow(parts, steps):
    with pytest.raises(checks.InputError, match=f"got {parts} parts of a batch, {steps} steps"):
        batch_ramp.BatchRamp(parts, steps)


def built():
    model = test_train_loop.build()
    optimizer = SGD(RATE)
    optimizer.build(model.trainable_variables)
    return model, optimizer


@pytest.mark.slow
def test_each_step_has_the_rows_of_its_turn():
    ramp = batch_ramp.BatchRamp(3, 6)
    features = batch(4 * ramp.before(6))
    model, optimizer = built()
    trainer = trainer_lib.Trainer(DEFAULT, model, optimizer, OBJECTIVE, ramp, CLIP)
    iterator, ends = feed(DEFAULT, features, 4), []
    while trainer.step < 5:
        trainer.run(iterator, 5 - trainer.step, Stop())
        ends.append(trainer.step)
    assert ends == [2, 4, 5]  # a call of the graph ends where the batch grows
    other, optimizer = built()
    for step in range(5):
        rows = slice(4 * ramp.before(step), 4 * ramp.before(step + 1))
        plain = trainer_lib.Trainer(DEFAULT, other, optimizer, OBJECTIVE, ramp.at(step), CLIP)
        plain.run(feed(DEFAULT, {n: x[rows] for n, x in features.items()}, 4), 1, Stop())
    for name, value in values(model).items():
        np.testing.assert_allclose(value, values(other)[name], rtol=1e-6, atol=1e-7, err_msg=name)
