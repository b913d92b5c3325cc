"""Starts several workers of one program on this machine: to try what will run on several.

    python -m tfbert.launch.local --workers=2 -- --flagfile=base.flags --vocab_file=vocab ...

Every worker gets the flags behind `--`, `--strategy=multi_worker` and its own TF_CONFIG. Ctrl-C and SIGTERM go on
to all of them. What they say comes out here, each line with the worker's number.
"""

import dataclasses
import json
import os
import signal
import socket
import subprocess
import sys
import threading

from tfbert import checks, config


@dataclasses.dataclass(frozen=True)
class LocalConfig:
    """The flags; those of the program stand behind --."""

    workers: int = config.field(2, "Processes.", lower_bound=1)
    program: str = config.field("tfbert.pretrain", "The module that each of them runs.")

    def __post_init__(self):
        config.check_bounds(self)


def free_addresses(count):
    """host:port of ports of this machine that nothing listens at."""
    sockets = [socket.socket() for _ in range(count)]
    try:
        for s in sockets:
            s.bind(("localhost", 0))
        return [f"localhost:{s.getsockname()[1]}" for s in sockets]
    finally:
        for s in sockets:
            s.close()


def environments(addresses):
    """The environment of each worker."""
    tasks = [{"type": "worker", "index": i} for i in range(len(addresses))]
    return [{**os.environ, "TF_CONFIG": json.dumps({"cluster": {"worker": addresses}, "task": task})} for task in tasks]


def _forward(process, index, out):
    for line in process.stdout:
        out.write(f"[{index}] {line}")
        out.flush()


def run(flags, arguments):
    """Starts the workers and waits for them; returns 0, or the first status that is not."""
    command = [sys.executable, "-m", flags.program, *arguments, "--strategy=multi_worker"]
    processes = [
        subprocess.Popen(
            command,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            start_new_session=True,  # Ctrl-C of the terminal comes to this program alone, which passes it on
        )
        for environment in environments(free_addresses(flags.workers))
    ]

    def pass_on(number, _):
        for process in processes:
            process.send_signal(number)

    before = {number: signal.signal(number, pass_on) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        threads = [threading.Thread(target=_forward, args=(p, i, sys.stderr)) for i, p in enumerate(processes)]
        for thread in threads:
            thread.start()
        statuses = [process.wait() for process in processes]
        for thread in threads:
            thread.join()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    # A worker that a signal ended has a negative status; shells say 128 and the signal.
    return next((status if status > 0 else 128 - status for status in statuses if status), 0)


def main(argv):
    """The program."""
    return run(config.from_flags(LocalConfig), argv[1:])


if __name__ == "__main__":
    config.define_flags(LocalConfig)
    checks.run_program(main, foreign_flags=True)
