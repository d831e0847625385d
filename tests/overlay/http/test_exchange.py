import socket
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from importlib import import_module

import pytest
import trio
import trio.testing

from overlay.http import (
    BadRequest,
    ClientGone,
    Exchanged,
    Limits,
    Pool,
    ResponseCut,
    ResponseHead,
    ServerConnection,
    UpstreamConnection,
    UpstreamFailed,
    end_to_end,
    exchange,
)
from overlay.http.head import Field
from overlay.http.testing import Lab, Wire
from overlay.http.transport import READ_BYTES

GET = b"GET /a HTTP/1.1\r\nHost: h\r\n\r\n"
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
CHUNKED_POST = b"POST /a HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n"


async def hello(wire: Wire) -> None:
    while True:
        try:
            await wire.head()
        except EOFError:
            return
        await wire.send(OK)


def reset(wire: Wire) -> None:
    wire.stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    wire.stream.socket.close()


async def test_requests_on_one_connection_share_one_upstream_connection(lab: Lab) -> None:
    client = await lab.client(hello)
    for _ in range(3):
        await client.send(GET)
        assert await client.head() == b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n"
        assert await client.exactly(2) == b"ok"
    assert lab.accepted == 1
    done = await lab.outcome(2)
    assert isinstance(done, Exchanged)
    assert (done.status, done.sent_bytes, done.received_bytes) == (200, 2, 0)
    assert 0 <= done.first_byte_s <= done.total_s


async def test_pipelined_requests_are_answered_in_order(lab: Lab) -> None:
    async def count(wire: Wire) -> None:
        while True:
            path = (await wire.head()).split()[1]
            size = int(path[1:])
            body = await wire.exactly(size)
            await wire.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (size, body))

    client = await lab.client(count)
    post = b"POST /%d HTTP/1.1\r\nHost: h\r\nContent-Length: %d\r\n\r\n%b"
    await client.send(b"".join(post % (n, n, b"x" * n) for n in (3, 0, 5)))
    for n in (3, 0, 5):
        assert await client.head() == b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % n
        assert await client.exactly(n) == b"x" * n


async def test_what_is_forwarded_is_written_anew(lab: Lab) -> None:
    seen: list[bytes] = []

    async def keep(wire: Wire) -> None:
        seen.append(await wire.head())
        await wire.send(
            b"HTTP/1.1 200 Fine\r\nKeep-Alive: timeout=5\r\nX-A:  1 \r\nConnection: X-B\r\n"
            b"X-B: 2\r\nContent-Length: 0\r\n\r\n"
        )

    client = await lab.client(keep)
    await client.send(
        b"\r\nGET /%7e HTTP/1.1\r\nhost:h\r\nConnection: X-C\r\nX-C: 1\r\nTE: trailers\r\n"
        b"upgrade: h2c\r\nX-D:\t2\r\n\r\n"
    )
    assert await client.head() == b"HTTP/1.1 200 Fine\r\nX-A: 1\r\nContent-Length: 0\r\n\r\n"
    assert seen == [
        b"GET /%7e HTTP/1.1\r\nhost: h\r\nX-D: 2\r\nTE: trailers\r\nConnection: TE\r\n\r\n"
    ]


async def test_chunks_pass_both_ways_as_they_come(lab: Lab) -> None:
    async def echo(wire: Wire) -> None:
        await wire.head()
        await wire.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        for chunk in (b"3\r\nabc\r\n", b"2\r\nde\r\n"):
            assert await wire.exactly(len(chunk)) == chunk
            await wire.send(chunk)
        assert await wire.exactly(16) == b"0\r\nDigest: q\r\n\r\n"
        await wire.send(b"0\r\nDigest: a\r\nContent-Length: 1\r\n\r\n")

    client = await lab.client(echo)
    await client.send(CHUNKED_POST)
    assert b"Transfer-Encoding: chunked" in await client.head()
    await client.send(b"3;ext=1\r\nabc\r\n")
    assert await client.exactly(8) == b"3\r\nabc\r\n"
    await client.send(b"2\r\nde\r\n")
    assert await client.exactly(7) == b"2\r\nde\r\n"
    await client.send(b"0\r\nDigest: q\r\nHost: x\r\n\r\n")
    assert await client.exactly(16) == b"0\r\nDigest: a\r\n\r\n"
    done = await lab.outcome()
    assert isinstance(done, Exchanged)
    assert (done.sent_bytes, done.received_bytes) == (5, 5)


