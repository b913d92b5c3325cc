"""A few seconds of the load test; `python -m tests.load` runs the long one."""

import pytest

from tests import load

pytestmark = pytest.mark.slow


def test_many_clients_at_once(tiny_served):
    told = load.run(load.LoadConfig(saved_model=tiny_served, clients=200, seconds=4))
    assert (told["errors"], told["wrong_answers"], told["first_error"]) == (0, 0, None)
    assert told["requests"] >= 200  # every client got an answer
    assert told["rss_mb_last_third"] < 1.1 * told["rss_mb_middle_third"]


def test_a_wrong_answer_is_seen():
    one = {"tokens": ["a", "b"], "probabilities": [0.5, 0.25]}
    assert load.near(one, {"tokens": ["a", "b"], "probabilities": [0.5001, 0.25]})
    assert not load.near(one, {"tokens": ["a", "b"], "probabilities": [0.51, 0.25]})
    assert not load.near(one, {"tokens": ["a", "c"], "probabilities": [0.5, 0.25]})
    assert not load.near(one, {"tokens": ["a"], "probabilities": [0.5, 0.25]})
    assert not load.near(one, {"tokens": ["a", "b"]})
