"""Whether others can dial this peer, found out by asking; and under which addresses it is reached.

A peer behind a router that translates addresses knows only its inside address. A peer outside is
asked to dial back: it knows under which address it sees the asker, and tries the asker's ports
there. It dials nothing else, so that nobody can be made to dial a third party, and it says only
what it found. One dial that succeeds proves nothing for others where the two share a network; so
several are asked, and the most decide, at a draw against the asker. A failure is confirmed once
before it counts, as a packet may have been lost.

Who cannot be dialled is *hidden*: it keeps reservations at relays and publishes their circuits, and
after them its own addresses, for who is on the same machine or network when no relay answers. It
also connects to them from the port that it listens on, so that its router keeps a way for that port
and the relay can tell where it leads: this is what others punch at (`punching.py`).
"""

from collections import OrderedDict
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

import structlog
import trio
from pydantic import BaseModel, Field, ValidationError

from overlay.addresses import MAX_PORT, Address, InvalidAddress, parse_address, parse_addresses
from overlay.connection import Connection, MuxedBytes
from overlay.errors import MalformedMessage, MyxoError, PeerUnreachable
from overlay.framing import FramedStream
from overlay.host import Host
from overlay.names import PeerId
from overlay.reservations import WANTED, Reservations

DIAL_BACK_PROTOCOL = "/myxo/dialback/1.0.0"

MAX_PORTS = 4
"""Of one asker; a peer listens on one, or on one for each address family."""

DIALS_AT_ONCE = 8
"""For all askers together; more are refused and ask again."""

DIAL_EVERY_S = 1.0
"""For one asker; a confirmation comes later than this."""

ASKERS_REMEMBERED = 1024

DIAL_TIMEOUT_S = 3.0
"""A first packet that is lost is sent again after 1 s; the handshake takes four round trips."""

ASK_TIMEOUT_S = 10.0

HELPERS_ASKED = 3
"""So that one whose own way out is shut is outvoted."""

CONFIRM_S = 2.0
RECHECK_S = 600.0
"""A port that was opened or shut at the router is noticed after this."""

RETRY_S = 5.0
"""After nobody could be asked."""

MAP_RETRY_S = 30.0

log: structlog.stdlib.BoundLogger = structlog.get_logger()

Setting = Literal["auto", "yes", "no"]
Port = Annotated[int, Field(ge=1, le=MAX_PORT)]


class DialBackRequest(BaseModel):
    """Ask where one is seen, and whether one answers there at these ports."""

    ports: tuple[Port, ...] = Field((), max_length=MAX_PORTS)


class DialBackReply(BaseModel):
    """Answer it.

    Attributes:
        observed: where the asker's connection comes from, as a multiaddr.
        reached: the ports at which the asker answered.
        tried: whether they were tried; if not, ask later.
    """

    observed: Annotated[str, Field(max_length=256)]
    reached: tuple[Port, ...] = Field((), max_length=MAX_PORTS)
    tried: bool = True


class DialBack:
    """Dials a host's peers back, when they ask for it, from the moment it is made."""

    def __init__(self, host: Host) -> None:
        self._host = host
        self._dialling = 0
        self._last: OrderedDict[PeerId, float] = OrderedDict()
        host.handle_bytes(DIAL_BACK_PROTOCOL, self._serve)

    async def _serve(self, connection: Connection, stream: MuxedBytes) -> None:
        async with FramedStream(stream, connection.peer) as framed:
            frame = await framed.receive()
            if frame is None or connection.remote is None:
                return
            try:
                request = DialBackRequest.model_validate_json(frame)
            except ValidationError as exc:
                raise MalformedMessage(f"{connection.peer} asked no question") from exc
            reply = await self._answer(connection, connection.remote, request)
            await framed.send(reply.model_dump_json().encode())
            await framed.finish()

    async def _answer(
        self, connection: Connection, remote: tuple[str, int], request: DialBackRequest
    ) -> DialBackReply:
        ip, port = remote
        kind = "ip6" if ":" in ip else "ip4"
        observed = str(Address(kind, ip, port))
        if not request.ports:
            return DialBackReply(observed=observed)
        if not self._may_dial(connection.peer):
            return DialBackReply(observed=observed, tried=False)
        reached: list[int] = []

        async def dial(port: int) -> None:
            with trio.move_on_after(DIAL_TIMEOUT_S):
                if await self._host.answers_at(connection.peer, Address(kind, ip, port)):
                    reached.append(port)

        self._dialling += 1
        try:
            async with trio.open_nursery() as nursery:
                for one in dict.fromkeys(request.ports):
                    nursery.start_soon(dial, one)
        finally:
            self._dialling -= 1
        log.debug("dialback.tried", peer=connection.peer, ip=ip, reached=reached)
        return DialBackReply(observed=observed, reached=tuple(sorted(reached)))

    def _may_dial(self, peer: PeerId) -> bool:
        now = trio.current_time()
        lately = now - self._last.get(peer, -DIAL_EVERY_S) < DIAL_EVERY_S
        if lately or self._dialling >= DIALS_AT_ONCE:
            return False
        self._last[peer] = now
        self._last.move_to_end(peer)
        if len(self._last) > ASKERS_REMEMBERED:
            self._last.popitem(last=False)
        return True


