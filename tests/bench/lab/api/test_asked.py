"""The rate that was asked, from what was noted down."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.lab.api.asked import Event, asked_in, steps
from bench.lab.api.charts import Span

CURVE: list[Event] = [
    (10.0, "spawn", "h1:squeezenet:0 h1:squeezenet:1 h2:squeezenet:0"),
    (11.0, "rps", ".* squeezenet 6"),
    (13.0, "rps", ".* squeezenet 2"),
    (15.0, "echo", "rps .* squeezenet 99"),
    (16.0, "close", ".* squeezenet"),
]


def test_a_curves_rate_is_that_of_all_hosts() -> None:
    assert steps(CURVE, shared=True) == [(11, 6), (13, 2), (16, 0)]


def test_a_commands_rate_is_that_of_each_host_that_it_means() -> None:
    assert steps(CURVE, shared=False) == [(11, 12), (13, 4), (16, 0)]
    one = [CURVE[0], (11.0, "rps", "h1 squeezenet 5"), (12.0, "rps", "h2 squeezenet 1")]
    assert steps(one, shared=False) == [(11, 5), (12, 6)]


def test_services_add_up_and_urls_are_services() -> None:
    events = [
        (1.0, "spawn", "h1:http://h:8080/a:0"),
        (2.0, "rps", ".* http://h:8080/a 3"),
        (2.0, "spawn", "h1:b:0"),
        (3.0, "rps", ".* b 4"),
        (4.0, "close", ".* http://h:8080/a"),
    ]
    assert steps(events, shared=False) == [(2, 3), (3, 7), (4, 4)]


def test_an_interval_has_the_mean_of_what_was_asked_in_it() -> None:
    span = Span(10.0, 2.0, 0, 8.0)
    assert asked_in(span, steps(CURVE, shared=True)) == pytest.approx([3, 4, 2, 0])


def test_where_nothing_was_asked_it_is_none() -> None:
    assert asked_in(Span(10.0, 2.0, 0, 3.0), []) == [0, 0]


@given(
    changes=st.lists(st.tuples(st.floats(0, 50), st.floats(0, 1e4)), max_size=20),
    interval=st.sampled_from([0.3, 1, 7, 80]),
    first=st.integers(0, 5),
)
def test_all_that_was_asked_is_in_the_intervals(
    changes: list[tuple[float, float]], interval: float, first: int
) -> None:
    changes.sort()
    span = Span(0.0, interval, first, 60.0)
    asked = sum(asked_in(span, changes) * span.lengths)
    begin = min(first * interval, 60.0)
    expected = 0.0
    for (since, rate), (until, _) in zip(changes, [*changes, (60.0, 0.0)][1:], strict=True):
        expected += rate * max(0.0, max(until, begin) - max(since, begin))
    assert asked == pytest.approx(expected, rel=1e-9, abs=1e-6)
