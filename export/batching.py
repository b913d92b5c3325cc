"""Measures how a server should batch the requests of several clients, and writes batching_parameters.txt.

    python -m export.batching --saved_model=saved_model --input_file=texts.txt --clients=32 --max_latency_ms=100 \
        --output=batching_parameters.txt

Each setting of --batch_size x --batch_timeout_micros x --num_batch_threads is tried for --seconds, and answering each
request alone, too: clients (threads of this process) ask one text after the other, a row a request, of a SavedModel in
a session (`export.served_model`) whose requests wait in TensorFlow's own batch scheduler, the one inside TensorFlow
Serving. A JSON line for each says requests a second and the median and 99th percentile of latency. The file gets the
setting with most requests a second whose 99th percentile is within --max_latency_ms; `python -m export.serving
--batching=batching_parameters.txt` takes it. TensorFlow Serving itself is not run: what it adds (gRPC, REST, other
threads) is not in these times, and clients take their share of the processor.
"""

from tfbert import quiet  # isort: skip  # noqa: F401 (first: it holds back start-up noise)

import dataclasses
import itertools
import json
import os
import tempfile
import threading
import time

import numpy as np

from export import batching_parameters, loaders, parity, serving
from export.served_model import ApiError, ServedModel, of_texts
from tfbert import checks, config, machine


@dataclasses.dataclass(frozen=True)
class BatchingConfig:
    """Flags of this program."""

    saved_model: str = config.field("", "A SavedModel, or the folder with its numbered versions.")
    output: str = config.field("batching_parameters.txt", "The file to write.")
    signature: str = config.field("serving_default", "Signature to ask; it takes texts alone.")
    input_file: str = config.field(
        "", "Texts to ask, one a line, with tabs between several inputs; a few are built in."
    )
    clients: int = config.field(32, "Requests at the same time.", lower_bound=1)
    batch_size: tuple[str, ...] = config.field(("8", "32", "128"), "Rows of a batch to try.")
    batch_timeout_micros: tuple[str, ...] = config.field(("0", "1000", "5000"), "Waiting times to try.")
    num_batch_threads: tuple[str, ...] = config.field(("1", "2"), "Numbers of batches at the same time to try.")
    seconds: float = config.field(5.0, "How long each setting is measured.", lower_bound=0.1)
    max_latency_ms: float = config.field(100.0, "The 99th percentile of latency must not be above.", lower_bound=0.1)

    def __post_init__(self):
        config.check_bounds(self)
        checks.require(self.saved_model, "--saved_model must be given", "none")
        checks.require(self.output, "--output must be given", "none")

    def settings(self):
        """All `Batching`s to try."""
        names = ("batch_size", "batch_timeout_micros", "num_batch_threads")
        for name in names:
            right = getattr(self, name) and all(value.isdecimal() for value in getattr(self, name))
            checks.require(right, f"{name} must be whole numbers between commas", f"{name}={getattr(self, name)}")
        values = (map(int, getattr(self, name)) for name in names)
        return [batching_parameters.Batching(*value) for value in itertools.product(*values)]


def requests(about, path):
    """Requests of a row each: a list of {input name: array [1]}.

    Args:
        about: The signature.
        path: A file of texts, or "".

    Raises:
        InputError: the signature takes other things than texts, or a line has not a text for each input.
    """
    names = sorted(about.inputs)
    checks.require(of_texts(about), "signature must be one that takes lists of texts alone", f"inputs {names}")
    if path:
        lines = _lines(path)
        for number, texts in lines:
            must = f"a line must have a text for each of {', '.join(names)}, with tabs between"
            checks.require(len(texts) == len(names), must, f"{len(texts)} texts", f"{path}:{number}")
        rows = [texts for _, texts in lines]
        checks.require(rows, "input_file must have texts", "none", path)
    else:
        texts = parity.texts()
        rows = [[texts[(i + k) % len(texts)] for k in range(len(names))] for i in range(len(texts))]
    return [{name: np.array([text], object) for name, text in zip(names, row)} for row in rows]


def _lines(path):
    """(number, texts as bytes) of each line that is not empty."""
    try:
        with open(path, "rb") as f:
            lines = [line.rstrip(b"\r\n") for line in f]
    except OSError as e:
        raise checks.error("input_file must be a file that can be read", e.strerror, path) from e
    return [(number, line.split(b"\t")) for number, line in enumerate(lines, 1) if line]