@pytest.mark.parametrize(
    ("request_line", "answer", "expected"),
    [
        (b"HEAD / HTTP/1.1", b"200 OK\r\nContent-Length: 9", b"200 OK\r\nContent-Length: 9"),
        (b"HEAD / HTTP/1.1", b"200 OK\r\nTransfer-Encoding: chunked", b"200 OK"),
        (b"GET / HTTP/1.1", b"204 No Content\r\nContent-Length: 0", b"204 No Content"),
        (b"GET / HTTP/1.1", b"304 Not\r\nContent-Length: 9", b"304 Not\r\nContent-Length: 9"),
    ],
)
async def test_answers_without_a_body_leave_the_connections_usable(
    lab: Lab, request_line: bytes, answer: bytes, expected: bytes
) -> None:
    async def bodiless(wire: Wire) -> None:
        while True:
            await wire.head()
            await wire.send(b"HTTP/1.1 " + answer + b"\r\n\r\n")

    client = await lab.client(bodiless)
    for _ in range(2):
        await client.send(request_line + b"\r\nHost: h\r\n\r\n")
        assert await client.head() == b"HTTP/1.1 " + expected + b"\r\n\r\n"
    assert lab.accepted == 1


async def test_a_body_waits_for_the_upstreams_100(lab: Lab) -> None:
    async def patient(wire: Wire) -> None:
        assert b"Expect: 100-continue" in await wire.head()
        await wire.send(b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n")
        await wire.send(b"HTTP/1.1 100 Continue\r\n\r\n")
        assert await wire.exactly(3) == b"abc"
        await wire.send(OK)
        await hello(wire)

    client = await lab.client(patient)
    await client.send(
        b"PUT / HTTP/1.1\r\nHost: h\r\nExpect: 100-continue\r\nContent-Length: 3\r\n\r\n"
    )
    assert await client.head() == b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n"
    assert await client.head() == b"HTTP/1.1 100 Continue\r\n\r\n"
    await client.send(b"abc" + GET)
    for _ in range(2):
        assert await client.head() == b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n"
        assert await client.exactly(2) == b"ok"
    assert lab.accepted == 1


@pytest.mark.parametrize("late", [b"", b"HTTP/1.1 100 Continue\r\n\r\n"])
async def test_a_client_does_not_wait_for_ever_for_a_100_that_never_comes(
    lab: Lab, monkeypatch: pytest.MonkeyPatch, late: bytes
) -> None:
    module = import_module("overlay.http.exchange")  # by attributes it would be the function
    monkeypatch.setattr(module, "CONTINUE_AFTER_S", 0.01)

    async def old(wire: Wire) -> None:
        await wire.head()
        assert await wire.exactly(3) == b"abc"
        await wire.send(late + OK)

    client = await lab.client(old)
    await client.send(
        b"PUT / HTTP/1.1\r\nHost: h\r\nExpect: 100-continue\r\nContent-Length: 3\r\n\r\n"
    )
    assert await client.head() == b"HTTP/1.1 100 Continue\r\n\r\n"
    await client.send(b"abc")
    assert (await client.head()).startswith(b"HTTP/1.1 200 OK\r\n")


async def test_a_final_answer_instead_of_100_leaves_the_body_unread(lab: Lab) -> None:
    async def unwilling(wire: Wire) -> None:
        await wire.head()
        await wire.send(b"HTTP/1.1 417 No\r\nContent-Length: 0\r\n\r\n")
        assert await wire.ended()

    client = await lab.client(unwilling)
    await client.send(
        b"PUT / HTTP/1.1\r\nHost: h\r\nExpect: 100-continue\r\nContent-Length: 3\r\n\r\n"
    )
    head = await client.head()
    assert head.startswith(b"HTTP/1.1 417 No\r\n")
    assert b"Connection: close" in head
    assert await client.ended()
    done = await lab.outcome()
    assert isinstance(done, Exchanged)
    assert done.received_bytes == 0


async def test_an_early_answer_stops_the_upload_and_reaches_the_client(lab: Lab) -> None:
    async def full(wire: Wire) -> None:
        await wire.head()
        await wire.send(b"HTTP/1.1 413 Too Large\r\nContent-Length: 2\r\n\r\nno")
        with suppress(trio.BrokenResourceError):
            await wire.rest()

    client = await lab.client(full)
    await client.send(b"PUT / HTTP/1.1\r\nHost: h\r\nContent-Length: 1000000000\r\n\r\nstart")
    assert b"Connection: close" in await client.head()
    assert await client.rest() == b"no"
    await lab.outcome()
    assert lab.pools[0].idle == 0


async def test_an_answer_with_unknown_end_is_chunked_for_http_1_1(lab: Lab) -> None:
    async def old(wire: Wire) -> None:
        await wire.head()
        await wire.send(b"HTTP/1.0 200 OK\r\n\r\nsome")
        await wire.send(b"thing")

    client = await lab.client(old)
    for _ in range(2):
        await client.send(GET)
        assert b"Transfer-Encoding: chunked" in await client.head()
        body = await client.until(b"0\r\n\r\n")
        assert b"".join(body.split(b"\r\n")[1::2]) == b"something"
    assert lab.accepted == 2


@pytest.mark.parametrize("framing", [b"Transfer-Encoding: chunked", b"X: until-close"])
async def test_a_client_of_http_1_0_gets_no_chunks(lab: Lab, framing: bytes) -> None:
    async def answer(wire: Wire) -> None:
        assert await wire.head() == b"GET / HTTP/1.1\r\nHost: h\r\n\r\n"
        chunked = framing.startswith(b"T")
        body = b"2\r\nok\r\n0\r\nDigest: x\r\n\r\n" if chunked else b"ok"
        await wire.send(b"HTTP/1.1 103 Early\r\n\r\nHTTP/1.1 200 OK\r\n%b\r\n\r\n" % framing + body)

    client = await lab.client(answer)
    await client.send(b"GET / HTTP/1.0\r\nHost: h\r\nConnection: keep-alive\r\n\r\n")
    head = await client.head()
    assert head.startswith(b"HTTP/1.1 200 OK")
    assert b"chunked" not in head
    assert b"Connection: close" in head
    assert await client.rest() == b"ok"


async def test_a_client_of_http_1_0_may_keep_its_connection(lab: Lab) -> None:
    client = await lab.client(hello)
    for _ in range(2):
        await client.send(b"GET / HTTP/1.0\r\nHost: h\r\nConnection: keep-alive\r\n\r\n")
        assert b"Connection: keep-alive" in await client.head()
        assert await client.exactly(2) == b"ok"
    await client.send(b"GET / HTTP/1.0\r\nHost: h\r\n\r\n")
    assert b"Connection: close" in await client.head()
    assert await client.rest() == b"ok"


async def test_an_upstream_that_dies_before_it_answers_is_a_failure_to_retry(lab: Lab) -> None:
    async def die(wire: Wire) -> None:
        await wire.head()

    client = await lab.client(die)
    await client.send(GET)
    assert (await client.head()).startswith(b"HTTP/1.1 502")
    failed = await lab.outcome()
    assert isinstance(failed, UpstreamFailed)
    assert failed.maybe_processed
    told = (failed.malformed, failed.sent_any_body, failed.reused, failed.timed_out)
    assert not any(told)
    await client.until(b"upstream\n")
    await client.send(GET)
    assert (await client.head()).startswith(b"HTTP/1.1 502")


@pytest.mark.parametrize(
    "answer",
    [b"nonsense\r\n\r\n", b"220 smtp\r\n", b"HTTP/1.1 200 OK\r\nX : y\r\n\r\n",
     b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
     b"HTTP/1.1 101 Switching\r\nUpgrade: x\r\n\r\n", b"HTTP/1.1 100 Go\r\n\r\n" * 40,
     b"HTTP/1.1 200 OK\r\nX: " + b"y" * 70000],
)  # fmt: skip
async def test_a_malformed_answer_is_told_from_a_lost_connection(lab: Lab, answer: bytes) -> None:
    async def malform(wire: Wire) -> None:
        await wire.head()
        await wire.send(answer)
        await wire.ended()

    client = await lab.client(malform)
    await client.send(GET)
    failed = await lab.outcome()
    assert isinstance(failed, UpstreamFailed)
    assert failed.malformed
    assert b"HTTP/1.1 502" in await client.until(b"upstream\n")


async def test_an_upstream_that_says_nothing_times_out(lab: Lab) -> None:
    async def silent(wire: Wire) -> None:
        await wire.ended()

    client = await lab.client(silent, head_timeout_s=0.2)
    await client.send(GET)
    assert (await client.head()).startswith(b"HTTP/1.1 504")
    failed = await lab.outcome()
    assert isinstance(failed, UpstreamFailed)
    assert failed.timed_out


@pytest.mark.parametrize(
    "partial",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\nzz\r\n",
    ],
)
async def test_an_upstream_that_dies_in_its_answer_cuts_the_client(
    lab: Lab, partial: bytes
) -> None:
    async def half(wire: Wire) -> None:
        await wire.head()
        await wire.send(partial[:-4])
        await lab_saw_head.wait()
        await wire.send(partial[-4:])

    lab_saw_head = trio.Event()
    client = await lab.client(half)
    await client.send(GET)
    await client.head()
    lab_saw_head.set()
    with suppress(trio.BrokenResourceError):
        assert not (await client.rest()).endswith(b"0\r\n\r\n")
    cut = await lab.outcome()
    assert isinstance(cut, ResponseCut)
    assert cut.status == 200


