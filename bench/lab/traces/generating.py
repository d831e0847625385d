"""A trace out of its parameters and a seed: the same bytes everywhere.

Only `random.Random.random()` is drawn, the one sequence that Python promises to keep from version
to version for a seed, and each value is one draw put through the inverse of its distribution. A gap
is rounded to a millionth before it is added, in whole numbers, so that what two C libraries make of
a logarithm's last bit changes nothing.

- Gaps: uniform on 0 to twice the mean; of a Poisson process, exponential; normal, cut off at 0,
  which lifts the mean where the deviation is large (of 1 and 1 to 1.29).
- Sizes are geometric: at least 1, with the mean asked for.
- Places are uniform in the address space.
"""

from collections.abc import Callable, Iterator
from math import log1p
from random import Random
from statistics import NormalDist

from bench.lab.traces.parameters import Distribution, Parameters
from bench.lab.traces.rows import Request

TICKS = 1_000_000
"""Of one unit of time."""

_LEAST, _MOST = 2.0**-53, 1 - 2.0**-53
"""What is put into the normal distribution's inverse lies between 0 and 1, both left out."""


def generate(parameters: Parameters, seed: int) -> Iterator[Request]:
    """Yield a trace's requests, in the order of their arrivals."""
    random = Random(seed)  # noqa: S311  (a trace keeps no secret)
    gap = _gap(parameters)
    reads = parameters.read_ratio / 100
    ticks = 0
    for number in range(parameters.samples):
        client = number % parameters.concurrency
        if client == 0:
            ticks += round(gap(random.random()) * TICKS)
        yield Request(
            ticks / TICKS,
            client + 1,
            "read" if random.random() < reads else "write",
            int(random.random() * parameters.sas),
            geometric(random.random(), parameters.size),
        )


def _gap(parameters: Parameters) -> Callable[[float], float]:
    """Return the inverse of the gaps' distribution."""
    mean = parameters.inter_arrival
    match parameters.distribution:
        case Distribution.UNIFORM:
            return lambda drawn: 2 * mean * drawn
        case Distribution.POISSON:
            return lambda drawn: -mean * log1p(-drawn)
        case Distribution.NORMAL:
            return _normal(parameters.normal_mean, parameters.normal_stdev)


def _normal(mean: float, stdev: float) -> Callable[[float], float]:
    if stdev == 0:
        return lambda _: mean
    normal = NormalDist(mean, stdev)
    below = normal.cdf(0.0)

    def inverse(drawn: float) -> float:
        share = below + (1 - below) * drawn
        return max(0.0, normal.inv_cdf(min(max(share, _LEAST), _MOST)))

    return inverse


def geometric(drawn: float, mean: float) -> int:
    """Return how many trials a draw of 0 to 1 means, the last one included, of that mean."""
    if mean <= 1:
        return 1
    return 1 + int(log1p(-drawn) / log1p(-1 / mean))
