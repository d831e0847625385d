"""What is TLS's own; what holds for every transport is in test_transport.py."""

import os
import ssl
import subprocess
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

import pytest
import trio
import trio.testing

from overlay.http import tls_stream
from overlay.http.testing import Lab
from overlay.http.tls_stream import TlsStream
from overlay.http.transport import SendFailed
from overlay.identity import Identity
from overlay.passphrase import network_keys
from overlay.tls import PeerTls, open_tls

Pair = tuple[trio.SocketStream, trio.SocketStream]


def sockets() -> Pair:
    near, far = trio.socket.socketpair()
    return trio.SocketStream(near), trio.SocketStream(far)


@dataclass
class Cable:
    """Two ends after their handshake, between which nothing passes but what the test carries."""

    near: TlsStream
    far: TlsStream
    at_near: trio.SocketStream
    at_far: trio.SocketStream

    async def taken_from_far(self) -> bytes:
        """Return what far has sent, as it is on the wire."""
        return bytes(await self.at_far.receive_some())


async def carry(source: trio.SocketStream, sink: trio.SocketStream) -> None:
    """Carry bytes, and their end."""
    async for data in source:
        await sink.send_all(data)
    await sink.send_eof()


@pytest.fixture
async def cable(nursery: trio.Nursery, tls: PeerTls) -> AsyncIterator[Cable]:
    nursery.cancel_scope.deadline = trio.current_time() + 20
    (near_socket, at_near), (far_socket, at_far) = sockets(), sockets()
    near = TlsStream(near_socket, tls.client_context)
    far = TlsStream(far_socket, tls.server_context, server_side=True)
    async with trio.open_nursery() as carrying:
        carrying.start_soon(carry, at_near, at_far)
        carrying.start_soon(carry, at_far, at_near)
        async with trio.open_nursery() as shaking:
            shaking.start_soon(near.do_handshake)
            shaking.start_soon(far.do_handshake)
        await far.send(b"x")  # the last flight has arrived when this has
        assert await near.receive() == b"x"
        await near.send(b"y")
        assert await far.receive() == b"y"
        carrying.cancel_scope.cancel()
    try:
        yield Cable(near, far, at_near, at_far)
    finally:
        for stream in (near_socket, far_socket, at_near, at_far):
            stream.socket.close()


async def test_a_record_is_awaited_byte_by_byte_and_no_wait_is_longer_than_it_may(
    cable: Cable,
) -> None:
    await cable.far.send(b"slowly")
    record = await cable.taken_from_far()
    for at in range(len(record) - 1):
        await cable.at_near.send_all(record[at : at + 1])
    started = trio.current_time()
    assert await cable.near.receive(0.05) is None
    assert 0.05 <= trio.current_time() - started < 2
    assert not cable.near.quiet()  # the next answer's first bytes are not the next request's
    await cable.at_near.send_all(record[-1:])
    assert await cable.near.receive() == b"slowly"
    assert cable.near.quiet()


async def test_it_makes_no_difference_where_the_wire_is_cut(cable: Cable) -> None:
    random = Random(1)
    sent = b""
    wire = b""
    for _ in range(60):
        part = random.randbytes(random.choice((1, 40, 5_000, 16_384, 40_000)))
        await cable.far.send(part)
        sent += part
        taken = await cable.taken_from_far()
        while len(taken) < len(part):
            taken += await cable.taken_from_far()
        wire += taken
    received = b""
    while wire:
        size = random.choice((1, 3, 100, 16_000, 30_000))
        await cable.at_near.send_all(wire[:size])
        wire = wire[size:]
        received += await cable.near.receive(0.001) or b""
    while len(received) < len(sent):
        received += await cable.near.receive() or b""
    assert received == sent


async def test_a_trickle_that_makes_no_record_does_not_extend_a_wait(
    cable: Cable, nursery: trio.Nursery
) -> None:
    await cable.far.send(bytes(10_000))
    record = await cable.taken_from_far()

    async def trickle() -> None:
        for byte in record[:-1]:
            await cable.at_near.send_all(bytes([byte]))
            await trio.sleep(0.01)

    nursery.start_soon(trickle)
    started = trio.current_time()
    assert await cable.near.receive(0.2) is None
    assert trio.current_time() - started < 5
    nursery.cancel_scope.cancel()


