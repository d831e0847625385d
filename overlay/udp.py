"""UDP sockets that carry sealed datagrams beside the TCP listener, on the same port number.

What arrives is opened, and handed on with who sent it; what does not open leaves no trace but a
count. Sending never waits: a datagram that the kernel has no room for is dropped, as one is on a
full link. Where a peer is and whether it is reached is decided in `endpoints.py`; what the
datagrams say is nobody's business here.
"""

import errno
import socket
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass

import structlog
import trio

from overlay.advertising import host_port
from overlay.datagrams import MAX_DATAGRAM_BYTES
from overlay.endpoints import Endpoint, Endpoints, Reach
from overlay.errors import AddressTaken
from overlay.names import PeerId
from overlay.sealing import Sealer

log: structlog.stdlib.BoundLogger = structlog.get_logger()

RECEIVE_BATCH = 32
"""Datagrams taken in before other tasks get their turn: some 3 ms of work."""

RECEIVE_BUFFER_BYTES = 1024 * 1024
"""Asked of the kernel, which grants what `net.core.rmem_max` allows: a process that waits for a
busy core must not lose what arrives meanwhile."""

_PASSING = frozenset(
    {
        errno.ECONNREFUSED,
        errno.ECONNRESET,
        errno.EHOSTUNREACH,
        errno.EHOSTDOWN,
        errno.ENETUNREACH,
        errno.ENETDOWN,
        errno.ENOBUFS,
        errno.ENOMEM,
    }
)
"""What ICMP says about a datagram sent earlier, which anybody can forge, and a kernel short of
memory: nothing to stop for."""


def bind_udp(host: str, port: int) -> socket.socket:
    """Return a UDP socket bound to an IP address and port, for `SealedUdp` to close.

    Args:
        host: where the TCP listener is bound; may be a wildcard.
        port: the listener's port, which UDP has apart; 0 for any.

    Raises:
        AddressTaken: it cannot be bound; says why. The network can be used without.
    """
    family = _family(host)
    sock = socket.socket(family, socket.SOCK_DGRAM)
    try:
        sock.setblocking(False)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER_BYTES)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)  # as the TCP listener
        sock.bind((host, port))
    except OSError as exc:
        sock.close()
        raise AddressTaken(
            f"UDP {host_port(host, port)} cannot be bound ({exc.strerror or exc}): datagrams go "
            "through streams instead; free the port or choose another one for both TCP and UDP"
        ) from exc
    return sock


def bind_beside(listeners: Iterable[tuple[str, int]]) -> list[socket.socket]:
    """Return UDP sockets at the addresses and ports of TCP listeners, one for each address family.

    What cannot be bound is left out and logged: streams carry datagrams then.
    """
    sockets: dict[int, socket.socket] = {}
    for host, port in listeners:
        if _family(host) in sockets:
            continue
        try:
            sock = bind_udp(host, port)
        except AddressTaken as exc:
            log.warning("udp.unavailable", reason=str(exc))
        else:
            sockets[sock.family] = sock
    return list(sockets.values())


def bound_port(sock: socket.socket) -> int:
    """Return the port that a socket is bound to."""
    port: int = sock.getsockname()[1]
    return port


@dataclass(slots=True)
class UdpCounts:
    """What went over the sockets since they were opened.

    Attributes:
        sent: datagrams that the kernel took.
        sent_bytes: their bytes, without headers.
        received: datagrams that opened.
        received_bytes: of all that arrived, whether they opened or not.
        unsent_full: dropped because the kernel had no room.
        unsent_refused: dropped because the system sends nothing there.
    """

    sent: int = 0
    sent_bytes: int = 0
    received: int = 0
    received_bytes: int = 0
    unsent_full: int = 0
    unsent_refused: int = 0


