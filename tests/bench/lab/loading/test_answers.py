import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.lab.loading.answers import AnswerReader, instance_of
from overlay.http.errors import HttpError
from overlay.http.head import ResponseHead

PLAIN = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nX-Myxo-Instance: abc\r\n\r\nhello"
CHUNKED = b"HTTP/1.1 404 No\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n"
EARLY = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early\r\nLink: </a>\r\n\r\n" + PLAIN
EMPTY = b"HTTP/1.1 204 No Content\r\n\r\n"
LAST = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
UNTIL_CLOSE = b"HTTP/1.1 200 OK\r\n\r\nall that comes"


def fed(reader: AnswerReader, data: bytes, cuts: list[int]) -> ResponseHead | None:
    """Feed in pieces; all but the last are not the whole answer."""
    places = sorted({cut % len(data) for cut in cuts} - {0})
    pieces = [data[a:b] for a, b in zip([0, *places], [*places, len(data)], strict=True)]
    for piece in pieces[:-1]:
        assert reader.feed(piece) is None
    return reader.feed(pieces[-1])


@given(
    st.sampled_from([(PLAIN, 200), (CHUNKED, 404), (EARLY, 200), (EMPTY, 204)]),
    st.lists(st.integers(0, 500), max_size=6),
)
def test_an_answer_is_whole_at_its_last_byte_however_it_is_cut(
    case: tuple[bytes, int], cuts: list[int]
) -> None:
    data, status = case
    reader = AnswerReader()
    for _ in range(2):
        reader.expect(b"GET")
        head = fed(reader, data, cuts)
        assert head is not None
        assert head.status == status
        assert reader.reusable


def test_an_answer_to_head_has_no_body() -> None:
    reader = AnswerReader()
    reader.expect(b"HEAD")
    head = reader.feed(PLAIN.removesuffix(b"hello"))
    assert head is not None
    assert instance_of(head) == "abc"
    assert reader.reusable


def test_a_connection_that_is_said_to_end_is_not_used_again() -> None:
    reader = AnswerReader()
    assert reader.feed(LAST) is not None
    assert not reader.reusable


def test_the_end_of_the_connection_may_be_that_of_the_answer() -> None:
    reader = AnswerReader()
    assert reader.feed(UNTIL_CLOSE) is None
    assert reader.end().status == 200
    assert not reader.reusable


@pytest.mark.parametrize("data", [b"", PLAIN[:-1], CHUNKED[:-5], PLAIN[:10]])
def test_an_answer_that_is_cut_is_none(data: bytes) -> None:
    reader = AnswerReader()
    assert not data or reader.feed(data) is None
    with pytest.raises(HttpError):
        reader.end()


@pytest.mark.parametrize(
    "data",
    [
        b"SSH-2.0-OpenSSH\r\n\r\n",
        PLAIN + b"x",
        EMPTY + b"x",
        b"HTTP/1.1 101 Switching\r\nUpgrade: x\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nX: " + b"a" * 70_000,
    ],
)
def test_what_is_no_answer_is_refused(data: bytes) -> None:
    with pytest.raises(HttpError):
        AnswerReader().feed(data)
