from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager

import pytest
import trio
import trio.testing
from hypothesis import given
from hypothesis import strategies as st

from overlay.errors import MalformedMessage, StreamCut
from overlay.framing import MAX_MESSAGE_BYTES, FramedStream, encode_varint
from overlay.names import PeerId

PEER = PeerId("12D3KooWother")
TIMEOUT_S = 5.0


class InMemory:
    """A `ByteStream` over one half of an in-memory pair, which records how it ended."""

    def __init__(self, stream: trio.abc.HalfCloseableStream, largest_read: int = 1 << 20) -> None:
        self._stream = stream
        self._largest_read = largest_read
        self.ending = ""

    async def read(self, n: int) -> bytes:
        return bytes(await self._stream.receive_some(min(n, self._largest_read)))

    async def write(self, data: bytes) -> None:
        await self._stream.send_all(data)

    async def close(self) -> None:
        self.ending = "closed"
        await self._stream.send_eof()

    async def reset(self) -> None:
        self.ending = "reset"
        await self._stream.aclose()


def framed_pair(largest_read: int = 1 << 20) -> tuple[FramedStream, FramedStream]:
    near, far = trio.testing.memory_stream_pair()
    return (
        FramedStream(InMemory(near, largest_read), PEER),
        FramedStream(InMemory(far, largest_read), PEER),
    )


def fed(data: bytes, largest_read: int = 1 << 20) -> FramedStream:
    """Return a stream that receives `data` and then the end of the connection."""
    _, far = trio.testing.memory_stream_pair()
    assert isinstance(far.receive_stream, trio.testing.MemoryReceiveStream)
    far.receive_stream.put_data(data)
    far.receive_stream.put_eof()
    return FramedStream(InMemory(far, largest_read), PEER)


@asynccontextmanager
async def in_time() -> AsyncIterator[trio.Nursery]:
    with trio.fail_after(TIMEOUT_S):
        async with trio.open_nursery() as nursery:
            yield nursery


async def drain(stream: FramedStream) -> list[bytes]:
    messages = []
    while (message := await stream.receive()) is not None:
        messages.append(message)
    return messages


@given(
    messages=st.lists(st.binary(min_size=1, max_size=300), max_size=8),
    largest_read=st.integers(1, 64),
)
def test_messages_arrive_whole_and_in_order_however_the_bytes_are_cut(
    messages: Sequence[bytes], largest_read: int
) -> None:
    async def exchange() -> list[bytes]:
        near, far = framed_pair(largest_read)
        async with in_time() as nursery:
            nursery.start_soon(send_all, near, messages)
            return await drain(far)
        raise AssertionError

    assert trio.run(exchange) == messages


async def send_all(stream: FramedStream, messages: Sequence[bytes]) -> None:
    for message in messages:
        await stream.send(message)
    await stream.finish()


async def test_after_the_end_mark_every_receive_says_none() -> None:
    async with in_time():
        near, far = framed_pair()
        await near.finish()
        assert await far.receive() is None
        assert await far.receive() is None


@given(message=st.binary(min_size=1, max_size=300), data=st.data())
def test_a_stream_that_stops_anywhere_before_its_end_mark_is_cut(
    message: bytes, data: st.DataObject
) -> None:
    frame = encode_varint(len(message)) + message
    kept = data.draw(st.integers(0, len(frame)))

    async def receive() -> None:
        with trio.fail_after(TIMEOUT_S):
            await drain(fed(frame[:kept]))

    with pytest.raises(StreamCut):
        trio.run(receive)


async def test_the_largest_message_passes_and_one_byte_more_is_refused_on_both_ends() -> None:
    largest = bytes(MAX_MESSAGE_BYTES)
    async with in_time() as nursery:
        near, far = framed_pair()
        nursery.start_soon(near.send, largest)
        assert await far.receive() == largest
        with pytest.raises(ValueError, match="cannot be sent"):
            await near.send(largest + b"x")
        with pytest.raises(MalformedMessage, match="announced"):
            await fed(encode_varint(MAX_MESSAGE_BYTES + 1) + b"x").receive()