class SealedUdp:
    """Exchanges sealed datagrams with the peers that it knows, while `run` runs.

    Args:
        sockets: one for each address family, from `bind_udp`; `run` closes them.
        sealer: this process's.
        received: called with each peer and message; returns whether the message answers one that
            was sent here, which proves that datagrams get through both ways.
        announced: called with each datagram and the IP address that it came from, before it is
            opened; returns whether it was an announcement, which needs no session.
        announcement: returns what is to be sent to a peer ahead of a message that it may not be
            able to open yet; None for nothing.

    Attributes:
        counts: what went over the sockets.
    """

    def __init__(
        self,
        sockets: Sequence[socket.socket],
        sealer: Sealer,
        *,
        received: Callable[[PeerId, bytes], bool],
        announced: Callable[[bytes, str], bool] = lambda *_: False,
        announcement: Callable[[PeerId], bytes | None] = lambda _: None,
    ) -> None:
        self.counts = UdpCounts()
        self._sockets: dict[int, socket.socket] = {sock.family: sock for sock in sockets}
        self._sealer = sealer
        self._received = received
        self._announced = announced
        self._announcement = announcement
        self._endpoints = Endpoints()

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Receive until cancelled, then close the sockets."""
        with ExitStack() as stack:
            for sock in self._sockets.values():
                stack.enter_context(sock)
            async with trio.open_nursery() as nursery:
                for sock in self._sockets.values():
                    nursery.start_soon(self._receive, sock)
                task_status.started()

    def know(self, peer: PeerId, public_key: bytes, candidates: Iterable[Endpoint]) -> None:
        """Take in what the record of `peer` says: its key, and where it receives datagrams."""
        renewed = self._sealer.know(peer, public_key)
        if not self._sealer.knows(peer):
            self._endpoints.forget(peer)
            return
        now = trio.current_time()
        self._endpoints.know(peer, [c for c in candidates if _family(c.host) in self._sockets], now)
        if renewed:
            self._endpoints.restarted(peer, now)

    def forget(self, peer: PeerId) -> None:
        """Drop what is held of `peer`."""
        self._sealer.forget(peer)
        self._endpoints.forget(peer)

    def reach(self, peer: PeerId) -> Reach:
        """Return whether datagrams to `peer` get through."""
        return self._endpoints.reach(peer)

    def send(self, peer: PeerId, message: bytes, *, wants_answer: bool) -> bool:
        """Send `message` to `peer` if it may arrive; return whether that will do.

        Args:
            peer: the receiver.
            message: at most `MAX_MESSAGE_BYTES`.
            wants_answer: whether silence will mean that it did not arrive.

        Returns:
            False: send it by a stream as well, if there is one. The peer may get it twice.
        """
        way = self._endpoints.way(peer, trio.current_time(), wants_answer=wants_answer)
        if way.endpoint is None:
            return False
        datagram = self._sealer.seal(peer, message)
        if datagram is None:
            return False
        if way.stranger and (announcement := self._announcement(peer)) is not None:
            self.transmit(announcement, way.endpoint)
        return self.transmit(datagram, way.endpoint) and way.sure

    def transmit(self, datagram: bytes, to: Endpoint) -> bool:
        """Send a datagram as it is; return whether the system took it."""
        sock = self._sockets.get(_family(to.host))
        if sock is None:
            return False
        try:
            sock.sendto(datagram, to)
        except BlockingIOError:
            self.counts.unsent_full += 1
            return False
        except OSError:
            self.counts.unsent_refused += 1
            return False
        self.counts.sent += 1
        self.counts.sent_bytes += len(datagram)
        return True

    async def _receive(self, sock: socket.socket) -> None:
        while True:
            await trio.lowlevel.wait_readable(sock)
            while self._receive_batch(sock):
                await trio.lowlevel.checkpoint()

    def _receive_batch(self, sock: socket.socket) -> bool:
        """Take in what is there, but no more than a batch; return whether there may be more."""
        for _ in range(RECEIVE_BATCH):
            try:
                datagram, address = sock.recvfrom(MAX_DATAGRAM_BYTES + 1)
            except BlockingIOError:
                return False
            except OSError as exc:
                if exc.errno not in _PASSING:
                    raise
                continue
            self._take(datagram, Endpoint(*address[:2]))
        return True

    def _take(self, datagram: bytes, source: Endpoint) -> None:
        self.counts.received_bytes += len(datagram)
        if self._announced(datagram, source.host):
            self.counts.received += 1
            return
        opened = self._sealer.open(datagram)
        if opened is None:
            return
        self.counts.received += 1
        peer, message = opened
        self._endpoints.heard(peer, source)
        if self._received(peer, message):
            self._endpoints.answered(peer)


def _family(host: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in host else socket.AF_INET
