"""A few seconds of the load test; `python -m tests.load` runs the long one."""

import json
import os
import threading
import time
import types

import pytest

from tests import load


@pytest.mark.slow
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


def test_memory_is_told_at_each_mark(capsys):
    me = types.SimpleNamespace(pid=os.getpid())
    asked = types.SimpleNamespace(latencies=[1.0], failures=[])
    busy = threading.Thread(target=time.sleep, args=(0.5,))
    busy.start()
    held = load.Memory(me)
    held.watch(asked, [busy], pause=0.01, minute=0.2)
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["minute"] for line in lines] == [0, 1, 2]
    assert [line["rss_mb"] for line in lines] == held.marks and min(held.held) > 1
    assert (lines[0]["requests"], lines[0]["errors"]) == (1, 0)
    held.held = [9, 9, 9, 1, 1, 1, 2, 2, 2]
    assert held.thirds() == (1, 2)
