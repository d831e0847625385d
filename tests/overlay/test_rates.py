from hypothesis import given
from hypothesis import strategies as st

from overlay.rates import MAX_CLIENTS, Bucket, Buckets
from overlay.spec import RateLimit

LIMITS = st.builds(
    RateLimit,
    per_s=st.floats(0.1, 10_000, allow_nan=False),
    burst=st.integers(1, 1000),
)
GAPS = st.lists(st.floats(0, 5, allow_nan=False), max_size=200)


def passed(limit: RateLimit, gaps: list[float]) -> list[float]:
    """Return the times at which requests that come after these gaps are let through."""
    bucket, now, times = Bucket(), 1000.0, []
    for gap in gaps:
        now += gap
        if bucket.take(limit, now) == 0:
            times.append(now)
    return times


@given(LIMITS, GAPS)
def test_in_no_time_more_than_the_burst_and_the_rate_pass(
    limit: RateLimit, gaps: list[float]
) -> None:
    times = passed(limit, gaps)
    for first, begin in enumerate(times):
        for last in range(first, len(times)):
            allowed = limit.burst + limit.per_s * (times[last] - begin)
            assert last - first + 1 <= allowed + 1e-3


@given(LIMITS, GAPS)
def test_who_waits_as_told_is_let_through(limit: RateLimit, gaps: list[float]) -> None:
    bucket, now = Bucket(), 1000.0
    for gap in gaps:
        now += gap
        wait_s = bucket.take(limit, now)
        assert wait_s <= 1 / limit.per_s + 1e-6
        if wait_s:
            now += wait_s + 1e-6
            assert bucket.take(limit, now) == 0


def test_a_burst_passes_after_a_silence_and_then_the_rate_holds() -> None:
    limit = RateLimit(per_s=10, burst=5)
    assert len(passed(limit, [0.0] * 20)) == 5
    assert passed(limit, [0.0] * 6 + [0.1]) == [1000.0] * 5 + [1000.1]


@given(LIMITS, st.integers(1, 2000), st.integers(1, 2000))
def test_a_share_is_as_much_as_so_many_requests_by_themselves(
    limit: RateLimit, wanted: int, more: int
) -> None:
    at_once, one_by_one = Bucket(), Bucket()
    for number in (wanted, more):
        singly = sum(one_by_one.take(limit, 5.0) == 0 for _ in range(number))
        assert abs(at_once.take_up_to(number, limit, 5.0) - singly) <= 1


def test_clients_do_not_use_up_each_others_rate_and_are_bounded_in_number() -> None:
    buckets, limit = Buckets(), RateLimit(per_s=1, burst=1)
    assert buckets.take("a", limit, 0.0) == 0
    assert buckets.take("a", limit, 0.0) == 1.0
    assert buckets.take("b", limit, 0.0) == 0
    for number in range(MAX_CLIENTS):
        buckets.take(str(number), limit, 0.0)
    assert buckets.forget(0.5) == MAX_CLIENTS
    assert buckets.forget(1.5) == 0
