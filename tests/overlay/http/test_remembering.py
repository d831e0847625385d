import pytest

from overlay.http.errors import BadRequest
from overlay.http.head import RequestHead, parse_request_head, parse_response_head
from overlay.http.remembering import MOST, MOST_BYTES, by_head


def request(number: int, extra: int = 0) -> bytes:
    return b"GET /%d HTTP/1.1\r\nHost: h\r\nX: %b\r\n\r\n" % (number, b"x" * extra)


def test_the_same_bytes_give_the_same_head_and_others_another() -> None:
    first = parse_request_head(request(1))
    assert parse_request_head(bytes(bytearray(request(1)))) is first
    assert first.remembered
    assert parse_request_head(request(2)).target == b"/2"


def test_an_answer_to_head_is_not_taken_for_the_same_answer_to_get() -> None:
    data = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n"
    assert parse_response_head(data, b"GET").framing.length == 5
    assert parse_response_head(data, b"HEAD").framing.empty
    assert parse_response_head(data, b"GET").framing.length == 5


def test_a_long_head_is_not_kept() -> None:
    data = request(1, extra=MOST_BYTES)
    head = parse_request_head(data)
    assert not head.remembered
    assert parse_request_head(data) is not head


@pytest.mark.parametrize(
    "field",
    [
        b"Authorization: Basic dTpw",
        b"Proxy-Authorization: x",
        b"COOKIE: a=b",
        b"x-api-key: 1",
        b"X-Amz-Security-Token: 1",
        b"X_CSRF: 1",
    ],
)
def test_a_head_with_a_secret_is_not_kept(field: bytes) -> None:
    data = b"GET / HTTP/1.1\r\nHost: h\r\n%b\r\n\r\n" % field
    head = parse_request_head(data)
    assert not head.remembered
    assert parse_request_head(data) is not head
    answer = b"HTTP/1.1 200 OK\r\nSet-Cookie: a=b\r\n\r\n"
    assert parse_response_head(answer, b"GET") is not parse_response_head(answer, b"GET")


def test_so_many_heads_are_kept_and_the_oldest_goes_first() -> None:
    first = 1_000_000  # no other test has these
    heads = [parse_request_head(request(first + number)) for number in range(MOST)]
    assert parse_request_head(request(first)) is heads[0]
    parse_request_head(request(first + MOST))
    assert parse_request_head(request(first + 1)) is heads[1]
    assert parse_request_head(request(first)) is not heads[0]


def test_what_is_refused_is_refused_again() -> None:
    for _ in range(2):
        with pytest.raises(BadRequest):
            parse_request_head(b"GET / HTTP/1.1\r\n\r\n")


def test_work_on_a_head_is_done_once_for_the_same_arguments() -> None:
    calls: list[tuple[bytes, str]] = []

    @by_head
    def work(head: RequestHead, word: str) -> str:
        calls.append((head.target, word))
        return f"{head.target.decode()} {word}"

    one, other = parse_request_head(request(1)), parse_request_head(request(2))
    assert [work(one, "a"), work(one, "a"), work(other, "a")] == ["/1 a", "/1 a", "/2 a"]
    assert [work(one, "b"), work(one, "a")] == ["/1 b", "/1 a"]
    assert calls == [(b"/1", "a"), (b"/2", "a"), (b"/1", "b"), (b"/1", "a")]


def test_the_memory_of_work_on_heads_is_bounded_and_stays_right() -> None:
    calls: list[bytes] = []

    @by_head
    def work(head: RequestHead) -> bytes:
        calls.append(head.target)
        return head.target

    heads = [parse_request_head(request(n)) for n in range(MOST + 1)]
    assert [work(head) for head in heads] == [head.target for head in heads]
    assert work(heads[0]) == b"/0"
    assert calls[-1] == b"/0"
    assert work(heads[-1]) == b"/%d" % MOST
    assert len(calls) == MOST + 2


def test_work_on_a_head_that_is_not_kept_is_done_each_time() -> None:
    calls: list[bytes] = []

    @by_head
    def work(head: RequestHead) -> None:
        calls.append(head.target)

    head = parse_request_head(request(1, extra=MOST_BYTES))
    work(head)
    work(head)
    assert len(calls) == 2
