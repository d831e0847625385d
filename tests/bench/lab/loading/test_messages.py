import pytest

from bench.lab.errors import BadInput
from bench.lab.loading.messages import message
from bench.lab.loading.target import target_of
from overlay.http.head import parse_request_head

TARGET = target_of("http://example.org:8080/base")


def head_and_body(data: bytes) -> tuple[dict[bytes, bytes], bytes]:
    head, _, body = data.partition(b"\r\n\r\n")
    parsed = parse_request_head(head + b"\r\n\r\n")
    return {name.lower(): value for name, value in parsed.headers}, body


def test_a_bare_request_is_a_get_of_the_target() -> None:
    made = message(TARGET)
    assert made.method == b"GET"
    assert made.data.startswith(b"GET /base HTTP/1.1\r\nHost: example.org:8080\r\n")
    assert made.data.endswith(b"\r\n\r\n")
    assert b"ontent-" not in made.data


def test_kwargs_mean_what_they_mean_to_requests() -> None:
    fields, body = head_and_body(message(TARGET, "post", "/x", {"json": {"a": 1}}).data)
    assert body == b'{"a":1}'
    assert fields[b"content-length"] == b"7"
    assert fields[b"content-type"] == b"application/json"
    fields, body = head_and_body(message(TARGET, "POST", "", {"data": {"a": "b c"}}).data)
    assert (body, fields[b"content-type"]) == (b"a=b+c", b"application/x-www-form-urlencoded")
    fields, body = head_and_body(message(TARGET, "PUT", "", {"data": b"\xff\x00"}).data)
    assert (body, fields[b"content-length"]) == (b"\xff\x00", b"2")


def test_parameters_join_those_of_the_url() -> None:
    target = target_of("http://example.org/a?b=1")
    assert message(target, kwargs={"params": {"c": "2"}}).data.startswith(b"GET /a?b=1&c=2 ")


def test_files_are_sent_as_forms_with_a_length() -> None:
    made = message(TARGET, "POST", "", {"files": {"image": ("a.jpg", b"JPEG", "image/jpeg")}})
    fields, body = head_and_body(made.data)
    assert fields[b"content-type"].startswith(b"multipart/form-data; boundary=")
    assert b"JPEG" in body
    assert int(fields[b"content-length"]) == len(body)


def test_own_fields_stand_instead_of_the_default_ones() -> None:
    made = message(
        TARGET, kwargs={"headers": {"User-Agent": "me", "Host": "other.org", "X-A": "b"}}
    )
    fields, _ = head_and_body(made.data)
    assert fields[b"user-agent"] == b"me"
    assert fields[b"host"] == b"other.org"
    assert fields[b"x-a"] == b"b"


def test_a_proxy_of_myxo_is_asked_who_answered() -> None:
    assert b"X-Myxo-Explain: 1\r\n" in message(TARGET, explained=True).data


@pytest.mark.parametrize(
    ("method", "path", "kwargs", "says"),
    [
        ("GET", "", {"timeout": 3}, "a request has no timeout; it may have"),
        ("GET", "http://elsewhere.org/", {}, "is not at http://example.org:8080"),
        ("GET", "", {"headers": {"A": "b\r\nC: d"}}, "cannot be made"),
        ("POST", "", {"json": object()}, "cannot be made"),
        ("GÄT", "", {}, "cannot be made"),
    ],
)
def test_what_cannot_be_sent_is_refused(
    method: str, path: str, kwargs: dict[str, object], says: str
) -> None:
    with pytest.raises(BadInput, match=says):
        message(TARGET, method, path, kwargs)
