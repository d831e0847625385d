from collections.abc import Awaitable, Callable

import pytest
import trio
from h2.errors import ErrorCodes
from h2.events import ConnectionTerminated, InformationalResponseReceived, StreamReset
from h2.settings import SettingCodes

from overlay.http import ClientGone, Limits, RequestHead, h2_channel
from overlay.http.connection import DEFAULT_LIMITS
from overlay.http.h2_flow import MAX_STREAMS, STREAM_WINDOW
from overlay.http.h2_frames import IDLE_BURST, MAX_CONTINUATIONS, PREFACE, RESET_BURST, Kind
from overlay.http.h2_server import ServerStream, serve_http2
from overlay.http.head import CHUNKED, NO_BODY, Field
from overlay.http.testing import Lab
from overlay.http.testing_h2 import Http2Wire, get_fields
from overlay.http.transport import transport

Handler = Callable[[ServerStream, RequestHead], Awaitable[None]]


async def echo(stream: ServerStream, head: RequestHead) -> None:
    """Answer with what was asked for and sent."""
    body = b"".join([data async for data in stream.body])
    fields = [(b"X-Framing", head.framing.kind.value.encode()), (b"X-Path", head.target)]
    await stream.start_response(200, b"", fields, CHUNKED, body, trailers=stream.body.trailers)


class Server:
    """A server on loopback, and what its handlers met."""

    def __init__(self, lab: Lab) -> None:
        self.lab = lab
        self.stopping = trio.Event()
        self.begun = 0
        self.ended = 0
        self.most = 0
        self.closed = trio.Event()

    async def client(
        self, handler: Handler = echo, *, limits: Limits = DEFAULT_LIMITS, start: bool = True
    ) -> Http2Wire:
        async def counted(stream: ServerStream, head: RequestHead) -> None:
            self.begun += 1
            self.most = max(self.most, self.begun - self.ended)
            try:
                await handler(stream, head)
            finally:
                self.ended += 1

        async def serve(stream: trio.SocketStream) -> None:
            try:
                connection = transport(stream, limits.send_timeout_s)
                await serve_http2(connection, counted, stopping=self.stopping, limits=limits)
            finally:
                self.closed.set()

        wire = Http2Wire(await self.lab.dial(await self.lab.listen(serve)))
        if start:
            await wire.start()
        return wire


@pytest.fixture
def server(lab: Lab) -> Server:
    return Server(lab)


def raw(kind: int, payload: bytes = b"", *, flags: int = 0, stream: int = 0) -> bytes:
    head = len(payload).to_bytes(3, "big") + bytes((kind, flags))
    return head + stream.to_bytes(4, "big") + payload


async def ends_with(wire: Http2Wire, code: ErrorCodes) -> None:
    """Receive until the connection ends, which a GOAWAY explains."""
    event = await wire.until(ConnectionTerminated)
    assert event.error_code == code
    await wire.ended()


async def test_a_request_with_body_and_trailers_is_answered_with_body_and_trailers(
    server: Server,
) -> None:
    wire = await server.client()
    number = await wire.request(
        get_fields(b"/a?b", method=b"POST"), b"hello", trailers=[(b"sum", b"5")]
    )
    status, fields, body, trailers = await wire.answer(number)
    assert (status, body, trailers) == (200, b"hello", [(b"sum", b"5")])
    assert fields == [(b"x-framing", b"chunked"), (b"x-path", b"/a?b")]


async def test_requests_on_one_connection_are_answered_side_by_side(server: Server) -> None:
    let_go = trio.Event()

    async def handler(stream: ServerStream, head: RequestHead) -> None:
        if head.target == b"/slow":
            await let_go.wait()
        await stream.respond(200, [], head.target)

    wire = await server.client(handler)
    slow, fast = await wire.request(get_fields(b"/slow")), await wire.request(get_fields(b"/fast"))
    assert (await wire.answer(fast))[2] == b"/fast"
    let_go.set()
    assert (await wire.answer(slow))[2] == b"/slow"


