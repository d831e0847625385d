"""One connection to what is loaded, on a socket that never blocks; TLS if it is asked for."""

import errno
import os
import socket
import ssl
from dataclasses import dataclass
from select import EPOLLIN, EPOLLOUT
from typing import Any

import trio

from bench.lab.errors import LoadFailed
from bench.lab.loading.answers import AnswerReader
from bench.lab.loading.request import Request
from bench.lab.loading.target import Target

READ_BYTES = 64 * 1024
_UNDER_WAY = frozenset({0, errno.EINPROGRESS})
CLOSED = -1


@dataclass(frozen=True, slots=True)
class Place:
    """An address to connect to.

    Attributes:
        family: of the address, such as `AF_INET`.
        address: as sockets take it.
        tls: with which a connection is secured; None for none.
        host: the name that its certificate is to have.
    """

    family: int
    address: Any
    tls: ssl.SSLContext | None
    host: str


async def place_of(target: Target, *, verify: bool = True) -> Place:
    """Look up where a target is; once for a whole load, so that no look-up is part of a latency.

    Args:
        target: to whom load goes.
        verify: whether a certificate must be good.

    Raises:
        LoadFailed: the name is unknown.
    """
    try:
        found = await trio.socket.getaddrinfo(
            target.host, target.port, type=socket.SOCK_STREAM, proto=socket.IPPROTO_TCP
        )
    except OSError as exc:
        raise LoadFailed(f"{target.host} is not known: {exc}") from exc
    family, _, _, _, address = found[0]
    tls = _context(verify=verify) if target.scheme == "https" else None
    return Place(family, address, tls, target.host)


def _context(*, verify: bool) -> ssl.SSLContext:
    context = ssl.create_default_context()
    context.set_alpn_protocols(["http/1.1"])
    if not verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context


class Link:
    """A connection, from its first packet on.

    Attributes:
        fd: its descriptor; `CLOSED` once it is.
        open: a request can be sent.
        awaits: the events of epoll that it can go on with.
        reader: of its answers.
        request: which is under way on it; None where it is free.
        since: when that was sent, or else the connection begun.
        unsent: what is left of the request that is being sent.
    """

    __slots__ = (
        "_place",
        "_socket",
        "awaits",
        "fd",
        "open",
        "reader",
        "request",
        "since",
        "unsent",
    )

    def __init__(self, place: Place) -> None:
        self._place = place
        self._socket = socket.socket(place.family, socket.SOCK_STREAM)
        self._socket.setblocking(False)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.fd, self.open, self.awaits = self._socket.fileno(), False, EPOLLOUT
        self.reader, self.unsent = AnswerReader(), memoryview(b"")
        self.request: Request | None = None
        self.since = 0.0
        error = self._socket.connect_ex(place.address)
        if error not in _UNDER_WAY:
            self.close()
            raise OSError(error, os.strerror(error))

    def go_on(self) -> None:
        """Go on with what makes it `open`, after one of the events that it awaits.

        Raises:
            OSError: it cannot be made.
        """
        if not isinstance(self._socket, ssl.SSLSocket):
            if error := self._socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
                raise OSError(error, os.strerror(error))
            if self._place.tls is None:
                self.open, self.awaits = True, EPOLLIN
                return
            self._socket = self._place.tls.wrap_socket(
                self._socket, server_hostname=self._place.host, do_handshake_on_connect=False
            )
        self._shake_hands(self._socket)

    def send(self, data: bytes | memoryview) -> int:
        """Return how many bytes of these the system took; the others are `unsent`."""
        try:
            taken = self._socket.send(data)
        except (BlockingIOError, ssl.SSLWantWriteError, ssl.SSLWantReadError):
            taken = 0
        if taken < len(data):
            self.unsent, self.awaits = memoryview(data)[taken:], EPOLLIN | EPOLLOUT
        elif self.unsent:
            self.unsent, self.awaits = memoryview(b""), EPOLLIN
        return taken

    def receive(self) -> bytes | None:
        """Return what came; nothing at the end, None if there is nothing yet."""
        try:
            return self._socket.recv(READ_BYTES)
        except (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError):
            return None

    @property
    def more(self) -> bool:
        """Return whether more was decrypted than was received, of which no event will tell."""
        return isinstance(self._socket, ssl.SSLSocket) and self._socket.pending() > 0

    def close(self) -> None:
        """Close it; what is under way is lost."""
        self.fd = CLOSED
        self._socket.close()

    def _shake_hands(self, secured: ssl.SSLSocket) -> None:
        try:
            secured.do_handshake()
        except ssl.SSLWantReadError:
            self.awaits = EPOLLIN
        except ssl.SSLWantWriteError:
            self.awaits = EPOLLOUT
        else:
            self.open, self.awaits = True, EPOLLIN
