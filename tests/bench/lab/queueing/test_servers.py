from heapq import heapreplace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.lab.queueing import servers as module
from bench.lab.queueing.servers import SEGMENT, Floats, Servers


def by_heap(arrivals: Floats, services: Floats, count: int) -> tuple[list[float], list[float]]:
    """Return when each begins to be served and when servers are free, in the plainest way."""
    free_at, starts = [0.0] * count, []
    for arrival, service in zip(arrivals.tolist(), services.tolist(), strict=True):
        starts.append(max(arrival, free_at[0]))
        heapreplace(free_at, starts[-1] + service)
    return starts, free_at


def served(arrivals: Floats, services: Floats, count: int, *, cut: int) -> tuple[list[float], ...]:
    """Return the same by `Servers`, told of the customers in two parts."""
    queue, starts = Servers(count), np.empty_like(arrivals)
    for part in (slice(0, cut), slice(cut, None)):
        queue.serve(arrivals[part], services[part], starts[part])
    return starts.tolist(), queue.free_at


def as_found(free_at: list[float], now: float) -> list[float]:
    """Return servers as who comes at `now` finds them: since when one is free means nothing."""
    return sorted(max(time, now) for time in free_at)


def drawn(customers: int, load: float, count: int) -> tuple[Floats, Floats]:
    random = np.random.default_rng(1)
    arrivals = np.cumsum(random.standard_exponential(customers))
    return arrivals, random.standard_exponential(customers) * load * count


@given(
    st.integers(1, 5),
    st.lists(st.tuples(st.floats(0, 5), st.floats(0, 20)), max_size=60),
    st.integers(0, 60),
    st.sampled_from([(1, 1), (4, 2), (6, 3)]),
    st.integers(1, 4),
)
@settings(max_examples=200)
def test_segments_side_by_side_give_to_the_last_bit_what_a_heap_gives(
    count: int,
    customers: list[tuple[float, float]],
    cut: int,
    sizes: tuple[int, int],
    passes: int,
) -> None:
    arrivals = np.cumsum(np.array([gap for gap, _ in customers], dtype=np.float64))
    services = np.array([service for _, service in customers], dtype=np.float64)
    starts, free_at = by_heap(arrivals, services, count)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "SEGMENT", sizes[0])
        patch.setattr(module, "WINDOW", sizes[1])
        patch.setattr(module, "LEAST_SEGMENTS", 1)
        patch.setattr(module, "MOST_PASSES", passes)
        found, left = served(arrivals, services, count, cut=cut)
    assert found == starts
    assert as_found(left, max(starts, default=0)) == as_found(free_at, max(starts, default=0))


@pytest.mark.parametrize(
    ("count", "load"),
    [(3, 0.8), (3, 1.5), (40, 0.8)],
    ids=["it forgets how it began", "it never does", "there are too many for segments"],
)
def test_a_long_queue_is_what_the_heap_gives_whatever_way_is_taken(count: int, load: float) -> None:
    arrivals, services = drawn(150 * SEGMENT + 7, load, count)
    starts, free_at = by_heap(arrivals, services, count)
    found, left = served(arrivals, services, count, cut=70 * SEGMENT)
    assert found == starts
    assert as_found(left, starts[-1]) == as_found(free_at, starts[-1])


def test_segments_are_taken_as_long_as_the_queue_forgets() -> None:
    for load, by_segments in ((0.8, 80), (1.5, module.MOST_PASSES)):
        queue = module._Segments(*drawn(80 * SEGMENT, load, 3), [0.0] * 3)
        assert queue.settle() == by_segments
