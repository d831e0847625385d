"""Real hosts over loopback, against each other, against stock py-libp2p and against raw bytes."""

import errno
import logging
import math
import os
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress

import pytest
import trio
from libp2p import new_host
from libp2p.abc import IHost, INetStream, ISecureTransport
from libp2p.crypto.ed25519 import Ed25519PrivateKey, create_new_key_pair
from libp2p.crypto.keys import KeyPair, PublicKey
from libp2p.crypto.rsa import create_new_key_pair as create_new_rsa_key_pair
from libp2p.crypto.x25519 import create_new_key_pair as create_noise_key_pair
from libp2p.custom_types import TProtocol
from libp2p.host.ping import PingService
from libp2p.identity.identify.identify import parse_identify_response
from libp2p.io.exceptions import ConnectionClosedError
from libp2p.network.connection.raw_connection import RawConnection
from libp2p.network.exceptions import SwarmException
from libp2p.peer.id import ID
from libp2p.peer.peerinfo import info_from_p2p_addr
from libp2p.security.insecure.transport import PLAINTEXT_PROTOCOL_ID, InsecureTransport
from libp2p.security.noise.transport import PROTOCOL_ID as NOISE_PROTOCOL_ID
from libp2p.security.noise.transport import Transport as NoiseTransport
from libp2p.security.pnet.protector import new_protected_conn
from multiaddr import Multiaddr

from overlay import connection, multistream, wire
from overlay import host as host_module
from overlay.addresses import parse_address
from overlay.connected import MAX_CONNECTIONS_PER_PEER
from overlay.connection import MAX_STREAMS, Connection
from overlay.errors import (
    AddressTaken,
    MyxoError,
    PassphraseRefused,
    PeerUnreachable,
    ProtocolRefused,
    SettingsInvalid,
    StreamCut,
)
from overlay.framing import FramedStream
from overlay.gate import OneKey
from overlay.host import Connected, ConnectionEvent, Disconnected, Host, open_host
from overlay.http.carried import SEND_TIMEOUT_S, CarriedStream
from overlay.http.transport import LEAST_RATE, transport
from overlay.identity import Identity
from overlay.names import PeerId
from overlay.tcp import bound_address, dial_tcp, listen_tcp

LOOPBACK = "/ip4/127.0.0.1/tcp/0"
ECHO = "/test/echo/1.0.0"
PSK, OTHER_PSK = b"k" * 32, b"o" * 32
TIMEOUT_S = 60.0
FAST_S = 30.0


@asynccontextmanager
async def hosts(
    count: int, psks: Sequence[bytes | None] = (None,), max_connections: int = 100
) -> AsyncIterator[list[Host]]:
    """Open hosts on loopback that echo, each with its passphrase key of `psks`, taken in turn."""
    with trio.fail_after(TIMEOUT_S):
        async with AsyncExitStack() as stack:
            opened = []
            for number in range(count):
                host = await stack.enter_async_context(
                    open_host(
                        Identity.generate(),
                        [LOOPBACK],
                        psk=psks[number % len(psks)],
                        max_connections=max_connections,
                    )
                )
                host.handle(ECHO, echo)
                opened.append(host)
            yield opened


async def echo(_: PeerId, stream: FramedStream) -> None:
    while (message := await stream.receive()) is not None:
        await stream.send(message)


def address_of(host: Host) -> str:
    return f"{host.listen_addresses()[0]}/p2p/{host.peer_id}"


def port_of(host: Host) -> int:
    return int(host.listen_addresses()[0].rpartition("/")[2])


async def connected_pair(a: Host, b: Host) -> None:
    await a.connect(b.peer_id, b.listen_addresses()[0], timeout_s=FAST_S)


async def answers(host: Host, peer: PeerId, message: bytes = b"still there?") -> bool:
    async with await host.open_stream(peer, ECHO) as stream:
        await stream.send(message)
        answer = await stream.receive()
        await stream.finish()
    return answer == message


async def events(host: Host, count: int) -> list[ConnectionEvent]:
    return [await host.connections.receive() for _ in range(count)]


# Connecting, streams, events


@pytest.mark.parametrize("psk", [None, PSK])
async def test_two_hosts_know_each_other_by_their_keys_and_exchange_messages(
    psk: bytes | None,
) -> None:
    async with hosts(2, [psk]) as (a, b):
        assert await a.connect(None, address_of(b), timeout_s=FAST_S) == b.peer_id
        assert await answers(a, b.peer_id)
        assert a.connected() == {b.peer_id}
        assert await events(b, 1) == [Connected(a.peer_id)]
        assert await answers(b, a.peer_id, bytes(1 << 20))
        assert b.remote_address(a.peer_id) == "127.0.0.1"


async def test_an_address_without_a_peer_id_tells_who_answered() -> None:
    async with hosts(2) as (a, b):
        assert await a.connect(None, b.listen_addresses()[0], timeout_s=FAST_S) == b.peer_id


@pytest.mark.parametrize("kind", ["dns", "dns4"])
async def test_a_host_name_is_resolved(kind: str) -> None:
    async with hosts(2) as (a, b):
        address = f"/{kind}/localhost/tcp/{port_of(b)}/p2p/{b.peer_id}"
        assert await a.connect(None, address, timeout_s=FAST_S) == b.peer_id


async def test_ip6_addresses_are_listened_on_and_dialled() -> None:
    with trio.fail_after(TIMEOUT_S):
        async with (
            hosts(1) as (a,),
            open_host(Identity.generate(), ["/ip6/::1/tcp/0"], psk=None) as b,
        ):
            assert await a.connect(None, b.listen_addresses()[0], timeout_s=FAST_S) == b.peer_id
            assert b.remote_address(a.peer_id) == "::1"


