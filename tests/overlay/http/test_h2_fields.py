import pytest
from hypothesis import given
from hypothesis import strategies as st

from overlay.http.errors import BadRequest, BadResponse
from overlay.http.h2_fields import (
    MalformedHead,
    request_fields,
    request_head,
    response_fields,
    response_head,
    trailers,
)
from overlay.http.head import (
    CHUNKED,
    NO_BODY,
    BodyKind,
    Field,
    Framing,
    get,
    parse_request_head,
    serialise_request,
)

GET: list[Field] = [
    (b":method", b"GET"),
    (b":scheme", b"http"),
    (b":path", b"/x?y=1"),
    (b":authority", b"hello.myxo.localhost:4200"),
]


def without(name: bytes) -> list[Field]:
    return [field for field in GET if field[0] != name]


def test_a_request_becomes_what_http1_would_have_said() -> None:
    head = request_head([*GET, (b"accept", b"*/*")], ended=True)
    assert (head.method, head.target, head.minor) == (b"GET", b"/x?y=1", 1)
    assert head.headers == [(b"host", b"hello.myxo.localhost:4200"), (b"accept", b"*/*")]
    assert head.framing is NO_BODY
    assert head.keep_alive


def test_a_body_has_the_length_that_was_said_or_none() -> None:
    assert request_head(GET, ended=False).framing is CHUNKED
    known = request_head([*GET, (b"content-length", b"5")], ended=False)
    assert known.framing == Framing(BodyKind.LENGTH, 5)
    assert request_head([*GET, (b"content-length", b"0")], ended=True).framing.empty


def test_crumbs_of_a_cookie_are_joined() -> None:
    crumbs = [(b"cookie", b"a=1"), (b"accept", b"*/*"), (b"cookie", b"b=2")]
    assert get(request_head([*GET, *crumbs], ended=True).headers, b"cookie") == b"a=1; b=2"


def test_te_says_that_trailers_are_taken_and_nothing_else() -> None:
    assert request_head([*GET, (b"te", b"trailers")], ended=True).takes_trailers
    with pytest.raises(MalformedHead):
        request_head([*GET, (b"te", b"trailers, gzip")], ended=True)


def test_host_may_repeat_the_authority_or_stand_for_it() -> None:
    both = request_head([*GET, (b"host", b"hello.myxo.localhost:4200")], ended=True)
    assert [value for name, value in both.headers if name == b"host"] == [GET[3][1]]
    alone = request_head([*without(b":authority"), (b"host", b"h")], ended=True)
    assert get(alone.headers, b"host") == b"h"


@pytest.mark.parametrize(
    "fields",
    [
        without(b":method"),
        without(b":scheme"),
        without(b":path"),
        [*GET, (b":method", b"GET")],
        [*GET, (b":status", b"200")],
        [*GET, (b":protocol", b"websocket")],
        [(b"accept", b"*/*"), *GET],
        [*without(b":path"), (b":path", b"")],
        [*without(b":path"), (b":path", b"x")],
        [*without(b":path"), (b":path", b"http://other/")],
        [*without(b":path"), (b":path", b"*")],
        [*without(b":path"), (b":path", b"/x HTTP/1.1\r\nHost: y")],
        [*without(b":path"), (b":path", b"/x y")],
        [*without(b":method"), (b":method", b"GET /admin")],
        [*without(b":authority"), (b":authority", b"me@hello")],
        [*GET, (b"host", b"other")],
        [*GET, (b"Accept", b"*/*")],
        [*GET, (b"", b"x")],
        [*GET, (b"a:b", b"x")],
        [*GET, (b"a b", b"x")],
        [*GET, (b"a\r\nb", b"x")],
        [*GET, (b"a", b"x\r\nb: c")],
        [*GET, (b"a", b"x\ny")],
        [*GET, (b"a", b"x\0")],
        [*GET, (b"a", b" x")],
        [*GET, (b"a", b"x\t")],
        [*GET, (b"connection", b"close")],
        [*GET, (b"transfer-encoding", b"chunked")],
        [*GET, (b"upgrade", b"h2c")],
        [*GET, (b"keep-alive", b"1")],
        [*GET, (b"proxy-connection", b"close")],
        [*GET, (b"content-length", b"3")],
    ],
)
def test_a_malformed_request_is_refused(fields: list[Field]) -> None:
    with pytest.raises(MalformedHead):
        request_head(fields, ended=True)


