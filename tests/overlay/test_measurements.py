import pytest
from hypothesis import given
from hypothesis import strategies as st

from overlay.coordinates import RttGuess
from overlay.measurements import RTT_BOUNDS_S, Histogram, Measurements
from overlay.records import Role

values = st.lists(st.sampled_from(RTT_BOUNDS_S) | st.floats(0, 100))


@given(values=values)
def test_each_value_is_in_the_first_bucket_whose_end_it_does_not_pass(values: list[float]) -> None:
    histogram = Histogram(RTT_BOUNDS_S)
    for value in values:
        histogram.observe(value)
    assert sum(histogram.counts) == len(values)
    assert histogram.total == pytest.approx(sum(values))
    for n, bound in enumerate(RTT_BOUNDS_S):
        assert sum(histogram.counts[: n + 1]) == sum(value <= bound for value in values)


def test_an_error_is_counted_if_there_was_an_estimate_and_a_distance() -> None:
    taken = Measurements()
    taken.take(Role.PROXY, 0.1, None)
    taken.take(Role.PROXY, 0.0, RttGuess(0.1, 0.01))
    assert sum(taken.error_ratios.counts) == 0
    taken.take(Role.ALLOCATOR, 0.1, RttGuess(0.15, 0.01))
    assert taken.error_ratios.total == pytest.approx(0.5)
    assert {role: sum(h.counts) for role, h in taken.rtts.items() if h.total} == {
        Role.PROXY: 2,
        Role.ALLOCATOR: 1,
    }
