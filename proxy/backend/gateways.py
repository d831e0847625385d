"""The way to another machine's gateway: TLS while its port answers, else carried by the overlay.

A port that nobody can connect to is not tried again by requests, each of which would wait for that
to fail: a task tries it, at intervals that grow, and until it answers requests go over the overlay,
or elsewhere at once where that does not lead there. Then new connections are TLS again.

A path that is cut between two machines which both stand is noticed by the kernel's counters
(`overlay/path.py`): the connections on it are ended within some three seconds, so that what
may be sent twice goes another way.
"""

import socket
from contextlib import suppress
from weakref import WeakSet

import structlog
import trio
from trio.socket import SocketType

from overlay import path
from overlay.errors import PeerUnreachable
from overlay.http.gateway import Carry, GatewayShut, carry_gateway, dial_gateway
from overlay.http.upstream import Pool
from overlay.names import PeerId
from overlay.records import PeerRecord
from overlay.tls import PeerTls
from overlay.view import View

POOL_IDLE = 64
"""Idle connections kept to one target; a burst above it opens more and closes them afterwards."""

RETRY_FIRST_S, RETRY_MOST_S = 0.25, 30.0
"""Until a shut port is tried again: an allocator that restarts is back in a second."""

log = structlog.get_logger()


class GatewayWay:
    """The way to one gateway; `run` opens it again where it was shut.

    Args:
        owner: whose gateway.
        view: knows where it is.
        tls: this peer's contexts.
        carry: opens connections over the overlay.

    Attributes:
        pool: connections to it.
        leads_nowhere: the last connection could be made neither way.
    """

    def __init__(self, owner: PeerId, view: View, tls: PeerTls, carry: Carry) -> None:
        self._owner = owner
        self._view = view
        self._tls = tls
        self._carry = carry
        self._shut: GatewayShut | None = None
        self._closing = trio.Event()
        self._at: tuple[str, ...] = ()
        self.leads_nowhere = False
        self._sockets: WeakSet[SocketType] = WeakSet()
        self.pool = Pool(self._dial, max_idle=POOL_IDLE)

    @property
    def is_shut(self) -> bool:
        """Whether nobody can connect to its port, as far as is known."""
        return self._shut is not None

    async def run(self) -> None:
        """Try a shut port again and again, until cancelled."""
        while True:
            await self._closing.wait()
            wait_s = RETRY_FIRST_S
            while self._shut is not None:
                await trio.sleep(wait_s)
                wait_s = min(2 * wait_s, RETRY_MOST_S)
                await self._try_again()
            self._closing = trio.Event()

    def end_what_is_cut(self) -> None:
        """Shut connections whose path is cut; what is under way on them fails."""
        for sock in [s for s in self._sockets if path.is_cut(s)]:
            log.info("gateway.path_cut", peer=self._owner)
            self._sockets.discard(sock)
            with suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)

    async def _dial(self) -> trio.abc.Stream:
        record = self._record()
        if self._shut is None or record.gateway != self._at:
            self._at = record.gateway
            try:
                direct = await self._open(record)
            except GatewayShut as shut:
                log.info("gateway.shut", host=record.host, reason=str(shut))
                self._shut = shut
                self._closing.set()
            else:
                self._shut = None
                return direct
        try:
            stream = await carry_gateway(self._carry, self._owner)
        except PeerUnreachable:
            self.leads_nowhere = True
            if self._shut is None:
                raise
            raise self._shut from None
        self.leads_nowhere = False
        return stream

    async def _try_again(self) -> None:
        try:
            stream = await self._open(self._record())
        except GatewayShut as shut:
            self._shut = shut
        except PeerUnreachable:
            self._shut = None  # somebody answers there, and tells the next request why not
        else:
            log.info("gateway.open", peer=self._owner)
            self._shut = None
            await self.pool.renew()  # what is carried is given up when it is idle
            await trio.aclose_forcefully(stream)

    async def _open(self, record: PeerRecord) -> trio.abc.Stream:
        stream = await dial_gateway(record, self._tls)
        self.leads_nowhere = False
        path.watch(stream.socket)
        self._sockets.add(stream.socket)
        return stream

    def _record(self) -> PeerRecord:
        record = self._view.peer(self._owner)
        if record is None:
            raise PeerUnreachable(f"{self._owner} is gone")
        return record
