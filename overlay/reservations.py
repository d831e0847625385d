"""How a peer that cannot be dialled stays within reach: reservations at relays, made and kept.

Two are kept where there are two relays, so that the end of one leaves a way. A reservation holds
for as long as the connection on which it was made, and until it expires: it is renewed at half its
time, and made anew when the connection has ended. Who reaches this peer through a relay has a
connection from end to end; that it is the peer that the relay names is checked before it is used.
"""

from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, replace
from math import inf

import structlog
import trio

from overlay.addresses import Address
from overlay.circuits import (
    HOP_PROTOCOL,
    STOP_PROTOCOL,
    Answer,
    Connect,
    Status,
    ask_for_reservation,
    decode_stop,
    encode_stop,
    read_delimited,
)
from overlay.connection import Connection, MuxedBytes
from overlay.errors import MalformedMessage, PeerUnreachable, ProtocolRefused
from overlay.host import Host
from overlay.names import PeerId

WANTED = 2
"""Relays at once: the end of one must not cut this peer off."""

ADDRESSES_PER_RELAY = 4
"""Published of what one relay says of itself; a record has room for 32."""

ASK_TIMEOUT_S = 10.0
RETRY_FIRST_S, RETRY_MOST_S = 1.0, 60.0
"""After a relay refused or did not answer; doubled each time."""

_MOST_DOUBLED = 10

LOOK_EVERY_S = 2.0
"""While relays are lacking. A peer may become one without a new connection: its record comes later
than that, or it is found alive."""

RENEW_LEAST_S, RENEW_MOST_S = 30.0, 1800.0
"""Between two renewals, whatever the relay's clock makes of the time that is left."""

log: structlog.stdlib.BoundLogger = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Reservation:
    """What one relay granted.

    Attributes:
        addresses: circuits that lead here.
        connection: on which it was asked; it ends with this.
        renew_at: in trio's seconds.
    """

    addresses: tuple[Address, ...]
    connection: Connection
    renew_at: float


@dataclass(slots=True)
class _Failures:
    count: int = 0
    retry_at: float = 0.0
    connected: bool = False


def renew_after_s(lasts_s: float) -> float:
    """Return when to renew a reservation that lasts so long, as its relay's clock has it."""
    return min(max(lasts_s / 2, RENEW_LEAST_S), RENEW_MOST_S)


class Reservations:
    """Keeps reservations while `run` runs.

    Args:
        host: this peer's.
        connect: connects to a peer.
        candidates: returns the peers that may serve as relays, best first.
        changed: called with the circuit addresses, without this peer's id, when they are others.
        beside: run beside each connection that comes through a relay.
        clock: returns the seconds since 1970, by which a relay says when a reservation ends.
    """

    def __init__(
        self,
        host: Host,
        connect: Callable[[PeerId], Awaitable[None]],
        candidates: Callable[[], Iterable[PeerId]],
        changed: Callable[[tuple[str, ...]], None],
        beside: Callable[[Connection], Awaitable[None]],
        clock: Callable[[], float],
    ) -> None:
        self._host = host
        self._connect = connect
        self._candidates = candidates
        self._changed = changed
        self._beside = beside
        self._clock = clock
        self._held: dict[PeerId, Reservation] = {}
        self._failures: dict[PeerId, _Failures] = {}
        self._told: tuple[str, ...] = ()

    async def run(self) -> None:
        """Make and keep reservations until cancelled."""
        self._host.handle_bytes(STOP_PROTOCOL, self._accept)
        try:
            while True:
                change = self._host.next_change
                self._drop_lost()
                await self._renew()
                await self._make_missing()
                self._tell()
                with trio.move_on_at(self._next_due()):
                    await change.wait()
        finally:
            self._held.clear()
            self._told = ()

    def _drop_lost(self) -> None:
        self._held = {r: held for r, held in self._held.items() if not held.connection.is_closed}

    async def _renew(self) -> None:
        for relay, held in list(self._held.items()):
            if held.renew_at <= trio.current_time():
                await self._reserve(relay)

    async def _make_missing(self) -> None:
        for relay in sorted(self._candidates(), key=lambda one: not self._host.is_direct(one)):
            if len(self._held) >= WANTED:
                return
            if relay not in self._held and self._is_due(relay):
                await self._reserve(relay)

    def _is_due(self, relay: PeerId) -> bool:
        """Whether a relay was not asked lately, or has come back since."""
        failures = self._failures.get(relay)
        if failures is None or failures.retry_at <= trio.current_time():
            return True
        return self._host.is_direct(relay) and not failures.connected

    async def _reserve(self, relay: PeerId) -> None:
        try:
            with trio.fail_after(ASK_TIMEOUT_S):
                self._held[relay] = await self._asked(relay)
        except (PeerUnreachable, ProtocolRefused, trio.TooSlowError) as exc:
            self._held.pop(relay, None)
            failures = self._failures.setdefault(relay, _Failures())
            delay_s = min(RETRY_FIRST_S * 2**failures.count, RETRY_MOST_S)
            failures.retry_at = trio.current_time() + delay_s
            failures.count = min(failures.count + 1, _MOST_DOUBLED)
            failures.connected = self._host.is_direct(relay)
            log.info("relay.not_reserved", relay=relay, reason=str(exc))
        else:
            self._failures.pop(relay, None)

    async def _asked(self, relay: PeerId) -> Reservation:
        if not self._host.is_direct(relay):
            await self._connect(relay)
        stream = await self._host.open_bytes(relay, HOP_PROTOCOL)
        try:
            answer = await ask_for_reservation(stream)
        finally:
            with trio.CancelScope(shield=True):
                await stream.close()
        own = [one for one in answer.addresses if one.peer in {None, relay}]
        circuits = tuple(replace(one, peer=None, relay=relay) for one in own[:ADDRESSES_PER_RELAY])
        if not circuits:
            raise PeerUnreachable("the relay does not say where it can be dialled")
        renew_at = trio.current_time() + renew_after_s(answer.expires_at - self._clock())
        return Reservation(circuits, stream.connection, renew_at)

    def _tell(self) -> None:
        """Say where this peer can be reached; when no relay is left, what was said stays.

        A relay that comes back is likelier than an address of nothing is useful.
        """
        told = tuple(str(one) for held in self._held.values() for one in held.addresses)
        if told and told != self._told:
            self._told = told
            log.info("relay.reserved", relays=list(self._held), addresses=list(told))
            self._changed(told)

    def _next_due(self) -> float:
        renewals = (held.renew_at for held in self._held.values())
        if len(self._held) >= WANTED:
            return min(renewals, default=inf)
        wanted = set(self._candidates())
        retries = (one.retry_at for relay, one in self._failures.items() if relay in wanted)
        return min((*renewals, *retries, trio.current_time() + LOOK_EVERY_S))

    async def _accept(self, connection: Connection, stream: MuxedBytes) -> None:
        """Take a circuit that a relay brings, and run what comes over it."""
        relay = connection.peer
        status, source = Status.OK, None
        try:
            with trio.fail_after(ASK_TIMEOUT_S):
                message = decode_stop(await read_delimited(stream))
        except MalformedMessage:
            status = Status.MALFORMED_MESSAGE
        else:
            if not isinstance(message, Connect):
                status = Status.UNEXPECTED_MESSAGE
            elif connection.relayed or relay not in self._held:
                status = Status.PERMISSION_DENIED
            else:
                source = message.peer
        await stream.write(encode_stop(Answer(status)))
        if source is None:
            await stream.close()
        else:
            await self._host.accept_circuit(stream, source, relay, self._beside)
