"""How far peers are from each other: matrices of RTTs, and what a datagram's way takes on top.

The matrices are functions: of 4,000 peers nobody holds 16 million RTTs.
"""

import random
from collections.abc import Callable
from dataclasses import dataclass
from math import acos, hypot, log, sqrt
from statistics import NormalDist

SITES = 200
"""Points of the geographic matrix; more peers than that share sites, as machines share a city."""

CONTINENTS = 12
SPREAD = 0.2
"""Cities lie this far from the middle of their continent, in radians (1,300 km), times a normal."""

EARTH_KM = 6371.0
FIBRE_KM_S = 2 / 3 * 299_792.458
STRETCH = 1.5
"""Cables are longer than great circles: by half, as is usually reckoned."""

LAST_MILE_S, LAST_MILE_SPREAD = 0.002, 0.8
"""Median and log-deviation of what a peer's own line adds to every RTT: 0.4 to 10 ms for most."""

NOISE_S = 50e-6
"""Mean of what a way takes longer in the machines, whatever its length."""

_MEDIAN_OF_TWO = 1.6783469900166605
"""Median of the sum of two exponential variables of mean 1."""


@dataclass(frozen=True, slots=True)
class Latency:
    """What ways take.

    Attributes:
        name: of the matrix.
        rtt: base RTT of two peers, in seconds; symmetric.
        jitter: mean of what a way takes longer, exponentially distributed, relative to its length.
    """

    name: str
    rtt: Callable[[int, int], float]
    jitter: float

    def way(self, one: int, other: int, rng: random.Random) -> float:
        """Draw what one datagram takes, in seconds."""
        base = self.rtt(one, other) / 2
        return base - log(1.0 - rng.random()) * (base * self.jitter + NOISE_S)

    def median_rtt(self, one: int, other: int) -> float:
        """Return the median of measured RTTs, in seconds."""
        base = self.rtt(one, other)
        return base + _MEDIAN_OF_TWO * (base / 2 * self.jitter + NOISE_S)


def lan(size: int, rng: random.Random, jitter: float = 0.05) -> Latency:
    """Return one site: 0.1 to 0.3 ms."""
    half = [rng.uniform(50e-6, 150e-6) for _ in range(size)]
    return Latency("lan", lambda one, other: half[one] + half[other], jitter)


def scattered(size: int, rng: random.Random, jitter: float = 0.05) -> Latency:
    """Return RTTs that no space explains: 100 ms, normally distributed with 10 ms."""
    normal = NormalDist(0.100, 0.010)
    salt = rng.getrandbits(64)

    def rtt(one: int, other: int) -> float:
        low, high = min(one, other), max(one, other)
        return max(normal.inv_cdf(_uniform(low * size + high, salt)), 0.001)

    return Latency("random", rtt, jitter)


def grid(size: int, _rng: random.Random, jitter: float = 0.05) -> Latency:
    """Return a square of peers, 10 ms between neighbours."""
    side = max(1, round(sqrt(size)))

    def rtt(one: int, other: int) -> float:
        return 0.010 * hypot(one % side - other % side, one // side - other // side)

    return Latency("grid", rtt, jitter)


def geographic(size: int, rng: random.Random, jitter: float = 0.05) -> Latency:
    """Return cities on the Earth: great circles in fibre, and each peer's own last mile."""
    cities = _cities(rng)
    ways = [[STRETCH * 2 * _arc(a, b) * EARTH_KM / FIBRE_KM_S for b in cities] for a in cities]
    own = [rng.lognormvariate(log(LAST_MILE_S), LAST_MILE_SPREAD) for _ in range(size)]

    def rtt(one: int, other: int) -> float:
        return ways[one % SITES][other % SITES] + (own[one] + own[other])

    return Latency("geographic", rtt, jitter)


MATRICES: dict[str, Callable[[int, random.Random], Latency]] = {
    "geographic": geographic,
    "lan": lan,
    "random": scattered,
    "grid": grid,
}

_Point = tuple[float, float, float]


def _cities(rng: random.Random) -> list[_Point]:
    middles = [_unit([rng.gauss(0, 1) for _ in range(3)]) for _ in range(CONTINENTS)]
    picked = [rng.choice(middles) for _ in range(SITES)]
    return [_unit([part + rng.gauss(0, SPREAD) for part in middle]) for middle in picked]


def _unit(point: list[float]) -> _Point:
    length = hypot(*point)
    x, y, z = (part / length for part in point)
    return x, y, z


def _arc(one: _Point, other: _Point) -> float:
    return acos(max(-1.0, min(1.0, sum(a * b for a, b in zip(one, other, strict=True)))))


def _uniform(number: int, salt: int) -> float:
    """Return a number between 0 and 1 for each argument, as if drawn (splitmix64's finish)."""
    mixed = (number * 0x9E3779B97F4A7C15 + salt) & (1 << 64) - 1
    mixed = ((mixed ^ mixed >> 30) * 0xBF58476D1CE4E5B9) & (1 << 64) - 1
    mixed = ((mixed ^ mixed >> 27) * 0x94D049BB133111EB) & (1 << 64) - 1
    return ((mixed ^ mixed >> 31) + 0.5) / (1 << 64)
