"""A process that answers texts and times it, asked by JSON lines; any Python will do, so that others can be asked too.

What is loaded there is a function `ask(part, texts)`: part is "whole" (text in, answer out) or "tokenize". See
`export.timed_export` for what this project exports, and tests/peers/serve_transformers.py for others.
"""

import json
import os
import re
import subprocess
import sys
import time


def _window(ask, job):
    """Asks the batches of a job in turn, whole turns only, for at least its seconds: [ms of each request]."""
    for texts in job["batches"][:1]:  # what is done once for a shape is not part of it
        ask(job["part"], texts)
    took, began = [], time.perf_counter()
    while not took or time.perf_counter() - began < job["seconds"]:
        for texts in job["batches"]:
            start = time.perf_counter()
            ask(job["part"], texts)
            took.append(1e3 * (time.perf_counter() - start))
    return took


def _peak_rss_mb():
    """Of this process since it began; what getrusage tells begins with the memory of the one that started it."""
    with open("/proc/self/status", encoding="ascii") as f:
        return round(int(re.search(r"VmHWM:\s+(\d+)", f.read())[1]) * 1024 / 1e6, 1)


def serve(load):
    """Loads, and answers requests until there are no more: JSON lines of stdin, answers on stdout.

    Args:
        load: Gives `ask`, a function (part, {input name: list of str}) -> a JSON value; None if it has no such part.
    """
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print is no answer
    began = time.perf_counter()
    ask = load()
    told = {"load_s": round(time.perf_counter() - began, 2)}
    while True:
        answers.write(json.dumps(told) + "\n")
        answers.flush()
        line = sys.stdin.readline()
        if not line:
            return
        job = json.loads(line)
        if "seconds" in job:
            told = {"ms": _window(ask, job)}
        else:
            told = {"answer": ask(job["part"], job["batches"][0])}
        told["peak_rss_mb"] = _peak_rss_mb()


class Process:
    """The other side of `serve`.

    Args:
        command: What to run, a list of str; it calls `serve`.
        threads: That it may use; the command has been told, and this is for what libraries read by themselves.

    Raises:
        RuntimeError: it ended before it could answer; the message has the last lines that it said.
    """

    def __init__(self, command, threads):
        root = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
        path = os.pathsep.join([root, *filter(None, [os.environ.get("PYTHONPATH")])])
        known = {"OMP_NUM_THREADS": str(threads), "TF_CPP_MIN_LOG_LEVEL": "2", "PYTHONPATH": path}
        self._command = command
        self._said = open(os.path.join("/tmp", f"tfbert_timed_{os.getpid()}_{id(self)}.log"), "w+b")  # noqa: SIM115
        os.unlink(self._said.name)
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": self._said}
        self._process = subprocess.Popen(command, text=True, env={**os.environ, **known}, **pipes)
        self.load_s = self._read()["load_s"]

    def _read(self):
        line = self._process.stdout.readline()
        if not line:
            self._process.wait()
            self._said.seek(0)
            last = self._said.read().decode("utf-8", "replace").strip().splitlines()[-5:]
            raise RuntimeError(f"{' '.join(self._command)} ended with {self._process.returncode}: {'; '.join(last)}")
        return json.loads(line)

    def _ask(self, **job):
        self._process.stdin.write(json.dumps(job) + "\n")
        self._process.stdin.flush()
        return self._read()

    def answer(self, part, texts):
        """What `ask` gives, once."""
        return self._ask(part=part, batches=[texts])["answer"]

    def window(self, part, batches, seconds):
        """([ms of each request], peak resident MB so far), over at least so many seconds and each batch once."""
        told = self._ask(part=part, batches=batches, seconds=seconds)
        return told["ms"], told["peak_rss_mb"]

    def close(self):
        """Ends it."""
        self._process.stdin.close()
        self._process.wait()
        self._process.stdout.close()
        self._said.close()
