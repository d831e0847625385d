import statistics

from hypothesis import given
from hypothesis import strategies as st

from bench.lab.experiments.summary import Summary, summarised

REQUESTS = st.tuples(
    st.floats(0, 1e6), st.floats(0, 100), st.sampled_from([-1, 200, 204, 301, 500])
)


def test_without_requests_there_are_no_figures() -> None:
    assert summarised([]) == Summary(0, 0, 0.0)


def test_failed_requests_count_but_have_no_latency() -> None:
    summary = summarised([(0.0, 1.0, 200), (1.0, 4.0, 500), (2.0, 4.0, -1)])
    assert (summary.requests, summary.failed, summary.rate) == (3, 2, 0.75)
    assert summary.mean == summary.p50 == summary.longest == 1.0


def test_where_nothing_was_answered_no_latency_is_made_up() -> None:
    assert summarised([(0.0, 2.0, -1)]) == Summary(1, 1, 0.5)


@given(st.lists(REQUESTS, min_size=1, max_size=50))
def test_the_figures_are_those_of_a_plain_count(drawn: list[tuple[float, float, int]]) -> None:
    requests = [(created, created + took, status) for created, took, status in drawn]
    summary = summarised(requests)
    latencies = [done - created for created, done, status in requests if 0 <= status < 300]
    assert summary.requests == len(requests)
    assert summary.failed == len(requests) - len(latencies)
    if latencies:
        assert summary.mean is not None
        assert summary.p99 is not None
        assert summary.p50 is not None
        assert abs(summary.mean - statistics.fmean(latencies)) < 1e-6
        assert abs(summary.p50 - statistics.median(latencies)) < 1e-6
        assert summary.p50 <= summary.p99 <= max(latencies) + 1e-9
