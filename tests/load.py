"""A load test: many clients at once, over REST and gRPC, on the stand-in for TensorFlow Serving (model_server.py).

    python -m tests.load --saved_model=saved_model --clients=200 --seconds=300 --batching=batching_parameters.txt

Each client asks one text after the other over its own connection and compares each answer with the first one that this
text got. It prints a JSON line each minute: requests so far and the memory that the server holds. The last line has
requests, errors, wrong answers, latencies, and the server's memory at these marks and as the median of the middle
third and of the last third of the time. Status 1 if anything was wrong or the last third's is more than --growth above.
Clients and server share the machine, and the stand-in is no TensorFlow Serving: the rate is no measure of either.
"""

from tfbert import quiet  # isort: skip  # noqa: F401 (first: it holds back start-up noise)

import dataclasses
import http.client
import json
import random
import statistics
import subprocess
import sys
import threading
import time

import numpy as np

from export import clients
from tfbert import checks, config

WORDS = ["the", "a", "file", "value", "[MASK]", "returns", "list", "of", "naïve", "東京", "if", "is", "not", "number"]


@dataclasses.dataclass(frozen=True)
class LoadConfig:
    """Flags of this program."""

    saved_model: str = config.field("", "A SavedModel with `text` in, or the folder with its numbered versions.")
    batching: str = config.field("", "Let the server batch by this batching_parameters.txt.")
    clients: int = config.field(200, "Clients at the same time; every other one speaks gRPC.", lower_bound=1)
    seconds: float = config.field(300.0, "How long.", lower_bound=0.1)
    texts: int = config.field(50, "Different texts.", lower_bound=1)
    growth: float = config.field(0.03, "Share by which the server's memory may grow between thirds.", lower_bound=0)

    def __post_init__(self):
        config.check_bounds(self)
        checks.require(self.saved_model, "--saved_model must be given", "none")


class RestClient:
    """Asks over a connection that stays open."""

    def __init__(self, addresses):
        self._connection = http.client.HTTPConnection(addresses[0].removeprefix("http://"), timeout=120)

    def __call__(self, text):
        body = json.dumps({"inputs": {"text": [text]}}).encode()
        self._connection.request("POST", "/v1/models/bert:predict", body)
        answer = self._connection.getresponse()
        said = answer.read()
        if answer.status != 200:
            raise clients.ServerError(answer.status, said.decode())
        return json.loads(said)["outputs"]


class GrpcClient:
    """Asks with the official stubs."""

    def __init__(self, addresses):
        self._client = clients.Grpc(addresses[1], "bert", timeout=120)

    def __call__(self, text):
        return self._client.predict(text=[text])


def filled(column):
    """Whether an array holds nothing but what fills rows up to the widest of their batch: "", -1, 0, false."""
    return all(value in ("", -1, 0) for value in column.ravel().tolist())


def summary(answer):
    """An answer in a form in which both kinds of client give the same, whatever it was batched with."""
    told = {}
    for name, value in answer.items():
        array = np.asarray(value)
        if array.dtype.kind in "OSU":
            flat = [v if isinstance(v, str) else v.decode("utf-8", "replace") for v in array.ravel()]
            array = np.array(flat).reshape(array.shape)
        while array.ndim > 1 and array.shape[1] and filled(array[:, -1]):
            array = array[:, :-1]
        told[name] = np.round(array.astype(float), 4) if array.dtype.kind == "f" else array
    return {name: value.tolist() for name, value in told.items()}


def near(one, other):
    """Whether two summaries are the same, but for the last digit of numbers."""
    if isinstance(one, dict):
        return set(one) == set(other) and all(near(one[name], other[name]) for name in one)
    first, second = np.ravel(np.asarray(one, object)), np.ravel(np.asarray(other, object))
    if len(first) != len(second):
        return False
    return all(abs(a - b) < 2e-4 if isinstance(a, float) else a == b for a, b in zip(first, second))