class Clients:
    """Threads that ask one request after the other until the time is over.

    Attributes:
        latencies: Seconds of each answer.
        refused: Messages of requests that were not answered.
    """

    def __init__(self, model, signature, asked):
        self._model, self._signature, self._asked = model, signature, asked
        self.latencies, self.refused = [], []

    def _ask(self, number, end):
        for i in itertools.count(number):
            start = time.monotonic()
            if start >= end:
                return
            try:
                self._model.predict(self._signature, self._asked[i * 7919 % len(self._asked)])
            except ApiError as e:
                self.refused.append(str(e))
                continue
            self.latencies.append(time.monotonic() - start)

    def run(self, count, seconds):
        """Asks with so many threads; returns how long it took."""
        start = time.monotonic()
        threads = [threading.Thread(target=self._ask, args=(n, start + seconds)) for n in range(count)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return time.monotonic() - start


def measure(folder, cfg, asked, batching):
    """What one setting gives: {what: number}.

    Args:
        folder: The SavedModel; it is loaded anew, so that no queue of another setting is left.
        cfg: A `BatchingConfig`.
        asked: Of `requests`.
        batching: A `Batching`, or None to answer each request alone.
    """
    model = ServedModel(folder, batching)
    try:
        Clients(model, cfg.signature, asked).run(cfg.clients, min(1.0, cfg.seconds / 2))  # warms up
        clients = Clients(model, cfg.signature, asked)
        took = clients.run(cfg.clients, cfg.seconds)
    finally:
        model.close()
    must = "the model must answer the texts"
    checks.require(clients.latencies, must, clients.refused[0] if clients.refused else "nothing", folder)
    median, p99 = np.percentile(clients.latencies, [50, 99]) * 1000
    return {
        **({"batched": False} if batching is None else {"batched": True, **dataclasses.asdict(batching)}),
        "clients": cfg.clients,
        "requests": len(clients.latencies),
        "refused": len(clients.refused),
        "requests_per_second": round(len(clients.latencies) / took, 1),
        "median_ms": round(float(median), 2),
        "p99_ms": round(float(p99), 2),
    }


def best(found, max_latency_ms):
    """The line of the batched setting with most requests a second within the bound.

    Raises:
        InputError: none is within it.
    """
    batched = [line for line in found if line["batched"] and not line["refused"]]
    fits = [line for line in batched if line["p99_ms"] <= max_latency_ms]
    if not fits:
        least = min((line["p99_ms"] for line in batched), default="none that answered all requests")
        do = "Give a larger --max_latency_ms, fewer --clients or smaller --batch_size"
        must = f"a setting's 99th percentile of latency must be within max_latency_ms={max_latency_ms:g}"
        raise checks.error(must, f"at least {least}", do=do)
    return max(fits, key=lambda line: line["requests_per_second"])


def origin(cfg, chosen, alone):
    """What the file says of where its values are from."""
    texts = f"the texts of {os.path.basename(cfg.input_file)}" if cfg.input_file else "the parity check's texts"
    said = "{requests_per_second} requests/s, median {median_ms} ms, 99th percentile {p99_ms} ms"
    return (
        f"Measured by export.batching on {machine.cpu()}, {machine.cores()} cores, in TensorFlow's batch\n"
        f"scheduler and not in TensorFlow Serving itself: {cfg.clients} clients with {texts}.\n"
        f"With these values {said.format(**chosen)};\n"
        f"each request alone {said.format(**alone)}."
    )


def run(cfg):
    """Measures, prints a JSON line for each setting, writes the file; returns the lines, the chosen one last."""
    folder = loaders.newest_version(cfg.saved_model)
    defs = loaders.signatures(folder)
    checks.require(cfg.signature in defs, f"signature must be one of {sorted(defs)}", repr(cfg.signature))
    asked, found = requests(defs[cfg.signature], cfg.input_file), []
    settings = cfg.settings()
    for batching in settings:
        serving.require_room(folder, batching)
    for batching in [None, *settings]:
        found.append(measure(folder, cfg, asked, batching))
        print(json.dumps(found[-1]), flush=True)
    chosen = best(found, cfg.max_latency_ms)
    values = batching_parameters.Batching(
        **{f.name: chosen[f.name] for f in dataclasses.fields(batching_parameters.Batching)}
    )
    write(cfg.output, batching_parameters.text(values, origin(cfg, chosen, found[0])))
    print(json.dumps({"chosen": dataclasses.asdict(values), "output": cfg.output}))
    return [*found, chosen]


def write(path, text):
    """Writes a file aside and renames it, so that a server never reads half of it."""
    try:
        folder = os.path.dirname(os.path.abspath(path))
        os.makedirs(folder, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".unfinished-", dir=folder) as aside:
            with open(os.path.join(aside, "x"), "w", encoding="utf-8") as f:
                f.write(text)
            os.replace(os.path.join(aside, "x"), path)
    except OSError as e:
        raise checks.error("output must be a file that can be written", e.strerror, path) from e


def main(argv):
    """The program."""
    del argv
    loaders.hush()
    run(config.from_flags(BatchingConfig))


if __name__ == "__main__":
    config.define_flags(BatchingConfig)
    checks.run_program(main)
