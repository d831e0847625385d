"""Hosts over loopback that reach each other through relays: ours, refusing ones and lying ones."""

import os
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field

import pytest
import trio
import trio.testing
from hypothesis import given
from hypothesis import strategies as st
from libp2p import new_host
from libp2p.abc import IHost, INetStream
from libp2p.crypto.ed25519 import create_new_key_pair
from libp2p.crypto.x25519 import create_new_key_pair as create_noise_key_pair
from libp2p.custom_types import TProtocol
from libp2p.peer.id import ID
from libp2p.peer.peerinfo import info_from_p2p_addr
from libp2p.relay.circuit_v2.config import RelayConfig
from libp2p.relay.circuit_v2.protocol import CircuitV2Protocol
from libp2p.relay.circuit_v2.resources import RelayLimits
from libp2p.relay.circuit_v2.transport import CircuitV2Transport
from libp2p.security.noise.transport import PROTOCOL_ID as NOISE_PROTOCOL_ID
from libp2p.security.noise.transport import Transport as NoiseTransport
from libp2p.tools.anyio_service import background_trio_service
from multiaddr import Multiaddr

from overlay import connected as connected_module
from overlay import relay as relay_module
from overlay import reservations as reservations_module
from overlay.addresses import Address
from overlay.circuits import (
    HOP_PROTOCOL,
    MAX_CIRCUIT_MESSAGE_BYTES,
    STOP_PROTOCOL,
    Answer,
    CircuitLimit,
    Connect,
    Observed,
    Reserve,
    Status,
    Sync,
    decode_hop,
    decode_punch,
    decode_stop,
    encode_hop,
    encode_punch,
    encode_stop,
    read_delimited,
)
from overlay.connection import Connection, MuxedBytes
from overlay.errors import MalformedMessage, PeerUnreachable, StreamCut
from overlay.framing import FramedStream, encode_varint
from overlay.host import Connected, Disconnected, Host, Moved, open_host
from overlay.identity import Identity
from overlay.names import PeerId
from overlay.relay import Relay, RelayBounds, RelayTable
from overlay.reservations import Reservations

LOOPBACK = "/ip4/127.0.0.1/tcp/0"
ECHO = "/test/echo/1.0.0"
PSK = b"k" * 32
TIMEOUT_S = 60.0
FAST_S = 30.0

IDS = [Identity.from_seed(bytes([n]) * 32).peer_id for n in range(1, 8)]


async def echo(_: PeerId, stream: FramedStream) -> None:
    while (message := await stream.receive()) is not None:
        await stream.send(message)


async def not_dialled(peer: PeerId) -> None:
    raise PeerUnreachable(f"{peer} is not dialled in this test")


async def nothing_beside(_: Connection) -> None:
    pass


@asynccontextmanager
async def opened(
    count: int, psk: bytes | None = PSK, listen: Sequence[str] = (LOOPBACK,)
) -> AsyncIterator[list[Host]]:
    with trio.fail_after(TIMEOUT_S):
        async with AsyncExitStack() as stack:
            hosts = []
            for _ in range(count):
                host = await stack.enter_async_context(
                    open_host(Identity.generate(), listen, psk=psk)
                )
                host.handle(ECHO, echo)
                hosts.append(host)
            yield hosts


@dataclass
class Hidden:
    """A peer that is reached through relays only, and what it would publish."""

    host: Host
    relays: list[PeerId] = field(default_factory=list)
    addresses: tuple[str, ...] = ()
    changes: int = 0
    _news: trio.Event = field(default_factory=trio.Event)

    def changed(self, addresses: tuple[str, ...]) -> None:
        self.addresses = addresses
        self.changes += 1
        self._news.set()
        self._news = trio.Event()

    async def reachable_by(self, relays: Iterable[Host]) -> None:
        wanted = {relay.peer_id for relay in relays}
        while {a.split("/")[6] for a in self.addresses} != wanted:
            await self._news.wait()


@asynccontextmanager
async def hidden_behind(
    host: Host,
    relays: Sequence[Host],
    beside: Callable[[Connection], Awaitable[None]] = nothing_beside,
) -> AsyncIterator[Hidden]:
    """Keep reservations of `host` at `relays`, to which it connects."""
    hidden = Hidden(host, [relay.peer_id for relay in relays])
    kept = Reservations(host, not_dialled, lambda: hidden.relays, hidden.changed, beside, time.time)
    async with trio.open_nursery() as nursery:
        for relay in relays:
            await host.connect(None, relay.listen_addresses()[0], timeout_s=FAST_S)
        nursery.start_soon(kept.run)
        yield hidden
        nursery.cancel_scope.cancel()


@asynccontextmanager
async def relayed_trio(
    psk: bytes | None = PSK, bounds: RelayBounds | None = None
) -> AsyncIterator[tuple[Host, Hidden, Host]]:
    """Yield a relay, a peer that is hidden behind it, and one that wants to reach it."""
    async with opened(3, psk) as (middle, behind, caller):
        Relay(middle, middle.listen_addresses, time.time, bounds)
        async with hidden_behind(behind, [middle]) as hidden:
            await hidden.reachable_by([middle])
            yield middle, hidden, caller


