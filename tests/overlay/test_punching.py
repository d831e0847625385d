"""Relayed connections over loopback that become direct ones, or stay what they are."""

import time
from collections.abc import AsyncIterator, Iterable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field
from random import Random

import pytest
import trio
import trio.testing

from overlay import connected as connected_module
from overlay import punching as punching_module
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
from overlay.errors import PeerUnreachable, StreamCut
from overlay.framing import FramedStream
from overlay.host import Host, open_host
from overlay.identity import Identity
from overlay.names import PeerId
from overlay.punching import MAX_ADDRESSES, TRIES, Puncher
from overlay.relay import Relay
from overlay.reservations import Reservations

LOOPBACK = "/ip4/127.0.0.1/tcp/0"
ECHO = "/test/echo/1.0.0"
NOWHERE = Address("ip4", "127.0.0.1", 1)
TIMEOUT_S = 60.0
FAST_S = 20.0


async def echo(_: PeerId, stream: FramedStream) -> None:
    while (message := await stream.receive()) is not None:
        await stream.send(message)


async def connected_already(_: PeerId) -> None:
    pass


@dataclass
class Peer:
    """A host with a puncher, and where it believes that it can be dialled."""

    host: Host
    observed: list[Address]
    published: dict[PeerId, list[Address]] = field(default_factory=dict)
    circuits: tuple[str, ...] = ()
    punched: int = 0
    puncher: Puncher = field(init=False)
    _news: trio.Event = field(default_factory=trio.Event)

    def __post_init__(self) -> None:
        self.puncher = Puncher(
            self.host, self._observed, lambda peer: self.published.get(peer, []), Random(1)
        )

    @property
    def id(self) -> PeerId:
        return self.host.peer_id

    def _observed(self) -> Iterable[Address]:
        self.punched += 1
        return self.observed

    def reserved(self, circuits: tuple[str, ...]) -> None:
        self.circuits = circuits
        self._news.set()

    async def hidden(self) -> None:
        await self._news.wait()

    async def is_direct(self, other: "Peer", direct: bool = True) -> None:
        while self.host.is_direct(other.id) is not direct:
            await self.host.next_change.wait()


@asynccontextmanager
async def peers_behind_a_relay(
    count: int = 2, psk: bytes | None = b"k" * 32, *, initiating: bool = True
) -> AsyncIterator[tuple[Host, list[Peer]]]:
    """Yield a relay, and peers that each hold a reservation there.

    They punch for connections that come over the relay, except where a test speaks for them.
    """
    with trio.fail_after(TIMEOUT_S):
        async with AsyncExitStack() as stack:
            relay, *hosts = [
                await stack.enter_async_context(open_host(Identity.generate(), [LOOPBACK], psk=psk))
                for _ in range(count + 1)
            ]
            Relay(relay, relay.listen_addresses, time.time)
            nursery = await stack.enter_async_context(trio.open_nursery())
            peers = []
            for host in hosts:
                host.handle(ECHO, echo)
                peer = Peer(host, parse_addresses(host.listen_addresses()))
                await host.connect(None, relay.listen_addresses()[0], timeout_s=FAST_S)
                kept = Reservations(
                    host,
                    connected_already,
                    lambda: [relay.peer_id],
                    peer.reserved,
                    peer.puncher.initiate if initiating else leave_relayed,
                    time.time,
                )
                nursery.start_soon(kept.run)
                await peer.hidden()
                peers.append(peer)
            yield relay, peers
            nursery.cancel_scope.cancel()


async def leave_relayed(_: Connection) -> None:
    pass


async def call(caller: Peer, other: Peer) -> None:
    await caller.host.connect(other.id, other.circuits[0], timeout_s=FAST_S)


async def answers(caller: Peer, other: Peer) -> bool:
    async with await caller.host.open_stream(other.id, ECHO) as stream:
        await stream.send(b"still there?")
        answer = await stream.receive()
        await stream.finish()
    return answer == b"still there?"


def connections(one: Peer, other: Peer) -> list[Connection]:
    return [c for c in one.host._connections.of(other.id) if not c.is_closed]


# It works


