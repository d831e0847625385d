from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial

import pytest
import trio
from h2.errors import ErrorCodes
from h2.events import RequestReceived, StreamReset
from h2.settings import SettingCodes

from overlay.errors import PeerUnreachable
from overlay.http import (
    Exchanged,
    Pool,
    RequestHead,
    ResponseHead,
    ServerConnection,
    UpstreamFailed,
    end_to_end,
    exchange,
)
from overlay.http.h2_frames import goaway
from overlay.http.h2_server import ServerStream, serve_http2
from overlay.http.h2_upstream import StreamPool, UpstreamStream
from overlay.http.head import CHUNKED, NO_BODY, Field, parse_request_head
from overlay.http.seam import Client, Source
from overlay.http.testing import Lab, Wire
from overlay.http.testing_h2 import Http2Wire, get_fields
from overlay.http.transport import transport

Handler = Callable[[ServerStream, RequestHead], Awaitable[None]]
Raw = Callable[[Http2Wire], Awaitable[None]]
ASKED = parse_request_head(b"GET /a HTTP/1.1\r\nHost: h\r\n\r\n")


async def echo(stream: ServerStream, head: RequestHead) -> None:
    body = b"".join([data async for data in stream.body])
    fields = [(b"X-Path", head.target), *((b"X-" + n, v) for n, v in head.headers)]
    await stream.start_response(200, b"", fields, CHUNKED, body, trailers=stream.body.trailers)


@dataclass
class Hop:
    """A proxy of this package's parts: clients of either version before it, an instance behind."""

    lab: Lab
    pool: Source
    stopping: trio.Event = field(default_factory=trio.Event)
    outcomes: list[Exchanged | Exception] = field(default_factory=list)

    async def answer(self, client: Client, head: RequestHead) -> None:
        try:
            async with self.pool.acquire() as upstream:
                done = await exchange(
                    client,
                    head,
                    upstream,
                    request_headers=end_to_end(head),
                    edit_response=end_to_end,
                )
            self.outcomes.append(done)
        except UpstreamFailed as exc:
            self.outcomes.append(exc)
            await client.respond(502, [], exc.reason.encode())

    async def http2(self) -> Http2Wire:
        async def serve(stream: trio.SocketStream) -> None:
            await serve_http2(transport(stream), self.answer, stopping=self.stopping)

        wire = Http2Wire(await self.lab.dial(await self.lab.listen(serve)))
        await wire.start()
        return wire

    async def http1(self) -> Wire:
        async def serve(stream: trio.SocketStream) -> None:
            client = ServerConnection(stream)
            try:
                while (head := await client.read_head()) is not None:
                    await self.answer(client, head)
            finally:
                await client.aclose()

        return Wire(await self.lab.dial(await self.lab.listen(serve)))


async def pool_to(lab: Lab, handler: Handler, *, stopping: trio.Event | None = None) -> StreamPool:
    """Return a pool to an instance that speaks HTTP/2."""

    async def serve(stream: trio.SocketStream) -> None:
        lab.accepted += 1
        await serve_http2(transport(stream), handler, stopping=stopping or trio.Event())

    return StreamPool(partial(lab.dial, await lab.listen(serve)), lab.nursery)


async def raw_pool(lab: Lab, handler: Raw) -> StreamPool:
    """Return a pool to a server that is played frame by frame."""

    async def serve(stream: trio.SocketStream) -> None:
        lab.accepted += 1
        wire = Http2Wire(stream, client=False)
        async with stream:
            await wire.start()
            with suppress(EOFError, trio.BrokenResourceError):
                await handler(wire)

    return StreamPool(partial(lab.dial, await lab.listen(serve)), lab.nursery)


async def ask(upstream: UpstreamStream, head: RequestHead = ASKED) -> None:
    await upstream.send_request(
        head.method, head.target, end_to_end(head), NO_BODY, b"", trailers=()
    )


async def answer_of(upstream: UpstreamStream) -> tuple[ResponseHead, bytes]:
    while (head := upstream.take_head(b"", b"GET")) is None:
        assert await upstream.receive()
    body = upstream.take_body()
    while not upstream.body.done:
        body += upstream.take_body(await upstream.receive())
    return head, body