async def test_a_wildcard_is_told_as_addresses_that_others_can_dial() -> None:
    with trio.fail_after(TIMEOUT_S):
        async with open_host(Identity.generate(), ["/ip4/0.0.0.0/tcp/0"], psk=None) as host:
            addresses = host.listen_addresses()
            assert all("/0.0.0.0/" not in address for address in addresses)
            assert any("/127.0.0.1/" in address for address in addresses)


async def test_connecting_to_a_connected_peer_makes_no_second_connection() -> None:
    async with hosts(2) as (a, b):
        await connected_pair(a, b)
        await a.connect(b.peer_id, "/ip4/127.0.0.1/tcp/1", timeout_s=FAST_S)
        assert a.connected() == {b.peer_id}


async def test_a_protocol_that_nobody_handles_is_refused_and_the_connection_lives() -> None:
    async with hosts(2) as (a, b):
        await connected_pair(a, b)
        with pytest.raises(ProtocolRefused, match="/test/unknown"):
            await a.open_stream(b.peer_id, "/test/unknown/1.0.0")
        assert await answers(a, b.peer_id)


async def test_a_stream_to_a_stranger_says_that_there_is_no_connection() -> None:
    async with hosts(1) as (a,):
        with pytest.raises(PeerUnreachable, match="not connected"):
            await a.open_stream(Identity.generate().peer_id, ECHO)


async def test_a_handler_that_returns_finishes_its_stream() -> None:
    async def greet(_: PeerId, stream: FramedStream) -> None:
        await stream.send(b"hello")

    async with hosts(2) as (a, b):
        b.handle("/test/greet/1.0.0", greet)
        await connected_pair(a, b)
        stream = await a.open_stream(b.peer_id, "/test/greet/1.0.0")
        assert [await stream.receive(), await stream.receive()] == [b"hello", None]


async def test_dialling_each_other_at_once_does_no_harm() -> None:
    async with hosts(2) as (a, b):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(connected_pair, a, b)
            nursery.start_soon(connected_pair, b, a)
        for _ in range(3):
            assert await answers(a, b.peer_id)
            assert await answers(b, a.peer_id)
        assert await events(a, 1) == [Connected(b.peer_id)]


async def test_disconnecting_ends_streams_on_both_sides_and_is_told() -> None:
    async with hosts(2) as (a, b):
        await connected_pair(a, b)
        stream = await a.open_stream(b.peer_id, ECHO)
        await a.disconnect(b.peer_id)
        assert a.connected() == frozenset()
        with pytest.raises(StreamCut):
            await stream.receive()
        assert await events(a, 2) == [Connected(b.peer_id), Disconnected(b.peer_id)]
        assert await events(b, 2) == [Connected(a.peer_id), Disconnected(a.peer_id)]


async def test_a_reader_of_events_that_lags_still_learns_of_every_return() -> None:
    async with hosts(2) as (a, b):
        for _ in range(5):
            await connected_pair(a, b)
            await a.disconnect(b.peer_id)
        await connected_pair(a, b)
        seen = await events(a, 3)
        assert seen == [Connected(b.peer_id), Disconnected(b.peer_id), Connected(b.peer_id)]


async def test_the_oldest_of_too_many_connections_of_one_peer_gives_way() -> None:
    identity = Identity.generate()
    async with hosts(1) as (a,), AsyncExitStack() as stack:
        for _ in range(6):  # the same peer again and again, as after a crash that nobody saw
            b = await stack.enter_async_context(open_host(identity, [], psk=None))
            b.handle(ECHO, echo)
            await connected_pair(b, a)
        assert await answers(a, identity.peer_id)
        await trio.testing.wait_all_tasks_blocked()
        assert len(a._connections.of(identity.peer_id)) == MAX_CONNECTIONS_PER_PEER


# What a peer does wrong ends its stream or connection, never the host


async def test_a_handler_that_raises_ends_only_its_stream(
    capsys: pytest.CaptureFixture[str],
) -> None:
    async def fail(_: PeerId, stream: FramedStream) -> None:
        await stream.receive()
        raise RuntimeError("a bug in a handler")

    async with hosts(2) as (a, b):
        b.handle("/test/fail/1.0.0", fail)
        await connected_pair(a, b)
        kept = await a.open_stream(b.peer_id, ECHO)
        stream = await a.open_stream(b.peer_id, "/test/fail/1.0.0")
        await stream.send(b"x")
        with pytest.raises(StreamCut):
            await stream.receive()
        await kept.send(b"y")
        assert await kept.receive() == b"y"
    assert "a bug in a handler" in capsys.readouterr().out


async def test_a_reset_in_the_middle_of_a_write_ends_only_that_stream_and_is_no_error(
    capsys: pytest.CaptureFixture[str],
) -> None:
    ended = trio.Event()

    async def flood(_: PeerId, stream: FramedStream) -> None:
        try:
            while True:
                await stream.send(bytes(1 << 20))
        finally:
            ended.set()

    async with hosts(2) as (a, b):
        b.handle("/test/flood/1.0.0", flood)
        await connected_pair(a, b)
        stream = await a.open_stream(b.peer_id, "/test/flood/1.0.0")
        await stream.receive()
        await stream.aclose()
        await ended.wait()
        assert await answers(a, b.peer_id)
        assert await answers(b, a.peer_id)
    assert "failed" not in capsys.readouterr().out


