"""What is written comes out whole at the other end, and nobody keeps the others from their turn."""

import socket
from collections.abc import AsyncIterator

import pytest
import trio

from myxo.mapping.connection import CALLS_IN_A_ROW, READ_BYTES, Connection

Pair = tuple[Connection, Connection]


@pytest.fixture
async def pair() -> AsyncIterator[Pair]:
    one, other = (Connection(end) for end in socket.socketpair())
    yield one, other
    one.close()
    other.close()


@pytest.mark.parametrize("size", [0, 1, READ_BYTES, 40 * READ_BYTES + 7])
async def test_what_is_written_is_read_whole_however_large(pair: Pair, size: int) -> None:
    one, other = pair
    data = bytes(range(256)) * (size // 256) + bytes(size % 256)
    read = bytearray()
    with trio.fail_after(30):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(one.send_all, memoryview(data))
            while len(read) < size:
                read += await other.receive_some()
    assert read == data


async def test_a_part_is_read_to_where_it_is_wanted(pair: Pair) -> None:
    one, other = pair
    await one.send_all(b"abcdef")
    space = bytearray(4)
    assert await other.receive_into(memoryview(space)) == 4
    assert space == b"abcd"
    assert await other.receive_some() == b"ef"


async def test_the_end_is_nothing_and_a_break_an_error(pair: Pair) -> None:
    one, other = pair
    one.close()
    assert await other.receive_some() == b""
    assert await other.receive_into(memoryview(bytearray(1))) == 0
    with pytest.raises(OSError, match="pipe"):
        await other.send_all(b"too late")


async def test_who_always_has_something_to_read_lets_others_have_their_turn(pair: Pair) -> None:
    one, other = pair
    turns = 0

    async def take_turns() -> None:
        nonlocal turns
        while True:
            await trio.lowlevel.checkpoint()
            turns += 1

    with trio.fail_after(30):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(take_turns)
            for _ in range(10 * CALLS_IN_A_ROW):
                await one.send_all(b"x")
                await other.receive_some()
            nursery.cancel_scope.cancel()
    assert turns >= 10


@pytest.mark.parametrize("reads", [True, False])
async def test_a_wait_can_be_given_up(pair: Pair, reads: bool) -> None:
    one, other = pair
    with trio.move_on_after(0.05) as waiting:
        if reads:
            await one.receive_some()
        else:
            await one.send_all(bytes(100 * READ_BYTES))
    assert waiting.cancelled_caught
    await other.send_all(b"still there")
    assert await one.receive_some() == b"still there"
