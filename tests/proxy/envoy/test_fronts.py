import pytest

from overlay.http.errors import BadRequest
from overlay.http.head import RequestHead, get, parse_request_head
from proxy.envoy.fronts import Front, meant
from proxy.route.exposure import exposure_of

INSIDE = Front(
    "inside",
    "127.0.0.1",
    4200,
    machine_names=frozenset({"alpha"}),
    trusted=("127.0.0.0/8",),
)
OUTSIDE = Front("outside0", "0.0.0.0", 443, "https", exposure_of(["hello"]))
FRONTS = {front.name: front for front in (INSIDE, OUTSIDE)}


def head(target: str, *lines: str, host: str = "localhost") -> RequestHead:
    whole = [f"GET {target} HTTP/1.1", f"Host: {host}", *lines, "", ""]
    return parse_request_head("\r\n".join(whole).encode())


def test_a_request_that_was_passed_on_is_its_clients() -> None:
    passed = head("/hello/x", "Myxo-Front: inside", "Myxo-Client: 127.0.0.9", "Via: 1.1 a")
    said, origin = meant(passed, FRONTS)
    assert (said.target, get(said.headers, b"via")) == (b"/hello/x", b"1.1 a")
    assert (origin.address, origin.trusted, origin.local) == ("127.0.0.9", True, True)


def test_a_client_from_outside_is_believed_nothing_and_reaches_what_is_exposed() -> None:
    said, origin = meant(head("/x", "Myxo-Front: outside0", "Myxo-Client: 127.0.0.1"), FRONTS)
    assert said.target == b"/x"
    assert origin.exposure is OUTSIDE.exposure
    assert (origin.scheme, origin.trusted, origin.local) == ("https", False, False)


def test_what_envoy_began_to_serve_is_as_it_was_sent() -> None:
    begun = head(
        "/x?y",
        "Myxo-Front: inside",
        "Myxo-Service: hello",
        "Via: 1.1 myxo",
        "Forwarded: for=127.0.0.1",
        "X-Forwarded-For: 127.0.0.1",
        "X-Forwarded-Host: localhost",
        "X-Forwarded-Proto: http",
        "X-Forwarded-Prefix: /hello",
        "X-Request-Id: 7",
    )
    said, origin = meant(begun, FRONTS)
    assert (said.target, origin.address) == (b"/hello/x?y", "127.0.0.1")
    left = [name for name, _ in said.headers]
    assert left == [b"Host", b"Myxo-Front", b"Myxo-Service", b"X-Request-Id"]
    assert not said.remembered


@pytest.mark.parametrize(
    ("host", "target"),
    [
        ("hello", b"http://hello/x"),
        ("hello:80", b"http://hello:80/x"),
        ("localhost:4200", b"/x"),
        ("alpha", b"/x"),
        ("127.0.0.1", b"/x"),
        ("hello.myxo.localhost", b"/x"),
        ("evil.example", b"/x"),
    ],
)
def test_only_a_bare_name_is_taken_for_an_absolute_target(host: str, target: bytes) -> None:
    said, _ = meant(head("/x", "Myxo-Front: inside", host=host), FRONTS)
    assert said.target == target


def test_nobody_but_envoy_is_served() -> None:
    with pytest.raises(BadRequest):
        meant(head("/hello/x"), FRONTS)
    with pytest.raises(BadRequest):
        meant(head("/hello/x", "Myxo-Front: other"), FRONTS)
