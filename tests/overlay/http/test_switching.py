"""Changes of the protocol, as WebSocket makes them, through an exchange."""

import socket
import struct

import pytest
import trio

from overlay.http.errors import ClientGone
from overlay.http.exchange import Exchanged
from overlay.http.testing import Lab, Wire

ASK = (
    b"GET /chat HTTP/1.1\r\nHost: h\r\nConnection: keep-alive, Upgrade\r\nUpgrade: websocket\r\n"
    b"Sec-WebSocket-Key: k\r\n\r\n"
)
_RESET = (socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
SWITCH = (
    b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: WebSocket\r\n"
    b"Sec-WebSocket-Accept: a\r\n\r\n"
)


async def test_both_ends_change_and_speak_at_once_and_in_any_order(lab: Lab) -> None:
    async def instance(wire: Wire) -> None:
        head = await wire.head()
        assert b"\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n" in head
        assert b"Sec-WebSocket-Key: k" in head
        await wire.send(SWITCH + b"first")
        assert await wire.exactly(5) == b"early"
        await wire.send(b"answer")
        assert await wire.rest() == b"last"

    client = await lab.client(instance)
    await client.send(ASK + b"early")
    head = await client.head()
    assert head.startswith(b"HTTP/1.1 101 Switching Protocols\r\n")
    assert b"Sec-WebSocket-Accept: a" in head
    assert b"Upgrade: WebSocket\r\nConnection: Upgrade" in head
    assert await client.exactly(11) == b"firstanswer"
    await client.send(b"last")
    await client.stream.send_eof()
    assert await client.ended()
    done = await lab.outcome()
    assert isinstance(done, Exchanged)
    assert (done.status, done.sent_bytes, done.received_bytes) == (101, 11, 9)


async def test_each_direction_ends_alone(lab: Lab) -> None:
    async def instance(wire: Wire) -> None:
        await wire.head()
        await wire.send(SWITCH)
        await wire.stream.send_eof()
        assert await wire.rest() == b"still"

    client = await lab.client(instance)
    await client.send(ASK)
    await client.head()
    assert await client.rest() == b""
    await client.send(b"still")
    await client.stream.send_eof()
    assert isinstance(await lab.outcome(), Exchanged)


async def test_large_amounts_pass_both_ways_at_once(lab: Lab) -> None:
    size = 3_000_000

    async def instance(wire: Wire) -> None:
        await wire.head()
        await wire.send(SWITCH)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(wire.send, bytes(size))
            assert len(await wire.exactly(size)) == size

    client = await lab.client(instance)
    await client.send(ASK)
    await client.head()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(client.send, bytes(size))
        assert len(await client.exactly(size)) == size


async def test_an_instance_that_does_not_change_answers_as_ever(lab: Lab) -> None:
    async def instance(wire: Wire) -> None:
        while True:
            await wire.head()
            await wire.send(
                b"HTTP/1.1 426 Upgrade Required\r\nConnection: upgrade\r\n"
                b"Upgrade: websocket\r\nContent-Length: 2\r\n\r\nno"
            )

    client = await lab.client(instance)
    for _ in range(2):
        await client.send(ASK)
        head = await client.head()
        assert head.startswith(b"HTTP/1.1 426 ")
        assert b"Upgrade: websocket\r\nConnection: Upgrade" in head
        assert await client.exactly(2) == b"no"
    assert lab.accepted == 1


@pytest.mark.parametrize(
    ("asked", "chosen"),
    [
        (b"Connection: Upgrade\r\nUpgrade: websocket", b"other"),
        (b"Connection: Upgrade\r\nUpgrade: websocket", b""),
        (b"Connection: Upgrade\r\nUpgrade: h2c", b"h2c"),
        (b"Upgrade: websocket", b"websocket"),
        (b"X: y", b"websocket"),
    ],
)
async def test_a_change_that_nobody_may_make_is_a_malformed_answer(
    lab: Lab, asked: bytes, chosen: bytes
) -> None:
    async def instance(wire: Wire) -> None:
        await wire.head()
        await wire.send(SWITCH.replace(b"WebSocket", chosen))
        await wire.ended()

    client = await lab.client(instance)
    await client.send(b"GET / HTTP/1.1\r\nHost: h\r\n" + asked + b"\r\n\r\n")
    assert (await client.head()).startswith(b"HTTP/1.1 502 ")


async def test_a_lost_end_cuts_the_other(lab: Lab) -> None:
    ended = trio.Event()

    async def instance(wire: Wire) -> None:
        await wire.head()
        await wire.send(SWITCH)
        with pytest.raises(trio.BrokenResourceError):
            await wire.rest()
        ended.set()

    client = await lab.client(instance)
    await client.send(ASK)
    await client.head()
    client.stream.setsockopt(*_RESET)
    await client.aclose()
    await ended.wait()


async def test_a_client_that_left_before_the_change_ends_it(lab: Lab) -> None:
    asked = trio.Event()

    async def instance(wire: Wire) -> None:
        await wire.head()
        asked.set()
        await wire.ended()

    client = await lab.client(instance)
    await client.send(ASK)
    await asked.wait()
    client.stream.setsockopt(*_RESET)
    await client.aclose()
    assert isinstance(await lab.outcome(), ClientGone)