@pytest.mark.parametrize("psk", [None, b"k" * 32])
async def test_a_relayed_connection_becomes_a_direct_one_and_then_ends(
    psk: bytes | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connected_module, "RETIRE_QUIET_S", 0.2)
    async with peers_behind_a_relay(psk=psk) as (_, (a, b)):
        await call(a, b)
        await a.is_direct(b)
        await b.is_direct(a)
        for one, other in ((a, b), (b, a)):
            assert await answers(one, other)
            assert one.host.remote_address(other.id) == "127.0.0.1"
            while any(c.relayed for c in connections(one, other)):
                await one.host.next_change.wait()
            assert await answers(one, other)


async def test_both_ends_that_begin_at_once_agree_who_goes_on() -> None:
    async with peers_behind_a_relay() as (_, (a, b)):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(call, a, b)
            nursery.start_soon(call, b, a)
        await a.is_direct(b)
        await b.is_direct(a)
        assert await answers(a, b)
        assert await answers(b, a)


async def test_a_peer_that_can_be_dialled_is_dialled_and_nothing_is_punched() -> None:
    async with peers_behind_a_relay() as (_, (a, b)):
        b.published[a.id] = [NOWHERE, *parse_addresses(a.host.listen_addresses())]
        await call(a, b)
        await a.is_direct(b)
        await b.is_direct(a)
        assert a.punched == b.punched == 0


async def test_many_peers_punch_at_once() -> None:
    async with peers_behind_a_relay(6) as (_, (a, *others)):
        async with trio.open_nursery() as nursery:
            for other in others:
                nursery.start_soon(call, other, a)
        for other in others:
            await other.is_direct(a)
            assert await answers(a, other)


# It does not work, and nothing is lost


