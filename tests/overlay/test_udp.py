import errno
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from itertools import pairwise

import pytest
import trio

from overlay.datagrams import MAX_MESSAGE_BYTES
from overlay.endpoints import DOUBT_AFTER, Endpoint, Reach
from overlay.errors import AddressTaken
from overlay.identity import Identity
from overlay.names import PeerId
from overlay.sealing import Dropped, Sealer
from overlay.udp import RECEIVE_BATCH, SealedUdp, bind_udp, bound_port

NETWORK = b"a secret of the network's members"
IDS = [Identity.from_seed(bytes([n]) * 32).peer_id for n in range(4)]

LOOPBACKS = ["127.0.0.1", "::1"]


@dataclass
class Party:
    """A peer with a socket on loopback; it answers `ping` and keeps what it gets."""

    peer: PeerId
    host: str = "127.0.0.1"
    got: list[tuple[PeerId, bytes]] = field(default_factory=list)
    news: trio.Event = field(default_factory=trio.Event)

    def __post_init__(self) -> None:
        self.socket = bind_udp(self.host, 0)
        self.place = Endpoint(self.host, bound_port(self.socket))
        self.sealer = Sealer(self.peer, NETWORK)
        self.udp = SealedUdp([self.socket], self.sealer, received=self.receive)

    def receive(self, peer: PeerId, message: bytes) -> bool:
        self.got.append((peer, message))
        self.news.set()
        self.news = trio.Event()
        if message == b"ping":
            self.udp.send(peer, b"ack", wants_answer=False)
        return message == b"ack"

    def know(self, other: "Party", *places: Endpoint) -> None:
        self.udp.know(other.peer, other.sealer.public_key, places or [other.place])

    def ping(self, other: "Party") -> bool:
        return self.udp.send(other.peer, b"ping", wants_answer=True)

    async def until(self, condition: Callable[[], bool]) -> None:
        while not condition():
            await self.news.wait()

    async def get(self, count: int) -> list[tuple[PeerId, bytes]]:
        await self.until(lambda: len(self.got) >= count)
        return self.got


@asynccontextmanager
async def parties(*hosts: str) -> AsyncIterator[list[Party]]:
    """Peers that know each other."""
    made = [Party(peer, host) for peer, host in zip(IDS, hosts, strict=False)]
    for one in made:
        for other in made:
            if one is not other:
                one.know(other)
    async with trio.open_nursery() as nursery:
        for one in made:
            await nursery.start(one.udp.run)
        with trio.fail_after(60):
            yield made
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("host", LOOPBACKS)
async def test_a_message_arrives_with_its_senders_name_and_the_answer_opens_the_way(
    host: str,
) -> None:
    async with parties(host, host) as (one, other):
        assert not one.ping(other)
        assert await other.get(1) == [(one.peer, b"ping")]
        assert await one.get(1) == [(other.peer, b"ack")]
        assert (one.udp.reach(other.peer), other.udp.reach(one.peer)) == (
            Reach.OPEN,
            Reach.UNTRIED,
        )
        assert one.ping(other)
        await one.get(2)
        assert one.udp.counts.sent == other.udp.counts.received == 2


async def test_a_peer_with_both_families_is_reached_on_either() -> None:
    sealer, got = Sealer(IDS[2], NETWORK), list[bytes]()
    sockets = [bind_udp(host, 0) for host in LOOPBACKS]

    def receive(_: PeerId, message: bytes) -> bool:
        got.append(message)
        return True

    both = SealedUdp(sockets, sealer, received=receive)
    async with parties(*LOOPBACKS) as others, trio.open_nursery() as nursery:
        await nursery.start(both.run)
        for other in others:
            both.know(other.peer, other.sealer.public_key, [other.place])
            place = Endpoint(other.host, bound_port(sockets[other.host == "::1"]))
            other.udp.know(IDS[2], sealer.public_key, [place])
            both.send(other.peer, b"ping", wants_answer=True)
            await other.get(1)
        while len(got) < 2:
            await trio.lowlevel.checkpoint()
        assert got == [b"ack", b"ack"]
        nursery.cancel_scope.cancel()


async def test_an_address_of_a_family_without_a_socket_is_not_tried() -> None:
    async with parties("127.0.0.1", "127.0.0.1") as (one, other):
        one.know(other, Endpoint("2001:db8::1", 4001), other.place)
        one.ping(other)
        await one.get(1)
        assert one.udp.counts.unsent_refused == 0


