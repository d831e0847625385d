import pytest

from overlay.http.head import is_grpc, parse_request_head
from proxy.request.grpc import refusal


@pytest.mark.parametrize(
    ("kind", "grpc"),
    [
        (b"application/grpc", True),
        (b"application/grpc+proto", True),
        (b"application/grpc; charset=utf-8", True),
        (b"application/grpc-web", False),
        (b"application/json", False),
    ],
)
def test_a_call_is_known_by_its_content_type(kind: bytes, grpc: bool) -> None:
    head = b"POST /a HTTP/1.1\r\nHost: h\r\nContent-Type: %b\r\n\r\n" % kind
    assert is_grpc(parse_request_head(head)) is grpc


@pytest.mark.parametrize(
    ("status", "code"), [(400, b"13"), (403, b"7"), (404, b"12"), (503, b"14"), (508, b"2")]
)
def test_a_refusal_has_the_code_that_envoy_sends(status: int, code: bytes) -> None:
    assert (b"grpc-status", code) in refusal(status, "no", None)


def test_a_refusal_says_why_in_one_line_and_when_to_come_back() -> None:
    fields = dict(refusal(503, "nothing runs:\n 100 % full – ü", 2))
    assert fields[b"grpc-message"] == b"nothing runs:%0A 100 %25 full %E2%80%93 %C3%BC"
    assert fields[b"grpc-retry-pushback-ms"] == b"2000"


def test_a_call_that_took_too_long_is_told_apart_from_one_that_never_began() -> None:
    assert (b"grpc-status", b"4") in refusal(504, "late", None, late=True)
    assert (b"grpc-status", b"14") in refusal(504, "never ready", None)
