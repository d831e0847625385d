import pytest
from h2.errors import ErrorCodes
from hypothesis import given
from hypothesis import strategies as st

from overlay.http.h2_frames import (
    ACK,
    MAX_CONTINUATIONS,
    MAX_FRAME_BYTES,
    PREFACE,
    Budget,
    ConnectionFault,
    Kind,
    Splitter,
    goaway,
    last_stream_of,
)


def frame(kind: int, payload: bytes = b"", *, flags: int = 0, stream: int = 0) -> bytes:
    length = len(payload).to_bytes(3, "big")
    return length + bytes((kind, flags)) + stream.to_bytes(4, "big") + payload


SETTINGS = frame(Kind.SETTINGS)
FRAMES = st.lists(
    st.builds(
        frame,
        st.sampled_from([Kind.DATA, Kind.HEADERS, Kind.PING, 77]),
        st.binary(max_size=40),
        flags=st.integers(0, 255),
        stream=st.integers(0, 2**31 - 1),
    )
)


@given(FRAMES, st.lists(st.integers(1, 30)), st.booleans())
def test_frames_are_the_same_wherever_reads_cut_them(
    frames: list[bytes], cuts: list[int], server: bool
) -> None:
    whole = (PREFACE if server else b"") + SETTINGS + b"".join(frames)
    splitter, got, at = Splitter(PREFACE if server else b""), [], 0
    for cut in [*cuts, len(whole)]:
        got += splitter.feed(whole[at : at + cut])
        at += cut
    assert [one.data for one in got] == [SETTINGS, *frames]
    assert splitter.feed(b"") == []


def test_frames_know_their_stream_and_whether_they_carry_anything() -> None:
    sent = [
        SETTINGS,
        frame(Kind.DATA, stream=5),
        frame(Kind.DATA, flags=1, stream=5),
        frame(Kind.DATA, b"x", stream=5),
        frame(Kind.HEADERS, b"x", stream=7 | 2**31),
        frame(Kind.PING, bytes(8)),
    ]
    got = Splitter().feed(b"".join(sent))
    assert [one.carries for one in got] == [False, False, True, True, True, False]
    assert [one.stream for one in got] == [0, 5, 5, 5, 7, 0]


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (b"GET / HTTP/1.1\r\n", ErrorCodes.PROTOCOL_ERROR),
        (PREFACE + frame(Kind.PING, bytes(8)), ErrorCodes.PROTOCOL_ERROR),
        (PREFACE + frame(Kind.SETTINGS, flags=ACK), ErrorCodes.PROTOCOL_ERROR),
        (
            PREFACE + SETTINGS + (MAX_FRAME_BYTES + 1).to_bytes(3, "big") + bytes(6),
            ErrorCodes.FRAME_SIZE_ERROR,
        ),
        (
            PREFACE + SETTINGS + frame(Kind.CONTINUATION, stream=1) * (MAX_CONTINUATIONS + 1),
            ErrorCodes.ENHANCE_YOUR_CALM,
        ),
    ],
)
def test_what_is_no_http2_or_too_long_ends_the_connection(data: bytes, code: ErrorCodes) -> None:
    with pytest.raises(ConnectionFault) as caught:
        Splitter(PREFACE).feed(data)
    assert caught.value.code is code


def test_a_preface_that_goes_wrong_is_noticed_at_its_first_wrong_byte() -> None:
    splitter = Splitter(PREFACE)
    assert splitter.feed(b"PRI * HT") == []
    with pytest.raises(ConnectionFault):
        splitter.feed(b"X")


def test_a_goaway_says_up_to_where_streams_are_looked_at() -> None:
    splitter = Splitter()
    _, one = splitter.feed(SETTINGS + goaway(41, ErrorCodes.NO_ERROR, "bye"))
    assert one.kind == Kind.GOAWAY
    assert last_stream_of(one) == 41
    (short,) = splitter.feed(frame(Kind.GOAWAY, bytes(7)))
    with pytest.raises(ConnectionFault):
        last_stream_of(short)


def test_a_budget_is_spent_at_once_filled_by_time_and_earned() -> None:
    budget = Budget(3, 1, now=10.0)
    assert [budget.spend(10.0) for _ in range(4)] == [True, True, True, False]
    assert budget.spend(11.0)
    assert not budget.spend(11.5)
    budget.earn(1)
    assert budget.spend(11.5)


@given(st.lists(st.tuples(st.floats(0, 10), st.floats(0, 10))))
def test_a_budget_never_gives_more_than_its_burst_its_rate_and_what_was_earned(
    turns: list[tuple[float, float]],
) -> None:
    budget, now, earned, spent = Budget(5, 2, now=0.0), 0.0, 0.0, 0
    for pause, good in turns:
        now += pause
        budget.earn(good)
        earned += good
        spent += budget.spend(now)
    assert spent <= 5 + 2 * now + earned