async def test_a_head_request_is_answered_without_a_body(server: Server) -> None:
    async def handler(stream: ServerStream, head: RequestHead) -> None:
        await stream.respond(200, [], b"four")

    wire = await server.client(handler)
    status, fields, body, _ = await wire.answer(await wire.request(get_fields(method=b"HEAD")))
    assert (status, body) == (200, b"")
    assert (b"content-length", b"4") in fields


@pytest.mark.parametrize("status", [204, 304])
async def test_an_answer_that_never_has_a_body_ends_with_its_head(
    server: Server, status: int
) -> None:
    async def handler(stream: ServerStream, head: RequestHead) -> None:
        await stream.start_response(status, b"", [], NO_BODY, b"", trailers=())

    wire = await server.client(handler)
    assert await wire.answer(await wire.request(get_fields())) == (status, [], b"", [])


async def test_interim_answers_come_before_the_final_one(server: Server) -> None:
    async def handler(stream: ServerStream, head: RequestHead) -> None:
        await stream.send_informational(103, b"Early Hints", [(b"Link", b"</x>")])
        await stream.send_informational(101, b"Switching Protocols", [])  # not in HTTP/2
        await stream.respond(200)

    wire = await server.client(handler)
    number = await wire.request(get_fields())
    assert (await wire.answer(number))[0] == 200
    interim = [e for e in wire.events if isinstance(e, InformationalResponseReceived)]
    assert [e.headers for e in interim] == [[(b":status", b"103"), (b"link", b"</x>")]]


async def test_fields_about_a_connection_are_not_passed_to_a_client(server: Server) -> None:
    async def handler(stream: ServerStream, head: RequestHead) -> None:
        fields = [(b"Connection", b"x"), (b"Keep-Alive", b"1"), (b"Server", b"me")]
        await stream.start_response(200, b"OK", fields, CHUNKED, b"", trailers=())

    wire = await server.client(handler)
    assert (await wire.answer(await wire.request(get_fields())))[1] == [(b"server", b"me")]


async def test_both_directions_go_on_at_once(server: Server) -> None:
    async def handler(stream: ServerStream, head: RequestHead) -> None:
        await stream.start_response(200, b"", [], CHUNKED, b"")
        async for data in stream.body:
            await stream.send_body(data.upper())
        await stream.send_body(b"", trailers=[(b"grpc-status", b"0")])

    wire = await server.client(handler)
    number = await wire.request(get_fields(method=b"POST"), end=False)
    for word in (b"one", b"two", b"three"):
        before = len(wire.body(number))
        await wire.data(number, word)
        await wire.until_true(lambda: len(wire.body(number)) > before)  # noqa: B023
    await wire.data(number, b"", end=True)
    _, _, body, trailers = await wire.answer(number)
    assert (body, trailers) == (b"ONETWOTHREE", [(b"grpc-status", b"0")])


async def test_a_large_body_passes_both_ways_whole(server: Server) -> None:
    sent = bytes(range(256)) * 4096  # 1 MiB, eight windows

    async def handler(stream: ServerStream, head: RequestHead) -> None:
        await stream.start_response(200, b"", [], CHUNKED, b"")
        async for data in stream.body:
            await stream.send_body(data)
        await stream.send_body(b"", trailers=())

    wire = await server.client(handler)
    number = await wire.request(get_fields(method=b"POST"), end=False)
    at = 0
    while at < len(sent):
        window = min(wire.h2.local_flow_control_window(number), 16_384)
        if window:
            await wire.data(number, sent[at : at + window], end=at + window >= len(sent))
            at += window
        else:
            await wire.receive()
    assert (await wire.answer(number))[2] == sent


async def test_a_request_whose_body_nobody_wanted_is_answered_and_reset_without_an_error(
    server: Server,
) -> None:
    async def handler(stream: ServerStream, head: RequestHead) -> None:
        await stream.respond(413)

    wire = await server.client(handler)
    number = await wire.request(get_fields(method=b"POST"), end=False)
    assert (await wire.until(StreamReset, number)).error_code == ErrorCodes.NO_ERROR
    assert (await wire.answer(number))[0] == 413


