from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from overlay.names import ServiceName
from overlay.spec import ServiceSpec
from proxy.errors import TooManyInFlight, TooManyPending
from proxy.guard.traffic import LEAST_RETRIES, Traffic, Traffics

HELLO = ServiceName("hello")


def spec(**fields: object) -> ServiceSpec:
    return ServiceSpec.model_validate({"process": "serve", **fields})


def test_over_its_bound_in_flight_a_service_gets_no_more_until_one_ends() -> None:
    traffic, bounded = Traffic(HELLO), spec(max_in_flight=2)
    traffic.begin(bounded)
    traffic.begin(bounded)
    with pytest.raises(TooManyInFlight, match="max_in_flight") as refused:
        traffic.begin(bounded)
    assert (refused.value.status, refused.value.retry_after_s) == (503, 1)
    traffic.end()
    traffic.begin(bounded)
    assert traffic.in_flight == 2


def test_more_than_its_bound_do_not_wait_for_an_instance() -> None:
    traffic, bounded = Traffic(HELLO), spec(max_pending=1)
    with traffic.waiting(bounded):
        with pytest.raises(TooManyPending, match="max_pending"), traffic.waiting(bounded):
            pass
        assert traffic.pending == 1
    with traffic.waiting(bounded):
        pass
    assert traffic.pending == 0


@given(
    st.lists(st.sampled_from(["request", "retry", "period"]), max_size=600),
    st.integers(0, 100),
)
def test_in_any_two_periods_no_more_is_repeated_than_the_share_and_the_least(
    happenings: list[str], percent: int
) -> None:
    traffic, some = Traffic(HELLO), spec(retry_percent=percent)
    periods = [[0, 0]]
    for happening in happenings:
        match happening:
            case "request":
                traffic.begin(some)
                traffic.end()
                periods[-1][0] += 1
            case "retry":
                periods[-1][1] += traffic.retry(some)
            case _:
                traffic.begin_period()
                periods.append([0, 0])
    for earlier, later in pairwise(periods):
        requests, retries = earlier[0] + later[0], earlier[1] + later[1]
        assert retries <= LEAST_RETRIES + requests * percent / 100


def test_a_service_that_fails_altogether_is_sent_a_fifth_more_and_not_four_times_as_much() -> None:
    traffic, some = Traffic(HELLO), spec()
    sent = 0
    for _ in range(10_000):
        traffic.begin(some)
        sent += 1 + sum(traffic.retry(some) for _ in range(3))
        traffic.end()
    assert 1.2 * 10_000 <= sent <= 1.2 * 10_000 + LEAST_RETRIES


def test_services_without_requests_are_forgotten_after_two_periods() -> None:
    traffics, some = Traffics(), spec()
    busy, done = traffics.of(HELLO), traffics.of(ServiceName("done"))
    for traffic in (busy, done):
        traffic.begin(some)
    done.end()
    traffics.begin_period()
    assert traffics.of(ServiceName("done")) is done
    traffics.begin_period()
    assert traffics.of(ServiceName("done")) is not done
    assert traffics.of(HELLO) is busy