class Load:
    """What all clients share."""

    def __init__(self, addresses, texts, end):
        self._addresses, self._texts, self._end = addresses, texts, end
        self._first, self._lock = {}, threading.Lock()
        self.latencies, self.failures, self.wrong = [], [], []

    def client(self, number):
        """One client's life."""
        rng = random.Random(number)
        ask = (GrpcClient if number % 2 else RestClient)(self._addresses)
        while time.monotonic() < self._end:
            text = rng.choice(self._texts)
            start = time.monotonic()
            try:
                said = summary(ask(text))
            except (clients.ServerError, checks.InputError, OSError, http.client.HTTPException) as e:
                self.failures.append(f"{type(e).__name__}: {e}")
                ask = (GrpcClient if number % 2 else RestClient)(self._addresses)
                continue
            self.latencies.append(time.monotonic() - start)
            with self._lock:
                first = self._first.setdefault(text, said)
            if first is not said and not near(first, said):
                self.wrong.append(text)


def memory(process):
    """Megabytes of memory that a process holds."""
    with open(f"/proc/{process.pid}/status", encoding="ascii") as f:
        return next(int(line.split()[1]) for line in f if line.startswith("VmRSS:")) / 1024


class Memory:
    """The memory of a server, looked at until the clients are done.

    Attributes:
        held: Megabytes at each look.
        marks: Megabytes at the beginning, and after each whole minute.
    """

    def __init__(self, process):
        self._process, self.held, self.marks = process, [], []

    def watch(self, load, threads, pause, minute=60.0):
        """Looks every `pause` seconds while a thread is alive; prints a line at each mark."""
        start = time.monotonic()
        while any(thread.is_alive() for thread in threads):
            self.held.append(memory(self._process))
            if time.monotonic() - start >= minute * len(self.marks):
                self.marks.append(round(self.held[-1], 1))
                about = {"minute": len(self.marks) - 1, "rss_mb": self.marks[-1]}
                print(json.dumps({**about, "requests": len(load.latencies), "errors": len(load.failures)}), flush=True)
            time.sleep(pause)
        self.held.append(memory(self._process))

    def thirds(self):
        """Medians of the middle third and of the last third."""
        third = len(self.held) // 3
        return statistics.median(self.held[third : 2 * third]), statistics.median(self.held[-third:])


def run(cfg):
    """Runs the test; returns what its last line says."""
    command = [sys.executable, "-m", "tests.model_server", f"--saved_model={cfg.saved_model}"]
    command += [f"--batching={cfg.batching}"] if cfg.batching else []
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        line = process.stdout.readline().split()
        checks.require(line[:1] == ["REST"], "the server must start", line)
        rng = random.Random(1)
        texts = [" ".join(rng.choices(WORDS, k=rng.randint(1, 24))) for _ in range(cfg.texts)]
        load = Load((line[1], line[3]), texts, time.monotonic() + cfg.seconds)
        threads = [threading.Thread(target=load.client, args=(n,), daemon=True) for n in range(cfg.clients)]
        start = time.monotonic()
        for thread in threads:
            thread.start()
        held = Memory(process)
        held.watch(load, threads, min(1.0, cfg.seconds / 30))
        took = time.monotonic() - start
    finally:
        process.terminate()
        process.wait()
    middle, last = held.thirds()
    slowest = np.percentile(load.latencies, [50, 99]) * 1000
    told = {
        "clients": cfg.clients,
        "seconds": round(took, 1),
        "requests": len(load.latencies),
        "errors": len(load.failures),
        "wrong_answers": len(load.wrong),
        "requests_per_second": round(len(load.latencies) / took, 1),
        "median_ms": round(float(slowest[0]), 1),
        "p99_ms": round(float(slowest[1]), 1),
        "rss_mb_at_minutes": held.marks,
        "rss_mb_at_the_end": round(held.held[-1], 1),
        "rss_mb_middle_third": round(middle, 1),
        "rss_mb_last_third": round(last, 1),
        "first_error": next(iter(load.failures), None),
    }
    print(json.dumps(told))
    return told


def main(argv):
    """The program."""
    del argv
    cfg = config.from_flags(LoadConfig)
    told = run(cfg)
    grew = told["rss_mb_last_third"] > (1 + cfg.growth) * told["rss_mb_middle_third"]
    return int(bool(told["errors"] or told["wrong_answers"] or grew))


if __name__ == "__main__":
    config.define_flags(LoadConfig)
    checks.run_program(main)
