"""Where the processes that will train together wait until all of them have started.

TensorFlow waits too when it joins a cluster, but there it has taken SIGTERM for a use of its own and lets no Python
run: only SIGKILL ends a process whose fellows never come. So all meet here first, where a signal ends the process as
ever, and TensorFlow is asked when nobody is missing.

The first worker listens at its own address, which TensorFlow takes over afterwards; the others knock there.
"""

import contextlib
import re
import socket
import time

_HELLO, _ANSWER = b"tfbert worker %d\n", b"all"
_PAUSE, _PATIENCE = 0.3, 5.0  # seconds: between two looks; for one that has knocked to say who it is


def wait_for_all(members):
    """Comes back when every worker has called this.

    Args:
        members: The `cluster.Cluster`.

    Raises:
        OSError: the first worker cannot listen at its port.
    """
    host, _, port = members.workers[0].rpartition(":")
    if members.index == 0:
        _receive(int(port), len(members.workers))
    else:
        _knock((host.strip("[]"), int(port)), members.index)


def _receive(port, count):
    """What the first does: holds every connection until there is one of each of the others, then answers all."""
    both, there = socket.has_dualstack_ipv6(), {}
    family = socket.AF_INET6 if both else socket.AF_INET
    with contextlib.ExitStack() as stack:
        with socket.create_server(("", port), family=family, dualstack_ipv6=both) as server:
            server.settimeout(_PAUSE)
            while len(there) < count - 1:
                with contextlib.suppress(OSError):  # nobody has come, or who came has left again
                    connection = stack.enter_context(server.accept()[0])
                    index = _who_knocks(connection)
                    if index is not None and 0 < index < count:
                        there[index] = connection
                there = {index: connection for index, connection in there.items() if _is_open(connection)}
        # The port is free again before anyone is told, so that nobody takes this one for TensorFlow.
        for connection in there.values():
            with contextlib.suppress(OSError):  # TensorFlow will say that it is gone
                connection.sendall(_ANSWER)


def _who_knocks(connection):
    """The number of a worker, or None if something else has come to this port."""
    connection.settimeout(_PATIENCE)
    with connection.makefile("rb") as file:
        said = re.fullmatch(_HELLO.replace(b"%d", rb"(\d{1,9})"), file.readline(64))
    connection.setblocking(False)
    return int(said[1]) if said else None


def _is_open(connection):
    """Whether the other end is still there; one that waits says nothing more."""
    try:
        return connection.recv(1) != b""
    except BlockingIOError:
        return True
    except OSError:
        return False


def _knock(address, index):
    """What the others do, until the first answers."""
    while True:
        with contextlib.suppress(OSError):  # it is not there yet, or not any more
            with socket.create_connection(address, _PATIENCE) as connection:
                connection.sendall(_HELLO % index)
                connection.settimeout(None)
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
                # Whatever it says: TensorFlow speaks here if the first went on and this one was started again.
                if connection.recv(1):
                    return
        time.sleep(_PAUSE)