@pytest.mark.parametrize("psk", [None, PSK])
@pytest.mark.parametrize(
    "bytes_sent", [b"", b"\x13", b"\xff" * 4096, b"GET / HTTP/1.1\r\n\r\n", b"\x13/multistream/1.0"]
)
async def test_any_bytes_on_the_port_leave_the_host_at_work(
    bytes_sent: bytes, psk: bytes | None
) -> None:
    async with hosts(2, [psk]) as (a, b):
        async with await trio.open_tcp_stream("127.0.0.1", port_of(b)) as stream:
            await stream.send_all(bytes_sent)
        await connected_pair(a, b)
        assert await answers(a, b.peer_id)


async def test_half_open_clients_are_let_go_and_keep_nobody_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(host_module, "_MAX_HANDSHAKES", 4)
    monkeypatch.setattr(wire, "HANDSHAKE_TIMEOUT_S", 10 * TIMEOUT_S)
    async with hosts(2) as (a, b), AsyncExitStack() as stack:
        silent = [
            await stack.enter_async_context(await trio.open_tcp_stream("127.0.0.1", port_of(b)))
            for _ in range(20)
        ]
        await connected_pair(a, b)
        assert await answers(a, b.peer_id)
        assert await closed(silent[0])


async def test_a_half_open_client_is_closed_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wire, "HANDSHAKE_TIMEOUT_S", 0.05)
    async with hosts(1) as (a,), await trio.open_tcp_stream("127.0.0.1", port_of(a)) as stream:
        assert await closed(stream)


async def closed(stream: trio.SocketStream) -> bool:
    """Return once the other end has closed, whatever it said before."""
    try:
        while await stream.receive_some():
            pass
    except trio.BrokenResourceError:
        pass
    return True


async def test_inbound_slots_are_freed_when_connections_end() -> None:
    async with hosts(1, max_connections=2) as (server,):
        for _ in range(8):
            async with open_host(Identity.generate(), [], psk=None) as client:
                await connected_pair(client, server)
            await events(server, 2)
        assert server.connected() == frozenset()


async def test_a_full_host_closes_further_connections_at_once() -> None:
    async with hosts(3, max_connections=1) as (server, first, second):
        await connected_pair(first, server)
        with pytest.raises(PeerUnreachable, match="closed the connection"):
            await connected_pair(second, server)
        assert await answers(first, server.peer_id)


async def test_the_stream_over_the_cap_is_refused_and_room_comes_back() -> None:
    async with hosts(2) as (a, b):
        await connected_pair(a, b)
        streams = [await a.open_stream(b.peer_id, ECHO) for _ in range(MAX_STREAMS)]
        with pytest.raises(PeerUnreachable, match=f"{MAX_STREAMS} streams"):
            await a.open_stream(b.peer_id, ECHO)
        await streams[0].aclose()
        assert await answers(a, b.peer_id)


async def test_streams_of_any_ending_leave_nothing_behind() -> None:
    async with hosts(2) as (a, b):
        await connected_pair(a, b)
        for _ in range(300):
            assert await answers(a, b.peer_id)
            await (await a.open_stream(b.peer_id, ECHO)).aclose()
        await trio.testing.wait_all_tasks_blocked(0.05)
        assert [held(host) for host in (a, b)] == [0, 0]


def held(host: Host) -> int:
    (only,) = host._connections
    return len(only._muxer.streams)


async def test_an_opening_that_is_cancelled_leaks_no_stream() -> None:
    async with hosts(2) as (a, b):
        await connected_pair(a, b)
        for _ in range(MAX_STREAMS + 10):
            with trio.CancelScope() as scope:
                scope.cancel()
                await a.open_stream(b.peer_id, ECHO)
        assert await answers(a, b.peer_id)


async def test_sends_that_are_cancelled_do_not_break_the_connection() -> None:
    async def ignore(*_: object) -> None:
        await trio.sleep_forever()

    async with hosts(2) as (a, b):
        b.handle("/test/ignore/1.0.0", ignore)
        await connected_pair(a, b)
        for _ in range(20):
            stream = await a.open_stream(b.peer_id, "/test/ignore/1.0.0")
            with trio.move_on_after(0.01) as impatient:
                await stream.send(bytes(4 << 20))
            assert impatient.cancelled_caught
            await stream.aclose()
        assert await answers(a, b.peer_id)


# Slow readers: virtual time, in memory, the whole stack on both ends


async def test_a_reader_that_pauses_for_a_minute_gets_every_byte_and_holds_up_nobody(
    autojump_clock: trio.testing.MockClock,
) -> None:
    size = 3 << 20
    received = 0
    passed, done = trio.Event(), trio.Event()

    async def read_late(_: Connection, stream: connection.MuxedBytes) -> None:
        nonlocal received
        if await stream.read(1) == b"q":
            passed.set()
            return
        await trio.sleep(60)
        received = 1
        while received < size:
            received += len(await stream.read(1 << 16))
        done.set()

    async with in_memory_pair(read_late) as near:
        with trio.fail_after(100):
            slow = await near._open_muxed()
            quick = await near._open_muxed()
            async with trio.open_nursery() as nursery:
                nursery.start_soon(slow.write, bytes(size))
                await trio.sleep(30)
                await quick.write(b"q")
                with trio.fail_after(1):
                    await passed.wait()
            await done.wait()
    assert received == size


