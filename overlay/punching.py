"""Turning a relayed connection into a direct one: both ends dial each other in the same moment.

A router that translates addresses lets in what answers something that went out before. When two
peers behind such routers dial each other's outside address at the same time, each router has seen
its own peer's packet go out before the other's arrives, and TCP's simultaneous open makes one
connection of the two. The peer that accepted the relayed connection measures the way over the
relay, says "now", and dials half that time later, as the other hears it. Routers keep the outside
port for an inside port, so both dial from the port that they listen on.

This is libp2p's DCUtR (https://github.com/libp2p/specs/blob/master/relay/DCUtR.md). What counts is
whether a direct connection stands, however it came about. If none does after some tries, the
relayed one stays in use, and nobody needs to know.
"""

from collections.abc import Awaitable, Callable, Iterable, Sequence
from functools import partial
from random import Random

import structlog
import trio

from overlay.addresses import Address, parse_addresses
from overlay.circuits import (
    PUNCH_PROTOCOL,
    Observed,
    Sync,
    decode_punch,
    encode_punch,
    read_delimited,
)
from overlay.connection import Connection, MuxedBytes
from overlay.errors import MalformedMessage, MyxoError, PeerUnreachable
from overlay.host import Host
from overlay.names import PeerId

TRIES = 3
"""As the specification has it; each measures the way anew."""

MAX_PUNCHES = 16
"""Under way at once; a further relayed connection stays one."""

MAX_ADDRESSES = 4
"""Of the other end that are dialled; each try costs a socket."""

WINDOW_S = 5.0
"""For one try: a first packet that came too early and was dropped is sent again after 1 s, and the
handshake takes some five round trips."""

DIAL_TIMEOUT_S = 2.0
"""For an ordinary dial of an address that the other end publishes."""

MESSAGE_TIMEOUT_S = 10.0
_REFUSED_MIN_S, _REFUSED_MAX_S = 0.02, 0.1
"""Before another dial in the same window, where a router answered the first with a refusal."""

log: structlog.stdlib.BoundLogger = structlog.get_logger()


