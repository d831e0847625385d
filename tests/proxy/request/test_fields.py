import pytest
from hypothesis import given
from hypothesis import strategies as st

from overlay.http.errors import BadRequest
from overlay.http.head import Field, RequestHead, parse_request_head, parse_response_head
from overlay.names import ServiceName
from proxy.errors import TooManyHops
from proxy.request.fields import (
    MAX_VIA,
    interim_fields,
    is_trusted,
    last_hop,
    request_fields,
    response_fields,
)
from proxy.route.caller import Origin
from proxy.route.routing import Route

ROUTE = Route(ServiceName("hello"), b"/x", b"127.0.0.1:4200", b"/hello")
NEAR = Origin("127.0.0.1", trusted=True)
FAR = Origin("2001:db8::1", "https")
DATE = (b"Date", b"now")


def parsed(*lines: str, line: str = "GET /hello/x HTTP/1.1") -> RequestHead:
    host = () if any(one.startswith("Host:") for one in lines) else ("Host: 127.0.0.1:4200",)
    return parse_request_head("\r\n".join([line, *host, *lines, "", ""]).encode())


def sent(*lines: str, origin: Origin = NEAR, line: str = "GET /hello/x HTTP/1.1") -> dict[str, str]:
    fields = request_fields(parsed(*lines, line=line), ROUTE, origin)
    assert len({name.lower() for name, _ in fields}) == len(fields)
    return {name.decode().lower(): value.decode() for name, value in fields}


def test_a_service_is_told_who_asked_for_what() -> None:
    assert sent("Accept: */*") == {
        "host": "127.0.0.1:4200",
        "accept": "*/*",
        "via": "1.1 myxo",
        "forwarded": 'for=127.0.0.1;host="127.0.0.1:4200";proto=http',
        "x-forwarded-for": "127.0.0.1",
        "x-forwarded-proto": "http",
        "x-forwarded-host": "127.0.0.1:4200",
        "x-forwarded-prefix": "/hello",
    }
    assert sent(origin=FAR)["forwarded"].startswith('for="[2001:db8::1]";')
    assert sent(origin=FAR)["x-forwarded-proto"] == "https"


TOLD = (
    "Forwarded: for=10.0.0.9;proto=https",
    "X-Forwarded-For: 10.0.0.9",
    "X-Forwarded-For: 10.0.0.8",
    "X-Forwarded-Proto: https",
    "X-Forwarded-Host: shop.example",
    "X-Forwarded-Prefix: /outer",
    "X-Forwarded-Port: 443",
    "X-Real-IP: 10.0.0.9",
)


def test_what_a_trusted_client_says_of_those_before_it_is_continued() -> None:
    fields = sent(*TOLD)
    assert fields["forwarded"].startswith("for=10.0.0.9;proto=https, for=127.0.0.1;")
    assert fields["x-forwarded-for"] == "10.0.0.9, 10.0.0.8, 127.0.0.1"
    assert fields["x-forwarded-proto"] == "https"
    assert fields["x-forwarded-host"] == "shop.example"
    assert fields["x-forwarded-prefix"] == "/outer/hello"
    assert fields["x-forwarded-port"] == "443"
    assert fields["x-real-ip"] == "10.0.0.9"


@pytest.mark.parametrize("underscored", [False, True])
def test_what_another_client_says_of_those_before_it_is_dropped(underscored: bool) -> None:
    lines = [one.replace("-", "_") if underscored else one for one in TOLD]
    assert sent(*lines, origin=FAR) == sent(origin=FAR)


def test_via_grows_and_has_the_version_that_was_received() -> None:
    head = parsed("Via: 1.1 a, 2 b", line="GET /hello/x HTTP/1.0")
    vias = [v for n, v in request_fields(head, ROUTE, FAR) if n.lower() == b"via"]
    assert vias == [b"1.1 a, 2 b", b"1.0 myxo"]


def test_a_request_that_goes_in_a_circle_ends() -> None:
    hops = ", ".join(["1.1 nginx", "1.1 myxo"] * MAX_VIA)
    with pytest.raises(TooManyHops) as refused:
        request_fields(parsed(f"Via: {hops}"), ROUTE, NEAR)
    assert refused.value.status == 508
    request_fields(parsed("Via: " + ", ".join(["1.1 myxo"] * (MAX_VIA - 1))), ROUTE, NEAR)


def test_the_targets_authority_is_the_host_where_there_is_one() -> None:
    line = "GET http://hello/x HTTP/1.1"
    route = Route(ServiceName("hello"), b"/x", b"hello")
    fields = request_fields(parsed("Host: other", line=line), route, NEAR)
    assert [v for n, v in fields if n.lower() == b"host"] == [b"hello"]


