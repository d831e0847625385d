from hypothesis import given
from hypothesis import strategies as st

from bench.lab.hosts.mailbox import Mailbox
from bench.lab.request_trace import RequestTrace


def traces(first: int, count: int) -> list[RequestTrace]:
    return [
        RequestTrace(f"h1:a:0:{n}", "h1:a:0", "a", "h1", n, n, n, 200, "", "")
        for n in range(first, first + count)
    ]


def test_a_batch_is_handed_out_again_until_later_ones_are_asked_for() -> None:
    mailbox = Mailbox()
    mailbox.put(traces(0, 5))
    after, batch = mailbox.take(0, most=2)
    assert (after, batch) == (2, traces(0, 2))
    assert mailbox.take(0, most=2) == (2, traces(0, 2))
    assert mailbox.take(2, most=2) == (4, traces(2, 2))
    assert len(mailbox) == 3
    assert mailbox.take(4) == (5, traces(4, 1))
    assert mailbox.take(5) == (5, [])


def test_what_does_not_fit_is_counted_and_what_was_kept_stays() -> None:
    mailbox = Mailbox(most=3)
    mailbox.put(traces(0, 2))
    mailbox.put(traces(2, 4))
    assert mailbox.dropped == 3
    assert mailbox.take(0) == (3, traces(0, 3))


@given(st.lists(st.tuples(st.integers(0, 20), st.booleans(), st.integers(1, 7)), max_size=30))
def test_each_trace_arrives_once_in_order_whatever_answers_are_lost(
    steps: list[tuple[int, bool, int]],
) -> None:
    mailbox = Mailbox(most=1000)
    put, cursor, got = 0, 0, list[RequestTrace]()
    for count, answer_lost, most in steps:
        mailbox.put(traces(put, count))
        put += count
        after, batch = mailbox.take(cursor, most)
        if not answer_lost:
            cursor = after
            got += batch
    while batch := mailbox.take(cursor)[1]:
        cursor += len(batch)
        got += batch
    assert got == traces(0, put)
