"""Tests of export.batching, export.batching_parameters and of the queues of export.served_model."""

import json
import shutil
import threading

import numpy as np
import pytest
import tensorflow as tf

from export import batching, loaders, serving
from export.batching_parameters import Batching, read, text
from export.served_model import ApiError, ServedModel
from tests import load, test_audit
from tfbert import checks


def told(x0):
    """Each text, and how many rows came with it; refuses a text."""
    with tf.control_dependencies([tf.debugging.Assert(tf.reduce_all(x0 != b"refused"), ["not this one"])]):
        return {"same": tf.strings.join([x0, "!"]), "rows": tf.fill(tf.shape(x0), tf.size(x0))}


@pytest.fixture(scope="module")
def versions(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    test_audit.save(folder / "1", told, tf.string)
    return str(folder)


def at_once(model, requests):
    """Answers to requests that threads make at the same time."""
    answers, start = [None] * len(requests), threading.Barrier(len(requests))

    def ask(i):
        start.wait()
        answers[i] = model.predict("serving_default", {"x0": np.array(requests[i], object)})

    threads = [threading.Thread(target=ask, args=(i,)) for i in range(len(requests))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return answers


def test_requests_that_wait_become_one_batch(versions):
    model = ServedModel(versions + "/1", Batching(8, 2_000_000, 1))
    requests = [[b"a"], [b"b", b"c"], [b"d", b"e", b"f"], [b"g", b"h"]]  # 8 rows: full before the time is over
    answers = at_once(model, requests)
    assert [a["same"].tolist() for a in answers] == [[t + b"!" for t in r] for r in requests]
    assert [a["rows"].tolist() for a in answers] == [[8] * len(r) for r in requests]
    model.close()


def test_queues_refuse_what_a_server_refuses(versions):
    model = ServedModel(versions + "/1", Batching(4, 0, 2))
    with pytest.raises(ApiError, match="larger than maximum input batch size 4") as refused:
        model.predict("", {"x0": np.array([b"x"] * 5, object)})
    assert refused.value.code == "INVALID_ARGUMENT"
    with pytest.raises(ApiError, match="not this one"):
        model.predict("", {"x0": np.array([b"refused"], object)})
    assert model.predict("", {"x0": np.array([], object)})["same"].shape == (0,)  # nothing to wait for
    assert model.predict("", {"x0": np.array([b"x"], object)})["same"].tolist() == [b"x!"]
    model.close()
    alone = ServedModel(versions + "/1")
    assert alone.predict("", {"x0": np.array([b"x"] * 5, object)})["rows"].tolist() == [5] * 5
    alone.close()


@pytest.mark.slow
def test_an_export_answers_the_same_in_batches(tiny_served):
    texts = ["the [MASK] dog", "no mask", "[MASK] of [MASK]", "", "un able [MASK] fox the lazy dog returns"]
    texts, answers = (texts * 2)[:8], [None] * 8  # as many as the largest warm-up request
    (whole,) = loaders.v1_session(tiny_served, [("serving_default", {"text": texts})])
    model = ServedModel(tiny_served, Batching(8, 2_000_000, 1))

    def ask(i):
        answers[i] = model.predict("serving_default", {"text": np.array([texts[i].encode()], object)})

    threads = [threading.Thread(target=ask, args=(i,)) for i in range(len(texts))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for i, answer in enumerate(answers):
        assert answer["tokens"].shape == (1, *whole["tokens"].shape[1:])  # as wide as the widest of its batch
        row = {name: value[i : i + 1] for name, value in whole.items()}
        assert load.near(load.summary(answer), load.summary(row))
    ids = {name: np.ones((3, 5), np.int32) for name in ("input_ids", "input_mask", "segment_ids")}
    assert len(model.predict("from_ids", ids)["sequence_output"]) == 3  # ids go by the queue
    model.close()


def test_the_file_is_read_as_it_was_written(tmp_path):
    file = tmp_path / "batching_parameters.txt"
    file.write_text(text(Batching(17, 0, 3, 5), "measured with max_batch_size { value: 99 }\non a machine"))
    assert read(str(file)) == Batching(17, 0, 3, 5)
    assert "\n# measured with max_batch_size { value: 99 }\n# on a machine\n" in file.read_text()
    file.write_text("max_batch_size { value: 8 }\nbatch_timeout_micros: { value: 1 }\n")
    with pytest.raises(checks.InputError, match="got no max_enqueued_batches, num_batch_threads"):
        read(str(file))
    with pytest.raises(checks.InputError, match="a file that can be read"):
        read(str(tmp_path))
    with pytest.raises(checks.InputError, match="batch_size must be at least 1"):
        Batching(0)


def test_a_sweep_writes_what_serving_takes(versions, tmp_path, capsys):
    texts, output = tmp_path / "texts.txt", tmp_path / "new" / "b.txt"
    texts.write_bytes(b"one\n\ntwo\r\nthree \xff\n")
    cfg = batching.BatchingConfig(
        saved_model=versions,
        input_file=str(texts),
        output=str(output),
        clients=4,
        batch_size=("2", "4"),
        batch_timeout_micros=("100",),
        num_batch_threads=("1",),
        seconds=0.2,
        max_latency_ms=10_000.0,
    )
    *found, chosen = batching.run(cfg)
    printed = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert printed[:-1] == found and [line["batched"] for line in found] == [False, True, True]
    assert [line["batch_size"] for line in found[1:]] == [2, 4]
    assert all(line["requests"] >= 4 and 0 < line["median_ms"] <= line["p99_ms"] for line in found)
    assert chosen["requests_per_second"] == max(line["requests_per_second"] for line in found[1:])
    assert read(str(output)) == Batching(chosen["batch_size"], 100, 1) == Batching(**printed[-1]["chosen"])
    assert f"{chosen['requests_per_second']} requests/s" in output.read_text()
    deployment = tmp_path / "deployment"
    more = {"saved_model": versions, "output_dir": str(deployment), "batching": str(output)}
    serving.run(serving.ServingConfig(**more))
    assert (deployment / "batching_parameters.txt").read_text() == output.read_text()
    assert f"Batches of {chosen['batch_size']} and a wait of 100 micro" in (deployment / "README.md").read_text()
    with pytest.raises(checks.InputError, match="give the file or the values"):
        serving.ServingConfig(**more, batch_timeout_micros=0)
    output.write_text("max_batch_size { value: 8 }")
    with pytest.raises(checks.InputError, match="batching parameters must have"):
        serving.run(serving.ServingConfig(**more))


def test_the_best_is_within_the_bound():
    line = {"batched": True, "refused": 0}
    found = [
        {"batched": False, "refused": 0, "requests_per_second": 900, "p99_ms": 1},
        {**line, "requests_per_second": 300, "p99_ms": 90},
        {**line, "requests_per_second": 200, "p99_ms": 20},
        {**line, "requests_per_second": 100, "p99_ms": 10},
        {"batched": True, "refused": 1, "requests_per_second": 800, "p99_ms": 1},
    ]
    for bound, right in ((90.0, 300), (89.0, 200), (10.0, 100)):
        assert batching.best(found, bound)["requests_per_second"] == right
    with pytest.raises(checks.InputError, match="within max_latency_ms=9; got at least 10"):
        batching.best(found, 9.0)


def test_a_batch_holds_the_largest_warm_up_request(versions, tmp_path):
    """A server answers them before it says that it is ready; one that it refuses ends its start."""
    shutil.copytree(versions, tmp_path / "models")
    serving.write_warmup(
        str(tmp_path / "models" / "1"), "bert", [("serving_default", {"x0": [b"x"] * n}) for n in (1, 3)]
    )
    more = {"saved_model": str(tmp_path / "models")}
    for program in (
        lambda size: batching.run(batching.BatchingConfig(**more, batch_size=(str(size), "8"), seconds=0.1)),
        lambda size: serving.run(serving.ServingConfig(**more, output_dir=str(tmp_path / "x"), batch_size=size)),
    ):
        with pytest.raises(checks.InputError, match=r"must hold the export's largest warm-up request.* 2 rows, not 3"):
            program(2)
    serving.run(serving.ServingConfig(**more, output_dir=str(tmp_path / "x"), batch_size=3))


def test_what_cannot_be_asked_is_an_error(versions, tmp_path):
    right = {"saved_model": versions}
    with pytest.raises(checks.InputError, match="whole numbers between commas; got batch_size="):
        batching.BatchingConfig(**right, batch_size=("8", "x")).settings()
    with pytest.raises(checks.InputError, match="--saved_model must be given"):
        batching.BatchingConfig()
    with pytest.raises(checks.InputError, match="signature must be one of"):
        batching.run(batching.BatchingConfig(**right, signature="x"))
    ids = test_audit.save(tmp_path / "ids", lambda x0: {"next": x0 + 1}, tf.int32)
    with pytest.raises(checks.InputError, match="lists of texts alone; got inputs"):
        batching.requests(loaders.signatures(ids)["serving_default"], "")
    about = loaders.signatures(versions + "/1")["serving_default"]
    texts = tmp_path / "texts.txt"
    texts.write_text("one\ntwo\tthree\n")
    with pytest.raises(checks.InputError, match=r"a text for each of x0, .* got 2 texts \(at .*texts.txt:2\)"):
        batching.requests(about, str(texts))
    texts.write_text("\n")
    with pytest.raises(checks.InputError, match="input_file must have texts"):
        batching.requests(about, str(texts))
    with pytest.raises(checks.InputError, match="a file that can be read"):
        batching.requests(about, str(tmp_path))
    assert len(batching.requests(about, "")) > 10
