from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.lab.errors import BadInput
from bench.lab.queueing import models
from bench.lab.queueing.figures import Figures
from bench.lab.queueing.intervals import Interval, interval
from bench.lab.queueing.models import Fill, Model, many_servers, one_server, simulated
from bench.lab.queueing.textbook import simulated as by_events

TIMES = st.floats(0.001, 100)


def filling(numbers: Iterable[float]) -> Fill:
    """Return what draws these, and then ones that are too large to matter."""

    def rest() -> Iterator[float]:
        yield from numbers
        while True:
            yield 1e12

    left = rest()

    def fill(array: Any) -> None:
        array[:] = [next(left) for _ in array]

    return fill


def assert_alike(found: Figures, other: Figures) -> None:
    for name in Figures.__slots__:
        expected = pytest.approx(getattr(other, name), rel=1e-6, abs=1e-6)
        assert getattr(found, name) == expected, name


@given(st.lists(st.tuples(TIMES, TIMES), min_size=1, max_size=40), st.data())
@settings(max_examples=60)
def test_arrays_give_what_the_events_of_the_book_give(
    customers: list[tuple[float, float]], data: st.DataObject
) -> None:
    count = data.draw(st.integers(1, len(customers)))
    gaps, services = [gap for gap, _ in customers], [service for _, service in customers]
    left, draws = iter([*gaps, 1e12, 1e12]), iter(services)
    expected = by_events(lambda: next(left), lambda: next(draws), count)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(models, "BLOCK", data.draw(st.integers(1, 8)))
        assert_alike(one_server(filling(gaps), filling(services), count), expected)
        assert_alike(many_servers(filling(gaps), filling(services), count, 1), expected)


@given(
    st.lists(st.tuples(TIMES, TIMES), min_size=1, max_size=40), st.integers(1, 4), st.integers(1, 8)
)
@settings(max_examples=60)
def test_several_servers_take_the_first_that_is_free(
    customers: list[tuple[float, float]], servers: int, block: int
) -> None:
    gaps, services = [gap for gap, _ in customers], [service for _, service in customers]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(models, "BLOCK", block)
        found = many_servers(filling(gaps), filling(services), len(customers), servers)
    assert_alike(found, by_scanning(gaps, services, servers))


def by_scanning(gaps: list[float], services: list[float], servers: int) -> Figures:
    """The same in the plainest way: whoever comes looks at all servers."""
    free, clock, spans, delays = [0.0] * servers, 0.0, [], []
    for gap, service in zip(gaps, services, strict=True):
        clock += gap
        server = free.index(min(free))
        start = max(clock, free[server])
        free[server] = start + service
        spans.append((start, free[server]))
        delays.append(start - clock)
    end = spans[-1][0]
    busy = sum(min(stop, end) - start for start, stop in spans)
    ranked = sorted(delays)
    at = [ranked[int(np.ceil(p * len(ranked) - 1e-9)) - 1] for p in (0.5, 0.95, 0.99)]
    count = len(delays)
    return Figures(
        sum(delays) / count,
        sum(delays) / end,
        busy / end / servers,
        end,
        count,
        at[0],
        at[1],
        at[2],
    )


@pytest.mark.parametrize(
    "model",
    [Model(1.0, 0.8), Model(2.0, 1.0), Model(1.0, 2.4, 3), Model(1.0, 0.8, spread="constant")],
    ids=str,
)
def test_theory_is_in_the_interval_of_twenty_seeds(model: Model) -> None:
    """One interval in 20 misses; the seeds are fixed, and of these none does."""
    expected = model.expected()
    assert expected is not None
    runs = [simulated(model, 20_000, seed) for seed in range(20)]
    assert interval([run.average_delay for run in runs], 0.99).holds(expected.delay)
    assert interval([run.average_number for run in runs], 0.99).holds(expected.number)
    assert interval([run.utilisation for run in runs], 0.99).holds(expected.utilisation)
    if expected.p95 is not None:
        assert interval([run.p95 for run in runs], 0.99).holds(expected.p95)


def test_a_wrong_theory_is_not_in_it() -> None:
    runs = [simulated(Model(1.0, 0.8), 20_000, seed).average_delay for seed in range(20)]
    wrong = Model(1.0, 0.8, spread="constant").expected()
    assert wrong is not None
    assert not interval(runs, 0.99).holds(wrong.delay)


def test_the_same_seed_is_the_same_run() -> None:
    assert simulated(Model(1, 0.5), 1000, 3) == simulated(Model(1, 0.5), 1000, 3)
    assert simulated(Model(1, 0.5), 1000, 3) != simulated(Model(1, 0.5), 1000, 4)


def test_an_overloaded_server_is_always_busy_and_its_queue_grows() -> None:
    model = Model(1.0, 2.0)
    found = simulated(model, 20_000, 1)
    assert model.expected() is None
    assert found.utilisation == pytest.approx(1, abs=0.01)
    assert found.end == pytest.approx(40_000, rel=0.05)
    # At the end half of those who came wait, and all of them for as long on average.
    assert found.average_number == pytest.approx(10_000, rel=0.1)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((0.0, 1.0), "the mean interarrival time is 0"),
        ((1.0, -1.0), "the mean service time is -1"),
        ((1.0, 1.0, 0), "0 servers"),
        ((1.0, 1001.0), "the load of a server is 1001"),
    ],
)
def test_a_model_that_cannot_be_is_refused(arguments: tuple[Any, ...], said: str) -> None:
    with pytest.raises(BadInput, match=said):
        Model(*arguments)


@pytest.mark.parametrize("customers", [0, models.MOST_CUSTOMERS + 1])
def test_customers_have_a_bound(customers: int) -> None:
    with pytest.raises(BadInput, match="customers are asked for"):
        simulated(Model(1, 0.5), customers, 1)


def test_an_interval_is_students() -> None:
    """Of 1, 2, 3, 4, 5: mean 3, deviation √2.5, t(4, 0.975) = 2.776."""
    found = interval([1, 2, 3, 4, 5])
    assert found.mean == 3
    assert found.half == pytest.approx(2.776 * (2.5 / 5) ** 0.5, abs=1e-3)
    assert found.text(1) == "3.0 ± 2.0"
    assert interval([7.0]) == Interval(7.0, float("inf"))
    assert interval([7.0]).text(0) == "7"
