import pytest
from hypothesis import given
from hypothesis import strategies as st

from overlay.errors import InvalidName
from overlay.http.head import parse_request_head
from proxy.errors import Misdirected
from proxy.route.paths import Paths, paths_of
from proxy.route.routing import route_by_path

PATHS = paths_of({"/policy": "p-1", "/policy/new": "p-2", "/a/b/c": "abc"})
segments = st.lists(st.text("abc.", min_size=1, max_size=2), max_size=5)


def found(target: str, paths: Paths = PATHS) -> tuple[str, str, str] | None:
    result = paths.find(target.encode())
    return None if result is None else (result[0], result[1].decode(), result[2].decode())


@pytest.mark.parametrize(
    ("target", "service", "prefix", "rest"),
    [
        ("/policy", "p-1", "/policy", "/"),
        ("/policy/", "p-1", "/policy", "/"),
        ("/policy?x=/a/b/c", "p-1", "/policy", "/?x=/a/b/c"),
        ("/policy/7?x=1", "p-1", "/policy", "/7?x=1"),
        ("/policy/new", "p-2", "/policy/new", "/"),
        ("/policy/newer", "p-1", "/policy", "/newer"),
        ("/policy/new//x", "p-2", "/policy/new", "//x"),
        ("/a/b/c/d", "abc", "/a/b/c", "/d"),
    ],
)
def test_the_longest_path_leads_and_the_service_sees_what_is_below_it(
    target: str, service: str, prefix: str, rest: str
) -> None:
    assert found(target) == (service, prefix, rest)


@pytest.mark.parametrize("target", ["/", "/policyholders", "/a/b", "*", "//policy", "/Policy"])
def test_what_no_path_leads_to_is_not_found(target: str) -> None:
    assert found(target) is None


def test_the_root_leads_everything_that_no_other_path_does() -> None:
    paths = paths_of({"/": "home", "/policy": "p-1"})
    assert found("/", paths) == ("home", "", "/")
    assert found("/x/y?z", paths) == ("home", "", "/x/y?z")
    assert found("/policy/x", paths) == ("p-1", "/policy", "/x")


@given(segments, st.lists(segments, max_size=5))
def test_they_are_found_as_who_tries_each_one_finds_them(
    asked: list[str], known: list[list[str]]
) -> None:
    services = {"/" + "/".join(parts): "s" for parts in known if not {".", ".."} & set(parts)}
    target = "/" + "/".join(asked)
    fitting = [p for p in services if (target + "/").startswith(p.rstrip("/") + "/")]
    expected = max(fitting, key=len).rstrip("/") if fitting else None
    result = found(target, paths_of(services))
    assert (None if result is None else result[1]) == expected


@pytest.mark.parametrize(
    "path", ["", "policy", "/a b", "/a?b", "/a#b", "//a", "/a/../b", "/ä", "/a" * 17]
)
def test_what_is_no_path_is_refused(path: str) -> None:
    with pytest.raises(ValueError, match=r"path|segment"):
        paths_of({path: "service"})


def test_a_path_that_is_there_twice_or_names_no_service_is_refused() -> None:
    with pytest.raises(ValueError, match="twice"):
        paths_of({"/a": "one", "/a/": "two"})
    with pytest.raises(InvalidName):
        paths_of({"/a": "No Service"})


def test_paths_come_before_names_and_only_where_the_host_is_this_machine() -> None:
    def head(host: str, target: str) -> bytes:
        return f"GET {target} HTTP/1.1\r\nHost: {host}\r\n\r\n".encode()

    routed = route_by_path(
        parse_request_head(head("localhost:8080", "/policy/x")), frozenset(), PATHS
    )
    assert (routed.service, routed.target, routed.prefix) == ("p-1", b"/x", b"/policy")
    routed = route_by_path(parse_request_head(head("localhost", "/other/x")), frozenset(), PATHS)
    assert routed.service == "other"
    with pytest.raises(Misdirected):
        route_by_path(parse_request_head(head("evil.example", "/policy")), frozenset(), PATHS)


def test_a_remembered_head_goes_another_way_once_the_paths_have_changed() -> None:
    head = parse_request_head(b"GET /policy HTTP/1.1\r\nHost: localhost\r\n\r\n")
    assert route_by_path(head, frozenset(), PATHS).service == "p-1"
    assert route_by_path(head, frozenset(), paths_of({"/policy": "p-9"})).service == "p-9"
