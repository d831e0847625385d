"""Ratios of what was measured; nothing here measures."""

from collections.abc import Iterable, Mapping, Sequence
from math import exp, log
from statistics import median

PEERS = ("ray", "dask", "joblib")
"""Whom a map over items that cost nothing is compared with."""

Samples = Mapping[str, Sequence[float]]
"""Seconds of each run, by contender."""


def ratio(samples: Samples, one: str, other: str) -> float:
    """Return the median of one contender ÷ that of another."""
    return median(samples[one]) / median(samples[other])


def best_peer(samples: Samples) -> str:
    """Return who of the peers has the least median.

    Raises:
        ValueError: none was measured.
    """
    return min((peer for peer in PEERS if peer in samples), key=lambda name: median(samples[name]))


def chunks_to_try(items: int, workers: int) -> list[int]:
    """Return sizes of chunks, from one for each worker to some hundred items, largest first."""
    parts = (workers, 2 * workers, 4 * workers, 16 * workers, 64 * workers)
    return list(dict.fromkeys(max(1, -(-items // part)) for part in parts))


def best_chunk(tried: Mapping[int | None, float]) -> int | None:
    """Return the size of chunks that took least."""
    return min(tried, key=lambda size: tried[size])


def break_even(points: Iterable[tuple[float, float, float]]) -> float | None:
    """Return from where on a map is no slower than a plain loop.

    Args:
        points: size of the problem, seconds of the loop, seconds of the map.

    Returns:
        The size from which on the map is no slower at any that was measured, between two of them on
        straight lines in logarithmic axes; the smallest, if it is no slower from there on; None if
        it is slower at the largest.
    """
    largest_first = sorted(points, reverse=True)
    above: tuple[float, float] | None = None
    for size, loop_s, map_s in largest_first:
        behind = log(map_s / loop_s)
        if behind > 0:
            if above is None:
                return None
            # Where the line through this point and the one above crosses zero.
            share = behind / (behind - above[1])
            return exp(log(size) + share * (log(above[0]) - log(size)))
        above = size, behind
    return above[0] if above is not None else None


def ideal_s(items: int, item_s: float, speeds: Sequence[float]) -> float:
    """Return what items take that are shared at no cost.

    Args:
        items: how many.
        item_s: of one item at speed 1, in seconds.
        speeds: of the workers.
    """
    return items * item_s / sum(speeds)
