"""What policies choose among, and the little they all need to know of it.

A backend lives as long as whatever it stands for, so that a pick makes no objects. A policy is
given the backends as a tuple that stays the same object until they change: what it prepares from
them it keeps by that object. Looking at all of them in each pick would cost 50 µs at 250 of them,
so no policy does so unless what it drew cannot be used.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Generic, Protocol, TypeVar

from proxy.ranking.policies.latency import Latency

DRAWS = 4
"""Unlucky draws before all are looked at: with half of them full, one pick in 16 comes so far."""

SLACK = 16.0
"""Requests that a backend which was busy may be behind its share, and catch up on where it is as
good as another. Without a bound one that was full for a minute would get all of the next."""

NEW_SLACK = 4.0
"""The same for a new one, which has missed nothing, unless all are new."""


@dataclass(slots=True, eq=False)
class Backend:
    """Something that serves requests.

    Attributes:
        name: stays the same wherever it is seen from: what hashing goes by.
        weight: how much it should get, in proportion; 0 is nothing while another can be used.
        distance_s: the RTT to it.
        in_flight: requests that the chooser has there.
        latency: how long it takes to answer.
        share: of all requests, in units of its weight: what fair policies even out.
    """

    name: str
    weight: float = 1.0
    distance_s: float = 0.0
    in_flight: int = 0
    latency: Latency = field(default_factory=Latency)
    share: float = 0.0

    def load(self) -> int:
        """Return how many requests are being served there, as far as it is known."""
        return self.in_flight

    def usable(self, now: float) -> bool:  # noqa: ARG002  (others can be left alone for a while)
        """Return whether it can take another request."""
        return True

    def busy(self, now: float) -> int:
        """Return its load, or -1 where it cannot take another request."""
        return self.load() if self.usable(now) else -1


B = TypeVar("B", bound=Backend)
P = TypeVar("P")
T = TypeVar("T")


class Policy(Protocol):
    """Says which backend the next request goes to."""

    def pick(self, among: Sequence[B], now: float, key: bytes | None = None) -> B | None:
        """Return a usable one of `among`, or None if there is none.

        Args:
            among: the same object for as long as nothing changes in it.
            now: in the seconds that latencies are told.
            key: what of the request is hashed, for those policies that hash.
        """
        ...


class Prepared(Generic[P]):
    """What a policy makes of the backends, made anew when they are others.

    Args:
        prepare: makes it.
    """

    def __init__(self, prepare: Callable[[Sequence[Backend]], P]) -> None:
        self._prepare = prepare
        self._among: Sequence[Backend] | None = None
        self._made: P | None = None

    def of(self, among: Sequence[Backend]) -> P:
        """Return it."""
        if self._made is None or among is not self._among:
            self._made, self._among = self._prepare(among), among
        return self._made


def usable_of(among: Sequence[B], now: float) -> list[B]:
    """Return the usable ones, without those of weight 0 while there are others."""
    usable = [b for b in among if b.usable(now)]
    return [b for b in usable if b.weight] or usable


def less_busy(one: B, other: B) -> B:
    """Return that with fewer requests in flight, of equally busy ones that behind its share."""
    busy, rest = one.load(), other.load()
    if busy == rest:
        return one if one.share <= other.share else other
    return one if busy < rest else other


class Pairs:
    """Pairs of backends, of which a policy takes the better: each in turn, and one at random.

    Two at random now and then leave one out for long, and of 250 some get a tenth too little; its
    turn finds each. Callers begin anywhere, so that they do not march in step.
    """

    def __init__(self, random: Random) -> None:
        self._random = random
        self._turn = int(random.random() * 2**16)

    def of(self, among: Sequence[T]) -> tuple[T, T]:
        """Return two different ones of at least two."""
        count = len(among)
        turn = self._turn = (self._turn + 1) % count
        drawn = int(self._random.random() * (count - 1))
        return among[turn], among[drawn + 1 if drawn >= turn else drawn]


class Shares:
    """Counts what each backend got, so that among equals the one with the least can be taken.

    Where draws are left to chance alone, of ten equal backends one has a tenth too much or too
    little after 1,500 requests nearly always.
    """

    def __init__(self) -> None:
        self._given = 0.0

    def give(self, backend: Backend, total: float, weight: float = 1.0) -> None:
        """Take in that one of several backends, which weigh `total` together, gets a request."""
        self._given += 1.0 / total
        slack = SLACK if backend.share else NEW_SLACK
        backend.share = max(backend.share, self._given - slack / weight) + 1.0 / weight
