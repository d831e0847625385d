"""Coverage-guided fuzzing of the HTTP boundary by Atheris (libFuzzer).

    python tests/overlay/http/fuzzing.py FOLDER -dict=tests/overlay/http/http.dict [-runs=N] ...

The arguments are libFuzzer's. `test_fuzzing.py` runs it for a fixed number of runs over `corpus/`.
What it finds is written to a file `crash-…`, which as a further argument is run again.

Each input is taken for what a client sends, for what an instance answers, and for a chunked body.
What is checked is what makes a proxy safe: every input is refused with a status or taken; what is
taken, h11 takes for the same thing; and what is forwarded of it, a server behind (h11 again) reads
as exactly the requests that were routed, with the same bodies: nothing is smuggled.
"""

import sys
from http import HTTPStatus

import atheris

with atheris.instrument_imports(include=["overlay.http", "proxy.request", "proxy.route"]):
    from overlay.http import body as bodies
    from overlay.http import head as heads
    from overlay.http.errors import BadRequest, BadResponse, MalformedBody
    from proxy.request import fields
    from proxy.route import routing

import h11

from overlay.http.head import Field, Framing, RequestHead
from proxy.errors import RequestRefused
from proxy.request.own import own_answer
from proxy.route.caller import Origin

Seen = tuple[bytes, bytes, bytes]
"""Method, target and body of a request."""

STATUSES = {400, 414, 417, 431, 501, 505}
ORIGIN = Origin("192.0.2.1")
MACHINE = frozenset({"machine"})
MAX_REQUESTS = 8
END = b"\r\n\r\n"


def check(data: bytes) -> None:
    """Raise AssertionError if one of the promises is broken for `data`."""
    forwarded, expected = through(data)
    seen = read_by_h11(forwarded)
    assert seen == expected, f"forwarded {expected}, a server reads {seen}"
    check_answer(data)
    check_chunks(data)


def through(data: bytes) -> tuple[bytes, list[Seen]]:
    """Return what a proxy forwards of a client's bytes, and what requests it takes that for."""
    sent: list[bytes] = []
    expected: list[Seen] = []
    for _ in range(MAX_REQUESTS):
        at = data.find(END)
        if at < 0 or at + 4 > heads.MAX_HEAD_BYTES:
            break
        head = taken(data[: at + 4])
        if head is None:
            break
        whole = read_body(head.framing, data[at + 4 :])
        if whole is None:
            break
        body, trailers, data = whole
        try:
            if own_answer(head, MACHINE) is not None:
                continue
            route = routing.route_of(head, MACHINE)
            out = [*fields.request_fields(head, route, ORIGIN)]
        except RequestRefused:
            continue
        except BadRequest:
            break
        target = head.target if head.method == b"CONNECT" else route.target
        out += heads.framing_fields(head.framing)
        sent.append(heads.serialise_request(head.method, target, out))
        sent += framed(head.framing, body, trailers)
        expected.append((head.method, target, body))
        if head.method == b"CONNECT" or head.upgrade or not head.keep_alive:
            break
    return b"".join(sent), expected


def taken(data: bytes) -> RequestHead | None:
    """Return the head if it is taken; h11 takes it then, too."""
    try:
        head = heads.parse_request_head(data)
    except BadRequest as exc:
        check_status(exc)
        return None
    connection = h11.Connection(h11.SERVER, max_incomplete_event_size=1 << 20)
    connection.receive_data(data)
    event = connection.next_event()
    assert isinstance(event, h11.Request), event
    assert (event.method, event.target) == (head.method, head.target)
    assert len(event.headers) == len(head.headers)
    return head


def check_status(refusal: BadRequest) -> None:
    assert refusal.status in STATUSES, refusal.status


def read_body(framing: Framing, data: bytes) -> tuple[bytes, list[Field], bytes] | None:
    """Return body, trailers and what follows; None if it is malformed or not all there."""
    decoder = bodies.body_decoder(framing)
    try:
        body = b"" if decoder.done else decoder.feed(data)
    except MalformedBody:
        return None
    if not decoder.done:
        return None
    return body, list(decoder.trailers), data if framing.empty else decoder.leftover


def framed(framing: Framing, body: bytes, trailers: list[Field]) -> list[bytes]:
    if framing.kind is not heads.BodyKind.CHUNKED:
        return [body]
    return [*(bodies.encode_chunk(body) if body else ()), bodies.encode_end(trailers)]


def read_by_h11(data: bytes) -> list[Seen]:
    """Return the requests that a server reads; anything left over is one more."""
    seen: list[Seen] = []
    if not data:
        return seen
    connection = h11.Connection(h11.SERVER, max_incomplete_event_size=1 << 20)
    connection.receive_data(data)
    request, body = None, b""
    while True:
        event = connection.next_event()
        match event:
            case h11.Request():
                request, body = event, b""
            case h11.Data():
                body += event.data
            case h11.EndOfMessage():
                assert request is not None
                seen.append((request.method, request.target, body))
                if request.method == b"CONNECT":
                    return seen
                connection.send(h11.Response(status_code=200, headers=[("Content-Length", "0")]))
                connection.send(h11.EndOfMessage())
                if connection.their_state is not h11.DONE:
                    return seen
                connection.start_next_cycle()
            case h11.NEED_DATA | h11.PAUSED:
                left = connection.trailing_data[0]
                assert not left, f"{left!r} is left over"
                return seen
            case _:
                raise AssertionError(event)


def check_answer(data: bytes) -> None:
    at = data.find(END)
    if at < 0:
        return
    try:
        head = heads.parse_response_head(data[: at + 4], b"GET")
    except BadResponse:
        return
    if head.status == HTTPStatus.SWITCHING_PROTOCOLS:
        return  # nobody asked for that
    connection = h11.Connection(h11.CLIENT, max_incomplete_event_size=1 << 20)
    connection.send(h11.Request(method="GET", target="/", headers=[("Host", "a")]))
    connection.send(h11.EndOfMessage())
    connection.receive_data(data[: at + 4])
    event = connection.next_event()
    assert isinstance(event, h11.Response | h11.InformationalResponse), event
    assert event.status_code == head.status
    out = fields.response_fields(head, (b"Date", b"now"))
    again = heads.serialise_response(head.status, head.reason, out)
    assert len(heads.parse_response_head(again, b"GET").headers) == len(out)


def check_chunks(data: bytes) -> None:
    """However the bytes are cut, they are the same body or the same refusal."""
    whole = chunks([data])
    middle = len(data) // 2
    assert chunks([data[:middle], data[middle:]]) == whole
    assert chunks([data[at : at + 1] for at in range(min(len(data), 512))] + [data[512:]]) == whole


def chunks(parts: list[bytes]) -> tuple[bytes, bytes, list[Field]] | str | None:
    decoder = bodies.ChunkedDecoder()
    body = left = b""
    for part in parts:
        if decoder.done:
            left += part
            continue
        if not part:
            continue
        try:
            body += decoder.feed(part)
        except MalformedBody:
            return "malformed"
        left += decoder.leftover
    return (body, left, list(decoder.trailers)) if decoder.done else None


if __name__ == "__main__":
    atheris.Setup(sys.argv, check)
    atheris.Fuzz()
