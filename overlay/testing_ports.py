"""Ports for what a test starts in a moment: free now, and given to nobody else meanwhile.

Who asks the system for any port and gives it back to tell it to somebody else must hope that the
system gives it to no third one in between, which on a busy machine it does now and then. So these
come from below the range that Linux gives from, and below that of the process runtime. Who gives
one holds a claim to it that every process on the machine sees: an abstract Unix socket named for
the port, which ends with the process and is seen in just the network namespace where the port is.
"""

import atexit
import random
import socket
from collections import deque
from contextlib import suppress

PORTS = range(10_000, 20_000)

_MOST_CLAIMS = 128
"""Of the last ports given; by then whoever asked for an earlier one listens there."""

_claims: deque[socket.socket] = deque()


@atexit.register
def _give_up_claims() -> None:
    while _claims:
        _claims.popleft().close()


def free_port() -> int:
    """Return a port on which nobody listens now, neither by TCP nor by UDP.

    Raises:
        OSError: there is none left.
    """
    (port,) = free_ports(1)
    return port


def free_ports(count: int) -> list[int]:
    """Return so many different ones; see `free_port`."""
    found: list[int] = []
    start = random.SystemRandom().randrange(len(PORTS))
    for port in (*PORTS[start:], *PORTS[:start]):
        if (claim := claimed(port)) is None:
            continue
        if not _is_free(port):
            claim.close()
            continue
        _claims.append(claim)
        found.append(port)
        if len(found) == count:
            return found
    raise OSError(f"of the ports {PORTS.start} to {PORTS.stop - 1} only {len(found)} are free")


def claimed(port: int) -> socket.socket | None:
    """Return what keeps a port from being given until it is closed; None if somebody has that."""
    while len(_claims) >= _MOST_CLAIMS:
        _claims.popleft().close()
    claim = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    try:
        claim.bind(f"\0myxo-test-port-{port}")
    except OSError:
        claim.close()
        return None
    return claim


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