@pytest.mark.parametrize("known", [b"", b"half"])
async def test_a_small_answer_that_breaks_off_fails_as_if_it_had_not_begun(
    lab: Lab, known: bytes
) -> None:
    async def half(wire: Wire) -> None:
        await wire.head()
        await wire.send(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n" + known)

    client = await lab.client(half)
    await client.send(GET)
    assert (await client.head()).startswith(b"HTTP/1.1 502")
    failed = await lab.outcome()
    assert isinstance(failed, UpstreamFailed)
    assert "in the midst" in failed.reason
    assert not failed.malformed


async def test_a_small_answer_in_parts_is_passed_on_in_one_and_its_connection_kept(
    lab: Lab,
) -> None:
    async def in_parts(wire: Wire) -> None:
        while True:
            try:
                await wire.head()
            except EOFError:
                return
            for part in (b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n", b"four", b"-five"):
                await wire.send(part)
                await trio.testing.wait_all_tasks_blocked()

    client = await lab.client(in_parts)
    for _ in range(2):
        await client.send(GET)
        assert (await client.head()).startswith(b"HTTP/1.1 200")
        assert await client.exactly(9) == b"four-five"
    assert lab.accepted == 1


async def test_a_small_answer_that_pauses_is_passed_on_as_far_as_it_is_there(lab: Lab) -> None:
    seen = trio.Event()

    async def pausing(wire: Wire) -> None:
        await wire.head()
        await wire.send(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nfour")
        await seen.wait()
        await wire.send(b"-five")

    client = await lab.client(pausing)
    await client.send(GET)
    await client.head()
    assert await client.exactly(4) == b"four"
    seen.set()
    assert await client.exactly(5) == b"-five"


async def test_a_cut_answer_is_no_clean_end_where_the_end_is_the_frame(lab: Lab) -> None:
    saw_head = trio.Event()

    async def half(wire: Wire) -> None:
        await wire.head()
        await wire.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n")
        await saw_head.wait()

    client = await lab.client(half)
    await client.send(b"GET / HTTP/1.0\r\nHost: h\r\n\r\n")
    await client.head()
    assert await client.exactly(4) == b"half"
    saw_head.set()
    with pytest.raises(trio.BrokenResourceError):
        await client.rest()


@asynccontextmanager
async def waiting_upstream(lab: Lab) -> AsyncIterator[tuple[Wire, trio.Event, trio.Event]]:
    """An upstream that never answers; events for its request and its connection's end."""
    asked, ended = trio.Event(), trio.Event()

    async def wait(wire: Wire) -> None:
        await wire.head()
        asked.set()
        await wire.ended()
        ended.set()

    client = await lab.client(wait)
    yield client, asked, ended


@pytest.mark.parametrize("leave", ["close", "reset"])
async def test_a_client_that_leaves_frees_a_slow_upstream(lab: Lab, leave: str) -> None:
    async with waiting_upstream(lab) as (client, asked, ended):
        await client.send(GET)
        await asked.wait()
        if leave == "close":
            await client.aclose()
        else:
            reset(client)
        await ended.wait()
        assert isinstance(await lab.outcome(), ClientGone)


async def test_a_client_that_leaves_during_its_upload_frees_the_upstream(lab: Lab) -> None:
    async with waiting_upstream(lab) as (client, asked, ended):
        await client.send(CHUNKED_POST + b"3\r\nabc\r\n")
        await asked.wait()
        await client.aclose()
        await ended.wait()
        assert isinstance(await lab.outcome(), ClientGone)


async def test_a_client_that_leaves_after_its_upload_frees_the_upstream(lab: Lab) -> None:
    async with waiting_upstream(lab) as (client, asked, ended):
        await client.send(CHUNKED_POST)
        await asked.wait()
        await client.send(b"0\r\n\r\n")
        await client.aclose()
        await ended.wait()
        assert isinstance(await lab.outcome(), ClientGone)


async def test_a_client_that_only_ended_its_direction_is_answered(lab: Lab) -> None:
    release = trio.Event()

    async def slow(wire: Wire) -> None:
        await wire.head()
        await release.wait()
        await wire.send(OK)

    client = await lab.client(slow)
    await client.send(GET)
    await client.stream.send_eof()
    assert await client.head() == b"HTTP/1.1 100 Continue\r\n\r\n"
    release.set()
    assert await client.head() == b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n"
    assert await client.rest() == b"ok"


async def test_a_request_pipelined_behind_a_slow_one_is_kept(lab: Lab) -> None:
    asked, release = trio.Event(), trio.Event()

    async def slow(wire: Wire) -> None:
        await wire.head()
        asked.set()
        await release.wait()
        await wire.send(OK)
        await hello(wire)

    client = await lab.client(slow)
    await client.send(GET)
    await asked.wait()
    await client.send(GET)
    await trio.sleep(0.1)  # past the moment from which the client is watched
    release.set()
    for _ in range(2):
        await client.head()
        assert await client.exactly(2) == b"ok"


@pytest.mark.parametrize("body", [b"zz\r\n", b"3\r\nabcd", b"3\r\nabc\r\n0\r\nX : y\r\n\r\n"])
async def test_a_malformed_upload_is_the_clients_fault(lab: Lab, body: bytes) -> None:
    async with waiting_upstream(lab) as (client, asked, ended):
        await client.send(CHUNKED_POST)
        await asked.wait()
        await client.send(body)
        assert (await client.head()).startswith(b"HTTP/1.1 400")
        await ended.wait()
        assert isinstance(await lab.outcome(), BadRequest)


async def test_an_upload_that_stalls_ends_with_408(lab: Lab) -> None:
    async def wait(wire: Wire) -> None:
        await wire.ended()

    client = await lab.client(wait, limits=Limits(body_timeout_s=0.1))
    await client.send(CHUNKED_POST + b"3\r\nab")
    assert (await client.head()).startswith(b"HTTP/1.1 408")


async def drip(client: Wire) -> bytes:
    """Send a chunk of one byte now and then, never silent for long; return the answer's head."""
    async with trio.open_nursery() as nursery:

        async def on() -> None:
            with suppress(trio.BrokenResourceError):
                while True:
                    await client.send(b"1\r\nx\r\n")
                    await trio.sleep(0.02)

        nursery.start_soon(on)
        head = await client.head()
        nursery.cancel_scope.cancel()
    return head


async def test_an_upload_that_drips_ends_with_408(lab: Lab) -> None:
    async def wait(wire: Wire) -> None:
        await wire.ended()

    client = await lab.client(wait, limits=Limits(body_timeout_s=0.2))
    await client.send(CHUNKED_POST)
    assert (await drip(client)).startswith(b"HTTP/1.1 408")
    assert b"240 bytes a second" in await client.rest()


@pytest.mark.parametrize("grpc", [True, False])
async def test_a_stream_may_drip(lab: Lab, grpc: bool) -> None:
    """A call of gRPC may, and what goes on after its answer has begun."""
    enough = trio.Event()

    async def talk(wire: Wire) -> None:
        await wire.until(b"\r\n\r\n")
        if not grpc:
            await wire.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\n1\r\n")
        for _ in range(30):
            await wire.until(b"x\r\n")
        await wire.send(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n" if grpc else b"0\r\n\r\n")
        enough.set()
        await wire.ended()

    client = await lab.client(talk, limits=Limits(body_timeout_s=0.2))
    kind = b"Content-Type: application/grpc\r\n" if grpc else b""
    await client.send(CHUNKED_POST.replace(b"\r\n\r\n", b"\r\n" + kind + b"\r\n"))
    assert (await drip(client)).startswith(b"HTTP/1.1 200")
    while not enough.is_set():
        await client.send(b"1\r\nx\r\n")
        await trio.sleep(0.02)


async def test_a_stream_that_stalls_ends(lab: Lab) -> None:
    async def wait(wire: Wire) -> None:
        await wire.ended()

    client = await lab.client(wait, limits=Limits(stream_timeout_s=0.1))
    kind = b"\r\nContent-Type: application/grpc\r\n\r\n"
    await client.send(CHUNKED_POST.replace(b"\r\n\r\n", kind))
    assert (await client.head()).startswith(b"HTTP/1.1 408")


async def test_large_bodies_pass_in_bounded_memory(lab: Lab) -> None:
    size = 64 * 1024 * 1024
    block = bytes(256 * 1024)
    taken = 0

    async def echo(wire: Wire) -> None:
        nonlocal taken
        await wire.head()
        await wire.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size)
        left = size
        while left:
            data = await wire.stream.receive_some()
            left -= len(data)
            taken += len(data)
            await wire.send(data)

    client = await lab.client(echo)
    await client.send(b"PUT / HTTP/1.1\r\nHost: h\r\nContent-Length: %d\r\n\r\n" % size)
    sent = received = 0

    async def upload() -> None:
        nonlocal sent
        for _ in range(size // len(block)):
            await client.send(block)
            sent += len(block)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(upload)
        await client.head()
        await trio.testing.wait_all_tasks_blocked(0.2)
        # Nobody reads the answer: what is under way sits in socket buffers and in one read a way.
        assert sent < size
        while received < size:
            received += len(await client.stream.receive_some())
    done = await lab.outcome()
    assert isinstance(done, Exchanged)
    assert (done.sent_bytes, done.received_bytes, taken) == (size, size, size)


class CountingStream(trio.abc.Stream):
    """Answers a request with `size` zero bytes and counts what one side has and the other not."""

    def __init__(self, size: int) -> None:
        self.left = size
        self.head = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size
        self.given = 0
        self.taken = 0

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        await trio.lowlevel.checkpoint()
        data, self.head = self.head, b""
        if not data:
            data = bytes(min(self.left, max_bytes or 1))
            self.left -= len(data)
            self.given += len(data)
        return data

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        await trio.lowlevel.checkpoint()
        self.taken += len(data)

    async def wait_send_all_might_not_block(self) -> None:
        await trio.lowlevel.checkpoint()

    async def aclose(self) -> None:
        await trio.lowlevel.checkpoint()


class SlowClient(CountingStream):
    """Asks once, and notes how far the upstream is ahead of what it has been sent."""

    def __init__(self, upstream: CountingStream) -> None:
        super().__init__(0)
        self.head = GET
        self.upstream = upstream
        self.most_held = 0

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        self.most_held = max(self.most_held, self.upstream.given - self.taken)
        await super().send_all(data)


async def test_a_direction_holds_one_read_at_most() -> None:
    upstream = CountingStream(64 * 1024 * 1024)
    slow = SlowClient(upstream)
    client = ServerConnection(slow)
    head = await client.read_head()
    assert head is not None
    await exchange(
        client, head, UpstreamConnection(upstream), request_headers=(), edit_response=end_to_end
    )
    assert slow.taken >= 64 * 1024 * 1024
    assert slow.most_held <= READ_BYTES


async def test_a_refusal_by_the_editor_leaves_client_and_upstream_usable(lab: Lab) -> None:
    class Elsewhere(Exception):
        pass

    port = await lab.upstream(hello)

    async def dial() -> trio.SocketStream:
        return await lab.dial(port)

    pool = Pool(dial)

    def refuse(head: ResponseHead) -> list[Field]:
        raise Elsewhere

    async def serve(stream: trio.SocketStream) -> None:
        client = ServerConnection(stream)
        head = await client.read_head()
        assert head is not None
        sent = end_to_end(head)
        with pytest.raises(Elsewhere):
            async with pool.acquire() as upstream:
                await exchange(client, head, upstream, request_headers=sent, edit_response=refuse)
        assert client.body.replayable
        async with pool.acquire() as upstream:
            await exchange(client, head, upstream, request_headers=sent, edit_response=end_to_end)
        await client.aclose()

    async def with_body(wire: Wire) -> None:
        await wire.send(b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 0\r\n\r\n")

    client = Wire(await lab.dial(await lab.listen(serve)))
    await with_body(client)
    await client.head()
    assert await client.exactly(2) == b"ok"
    assert lab.accepted == 1


@pytest.mark.parametrize("at_once", [True, False])
async def test_a_small_body_is_sent_again_to_the_next_upstream(lab: Lab, at_once: bool) -> None:
    asked = trio.Event()

    async def die(wire: Wire) -> None:
        await wire.head()
        asked.set()
        await wire.exactly(5)

    async def take(wire: Wire) -> None:
        assert b"Content-Length: 5" in await wire.head()
        assert await wire.exactly(5) == b"hello"
        await wire.send(OK)

    ports = [await lab.upstream(die), await lab.upstream(take)]
    failures: list[UpstreamFailed] = []

    async def serve(stream: trio.SocketStream) -> None:
        client = ServerConnection(stream)
        head = await client.read_head()
        assert head is not None
        for port in ports:
            upstream = UpstreamConnection(await lab.dial(port))
            try:
                await exchange(
                    client,
                    head,
                    upstream,
                    request_headers=end_to_end(head),
                    edit_response=end_to_end,
                )
            except UpstreamFailed as exc:
                failures.append(exc)
            await upstream.abort()
        await client.aclose()

    client = Wire(await lab.dial(await lab.listen(serve)))
    await client.send(b"PUT / HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\n\r\n")
    if not at_once:
        await asked.wait()
    await client.send(b"hello")
    await client.head()
    assert await client.exactly(2) == b"ok"
    assert [failed.sent_any_body for failed in failures] == [True]


async def test_a_large_body_is_not_sent_twice(lab: Lab) -> None:
    async def die(wire: Wire) -> None:
        await wire.head()
        await wire.exactly(200_000)

    client_seen: list[bool] = []
    port = await lab.upstream(die)

    async def serve(stream: trio.SocketStream) -> None:
        client = ServerConnection(stream)
        head = await client.read_head()
        assert head is not None
        for _ in range(2):
            upstream = UpstreamConnection(await lab.dial(port))
            with pytest.raises((UpstreamFailed, ValueError)):
                await exchange(
                    client,
                    head,
                    upstream,
                    request_headers=end_to_end(head),
                    edit_response=end_to_end,
                )
            client_seen.append(client.body.replayable)
            await upstream.abort()
        await client.respond(502)
        await client.aclose()

    client = Wire(await lab.dial(await lab.listen(serve)))
    await client.send(b"PUT / HTTP/1.1\r\nHost: h\r\nContent-Length: 200000\r\n\r\n")
    await client.send(bytes(200_000))
    assert (await client.head()).startswith(b"HTTP/1.1 502")
    assert client_seen == [False, False]


async def test_an_upload_that_goes_wrong_under_its_answer_cuts_it(lab: Lab) -> None:
    async def eager(wire: Wire) -> None:
        await wire.head()
        await wire.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n")
        await wire.ended()

    client = await lab.client(eager)
    await client.send(CHUNKED_POST)
    await client.head()
    await client.send(b"zz\r\n")
    assert b"HTTP/1.1 400" not in await client.until(b"ok\r\n")
    assert await client.ended()
    assert isinstance(await lab.outcome(), ResponseCut)


async def test_a_client_that_takes_nothing_is_given_up(lab: Lab) -> None:
    async def pour(wire: Wire) -> None:
        await wire.head()
        with suppress(trio.BrokenResourceError):
            await wire.send(b"HTTP/1.1 200 OK\r\n\r\n")
            while True:
                await wire.send(bytes(100_000))

    client = await lab.client(pour, limits=Limits(send_timeout_s=0.2))
    await client.send(GET)
    assert isinstance(await lab.outcome(), ClientGone)


async def test_a_cancelled_exchange_leaves_no_clean_end(lab: Lab) -> None:
    async def stall(wire: Wire) -> None:
        await wire.head()
        await wire.send(b"HTTP/1.1 200 OK\r\n\r\nhalf")
        await wire.ended()

    port = await lab.upstream(stall)
    scope = trio.CancelScope()

    async def serve(stream: trio.SocketStream) -> None:
        client = ServerConnection(stream)
        head = await client.read_head()
        assert head is not None
        with scope:
            async with Pool(lambda: lab.dial(port)).acquire() as upstream:
                await exchange(
                    client,
                    head,
                    upstream,
                    request_headers=end_to_end(head),
                    edit_response=end_to_end,
                )
        await client.aclose()

    client = Wire(await lab.dial(await lab.listen(serve)))
    await client.send(b"GET / HTTP/1.0\r\nHost: h\r\n\r\n")
    await client.until(b"half")
    scope.cancel()
    with pytest.raises(trio.BrokenResourceError):
        await client.rest()