class Puncher:
    """Punches for a host from the moment it is made.

    Args:
        host: this peer's.
        observed: returns where this peer may perhaps be dialled from outside.
        published: returns where a peer says that it can be dialled.
        random: spreads the dials of one try.
    """

    def __init__(
        self,
        host: Host,
        observed: Callable[[], Iterable[Address]],
        published: Callable[[PeerId], Iterable[Address]],
        random: Random,
    ) -> None:
        self._host = host
        self._observed = observed
        self._published = published
        self._random = random
        self._initiating: dict[PeerId, trio.CancelScope] = {}
        self._responding: set[PeerId] = set()
        host.handle_bytes(PUNCH_PROTOCOL, self._respond)

    async def initiate(self, relayed: Connection) -> None:
        """Try to get a direct connection beside `relayed`, which the other end made."""
        peer = relayed.peer
        busy = len(self._initiating) >= MAX_PUNCHES
        if busy or peer in self._initiating or peer in self._responding:
            return
        with trio.CancelScope() as scope:
            self._initiating[peer] = scope
            try:
                await self._upgrade(peer)
            except (MyxoError, trio.TooSlowError) as exc:
                log.debug("punch.failed", peer=peer, reason=str(exc))
            finally:
                del self._initiating[peer]

    async def _upgrade(self, peer: PeerId) -> None:
        published = [one for one in self._published(peer) if one.relay is None]
        if published:
            await self._until_direct(peer, published, DIAL_TIMEOUT_S, self._dial)
        for number in range(1, TRIES + 1):
            if self._host.is_direct(peer):
                return
            await self._punch(peer)
            direct = self._host.is_direct(peer)
            log.info("punch.tried", peer=peer, attempt=number, direct=direct)

    async def _dial(self, peer: PeerId, target: Address) -> None:
        try:
            await self._host.connect(peer, str(target), timeout_s=DIAL_TIMEOUT_S)
        except PeerUnreachable as exc:
            log.debug("punch.unreachable", peer=peer, reason=str(exc))

    async def _punch(self, peer: PeerId) -> None:
        """Make one try as the end that says when."""
        own = tuple(self._observed())
        stream = await self._host.open_bytes(peer, PUNCH_PROTOCOL, relayed=True)
        try:
            with trio.fail_after(MESSAGE_TIMEOUT_S):
                asked_at = trio.current_time()
                await stream.write(encode_punch(Observed(own)))
                theirs = await self._read_observed(stream)
                round_trip_s = trio.current_time() - asked_at
                if not theirs:
                    raise PeerUnreachable(f"{peer} can be dialled nowhere")
                await stream.write(encode_punch(Sync()))
            await trio.sleep(round_trip_s / 2)
            await self._open(peer, theirs, dialled=False)
        finally:
            await _close(stream)

    async def _respond(self, connection: Connection, stream: MuxedBytes) -> None:
        """Make one try as the end that is told when."""
        peer = connection.peer
        if not connection.relayed or not self._may_respond(peer):
            await stream.reset()
            return
        self._responding.add(peer)
        try:
            with trio.fail_after(MESSAGE_TIMEOUT_S):
                theirs = await self._read_observed(stream)
            # From the answer on the other end may dial, before the word to do so is heard here.
            with self._host.reversing(peer, ((one.host, one.port) for one in theirs)):
                with trio.fail_after(MESSAGE_TIMEOUT_S):
                    await stream.write(encode_punch(Observed(tuple(self._observed()))))
                    if not isinstance(decode_punch(await read_delimited(stream)), Sync):
                        raise MalformedMessage("something else than a sync came")
                await self._open(peer, theirs, dialled=True)
        finally:
            self._responding.discard(peer)
            await _close(stream)

    def _may_respond(self, peer: PeerId) -> bool:
        """Whether to take part in the other's try.

        If both have come over a relay at once, both may initiate, each for the other's connection;
        the one with the greater id goes on.
        """
        own = self._initiating.get(peer)
        if own is not None and self._host.peer_id < peer:
            own.cancel()
            own = None
        busy = len(self._responding) >= MAX_PUNCHES
        return own is None and peer not in self._responding and not busy

    async def _open(self, peer: PeerId, theirs: Sequence[Address], *, dialled: bool) -> None:
        """Dial what the other end dials from, and from what it dials, until one dial succeeds."""
        dial = partial(self._keep_dialling, dialled=dialled)
        await self._until_direct(peer, theirs, WINDOW_S, dial)

    async def _keep_dialling(self, peer: PeerId, target: Address, *, dialled: bool) -> None:
        while True:
            try:
                await self._host.dial_from_listener(peer, target, dialled=dialled)
            except PeerUnreachable as exc:
                log.debug("punch.refused", peer=peer, reason=str(exc))
            await trio.sleep(self._random.uniform(_REFUSED_MIN_S, _REFUSED_MAX_S))

    async def _read_observed(self, stream: MuxedBytes) -> list[Address]:
        """Return where the other end can perhaps be dialled.

        An address that is this host's own is left out: behind two routers of one make, two machines
        can have the same, and a socket that dials the port that it is bound to meets itself.
        """
        message = decode_punch(await read_delimited(stream))
        if not isinstance(message, Observed):
            raise MalformedMessage("a sync came before the addresses")
        own = {(one.host, one.port) for one in parse_addresses(self._host.listen_addresses())}
        usable = [
            one
            for one in message.addresses
            if one.kind in {"ip4", "ip6"} and (one.host, one.port) not in own
        ]
        return usable[:MAX_ADDRESSES]

    async def _until_direct(
        self,
        peer: PeerId,
        targets: Sequence[Address],
        timeout_s: float,
        dial: Callable[[PeerId, Address], Awaitable[None]],
    ) -> None:
        """Dial all targets at once; return when a direct connection stands, or in `timeout_s`."""
        with trio.move_on_after(timeout_s):
            async with trio.open_nursery() as nursery:
                for target in targets[:MAX_ADDRESSES]:
                    nursery.start_soon(dial, peer, target)
                while not self._host.is_direct(peer):
                    await self._host.next_change.wait()
                nursery.cancel_scope.cancel()


async def _close(stream: MuxedBytes) -> None:
    with trio.CancelScope(shield=True):
        await stream.close()