async def test_a_carried_answer_is_not_lost_to_a_client_that_reads_as_slowly_as_it_may(
    autojump_clock: trio.testing.MockClock,
) -> None:
    size, part = 1 << 20, 1 << 16
    received, done = 0, trio.Event()

    async def read_slowly(opened: Connection, stream: connection.MuxedBytes) -> None:
        nonlocal received
        carried = transport(CarriedStream(stream, opened.peer))
        while data := await carried.receive():
            await trio.sleep(len(data) / LEAST_RATE)
            received += len(data)
        done.set()

    async with in_memory_pair(read_slowly) as near:
        stream = CarriedStream(await near._open_muxed(), near.peer)
        carried = transport(stream, SEND_TIMEOUT_S)
        for _ in range(size // part):
            await carried.send(bytes(part))
        await stream.send_eof()
        await done.wait()
    assert received == size


async def test_a_writer_kept_waiting_learns_that_its_reader_gave_up(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async def give_up_late(_: Connection, stream: connection.MuxedBytes) -> None:
        await trio.sleep(60)
        await stream.reset()

    async with in_memory_pair(give_up_late) as near:
        with trio.fail_after(100):
            stream = await near._open_muxed()
            with pytest.raises(StreamCut):
                await stream.write(bytes(3 << 20))


async def test_a_writer_goes_on_in_the_moment_in_which_its_reader_has_read(
    autojump_clock: trio.testing.MockClock,
) -> None:
    size = 3 << 20
    done = trio.Event()

    async def read(_: Connection, stream: connection.MuxedBytes) -> None:
        received = 0
        while received < size:
            received += len(await stream.read(1 << 16))
        done.set()

    async with in_memory_pair(read) as near:
        begun = trio.current_time()
        await (await near._open_muxed()).write(bytes(size))
        await done.wait()
        assert trio.current_time() == begun  # twelve windows, and no time passed


async def test_a_window_grows_where_the_way_is_long_and_within_bounds(
    autojump_clock: trio.testing.MockClock,
) -> None:
    size, read, windows = 48 << 20, 0, set()
    done = trio.Event()

    async def read_all(_: Connection, stream: connection.MuxedBytes) -> None:
        nonlocal read
        while data := await stream.read(1 << 16):
            read += len(data)
            windows.add(stream.window_bytes)
            if read == size:
                done.set()

    async with in_memory_pair(read_all, delay_s=0.05) as near:
        await trio.sleep(1)  # the muxer has measured the way
        begun = trio.current_time()
        streams = [await near._open_muxed() for _ in range(2)]
        async with trio.open_nursery() as nursery:
            for stream in streams:
                nursery.start_soon(stream.write, bytes(size // 2))
        await done.wait()
        took_s = trio.current_time() - begun
    assert max(windows) == connection._MAX_WINDOW_BYTES
    assert took_s < 2  # windows of 256 KiB would take 9 s


async def test_windows_grow_no_further_than_a_connection_bears(
    autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection, "_MAX_GROWTH_BYTES", 1 << 20)
    served: list[connection.MuxedBytes] = []
    left, done = 8, trio.Event()

    async def read_all(_: Connection, stream: connection.MuxedBytes) -> None:
        nonlocal left
        served.append(stream)
        while await stream.read(1 << 16):
            grown = sum(one.window_bytes - (256 << 10) for one in served)
            assert grown <= 1 << 20
        left -= 1
        if not left:
            done.set()

    async with in_memory_pair(read_all, delay_s=0.05) as near:
        await trio.sleep(1)
        async with trio.open_nursery() as nursery:
            for _ in range(left):
                nursery.start_soon(write_and_end, await near._open_muxed(), bytes(2 << 20))
        await done.wait()
        assert sum(one.window_bytes - (256 << 10) for one in served) == 1 << 20


async def write_and_end(stream: connection.MuxedBytes, data: bytes) -> None:
    await stream.write(data)
    await stream.close()


async def test_the_window_of_a_slow_reader_does_not_grow(
    autojump_clock: trio.testing.MockClock,
) -> None:
    windows = set()

    async def read_slowly(_: Connection, stream: connection.MuxedBytes) -> None:
        while await stream.read(1 << 16):
            windows.add(stream.window_bytes)
            await trio.sleep(1)

    async with in_memory_pair(read_slowly, delay_s=0.05) as near:
        await trio.sleep(1)
        await (await near._open_muxed()).write(bytes(3 << 20))
        assert windows == {256 << 10}


def distant_pair(delay_s: float) -> tuple[trio.abc.Stream, trio.abc.Stream]:
    """Return two ends whose bytes arrive `delay_s` seconds after they were sent."""
    towards = [trio.open_memory_channel[tuple[float, bytes]](math.inf) for _ in range(2)]
    one, other = (DistantEnd(towards[n][0], towards[1 - n][1], delay_s) for n in range(2))
    return one, other


class DistantEnd(trio.abc.Stream):
    def __init__(
        self,
        sends: "trio.MemorySendChannel[tuple[float, bytes]]",
        receives: "trio.MemoryReceiveChannel[tuple[float, bytes]]",
        delay_s: float,
    ) -> None:
        self._sends = sends
        self._receives = receives
        self._delay_s = delay_s
        self._next: tuple[float, bytes] | None = None

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        await self._sends.send((trio.current_time() + self._delay_s, bytes(data)))

    async def wait_send_all_might_not_block(self) -> None:
        await trio.lowlevel.checkpoint()

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        del max_bytes  # whoever reads here takes what comes
        if self._next is None:
            try:
                self._next = await self._receives.receive()
            except trio.EndOfChannel:
                return b""
        await trio.sleep_until(self._next[0])
        data, self._next = self._next[1], None
        return data

    async def aclose(self) -> None:
        self._sends.close()
        self._receives.close()
        await trio.lowlevel.checkpoint()


class StuckLink(trio.abc.Stream):
    """A stream that, while it is stuck, lets only half of what is sent through."""

    def __init__(self, stream: trio.abc.Stream) -> None:
        self._stream = stream
        self._busy = False
        self.free = trio.Event()
        self.free.set()

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        if self._busy:
            raise trio.BusyResourceError("as a socket says it")
        self._busy = True
        try:
            await self._stream.send_all(data[: len(data) // 2])
            await self.free.wait()
            await self._stream.send_all(data[len(data) // 2 :])
        finally:
            self._busy = False

    async def wait_send_all_might_not_block(self) -> None:
        await self._stream.wait_send_all_might_not_block()

    async def receive_some(self, max_bytes: int | None = None) -> bytes | bytearray:
        return await self._stream.receive_some(max_bytes)

    async def aclose(self) -> None:
        await self._stream.aclose()


async def echo_bytes(_: Connection, stream: connection.MuxedBytes) -> None:
    await multistream.answer(stream, [ECHO])
    while data := await stream.read(1 << 16):
        await stream.write(data)


async def test_a_write_cancelled_on_a_stuck_link_breaks_only_its_stream(
    autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(wire, "_QUEUE_BYTES", 1000)
    async with in_memory_pair(echo_bytes) as near:
        cut = await near.open_stream(ECHO)
        whole = await near.open_stream(ECHO)
        near_link(near).free = trio.Event()
        with trio.move_on_after(1) as impatient:
            await cut.write(bytes(200_000))
        assert impatient.cancelled_caught
        near_link(near).free.set()
        with trio.fail_after(60):
            await whole.write(b"hello")
            assert await whole.read(5) == b"hello"


async def test_an_opening_cancelled_in_the_middle_keeps_no_slot(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with in_memory_pair(echo_bytes) as near:
        async with trio.open_nursery() as nursery, near._muxer.streams_lock:
            for _ in range(5):
                nursery.start_soon(open_briefly, near)
            await trio.sleep(2)
        with trio.fail_after(60):
            await (await near.open_stream(ECHO)).reset()
        assert near._muxer.stream_backlog_semaphore.value == MAX_STREAMS


async def test_a_peer_that_asks_and_never_reads_the_answers_is_let_go(
    autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(wire, "_MAX_QUEUE_BYTES", 1000)
    link = StuckLink(trio.testing.memory_stream_pair()[0])
    link.free = trio.Event()
    answers_to_pings = wire.Wire(link)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(answers_to_pings.pump)
        await trio.testing.wait_all_tasks_blocked()
        await answers_to_pings.write(bytes(1000))
        with pytest.raises(ConnectionClosedError):
            await answers_to_pings.write(bytes(1012))
        nursery.cancel_scope.cancel()


async def open_briefly(near: Connection) -> None:
    with trio.move_on_after(1):
        await near.open_stream(ECHO)


async def test_a_connection_on_which_nothing_moves_is_given_up(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with in_memory_pair(echo_bytes) as near:
        stream = await near.open_stream(ECHO)
        near_link(near).free = trio.Event()
        with trio.fail_after(2 * wire._STALL_S), pytest.raises(StreamCut):
            await stream.write(bytes(1 << 20))
        assert near.is_closed


async def test_a_peer_that_leaves_while_bytes_to_it_are_stuck_is_let_go(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async def leave(far: Connection, _: connection.MuxedBytes) -> None:
        await trio.sleep(1)
        far.cancel()

    async with in_memory_pair(leave) as near:
        stream = await near._open_muxed()
        await stream.write(b"seen")
        near_link(near).free = trio.Event()
        with trio.fail_after(2), pytest.raises(StreamCut):
            await stream.write(bytes(1 << 20))
        assert near.is_closed


async def test_a_full_queue_does_not_stop_the_reading(
    autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def send_late(_: Connection, stream: connection.MuxedBytes) -> None:
        await stream.read(1)
        await trio.sleep(1)  # the pings of both ends have come and wait for their answers
        await stream.write(b"late")

    monkeypatch.setattr(wire, "_QUEUE_BYTES", 1000)
    async with in_memory_pair(send_late) as near:
        reading, filling = await near._open_muxed(), await near._open_muxed()
        await reading.write(b"x")
        await trio.testing.wait_all_tasks_blocked()
        near_link(near).free = trio.Event()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(filling.write, bytes(200_000))
            with trio.fail_after(60):
                assert await reading.read(4) == b"late"
            nursery.cancel_scope.cancel()


def near_link(near: Connection) -> StuckLink:
    link = near._wire._stream
    assert isinstance(link, StuckLink)
    return link


@asynccontextmanager
async def in_memory_pair(
    serve: Callable[[Connection, connection.MuxedBytes], Awaitable[None]], delay_s: float = 0.0
) -> AsyncIterator[Connection]:
    """Return the dialling end of a connection whose other end serves streams with `serve`.

    The way between the two takes `delay_s` seconds each way.
    """
    near_bytes: trio.abc.Stream
    far_bytes: trio.abc.Stream
    near_bytes, far_bytes = distant_pair(delay_s) if delay_s else trio.testing.memory_stream_pair()
    ends: dict[bool, wire.Upgraded] = {}

    async def shake_hands(stream: trio.abc.Stream, dialled: bool) -> None:
        keys = create_new_key_pair(Identity.generate().seed)
        noise = NoiseTransport(keys, create_noise_key_pair().private_key)
        ends[dialled] = await wire.upgrade(
            wire.Wire(stream), noise, OneKey(PSK), psks=[PSK], dialled=dialled
        )

    async with trio.open_nursery() as nursery:
        nursery.start_soon(shake_hands, StuckLink(near_bytes), True)
        nursery.start_soon(shake_hands, far_bytes, False)
    async with trio.open_nursery() as nursery:
        near, far = Connection(ends[True], serve), Connection(ends[False], serve)
        await nursery.start(near.run)
        await nursery.start(far.run)
        yield near
        await near.abort()
        await far.abort()


# Who may come in


@pytest.mark.parametrize("message", [b"\0\0", b"\0\1z", b"\0\x20" + b"z" * 32])
async def test_a_first_message_that_noise_refuses_ends_its_connection_only(message: bytes) -> None:
    async with hosts(2, (PSK,)) as (ours, other):
        noise = NoiseTransport(
            create_new_key_pair(Identity.generate().seed), create_noise_key_pair().private_key
        )
        async with await trio.open_tcp_stream("127.0.0.1", port_of(ours)) as stream:
            raw = new_protected_conn(RawConnection(wire.Wire(stream), True), PSK.hex())
            await wire._secure(raw, noise, True)
            await raw.write(message)
            with suppress(trio.BrokenResourceError):
                while await stream.receive_some():
                    pass
        await connected_pair(other, ours)
        assert await answers(other, ours.peer_id)


async def test_an_address_that_no_resolver_takes_is_unreachable() -> None:
    async with hosts(1) as (host,):
        with pytest.raises(PeerUnreachable):
            await host.connect(None, f"/ip6/::1%{'a' * 100}/tcp/1", timeout_s=FAST_S)


@pytest.mark.parametrize(
    ("theirs", "ours"), [(OTHER_PSK, PSK), (None, PSK), (PSK, None)], ids=["other", "none", "open"]
)
async def test_a_peer_with_another_passphrase_gets_nothing_and_is_told_why(
    theirs: bytes | None, ours: bytes | None
) -> None:
    async with hosts(2, [theirs, ours]) as (stranger, member):
        with trio.fail_after(FAST_S), pytest.raises(PassphraseRefused) as refused:
            await stranger.connect(None, address_of(member), timeout_s=TIMEOUT_S)
        assert "does not share this network's passphrase" in str(refused.value)
        assert str(port_of(member)) in str(refused.value)
        assert "\n" not in str(refused.value)
        assert (stranger.connected(), member.connected()) == (frozenset(), frozenset())


async def test_a_member_says_once_who_came_with_another_passphrase(
    capsys: pytest.CaptureFixture[str],
) -> None:
    async with hosts(2, [OTHER_PSK, PSK]) as (stranger, member):
        for _ in range(3):
            with pytest.raises(PassphraseRefused):
                await stranger.connect(None, address_of(member), timeout_s=FAST_S)
        await trio.testing.wait_all_tasks_blocked(0.05)
    warnings = [line for line in capsys.readouterr().out.splitlines() if "warning" in line]
    assert len(warnings) == 1
    assert "another passphrase" in warnings[0]
    assert "127.0.0.1" in warnings[0]


async def test_another_peer_at_the_address_is_refused_by_name() -> None:
    victim = Identity.generate().peer_id
    async with hosts(2) as (a, impostor):
        with pytest.raises(PeerUnreachable, match="another peer answers") as refused:
            await a.connect(victim, impostor.listen_addresses()[0], timeout_s=FAST_S)
        assert impostor.peer_id in str(refused.value)
        with pytest.raises(PeerUnreachable, match="another peer answers"):
            await a.connect(
                None, f"{impostor.listen_addresses()[0]}/p2p/{victim}", timeout_s=FAST_S
            )
        assert a.connected() == frozenset()


async def test_dialling_oneself_is_refused() -> None:
    async with hosts(1) as (a,):
        for address in (address_of(a), a.listen_addresses()[0]):
            with pytest.raises(PeerUnreachable, match="this peer itself"):
                await a.connect(None, address, timeout_s=FAST_S)


class PublicKeyOnly(Ed25519PrivateKey):
    """What an impostor has: somebody's public key where its own private key should be."""

    def __init__(self, victim: PublicKey) -> None:
        super().__init__(create_new_key_pair().private_key.impl)  # type: ignore[attr-defined]
        self._victim = victim

    def get_public_key(self) -> PublicKey:
        return self._victim


async def test_plaintext_with_a_victims_public_key_cannot_pass_for_the_victim() -> None:
    victim = Identity.generate()
    public_key = create_new_key_pair(victim.seed).public_key
    claimed = KeyPair(PublicKeyOnly(public_key), public_key)
    plaintext = {TProtocol(PLAINTEXT_PROTOCOL_ID): InsecureTransport(claimed)}
    trusting = Identity.generate()
    own = {TProtocol(PLAINTEXT_PROTOCOL_ID): InsecureTransport(create_new_key_pair(trusting.seed))}
    async with (
        hosts(1) as (server,),
        stock_host(trusting, own, listen=True) as open_door,
        stock_host(None, plaintext) as impostor,
    ):
        await impostor.connect(info_from_p2p_addr(open_door.get_addrs()[0]))
        assert ID.from_base58(victim.peer_id) in open_door.get_network().connections
        with pytest.raises(SwarmException):
            await impostor.connect(info_from_p2p_addr(Multiaddr(address_of(server))))
        assert server.connected() == frozenset()


async def test_a_peer_that_speaks_only_plaintext_is_not_dialled_into() -> None:
    async with hosts(1) as (a,), AsyncExitStack() as stack:
        keys = create_new_key_pair(Identity.generate().seed)
        plaintext = InsecureTransport(keys)
        open_peer = await stack.enter_async_context(
            stock_host(None, {TProtocol(PLAINTEXT_PROTOCOL_ID): plaintext}, listen=True)
        )
        with pytest.raises(PeerUnreachable, match="/noise"):
            await a.connect(None, str(open_peer.get_addrs()[0]), timeout_s=FAST_S)


async def test_a_peer_whose_key_is_not_ed25519_is_refused() -> None:
    keys = create_new_rsa_key_pair(2048)
    noise = NoiseTransport(keys, create_noise_key_pair().private_key)
    async with hosts(1) as (a,), stock_host(None, {NOISE_PROTOCOL_ID: noise}, listen=True) as rsa:
        with pytest.raises(PeerUnreachable, match="no Ed25519 key"):
            await a.connect(None, str(rsa.get_transport_addrs()[0]), timeout_s=FAST_S)


@asynccontextmanager
async def stock_host(
    identity: Identity | None,
    security: Mapping[TProtocol, ISecureTransport] | None = None,
    *,
    psk: bytes | None = None,
    listen: bool = False,
) -> AsyncIterator[IHost]:
    """Run an unmodified py-libp2p host, on any port of loopback if it listens."""
    keys = create_new_key_pair((identity or Identity.generate()).seed)
    noise = NoiseTransport(keys, create_noise_key_pair().private_key)
    host = new_host(
        key_pair=keys,
        sec_opt=security or {NOISE_PROTOCOL_ID: noise},
        psk=psk.hex() if psk else None,
    )
    async with host.run([Multiaddr(LOOPBACK)] if listen else []):
        try:
            yield host
        finally:
            with trio.move_on_after(1) as cleanup:
                cleanup.shield = True
                await host.close()


# The same wire as everybody else's libp2p


@pytest.mark.parametrize("psk", [None, PSK])
async def test_stock_libp2p_identifies_pings_and_uses_our_host(psk: bytes | None) -> None:
    async with hosts(1, [psk]) as (ours,), stock_host(None, psk=psk) as stock:
        await stock.connect(info_from_p2p_addr(Multiaddr(address_of(ours))))
        peer = ID.from_base58(ours.peer_id)
        await PingService(stock).ping(peer)
        stream = await stock.new_stream(peer, [TProtocol(ECHO)])
        await stream.write(b"\x05hello")
        assert await stream.read(6) == b"\x05hello"
        identify = await stock.new_stream(peer, [TProtocol("/ipfs/id/1.0.0")])
        message = parse_identify_response(await read_to_end(identify))
        assert ECHO in message.protocols
        assert message.public_key == create_new_key_pair(ours.identity.seed).public_key.serialize()
        assert [str(Multiaddr(a)) for a in message.listen_addrs] == ours.listen_addresses()


async def read_to_end(stream: INetStream) -> bytes:
    data = b""
    try:
        while more := await stream.read(1 << 16):
            data += more
    except MyxoError:
        raise
    except Exception:  # noqa: BLE001 — how stock streams say that they have ended
        return data
    return data


@pytest.mark.parametrize("psk", [None, PSK])
async def test_our_host_uses_stock_libp2p(psk: bytes | None) -> None:
    async def shout(stream: INetStream) -> None:
        size = (await stream.read(1))[0]
        await stream.write(bytes([size]) + (await stream.read(size)).upper())

    async with hosts(1, [psk]) as (ours,), stock_host(None, psk=psk, listen=True) as stock:
        stock.set_stream_handler(TProtocol("/test/shout/1.0.0"), shout)
        peer = await ours.connect(None, str(stock.get_addrs()[0]), timeout_s=FAST_S)
        async with await ours.open_stream(peer, "/test/shout/1.0.0") as stream:
            await stream.send(b"hello")
            assert await stream.receive() == b"HELLO"


# Failing, coming back, and leaving


async def test_a_refused_dial_says_where_and_why() -> None:
    async with hosts(1) as (a,):
        with pytest.raises(PeerUnreachable, match=os.strerror(errno.ECONNREFUSED)) as refused:
            await a.connect(None, "/ip4/127.0.0.1/tcp/1", timeout_s=FAST_S)
        assert "/ip4/127.0.0.1/tcp/1" in str(refused.value)
        assert not isinstance(refused.value, PassphraseRefused)


async def test_a_silent_address_is_given_up_after_the_callers_time() -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        address = f"/ip4/127.0.0.1/tcp/{silent.getsockname()[1]}"
        async with hosts(1) as (a,):
            with pytest.raises(PeerUnreachable, match=r"no answer within 0\.05 s"):
                await a.connect(None, address, timeout_s=0.05)


@pytest.mark.parametrize("address", ["", "127.0.0.1:4001", "/ip4/1.2.3.4/udp/1/quic-v1"])
async def test_what_is_no_address_is_unreachable_and_says_what_one_looks_like(address: str) -> None:
    async with hosts(1) as (a,):
        with pytest.raises(PeerUnreachable, match=r"/ip4/192\.0\.2\.7/tcp/4001"):
            await a.connect(None, address, timeout_s=FAST_S)


async def test_a_peer_that_comes_back_is_reached_at_once() -> None:
    identity = Identity.generate()
    async with hosts(1) as (a,):
        async with open_host(identity, [LOOPBACK], psk=None) as b:
            address = b.listen_addresses()[0]
            await connected_pair(a, b)
        await events(a, 2)
        with pytest.raises(PeerUnreachable):
            await a.connect(identity.peer_id, address, timeout_s=FAST_S)
        async with open_host(identity, [address], psk=None) as b:
            b.handle(ECHO, echo)
            await a.connect(identity.peer_id, address, timeout_s=FAST_S)
            assert await answers(a, identity.peer_id)


async def test_a_stream_over_a_connection_that_died_unseen_uses_the_newer_one() -> None:
    identity = Identity.generate()
    async with hosts(1) as (a,), open_host(identity, [LOOPBACK], psk=None) as b:
        b.handle(ECHO, echo)
        await connected_pair(b, a)
        (old,) = a._connections.of(identity.peer_id)
        old._muxer.event_shutting_down.set()
        await a.connect(identity.peer_id, b.listen_addresses()[0], timeout_s=FAST_S)
        assert await answers(a, identity.peer_id)


async def test_a_peer_that_was_disconnected_is_not_dialled_again_by_itself() -> None:
    async with hosts(2) as (a, b):
        await connected_pair(a, b)
        await a.disconnect(b.peer_id)
        assert await events(b, 2) == [Connected(a.peer_id), Disconnected(a.peer_id)]
        with trio.move_on_after(0.5) as quiet:
            await b.connections.receive()
        assert quiet.cancelled_caught


async def test_a_dial_takes_no_fixed_wait() -> None:
    async with hosts(2) as (a, b):
        took = []
        for _ in range(8):
            started = trio.current_time()
            await connected_pair(a, b)
            took.append(trio.current_time() - started)
            await a.disconnect(b.peer_id)
        assert min(took) < 0.250  # one that a busy machine did not hold up


async def test_the_port_is_free_again_when_the_host_has_ended() -> None:
    with trio.fail_after(TIMEOUT_S):
        address = LOOPBACK
        for _ in range(3):
            async with hosts(1) as (a,), open_host(Identity.generate(), [address], psk=None) as b:
                await connected_pair(a, b)
                address = b.listen_addresses()[0]
        with socket.socket() as probe:
            port = int(address.rpartition("/")[2])
            assert probe.connect_ex(("127.0.0.1", port)) == errno.ECONNREFUSED


async def test_a_taken_port_is_told_with_its_holder() -> None:
    async with hosts(1) as (a,):
        with pytest.raises(AddressTaken) as taken:
            async with open_host(Identity.generate(), a.listen_addresses(), psk=None):
                pytest.fail("the port was not taken")
        assert f"port {port_of(a)}" in str(taken.value)
        assert f"pid {os.getpid()}" in str(taken.value)


async def test_a_port_that_can_be_dialled_from_is_still_taken_for_every_other_listener() -> None:
    async with hosts(2) as (a, b):
        bound = bound_address(a._listeners[0])
        async with await dial_tcp(parse_address(b.listen_addresses()[0]), bound) as dialled:
            assert dialled.socket.getsockname() == (bound.host, bound.port)
            with pytest.raises(AddressTaken):
                await listen_tcp(str(bound))
        await connected_pair(b, a)
        assert await answers(b, a.peer_id)


async def test_when_one_of_two_ports_is_taken_the_other_is_let_go() -> None:
    async with hosts(1) as (a,):
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        listen = [f"/ip4/127.0.0.1/tcp/{port}", a.listen_addresses()[0]]
        with pytest.raises(AddressTaken):
            async with open_host(Identity.generate(), listen, psk=None):
                pytest.fail("the port was not taken")
        with socket.socket() as probe:
            assert probe.connect_ex(("127.0.0.1", port)) == errno.ECONNREFUSED


CIRCUIT = f"/ip4/127.0.0.1/tcp/0/p2p/{Identity.generate().peer_id}/p2p-circuit"


@pytest.mark.parametrize(
    "address", ["/ip4/192.0.2.77/tcp/0", "nonsense", "/ip4/0.0.0.0/udp/4001", CIRCUIT]
)
async def test_an_address_that_cannot_be_listened_on_is_told(address: str) -> None:
    with pytest.raises(SettingsInvalid, match="cannot listen"):
        async with open_host(Identity.generate(), [address], psk=None):
            pytest.fail("it listens")


async def test_libp2p_logs_nothing_of_its_own(caplog: pytest.LogCaptureFixture) -> None:
    async with hosts(2, [None, PSK]) as (a, b):
        with pytest.raises(PeerUnreachable):
            await a.connect(None, address_of(b), timeout_s=FAST_S)
        with pytest.raises(PeerUnreachable):
            await a.connect(None, "/ip4/127.0.0.1/tcp/1", timeout_s=FAST_S)
        async with hosts(1) as (c,):
            await connected_pair(a, c)
            stream = await a.open_stream(c.peer_id, ECHO)
            await stream.aclose()
    logging.getLogger("libp2p.transport.tcp").error("Failed to open TCP stream")
    assert caplog.records == []


async def test_a_peer_that_floods_past_its_windows_is_disconnected(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(connection, "_MAX_UNREAD_BYTES", 1 << 20)

    async def ignore(*_: object) -> None:
        await trio.sleep_forever()

    async with hosts(2) as (a, b):
        b.handle("/test/ignore/1.0.0", ignore)
        await connected_pair(a, b)
        (own,) = a._connections.of(b.peer_id)
        stream = await own.open_stream("/test/ignore/1.0.0")
        stream._stream.send_window = 1 << 30  # as a peer that heeds no window
        with pytest.raises(StreamCut):
            await stream.write(bytes(8 << 20))
        assert (await events(b, 2))[1] == Disconnected(a.peer_id)