def test_who_sent_no_host_has_one_sent() -> None:
    head = parse_request_head(b"GET /hello HTTP/1.0\r\n\r\n")
    fields = request_fields(head, Route(ServiceName("hello"), b"/"), NEAR)
    assert (b"Host", b"localhost") in fields
    assert not [n for n, _ in fields if n == b"X-Forwarded-Host"]


def test_what_concerns_the_connection_stays_on_it() -> None:
    fields = sent(
        "Connection: close, X-Private, x_other, X-Forwarded-For",
        "X-Private: 1",
        "X_Other: 1",
        "Keep-Alive: timeout=5",
        "Proxy-Connection: keep-alive",
        "Proxy_Connection: keep-alive",
        "TE: trailers",
        "Upgrade: websocket",
        "Content-Length: 0",
        "Content_Length: 5",
        "Transfer_Encoding: chunked",
        "Myxo-Instance: forged",
        "Myxo_Instance: forged",
        "X-Myxo-Chain: forged",
    )
    assert fields == sent()


@pytest.mark.parametrize(
    ("method", "left", "last"),
    [("TRACE", "0", True), ("OPTIONS", "00", True), ("TRACE", "1", False), ("GET", "0", False)],
)
def test_a_limited_request_ends_when_it_has_no_hop_left(method: str, left: str, last: bool) -> None:
    head = parsed(f"Max-Forwards: {left}", line=f"{method} /hello/x HTTP/1.1")
    assert last_hop(head) is last


def test_a_hop_costs_one_and_other_methods_do_not_count() -> None:
    for method, left in (("TRACE", "6"), ("OPTIONS", "6"), ("GET", "7")):
        fields = sent("Max-Forwards: 7", line=f"{method} /hello/x HTTP/1.1")
        assert fields["max-forwards"] == left


@pytest.mark.parametrize("left", ["-1", "x", "1" * 10, "1,2", "1\r\nMax-Forwards: x"])
def test_hops_that_are_no_number_are_refused(left: str) -> None:
    with pytest.raises(BadRequest):
        last_hop(parsed(f"Max-Forwards: {left}", line="TRACE /hello HTTP/1.1"))


def answered(*lines: str, version: str = "1.1") -> list[Field]:
    data = "\r\n".join([f"HTTP/{version} 200 OK", *lines, "", ""])
    return [*response_fields(parse_response_head(data.encode(), b"GET"), DATE)]


def test_an_answer_is_dated_and_says_which_way_it_came() -> None:
    assert answered("Server: x") == [(b"Server", b"x"), DATE, (b"Via", b"1.1 myxo")]
    theirs = (b"date", b"theirs")
    assert answered("date: theirs", version="1.0") == [theirs, (b"Via", b"1.0 myxo")]


def test_an_answer_says_nothing_in_our_name() -> None:
    lines = ("Connection: x-a", "X-A: 1", "Myxo-In-Flight: 1", "Myxo_Refused: gone", "Upgrade: a")
    assert answered(*lines, "X-Myxo-Chain: a") == [DATE, (b"Via", b"1.1 myxo")]


def test_an_interim_answer_says_which_way_it_came_and_is_not_dated() -> None:
    data = b"HTTP/1.%d 103 Early Hints\r\nLink: </x>\r\nMyxo-In-Flight: 1\r\n\r\n"
    for minor in (0, 1):
        head = parse_response_head(data % minor, b"GET")
        assert [*interim_fields(head)] == [(b"Link", b"</x>"), (b"Via", b"1.%d myxo" % minor)]


@pytest.mark.parametrize(
    ("address", "trusted"),
    [
        ("127.9.9.9", True),
        ("::1", True),
        ("10.0.0.1", False),
        ("::1%lo", True),
        ("unknown", False),
        ("::ffff:127.0.0.1", False),
    ],
)
def test_who_is_trusted_is_a_question_of_networks(address: str, trusted: bool) -> None:
    assert is_trusted(address, ("127.0.0.0/8", "::1/128")) is trusted


names = st.sampled_from(
    ["X-Forwarded-For", "Forwarded", "x_forwarded_for", "Via", "Connection", "X-A", "Cookie"]
)


@given(st.lists(st.tuples(names, st.sampled_from(["x-a", "cookie, via", "10.0.0.1", ""]))))
def test_whatever_a_stranger_sends_only_its_address_is_told(said: list[tuple[str, str]]) -> None:
    fields = request_fields(parsed(*[f"{n}: {v}" for n, v in said]), ROUTE, FAR)
    told = [v for n, v in fields if n.lower().replace(b"_", b"-") == b"x-forwarded-for"]
    assert told == [b"2001:db8::1"]
    assert len([n for n, _ in fields if n.lower() == b"forwarded"]) == 1