async def test_addresses_are_tried_until_one_answers() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as deaf:
        deaf.bind(("127.0.0.1", 0))
        async with parties("127.0.0.1", "127.0.0.1") as (one, other):
            one.know(other, Endpoint(*deaf.getsockname()), other.place)
            one.ping(other)
            one.ping(other)
            await one.get(1)
            assert one.ping(other)
            assert await one.get(2) == [(other.peer, b"ack")] * 2


async def test_a_peer_is_followed_to_where_its_last_authentic_datagram_came_from() -> None:
    async with parties("127.0.0.1", "127.0.0.1") as (one, other), trio.open_nursery() as nursery:
        one.ping(other)
        await one.get(1)
        moved = SealedUdp([bind_udp("127.0.0.1", 0)], other.sealer, received=other.receive)
        await nursery.start(moved.run)
        moved.know(one.peer, one.sealer.public_key, [one.place])
        moved.send(one.peer, b"here I am", wants_answer=False)
        await one.get(2)
        one.udp.send(other.peer, b"there", wants_answer=False)
        await other.get(2)
        assert moved.counts.received == 1
        nursery.cancel_scope.cancel()


async def test_a_datagram_that_does_not_open_moves_nobody_and_gets_no_answer() -> None:
    async with parties("127.0.0.1", "127.0.0.1") as (one, other):
        one.ping(other)
        await one.get(1)
        replayed = one.sealer.seal(other.peer, b"ping")
        assert replayed is not None
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as attacker:
            attacker.bind(("127.0.0.1", 0))
            attacker.setblocking(False)
            other.got.clear()
            one.udp.transmit(replayed, other.place)
            await other.get(1)
            for datagram in (replayed, replayed[:-1] + b"x", b"", bytes(40), bytes(2000)):
                attacker.sendto(datagram, other.place)
            one.ping(other)
            await other.get(2)
            await one.get(3)
            with pytest.raises(BlockingIOError):
                attacker.recv(2000)
        assert other.sealer.dropped == {
            Dropped.REPLAYED: 2,  # the cut one has a counter that was seen
            Dropped.MALFORMED: 2,
            Dropped.UNKNOWN: 1,
        }
        assert other.udp.counts.received == 3


async def test_who_is_not_known_is_not_heard_and_not_sent_to() -> None:
    async with parties("127.0.0.1", "127.0.0.1") as (one, other):
        other.udp.forget(one.peer)
        one.ping(other)
        while not other.sealer.dropped:
            await trio.lowlevel.checkpoint()
        assert not other.ping(one)
        other.know(one)
        one.ping(other)
        await one.get(1)
        assert other.sealer.dropped == {Dropped.UNKNOWN: 1}
        one.udp.know(other.peer, b"", [other.place])
        assert not one.ping(other)
        assert one.udp.counts.sent == 2


async def test_a_restarted_peer_is_spoken_to_anew() -> None:
    async with parties("127.0.0.1", "127.0.0.1") as (one, other), trio.open_nursery() as nursery:
        one.ping(other)
        await one.get(1)
        again = Party(other.peer)
        again.know(one)
        await nursery.start(again.udp.run)
        one.know(again)
        assert one.udp.reach(other.peer) is Reach.UNTRIED
        one.ping(again)
        assert await again.get(1) == [(one.peer, b"ping")]
        nursery.cancel_scope.cancel()


async def test_a_peer_that_is_not_there_is_given_up_and_harms_nobody() -> None:
    """On loopback the kernel answers at once that nobody listens, in an ICMP message."""
    async with parties("127.0.0.1", "127.0.0.1") as (one, other):
        gone = Party(IDS[3])
        gone.socket.close()
        one.know(gone)
        while one.udp.reach(gone.peer) is not Reach.SHUT:
            assert not one.ping(gone)
        sent = one.udp.counts.sent
        assert not one.ping(gone)
        assert one.udp.counts.sent == sent > DOUBT_AFTER
        one.ping(other)
        await one.get(1)


async def test_a_refusal_that_the_system_passes_on_stops_nothing() -> None:
    """A connected socket is told of ICMP errors by `recv`, as some systems tell it of any."""
    async with parties("127.0.0.1") as (one,):
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            probe.bind(("127.0.0.1", 0))
            nobody = probe.getsockname()
        one.socket.connect(nobody)
        one.socket.send(b"to nobody")
        one.socket.connect(("127.0.0.1", bound_port(bound := bind_udp("127.0.0.1", 0))))
        with bound:
            bound.sendto(b"nonsense", one.place)
            while not one.sealer.dropped:
                await trio.lowlevel.checkpoint()


