import pytest

from overlay.errors import InvalidName
from overlay.http.head import Field, RequestHead, parse_request_head
from overlay.names import ServiceName
from proxy.errors import NotExposed
from proxy.request.fields import without_claims
from proxy.route.exposure import exposure_of
from proxy.route.routing import Route

HELLO, SHOP = ServiceName("hello"), ServiceName("shop")
EDGE = exposure_of(["hello", "shop=Shop.Example.com"])


def request(target: str, host: str = "edge.example.com", *fields: str) -> RequestHead:
    method = "CONNECT" if target == "hello:80" else "GET"
    lines = [f"{method} {target} HTTP/1.1", f"Host: {host}", *fields, "", ""]
    return parse_request_head("\r\n".join(lines).encode())


def test_an_exposed_service_is_named_by_the_path_under_any_host() -> None:
    found = EDGE.route(request("/hello/a%20b?q=1"))
    assert found == Route(HELLO, b"/a%20b?q=1", b"edge.example.com", b"/hello")


def test_a_host_that_is_a_services_leads_there_with_the_whole_path() -> None:
    assert EDGE.route(request("/hello/x", "SHOP.example.com:8443")) == Route(
        SHOP, b"/hello/x", b"SHOP.example.com:8443"
    )
    assert EDGE.route(request("/x", "hello.myxo.localhost")).service == HELLO


def test_the_absolute_forms_authority_counts_as_the_host() -> None:
    found = EDGE.route(request("http://shop.example.com/x?y", "other"))
    assert (found.service, found.target) == (SHOP, b"/x?y")


@pytest.mark.parametrize(
    ("target", "host"),
    [
        ("/other/x", "edge.example.com"),
        ("/shop/x", "edge.example.com"),
        ("/", "edge.example.com"),
        ("/x", "other.myxo.localhost"),
        ("/x", "example.com"),
        ("//hello", "edge.example.com"),
        ("/Hello", "edge.example.com"),
        ("/hello%2Fx", "edge.example.com"),
        ("/%00/", "edge.example.com"),
        ("hello:80", "hello:80"),
        ("http://other/x", "hello.myxo.localhost"),
    ],
)
def test_nothing_else_is_there(target: str, host: str) -> None:
    with pytest.raises(NotExposed):
        EDGE.route(request(target, host))


@pytest.mark.parametrize("written", [["="], ["hello="], ["hello=a/b"], ["a=x.org", "b=X.org"]])
def test_what_cannot_be_exposed_is_refused(written: list[str]) -> None:
    with pytest.raises((ValueError, InvalidName)):
        exposure_of(written)


@pytest.mark.parametrize(
    "claim",
    [
        "X-Forwarded-For: 10.0.0.1",
        "x_forwarded_for: 10.0.0.1",
        "X-Forwarded-Client-Cert: Hash=1",
        "Forwarded: for=10.0.0.1",
        "X-Real-IP: 10.0.0.1",
        "X-Request-Id: 1",
        "X-Myxo-Explain: 1",
        "X_Myxo_Chain: a, b",
        "Myxo-Instance: i1",
    ],
)
def test_what_a_client_outside_claims_is_dropped(claim: str) -> None:
    kept: list[Field] = [(b"Host", b"edge.example.com"), (b"Accept", b"*/*")]
    head = request("/hello", "edge.example.com", claim, "Accept: */*")
    assert without_claims(head).headers == kept