async def call(caller: Host, hidden: Hidden) -> None:
    await caller.connect(hidden.host.peer_id, hidden.addresses[0], timeout_s=FAST_S)


async def answers(host: Host, peer: PeerId, message: bytes = b"still there?") -> bool:
    async with await host.open_stream(peer, ECHO) as stream:
        await stream.send(message)
        answer = await stream.receive()
        await stream.finish()
    return answer == message


def connections(host: Host, peer: PeerId) -> list[Connection]:
    return [one for one in host._connections.of(peer) if not one.is_closed]


# Through a relay


@pytest.mark.parametrize("psk", [None, PSK])
async def test_a_hidden_peer_is_reached_through_its_relay_and_both_ends_know_who_it_is(
    psk: bytes | None,
) -> None:
    async with relayed_trio(psk) as (relay, hidden, caller):
        await call(caller, hidden)
        assert await answers(caller, hidden.host.peer_id, os.urandom(3 << 20))
        assert await answers(hidden.host, caller.peer_id, os.urandom(3 << 20))
        for one, other in ((caller, hidden.host), (hidden.host, caller)):
            assert other.peer_id in one.connected()
            assert not one.is_direct(other.peer_id)
            assert one.remote_address(other.peer_id) is None
            (connection,) = connections(one, other.peer_id)
            assert connection.relay == relay.peer_id


async def test_the_circuit_address_may_name_the_hidden_peer_itself() -> None:
    async with relayed_trio() as (_, hidden, caller):
        address = f"{hidden.addresses[0]}/p2p/{hidden.host.peer_id}"
        assert await caller.connect(None, address, timeout_s=FAST_S) == hidden.host.peer_id


async def test_what_ends_at_one_end_is_told_at_the_other_and_leaves_the_relay_nothing() -> None:
    async with opened(3) as (middle, behind, caller):
        relay = Relay(middle, middle.listen_addresses, time.time)
        async with hidden_behind(behind, [middle]) as hidden:
            await hidden.reachable_by([middle])
            await call(caller, hidden)
            stream = await caller.open_stream(behind.peer_id, ECHO)
            assert relay.table.circuits == 1
            await behind.disconnect(caller.peer_id)
            with pytest.raises(StreamCut):
                await stream.receive()
            seen = [await caller.connections.receive() for _ in range(3)]
            assert seen[1:] == [Connected(behind.peer_id), Disconnected(behind.peer_id)]
            while relay.table.circuits:
                await trio.testing.wait_all_tasks_blocked(0.001)
            await call(caller, hidden)
            assert await answers(caller, behind.peer_id)


async def test_the_end_of_the_relay_ends_what_runs_through_it() -> None:
    async with opened(2) as (behind, caller), trio.open_nursery() as nursery:
        middle, relay_life = await nursery.start(run_relay, Identity.generate(), LOOPBACK)
        async with hidden_behind(behind, [middle]) as hidden:
            await hidden.reachable_by([middle])
            await call(caller, hidden)
            stream = await caller.open_stream(behind.peer_id, ECHO)
            relay_life.cancel()
            with pytest.raises(StreamCut):
                await stream.receive()
            for host in (caller, behind):
                while host.connected():
                    await host.next_change.wait()


async def run_relay(
    identity: Identity,
    listen: str,
    *,
    task_status: trio.TaskStatus[tuple[Host, trio.CancelScope]] = trio.TASK_STATUS_IGNORED,
) -> None:
    with trio.CancelScope() as scope:
        async with open_host(identity, [listen], psk=PSK) as host:
            Relay(host, host.listen_addresses, time.time)
            task_status.started((host, scope))
            await trio.sleep_forever()


