"""The default: the nearest until it is busy; peak EWMA x RTT with the power of two choices.

Each backend has a latency to expect: the RTT to it, and what an answer takes there for each request
in flight and the new one. Those within twice the best are as good, and of two of them drawn at
random the less busy one is taken; between equally busy ones, that which is behind its share.

How long an answer takes is measured, and noise. So backends count as equally quick unless one's
average is over four times the usual one, the median: that one is left out until the others have so
much in flight that it is as good, or until its average has faded (`latency.py`).

Which backends are as good as the best is surveyed now and then, not at each pick: every fourth of
their number of picks, and whenever what was drawn is not as good any more. At 250 backends a survey
costs what 60 picks do; so it takes half of the time that picks take, at any number.
"""

from collections.abc import Sequence
from random import Random

from proxy.policies.backend import B, Backend, Shares, less_busy, two_of

NEAR_ENOUGH = 2.0
"""Backends whose expected latency is within this factor of the best are as good."""

LEAST_LATENCY_S = 0.001
"""Below a millisecond differences of distance are noise: machines of one rack are equals."""

SLOW = 4.0
"""Times the usual service time. Averages of equals with exponential service times differ by less
than three; a backend that swaps, or has a neighbour that takes its core, is ten times slower."""

JUDGED_AFTER = 3
"""Samples before a backend can be called slow."""

LEAST_SERVICE_S = 0.0002
"""Less is what the chooser's own pauses make of it."""

SURVEY_PART = 4
"""A survey each time that this part of the backends' number was picked."""


class Nearest:
    """The nearest until it is busy."""

    def __init__(self, random: Random) -> None:
        self._random = random
        self._shares = Shares()
        self._among: Sequence[Backend] = ()
        self._near: Sequence[int] = ()
        self._left = 0
        self._usual_s = LEAST_SERVICE_S
        self._best_s = 0.0

    def pick(self, among: Sequence[B], now: float, key: bytes | None = None) -> B | None:
        """See `Policy.pick`."""
        del key
        count = len(among)
        if count == 1:
            return among[0] if among[0].usable(now) else None
        found: B | None = None
        if self._left > 0 and among is self._among:
            found = self._drawn(among, now)
        if found is None:
            self._survey(among, now)
            found = self._best_drawn(among)
            if found is None:
                return None
        self._left -= 1
        self._shares.give(found, len(self._near))
        return found

    def _survey(self, among: Sequence[Backend], now: float) -> None:
        """Find out which are as good as the best."""
        known = sorted([b.latency.smoothed_s for b in among if b.latency.answered])
        usual_s = known[(len(known) - 1) // 2] if known else 0.0
        self._usual_s = max(usual_s, LEAST_SERVICE_S)
        usable = [n for n, b in enumerate(among) if b.usable(now)]
        let_in = [n for n in usable if among[n].latency.lets_in(among[n].load())] or usable
        costs = [(expected_s(among[n], now, self._usual_s), n) for n in let_in]
        self._best_s = min(costs)[0] if costs else 0.0
        self._near = [n for cost, n in costs if self._is_near(among[n], cost, now)]
        self._among, self._left = among, len(among) // SURVEY_PART + 1

    def _is_near(self, backend: Backend, cost_s: float, now: float) -> bool:
        best_s = self._best_s
        if cost_s <= best_s * NEAR_ENOUGH:
            return True
        if cost_s > LEAST_LATENCY_S * NEAR_ENOUGH:
            return False
        return not is_slow(backend, now, self._usual_s)

    def _drawn(self, among: Sequence[B], now: float) -> B | None:
        """Return the better of two of those that were near; None if neither is any more."""
        near = self._near
        if len(near) < 2:  # noqa: PLR2004
            return next((among[n] for n in near if self._fits(among[n], now)), None)
        one, other = two_of(near, self._random)
        first, second = among[one], among[other]
        if not self._fits(first, now):
            return second if self._fits(second, now) else None
        return less_busy(first, second) if self._fits(second, now) else first

    def _best_drawn(self, among: Sequence[B]) -> B | None:
        """Return the better of two that a survey just found near."""
        near = self._near
        if len(near) < 2:  # noqa: PLR2004
            return among[near[0]] if near else None
        one, other = two_of(near, self._random)
        return less_busy(among[one], among[other])

    def _fits(self, backend: Backend, now: float) -> bool:
        if not backend.usable(now) or not backend.latency.lets_in(backend.load()):
            return False
        return self._is_near(backend, expected_s(backend, now, self._usual_s), now)


def expected_s(backend: Backend, now: float, usual_s: float) -> float:
    """Return the latency to expect, in seconds, where answers usually take `usual_s`."""
    service_s = usual_s
    if is_slow(backend, now, usual_s):
        service_s = backend.latency.expected_s(now, usual_s)
    return backend.distance_s + service_s * (1 + backend.load())


def is_slow(backend: Backend, now: float, usual_s: float) -> bool:
    """Return whether answers take so much longer there that it is no accident.

    One of which that has faded is not, until it has a request in flight: one tries it, no more.
    """
    latency = backend.latency
    if latency.smoothed_s <= SLOW * usual_s or latency.rounds < JUDGED_AFTER:
        return False
    return backend.load() > 0 or latency.expected_s(now, usual_s) > SLOW * usual_s