async def test_what_stops_without_tls_s_end_mark_is_cut_wherever_it_stops(cable: Cable) -> None:
    await cable.far.send(b"whole")
    await cable.far.send(b"half")
    wire = await cable.taken_from_far()
    await cable.at_near.send_all(wire[:-1])
    await cable.at_near.send_eof()
    assert await cable.near.receive() == b"whole"
    with pytest.raises(trio.BrokenResourceError, match="cut"):
        await cable.near.receive()


async def test_the_end_mark_is_the_end_though_the_connection_stays_open(cable: Cable) -> None:
    await cable.far.send(b"whole")
    await cable.far.aclose()
    await cable.at_near.send_all(await cable.taken_from_far())
    assert await cable.near.receive() == b"whole"
    assert not cable.near.quiet()
    assert await cable.near.receive() == b""


async def test_what_was_changed_on_the_way_breaks_the_connection(cable: Cable) -> None:
    await cable.far.send(b"untouched")
    record = bytearray(await cable.taken_from_far())
    record[-1] ^= 1
    await cable.at_near.send_all(record)
    with pytest.raises(trio.BrokenResourceError):
        await cable.near.receive()


async def test_a_close_that_is_cancelled_is_a_cut(cable: Cable) -> None:
    await trio.aclose_forcefully(cable.far)
    assert await cable.taken_from_far() == b""


async def test_a_send_that_is_cancelled_half_way_breaks_the_connection(cable: Cable) -> None:
    with trio.move_on_after(0.1) as scope:
        await cable.near.send(bytes(16 * 1024 * 1024))
    assert scope.cancelled_caught
    assert cable.near.lost()
    assert not cable.near.quiet()
    with pytest.raises(SendFailed):
        await cable.near.send(b"in the middle of a record")
    await cable.near.aclose()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(carry, cable.at_near, cable.at_far)
        with pytest.raises(trio.BrokenResourceError):
            await read_to_the_end(cable.far)


async def read_to_the_end(stream: TlsStream) -> None:
    while await stream.receive():
        pass


async def test_two_tasks_do_not_send_at_once(cable: Cable) -> None:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(cable.near.send, bytes(16 * 1024 * 1024))
        await trio.testing.wait_all_tasks_blocked()
        with pytest.raises(trio.BusyResourceError):
            await cable.near.send(b"in between")
        nursery.cancel_scope.cancel()


async def test_what_is_read_in_small_parts_loses_nothing(cable: Cable) -> None:
    await cable.far.send_all(b"MYXO/1 OK")
    await cable.at_near.send_all(await cable.taken_from_far())
    assert await cable.near.receive_some(4) == b"MYXO"
    assert not cable.near.quiet()
    assert await cable.near.receive() == b"/1 OK"


@pytest.mark.parametrize("said", [b"\x16\x03\x01\x00\x04\x01\xff\xff\xff", b""])
async def test_who_speaks_no_tls_is_refused_and_told_so(tls: PeerTls, said: bytes) -> None:
    near, far = sockets()
    stream = TlsStream(near, tls.server_context, server_side=True)
    with trio.fail_after(60):
        await far.send_all(said)
        await far.send_eof()
        with pytest.raises(trio.BrokenResourceError):
            await stream.do_handshake()
        await stream.aclose()
        answer = b"".join([part async for part in far])
    assert answer.startswith(b"\x15") == bool(said)  # an alert
    await far.aclose()


