from itertools import accumulate

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.lab.queueing.figures import NONE, delays_of, figures_of, quantiles
from bench.lab.queueing.services import SERVICES, service_times, stream
from bench.lab.queueing.textbook import book, simulated

TIMES = st.floats(0.001, 100)
CUSTOMERS = st.lists(st.tuples(TIMES, TIMES), min_size=1, max_size=60)


def test_the_books_generator_and_stream_give_the_books_figures() -> None:
    """Law and Kelton, "Simulation Modeling and Analysis", section 1.4: means 1 and 0.5, 1000."""
    found = book(1.0, 0.5, 1000)
    assert f"{found.average_delay:.3f}" == "0.430"
    assert f"{found.average_number:.3f}" == "0.418"
    assert f"{found.utilisation:.3f}" == "0.460"
    assert f"{found.end:.3f}" == "1027.915"


@given(CUSTOMERS, st.data())
def test_the_recursion_gives_what_the_events_of_the_book_give(
    customers: list[tuple[float, float]], data: st.DataObject
) -> None:
    count = data.draw(st.integers(1, len(customers)))
    arrivals = list(accumulate(gap for gap, _ in customers))
    services = [service for _, service in customers]
    found = figures_of(arrivals, services, count)
    never = [1e9] * 2
    gaps = iter([gap for gap, _ in customers] + never)
    draws = iter(services)
    by_events = simulated(lambda: next(gaps), lambda: next(draws), count)
    assert found.customers == by_events.customers == count
    for name in ("average_delay", "average_number", "utilisation", "end", "p50", "p95", "p99"):
        assert getattr(found, name) == pytest.approx(getattr(by_events, name), abs=1e-6), name


def test_a_queue_by_hand() -> None:
    """Three customers at 1, 2, 3, each served for 2; the second waits 1, the third 2 until 5."""
    found = figures_of([1, 2, 3], [2, 2, 2])
    assert delays_of([1, 2, 3], [2, 2, 2]) == [0, 1, 2]
    assert found.average_delay == 1
    assert found.average_number == 3 / 5
    assert found.utilisation == 4 / 5
    assert (found.end, found.p50, found.p99) == (5, 1, 2)


def test_who_comes_while_the_last_one_waits_is_in_the_queue_too() -> None:
    found = figures_of([1, 2, 3], [2, 2, 2], customers=2)
    assert found.end == 3
    assert found.average_number == 1 / 3
    assert figures_of([1, 2, 2.5], [2, 2, 2], customers=2).average_number == 1.5 / 3


def test_a_worker_to_whom_nobody_comes_has_figures_of_nothing() -> None:
    assert figures_of([], [], 10) == NONE


def test_one_customer_at_the_beginning_divides_by_nothing() -> None:
    assert figures_of([0.0], [1.0]).utilisation == 0


@given(st.lists(st.floats(0, 10), min_size=1))
def test_quantiles_are_delays_that_were(delays: list[float]) -> None:
    p50, p95, p99 = quantiles(delays)
    assert {p50, p95, p99} <= set(delays)
    assert p50 <= p95 <= p99
    assert sum(delay <= p50 for delay in delays) >= len(delays) / 2


def test_each_worker_has_a_stream_of_its_own_and_the_same_one_again() -> None:
    def drawn(seed: int, worker: int) -> list[float]:
        return service_times("exponential", 2.0, 1.0, [1.0] * 2000, stream(seed, worker))

    assert drawn(1, 1) == drawn(1, 1)
    assert drawn(1, 1) != drawn(1, 2) != drawn(2, 2)
    assert sum(drawn(1, 1)) / 2000 == pytest.approx(2, rel=0.1)
    pairs = list(zip(drawn(1, 1), drawn(1, 2), strict=True))
    covariance = sum((one - 2) * (other - 2) for one, other in pairs) / len(pairs)
    assert abs(covariance) < 4 * 4 / len(pairs) ** 0.5  # of independent ones, σ² / √n


@pytest.mark.parametrize("service", SERVICES)
def test_service_times_have_the_mean_asked_for(service: str) -> None:
    assert service in ("exponential", "constant", "size")
    sizes = [1.0, 3.0] * 5000
    times = service_times(service, 4.0, 2.0, sizes, stream(1, 1))  # type: ignore[arg-type]
    assert sum(times) / len(times) == pytest.approx(4, rel=0.05)
    if service == "size":
        assert times[:2] == [2, 6]
