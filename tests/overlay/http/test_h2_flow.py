from hypothesis import given
from hypothesis import strategies as st

from overlay.http.h2_flow import InboundWindow

SIZES = st.integers(1, 300)


class Sender:
    """A dumb other end: it sends as much as it may, in pieces of any size."""

    def __init__(self, size: int) -> None:
        self.may_send = size
        self.unread = 0


@given(SIZES, st.lists(st.tuples(SIZES, SIZES)))
def test_what_waits_for_a_reader_never_exceeds_the_window(
    size: int, turns: list[tuple[int, int]]
) -> None:
    window, other = InboundWindow(size), Sender(size)
    for wants_to_send, wants_to_read in turns:
        sent = min(wants_to_send, other.may_send)
        other.may_send -= sent
        other.unread += sent
        window.arrived(sent)
        read = min(wants_to_read, other.unread)
        other.unread -= read
        other.may_send += window.taken(read)
        assert other.unread + other.may_send <= size
        assert window.open == other.may_send


@given(SIZES, st.lists(SIZES, min_size=1))
def test_a_sender_whose_bytes_were_all_read_may_always_send_more(
    size: int, turns: list[int]
) -> None:
    window, may_send = InboundWindow(size), size
    for wanted in turns:
        sent = min(wanted, may_send)
        assert sent > 0
        may_send -= sent
        window.arrived(sent)
        may_send += window.taken(sent)
    assert may_send * 2 >= size


def test_a_window_is_opened_when_half_of_it_is_due_and_not_for_every_byte() -> None:
    window = InboundWindow(100)
    window.arrived(60)
    assert [window.taken(1) for _ in range(50)] == [0] * 49 + [50]
    assert window.open == 90
