import os
import socket
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from math import inf

import pytest
import trio
import trio.testing

from overlay.http import ClientGone, Exchanged, Pool, ServerConnection, end_to_end, exchange
from overlay.http.testing import Lab, Wire
from overlay.http.tls_stream import TlsStream
from overlay.http.transport import READ_BYTES, SendFailed, StreamTransport, Transport, transport
from overlay.tls import PeerTls


@dataclass
class Ends:
    """Two transports that are connected, and the sockets that they go over."""

    near: Transport
    far: Transport
    near_socket: trio.SocketStream
    far_socket: trio.SocketStream


Connect = Callable[[float], Awaitable[Ends]]
"""Returns both ends of a connection; the near one has this bound on what it sends."""


@pytest.fixture(params=["plain", "tls"])
def connect(request: pytest.FixtureRequest, lab: Lab, tls: PeerTls) -> Connect:
    """Give what makes connections, plain and secured: all that follows holds for either."""

    async def secured(stream: trio.SocketStream, *, server: bool) -> trio.abc.Stream:
        if request.param == "plain":
            return stream
        context = tls.server_context if server else tls.client_context
        made = TlsStream(stream, context, server_side=server)
        await made.do_handshake()
        return made

    async def make(send_timeout_s: float) -> Ends:
        accepted, ready = trio.open_memory_channel[tuple[trio.SocketStream, Transport]](1)

        async def hold(stream: trio.SocketStream) -> None:
            accepted.send_nowait((stream, transport(await secured(stream, server=True))))
            await trio.sleep_forever()

        near_socket = await lab.dial(await lab.listen(hold))
        near = transport(await secured(near_socket, server=False), send_timeout_s)
        far_socket, far = await ready.receive()
        return Ends(near, far, near_socket, far_socket)

    return make


@pytest.fixture
async def ends(connect: Connect) -> Ends:
    """Give both ends of a connection."""
    return await connect(inf)


async def exactly(far: Transport, size: int) -> bytearray:
    received = bytearray()
    while len(received) < size:
        data = await far.receive()
        assert data
        received += data
    return received


async def test_what_is_sent_arrives_whole_and_in_order_however_it_is_cut(ends: Ends) -> None:
    parts = [os.urandom(size) for size in (1, 0, 16_384, 16_385, 65_536, 65_537, 1_000_000, 3)]
    sent = b"".join(parts)

    async def send() -> None:
        await ends.near.send(parts[0], parts[1], parts[2])
        for part in parts[3:]:
            await ends.near.send(part)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(send)
        assert await exactly(ends.far, len(sent)) == sent


async def test_what_is_held_is_sent_when_the_loop_waits_and_before_what_is_sent(ends: Ends) -> None:
    assert ends.near.hold(b"whole")
    assert await exactly(ends.far, 5) == b"whole"
    assert ends.near.hold(b"one,")
    await ends.near.send(b"two")
    assert await exactly(ends.far, 7) == b"one,two"
    assert ends.near.hold(b"last")
    await ends.near.aclose()
    assert await exactly(ends.far, 4) == b"last"
    assert await ends.far.receive() == b""


async def test_both_directions_are_full_at_once_and_none_waits_for_the_other(ends: Ends) -> None:
    size = 8 * 1024 * 1024

    async def receive(end: Transport) -> None:
        assert await exactly(end, size) == bytes(size)

    async with trio.open_nursery() as nursery:
        for end in (ends.near, ends.far):
            nursery.start_soon(receive, end)
            nursery.start_soon(end.send, bytes(size))


async def test_a_wait_ends_at_its_deadline_and_the_next_one_works(ends: Ends) -> None:
    started = trio.current_time()
    assert await ends.near.receive(0.05) is None
    assert 0.05 <= trio.current_time() - started < 5
    await ends.far.send(b"x")
    assert await ends.near.receive(5) == b"x"
    assert await ends.near.receive(0.05) is None


async def test_an_alarm_set_for_an_earlier_wait_does_not_end_a_later_one(ends: Ends) -> None:
    await ends.far.send(b"x")
    assert await ends.near.receive(0.05) == b"x"

    async def send_later() -> None:
        await trio.sleep(0.15)
        await ends.far.send(b"y")

    async with trio.open_nursery() as nursery:
        nursery.start_soon(send_later)
        assert await ends.near.receive(5) == b"y"