async def test_clients_of_http1_reach_a_server_of_http2(lab: Lab) -> None:
    client = await Hop(lab, await pool_to(lab, echo)).http1()
    await client.send(
        b"POST /a?b HTTP/1.1\r\nHost: h\r\nTE: trailers\r\nConnection: TE\r\n"
        b"Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\nsum: 5\r\n\r\n"
    )
    head = await client.head()
    assert head.startswith(b"HTTP/1.1 200 OK\r\n")
    assert b"x-path: /a?b\r\n" in head
    assert b"x-host: h\r\n" in head
    assert b"Transfer-Encoding: chunked\r\n" in head
    assert await client.until(b"\r\n\r\n") == b"5\r\nhello\r\n0\r\nsum: 5\r\n\r\n"


async def test_clients_of_http2_reach_a_server_of_http1(lab: Lab) -> None:
    async def instance(wire: Wire) -> None:
        while True:
            head = await wire.head()
            assert head.startswith(b"POST /x HTTP/1.1\r\nhost: localhost\r\n")
            assert await wire.until(b"0\r\n\r\n") == b"2\r\nhi\r\n0\r\n\r\n"
            await wire.send(
                b"HTTP/1.1 200 Fine\r\nConnection: keep-alive\r\nTransfer-Encoding: chunked\r\n\r\n"
                b"2\r\nho\r\n0\r\nx-sum: 2\r\n\r\n"
            )

    pool = Pool(partial(lab.dial, await lab.upstream(instance)))
    wire = await Hop(lab, pool).http2()
    for _ in range(2):
        number = await wire.request(get_fields(b"/x", method=b"POST"), b"hi")
        assert await wire.answer(number) == (200, [], b"ho", [(b"x-sum", b"2")])
    assert lab.accepted == 1


async def test_both_directions_go_on_at_once_through_two_hops(lab: Lab) -> None:
    async def talk(stream: ServerStream, head: RequestHead) -> None:
        await stream.start_response(200, b"", [], CHUNKED, b"")
        async for data in stream.body:
            await stream.send_body(data.upper())
        await stream.send_body(b"", trailers=[(b"grpc-status", b"0")])

    behind = Hop(lab, await pool_to(lab, talk))

    async def gateway(stream: trio.SocketStream) -> None:
        client = ServerConnection(stream)
        while (head := await client.read_head()) is not None:
            await behind.answer(client, head)
        await client.aclose()

    between = Pool(partial(lab.dial, await lab.listen(gateway)))
    wire = await Hop(lab, between).http2()
    number = await wire.request(get_fields(method=b"POST"), end=False)
    for word in (b"one", b"two", b"three"):
        before = len(wire.body(number))
        await wire.data(number, word)
        await wire.until_true(lambda: len(wire.body(number)) > before)  # noqa: B023
    await wire.data(number, b"", end=True)
    _, _, body, trailers = await wire.answer(number)
    assert (body, trailers) == (b"ONETWOTHREE", [(b"grpc-status", b"0")])


async def test_requests_share_one_connection_and_another_is_opened_when_it_is_full(
    lab: Lab,
) -> None:
    let_go = trio.Event()

    async def serve(wire: Http2Wire) -> None:
        wire.h2.update_settings({SettingCodes.MAX_CONCURRENT_STREAMS: 2})
        await wire.flush()
        answered: set[int] = set()
        while True:
            await wire.receive()
            if not let_go.is_set():
                continue
            for event in wire.events:
                if isinstance(event, RequestReceived) and event.stream_id not in answered:
                    answered.add(event.stream_id)
                    wire.h2.send_headers(event.stream_id, [(b":status", b"204")], end_stream=True)
            await wire.flush()

    pool = await raw_pool(lab, serve)
    async with pool.acquire() as first:
        await ask(first)
        assert await first.receive(0.2) is None  # its settings have come by then
        async with pool.acquire() as second:
            await ask(second)
            assert pool.open == 1
            async with pool.acquire() as third:
                let_go.set()
                await ask(third)
                assert (await answer_of(third))[0].status == 204
            assert pool.open == 2


