from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import pytest
import trio
import trio.testing

from overlay.http.connection import ServerConnection
from overlay.http.transport import transport
from overlay.http.upstream import UpstreamConnection
from overlay.identity import Identity
from overlay.tunnel import (
    UPGRADE,
    Carries,
    End,
    FramedEnd,
    Relayed,
    SocketEnd,
    TunnelRefused,
    Why,
    ask_gateway,
    relay,
)

PEER = Identity.generate().peer_id


class Played(End):
    """An end whose other side is a test."""

    def __init__(self, room: int = 100) -> None:
        self.say, self._said = trio.open_memory_channel[bytes](100)
        self._hears, self.heard = trio.open_memory_channel[bytes](room)
        self.finished = trio.Event()
        self.fate = ""
        self.lost = False

    async def receive(self) -> bytes | None:
        try:
            return await self._said.receive()
        except trio.EndOfChannel:
            if self.lost:
                raise trio.BrokenResourceError from None
            return None

    async def send(self, data: bytes) -> None:
        await self._hears.send(data)

    async def finish(self) -> None:
        self.finished.set()
        await trio.lowlevel.checkpoint()

    async def aclose(self) -> None:
        self.fate += "closed"
        await trio.lowlevel.checkpoint()

    async def cut(self) -> None:
        self.fate += "cut"
        await trio.lowlevel.checkpoint()

    def lose(self) -> None:
        self.lost = True
        self.say.close()


@asynccontextmanager
async def relaying(ends: Sequence[Played], idle_s: float = 10.0) -> AsyncIterator[list[Relayed]]:
    done: list[Relayed] = []

    async def run() -> None:
        done.append(await relay(ends, idle_s))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(run)
        yield done


async def test_bytes_go_both_ways_until_both_have_ended(
    autojump_clock: trio.testing.MockClock,
) -> None:
    one, other = Played(), Played()
    async with relaying([one, other]) as done:
        one.say.send_nowait(b"ask")
        assert await other.heard.receive() == b"ask"
        one.say.close()
        await other.finished.wait()
        other.say.send_nowait(b"answer")
        assert await one.heard.receive() == b"answer"
        assert one.fate == ""
        other.say.close()
    assert done == [Relayed(Why.ENDED, sent=3, received=6)]
    assert (one.fate, other.fate) == ("closed", "closed")


async def test_an_end_that_is_lost_cuts_the_other_one(
    autojump_clock: trio.testing.MockClock,
) -> None:
    one, other = Played(), Played()
    async with relaying([one, other]) as done:
        other.lose()
    assert done[0].why is Why.LOST
    assert (one.fate, other.fate) == ("cut", "cut")


async def test_silence_is_borne_for_exactly_as_long_as_it_may_last(
    autojump_clock: trio.testing.MockClock,
) -> None:
    one, other = Played(), Played()
    began = trio.current_time()
    async with relaying([one, other], idle_s=10.0) as done:
        await trio.sleep(7.0)
        one.say.send_nowait(b"still here")
    assert trio.current_time() - began == 17.0
    assert done[0].why is Why.IDLE
    assert (one.fate, other.fate) == ("cut", "cut")


async def test_what_the_other_end_has_no_room_for_is_not_taken_from_the_first(
    autojump_clock: trio.testing.MockClock,
) -> None:
    one, other = Played(), Played(room=0)
    async with relaying([one, other]):
        for _ in range(5):
            one.say.send_nowait(b"x")
        await trio.testing.wait_all_tasks_blocked()
        assert one.say.statistics().current_buffer_used == 4
        for _ in range(5):
            await other.heard.receive()
        one.say.close()
        other.say.close()


async def test_in_a_chain_each_gets_what_the_one_before_it_said(
    autojump_clock: trio.testing.MockClock,
) -> None:
    client, first, last = Played(), Played(), Played()
    async with relaying([client, first, last]) as done:
        client.say.send_nowait(b"a")
        assert await first.heard.receive() == b"a"
        first.say.send_nowait(b"bb")
        assert await last.heard.receive() == b"bb"
        last.say.send_nowait(b"ccc")
        assert await client.heard.receive() == b"ccc"
        for end in (client, first, last):
            end.say.close()
    assert done == [Relayed(Why.ENDED, sent=1, received=3)]


async def test_a_tunnel_that_is_cancelled_is_cut_at_both_ends(
    autojump_clock: trio.testing.MockClock,
) -> None:
    one, other = Played(), Played()
    with trio.move_on_after(1.0):
        await relay([one, other], 10.0)
    assert (one.fate, other.fate) == ("cut", "cut")