@dataclass(frozen=True, slots=True)
class Finding:
    """What several helpers found together.

    Attributes:
        reachable: whether others can dial this peer.
        outside: where, if that is none of its own addresses.
    """

    reachable: bool
    outside: tuple[Address, ...] = ()


def conclude(own: Sequence[Address], replies: Iterable[DialBackReply]) -> Finding | None:
    """Return what replies mean for a peer with addresses `own`; None if they mean nothing."""
    hosts = {one.host for one in own}
    votes: list[bool] = []
    outside: dict[Address, None] = {}
    for reply in replies:
        observed = observed_in(reply)
        if observed is None or not reply.tried:
            continue
        votes.append(bool(reply.reached))
        if observed.host not in hosts:
            for port in reply.reached:
                outside[Address(observed.kind, observed.host, port)] = None
    if not votes:
        return None
    if sum(votes) * 2 <= len(votes):
        return Finding(False)
    return Finding(True, tuple(outside))


def observed_in(reply: DialBackReply) -> Address | None:
    """Return where a helper sees this peer, unless what it says is no such address."""
    try:
        observed = parse_address(reply.observed)
    except InvalidAddress:
        return None
    return observed if observed.kind in {"ip4", "ip6"} and observed.relay is None else None


@dataclass(frozen=True, slots=True)
class _Mapped:
    """A connection with a relay from the port that is listened on, and where it is seen."""

    connection: Connection
    observed: Address