async def test_a_handshake_with_one_who_is_silent_takes_as_long_as_the_caller_says(
    tls: PeerTls,
) -> None:
    near, far = sockets()
    stream = TlsStream(near, tls.server_context, server_side=True)
    with trio.move_on_after(0.05) as scope:
        await stream.do_handshake()
    assert scope.cancelled_caught
    for end in (stream, far):
        await trio.aclose_forcefully(end)


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
async def test_other_versions_and_session_tickets_make_no_difference(
    version: ssl.TLSVersion,
) -> None:
    peer = fresh_tls()
    peer.server_context.num_tickets = 2
    for context in (peer.server_context, peer.client_context):
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.maximum_version = version
    near_socket, far_socket = sockets()
    near = TlsStream(near_socket, peer.client_context)
    far = TlsStream(far_socket, peer.server_context, server_side=True)
    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(near.do_handshake)
            nursery.start_soon(far.do_handshake)
        assert (near.version, far.version) == (version.name.replace("_", "."),) * 2
        assert await near.receive(0.02) is None  # tickets may have come, which are nothing
        sent = os.urandom(300_000)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(far.send, sent)
            received = b""
            while len(received) < len(sent):
                received += await near.receive() or b""
        assert received == sent
        await near.send(b"back")
        assert await far.receive() == b"back"
        for end in (near, far):
            await end.aclose()


def fresh_tls() -> PeerTls:
    return open_tls(network_keys("secret"), Identity.generate().peer_id)


@dataclass
class Openssl:
    """OpenSSL's own client, which changes its keys when it is told so, and this end of it."""

    process: trio.Process
    stream: TlsStream
    messages: Path
    updates: int = 0
    turn: trio.Lock = field(default_factory=trio.Lock)

    async def say(self, line: bytes) -> None:
        assert self.process.stdin is not None
        await self.process.stdin.send_all(line)

    async def update_keys(self) -> None:
        """Have it send a KeyUpdate that asks for one; return when it has.

        What it reads together with such a command it drops.
        """
        async with self.turn:
            self.updates += 1
            await self.say(b"K\n")
            sent = r">>> TLS 1.3, Handshake [length 0005], KeyUpdate"
            while self.messages.read_text().count(sent) < self.updates:
                await trio.testing.wait_all_tasks_blocked(0.005)

    async def rest(self) -> bytes:
        assert self.process.stdout is not None
        return b"".join([part async for part in self.process.stdout])


@pytest.fixture
async def client(lab: Lab, tmp_path: Path) -> AsyncIterator[Openssl]:
    context = fresh_tls().server_context
    context.verify_mode = ssl.CERT_NONE
    accepted, ready = trio.open_memory_channel[TlsStream](1)

    async def serve(tcp: trio.SocketStream) -> None:
        stream = TlsStream(tcp, context, server_side=True)
        await stream.do_handshake()
        await accepted.send(stream)
        await trio.sleep_forever()

    port = await lab.listen(serve)
    messages = tmp_path / "messages"
    options = ("-brief", "-msg", "-msgfile", str(messages))
    process = await trio.lowlevel.open_process(
        ["openssl", "s_client", "-connect", f"127.0.0.1:{port}", *options],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    try:
        yield Openssl(process, await ready.receive(), messages)
    finally:
        process.kill()
        with trio.CancelScope(shield=True):
            await process.wait()
            for pipe in (process.stdin, process.stdout):
                assert pipe is not None
                await pipe.aclose()


async def test_keys_are_changed_in_the_middle_of_a_large_answer(client: Openssl) -> None:
    parts = [os.urandom(1_000_000) for _ in range(4)]
    received = b""

    async def receive() -> None:
        nonlocal received
        received = await client.rest()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(receive)
        for part in parts:
            nursery.start_soon(client.update_keys)
            await client.stream.send(part)
            await client.update_keys()
            await client.say(b"and on\n")
            assert await client.stream.receive() == b"and on\n"
        await client.stream.aclose()
    assert received == b"".join(parts)


async def test_who_has_keys_changed_again_and_again_and_reads_nothing_is_cut_off(
    client: Openssl, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tls_stream, "_MAX_UNASKED_BYTES", 100)

    async def update_on() -> None:
        while True:
            await client.update_keys()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(update_on)
        with pytest.raises(trio.BrokenResourceError, match="asks for more"):
            await client.stream.receive()
        nursery.cancel_scope.cancel()
    assert client.updates < 20
