import pytest
from hypothesis import given
from hypothesis import strategies as st

from overlay.http.errors import BadRequest
from overlay.http.head import parse_request_head
from proxy.errors import CrossSite, Misdirected, NotAService, RequestRefused
from proxy.route.routing import Route, route_of

NAMES = frozenset({"node-7", "node-7.lan"})


def route(target: str, host: str = "127.0.0.1:4200", *fields: str) -> tuple[str, str]:
    lines = [f"GET {target} HTTP/1.1", f"Host: {host}", *fields, "", ""]
    found = route_of(parse_request_head("\r\n".join(lines).encode()), NAMES)
    return found.service, found.target.decode()


@pytest.mark.parametrize(
    ("target", "service", "rest"),
    [
        ("/hello", "hello", "/"),
        ("/hello/", "hello", "/"),
        ("/hello?a=b/c", "hello", "/?a=b/c"),
        ("/hello/x/y?q=1&r", "hello", "/x/y?q=1&r"),
        ("/hello//x", "hello", "//x"),
        ("/hello/../x", "hello", "/../x"),
        ("/hello/%2F%00", "hello", "/%2F%00"),
        ("/alice%3Ahello/x", "alice:hello", "/x"),
        ("/%68ello", "hello", "/"),
        ("/alice:hello-1.0_x", "alice:hello-1.0_x", "/"),
    ],
)
def test_a_path_names_the_service_and_the_rest_is_passed_on_untouched(
    target: str, service: str, rest: str
) -> None:
    assert route(target) == (service, rest)


@pytest.mark.parametrize(
    "target",
    [
        "/",
        "//x",
        "/?q",
        "/..",
        "/%2e%2e",
        "/../etc",
        "/a..b",
        "/hello%2Fworld",
        "/hello%00",
        "/hello%0d%0aX",
        "/%C3%A9",
        "/%FF",
        "/%",
        "/Hello",
        "/-x",
        "/x-",
        "/" + "a" * 64,
        "/a;b",
        "ftp://hello/",
        "https://hello/",
    ],
)
def test_what_is_no_service_name_is_not_found(target: str) -> None:
    with pytest.raises(NotAService):
        route(target)


@pytest.mark.parametrize(
    "host",
    [
        "127.0.0.1",
        "127.0.0.1:4200",
        "[::1]:4200",
        "[::1]",
        "localhost",
        "LOCALHOST:80",
        "node-7",
        "Node-7.lan:4200",
        "10.1.2.3",
        "[fe80::1]:1",
    ],
)
def test_a_path_is_followed_where_the_host_is_this_machine(host: str) -> None:
    assert route("/hello/x", host) == ("hello", "/x")


@pytest.mark.parametrize(
    "host",
    [
        "evil.example",
        "127.0.0.1.evil.example",
        "localhost.evil.example",
        "myxo.localhost",
        "evil.example:4200",
        "node-8",
        "1.2.3",
        "0x7f.1",
        "hello.myxo.localhost.evil.example",
    ],
)
def test_a_rebound_name_is_misdirected(host: str) -> None:
    with pytest.raises(Misdirected) as refused:
        route("/hello", host)
    assert refused.value.status == 421


@pytest.mark.parametrize("host", ["hello.myxo.localhost", "HELLO.myxo.localhost:4200"])
def test_a_host_names_the_service_and_the_target_is_passed_on_untouched(host: str) -> None:
    assert route("/a/b?c", host) == ("hello", "/a/b?c")


def test_a_host_that_is_no_service_name_is_not_found() -> None:
    with pytest.raises(NotAService):
        route("/", ".myxo.localhost")


@pytest.mark.parametrize(
    ("target", "rest"),
    [
        ("http://hello/x?y", "/x?y"),
        ("http://hello", "/"),
        ("http://hello:80/", "/"),
        ("http://hello.myxo.localhost/x", "/x"),
        ("http://HELLO?q", "/?q"),
    ],
)
def test_the_absolute_form_names_the_service_as_its_host(target: str, rest: str) -> None:
    assert route(target, "hello") == ("hello", rest)


def test_what_follows_the_name_in_an_absolute_form_goes_on_byte_for_byte() -> None:
    for rest in ("/", "/?", "/a%2Fb/../c", "//x", "/a?b?c", "/;x"):
        assert route(f"http://hello{rest}", "hello") == ("hello", rest)


def test_a_machines_own_address_in_an_absolute_form_is_followed_by_its_path() -> None:
    for authority in ("127.0.0.1:4200", "localhost", "[::1]:4200"):
        assert route(f"http://{authority}/hello/x?y", "evil.example") == ("hello", "/x?y")


@pytest.mark.parametrize("host", ["hello:80", "hello.myxo.localhost:443", "HELLO:1"])
def test_a_connect_names_the_service_and_any_port(host: str) -> None:
    head = parse_request_head(f"CONNECT {host} HTTP/1.1\r\nHost: evil.example\r\n\r\n".encode())
    assert route_of(head, NAMES).service == "hello"


def test_a_connect_to_an_address_literal_is_refused() -> None:
    head = parse_request_head(b"CONNECT [::1]:80 HTTP/1.1\r\nHost: hello\r\n\r\n")
    with pytest.raises(NotAService):
        route_of(head, NAMES)


def test_options_of_a_whole_service_are_asked_for_with_a_star() -> None:
    for line, host in (("http://hello", "x"), ("*", "hello.myxo.localhost")):
        head = parse_request_head(f"OPTIONS {line} HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())
        found = route_of(head, NAMES)
        assert (found.service, found.target) == ("hello", b"*")


@pytest.mark.parametrize("target", ["http://[::1/x", "http://]/", "http://[x]/"])
def test_a_broken_absolute_form_is_refused(target: str) -> None:
    with pytest.raises((NotAService, BadRequest)):
        route(target)


@pytest.mark.parametrize("site", ["cross-site", "CROSS-SITE", "anything"])
def test_another_sites_page_is_refused_in_every_form(site: str) -> None:
    forms = [("/hello", "localhost"), ("/", "hello.myxo.localhost"), ("http://hello/", "hello")]
    for target, host in forms:
        with pytest.raises(CrossSite) as refused:
            route(target, host, f"Sec-Fetch-Site: {site}")
        assert refused.value.status == 403


@pytest.mark.parametrize("site", ["same-origin", "same-site", "none", "None"])
def test_a_page_of_the_same_site_and_the_address_bar_are_served(site: str) -> None:
    assert route("/hello", "localhost", f"Sec-Fetch-Site: {site}") == ("hello", "/")


def test_an_http_1_0_request_without_a_host_is_served() -> None:
    head = parse_request_head(b"GET /hello/x HTTP/1.0\r\n\r\n")
    assert route_of(head, NAMES).target == b"/x"


visible = st.text(st.characters(min_codepoint=0x21, max_codepoint=0x7E), min_size=1, max_size=40)


@given(target=visible, host=visible, absolute=st.booleans())
def test_every_request_is_routed_or_refused(target: str, host: str, absolute: bool) -> None:
    line = f"http://{target}" if absolute else f"/{target}"
    try:
        head = parse_request_head(f"GET {line} HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())
    except BadRequest:
        return
    try:
        found = route_of(head, NAMES)
    except RequestRefused:
        return
    assert isinstance(found, Route)
    assert found.target.startswith(b"/")
    assert not {b"\r"[0], b"\n"[0], b" "[0]} & set(found.target)