async def test_a_shorter_wait_overtakes_a_longer_alarm(ends: Ends) -> None:
    await ends.far.send(b"x")
    assert await ends.near.receive(60) == b"x"
    assert await ends.near.receive(0.05) is None


async def test_an_alarm_for_reading_does_not_disturb_a_blocked_writer(ends: Ends) -> None:
    size = 32 * 1024 * 1024
    finished = trio.Event()

    async def write() -> None:
        await ends.near.send(bytes(size))
        finished.set()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(write)
        assert await ends.near.receive(0.1) is None
        assert not finished.is_set()
        await exactly(ends.far, size)
    assert finished.is_set()


async def test_a_cancelled_wait_loses_nothing(ends: Ends) -> None:
    with trio.move_on_after(0.02):
        await ends.near.receive()
    with trio.move_on_after(0.02):
        await ends.near.receive(5)
    await ends.far.send(b"all of it")
    assert await ends.near.receive() == b"all of it"


async def test_a_full_read_is_followed_by_another_without_waiting(ends: Ends) -> None:
    await ends.far.send(bytes(READ_BYTES // 2))
    await exactly(ends.near, READ_BYTES // 2)
    await ends.far.aclose()
    assert await ends.near.receive() == b""
    assert await ends.near.receive(1) == b""


async def test_what_was_sent_before_the_end_still_arrives(ends: Ends) -> None:
    await ends.far.send(b"last words")
    await ends.far.aclose()
    assert await ends.near.receive() == b"last words"
    assert await ends.near.receive() == b""


async def test_a_connection_that_is_given_up_is_cut_and_not_ended(ends: Ends) -> None:
    await ends.far.abort(reset=True)
    with pytest.raises(trio.BrokenResourceError):
        await ends.near.receive()


async def test_it_is_quiet_until_the_other_end_says_or_ends_something(ends: Ends) -> None:
    assert ends.near.quiet()
    await ends.far.send(b"unasked")
    await trio.lowlevel.wait_readable(ends.near_socket.socket)
    assert not ends.near.quiet()
    assert await ends.near.receive() == b"unasked"
    assert ends.near.quiet()
    await ends.far.aclose()
    await trio.lowlevel.wait_readable(ends.near_socket.socket)
    assert not ends.near.quiet()
    assert await ends.near.receive() == b""
    assert not ends.near.quiet()


async def test_a_lost_connection_is_told_apart_from_an_ended_one(ends: Ends) -> None:
    assert not ends.near.lost()
    await ends.far_socket.send_eof()
    await trio.lowlevel.wait_readable(ends.near_socket.socket)
    assert not ends.near.quiet()
    assert not ends.near.lost()
    await ends.far.abort()
    with suppress(SendFailed):
        while not ends.near.lost():
            await ends.near.send(b"x")
            await trio.testing.wait_all_tasks_blocked()
    assert ends.near.lost()


async def test_a_reader_that_stalls_is_given_up_after_the_bound_and_a_slow_one_is_not(
    connect: Connect,
) -> None:
    bound_s, reads = 1.0, 12
    ends = await connect(bound_s)
    for option in (socket.SO_SNDBUF, socket.SO_RCVBUF):
        for end in (ends.near_socket, ends.far_socket):
            end.socket.setsockopt(socket.SOL_SOCKET, option, 64 * 1024)
    read_last = inf

    async def read_slowly() -> None:
        nonlocal read_last
        for _ in range(reads):
            await trio.sleep(bound_s / 10)
            await ends.far.receive()
        read_last = trio.current_time()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(read_slowly)
        with pytest.raises(SendFailed):
            await ends.near.send(bytes(64 * 1024 * 1024))
        assert trio.current_time() >= read_last


async def test_of_what_the_system_did_not_take_nothing_was_sent(ends: Ends) -> None:
    await ends.far.abort(reset=True)
    await trio.lowlevel.wait_readable(ends.near_socket.socket)
    with pytest.raises(trio.BrokenResourceError):
        await ends.near.receive()
    with pytest.raises(SendFailed) as failed:
        await ends.near.send(b"x")
    assert failed.value.sent == 0


async def test_of_what_the_system_took_in_part_it_is_not_said_that_nothing_was_sent(
    ends: Ends,
) -> None:
    async def leave_later() -> None:
        await ends.far.receive()
        await ends.far.abort(reset=True)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(leave_later)
        with pytest.raises(SendFailed) as failed:
            await ends.near.send(bytes(64 * 1024 * 1024))
    assert failed.value.sent != 0


async def test_what_is_closed_says_so_and_may_be_closed_again(ends: Ends) -> None:
    await ends.near.abort(reset=True)
    with pytest.raises(trio.BrokenResourceError):
        await ends.near.receive(1)
    with pytest.raises(SendFailed):
        await ends.near.send(b"x")
    assert ends.near.lost()
    assert not ends.near.quiet()
    await ends.near.abort()
    await ends.near.aclose()


async def test_who_waits_is_told_when_another_task_closes(ends: Ends) -> None:
    async with trio.open_nursery() as nursery:

        async def wait(within_s: float) -> None:
            with pytest.raises(trio.BrokenResourceError):
                await ends.near.receive(within_s)

        nursery.start_soon(wait, inf)
        await trio.testing.wait_all_tasks_blocked()
        await ends.near.abort()


async def test_memory_streams_carry_http_too() -> None:
    near, far = trio.testing.memory_stream_pair()
    carried = StreamTransport(near)
    await carried.send(b"a", b"b")
    assert await far.receive_some() == b"ab"
    with trio.testing.assert_checkpoints():
        assert await carried.receive(0.01) is None
    await far.send_eof()
    assert await carried.receive(5) == b""


async def test_a_gateway_answers_over_tls_and_the_connection_is_reused(
    lab: Lab, tls: PeerTls
) -> None:
    instance_served = 0

    async def instance(wire: Wire) -> None:
        nonlocal instance_served
        while True:
            try:
                await wire.head()
            except EOFError:
                return
            instance_served += 1
            await wire.send(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n" + bytes(100_000))

    instance_port = await lab.upstream(instance)

    async def dial_instance() -> trio.SocketStream:
        return await lab.dial(instance_port)

    inner = Pool(dial_instance)

    async def gateway(stream: trio.SocketStream) -> None:
        secured = TlsStream(stream, tls.server_context, server_side=True)
        await secured.do_handshake()
        await lab.serve(ServerConnection(secured), inner, end_to_end, 5.0)
        await trio.aclose_forcefully(secured)

    gateway_port = await lab.listen(gateway)

    async def dial_gateway() -> trio.abc.Stream:
        raw = await lab.dial(gateway_port)
        secured = TlsStream(raw, tls.client_context)
        await secured.do_handshake()
        return secured

    outer = Pool(dial_gateway)

    async def proxy(stream: trio.SocketStream) -> None:
        connection = ServerConnection(stream)
        await lab.serve(connection, outer, end_to_end, 5.0)
        await connection.aclose()

    client = Wire(await lab.dial(await lab.listen(proxy)))
    for _ in range(3):
        await client.send(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n")
        assert (await client.head()).startswith(b"HTTP/1.1 200 OK")
        assert await client.exactly(100_000) == bytes(100_000)
    assert instance_served == 3
    assert lab.accepted == 1
    assert outer.idle + outer.in_use == 1
    assert all(isinstance(outcome, Exchanged) for outcome in lab.outcomes)


async def test_a_proxy_that_leaves_a_gateway_frees_the_instance(lab: Lab, tls: PeerTls) -> None:
    asked, ended = trio.Event(), trio.Event()

    async def wait(wire: Wire) -> None:
        await wire.head()
        asked.set()
        await wire.ended()
        ended.set()

    port = await lab.upstream(wait)
    pool = Pool(lambda: lab.dial(port))

    async def gateway(stream: trio.SocketStream) -> None:
        secured = TlsStream(stream, tls.server_context, server_side=True)
        await secured.do_handshake()
        connection = ServerConnection(secured)
        head = await connection.read_head()
        assert head is not None
        with pytest.raises(ClientGone):
            async with pool.acquire() as upstream:
                await exchange(
                    connection,
                    head,
                    upstream,
                    request_headers=end_to_end(head),
                    edit_response=end_to_end,
                )
        await trio.aclose_forcefully(secured)

    raw = await lab.dial(await lab.listen(gateway))
    secured = TlsStream(raw, tls.client_context)
    await secured.do_handshake()
    await secured.send_all(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n")
    await asked.wait()
    await trio.aclose_forcefully(secured)
    await ended.wait()
