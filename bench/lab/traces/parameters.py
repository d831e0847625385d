"""What a trace is made by: nine parameters, as flags or as the variables of an `.env` file."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from enum import StrEnum
from typing import Any, Self

from bench.lab.errors import BadInput
from bench.lab.traces.rows import MOST_REQUESTS, number_of, whole

MOST_CONCURRENCY = 10_000
MOST = 2**53
"""Of sizes and places: what a number in a file or in JSON holds exactly."""


class Distribution(StrEnum):
    """Of the times between arrivals."""

    UNIFORM = "uniform"
    POISSON = "poisson"
    NORMAL = "normal"


_NUMBERED = {"1": Distribution.UNIFORM, "2": Distribution.POISSON, "3": Distribution.NORMAL}


@dataclass(frozen=True, slots=True)
class Parameters:
    """Of a trace; the defaults are an example.

    Attributes:
        samples: requests.
        size: mean size of a file, 1 or more.
        inter_arrival: mean time between arrivals, in whatever unit the trace is to have.
        read_ratio: percent of the requests that read.
        sas: size of the address space in which files are; `space` is below it.
        distribution: of the times between arrivals.
        mean: of the normal distribution; None is `inter_arrival`.
        stdev: of the normal distribution; None is a third of the mean.
        concurrency: requests that come at once at each arrival.
    """

    samples: int = 500
    size: float = 500.0
    inter_arrival: float = 1.0
    read_ratio: float = 80.0
    sas: int = 5493
    distribution: Distribution = Distribution.POISSON
    mean: float | None = None
    stdev: float | None = None
    concurrency: int = 1

    def __post_init__(self) -> None:
        _within("samples", self.samples, 1, MOST_REQUESTS)
        _within("size", self.size, 1, MOST)
        _within("inter_arrival", self.inter_arrival, 0, MOST)
        _within("read_ratio", self.read_ratio, 0, 100)
        _within("sas", self.sas, 1, MOST)
        _within("concurrency", self.concurrency, 1, MOST_CONCURRENCY)
        if self.distribution is Distribution.NORMAL:
            _within("mean", self.normal_mean, 0, MOST)
            _within("stdev", self.normal_stdev, 0, MOST)
            if self.normal_mean == self.normal_stdev == 0:
                raise BadInput("mean and stdev are both 0, so that all requests would come at once")
        elif self.inter_arrival == 0:
            raise BadInput("inter_arrival is 0, so that all requests would come at once")

    @property
    def normal_mean(self) -> float:
        """The mean of the normal distribution."""
        return self.inter_arrival if self.mean is None else self.mean

    @property
    def normal_stdev(self) -> float:
        """The standard deviation of the normal distribution."""
        return self.normal_mean / 3 if self.stdev is None else self.stdev

    @classmethod
    def of(cls, said: Mapping[str, str], defaults: Self | None = None) -> Self:
        """Return parameters from texts, by the names of the fields or those in capitals.

        Args:
            said: what was said; others' names are passed over.
            defaults: for what was not said.

        Raises:
            BadInput: naming the one that cannot be used.
        """
        base = defaults or cls()
        values: dict[str, Any] = {one.name: getattr(base, one.name) for one in fields(cls)}
        lower = {name.lower(): text for name, text in said.items()}
        for name in values.keys() & lower.keys():
            values[name] = _READ[name](lower[name], name.upper())
        return cls(**values)


def distribution_of(text: str, what: str) -> Distribution:
    """Return the distribution of a name or number.

    Raises:
        BadInput: there is none.
    """
    word = text.strip().lower()
    try:
        return _NUMBERED[word] if word in _NUMBERED else Distribution(word)
    except ValueError:
        numbered = ", ".join(f"{one} ({number})" for number, one in _NUMBERED.items())
        raise BadInput(f"{what} is {text!r}; there is {numbered}") from None


_READ: Mapping[str, Any] = {
    "samples": whole,
    "size": number_of,
    "inter_arrival": number_of,
    "read_ratio": number_of,
    "sas": whole,
    "distribution": distribution_of,
    "mean": number_of,
    "stdev": number_of,
    "concurrency": whole,
}


def _within(name: str, value: float, least: float, most: float) -> None:
    if not least <= value <= most:
        raise BadInput(f"{name} is {value:g}; it must be {least:,} to {most:,}")