async def test_a_client_that_gives_up_ends_its_request_and_no_other(server: Server) -> None:
    began = trio.Event()
    cancelled = trio.Event()

    async def handler(stream: ServerStream, head: RequestHead) -> None:
        if head.target == b"/long":
            began.set()
            try:
                await trio.sleep_forever()
            finally:
                cancelled.set()
        await stream.respond(200)

    wire = await server.client(handler)
    number = await wire.request(get_fields(b"/long"))
    await began.wait()
    wire.h2.reset_stream(number, ErrorCodes.CANCEL)
    await wire.flush()
    await cancelled.wait()
    assert (await wire.answer(await wire.request(get_fields())))[0] == 200


async def test_a_client_that_leaves_ends_all_its_requests(server: Server) -> None:
    began = trio.Event()

    async def handler(stream: ServerStream, head: RequestHead) -> None:
        began.set()
        await trio.sleep_forever()

    wire = await server.client(handler)
    await wire.request(get_fields())
    await began.wait()
    await wire.stream.aclose()
    await server.closed.wait()
    assert server.ended == 1


async def test_an_answer_that_breaks_off_is_reset_and_the_connection_goes_on(
    server: Server,
) -> None:
    async def handler(stream: ServerStream, head: RequestHead) -> None:
        if head.target == b"/cut":
            await stream.start_response(200, b"", [], CHUNKED, b"half")
            await stream.abort()
            raise ClientGone("cut")
        await stream.respond(200)

    wire = await server.client(handler)
    number = await wire.request(get_fields(b"/cut"))
    assert (await wire.until(StreamReset, number)).error_code == ErrorCodes.INTERNAL_ERROR
    assert (await wire.answer(await wire.request(get_fields())))[0] == 200


async def test_a_handler_that_fails_resets_its_stream_alone(server: Server) -> None:
    async def handler(stream: ServerStream, head: RequestHead) -> None:
        if head.target == b"/bug":
            raise RuntimeError("bug")
        await stream.respond(200)

    wire = await server.client(handler)
    bug = await wire.request(get_fields(b"/bug"))
    assert (await wire.until(StreamReset, bug)).error_code == ErrorCodes.INTERNAL_ERROR
    assert (await wire.answer(await wire.request(get_fields())))[0] == 200


# What slow readers cost


async def test_a_reader_that_stands_still_does_not_stop_other_streams(server: Server) -> None:
    async def handler(stream: ServerStream, head: RequestHead) -> None:
        if head.target == b"/big":
            await stream.start_response(200, b"", [], CHUNKED, bytes(10_000_000))
        await stream.respond(200, [], b"ok")

    wire = await server.client(handler)
    wire.auto_credit = False
    wire.h2.increment_flow_control_window(1_000_000)  # the connection's own is not in the way
    await wire.flush()
    big = await wire.request(get_fields(b"/big"))
    await wire.until_true(lambda: len(wire.body(big)) == 65_535)
    assert (await wire.answer(await wire.request(get_fields())))[2] == b"ok"
    assert len(wire.body(big)) == 65_535


async def test_a_handler_that_does_not_read_holds_back_its_stream_alone(server: Server) -> None:
    let_go = trio.Event()

    async def handler(stream: ServerStream, head: RequestHead) -> None:
        if head.target == b"/lazy":
            await let_go.wait()
        await echo(stream, head)

    wire = await server.client(handler)
    await wire.until_true(lambda: wire.h2.remote_settings.initial_window_size == STREAM_WINDOW)
    lazy = await wire.request(get_fields(b"/lazy", method=b"POST"), end=False)
    while (window := min(wire.h2.local_flow_control_window(lazy), 16_384)) > 0:
        await wire.data(lazy, bytes(window))
    # Its window is used up and stays so, while another stream's body passes.
    other = await wire.request(get_fields(method=b"POST"), bytes(100_000))
    assert len((await wire.answer(other))[2]) == 100_000
    assert wire.h2.local_flow_control_window(lazy) == 0
    let_go.set()
    await wire.until_true(lambda: wire.h2.local_flow_control_window(lazy) > 0)


