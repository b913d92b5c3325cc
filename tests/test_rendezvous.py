"""Tests of tfbert.loop.rendezvous: all come together, strangers do not count, a signal ends who waits."""

import pathlib
import signal
import socket
import subprocess
import sys
import threading
import time

import pytest

from tfbert.launch import local
from tfbert.loop import cluster, rendezvous


@pytest.fixture
def workers():
    return tuple(local.free_addresses(3))


def arrive(workers, index):
    """Lets a worker wait in a thread; the event is set when it comes back."""
    back = threading.Event()

    def wait():
        rendezvous.wait_for_all(cluster.Cluster(workers, index))
        back.set()

    threading.Thread(target=wait, daemon=True).start()  # one that never comes back must not keep pytest
    return back


def connected(address):
    """A connection to the first worker, as soon as it listens."""
    host, port = address.split(":")
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        try:
            return socket.create_connection((host, int(port)), 5)
        except OSError:
            time.sleep(0.05)
    pytest.fail("nobody listens")


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0), (1, 0, 2)])
def test_nobody_comes_back_before_all_are_there(workers, order):
    early = [arrive(workers, index) for index in order[:2]]
    assert not early[0].wait(0.6) and not early[1].is_set()
    last = arrive(workers, order[2])
    assert all(worker.wait(60) for worker in (*early, last))
    host, port = workers[0].split(":")
    socket.create_server((host, int(port))).close()  # the port is free again, for TensorFlow


@pytest.mark.parametrize(
    "said", [b"", b"GET / HTTP/1.1\r\n\r\n", b"tfbert worker 0\n", b"tfbert worker 3\n", b"tfbert worker 1\n"]
)
def test_strangers_and_who_has_left_do_not_count(workers, said):
    """The last of them is worker 1, which ended before worker 2 came."""
    first = arrive(workers, 0)
    with connected(workers[0]) as stranger:
        stranger.sendall(said)
    second = arrive(workers, 2)
    assert not second.wait(1) and not first.is_set()
    third = arrive(workers, 1)
    assert all(worker.wait(60) for worker in (first, second, third))


def test_a_port_that_is_taken(workers):
    host, port = workers[0].split(":")
    with socket.create_server((host, int(port))), pytest.raises(OSError, match="in use"):
        rendezvous.wait_for_all(cluster.Cluster(workers, 0))


@pytest.mark.parametrize("index", [0, 1])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_who_waits(workers, index, number):
    program = (
        "import signal, sys\nfrom tfbert.loop import cluster, rendezvous\n"
        "signal.signal(signal.SIGINT, signal.SIG_DFL)\n"
    )
    program += f"print('up', flush=True)\nrendezvous.wait_for_all(cluster.Cluster({workers!r}, {index}))\n"
    root = pathlib.Path(__file__).parents[1]
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, cwd=root) as process:
        assert process.stdout.readline() == b"up\n"
        time.sleep(0.3)
        process.send_signal(number)
        assert process.wait(20) == -number
