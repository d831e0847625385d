"""An experiment cut into intervals."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.lab.api.charts import MOST_INTERVALS, Span, cpu_in, nice_interval, requests_in, span

START = 1000.0
TIMES = st.floats(0, 99, allow_nan=False)
REQUESTS = st.lists(
    st.tuples(TIMES, st.floats(0, 5), st.sampled_from([200, 204, 302, 404, 500, -1])), max_size=60
)


def of(*requests: tuple[float, float, int]) -> list[tuple[float, float, int]]:
    """Requests by when they were due and how long they took, after the start."""
    return [(START + due, START + due + took, status) for due, took, status in requests]


def test_a_request_counts_where_it_ended_and_from_when_it_was_due() -> None:
    found = requests_in(Span(START, 1.0, 0, 3.0), of((0.5, 0.1, 200), (0.9, 1.5, 200)))
    assert found.answered == [1, 0, 1]
    assert found.latencies["p50"] == [pytest.approx(0.1), None, pytest.approx(1.5)]


def test_failures_are_counted_apart_and_have_no_latency() -> None:
    found = requests_in(Span(START, 2.0, 0, 2.0), of((0, 1, 500), (0, 1, -1), (0, 1, 302)))
    assert found.failed == [1.5]
    assert found.answered == [0]
    assert found.latencies == {"p50": [None], "p95": [None], "p99": [None]}


def test_of_a_run_only_complete_intervals_are_shown() -> None:
    running = span(START, START + 7.9, None, 2.0, 0)
    assert list(running.offsets) == [0, 2, 4]
    assert not running.over
    assert list(span(START, START + 7.9, None, 2.0, since=3).offsets) == [2, 4]


def test_the_last_interval_of_what_is_over_may_be_shorter_and_has_its_true_rate() -> None:
    over = span(START, START + 99, START + 5, 2.0, 0)
    assert list(over.lengths) == [2, 2, 1]
    found = requests_in(over, of((4.1, 0.1, 200), (4.9, 0.5, 200)))
    assert found.answered == [0, 0, 2], "what ended a little later belongs to the last one"


def test_what_has_not_begun_has_no_intervals() -> None:
    assert list(span(START, START, None, 1.0, 0).offsets) == []
    assert requests_in(span(START, START, None, 1.0, 0), []).answered == []


@given(
    requests=REQUESTS,
    interval=st.sampled_from([0.7, 1, 5, 60]),
    since=st.floats(0, 120),
    over=st.booleans(),
)
def test_pieces_are_parts_of_the_whole(
    requests: list[tuple[float, float, int]], interval: float, since: float, over: bool
) -> None:
    end = START + 105 if over else None
    whole, piece = (span(START, START + 105, end, interval, s) for s in (0, since))
    all_of_it, part = (requests_in(s, of(*requests)) for s in (whole, piece))
    first = piece.first
    assert part.answered == pytest.approx(all_of_it.answered[first:])
    assert part.latencies["p99"] == all_of_it.latencies["p99"][first:]


@given(requests=REQUESTS, interval=st.sampled_from([0.7, 1, 5, 60]))
def test_no_request_of_what_is_over_is_lost(
    requests: list[tuple[float, float, int]], interval: float
) -> None:
    over = span(START, START + 999, START + 104, interval, 0)
    found = requests_in(over, of(*requests))
    counted = sum(found.answered * over.lengths) + sum(found.failed * over.lengths)
    assert counted == pytest.approx(len(requests))


@given(st.floats(0, 7 * 86400))
def test_a_chart_has_as_many_intervals_as_can_be_seen(duration: float) -> None:
    assert duration / nice_interval(duration) <= MOST_INTERVALS


def test_processors_are_shown_node_by_node() -> None:
    readings = [(START + 0.1, "b", 10.0), (START + 0.9, "b", 20.0), (START + 1.5, "a", 7.0)]
    assert cpu_in(Span(START, 1.0, 0, 2.0), readings) == {"a": [None, 7], "b": [15, None]}
