"""Profiles: how many requests a second there are to be, over time.

A profile is a row of pieces, on each of which the rate goes from one value to another in a straight
line. That is exact for all but the sine, whose pieces are chords; between them and the curve lies
less than 0.01 % of the highest rate, and nothing over a whole period.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import count, pairwise
from math import inf, isfinite, pi, sin
from random import Random
from typing import NamedTuple, Protocol

from bench.lab.durations import seconds
from bench.lab.errors import BadInput

CHORDS = 256
"""Of one period of a sine."""


class Piece(NamedTuple):
    """A stretch of time; the rate goes from `first` to `last`, in requests a second."""

    length_s: float
    first: float
    last: float


class Profile(Protocol):
    """A rate over time."""

    @property
    def length_s(self) -> float:
        """Return when it ends; infinite if it goes on."""
        ...

    def pieces(self, random: Random) -> Iterator[Piece]:
        """Yield its pieces, one after the other; without end if it goes on."""
        ...


@dataclass(frozen=True, slots=True)
class Constant:
    """The same rate for ever."""

    rate: float
    length_s: float = inf

    def pieces(self, random: Random) -> Iterator[Piece]:
        """See `Profile`."""
        del random
        yield Piece(self.length_s, self.rate, self.rate)


@dataclass(frozen=True, slots=True)
class Sine:
    """Between 0 and `most`, from the middle upwards, a period in `period_s` seconds."""

    most: float
    period_s: float
    length_s: float = inf

    def pieces(self, random: Random) -> Iterator[Piece]:
        """See `Profile`."""
        del random
        rates = [self.most * (sin(2 * pi * n / CHORDS) + 1) / 2 for n in range(CHORDS + 1)]
        for number in count():
            at = number % CHORDS
            yield Piece(self.period_s / CHORDS, rates[at], rates[at + 1])


@dataclass(frozen=True, slots=True)
class Walk:
    """A random walk: each interval's rate is drawn about the last one that was within bounds.

    Attributes:
        mu: where it begins.
        sigma: the standard deviation of a step.
        most, least: the bounds that it is cut to.
    """

    mu: float
    sigma: float
    most: float
    least: float = 0.0
    interval_s: float = 1.0
    length_s: float = inf

    def pieces(self, random: Random) -> Iterator[Piece]:
        """See `Profile`."""
        at = self.mu
        while True:
            drawn = random.normalvariate(at, self.sigma)
            rate = min(max(drawn, self.least), self.most)
            if self.least < drawn < self.most:
                at = drawn
            yield Piece(self.interval_s, rate, rate)


@dataclass(frozen=True, slots=True)
class Ticks:
    """One rate after the other, each for an interval."""

    rates: Sequence[float]
    interval_s: float = 1.0

    @property
    def length_s(self) -> float:
        """See `Profile`."""
        return len(self.rates) * self.interval_s

    def pieces(self, random: Random) -> Iterator[Piece]:
        """See `Profile`."""
        del random
        return (Piece(self.interval_s, rate, rate) for rate in self.rates)


@dataclass(frozen=True, slots=True)
class Step:
    """A stair: from `first` on, `step` more each interval, up to `most`."""

    first: float
    step: float
    most: float = inf
    interval_s: float = 1.0
    length_s: float = inf

    def pieces(self, random: Random) -> Iterator[Piece]:
        """See `Profile`."""
        del random
        for number in count():
            rate = max(min(self.first + number * self.step, self.most), 0.0)
            yield Piece(self.interval_s, rate, rate)


@dataclass(frozen=True, slots=True)
class Stages:
    """Straight lines from `first` on: in so many seconds to that rate, stage after stage."""

    first: float
    stages: Sequence[tuple[float, float]]

    @property
    def length_s(self) -> float:
        """See `Profile`."""
        return sum(length for length, _ in self.stages)

    def pieces(self, random: Random) -> Iterator[Piece]:
        """See `Profile`."""
        del random
        before = self.first
        for length, rate in self.stages:
            yield Piece(length, before, rate)
            before = rate


@dataclass(frozen=True, slots=True)
class Recorded:
    """Rates with the time from which each holds; the last one for as long as the one before."""

    rows: Sequence[tuple[float, float]]

    @property
    def length_s(self) -> float:
        """See `Profile`."""
        return sum(piece.length_s for piece in self._pieces())

    def pieces(self, random: Random) -> Iterator[Piece]:
        """See `Profile`."""
        del random
        return self._pieces()

    def _pieces(self) -> Iterator[Piece]:
        times = [at for at, _ in self.rows]
        if times[0] > 0:
            yield Piece(times[0], 0.0, 0.0)
        lengths = [after - before for before, after in pairwise(times)]
        lengths.append(lengths[-1] if lengths else 1.0)
        for length, (_, rate) in zip(lengths, self.rows, strict=True):
            yield Piece(length, rate, rate)


def parse_profile(text: str, interval_s: float = 1.0) -> Profile:
    """Return what `NAME:VALUE,...` means; recorded ones are read by `recording.profile_of`.

    Args:
        text: such as `constant:50`, `sine:80,100s`, `walk:10,1,100`, `ticks:1,2,3`,
            `step:10,10,100` or `stages:0,30s:100,1m:100`.
        interval_s: how long a tick, a step or a stride of a walk lasts.

    Raises:
        BadInput: it means nothing; the message says what would.
    """
    name, _, written = text.strip().partition(":")
    if name not in _SHAPES:
        raise BadInput(f"there is no profile {name!r}; there are {', '.join(_SHAPES)}, csv:FILE")
    shape = _SHAPES[name]
    values = written.split(",") if written else []
    if not shape.fewest <= len(values) <= shape.most:
        raise BadInput(f"the profile {text!r} is not written as {shape.form}")
    try:
        return shape.made(values, interval_s)
    except ValueError:
        raise BadInput(f"the profile {text!r} is not written as {shape.form}") from None


def recorded_profile(rows: Sequence[tuple[float, float]]) -> Recorded:
    """Return the profile of rows of a time in seconds and the rate from then on.

    Raises:
        BadInput: there are none, or times do not grow, or a rate is no rate.
    """
    if not rows:
        raise BadInput("a recorded profile has at least one row: a time and a rate")
    for number, (at, rate) in enumerate(rows, 1):
        if not isfinite(at) or at < 0 or (number > 1 and at <= rows[number - 2][0]):
            raise BadInput(f"row {number} of the recorded profile: times begin at 0 and grow")
        _rate(rate)
    return Recorded(tuple(rows))


class _Shape(NamedTuple):
    form: str
    made: Callable[[Sequence[str], float], Profile]
    fewest: int
    most: float


def _rate(value: str | float) -> float:
    rate = float(value)
    if not isfinite(rate) or rate < 0:
        raise BadInput(f"{value} is no rate: requests a second are 0 or more")
    return rate


def _constant(values: Sequence[str], _: float) -> Constant:
    return Constant(_rate(values[0]))


def _sine(values: Sequence[str], _: float) -> Sine:
    period_s = seconds(values[1])
    if period_s <= 0:
        raise BadInput("the period of a sine is above 0 s")
    return Sine(_rate(values[0]), period_s)


def _walk(values: Sequence[str], interval_s: float) -> Walk:
    mu, sigma, most, least = (_rate(value) for value in [*values, "0"][:4])
    walk = Walk(mu, sigma, most, least, interval_s)
    if not walk.least <= walk.mu <= walk.most:
        raise BadInput(f"a walk begins within its bounds, and {mu:g} is not")
    return walk


def _ticks(values: Sequence[str], interval_s: float) -> Ticks:
    return Ticks(tuple(_rate(value) for value in values), interval_s)


def _step(values: Sequence[str], interval_s: float) -> Step:
    first, step, most = (float(value) for value in [*values, "inf"][:3])
    if not isfinite(step):
        raise BadInput(f"{step} is no step")
    return Step(_rate(first), step, most, interval_s)


def _stages(values: Sequence[str], _: float) -> Stages:
    first, *stages = values
    pairs = (stage.partition(":") for stage in stages)
    return Stages(_rate(first), tuple((seconds(length), _rate(rate)) for length, _, rate in pairs))


_SHAPES: Mapping[str, _Shape] = {
    "constant": _Shape("constant:RATE", _constant, 1, 1),
    "sine": _Shape("sine:MAX,PERIOD", _sine, 2, 2),
    "walk": _Shape("walk:MU,SIGMA,MAX[,MIN]", _walk, 3, 4),
    "ticks": _Shape("ticks:RATE,RATE,...", _ticks, 1, inf),
    "step": _Shape("step:FIRST,STEP[,MAX]", _step, 2, 3),
    "stages": _Shape("stages:FIRST,DURATION:RATE,...", _stages, 2, inf),
}
