"""The times between requests: constant, drawn from a distribution, or recorded.

Distributions have the names and parameters of Python's `random`, which are Galileo's too. A time
between two requests is never negative: what a normal distribution draws below 0 counts as 0. Where
load follows a rate, a distribution gives the shape alone, and is brought to a mean of 1 / rate; its
mean is worked out, never estimated from draws, so that the rate is the one that was asked for.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate, count, repeat
from math import cos, exp, gamma, inf, isfinite, pi, sqrt
from random import Random
from statistics import NormalDist

from bench.lab.errors import BadInput
from bench.lab.load_hosts import InterArrival

LONGEST_S = 1e9
"""What a drawn time is cut to, thirty years; heavy tails draw more than a float holds."""

MOST_RECORDED = 10_000_000
"""Of the times of one recording, 80 MB."""

_NODES = 4096
"""Of the integral that is the mean of a von Mises distribution; more where that is narrow."""


@dataclass(frozen=True, slots=True)
class _Kind:
    """A distribution.

    Attributes:
        parameters: their names, for messages.
        mean: of what it draws, cut at 0.
        wrong: returns what is wrong with parameters, or nothing.
        defaults: where none are given.
    """

    parameters: tuple[str, ...]
    mean: Callable[..., float]
    wrong: Callable[..., str]
    defaults: tuple[float, ...] = ()


@dataclass(frozen=True, slots=True)
class Arrivals:
    """How requests follow each other.

    Attributes:
        name: of the distribution; `constant` and `prerecorded` draw nothing.
        parameters: as `random` takes them, times in seconds; all times where it is `prerecorded`.
    """

    name: str
    parameters: tuple[float, ...]

    def __str__(self) -> str:
        if self.name == "prerecorded":
            return f"prerecorded ({len(self.parameters)} times)"
        return f"{self.name}:{','.join(f'{one:g}' for one in self.parameters)}"

    @property
    def mean_s(self) -> float:
        """Return the mean time between two requests, in seconds; may be infinite."""
        if self.name == "prerecorded":
            return sum(self.parameters) / len(self.parameters)
        return _KINDS[self.name].mean(*self.parameters)

    def gaps(self, random: Random) -> Iterator[float]:
        """Yield the times between requests, in seconds, without end; recorded ones once."""
        if self.name == "prerecorded":
            return iter(self.parameters)
        if self.name == "constant":
            return repeat(self.parameters[0])
        return _drawn(getattr(random, self.name), self.parameters)

    def times(self, random: Random) -> Iterator[float]:
        """Yield when requests are due, in seconds from the beginning.

        At constant intervals, the first is due at once, and each is a product and no sum, so that
        nothing adds up over a long load.
        """
        if self.name == "constant":
            (gap,) = self.parameters
            return (number * gap for number in count())
        return accumulate(self.gaps(random))

    def positions(self, random: Random) -> Iterator[float]:
        """Yield the same as `times` in units of the mean: what a rate stretches and squeezes.

        Raises:
            BadInput: there is no mean.
        """
        if self.name == "constant":
            return (float(number) for number in count())
        mean = self.mean_s
        if not isfinite(mean) or mean <= 0:
            raise BadInput(f"{self} has no mean above 0, so it cannot be brought to a rate")
        return (at / mean for at in self.times(random))


CONSTANT = Arrivals("constant", (1.0,))


def parse_arrivals(text: str) -> Arrivals:
    """Return what `NAME:PARAMETER,...`, or a number of seconds, means.

    Raises:
        BadInput: it means nothing; the message says what would.
    """
    name, colon, written = text.strip().partition(":")
    try:
        return _made("constant", (float(name),)) if not colon else _made(name, _numbers(written))
    except ValueError:
        if colon:
            raise BadInput(f"{text!r}: what follows the colon are not numbers") from None
    return _made(name, _known(name).defaults)


def arrivals_of(inter_arrival: InterArrival) -> Arrivals:
    """Return what a number of seconds, or a tuple of name and parameters, means.

    Raises:
        BadInput: it means nothing.
    """
    if isinstance(inter_arrival, int | float):
        return _made("constant", (float(inter_arrival),))
    name, *parameters = inter_arrival
    return _made(name, tuple(float(one) for one in parameters) or _known(name).defaults)


def recorded(gaps: Sequence[float]) -> Arrivals:
    """Return arrivals with these times between them, in seconds.

    Raises:
        BadInput: there are none, or too many, or one is negative.
    """
    return _made("prerecorded", tuple(gaps))


def _numbers(text: str) -> tuple[float, ...]:
    return tuple(float(one) for one in text.split(","))


def _known(name: str) -> _Kind:
    if name not in _KINDS:
        raise BadInput(f"there is no distribution {name!r}; there are {', '.join(_KINDS)}")
    return _KINDS[name]


def _made(name: str, parameters: tuple[float, ...]) -> Arrivals:
    kind = _known(name)
    if wrong := _wrong_with(kind, name, parameters):
        raise BadInput(f"{Arrivals(name, parameters)}: {wrong}")
    return Arrivals(name, parameters)


def _wrong_with(kind: _Kind, name: str, parameters: tuple[float, ...]) -> str:
    if name == "prerecorded":
        if not 0 < len(parameters) <= MOST_RECORDED:
            return f"a recording has 1 to {MOST_RECORDED} times"
    elif len(parameters) != len(kind.parameters):
        return f"its parameters are {','.join(kind.parameters)}, all of them"
    if not all(isfinite(one) for one in parameters):
        return "a parameter is not a finite number"
    return kind.wrong(*parameters)


def _drawn(draw: Callable[..., float], parameters: tuple[float, ...]) -> Iterator[float]:
    while True:
        try:
            yield min(max(draw(*parameters), 0.0), LONGEST_S)
        except OverflowError:
            yield LONGEST_S


def _positive(*parameters: float) -> str:
    return "" if all(one > 0 for one in parameters) else "each parameter is to be above 0"


def _ordered(low: float, high: float) -> str:
    return "" if 0 <= low <= high and high > 0 else "LOW is to be 0 or more, and HIGH above it"


def _with_mode(low: float, high: float, mode: float) -> str:
    if wrong := _ordered(low, high):
        return wrong
    return "" if low <= mode <= high else "MODE is to be from LOW to HIGH"


def _spread(_: float, sigma: float) -> str:
    return "" if sigma >= 0 else "SIGMA is to be 0 or more"


def _concentrated(_: float, kappa: float) -> str:
    return "" if kappa >= 0 else "KAPPA is to be 0 or more"


def _recorded(*gaps: float) -> str:
    return "" if min(gaps) >= 0 else "a time between two requests is negative"


def _normal_mean(mu: float, sigma: float) -> float:
    """Return the mean of a normal distribution whose negative part counts as 0."""
    if sigma == 0:
        return max(mu, 0.0)
    unit = NormalDist()
    return mu * unit.cdf(mu / sigma) + sigma * unit.pdf(mu / sigma)


def _von_mises_mean(mu: float, kappa: float) -> float:
    """Return the mean of the angles in 0 to 2π that are drawn, by the midpoint rule."""
    nodes = _NODES + 64 * int(min(sqrt(kappa), 4096.0))
    angles = [(number + 0.5) * 2 * pi / nodes for number in range(nodes)]
    weights = [exp(kappa * (cos(angle - mu) - 1)) for angle in angles]
    return sum(a * w for a, w in zip(angles, weights, strict=True)) / sum(weights)


def _or_inf(mean: Callable[..., float]) -> Callable[..., float]:
    def bounded(*parameters: float) -> float:
        try:
            return mean(*parameters)
        except OverflowError:
            return inf

    return bounded


_NORMAL = _Kind(("MU", "SIGMA"), _normal_mean, _spread)
_KINDS: Mapping[str, _Kind] = {
    "constant": _Kind(("SECONDS",), lambda gap: gap, _positive, (1.0,)),
    "uniform": _Kind(("LOW", "HIGH"), lambda low, high: (low + high) / 2, _ordered),
    "triangular": _Kind(("LOW", "HIGH", "MODE"), lambda *three: sum(three) / 3, _with_mode),
    "normalvariate": _NORMAL,
    "lognormvariate": _Kind(("MU", "SIGMA"), _or_inf(lambda m, s: exp(m + s * s / 2)), _spread),
    "expovariate": _Kind(("LAMBD",), lambda rate: 1 / rate, _positive, (1.0,)),
    "vonmisesvariate": _Kind(("MU", "KAPPA"), _von_mises_mean, _concentrated),
    "gammavariate": _Kind(("ALPHA", "BETA"), lambda shape, scale: shape * scale, _positive),
    "gauss": _NORMAL,
    "betavariate": _Kind(("ALPHA", "BETA"), lambda a, b: a / (a + b), _positive),
    "paretovariate": _Kind(("ALPHA",), lambda a: a / (a - 1) if a > 1 else inf, _positive),
    "weibullvariate": _Kind(
        ("ALPHA", "BETA"), _or_inf(lambda scale, shape: scale * gamma(1 + 1 / shape)), _positive
    ),
    "prerecorded": _Kind(("SECONDS...",), lambda *gaps: sum(gaps) / len(gaps), _recorded),
}