@pytest.mark.parametrize(
    ("fields", "status"),
    [
        (without(b":authority"), 400),
        ([*without(b":authority"), (b"host", b"a"), (b"host", b"a")], 400),
        ([*without(b":authority"), (b":authority", b"a b")], 400),
        ([*without(b":method"), (b":method", b"CONNECT")], 501),
        ([*GET, (b"content-length", b"x")], 400),
        ([*GET, (b"content-length", b"1"), (b"content-length", b"1")], 400),
        ([*GET, (b"expect", b"miracles")], 417),
        ([*without(b":path"), (b":path", b"/" + b"x" * 17_000)], 414),
        (GET + [(b"x-%d" % i, b"") for i in range(200)], 431),
    ],
)
def test_what_http1_would_refuse_is_refused_with_the_same_status(
    fields: list[Field], status: int
) -> None:
    with pytest.raises(BadRequest) as caught:
        request_head(fields, ended=False)
    assert caught.value.status == status


ANY = st.binary(max_size=12)
LIKELY = st.sampled_from([b":method", b":path", b":authority", b"host", b"te", b"content-length"])


@given(st.lists(st.tuples(LIKELY | ANY, ANY | st.sampled_from([b"GET", b"/", b"h"]))))
def test_no_request_means_another_one_when_it_is_written_as_http1(extra: list[Field]) -> None:
    try:
        head = request_head([*GET, *extra], ended=True)
    except (MalformedHead, BadRequest):
        return
    assert parse_request_head(serialise_request(head.method, head.target, head.headers)) == head


def test_a_request_is_sent_on_without_what_http2_does_not_have() -> None:
    headers = [
        (b"Host", b"h"),
        (b"Accept", b"*/*"),
        (b"TE", b"trailers"),
        (b"Connection", b"TE"),
        (b"Transfer-Encoding", b"chunked"),
    ]
    assert request_fields(b"POST", b"/p", headers) == [
        (b":method", b"POST"),
        (b":scheme", b"http"),
        (b":path", b"/p"),
        (b":authority", b"h"),
        (b"accept", b"*/*"),
        (b"te", b"trailers"),
    ]
    assert response_fields(204, [(b"Server", b"x"), (b"Connection", b"close")]) == [
        (b":status", b"204"),
        (b"server", b"x"),
    ]


@pytest.mark.parametrize(
    ("fields", "method", "ended", "framing"),
    [
        ([(b":status", b"200")], b"GET", False, CHUNKED),
        ([(b":status", b"200")], b"GET", True, Framing(BodyKind.LENGTH, 0)),
        (
            [(b":status", b"200"), (b"content-length", b"7")],
            b"GET",
            False,
            Framing(BodyKind.LENGTH, 7),
        ),
        ([(b":status", b"200"), (b"content-length", b"7")], b"HEAD", True, NO_BODY),
        ([(b":status", b"304"), (b"content-length", b"7")], b"GET", True, NO_BODY),
        ([(b":status", b"103")], b"GET", False, NO_BODY),
    ],
)
def test_an_answer_says_where_its_body_ends(
    fields: list[Field], method: bytes, ended: bool, framing: Framing
) -> None:
    head = response_head(fields, method, ended=ended)
    assert head.framing == framing
    assert head.status == int(fields[0][1])


@pytest.mark.parametrize(
    "fields",
    [
        [],
        [(b":status", b"20")],
        [(b":status", b"200"), (b":path", b"/")],
        [(b":status", b"200"), (b"a", b"x\r\ny: z")],
        [(b":status", b"200"), (b"connection", b"close")],
        [(b":status", b"200"), (b"content-length", b"5")],
    ],
)
def test_a_malformed_answer_is_refused(fields: list[Field]) -> None:
    with pytest.raises(BadResponse):
        response_head(fields, b"GET", ended=True)


def test_trailers_are_checked_and_bring_nothing_that_would_change_the_message() -> None:
    assert trailers([(b"grpc-status", b"0"), (b"host", b"x")]) == [(b"grpc-status", b"0")]
    for wrong in [(b":status", b"200"), (b"A", b""), (b"a", b"\n"), (b"upgrade", b"x")]:
        with pytest.raises(MalformedHead):
            trailers([wrong])
