"""HTTP connections over real overlay streams, direct and through a relay."""

import os
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager

import pytest
import trio
import trio.testing

from overlay.connection import Connection, MuxedBytes
from overlay.errors import PeerUnreachable
from overlay.host import Host, open_host
from overlay.http import UpstreamConnection
from overlay.http.carried import HTTP_PROTOCOL, CarriedStream, open_carried
from overlay.http.transport import StreamTransport, transport
from overlay.identity import Identity
from overlay.names import PeerId
from overlay.relay import Relay
from overlay.reservations import Reservations

LOOPBACK = "/ip4/127.0.0.1/tcp/0"
FAST_S = 30.0

Serve = Callable[[CarriedStream], Awaitable[None]]


@asynccontextmanager
async def hosts(count: int) -> AsyncIterator[list[Host]]:
    with trio.fail_after(60):
        async with AsyncExitStack() as stack:
            yield [
                await stack.enter_async_context(
                    open_host(Identity.generate(), [LOOPBACK], psk=b"k" * 32)
                )
                for _ in range(count)
            ]


def serve_with(host: Host, serve: Serve) -> None:
    async def handle(connection: Connection, stream: MuxedBytes) -> None:
        carried = CarriedStream(stream, connection.peer)
        try:
            await serve(carried)
        finally:
            await trio.aclose_forcefully(carried)

    host.handle_bytes(HTTP_PROTOCOL, handle)


async def connected(_: PeerId) -> None:
    pass


@asynccontextmanager
async def pair(serve: Serve) -> AsyncIterator[tuple[CarriedStream, Host, Host]]:
    async with hosts(2) as (near, far):
        serve_with(far, serve)
        await near.connect(far.peer_id, far.listen_addresses()[0], timeout_s=FAST_S)
        stream = await open_carried(near, connected, far.peer_id)
        try:
            yield stream, near, far
        finally:
            await trio.aclose_forcefully(stream)


async def read_all(stream: CarriedStream, most: int | None = None) -> bytes:
    received = b""
    while data := await stream.receive_some(most):
        received += data
    return received


async def echo_to_the_end(stream: CarriedStream) -> None:
    await stream.send_all(await read_all(stream))
    await stream.aclose()


@pytest.mark.parametrize("most", [None, 1000])
async def test_bytes_go_both_ways_and_each_end_ends_its_direction(most: int | None) -> None:
    sent = os.urandom(300_000)
    async with pair(echo_to_the_end) as (stream, _, _other):
        await stream.send_all(sent)
        await stream.send_eof()
        assert await read_all(stream, most) == sent


async def test_a_stream_whose_end_was_not_said_is_cut_and_not_ended() -> None:
    async def say_half(stream: CarriedStream) -> None:
        await stream.receive_some()
        await stream.send_all(b"half of")

    async with pair(say_half) as (stream, _, _other):
        await stream.send_all(b"?")
        assert await stream.receive_some() == b"half of"
        with pytest.raises(trio.BrokenResourceError):
            await stream.receive_some()
        while not stream.lost():
            await trio.testing.wait_all_tasks_blocked(0.01)
        with pytest.raises(trio.BrokenResourceError):
            await stream.send_all(b"!")


async def keep_silent(_: CarriedStream) -> None:
    await trio.sleep_forever()


async def test_the_end_of_the_connection_is_a_cut() -> None:
    async with pair(keep_silent) as (stream, near, far):
        await near.disconnect(far.peer_id)
        assert stream.lost()
        with pytest.raises(trio.BrokenResourceError):
            await stream.receive_some()


async def test_what_is_closed_in_order_ends_and_what_is_given_up_is_cut() -> None:
    seen: list[bytes | None] = []

    async def watch(stream: CarriedStream) -> None:
        try:
            seen.append(await read_all(stream))
        except trio.BrokenResourceError:
            seen.append(None)

    async with pair(watch) as (stream, near, far):
        await stream.send_all(b"whole")
        await stream.aclose()
        other = await open_carried(near, connected, far.peer_id)
        await other.send_all(b"half")
        await trio.aclose_forcefully(other)
        while len(seen) < 2:
            await trio.testing.wait_all_tasks_blocked(0.01)
    assert seen == [b"whole", None]