@pytest.mark.slow
async def test_a_reader_that_pauses_keeps_its_stream_and_holds_back_its_writer() -> None:
    size, go_on = 8 << 20, trio.Event()
    received = bytearray()

    async def read_late(_: PeerId, stream: FramedStream) -> None:
        await go_on.wait()
        while (message := await stream.receive()) is not None:
            received.extend(message)
        await stream.send(b"done")

    async with relayed_trio() as (relay, hidden, caller):
        hidden.host.handle("/test/late/1.0.0", read_late)
        await call(caller, hidden)
        sent = os.urandom(size)
        async with (
            await caller.open_stream(hidden.host.peer_id, "/test/late/1.0.0") as stream,
            trio.open_nursery() as nursery,
        ):
            nursery.start_soon(stream.send, sent[: size // 2])
            for _ in range(7):  # Yamux by itself gives up after 5 s
                assert await answers(caller, hidden.host.peer_id)
                await trio.sleep(1)
            held = [unread for one in relay._connections for unread in _unread(one)]
            assert sum(held) < 1 << 20
            go_on.set()
            await stream.send(sent[size // 2 :])
            await stream.finish()
            assert await stream.receive() == b"done"
        assert received == sent


def _unread(connection: Connection) -> list[int]:
    return [len(buffer) for buffer in connection._muxer.stream_buffers.values()]


# Direct and relayed


async def test_a_direct_connection_is_preferred_and_the_relayed_one_ends_when_nothing_uses_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(connected_module, "RETIRE_QUIET_S", 0.1)
    async with relayed_trio() as (_, hidden, caller):
        await call(caller, hidden)
        kept = await caller.open_stream(hidden.host.peer_id, ECHO)
        direct = hidden.host.listen_addresses()[0]
        await caller.connect(hidden.host.peer_id, direct, timeout_s=FAST_S)
        assert caller.remote_address(hidden.host.peer_id) == "127.0.0.1"
        assert kept.outdated
        async with await caller.open_stream(hidden.host.peer_id, ECHO) as fresh:
            assert not fresh.outdated
        await trio.sleep(0.5)
        await kept.send(b"a stream that is open stays")
        assert await kept.receive() == b"a stream that is open stays"
        await kept.finish()
        await kept.aclose()
        while len(connections(caller, hidden.host.peer_id)) > 1:
            await caller.next_change.wait()
        assert caller.is_direct(hidden.host.peer_id)
        assert await answers(caller, hidden.host.peer_id)


async def test_a_replaced_connection_ends_at_last_though_a_stream_is_left_open_on_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(connected_module, "RETIRE_QUIET_S", 0.05)
    monkeypatch.setattr(connected_module, "RETIRE_IDLE_S", 0.2)
    async with relayed_trio() as (_, hidden, caller):
        await call(caller, hidden)
        kept = await caller.open_stream(hidden.host.peer_id, ECHO)
        direct = hidden.host.listen_addresses()[0]
        await caller.connect(hidden.host.peer_id, direct, timeout_s=FAST_S)
        with pytest.raises(StreamCut):
            await kept.receive()
        assert await answers(caller, hidden.host.peer_id)


async def test_a_relayed_connection_stays_when_the_direct_one_is_lost_first(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(connected_module, "RETIRE_QUIET_S", 0.05)
    async with relayed_trio() as (_, hidden, caller):
        await call(caller, hidden)
        kept = await caller.open_stream(hidden.host.peer_id, ECHO)
        direct = hidden.host.listen_addresses()[0]
        await caller.connect(hidden.host.peer_id, direct, timeout_s=FAST_S)
        await connections(caller, hidden.host.peer_id)[-1].abort()
        while hidden.host.is_direct(caller.peer_id):
            await hidden.host.next_change.wait()
        await trio.sleep(0.3)
        assert not kept.outdated
        assert await answers(caller, hidden.host.peer_id)


async def test_a_move_to_a_direct_connection_is_told_once() -> None:
    async with relayed_trio() as (relay, hidden, caller):
        await call(caller, hidden)
        seen = [await caller.connections.receive() for _ in range(2)]
        assert seen == [Connected(relay.peer_id), Connected(hidden.host.peer_id)]
        direct = hidden.host.listen_addresses()[0]
        await caller.connect(hidden.host.peer_id, direct, timeout_s=FAST_S)
        assert await caller.connections.receive() == Moved(hidden.host.peer_id)
        await caller.disconnect(hidden.host.peer_id)
        assert await caller.connections.receive() == Disconnected(hidden.host.peer_id)


async def test_a_peer_that_is_connected_directly_is_not_reached_through_a_relay_too() -> None:
    async with relayed_trio() as (_, hidden, caller):
        direct = hidden.host.listen_addresses()[0]
        await caller.connect(hidden.host.peer_id, direct, timeout_s=FAST_S)
        await call(caller, hidden)
        assert [one.relayed for one in connections(caller, hidden.host.peer_id)] == [False]


# Reservations


async def test_two_of_three_relays_are_held_and_the_third_takes_over_when_one_is_lost() -> None:
    async with opened(4) as (behind, *relays):
        for relay in relays:
            Relay(relay, relay.listen_addresses, time.time)
        async with hidden_behind(behind, relays) as hidden:
            await hidden.reachable_by(relays[:2])
            await behind.disconnect(relays[0].peer_id)
            await hidden.reachable_by(relays[1:])


async def test_a_relay_that_restarts_is_reserved_at_again_and_leads_to_the_peer_again() -> None:
    identity = Identity.generate()
    async with opened(2) as (behind, caller), trio.open_nursery() as nursery:
        middle, relay_life = await nursery.start(run_relay, identity, LOOPBACK)
        async with hidden_behind(behind, [middle]) as hidden:
            await hidden.reachable_by([middle])
            await call(caller, hidden)
            address, before = middle.listen_addresses()[0], hidden.addresses
            relay_life.cancel()
            for host in (caller, behind):
                while host.connected():
                    await host.next_change.wait()
            assert hidden.addresses == before  # a way that comes back is better than none
            again, _ = await nursery.start(run_relay, identity, address)
            await behind.connect(None, address, timeout_s=FAST_S)
            while await connects(caller, hidden) is False:
                await trio.testing.wait_all_tasks_blocked(0.01)
            assert await answers(caller, behind.peer_id)
            assert again.peer_id == middle.peer_id
        nursery.cancel_scope.cancel()


async def connects(caller: Host, hidden: Hidden) -> bool:
    try:
        await call(caller, hidden)
    except PeerUnreachable:
        return False
    return True


@pytest.mark.slow
async def test_a_reservation_is_renewed_before_it_expires(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(reservations_module, "RENEW_LEAST_S", 0.1)
    async with relayed_trio(bounds=RelayBounds(reservation_s=2.0)) as (_, hidden, caller):
        with trio.move_on_after(4.5):
            while True:  # at no time is it out of reach
                await call(caller, hidden)
                await caller.disconnect(hidden.host.peer_id)
        await call(caller, hidden)
        assert await answers(caller, hidden.host.peer_id)
        assert hidden.changes == 1


async def test_a_relay_that_refuses_is_passed_over_and_asked_again_later(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(reservations_module, "RETRY_FIRST_S", 0.05)
    async with opened(3) as (behind, full, free):
        refusing = Relay(full, full.listen_addresses, time.time, RelayBounds(reservations=0))
        Relay(free, free.listen_addresses, time.time)
        async with hidden_behind(behind, [full, free]) as hidden:
            await hidden.reachable_by([free])
            refusing.table.bounds = RelayBounds()
            await hidden.reachable_by([full, free])


async def test_a_relay_that_is_not_connected_is_connected_to() -> None:
    async with opened(2) as (behind, middle), trio.open_nursery() as nursery:
        Relay(middle, middle.listen_addresses, time.time)
        hidden = Hidden(behind, [middle.peer_id])

        async def connect(peer: PeerId) -> None:
            await behind.connect(peer, middle.listen_addresses()[0], timeout_s=FAST_S)

        kept = Reservations(
            behind, connect, lambda: hidden.relays, hidden.changed, nothing_beside, time.time
        )
        nursery.start_soon(kept.run)
        await hidden.reachable_by([middle])
        nursery.cancel_scope.cancel()


async def test_who_turns_out_to_be_a_relay_after_it_was_connected_is_asked(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(reservations_module, "LOOK_EVERY_S", 0.05)
    async with opened(2) as (behind, middle):
        Relay(middle, middle.listen_addresses, time.time)
        async with hidden_behind(behind, [middle]) as hidden:
            hidden.relays.clear()  # its record is not there yet
            await trio.testing.wait_all_tasks_blocked(0.01)
            hidden.relays.append(middle.peer_id)
            await hidden.reachable_by([middle])


async def test_a_relay_that_can_only_be_reached_through_another_leads_nobody_on() -> None:
    async with opened(3) as (behind, blind, middle):
        Relay(blind, lambda: [circuit(middle)], time.time)
        Relay(middle, middle.listen_addresses, time.time)
        async with hidden_behind(behind, [blind, middle]) as hidden:
            await hidden.reachable_by([middle])


async def test_a_candidate_that_is_no_relay_is_passed_over() -> None:
    async with opened(3) as (behind, other, middle):
        Relay(middle, middle.listen_addresses, time.time)
        async with hidden_behind(behind, [other, middle]) as hidden:
            await hidden.reachable_by([middle])


async def test_a_full_relay_gives_the_place_of_a_peer_that_is_gone() -> None:
    async with opened(3) as (middle, first, second):
        Relay(middle, middle.listen_addresses, time.time, RelayBounds(reservations=1))
        async with hidden_behind(first, [middle]) as hidden:
            await hidden.reachable_by([middle])
        await first.disconnect(middle.peer_id)
        while first.peer_id in middle.connected():
            await middle.next_change.wait()
        async with hidden_behind(second, [middle]) as hidden:
            await hidden.reachable_by([middle])


# Refusals say why


async def refused(caller: Host, peer: PeerId, address: str, timeout_s: float = FAST_S) -> str:
    with pytest.raises(PeerUnreachable) as caught:
        await caller.connect(peer, address, timeout_s=timeout_s)
    return str(caught.value)


def circuit(relay: Host) -> str:
    return f"{relay.listen_addresses()[0]}/p2p/{relay.peer_id}/p2p-circuit"


async def test_a_circuit_to_a_peer_without_a_reservation_is_refused() -> None:
    async with opened(3) as (middle, behind, caller):
        Relay(middle, middle.listen_addresses, time.time)
        await behind.connect(None, middle.listen_addresses()[0], timeout_s=FAST_S)
        assert "no reservation" in await refused(caller, behind.peer_id, circuit(middle))
        assert "no reservation" in await refused(caller, IDS[0], circuit(middle))


async def test_a_peer_that_relays_nothing_is_no_relay() -> None:
    async with opened(2) as (middle, caller):
        assert "it is no relay" in await refused(caller, IDS[0], circuit(middle))


async def test_a_circuit_must_lead_to_somebody_else() -> None:
    async with opened(2) as (middle, caller):
        Relay(middle, middle.listen_addresses, time.time)
        with pytest.raises(PeerUnreachable, match="who is behind"):
            await caller.connect(None, circuit(middle), timeout_s=FAST_S)
        assert "this peer itself" in await refused(caller, caller.peer_id, circuit(middle))
        assert "this peer itself" in await refused(middle, IDS[0], circuit(middle))


async def test_a_relay_of_which_nobody_answers_is_said_to_be_unreachable() -> None:
    async with opened(1) as (caller,):
        address = f"/ip4/127.0.0.1/tcp/1/p2p/{IDS[1]}/p2p-circuit"
        assert "refused" in await refused(caller, IDS[0], address)


async def test_the_circuit_over_a_bound_is_refused_and_room_comes_back() -> None:
    async with (
        relayed_trio(bounds=RelayBounds(circuits_per_peer=1)) as (_, hidden, caller),
        open_host(Identity.generate(), [], psk=PSK) as other,
    ):
        await call(caller, hidden)
        peer, address = hidden.host.peer_id, hidden.addresses[0]
        assert "resource limit exceeded" in await refused(other, peer, address)
        await caller.disconnect(peer)
        while not await connects(other, hidden):
            await trio.testing.wait_all_tasks_blocked(0.01)


async def test_a_circuit_that_has_carried_its_share_is_cut_and_can_be_made_again() -> None:
    async with relayed_trio(bounds=RelayBounds(circuit_bytes=1 << 20)) as (_, hidden, caller):
        await call(caller, hidden)
        with pytest.raises(PeerUnreachable):
            await answers(caller, hidden.host.peer_id, bytes(3 << 20))
        while caller.peer_id in hidden.host.connected():
            await hidden.host.next_change.wait()
        await call(caller, hidden)
        assert await answers(caller, hidden.host.peer_id)


async def test_a_circuit_ends_with_its_time() -> None:
    async with relayed_trio(bounds=RelayBounds(circuit_s=1.0)) as (_, hidden, caller):
        await call(caller, hidden)
        while hidden.host.peer_id in caller.connected():
            await caller.next_change.wait()


# What somebody does wrong


async def hop(caller: Host, relay: Host, sent: bytes) -> Answer:
    """Send bytes on the hop protocol and return the relay's answer."""
    await caller.connect(None, relay.listen_addresses()[0], timeout_s=FAST_S)
    stream = await caller.open_bytes(relay.peer_id, HOP_PROTOCOL)
    await stream.write(sent)
    answer = decode_hop(await read_delimited(stream))
    await stream.close()
    assert isinstance(answer, Answer)
    return answer


def framed(message: bytes) -> bytes:
    return encode_varint(len(message)) + message


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (framed(b"\xff\xff\xff"), Status.MALFORMED_MESSAGE),
        (framed(b""), Status.MALFORMED_MESSAGE),
        (framed(b"\x08\x09"), Status.MALFORMED_MESSAGE),  # a type of 9
        (framed(b"\x08\x01"), Status.MALFORMED_MESSAGE),  # to connect to nobody
        (encode_varint(MAX_CIRCUIT_MESSAGE_BYTES + 1), Status.MALFORMED_MESSAGE),
        (b"\xff\xff\xff\xff\xff\xff", Status.MALFORMED_MESSAGE),
        (encode_hop(Answer(Status.OK)), Status.UNEXPECTED_MESSAGE),
        (encode_hop(Connect(IDS[0])), Status.NO_RESERVATION),
    ],
)
async def test_a_relay_answers_what_makes_no_sense_and_goes_on(sent: bytes, status: int) -> None:
    async with relayed_trio() as (relay, hidden, caller):
        assert (await hop(caller, relay, sent)).status == status
        await call(caller, hidden)
        assert await answers(caller, hidden.host.peer_id)


async def test_a_relay_forgets_who_asks_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(relay_module, "ASK_TIMEOUT_S", 0.05)
    async with relayed_trio() as (relay, _, caller):
        await caller.connect(None, relay.listen_addresses()[0], timeout_s=FAST_S)
        stream = await caller.open_bytes(relay.peer_id, HOP_PROTOCOL)
        with pytest.raises(StreamCut):
            await stream.read(1)


async def test_nothing_is_relayed_for_who_came_through_a_relay_itself() -> None:
    async with relayed_trio() as (_, hidden, caller):
        Relay(hidden.host, hidden.host.listen_addresses, time.time)
        await call(caller, hidden)
        for message in (Reserve(), Connect(IDS[0])):
            stream = await caller.open_bytes(hidden.host.peer_id, HOP_PROTOCOL, relayed=True)
            await stream.write(encode_hop(message))
            answer = decode_hop(await read_delimited(stream))
            assert answer == Answer(Status.PERMISSION_DENIED)


def lying_relay(host: Host, target: Host | None = None, reply: bytes = b"") -> None:
    """Make `host` grant every reservation, and lead every circuit to `target` or answer `reply`."""

    async def serve(connection: Connection, stream: MuxedBytes) -> None:
        message = decode_hop(await read_delimited(stream))
        if isinstance(message, Reserve):
            address = Address("ip4", "127.0.0.1", int(host.listen_addresses()[0].split("/")[4]))
            granted = Answer(Status.OK, int(time.time()) + 3600, (address,))
            await stream.write(encode_hop(granted))
            await stream.close()
        elif target is None:
            await stream.write(reply)
        else:
            await lead(connection.peer, target, stream)

    async def lead(source: PeerId, target: Host, stream: MuxedBytes) -> None:
        onward = await host.open_bytes(target.peer_id, STOP_PROTOCOL)
        await onward.write(encode_stop(Connect(source)))
        assert decode_stop(await read_delimited(onward)) == Answer(Status.OK)
        await stream.write(encode_hop(Answer(Status.OK)))
        await splice(stream, onward)

    host.handle_bytes(HOP_PROTOCOL, serve)


async def splice(
    one: MuxedBytes, other: MuxedBytes, seen: Callable[[bytes], None] = lambda _: None
) -> None:
    async def carry(source: MuxedBytes, sink: MuxedBytes) -> None:
        while data := await source.read(1 << 16):
            seen(data)
            await sink.write(data)
        await sink.end()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(carry, one, other)
        nursery.start_soon(carry, other, one)


async def test_a_relay_that_leads_to_another_peer_is_found_out() -> None:
    async with opened(3) as (middle, behind, caller):
        lying_relay(middle, behind)
        async with hidden_behind(behind, [middle]) as hidden:
            await hidden.reachable_by([middle])
            assert "another peer answers" in await refused(caller, IDS[0], circuit(middle))
            await call(caller, hidden)
            assert await answers(caller, behind.peer_id)


@pytest.mark.parametrize(
    "reply",
    [
        b"",
        b"\0",
        b"\xff" * 64,
        encode_hop(Reserve()),
        encode_hop(Answer(Status.OK)) + b"\x13/multistream/1.0.0\n" + bytes(100),
        framed(b"\x08\x02\x28\xe7\x07"),  # a status of 999
    ],
)
async def test_a_relay_that_says_nonsense_costs_one_failed_dial(reply: bytes) -> None:
    async with opened(2) as (middle, caller):
        lying_relay(middle, reply=reply)
        assert await refused(caller, IDS[0], circuit(middle), timeout_s=0.5)
        assert caller.connected() <= {middle.peer_id}
        assert await answers(caller, middle.peer_id)


async def test_who_comes_through_a_relay_must_be_who_the_relay_says(
    capsys: pytest.CaptureFixture[str],
) -> None:
    async def name_another(connection: Connection, stream: MuxedBytes) -> None:
        await read_delimited(stream)
        onward = await middle.open_bytes(behind.peer_id, STOP_PROTOCOL)
        await onward.write(encode_stop(Connect(IDS[0])))
        await read_delimited(onward)
        await stream.write(encode_hop(Answer(Status.OK)))
        await splice(stream, onward)

    async with opened(3) as (middle, behind, caller):
        Relay(middle, middle.listen_addresses, time.time)
        async with hidden_behind(behind, [middle]) as hidden:
            await hidden.reachable_by([middle])
            middle.handle_bytes(HOP_PROTOCOL, name_another)
            with suppress(PeerUnreachable):  # or it believes itself there until the other says no
                await call(caller, hidden)
            while behind.peer_id in caller.connected():
                await caller.next_change.wait()
            assert caller.peer_id not in behind.connected()
    assert "relay.lied" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (framed(b"\xff\xff\xff"), Status.MALFORMED_MESSAGE),
        (encode_stop(Answer(Status.OK)), Status.UNEXPECTED_MESSAGE),
        (encode_stop(Connect(IDS[0])), Status.PERMISSION_DENIED),
    ],
)
async def test_a_hidden_peer_takes_circuits_from_its_relays_only_and_sense_from_everybody(
    sent: bytes, status: int
) -> None:
    async with relayed_trio() as (_, hidden, stranger):
        direct = hidden.host.listen_addresses()[0]
        await stranger.connect(None, direct, timeout_s=FAST_S)
        stream = await stranger.open_bytes(hidden.host.peer_id, STOP_PROTOCOL)
        await stream.write(sent)
        assert decode_stop(await read_delimited(stream)) == Answer(status)
        assert await answers(stranger, hidden.host.peer_id)


@pytest.mark.parametrize(
    "granted",
    [
        Answer(Status.OK),
        Answer(Status.OK, int(time.time()) + 3600, (Address("ip4", "192.0.2.1", 1, IDS[0]),)),
    ],
)
async def test_a_reservation_that_does_not_say_where_the_relay_is_counts_for_nothing(
    granted: Answer,
) -> None:
    async def grant(_: Connection, stream: MuxedBytes) -> None:
        await read_delimited(stream)
        await stream.write(encode_hop(granted))
        await stream.close()

    async with opened(3) as (behind, useless, good):
        useless.handle_bytes(HOP_PROTOCOL, grant)
        Relay(good, good.listen_addresses, time.time)
        async with hidden_behind(behind, [useless, good]) as hidden:
            await hidden.reachable_by([good])


@given(lasts_s=st.floats(allow_nan=False))
def test_a_relay_whose_clock_is_wrong_is_asked_neither_always_nor_never(lasts_s: float) -> None:
    least, most = reservations_module.RENEW_LEAST_S, reservations_module.RENEW_MOST_S
    assert least <= reservations_module.renew_after_s(lasts_s) <= most


async def test_a_relay_sees_ciphertext_only() -> None:
    secret, seen = os.urandom(1 << 16), bytearray()

    async def listen_in(connection: Connection, stream: MuxedBytes) -> None:
        await read_delimited(stream)
        onward = await middle.open_bytes(behind.peer_id, STOP_PROTOCOL)
        await onward.write(encode_stop(Connect(connection.peer)))
        await read_delimited(onward)
        await stream.write(encode_hop(Answer(Status.OK)))
        await splice(stream, onward, seen.extend)

    async with opened(3, None) as (middle, behind, caller):
        Relay(middle, middle.listen_addresses, time.time)
        async with hidden_behind(behind, [middle]) as hidden:
            await hidden.reachable_by([middle])
            middle.handle_bytes(HOP_PROTOCOL, listen_in)
            await call(caller, hidden)
            assert await answers(caller, behind.peer_id, secret)
    assert len(seen) > 2 * len(secret)
    assert not any(secret[at : at + 16] in seen for at in range(0, len(secret), 16))


async def test_a_relay_cannot_let_in_who_does_not_know_the_passphrase() -> None:
    async def smuggle(connection: Connection, stream: MuxedBytes) -> None:
        await read_delimited(stream)
        onward = await member.open_bytes(behind.peer_id, STOP_PROTOCOL)
        await onward.write(encode_stop(Connect(connection.peer)))
        await read_delimited(onward)
        await stream.write(encode_hop(Answer(Status.OK)))
        await splice(stream, onward)

    traitor = Identity.generate()
    async with (
        opened(1, PSK) as (behind,),
        opened(1, None) as (stranger,),
        open_host(traitor, [LOOPBACK], psk=PSK) as member,
        open_host(traitor, [LOOPBACK], psk=None) as door,
    ):
        Relay(member, member.listen_addresses, time.time)
        async with hidden_behind(behind, [member]) as hidden:
            await hidden.reachable_by([member])
            door.handle_bytes(HOP_PROTOCOL, smuggle)
            await refused(stranger, behind.peer_id, circuit(door))
            assert behind.connected() == {traitor.peer_id}


# The same wire as everybody else's libp2p


@asynccontextmanager
async def stock_host(psk: bytes | None) -> AsyncIterator[IHost]:
    """Run an unmodified py-libp2p host on any port of loopback."""
    keys = create_new_key_pair(Identity.generate().seed)
    noise = NoiseTransport(keys, create_noise_key_pair().private_key)
    host = new_host(
        key_pair=keys, sec_opt={NOISE_PROTOCOL_ID: noise}, psk=psk.hex() if psk else None
    )
    async with host.run([Multiaddr(LOOPBACK)]):
        try:
            yield host
        finally:
            with trio.move_on_after(1) as cleanup:
                cleanup.shield = True
                await host.close()


@asynccontextmanager
async def circuits_of(host: IHost, *, relays: bool) -> AsyncIterator[CircuitV2Protocol]:
    """Have an unmodified host speak the protocol."""
    limits = RelayLimits(duration=3600, data=1 << 30, max_circuit_conns=8, max_reservations=4)
    protocol = CircuitV2Protocol(host, limits, allow_hop=relays)
    async with background_trio_service(protocol):
        await protocol.event_started.wait()
        yield protocol


@pytest.mark.parametrize("psk", [None, PSK])
async def test_a_stock_relay_leads_to_our_hidden_peer(psk: bytes | None) -> None:
    async with (
        opened(2, psk) as (behind, caller),
        stock_host(psk) as middle,
        circuits_of(middle, relays=True),
        trio.open_nursery() as nursery,
    ):
        relay = await behind.connect(None, str(middle.get_addrs()[0]), timeout_s=FAST_S)
        hidden = Hidden(behind, [relay])
        kept = Reservations(
            behind, not_dialled, lambda: [relay], hidden.changed, nothing_beside, time.time
        )
        nursery.start_soon(kept.run)
        while not hidden.addresses:
            await trio.testing.wait_all_tasks_blocked(0.01)
        await call(caller, hidden)
        assert await answers(caller, behind.peer_id, os.urandom(1 << 17))
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("psk", [None, PSK])
async def test_our_relay_leads_to_a_stock_hidden_peer(psk: bytes | None) -> None:
    async def stock_echo(stream: INetStream) -> None:
        while data := await stream.read(100):
            await stream.write(data)

    async with (
        opened(2, psk) as (middle, caller),
        stock_host(psk) as behind,
        circuits_of(behind, relays=False) as protocol,
        trio.open_nursery() as nursery,
    ):
        Relay(middle, middle.listen_addresses, time.time)
        behind.set_stream_handler(TProtocol(ECHO), stock_echo)
        address = f"{middle.listen_addresses()[0]}/p2p/{middle.peer_id}"
        await behind.connect(info_from_p2p_addr(Multiaddr(address)))
        transport = CircuitV2Transport(behind, protocol, RelayConfig())
        relay = ID.from_base58(middle.peer_id)
        asking = await behind.new_stream(relay, [TProtocol(HOP_PROTOCOL)])
        assert await transport.reserve(asking, relay, nursery)
        peer = PeerId(str(behind.get_id()))
        await caller.connect(peer, f"{address}/p2p-circuit", timeout_s=FAST_S)
        stream = await caller.open_bytes(peer, ECHO, relayed=True)
        await stream.write(b"hello")
        assert await stream.read(5) == b"hello"
        nursery.cancel_scope.cancel()


# Messages and the table, without a network

peers = st.sampled_from(IDS)
addresses = st.builds(Address, st.just("ip4"), st.ip_addresses(v=4).map(str), st.integers(1, 65535))
limits = st.builds(CircuitLimit, st.integers(0, 2**32 - 1), st.integers(0, 2**64 - 1))
statuses = st.sampled_from([int(status) for status in Status])
granted_answers = st.builds(
    Answer,
    statuses,
    st.integers(1, 2**63),
    st.lists(addresses, max_size=8, unique=True).map(tuple),
    limits,
)


def unframed(data: bytes) -> bytes:
    return data[1 if data[0] < 0x80 else 2 :]


@given(message=st.one_of(st.builds(Reserve), st.builds(Connect, peers), granted_answers))
def test_a_hop_message_is_read_as_it_was_written(message: Reserve | Connect | Answer) -> None:
    assert decode_hop(unframed(encode_hop(message))) == message


@given(message=st.one_of(st.builds(Connect, peers, limits), st.builds(Answer, statuses)))
def test_a_stop_message_is_read_as_it_was_written(message: Connect | Answer) -> None:
    assert decode_stop(unframed(encode_stop(message))) == message


@given(
    message=st.one_of(
        st.builds(Sync),
        st.builds(Observed, st.lists(addresses, max_size=8, unique=True).map(tuple)),
    )
)
def test_a_punch_message_is_read_as_it_was_written(message: Observed | Sync) -> None:
    assert decode_punch(unframed(encode_punch(message))) == message


@pytest.mark.parametrize("decode", [decode_hop, decode_stop, decode_punch])
@given(data=st.binary(max_size=200))
def test_any_bytes_are_a_message_or_refused(decode: Callable[[bytes], object], data: bytes) -> None:
    try:
        decode(data)
    except MalformedMessage:
        return


@given(data=st.binary(max_size=60), body=st.binary(max_size=60))
def test_any_peer_and_addresses_in_a_message_are_taken_or_left(data: bytes, body: bytes) -> None:
    hostile = [
        framed_field(0x12, framed_field(0x0A, data) + framed_field(0x12, body)),
        framed_field(0x1A, b"\x08\x01" + framed_field(0x12, data)),
    ]
    for kind in (b"\x08\x01", b"\x08\x02"):
        for rest in hostile:
            try:
                message = decode_hop(kind + rest)
            except MalformedMessage:
                continue
            assert not isinstance(message, Connect) or message.peer in IDS
    decode_punch(b"\x08\x64" + framed_field(0x12, data))


def framed_field(tag: int, body: bytes) -> bytes:
    return bytes([tag]) + framed(body)


def test_a_status_that_nobody_knows_is_told_by_its_number() -> None:
    assert Answer(999).text == "999"
    assert Answer(Status.NO_RESERVATION).text == "no reservation"


BOUNDS = RelayBounds(reservations=3, circuits=4, circuits_per_peer=2, reservation_s=10.0)


@given(
    steps=st.lists(
        st.one_of(
            st.tuples(st.just("reserve"), peers),
            st.tuples(st.just("open"), peers, peers),
            st.tuples(st.just("close"), st.integers(0, 10)),
            st.tuples(st.just("pass"), st.floats(0, 6)),
            st.tuples(st.just("leave"), peers),
        ),
        max_size=60,
    )
)
def test_a_relays_table_agrees_with_a_simple_one_and_keeps_its_bounds(
    steps: list[tuple[object, ...]],
) -> None:
    table, now = RelayTable(BOUNDS), 0.0
    reserved: dict[object, float] = {}
    circuits: list[tuple[PeerId, PeerId]] = []
    gone: set[object] = set()
    for step in steps:
        match step:
            case ("reserve", str(peer)):
                gone.discard(peer)
                kept = {p for p, at in reserved.items() if at > now and p not in gone}
                full = peer not in reserved and len(reserved) >= 3
                if full:
                    reserved = {p: reserved[p] for p in kept}
                ok = peer in reserved or len(reserved) < 3
                if ok:
                    reserved[peer] = now + 10.0
                status = table.reserve(PeerId(peer), now, lambda p: p not in gone)
                assert (status is Status.OK) == ok
            case ("open", str(source), str(target)):
                one, other = PeerId(source), PeerId(target)
                load = [p for pair in circuits for p in pair]
                room = len(circuits) < 4 and max(load.count(one), load.count(other)) < 2
                ok = one != other and reserved.get(other, now) > now and room
                assert (table.open(one, other, now) is Status.OK) == ok
                if ok:
                    circuits.append((one, other))
            case ("close", int(which)) if which < len(circuits):
                table.close(*circuits.pop(which))
            case ("pass", float(seconds)):
                now += seconds
            case ("leave", peer):
                gone.add(peer)
        assert table.circuits == len(circuits) <= 4
