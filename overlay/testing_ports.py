"""Ports for what a test starts in a moment: free now, and given to nobody else meanwhile.

Who asks the system for any port and gives it back to tell it to somebody else must hope that the
system gives it to no third one in between, which on a busy machine it does now and then. So these
come from below the range that Linux gives from, and below that of the process runtime. A process
gives none again that it gave a moment ago, and one of two that run beside each other other ones.
"""

import os
import secrets
import socket
from collections import deque
from collections.abc import Sequence
from contextlib import suppress

PORTS = range(10_000, 20_000)

_SHARES = 16
_given: deque[int] = deque(maxlen=256)
"""Of the 625 of this process; by then whoever asked for one listens there."""


def free_port() -> int:
    """Return a port on which nobody listens now, neither by TCP nor by UDP."""
    (port,) = free_ports(1)
    return port


def free_ports(count: int) -> list[int]:
    """Return so many different ones."""
    found: list[int] = []
    while len(found) < count:
        port = secrets.choice(_own())
        if port not in _given and _is_free(port):
            _given.append(port)
            found.append(port)
    return found


def _own() -> Sequence[int]:
    """Return this process's share of the ports."""
    return PORTS[os.getpid() % _SHARES :: _SHARES]


def _is_free(port: int) -> bool:
    with (
        suppress(OSError),
        socket.socket() as stream,
        socket.socket(type=socket.SOCK_DGRAM) as datagrams,
    ):
        stream.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        stream.bind(("", port))
        datagrams.bind(("", port))
        return True
    return False