async def test_it_is_quiet_until_the_other_end_says_or_ends_something() -> None:
    go_on = trio.Event()

    async def speak_later(stream: CarriedStream) -> None:
        await stream.receive_some()
        await go_on.wait()
        await stream.send_all(b"unasked")
        await trio.sleep_forever()

    async with pair(speak_later) as (stream, _, _other):
        carried = transport(stream)
        assert isinstance(carried, StreamTransport)
        assert carried.half_closes
        await stream.send_all(b"?")
        await trio.testing.wait_all_tasks_blocked(0.05)
        assert carried.quiet()
        assert not carried.lost()
        go_on.set()
        while carried.quiet():
            await trio.testing.wait_all_tasks_blocked(0.01)
        assert await stream.receive_some(2) == b"un"
        assert not carried.quiet()  # the rest waits here
        assert await stream.receive_some() == b"asked"
        assert carried.quiet()


async def test_it_is_not_quiet_when_the_other_end_has_gone_in_order() -> None:
    async with pair(lambda stream: stream.aclose()) as (stream, _, _other):
        while stream.quiet():
            await trio.testing.wait_all_tasks_blocked(0.01)
        assert await stream.receive_some() == b""


async def test_what_is_no_message_is_a_cut() -> None:
    async def babble(_: Connection, stream: MuxedBytes) -> None:
        await stream.write(b"\xff" * 64)
        await stream.close()

    async with hosts(2) as (near, far):
        far.handle_bytes(HTTP_PROTOCOL, babble)
        await near.connect(far.peer_id, far.listen_addresses()[0], timeout_s=FAST_S)
        stream = await open_carried(near, connected, far.peer_id)
        with pytest.raises(trio.BrokenResourceError):
            await stream.receive_some()
        await trio.aclose_forcefully(stream)


async def test_a_peer_without_a_gateway_or_a_connection_is_unreachable() -> None:
    async with hosts(2) as (near, far):
        with pytest.raises(PeerUnreachable, match="not connected"):
            await open_carried(near, connected, far.peer_id)
        await near.connect(far.peer_id, far.listen_addresses()[0], timeout_s=FAST_S)
        with pytest.raises(PeerUnreachable, match="does not speak"):
            await open_carried(near, connected, far.peer_id)


async def test_through_a_relay_it_works_and_is_let_go_when_there_is_a_better_way() -> None:
    async with hosts(3) as (relay, far, near), trio.open_nursery() as nursery:
        Relay(relay, relay.listen_addresses, time.time)
        serve_with(far, echo_to_the_end)
        await far.connect(None, relay.listen_addresses()[0], timeout_s=FAST_S)
        told = trio.Event()
        kept = Reservations(
            far,
            connected,
            lambda: [relay.peer_id],
            lambda _: told.set(),
            nothing_beside,
            time.time,
        )
        nursery.start_soon(kept.run)
        await told.wait()
        circuit = f"{relay.listen_addresses()[0]}/p2p/{relay.peer_id}/p2p-circuit"
        await near.connect(far.peer_id, circuit, timeout_s=FAST_S)
        stream = await open_carried(near, connected, far.peer_id)
        idle = await open_carried(near, connected, far.peer_id)
        assert idle.quiet()
        await near.connect(far.peer_id, far.listen_addresses()[0], timeout_s=FAST_S)
        assert not idle.quiet()  # a pool that looks takes another one
        await stream.send_all(b"what is under way goes on")
        await stream.send_eof()
        assert await read_all(stream) == b"what is under way goes on"
        for one in (stream, idle):
            await trio.aclose_forcefully(one)
        nursery.cancel_scope.cancel()


async def nothing_beside(_: Connection) -> None:
    pass


@pytest.mark.parametrize("whole", [True, False])
async def test_a_response_without_a_length_is_whole_only_if_its_end_was_said(
    whole: bool,
) -> None:
    async def respond(stream: CarriedStream) -> None:
        await stream.receive_some()
        await stream.send_all(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nall there is")
        if whole:
            await stream.aclose()

    async with pair(respond) as (stream, _, _other):
        upstream = UpstreamConnection(stream)
        await upstream.send(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n")
        head = upstream.take_head(await upstream.receive() or b"", b"GET")
        assert head is not None
        body = upstream.take_body()
        while body != b"all there is":
            body += upstream.take_body(await upstream.receive())
        assert not upstream.body.done
        if whole:
            upstream.take_body(await upstream.receive())
            assert upstream.body.done
        else:
            with pytest.raises(trio.BrokenResourceError):
                await upstream.receive()
