"""Whole messages that a socket holds until the loop's round ends."""

import os
import socket
from contextlib import suppress

import pytest
import trio
import trio.testing

from overlay.http.outbox import outbox
from overlay.http.testing import Lab, Wire
from overlay.http.transport import HELD_BYTES, READ_BYTES, SendFailed, SocketTransport


async def pair(lab: Lab) -> tuple[SocketTransport, trio.SocketStream]:
    """Return a transport and the stream at its other end."""
    send, receive = trio.open_memory_channel[trio.SocketStream](1)

    async def hold(stream: trio.SocketStream) -> None:
        await send.send(stream)
        await trio.sleep_forever()

    near = await lab.dial(await lab.listen(hold))
    far = await receive.receive()
    outbox()._busy = 1000  # rounds in which messages wait, as where there are several in each
    return SocketTransport(near), far


async def test_what_is_held_goes_out_before_the_loop_waits(lab: Lab) -> None:
    near, far = await pair(lab)
    assert near.hold(b"whole")
    assert await far.receive_some() == b"whole"
    assert near.hold(b"another")
    assert await far.receive_some() == b"another"


async def test_what_is_held_goes_out_before_what_is_sent_after_it(lab: Lab) -> None:
    near, far = await pair(lab)
    assert near.hold(b"one,")
    assert not near.hold(b"two,")
    await near.send(b"two,", b"three")
    await near.end()
    assert await Wire(far).rest() == b"one,two,three"


async def test_a_long_message_is_not_held(lab: Lab) -> None:
    near, _ = await pair(lab)
    assert not near.hold(bytes(HELD_BYTES + 1))


async def test_an_end_a_close_and_an_abort_send_what_is_held_first(lab: Lab) -> None:
    for leave in (SocketTransport.end, SocketTransport.aclose, SocketTransport.abort):
        near, far = await pair(lab)
        assert near.hold(b"last words")
        await leave(near)
        assert await Wire(far).rest() == b"last words"


async def test_what_a_socket_held_that_was_closed_under_it_reaches_nobody_else(lab: Lab) -> None:
    near, _ = await pair(lab)
    other, far = await pair(lab)
    assert near.hold(b"secret")
    number = near.fd
    near._stream.socket.close()
    os.dup2(other.fd, number)  # as the next connection gets the number that is free
    try:
        await trio.testing.wait_all_tasks_blocked()
        await other.send(b"its own")
        await other.end()
        assert await Wire(far).rest() == b"its own"
    finally:
        os.close(number)


async def test_that_nothing_of_what_was_held_could_be_sent_is_told_to_who_reads(lab: Lab) -> None:
    """Also to who waits already, and nobody else's message suffers."""
    lost, _ = await pair(lab)
    well, far = await pair(lab)
    assert lost.hold(b"nobody reads this")
    assert well.hold(b"somebody reads this")
    lost._stream.socket.shutdown(socket.SHUT_WR)
    for _ in range(2):
        with pytest.raises(SendFailed) as told:
            await lost.receive()
        assert told.value.sent == 0
    with pytest.raises(SendFailed):
        await lost.send(b"nor this")
    assert await far.receive_some() == b"somebody reads this"


async def full(lab: Lab) -> tuple[SocketTransport, trio.SocketStream, int]:
    """Return a transport of which the system takes no more, and how much it took."""
    near, far = await pair(lab)
    taken = 0
    with suppress(BlockingIOError):
        while True:
            taken += os.write(near.fd, bytes(READ_BYTES))
    return near, far, taken


async def test_what_the_system_does_not_take_is_sent_while_the_reader_waits(lab: Lab) -> None:
    near, far, taken = await full(lab)
    assert near.hold(b"!" * HELD_BYTES)

    async def read() -> None:
        await far.send_all(await Wire(far).exactly(taken + HELD_BYTES))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(read)
        left, received = taken + HELD_BYTES, b""
        while len(received) < left:
            received += await near.receive(10) or b""
    assert received == bytes(taken) + b"!" * HELD_BYTES


async def test_a_wait_that_is_cancelled_leaves_the_rest_held(lab: Lab) -> None:
    near, far, taken = await full(lab)
    assert near.hold(b"!" * HELD_BYTES)
    assert near.holds()
    with trio.move_on_after(0.05) as scope:
        await near.receive()
    assert scope.cancelled_caught
    async with trio.open_nursery() as nursery:
        nursery.start_soon(near.aclose)
        assert await Wire(far).rest() == bytes(taken) + b"!" * HELD_BYTES


async def test_two_who_write_to_a_full_socket_take_turns(lab: Lab) -> None:
    near, far, taken = await full(lab)
    assert near.hold(b"!" * HELD_BYTES)

    async def send() -> None:
        await near.send(b"?" * HELD_BYTES)
        await near.end()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(near.receive)
        await trio.testing.wait_all_tasks_blocked()
        nursery.start_soon(send)
        await trio.testing.wait_all_tasks_blocked()
        assert await Wire(far).rest() == bytes(taken) + b"!" * HELD_BYTES + b"?" * HELD_BYTES
        await far.aclose()


async def test_a_reader_of_a_full_socket_gives_up_after_the_time_to_send(lab: Lab) -> None:
    near, _, _ = await full(lab)
    near.send_timeout_s = 0.05
    assert near.hold(b"!" * HELD_BYTES)
    with pytest.raises(SendFailed):
        await near.receive()
