import pytest
import trio

from overlay.http import BadRequest, ClientGone, Limits, ServerConnection
from overlay.http.connection import DEFAULT_LIMITS
from overlay.http.errors import SpeaksHttp2
from overlay.http.testing import Lab, Wire

GET = b"GET /a HTTP/1.1\r\nHost: h\r\n\r\n"


async def server(lab: Lab, *, limits: Limits = DEFAULT_LIMITS, read_body: bool = False) -> Wire:
    """Return a client of a server that answers every request with its target."""

    async def serve(stream: trio.SocketStream) -> None:
        connection = ServerConnection(stream, limits)
        try:
            while (head := await connection.read_head()) is not None:
                body = head.target
                if read_body:
                    await connection.send_continue()
                    body = b"".join([data async for data in connection.body])
                await connection.respond(200, [(b"X-A", b"1")], body)
        except BadRequest as exc:
            await connection.refuse(exc)
        except ClientGone:
            pass
        finally:
            await connection.aclose()

    return Wire(await lab.dial(await lab.listen(serve)))


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (b"GET / HTTP/1.1\r\n\r\n", b"400"),
        (b"GET / HTTP/1.1\nHost: h\n\n", b"400"),
        (b"\x16\x03\x01\x02\x00\x01", b"400"),
        (b"GET /" + b"a" * 70_000, b"414"),
        (b"GET / HTTP/1.1\r\nX: " + b"a" * 70_000, b"431"),
        (b"GET / HTTP/1.1\r\nHost: h\r\n" + b"X: y\r\n" * 200 + b"\r\n", b"431"),
        (b"GET / HTTP/3.0\r\nHost: h\r\n\r\n", b"505"),
        (b"GET / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: gzip, chunked\r\n\r\n", b"501"),
    ],
)
async def test_a_wrong_request_is_refused_in_plain_text_and_the_connection_ends(
    lab: Lab, data: bytes, status: bytes
) -> None:
    client = await server(lab)
    await client.send(data)
    head = await client.head()
    assert head.split()[1] == status
    assert b"Connection: close" in head
    assert (await client.rest()).endswith(b"\n")


async def test_an_idle_client_is_let_go_without_a_word(lab: Lab) -> None:
    client = await server(lab, limits=Limits(idle_timeout_s=1))
    await client.send(GET)
    await client.head()
    assert await client.exactly(2) == b"/a"
    assert await client.ended()


async def test_a_head_that_stalls_ends_with_408(lab: Lab) -> None:
    client = await server(lab, limits=Limits(head_timeout_s=0.1))
    await client.send(b"GET / HTT")
    assert (await client.head()).startswith(b"HTTP/1.1 408")
    assert (await client.rest()).endswith(b"\n")


async def test_a_head_in_single_bytes_is_read(lab: Lab) -> None:
    client = await server(lab)
    for byte in GET * 2:
        await client.send(bytes([byte]))
    for _ in range(2):
        await client.head()
        assert await client.exactly(2) == b"/a"


async def test_a_client_that_ended_its_direction_gets_all_its_answers(lab: Lab) -> None:
    client = await server(lab)
    await client.send(GET * 2)
    await client.stream.send_eof()
    assert (await client.rest()).count(b"HTTP/1.1 200 OK") == 2


async def test_head_is_answered_without_the_body(lab: Lab) -> None:
    client = await server(lab)
    await client.send(b"HEAD /a HTTP/1.1\r\nHost: h\r\n\r\n" + GET)
    for _ in range(2):
        first, *fields = (await client.head()).split(b"\r\n")
        assert first == b"HTTP/1.1 200 OK"
        assert {b"X-A: 1", b"Content-Length: 2", b"Server: myxo"} < set(fields)
        assert any(field.startswith(b"Date: ") for field in fields)
    assert await client.exactly(2) == b"/a"


async def test_a_small_unwanted_body_does_not_cost_the_connection(lab: Lab) -> None:
    client = await server(lab)
    await client.send(b"PUT /b HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\n\r\n")
    assert b"close" not in await client.head()
    assert await client.exactly(2) == b"/b"
    await client.send(b"hello" + GET)
    await client.head()
    assert await client.exactly(2) == b"/a"


@pytest.mark.parametrize(
    "framing",
    [
        b"Content-Length: 300000",
        b"Transfer-Encoding: chunked",
        b"Content-Length: 5\r\nExpect: 100-continue",
    ],
)
async def test_a_body_that_is_not_cheaply_drained_ends_the_connection(
    lab: Lab, framing: bytes
) -> None:
    client = await server(lab)
    await client.send(b"PUT /b HTTP/1.1\r\nHost: h\r\n%b\r\n\r\n" % framing)
    assert b"Connection: close" in await client.head()
    await client.send(b"5\r\nhello\r\n")  # would reset the connection if nobody lingered
    assert await client.rest() == b"/b"


async def test_a_body_is_asked_for_when_the_client_waits(lab: Lab) -> None:
    client = await server(lab, read_body=True)
    await client.send(
        b"PUT /b HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n"
    )
    assert await client.head() == b"HTTP/1.1 100 Continue\r\n\r\n"
    await client.send(b"hello")
    await client.head()
    assert await client.exactly(5) == b"hello"
    await client.send(GET)
    assert b"Content-Length: 0" in await client.head()


async def test_http2_is_refused_by_who_does_not_speak_it(lab: Lab) -> None:
    client = await server(lab)
    await client.send(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
    assert (await client.head()).startswith(b"HTTP/1.1 505 ")


async def test_http2_is_handed_over_with_what_was_read_of_it(lab: Lab) -> None:
    preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
    got: list[bytes] = []
    done = trio.Event()

    async def serve(stream: trio.SocketStream) -> None:
        connection = ServerConnection(stream)
        with pytest.raises(SpeaksHttp2) as caught:
            await connection.read_head()
        got.append(caught.value.received)
        while len(b"".join(got)) < len(preface) + 4:
            got.append(await caught.value.transport.receive() or b"")
        await connection.aclose()
        done.set()

    client = Wire(await lab.dial(await lab.listen(serve)))
    await client.send(preface + b"more")
    await done.wait()
    assert b"".join(got) == preface + b"more"


async def test_http2_after_a_request_of_http1_is_no_request(lab: Lab) -> None:
    client = await server(lab)
    await client.send(GET + b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
    assert (await client.until(b"/a")).startswith(b"HTTP/1.1 200 ")
    assert (await client.head()).startswith(b"HTTP/1.1 505 ")


@pytest.mark.parametrize(
    "request_",
    [
        b"Content-Length: 11\r\n\r\n",
        b"Content-Length: 11\r\nExpect: 100-continue\r\n\r\n",
        b"Transfer-Encoding: chunked\r\n\r\n6\r\nabcdef\r\n5\r\nabcde\r\n",
    ],
)
async def test_a_body_above_the_bound_is_413_and_the_connection_ends(
    lab: Lab, request_: bytes
) -> None:
    client = await server(lab, limits=Limits(max_body_bytes=10), read_body=True)
    await client.send(b"PUT /a HTTP/1.1\r\nHost: h\r\nContent-Length: 10\r\n\r\n" + b"x" * 10)
    assert (await client.head()).startswith(b"HTTP/1.1 200 ")
    await client.exactly(10)
    await client.send(b"PUT /a HTTP/1.1\r\nHost: h\r\n" + request_)
    head = await client.head()
    assert head.startswith(b"HTTP/1.1 413 ")
    assert b"Connection: close" in head