async def test_a_request_that_is_given_up_is_reset_at_the_server_and_no_other(lab: Lab) -> None:
    began, ended = trio.Event(), trio.Event()

    async def handler(stream: ServerStream, head: RequestHead) -> None:
        if head.target == b"/long":
            await stream.start_response(200, b"", [], CHUNKED, b"began")
            began.set()
            try:
                await trio.sleep_forever()
            finally:
                ended.set()
        await stream.respond(200, [], b"ok")

    hop = Hop(lab, await pool_to(lab, handler))
    wire = await hop.http2()
    number = await wire.request(get_fields(b"/long"))
    await wire.until_true(lambda: wire.body(number) == b"began")
    wire.h2.reset_stream(number, ErrorCodes.CANCEL)
    await wire.flush()
    await ended.wait()
    assert (await wire.answer(await wire.request(get_fields())))[2] == b"ok"
    assert lab.accepted == 1


@pytest.mark.parametrize("code", [ErrorCodes.REFUSED_STREAM, ErrorCodes.INTERNAL_ERROR])
async def test_a_stream_that_the_server_resets_fails_alone_and_says_if_it_was_looked_at(
    lab: Lab, code: ErrorCodes
) -> None:
    async def refuse(wire: Http2Wire) -> None:
        event = await wire.until(RequestReceived)
        wire.h2.reset_stream(event.stream_id, code)
        await wire.flush()
        await wire.ended()

    hop = Hop(lab, await raw_pool(lab, refuse))
    wire = await hop.http2()
    assert (await wire.answer(await wire.request(get_fields())))[0] == 502
    (failure,) = hop.outcomes
    assert isinstance(failure, UpstreamFailed)
    assert failure.alone
    assert failure.maybe_processed == (code is ErrorCodes.INTERNAL_ERROR)


async def test_a_server_that_takes_too_long_does_not_fail_alone(lab: Lab) -> None:
    async def silent(wire: Http2Wire) -> None:
        await wire.ended()

    async with (await raw_pool(lab, silent)).acquire() as upstream:
        await ask(upstream)
        assert await upstream.receive(0.02) is None
        assert not upstream.alone


async def test_a_server_that_leaves_answers_what_it_took_and_the_rest_goes_elsewhere(
    lab: Lab,
) -> None:
    async def leave(wire: Http2Wire) -> None:
        await wire.until(RequestReceived, 1)
        await wire.until(RequestReceived, 3)
        await wire.send_raw(goaway(1, ErrorCodes.NO_ERROR))
        wire.h2.send_headers(1, [(b":status", b"200")])
        wire.h2.send_data(1, b"last", end_stream=True)
        await wire.flush()
        await wire.ended()

    pool = await raw_pool(lab, leave)
    async with pool.acquire() as first, pool.acquire() as second:
        await ask(first)
        await ask(second)
        assert (await answer_of(first))[1] == b"last"
        with pytest.raises(trio.BrokenResourceError):
            await second.receive()
        assert second.refused
        async with pool.acquire() as third:
            assert not third.reused
    assert lab.accepted == 2


async def test_a_server_of_http1_is_told_apart(lab: Lab) -> None:
    async def http1(stream: trio.SocketStream) -> None:
        async with stream:
            await stream.receive_some()
            await stream.send_all(b"HTTP/1.1 400 Bad Request\r\n\r\n")

    pool = StreamPool(partial(lab.dial, await lab.listen(http1)), lab.nursery)
    hop = Hop(lab, pool)
    wire = await hop.http2()
    assert (await wire.answer(await wire.request(get_fields())))[0] == 502
    (failure,) = hop.outcomes
    assert isinstance(failure, UpstreamFailed)
    assert failure.malformed


@pytest.mark.parametrize(
    "fields",
    [
        [(b":status", b"200"), (b"x", b"a\r\nb: c")],
        [(b":status", b"200"), (b"connection", b"close")],
        [(b":status", b"2000")],
    ],
)
async def test_a_malformed_answer_reaches_nobody(lab: Lab, fields: Sequence[Field]) -> None:
    async def wrong(wire: Http2Wire) -> None:
        wire.h2.config.validate_outbound_headers = False
        wire.h2.config.normalize_outbound_headers = False
        event = await wire.until(RequestReceived)
        wire.h2.send_headers(event.stream_id, fields, end_stream=True)
        await wire.flush()
        await wire.ended()

    hop = Hop(lab, await raw_pool(lab, wrong))
    wire = await hop.http2()
    assert (await wire.answer(await wire.request(get_fields())))[0] == 502
    (failure,) = hop.outcomes
    assert isinstance(failure, UpstreamFailed)
    assert failure.malformed