async def test_a_client_that_takes_nothing_loses_its_stream_in_the_end(server: Server) -> None:
    async def handler(stream: ServerStream, head: RequestHead) -> None:
        await stream.start_response(200, b"", [], CHUNKED, bytes(1_000_000))

    wire = await server.client(handler, limits=Limits(send_timeout_s=0.05))
    wire.auto_credit = False
    number = await wire.request(get_fields())
    assert (await wire.until(StreamReset, number)).error_code == ErrorCodes.CANCEL


async def test_a_body_that_stalls_is_answered_with_408(server: Server) -> None:
    wire = await server.client(limits=Limits(body_timeout_s=0.05))
    number = await wire.request(get_fields(method=b"POST"), b"x", end=False)
    assert (await wire.answer(number))[0] == 408


async def test_a_client_that_takes_single_bytes_loses_its_stream_in_the_end(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(h2_channel, "LEAST_RATE", 1e6)  # a second for what is sent

    async def handler(stream: ServerStream, head: RequestHead) -> None:
        await stream.start_response(200, b"", [], CHUNKED, bytes(1_000_000))

    wire = await server.client(handler, limits=Limits(send_timeout_s=0.5))
    wire.auto_credit = False
    number = await wire.request(get_fields())
    await wire.until_true(lambda: wire.h2.remote_flow_control_window(number) == 0)
    while not any(isinstance(event, StreamReset) for event in wire.events):
        wire.h2.increment_flow_control_window(1)
        wire.h2.increment_flow_control_window(1, number)
        await wire.flush()
        await wire.receive()
        await trio.sleep(0.05)
    assert (await wire.until(StreamReset, number)).error_code == ErrorCodes.CANCEL


async def test_a_window_that_a_client_makes_small_is_respected(server: Server) -> None:
    async def handler(stream: ServerStream, head: RequestHead) -> None:
        await stream.respond(200, [], b"0123456789" * 10)

    wire = await server.client(handler)
    wire.h2.update_settings({SettingCodes.INITIAL_WINDOW_SIZE: 7})
    await wire.flush()
    number = await wire.request(get_fields())
    assert (await wire.answer(number))[2] == b"0123456789" * 10
    sizes = [len(f.payload) for f in wire.frames if f.kind == Kind.DATA and f.stream == number]
    assert max(sizes) <= 7


# The end of a connection


async def test_a_server_that_stops_answers_what_was_sent_before_the_client_knew(
    server: Server,
) -> None:
    let_go = trio.Event()

    async def handler(stream: ServerStream, head: RequestHead) -> None:
        await let_go.wait()
        await stream.respond(200)

    wire = await server.client(handler)
    await wire.request(get_fields())
    await wire.until_true(lambda: server.begun == 1)
    server.stopping.set()
    # h2 takes no more frames once it has seen a GOAWAY, so what follows is raw.
    await wire.send_raw(_headers_frame(3))  # sent before the ping is answered: still in time
    last: list[bytes] = []
    while len(last) < 2:
        await _receive_raw(wire)
        last = [f.payload for f in wire.frames if f.kind == Kind.GOAWAY]
    assert int.from_bytes(last[0][:4], "big") == 2**31 - 1
    assert int.from_bytes(last[1][:4], "big") == 3
    await wire.send_raw(_headers_frame(5))
    await _until_frame(wire, Kind.RST_STREAM, 5)
    let_go.set()
    await _until_frame(wire, Kind.HEADERS, 1)
    await _until_frame(wire, Kind.HEADERS, 3)
    await server.closed.wait()
    assert server.begun == 2


def _headers_frame(stream: int) -> bytes:
    # RFC 7541: GET, http, / by index; the authority as a literal that is not remembered.
    block = b"\x82\x86\x84\x01\x09localhost"
    return raw(Kind.HEADERS, block, flags=0x5, stream=stream)


async def _receive_raw(wire: Http2Wire) -> None:
    data = await wire.stream.receive_some()
    assert data
    for frame in wire._splitter.feed(bytes(data)):
        wire.frames.append(frame)
        if frame.kind == Kind.PING and not frame.flags:
            await wire.send_raw(raw(Kind.PING, frame.payload, flags=1))


async def _until_frame(wire: Http2Wire, kind: Kind, stream: int) -> None:
    while not any(f.kind == kind and f.stream == stream for f in wire.frames):
        await _receive_raw(wire)


async def test_a_server_that_stops_does_not_wait_for_an_idle_client(server: Server) -> None:
    wire = await server.client()
    await wire.answer(await wire.request(get_fields()))
    server.stopping.set()
    await server.closed.wait()  # nothing has been read since
    await ends_with(wire, ErrorCodes.NO_ERROR)
    goodbyes = [f.payload for f in wire.frames if f.kind == Kind.GOAWAY]
    assert [int.from_bytes(payload[:4], "big") for payload in goodbyes] == [1]
    assert not any(f.kind == Kind.PING for f in wire.frames)


async def test_an_idle_connection_is_closed_with_a_goaway(server: Server) -> None:
    wire = await server.client(limits=Limits(idle_timeout_s=0.05))
    await ends_with(wire, ErrorCodes.NO_ERROR)


async def test_a_client_that_never_says_anything_is_closed(server: Server) -> None:
    wire = await server.client(limits=Limits(idle_timeout_s=0.05), start=False)
    await wire.send_raw(PREFACE[:10])
    await wire.ended()


async def test_a_client_that_waits_for_an_answer_is_not_idle(server: Server) -> None:
    async def handler(stream: ServerStream, head: RequestHead) -> None:
        await trio.sleep(3)
        await stream.respond(200)

    wire = await server.client(handler, limits=Limits(idle_timeout_s=2))
    assert (await wire.answer(await wire.request(get_fields())))[0] == 200


# Hostile clients


async def test_a_body_above_the_limit_is_refused(server: Server) -> None:
    wire = await server.client(limits=Limits(max_body_bytes=3))
    number = await wire.request(get_fields(method=b"POST"), b"four")
    assert (await wire.answer(number))[0] == 413
    said = [*get_fields(method=b"POST"), (b"content-length", b"4")]
    number = await wire.request(said, end=False)
    assert (await wire.answer(number))[0] == 413
    assert server.begun == 1


async def test_a_malformed_request_ends_its_stream_alone(server: Server) -> None:
    wire = await server.client()
    wire.h2.config.validate_outbound_headers = False
    wire.h2.config.normalize_outbound_headers = False
    bad = await wire.request([*get_fields(), (b"x", b"a\r\ntransfer-encoding: chunked")])
    assert (await wire.until(StreamReset, bad)).error_code == ErrorCodes.PROTOCOL_ERROR
    assert (await wire.answer(await wire.request(get_fields())))[0] == 200
    assert server.begun == 1


async def test_a_request_that_http1_would_refuse_gets_its_status(server: Server) -> None:
    wire = await server.client()
    number = await wire.request([*get_fields(), (b"expect", b"miracles")])
    assert (await wire.answer(number))[0] == 417
    assert server.begun == 0


async def test_a_body_that_is_longer_than_it_said_never_gets_further(server: Server) -> None:
    wire = await server.client()
    fields = [*get_fields(method=b"POST"), (b"content-length", b"3")]
    await wire.request(fields, b"four")
    await ends_with(wire, ErrorCodes.PROTOCOL_ERROR)


async def test_more_requests_than_allowed_are_refused_and_may_be_sent_again(
    server: Server,
) -> None:
    let_go = trio.Event()

    async def handler(stream: ServerStream, head: RequestHead) -> None:
        await let_go.wait()
        await stream.respond(200)

    wire = await server.client(handler)
    numbers = [await wire.request(get_fields()) for _ in range(MAX_STREAMS + 5)]
    for number in numbers[-5:]:
        assert (await wire.until(StreamReset, number)).error_code == ErrorCodes.REFUSED_STREAM
    let_go.set()
    for number in numbers[:-5]:
        assert (await wire.answer(number))[0] == 200


async def test_streams_that_are_opened_and_reset_at_once_end_the_connection(
    server: Server,
) -> None:
    async def handler(stream: ServerStream, head: RequestHead) -> None:
        await trio.sleep_forever()

    wire = await server.client(handler)
    for _ in range(int(RESET_BURST) + 200):
        number = wire.h2.get_next_available_stream_id()
        wire.h2.send_headers(number, get_fields(), end_stream=True)
        wire.h2.reset_stream(number, ErrorCodes.CANCEL)
    await wire.flush()
    await ends_with(wire, ErrorCodes.ENHANCE_YOUR_CALM)
    await server.closed.wait()
    assert server.begun == server.ended
    assert server.most <= MAX_STREAMS


async def test_streams_that_are_reset_a_few_at_a_time_end_the_connection_too(
    server: Server,
) -> None:
    async def handler(stream: ServerStream, head: RequestHead) -> None:
        await trio.sleep_forever()

    wire = await server.client(handler)
    for turn in range(1000):
        for _ in range(20):
            number = wire.h2.get_next_available_stream_id()
            wire.h2.send_headers(number, get_fields(), end_stream=True)
            wire.h2.reset_stream(number, ErrorCodes.CANCEL)
        wire.h2.ping(turn.to_bytes(8, "big"))
        await wire.flush()
        await wire.receive()
        if any(isinstance(event, ConnectionTerminated) for event in wire.events):
            break
    await ends_with(wire, ErrorCodes.ENHANCE_YOUR_CALM)


@pytest.mark.parametrize(
    "frame",
    [
        raw(Kind.PING, bytes(8)),
        raw(Kind.SETTINGS),
        raw(Kind.SETTINGS, b"\0\4\0\0\xff\xff"),
        raw(Kind.PRIORITY, bytes(4) + b"\x10", stream=1),
        raw(Kind.WINDOW_UPDATE, bytes(3) + b"\x01"),
        raw(Kind.RST_STREAM, bytes(4), stream=1),
        raw(0x77, b"x"),
        raw(Kind.DATA, stream=1),
    ],
    ids=["ping", "settings", "windows", "priority", "window-update", "reset", "unknown", "empty"],
)
async def test_a_flood_of_frames_that_carry_nothing_ends_the_connection(
    server: Server, frame: bytes
) -> None:
    async def handler(stream: ServerStream, head: RequestHead) -> None:
        await stream.body.receive()
        await trio.sleep_forever()

    wire = await server.client(handler)
    await wire.request(get_fields(method=b"POST"), end=False)
    await wire.send_raw(frame * int(IDLE_BURST + 500))
    await ends_with(wire, ErrorCodes.ENHANCE_YOUR_CALM)


async def test_a_header_block_without_an_end_ends_the_connection(server: Server) -> None:
    wire = await server.client()
    await wire.send_raw(raw(Kind.HEADERS, b"\x82", stream=1))
    await wire.send_raw(raw(Kind.CONTINUATION, stream=1) * (MAX_CONTINUATIONS + 1))
    await ends_with(wire, ErrorCodes.ENHANCE_YOUR_CALM)


async def test_a_header_block_that_unpacks_to_too_much_ends_the_connection(
    server: Server,
) -> None:
    wire = await server.client()
    wire.h2.encoder.huffman_coded = False  # type: ignore[attr-defined]
    bomb: list[Field] = [(b"x", b"a" * 4000)] * 40  # the second one is a byte on the wire
    await wire.request([*get_fields(), *bomb])
    await ends_with(wire, ErrorCodes.ENHANCE_YOUR_CALM)


async def test_a_frame_that_is_too_large_ends_the_connection(server: Server) -> None:
    wire = await server.client()
    await wire.send_raw((16_385).to_bytes(3, "big") + bytes(6))
    await ends_with(wire, ErrorCodes.FRAME_SIZE_ERROR)


async def test_a_client_cannot_have_the_server_remember_all_that_it_sends(
    server: Server,
) -> None:
    async def handler(stream: ServerStream, head: RequestHead) -> None:
        await stream.respond(200, [(b"X-Unique", head.target * 20)])

    wire = await server.client(handler)
    wire.h2.update_settings({SettingCodes.HEADER_TABLE_SIZE: 2**20})
    await wire.flush()
    for count in range(30):
        number = await wire.request(get_fields(b"/%040d" % count))
        assert (await wire.answer(number))[0] == 200
    assert wire.h2.decoder.header_table_size <= 4096


async def test_a_client_that_does_not_read_is_not_read_any_more(lab: Lab) -> None:
    server = Server(lab)
    wire = await server.client(limits=Limits(send_timeout_s=0.2))
    ping = raw(Kind.PING, bytes(8))
    body = raw(Kind.DATA, b"x", stream=1)  # earns the pings
    await wire.request(get_fields(method=b"POST"), end=False)
    with pytest.raises((trio.BrokenResourceError, trio.TooSlowError)):  # noqa: PT012
        with trio.fail_after(60):
            while True:
                await wire.send_raw((body + ping * 9) * 200)
    await server.closed.wait()


@pytest.mark.parametrize(
    "frame",
    [
        raw(Kind.DATA, b"x", stream=0),
        raw(Kind.DATA, b"x", stream=9),
        raw(Kind.HEADERS, b"\x82", flags=5, stream=0),
        raw(Kind.HEADERS, b"\x82\x86\x84", flags=5, stream=2),
        raw(Kind.HEADERS, b"\xff" * 9, flags=5, stream=1),
        raw(Kind.PUSH_PROMISE, bytes(8), flags=4, stream=1),
        raw(Kind.SETTINGS, b"\0", stream=0),
        raw(Kind.SETTINGS, flags=0, stream=3),
        raw(Kind.SETTINGS, b"\0\4\xff\xff\xff\xff"),
        raw(Kind.SETTINGS, b"\0\2\0\0\0\2"),
        raw(Kind.PING, b"short"),
        raw(Kind.PING, bytes(8), stream=1),
        raw(Kind.RST_STREAM, bytes(4), stream=0),
        raw(Kind.RST_STREAM, bytes(4), stream=9),
        raw(Kind.WINDOW_UPDATE, b"\x7f\xff\xff\xff"),
        raw(Kind.WINDOW_UPDATE, bytes(4)),
        raw(Kind.CONTINUATION, b"", stream=1),
        raw(Kind.HEADERS, b"\x82", stream=1) + raw(Kind.PING, bytes(8)),
        raw(Kind.GOAWAY, bytes(3)),
    ],
)
async def test_what_breaks_the_protocol_ends_the_connection(server: Server, frame: bytes) -> None:
    wire = await server.client()
    await wire.send_raw(frame)
    assert (await wire.until(ConnectionTerminated)).error_code != ErrorCodes.NO_ERROR
    await wire.ended()


async def test_what_is_not_known_is_ignored(server: Server) -> None:
    wire = await server.client()
    await wire.send_raw(raw(0x42, b"what?", flags=0xFF, stream=7))
    await wire.send_raw(raw(Kind.SETTINGS, b"\xf0\xf0\0\0\0\1"))
    await wire.send_raw(raw(Kind.PING, bytes(8), flags=0xFE))
    assert (await wire.answer(await wire.request(get_fields())))[0] == 200
