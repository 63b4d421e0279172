"""Ports for the servers of tests.

Below the range that the kernel gives to outgoing connections, which would otherwise take a port
between its choice and its use; each worker of a parallel run has a block of its own. A port is
given once by a process, and only if it can be bound now.
"""

import contextlib
import itertools
import os
import socket
from collections.abc import Iterator

FIRST, BLOCK, BLOCKS = 10_000, 2_750, 8


def _candidates() -> Iterator[int]:
    worker = os.environ.get("PYTEST_XDIST_WORKER", "gw0")[2:]
    block = FIRST + int(worker) % BLOCKS * BLOCK
    # Two runs at once begin at different places.
    for offset in itertools.count(os.getpid() * 389):
        yield block + offset % BLOCK


_next_port = _candidates()


def free_ports(count: int) -> list[int]:
    """Ports nobody listens on; held open together so that they differ."""
    found: list[int] = []
    with contextlib.ExitStack() as held:
        while len(found) < count:
            port = next(_next_port)
            probe = held.enter_context(socket.socket())
            with contextlib.suppress(OSError):
                probe.bind(("127.0.0.1", port))
                found.append(port)
    return found


def free_port() -> int:
    (port,) = free_ports(1)
    return port