async def test_what_the_system_refuses_to_send_is_counted_and_dropped() -> None:
    async with parties("127.0.0.1", "127.0.0.1") as (one, other):
        one.know(other, Endpoint("192.0.2.1", 4001))  # not to be reached from loopback
        assert not one.ping(other)
        assert (one.udp.counts.unsent_refused, one.udp.counts.sent) == (1, 0)


async def test_a_full_kernel_buffer_drops_and_never_blocks() -> None:
    async with parties("127.0.0.1", "127.0.0.1") as (one, other):
        with _FullSocket() as sock:
            full = SealedUdp([sock], one.sealer, received=one.receive)
            full.know(other.peer, other.sealer.public_key, [other.place])
            assert not full.send(other.peer, b"message", wants_answer=True)
            assert (full.counts.unsent_full, full.counts.sent) == (1, 0)


class _FullSocket(socket.socket):
    """Loopback drops at the receiver instead, so that the sender's buffer cannot be filled."""

    def __init__(self) -> None:
        super().__init__(socket.AF_INET, socket.SOCK_DGRAM)

    def sendto(self, *_: object) -> int:
        raise BlockingIOError


async def test_a_flood_leaves_other_tasks_their_turns() -> None:
    async with parties("127.0.0.1", "127.0.0.1") as (one, other):
        count = 7 * RECEIVE_BATCH
        for n in range(count):
            one.udp.send(other.peer, bytes([n]), wants_answer=False)
        seen = [len(other.got)]
        while len(other.got) < count:
            await trio.lowlevel.checkpoint()
            seen.append(len(other.got))
        steps = [later - earlier for earlier, later in pairwise(seen)]
        assert max(steps) <= 2 * RECEIVE_BATCH  # trio shuffles who is first in a round
        assert [message for _, message in other.got] == [bytes([n]) for n in range(count)]


async def test_the_largest_message_passes_and_a_larger_one_is_the_callers_mistake() -> None:
    async with parties("127.0.0.1", "127.0.0.1") as (one, other):
        one.udp.send(other.peer, bytes(MAX_MESSAGE_BYTES), wants_answer=False)
        assert await other.get(1) == [(one.peer, bytes(MAX_MESSAGE_BYTES))]
        with pytest.raises(ValueError, match="do not fit"):
            one.udp.send(other.peer, bytes(MAX_MESSAGE_BYTES + 1), wants_answer=False)


@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "0.0.0.0", "::"])
async def test_udp_is_bound_on_the_tcp_listeners_port(host: str) -> None:
    (listener,) = await trio.open_tcp_listeners(0, host=host)
    async with listener:
        port = listener.socket.getsockname()[1]
        with bind_udp(host, port) as bound:
            assert bound.getsockname()[:2] == (host, port)


async def test_both_families_may_have_the_same_port() -> None:
    with bind_udp("0.0.0.0", 0) as first, bind_udp("::", bound_port(first)) as second:
        assert bound_port(first) == bound_port(second)


async def test_a_port_that_is_taken_is_named_and_what_to_do() -> None:
    with bind_udp("127.0.0.1", 0) as first:
        taken = bound_port(first)
        with pytest.raises(AddressTaken, match=rf"127\.0\.0\.1:{taken}.*free the port"):
            bind_udp("127.0.0.1", taken)


async def test_an_address_of_another_machine_cannot_be_bound() -> None:
    with pytest.raises(AddressTaken, match=r"192\.0\.2\.1"):
        bind_udp("192.0.2.1", 0)


async def test_the_sockets_are_closed_with_the_run() -> None:
    async with parties("127.0.0.1", "127.0.0.1") as (one, other):
        place = one.place
    with bind_udp(*place):
        pass
    assert not one.ping(other)
    assert one.udp.counts.unsent_refused == 1


async def test_a_kernel_error_that_is_nobodys_fault_but_ours_is_raised() -> None:
    broken = _BrokenSocket()
    lost = SealedUdp([broken], Sealer(IDS[0], NETWORK), received=lambda *_: False)
    with broken, pytest.raises(OSError, match="broken"):
        lost._receive_batch(broken)


class _BrokenSocket(socket.socket):
    def recvfrom(self, *_: object) -> tuple[bytes, object]:
        raise OSError(errno.EBADF, "broken")