class Reachability:
    """Keeps true what this peer publishes as its addresses, while `run` runs.

    Args:
        host: this peer's.
        own: its addresses as it knows them.
        setting: `yes` or `no` if that is known, `auto` to find out.
        helpers: returns the peers that dial back and may serve as relays, best first.
        connect: connects to a peer.
        changed: called with the addresses to publish, when they are not `own` or no more the last.
        beside: run beside each connection that comes through a relay; see `punching.py`.
        clock: returns the seconds since 1970.
    """

    def __init__(
        self,
        host: Host,
        own: Sequence[str],
        setting: Setting,
        *,
        helpers: Callable[[], Sequence[PeerId]],
        connect: Callable[[PeerId], Awaitable[None]],
        changed: Callable[[tuple[str, ...]], None],
        beside: Callable[[Connection], Awaitable[None]],
        clock: Callable[[], float],
    ) -> None:
        self._host = host
        self._own = tuple(own)
        self._own_addresses = parse_addresses(own)
        self._setting = setting
        self._helpers = helpers
        self._changed = changed
        self._published = tuple(own)
        self._reservations = Reservations(host, connect, helpers, self._reserved, beside, clock)
        self._hiding: trio.CancelScope | None = None
        self._seen: OrderedDict[str, None] = OrderedDict()
        self._mapped: dict[PeerId, _Mapped] = {}

    @property
    def hidden(self) -> bool:
        """Whether this peer is reached through relays."""
        return self._hiding is not None

    def outside(self) -> list[Address]:
        """Return where this peer may perhaps be dialled from outside, the likeliest first.

        Where the relays see it, then the same with the port that it listens on, which many routers
        leave as it is; and its own addresses, for who is behind the same router.
        """
        if not self.hidden and self._setting != "auto":
            return list(self._own_addresses)
        mapped = [one.observed for one in self._mapped.values() if not one.connection.is_closed]
        ports = {one.port for one in self._own_addresses}
        guessed = [
            Address("ip6" if ":" in host else "ip4", host, port)
            for host in self._seen
            for port in sorted(ports)
        ]
        own = self._own_addresses
        return list(dict.fromkeys([*mapped[:1], *own[:1], *guessed, *mapped, *own]))

    async def run(self) -> None:
        """Find out, publish, and look again now and then until cancelled."""
        async with trio.open_nursery() as nursery:
            if self._setting == "no":
                self._hide(nursery)
            if self._setting != "auto":
                return
            while True:
                finding = await self._find_out()
                if finding is not None:
                    self._act(finding, nursery)
                await self._rest(RETRY_S if finding is None else RECHECK_S)

    async def _find_out(self) -> Finding | None:
        """Ask around; ask once more where the answer is that nobody gets through."""
        finding = conclude(self._own_addresses, await self._ask_around())
        if finding is None or finding.reachable or self.hidden:
            return finding
        await trio.sleep(CONFIRM_S)
        return conclude(self._own_addresses, await self._ask_around()) or finding

    async def _rest(self, seconds: float) -> None:
        """Wait; not so long if all helpers are lost and one is back: the machine may have moved."""
        with trio.move_on_after(seconds):
            for connected in (True, False):
                while any(map(self._host.is_direct, self._helpers())) is connected:
                    await self._host.next_change.wait()

    async def _ask_around(self) -> list[DialBackReply]:
        while not (asked := self._who_can_be_asked()):
            with trio.move_on_after(RETRY_S):
                await self._host.next_change.wait()
        ports = tuple(dict.fromkeys(one.port for one in self._own_addresses))[:MAX_PORTS]
        replies: list[DialBackReply] = []

        async def ask(helper: PeerId) -> None:
            reply = await self._ask(helper, ports)
            if reply is not None:
                replies.append(reply[0])

        async with trio.open_nursery() as nursery:
            for helper in asked:
                nursery.start_soon(ask, helper)
        return replies

    def _who_can_be_asked(self) -> list[PeerId]:
        """Return helpers that this peer has not opened its router for: these get through anyway."""
        mapped = {p for p, one in self._mapped.items() if not one.connection.is_closed}
        able = [h for h in self._helpers() if self._host.is_direct(h) and h not in mapped]
        return able[:HELPERS_ASKED]

    async def _ask(
        self, helper: PeerId, ports: tuple[int, ...]
    ) -> tuple[DialBackReply, Connection] | None:
        """Return what a helper says, and the connection on which it sees this peer so."""
        try:
            with trio.fail_after(ASK_TIMEOUT_S):
                stream = await self._host.open_bytes(helper, DIAL_BACK_PROTOCOL)
                async with FramedStream(stream, helper) as framed:
                    await framed.send(DialBackRequest(ports=ports).model_dump_json().encode())
                    frame = await framed.receive()
                    await framed.finish()
            reply = DialBackReply.model_validate_json(frame or b"")
        except (MyxoError, ValidationError, trio.TooSlowError) as exc:
            log.debug("dialback.failed", helper=helper, error=str(exc))
            return None
        observed = observed_in(reply)
        if observed is not None:
            self._note_seen(observed.host)
        return reply, stream.connection

    def _note_seen(self, host: str) -> None:
        self._seen[host] = None
        self._seen.move_to_end(host, last=False)
        while len(self._seen) > HELPERS_ASKED:
            self._seen.popitem()

    def _act(self, finding: Finding, nursery: trio.Nursery) -> None:
        if not finding.reachable:
            self._hide(nursery)
            return
        if self._hiding is not None:
            self._hiding.cancel()
            self._hiding = None
        self._publish((*map(str, finding.outside), *self._own))

    def _hide(self, nursery: trio.Nursery) -> None:
        if self._hiding is None:
            log.info("reachability.hidden", own=self._own)
            self._hiding = trio.CancelScope()
            nursery.start_soon(self._stay_hidden, self._hiding)

    async def _stay_hidden(self, scope: trio.CancelScope) -> None:
        with scope:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._reservations.run)
                nursery.start_soon(self._keep_mapped)

    async def _keep_mapped(self) -> None:
        """Be connected to some helpers from the port that is listened on."""
        while True:
            change = self._host.next_change
            self._mapped = {p: m for p, m in self._mapped.items() if not m.connection.is_closed}
            missing = [h for h in self._helpers() if self._host.is_direct(h)][:WANTED]
            mapped = [h in self._mapped or await self._map(h) for h in missing]
            if all(mapped):
                with trio.move_on_after(MAP_RETRY_S):  # who can help may be known without a change
                    await change.wait()
            else:
                await trio.sleep(MAP_RETRY_S)

    async def _map(self, relay: PeerId) -> bool:
        remote = self._host.dialled_at(relay)
        if remote is None:
            return False
        try:
            with trio.fail_after(ASK_TIMEOUT_S):
                await self._host.dial_from_listener(relay, remote)
        except (PeerUnreachable, trio.TooSlowError) as exc:
            log.debug("reachability.not_mapped", relay=relay, error=str(exc))
            return False
        asked = await self._ask(relay, ())
        observed = None if asked is None else observed_in(asked[0])
        if asked is None or observed is None:
            return False
        self._mapped[relay] = _Mapped(asked[1], observed)
        log.debug("reachability.mapped", relay=relay, observed=str(observed))
        return True

    def _reserved(self, circuits: tuple[str, ...]) -> None:
        self._publish((*circuits, *self._own))

    def _publish(self, addresses: tuple[str, ...]) -> None:
        if addresses != self._published:
            self._published = addresses
            self._changed(addresses)
