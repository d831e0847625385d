"""How long customers are served: one independent random stream a worker, all from one seed.

Nothing but Python's library is imported here: a worker's container has no more.
"""

from collections.abc import Callable, Sequence
from math import log1p
from random import Random
from typing import Literal, get_args

Service = Literal["exponential", "constant", "size"]
"""`size` takes as long as the file is large, in proportion."""

SERVICES: tuple[Service, ...] = get_args(Service)


def stream(seed: int, worker: int) -> Random:
    """Return the random numbers of a worker.

    What a text seeds is its SHA-512, so that neighbours' streams have nothing in common, and the
    sequence for a seed stays what it is in every version of Python.
    """
    return Random(f"service {seed} {worker}")  # noqa: S311  (a simulation keeps no secret)


def drawing(
    service: Service, mean: float, mean_size: float, random: Random
) -> Callable[[float], float]:
    """Return what says how long a file of some size takes.

    Args:
        service: the distribution.
        mean: of the service times.
        mean_size: of the files in the trace.
        random: the worker's.
    """
    match service:
        case "exponential":
            return lambda _: -mean * log1p(-random.random())
        case "constant":
            return lambda _: mean
        case "size":
            return lambda size: mean * size / mean_size if mean_size else mean


def service_times(
    service: Service, mean: float, mean_size: float, sizes: Sequence[float], random: Random
) -> list[float]:
    """Return how long each of a worker's customers is served, in order."""
    draw = drawing(service, mean, mean_size, random)
    return [draw(size) for size in sizes]