# over a connection


@asynccontextmanager
async def switched(carries: Carries = "tcp") -> AsyncIterator[tuple[FramedEnd, FramedEnd]]:
    """Yield the two ends of a connection that changed its protocol."""
    near, far = trio.testing.memory_stream_pair()
    server = ServerConnection(far)
    ends: list[FramedEnd] = []

    async def serve() -> None:
        head = await server.read_head()
        assert head is not None
        assert head.target == b"/tunnel/tcp/i1"
        ends.append(FramedEnd(*await server.switch(UPGRADE), PEER, carries))

    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(serve)
            client = UpstreamConnection(near)
            end = await ask_gateway(client, b"tcp/i1", PEER, carries, 5.0)
        yield end, ends[0]


async def test_a_direction_ends_alone_where_the_connection_cannot_do_so() -> None:
    async with switched() as (near, far):
        await near.send(b"question")
        await near.finish()
        assert await far.receive() == b"question"
        assert await far.receive() is None
        await far.send(b"answer")
        await far.finish()
        assert await near.receive() == b"answer"
        assert await near.receive() is None


async def test_a_cut_is_never_taken_for_an_end() -> None:
    async with switched() as (near, far):
        await near.send(b"half of a")
        assert await far.receive() == b"half of a"
        await near.cut()
        with pytest.raises(trio.BrokenResourceError):
            await far.receive()


async def test_datagrams_keep_their_bounds_and_may_be_empty() -> None:
    async with switched("udp") as (near, far):
        for datagram in (b"one", b"", b"\0two"):
            await near.send(datagram)
        await near.finish()
        assert [await far.receive() for _ in range(4)] == [b"one", b"", b"\0two", None]


async def answering(answer: bytes) -> UpstreamConnection:
    near, far = trio.testing.memory_stream_pair()
    await far.send_all(answer)
    await far.send_eof()
    return UpstreamConnection(near)


async def test_a_refusal_says_why() -> None:
    upstream = await answering(
        b"HTTP/1.1 421 Misdirected Request\r\nContent-Length: 14\r\n\r\ni1 is paused.\n"
    )
    with pytest.raises(TunnelRefused, match=r"i1 is paused\."):
        await ask_gateway(upstream, b"tcp/i1", PEER, "tcp", 5.0)


@pytest.mark.parametrize("answer", [b"", b"HTTP/1.1 101", b"no HTTP\r\n\r\n"])
async def test_a_gateway_that_gives_no_answer_is_unreachable(answer: bytes) -> None:
    upstream = await answering(answer)
    with pytest.raises(Exception, match="gateway of") as caught:
        await ask_gateway(upstream, b"tcp/i1", PEER, "tcp", 5.0)
    assert not isinstance(caught.value, TunnelRefused)


async def test_what_came_with_the_answer_is_not_lost() -> None:
    upstream = await answering(b"HTTP/1.1 101 Switching Protocols\r\n\r\n\x03abc\x00")
    end = await ask_gateway(upstream, b"tcp/i1", PEER, "tcp", 5.0)
    assert await end.receive() == b"abc"
    assert await end.receive() is None


async def test_a_cut_socket_is_reset_at_its_other_end() -> None:
    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    async with listener:
        client = await trio.open_tcp_stream(*listener.socket.getsockname()[:2])
        end = SocketEnd(transport(await listener.accept()))
        await end.cut()
        with pytest.raises(trio.BrokenResourceError):
            await client.receive_some()
        await client.aclose()


class OneEnd(trio.abc.Stream):
    """A stream that can end both directions only, as TLS does."""

    def __init__(self, stream: trio.abc.Stream) -> None:
        self._stream = stream
        self.closed = 0

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        await self._stream.send_all(data)

    async def wait_send_all_might_not_block(self) -> None:
        await self._stream.wait_send_all_might_not_block()

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        return bytes(await self._stream.receive_some(max_bytes))

    async def aclose(self) -> None:
        self.closed += 1
        await self._stream.aclose()


async def test_an_end_that_can_only_end_whole_is_closed_in_good_order() -> None:
    near, client = trio.testing.memory_stream_pair()
    far, instance = trio.testing.memory_stream_pair()
    one = OneEnd(near)
    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            ends = [SocketEnd(transport(one)), SocketEnd(transport(far))]
            nursery.start_soon(relay, ends, 5.0)
            await instance.send_all(b"last words")
            await instance.send_eof()
            assert await client.receive_some() == b"last words"
            assert await client.receive_some() == b""
    assert one.closed