@pytest.mark.parametrize("header", [b"\xff" * 4, b"\xff" * 10, b"\x80\x80\x80\x80\x01"])
async def test_a_length_that_never_ends_is_refused_from_its_first_bytes(header: bytes) -> None:
    async with in_time():
        stream = fed(header)
        for _ in range(2):
            with pytest.raises(MalformedMessage):
                await stream.receive()
        assert not stream.reusable


async def test_an_empty_message_is_refused_for_it_would_be_an_end_mark() -> None:
    near, _ = framed_pair()
    with pytest.raises(ValueError, match="0 bytes"):
        await near.send(b"")


async def test_a_cancelled_receive_loses_nothing(
    autojump_clock: trio.testing.MockClock,
) -> None:
    near, far = trio.testing.memory_stream_pair()
    stream = FramedStream(InMemory(far), PEER)
    await near.send_all(encode_varint(5) + b"he")
    with trio.move_on_after(1) as impatient:
        await stream.receive()
    assert impatient.cancelled_caught
    await near.send_all(b"llo")
    with trio.fail_after(TIMEOUT_S):
        assert await stream.receive() == b"hello"


async def test_a_send_cancelled_half_way_cuts_the_stream(
    autojump_clock: trio.testing.MockClock,
) -> None:
    near, far = trio.testing.lockstep_stream_pair()
    writer, reader = FramedStream(InMemory(near), PEER), FramedStream(InMemory(far), PEER)
    with trio.move_on_after(1) as impatient:
        await writer.send(b"nobody reads this")
    assert impatient.cancelled_caught
    assert not writer.reusable
    with pytest.raises(StreamCut):
        await writer.send(b"more")
    await writer.aclose()
    with trio.fail_after(TIMEOUT_S), pytest.raises((StreamCut, trio.BrokenResourceError)):
        await drain(reader)


async def test_a_message_is_received_while_another_is_on_its_way_out() -> None:
    stuck, far = trio.testing.lockstep_stream_pair()  # a send ends when the other end reads
    near = FramedStream(InMemory(stuck), PEER)
    async with in_time() as nursery:
        nursery.start_soon(near.send, b"out")
        nursery.start_soon(far.send_all, b"\x02in")
        await trio.testing.wait_all_tasks_blocked()
        assert await near.receive() == b"in"
        assert await far.receive_some() == b"\x03out"


async def test_concurrent_senders_take_turns() -> None:
    messages = [bytes([n]) * 1000 for n in range(1, 20)]
    near, far = trio.testing.lockstep_stream_pair()
    writer, reader = FramedStream(InMemory(near), PEER), FramedStream(InMemory(far, 7), PEER)
    async with in_time() as nursery:
        for message in messages:
            nursery.start_soon(writer.send, message)
        received = [await reader.receive() for _ in messages]
    assert sorted(m or b"" for m in received) == messages


@pytest.mark.parametrize(
    ("leave", "ending"), [(FramedStream.finish, "closed"), (FramedStream.receive, "reset")]
)
async def test_a_stream_ends_in_good_order_only_after_its_end_mark(
    leave: Callable[[FramedStream], Awaitable[object]], ending: str
) -> None:
    near, far = trio.testing.memory_stream_pair()
    under = InMemory(near)
    async with in_time():
        await far.send_all(b"\0")
        async with FramedStream(under, PEER) as stream:
            await leave(stream)
        with pytest.raises(StreamCut):
            await stream.send(b"late")
    assert under.ending == ending


async def test_one_read_of_the_network_may_bring_many_messages() -> None:
    count = 100
    reads = 0
    near, far = trio.testing.memory_stream_pair()

    class Counting(InMemory):
        async def read(self, n: int) -> bytes:
            nonlocal reads
            reads += 1
            return await super().read(n)

    stream = FramedStream(Counting(far), PEER)
    async with in_time():
        await near.send_all(b"\x01x" * count)
        assert [await stream.receive() for _ in range(count)] == [b"x"] * count
    assert reads == 1
