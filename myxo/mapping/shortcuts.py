"""A way past the proxy, between a caller and a worker of one machine.

A lane leads through the proxy, which chooses the worker and counts whom it has room for. Where both
ends are on one machine, relaying each byte takes as much of that machine as small items do, and
copies large ones twice more. So a worker offers a socket of the system's in its HELLO, by a
name that only programs of the same machine can reach. A caller who does goes on there, and keeps
the proxy's connection for what it says: that the worker is taken. Whoever cannot, because it is on
another machine or in a container's network, stays on the lane that it has.
"""

import hmac
import secrets
import select
import socket
import sys
from contextlib import suppress
from dataclasses import dataclass

BUFFER_BYTES = 1 << 22
"""Wished for each way; the system gives as much of it as it lets any program have."""

TOKEN_BYTES = 16
TOKEN_S = 1.0
"""For a caller's first word: it is sent with the connection."""

Offer = tuple[str, bytes]
"""The name of a socket, and what has to be said there first: names can be read by everyone."""


@dataclass(frozen=True, slots=True)
class Shortcut:
    """A worker's offer to the caller of one lane.

    Attributes:
        listener: where that one comes in.
        offer: what it has to know.
    """

    listener: socket.socket
    offer: Offer

    def taken(self, lane: socket.socket) -> socket.socket | None:
        """Wait for the caller's first word; return where it goes on if that is not the lane."""
        with self.listener:
            poll = select.poll()
            poll.register(lane, select.POLLIN)
            poll.register(self.listener, select.POLLIN)
            while lane.fileno() not in [ready for ready, _ in poll.poll()]:
                connection, _ = self.listener.accept()
                if self._is_the_callers(connection):
                    return connection
                connection.close()
        return None

    def _is_the_callers(self, connection: socket.socket) -> bool:
        connection.settimeout(TOKEN_S)
        said = b""
        with suppress(OSError):
            said = connection.recv(TOKEN_BYTES, socket.MSG_WAITALL)
        connection.settimeout(None)
        _widen(connection)
        return hmac.compare_digest(said, self.offer[1])


def offered() -> Shortcut | None:
    """Return what a worker offers to one caller; None where the system has no such sockets."""
    if sys.platform != "linux":
        return None
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    name = f"myxo-map-{secrets.token_hex(16)}"
    try:
        listener.bind(f"\0{name}")
        listener.listen(1)
    except OSError:
        listener.close()
        return None
    return Shortcut(listener, (name, secrets.token_bytes(TOKEN_BYTES)))


def take(offer: Offer | None) -> socket.socket | None:
    """Return a connection to the worker that made an offer; None if it cannot be reached so."""
    if offer is None or sys.platform != "linux":
        return None
    name, token = offer
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    connection.setblocking(False)
    try:
        connection.connect(f"\0{name}")
        connection.send(token)
    except OSError:
        connection.close()
        return None
    _widen(connection)
    return connection


def _widen(connection: socket.socket) -> None:
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, BUFFER_BYTES)
