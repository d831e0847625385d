import pytest
from hypothesis import given
from hypothesis import strategies as st

from overlay.balancing import Balancing
from overlay.http.head import parse_request_head
from overlay.names import InstanceId, ServiceName
from overlay.spec import ServiceSpec
from proxy.route.affinity import cookie, key_of, key_of_tunnel, tie
from proxy.route.caller import Caller, Origin
from proxy.route.routing import Route

HEAD = parse_request_head(
    b"GET /net/x?q=1 HTTP/1.1\r\nHost: h\r\nX-User: ann\r\nCookie: a=1; sid=s7\r\n"
    b'Cookie: b="2"\r\nX-Myxo-Destination: i9\r\n\r\n'
)
ROUTE = Route(ServiceName("net"), b"/x?q=1", b"h", b"/net")
ORIGIN = Origin("10.0.0.9")
WITHIN = Origin("10.0.0.9", caller=Caller(ServiceName("web"), InstanceId("w1")))


def key(name: str, hashed: str | None = None, origin: Origin = ORIGIN) -> bytes | None:
    spec = ServiceSpec(process="x", policy=Balancing(name=name, hash=hashed))
    return key_of(spec, HEAD, ROUTE, origin)


@pytest.mark.parametrize(
    ("hashed", "expected"),
    [
        ("header:x-USER", b"ann"),
        ("header:X-Other", None),
        ("cookie:sid", b"s7"),
        ("cookie:b", b"2"),
        ("cookie:c", None),
        ("path", b"/x"),
        ("client", b"10.0.0.9"),
        (None, b"10.0.0.9"),
    ],
)
def test_a_hashing_policy_goes_by_what_the_definition_says(
    hashed: str | None, expected: bytes | None
) -> None:
    assert key("maglev", hashed) == expected


@pytest.mark.parametrize(
    ("name", "hashed", "expected"),
    [
        ("maglev", None, b"10.0.0.9"),
        ("ring_hash", "client", b"10.0.0.9"),
        ("ring_hash", "path", None),
        ("round_robin", "client", None),
    ],
)
def test_a_tunnel_goes_by_its_client_or_by_nothing(
    name: str, hashed: str | None, expected: bytes | None
) -> None:
    spec = ServiceSpec(process="x", policy=Balancing(name=name, hash=hashed))
    assert key_of_tunnel(spec, "10.0.0.9") == expected
    assert key_of_tunnel(ServiceSpec(process="x"), "10.0.0.9") is None


def test_an_instance_that_calls_is_its_own_client() -> None:
    assert key("ring_hash", "client", WITHIN) == b"w1"


def test_other_policies_go_by_nothing_and_the_original_destination_by_its_field() -> None:
    assert key("round_robin", "path") is None
    assert key("original_destination") == b"i9"
    assert key_of(ServiceSpec(process="x"), HEAD, ROUTE, ORIGIN) is None


@given(st.binary(max_size=60))
def test_any_cookie_field_can_be_read(value: bytes) -> None:
    cookie([(b"Cookie", value)], "a")
    assert cookie([(b"cookie", b"a=1; " + value.replace(b"a", b"b"))], "a") == b"1"


def test_a_client_is_tied_by_a_cookie_of_the_services_own_path() -> None:
    spec = ServiceSpec(process="x", sticky="sid")
    name, value = tie(spec, InstanceId("i1"), ROUTE, ORIGIN) or (b"", b"")
    assert name == b"Set-Cookie"
    assert value == b"sid=i1; Path=/net; HttpOnly; SameSite=Lax"
    secure = tie(spec, InstanceId("i1"), Route(ServiceName("net"), b"/"), Origin("::1", "https"))
    assert secure == (b"Set-Cookie", b"sid=i1; Path=/; HttpOnly; SameSite=Lax; Secure")
    assert tie(ServiceSpec(process="x"), InstanceId("i1"), ROUTE, ORIGIN) is None
    assert tie(spec, InstanceId("a; b"), ROUTE, ORIGIN) is None
