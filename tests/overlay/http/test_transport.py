import datetime as dt
import os
import socket
import ssl
from contextlib import suppress

import pytest
import trio
import trio.testing
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from overlay.http import ClientGone, Exchanged, Pool, ServerConnection, end_to_end, exchange
from overlay.http.testing import Lab, Wire
from overlay.http.transport import (
    HELD_BYTES,
    READ_BYTES,
    SendFailed,
    SocketTransport,
    StreamTransport,
)


async def pair(lab: Lab) -> tuple[SocketTransport, trio.SocketStream]:
    """Return a transport and the stream at its other end."""
    send, receive = trio.open_memory_channel[trio.SocketStream](1)

    async def hold(stream: trio.SocketStream) -> None:
        await send.send(stream)
        await trio.sleep_forever()

    near = await lab.dial(await lab.listen(hold))
    far = await receive.receive()
    return SocketTransport(near), far


async def test_a_wait_ends_at_its_deadline_and_the_next_one_works(lab: Lab) -> None:
    near, far = await pair(lab)
    started = trio.current_time()
    assert await near.receive(0.05) is None
    assert 0.05 <= trio.current_time() - started < 5
    await far.send_all(b"x")
    assert await near.receive(5) == b"x"
    assert await near.receive(0.05) is None


async def test_an_alarm_set_for_an_earlier_wait_does_not_end_a_later_one(lab: Lab) -> None:
    near, far = await pair(lab)
    await far.send_all(b"x")
    assert await near.receive(0.05) == b"x"

    async def send_later() -> None:
        await trio.sleep(0.15)
        await far.send_all(b"y")

    async with trio.open_nursery() as nursery:
        nursery.start_soon(send_later)
        assert await near.receive(5) == b"y"


async def test_a_shorter_wait_overtakes_a_longer_alarm(lab: Lab) -> None:
    near, far = await pair(lab)
    await far.send_all(b"x")
    assert await near.receive(60) == b"x"
    assert await near.receive(0.05) is None


async def test_an_alarm_for_reading_does_not_disturb_a_blocked_writer(lab: Lab) -> None:
    near, far = await pair(lab)
    size = 32 * 1024 * 1024
    finished = trio.Event()

    async def write() -> None:
        await near.send(bytes(size))
        finished.set()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(write)
        assert await near.receive(0.1) is None
        assert not finished.is_set()
        left = size
        while left:
            left -= len(await far.receive_some())
    assert finished.is_set()


async def test_a_full_read_is_followed_by_another_without_waiting(lab: Lab) -> None:
    near, far = await pair(lab)
    await far.send_all(bytes(READ_BYTES // 2))
    received = 0
    while received < READ_BYTES // 2:
        received += len(await near.receive() or b"")
    await far.aclose()
    assert await near.receive() == b""


async def test_a_lost_connection_is_told_apart_from_an_ended_one(lab: Lab) -> None:
    near, far = await pair(lab)
    assert near.quiet()
    await far.send_eof()
    assert await near.receive() == b""
    assert not near.quiet()
    assert not near.lost()
    await far.aclose()
    with suppress(SendFailed):
        while not near.lost():
            await near.send(b"x")
            await trio.testing.wait_all_tasks_blocked()
    assert near.lost()


async def test_memory_streams_carry_http_too() -> None:
    near, far = trio.testing.memory_stream_pair()
    transport = StreamTransport(near)
    await transport.send(b"a", b"b")
    assert await far.receive_some() == b"ab"
    with trio.testing.assert_checkpoints():
        assert await transport.receive(0.01) is None
    await far.send_eof()
    assert await transport.receive(5) == b""


@pytest.fixture(scope="session")
def tls(tmp_path_factory: pytest.TempPathFactory) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """Return a server's and a client's context for one self-signed certificate."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "h")])
    now = dt.datetime.now(dt.UTC)
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(days=1))
        .not_valid_after(now + dt.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("h")]), critical=False)
        .sign(key, hashes.SHA256())
    )
    path = tmp_path_factory.mktemp("tls") / "both.pem"
    private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    path.write_bytes(private + certificate.public_bytes(Encoding.PEM))
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(path)
    client = ssl.create_default_context(cafile=str(path))
    return server, client


async def test_a_gateway_answers_over_tls_and_the_connection_is_reused(
    lab: Lab, tls: tuple[ssl.SSLContext, ssl.SSLContext]
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
        secured = trio.SSLStream(stream, tls[0], server_side=True)
        await lab.serve(ServerConnection(secured), inner, end_to_end, 5.0)
        await trio.aclose_forcefully(secured)

    gateway_port = await lab.listen(gateway)

    async def dial_gateway() -> trio.abc.Stream:
        raw = await lab.dial(gateway_port)
        secured = trio.SSLStream(raw, tls[1], server_hostname="h")
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


async def test_a_proxy_that_leaves_a_gateway_frees_the_instance(
    lab: Lab, tls: tuple[ssl.SSLContext, ssl.SSLContext]
) -> None:
    asked, ended = trio.Event(), trio.Event()

    async def wait(wire: Wire) -> None:
        await wire.head()
        asked.set()
        await wire.ended()
        ended.set()

    port = await lab.upstream(wait)
    pool = Pool(lambda: lab.dial(port))

    async def gateway(stream: trio.SocketStream) -> None:
        secured = trio.SSLStream(stream, tls[0], server_side=True)
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
    secured = trio.SSLStream(raw, tls[1], server_hostname="h")
    await secured.send_all(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n")
    await asked.wait()
    await trio.aclose_forcefully(secured)
    await ended.wait()


async def test_what_is_closed_says_so_and_may_be_closed_again(lab: Lab) -> None:
    near, _ = await pair(lab)
    await near.abort(reset=True)
    with pytest.raises(trio.BrokenResourceError):
        await near.receive(1)
    with pytest.raises(SendFailed):
        await near.send(b"x")
    assert near.lost()
    assert not near.quiet()
    await near.abort()
    await near.aclose()


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
    near._send_timeout_s = 0.05
    assert near.hold(b"!" * HELD_BYTES)
    with pytest.raises(SendFailed):
        await near.receive()