async def test_what_cannot_be_punched_stays_relayed_after_some_tries(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(punching_module, "WINDOW_S", 0.2)
    async with peers_behind_a_relay() as (_, (a, b)):
        a.observed = b.observed = [NOWHERE]
        await call(a, b)
        while b.punched < TRIES:
            assert await answers(a, b)
            await trio.testing.wait_all_tasks_blocked(0.01)
        await trio.sleep(0.5)
        assert b.punched == a.punched == TRIES
        assert [c.relayed for c in connections(a, b)] == [True]
        assert await answers(a, b)


async def test_another_peer_at_the_address_is_not_taken_for_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(punching_module, "WINDOW_S", 0.2)
    async with peers_behind_a_relay(3) as (_, (a, b, other)):
        a.observed = b.observed = other.observed
        await call(a, b)
        while b.punched < TRIES:
            await trio.testing.wait_all_tasks_blocked(0.01)
        await trio.sleep(0.3)
        assert not a.host.is_direct(b.id)
        assert not b.host.is_direct(a.id)
        assert await answers(a, b)


async def test_names_and_more_addresses_than_a_few_are_not_dialled(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(punching_module, "WINDOW_S", 0.1)
    tried: set[Address] = set()

    async def note(_: Host, __: PeerId, target: Address, *, dialled: bool) -> None:
        tried.add(target)

    async with peers_behind_a_relay() as (_, (a, b)):
        monkeypatch.setattr(Host, "dial_from_listener", note)
        named = [Address("dns", "localhost", 9)]
        a.observed = named + [Address("ip4", "127.0.0.1", port) for port in range(1, 7)]
        b.observed = named
        await call(a, b)
        while b.punched < TRIES:
            await trio.testing.wait_all_tasks_blocked(0.01)
        assert tried == set(a.observed[1 : 1 + MAX_ADDRESSES])


async def test_a_peer_that_says_no_address_is_left_relayed() -> None:
    async with peers_behind_a_relay() as (_, (a, b)):
        a.observed = []
        await call(a, b)
        while not b.punched:
            await trio.testing.wait_all_tasks_blocked(0.01)
        await trio.sleep(0.2)
        assert b.punched == 1
        assert await answers(b, a)


async def test_a_peer_that_does_not_punch_is_left_relayed() -> None:
    async with peers_behind_a_relay() as (_, (a, b)):
        del a.host._bytes_handlers[PUNCH_PROTOCOL]
        await call(a, b)
        await trio.sleep(0.2)
        assert [c.relayed for c in connections(b, a)] == [True]
        assert await answers(a, b)


# What the other end does wrong


@pytest.mark.parametrize(
    "sent",
    [
        b"\xff\xff\xff\xff",
        b"\x02\xff\xff",
        encode_punch(Sync()),
        encode_punch(Observed((NOWHERE,))) * 2,
        encode_punch(Observed((NOWHERE,))),
    ],
)
async def test_a_punch_that_makes_no_sense_ends_its_stream_only(
    sent: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(punching_module, "MESSAGE_TIMEOUT_S", 0.2)
    async with peers_behind_a_relay(initiating=False) as (_, (a, b)):
        await call(a, b)
        with suppress(StreamCut):
            await say_and_hear_out(a.host, b.id, sent, relayed=True)
        assert await answers(a, b)


async def say_and_hear_out(host: Host, peer: PeerId, sent: bytes, *, relayed: bool) -> None:
    stream = await host.open_bytes(peer, PUNCH_PROTOCOL, relayed=relayed)
    await stream.write(sent)
    while await stream.read(100):
        pass


@pytest.mark.parametrize("answer", [b"\xff\xff\xff\xff", encode_punch(Sync()), b""])
async def test_an_answer_that_makes_no_sense_ends_the_tries(
    answer: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(punching_module, "MESSAGE_TIMEOUT_S", 0.2)
    asked = 0

    async def say(_: Connection, stream: MuxedBytes) -> None:
        nonlocal asked
        asked += 1
        await read_delimited(stream)
        await stream.write(answer)

    async with peers_behind_a_relay() as (_, (a, b)):
        a.host.handle_bytes(PUNCH_PROTOCOL, say)
        await call(a, b)
        await trio.sleep(0.5)
        assert asked == 1
        assert await answers(a, b)


async def test_nobody_is_told_to_punch_over_a_direct_connection() -> None:
    async with peers_behind_a_relay() as (_, (a, b)):
        direct = b.host.listen_addresses()[0]
        await a.host.connect(b.id, direct, timeout_s=FAST_S)
        with pytest.raises(StreamCut):
            await say_and_hear_out(a.host, b.id, encode_punch(Observed((NOWHERE,))), relayed=False)


async def test_a_second_punch_by_the_same_peer_is_refused_while_one_is_under_way() -> None:
    async with peers_behind_a_relay(initiating=False) as (_, (a, b)):
        await call(a, b)
        first = await a.host.open_bytes(b.id, PUNCH_PROTOCOL, relayed=True)
        await first.write(encode_punch(Observed((NOWHERE,))))
        assert isinstance(decode_punch(await read_delimited(first)), Observed)
        with pytest.raises(StreamCut):
            await say_and_hear_out(a.host, b.id, encode_punch(Observed((NOWHERE,))), relayed=True)


# Dialling in the same moment


async def test_a_connection_that_both_ends_dial_at_once_is_one_connection() -> None:
    """The kernel makes one of two dials that cross; the roles are those that were agreed."""
    async with peers_behind_a_relay() as (_, (a, b)):
        addresses = {p.id: parse_addresses(p.host.listen_addresses())[0] for p in (a, b)}

        async def dial(one: Peer, other: Peer, *, dialled: bool) -> None:
            with trio.move_on_after(FAST_S):
                while not one.host.is_direct(other.id):
                    try:
                        target = addresses[other.id]
                        await one.host.dial_from_listener(other.id, target, dialled=dialled)
                    except PeerUnreachable:
                        await trio.sleep(0.01)

        expected = (addresses[b.id].host, addresses[b.id].port)
        with a.host.reversing(b.id, [expected]):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(lambda: dial(a, b, dialled=True))
                nursery.start_soon(lambda: dial(b, a, dialled=False))
        assert a.host.is_direct(b.id)
        assert b.host.is_direct(a.id)
        (connection,) = connections(a, b)
        assert connection.remote == expected
        assert await answers(a, b)


async def test_a_host_that_listens_nowhere_cannot_dial_from_where_it_listens() -> None:
    async with open_host(Identity.generate(), [], psk=None) as host:
        with pytest.raises(PeerUnreachable, match="no port"):
            await host.dial_from_listener(host.peer_id, NOWHERE, dialled=True)
