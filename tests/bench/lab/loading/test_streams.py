from math import ceil, inf
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.lab.loading.arrivals import CONSTANT, parse_arrivals
from bench.lab.loading.streams import Closed, Paced, Timed, following


def test_timed_requests_are_due_whatever_becomes_of_them() -> None:
    stream = Timed(iter([0.0, 0.5]), 10.0)
    assert stream.due == 10.0
    stream.taken()
    assert stream.due == 10.5
    stream.over(99.0)
    assert stream.due == 10.5
    stream.taken()
    assert stream.ended
    assert stream.due == inf


def test_so_many_requests_follow_each_other() -> None:
    stream, dues = following(parse_arrivals("constant:0.25"), 3, Random(0), 1.0), []
    while not stream.ended:
        dues.append(stream.due)
        stream.taken()
    assert dues == [1.0, 1.25, 1.5]


def test_a_closed_loop_sends_each_when_one_is_answered() -> None:
    stream = Closed(3, 2, 1.0)
    stream.taken()
    assert stream.due == 1.0
    stream.taken()
    assert stream.due == inf
    stream.over(2.0)
    assert stream.due == 2.0
    stream.taken()
    assert stream.ended
    stream.over(3.0)
    assert stream.due == inf


def test_a_pace_of_nothing_has_nothing_due() -> None:
    stream = Paced(CONSTANT, Random(0))
    assert stream.due == inf
    stream.change(10, 5.0)
    assert stream.due == 5.0
    stream.taken()
    stream.change(0, 5.05)
    assert stream.due == inf
    stream.change(10, 7.0)
    assert stream.due == pytest.approx(7.05)


@given(st.lists(st.tuples(st.floats(0, 200), st.floats(0.1, 3)), min_size=1, max_size=8))
def test_over_changes_of_the_rate_as_many_are_due_as_they_sum_up_to(
    ticks: list[tuple[float, float]],
) -> None:
    stream, now, count = Paced(CONSTANT, Random(0)), 100.0, 0
    for rate, length_s in ticks:
        stream.change(rate, now)
        now += length_s
        while stream.due < now:
            stream.taken()
            count += 1
    expected = sum(rate * length_s for rate, length_s in ticks)
    assert abs(count - ceil(expected)) <= 1


def test_at_a_constant_rate_nothing_adds_up() -> None:
    stream = Paced(CONSTANT, Random(0))
    stream.change(1000, 0.0)
    for _ in range(100_000):
        stream.taken()
    assert stream.due == pytest.approx(100.0, abs=1e-9)