async def test_an_answer_that_is_cut_is_cut_for_the_client(lab: Lab) -> None:
    async def cut(wire: Http2Wire) -> None:
        event = await wire.until(RequestReceived)
        wire.h2.send_headers(event.stream_id, [(b":status", b"200")])
        wire.h2.send_data(event.stream_id, b"half")
        wire.h2.reset_stream(event.stream_id, ErrorCodes.INTERNAL_ERROR)
        await wire.flush()
        await wire.ended()

    wire = await Hop(lab, await raw_pool(lab, cut)).http2()
    number = await wire.request(get_fields())
    assert (await wire.until(StreamReset, number)).error_code == ErrorCodes.INTERNAL_ERROR
    assert wire.body(number) == b"half"


async def test_an_early_answer_ends_a_request_that_is_still_sent(lab: Lab) -> None:
    async def early(wire: Http2Wire) -> None:
        event = await wire.until(RequestReceived)
        wire.h2.send_headers(event.stream_id, [(b":status", b"413")], end_stream=True)
        wire.h2.reset_stream(event.stream_id, ErrorCodes.NO_ERROR)
        await wire.flush()
        await wire.ended()

    wire = await Hop(lab, await raw_pool(lab, early)).http2()
    number = await wire.request(get_fields(method=b"POST"), bytes(60_000), end=False)
    assert (await wire.until(StreamReset, number)).error_code == ErrorCodes.NO_ERROR
    assert (await wire.answer(number))[0] == 413


async def test_a_server_that_is_not_there_fails_everybody_who_waits(lab: Lab) -> None:
    tried = 0

    async def dial() -> trio.abc.Stream:
        nonlocal tried
        tried += 1
        await trio.testing.wait_all_tasks_blocked()
        raise PeerUnreachable("nothing accepts there")

    pool = StreamPool(dial, lab.nursery)
    failed = 0

    async def use() -> None:
        nonlocal failed
        with pytest.raises(PeerUnreachable):
            async with pool.acquire():
                pass
        failed += 1

    async with trio.open_nursery() as users:
        for _ in range(5):
            users.start_soon(use)
    assert (tried, failed) == (1, 5)


async def test_a_pool_that_is_closed_has_closed_what_was_idle(lab: Lab) -> None:
    pool = await pool_to(lab, echo)
    async with pool.acquire() as upstream:
        await ask(upstream)
        await answer_of(upstream)
    assert pool.open == 1
    await pool.aclose()
    assert pool.open == 0


async def test_a_pool_that_is_closed_lets_what_is_under_way_end(lab: Lab) -> None:
    let_go = trio.Event()

    async def handler(stream: ServerStream, head: RequestHead) -> None:
        await let_go.wait()
        await stream.respond(200, [], b"ok")

    pool = await pool_to(lab, handler)
    async with pool.acquire() as upstream:
        await ask(upstream)
        await pool.aclose()
        assert pool.open == 1
        let_go.set()
        assert (await answer_of(upstream))[1] == b"ok"
    while pool.open:
        await trio.testing.wait_all_tasks_blocked(0.001)


async def test_an_idle_connection_is_closed(lab: Lab) -> None:
    pool = await pool_to(lab, echo)
    pool._idle_timeout_s = 0.02
    async with pool.acquire() as upstream:
        await ask(upstream)
        await answer_of(upstream)
    while pool.open:
        await trio.testing.wait_all_tasks_blocked(0.001)


async def test_a_fresh_stream_takes_no_used_connection(lab: Lab) -> None:
    pool = await pool_to(lab, echo)
    for fresh in (False, False, True):
        async with pool.acquire(fresh=fresh) as upstream:
            reused = upstream.reused
            await ask(upstream)
            await answer_of(upstream)
    assert not reused
    assert lab.accepted == 2


async def test_a_slow_reader_of_one_answer_does_not_stop_another(lab: Lab) -> None:
    async def handler(stream: ServerStream, head: RequestHead) -> None:
        size = 10_000_000 if head.target == b"/big" else 2
        await stream.start_response(200, b"", [], CHUNKED, bytes(size), trailers=())

    pool = await pool_to(lab, handler)
    async with pool.acquire() as big, pool.acquire() as small:
        await ask(big, ASKED._replace(target=b"/big"))
        await big.receive()
        await ask(small)
        assert len((await answer_of(small))[1]) == 2
        assert len((await answer_of(big))[1]) == 10_000_000
    assert lab.accepted == 1
