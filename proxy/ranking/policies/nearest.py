"""The default: the nearest until it is busy; peak EWMA x RTT with the power of two choices.

Each backend has a latency to expect: the RTT to it, and what an answer takes there for each request
in flight and the new one. Those within twice the best are as good, and of two of them the less busy
one is taken; between equally busy ones, that which is behind its share.

How long an answer takes is measured, and noise. So backends count as equally quick unless one's
average is over four times the usual one, the median: that one is left out until the others have so
much in flight that it is as good, or until its average has faded (`latency.py`).

Which backends are as good as the best is surveyed now and then, not at each pick: every fourth of
their number of picks, and whenever what was drawn is not as good any more. At 250 backends a survey
costs what 60 picks do; so it takes half of the time that picks take, at any number.
"""

from collections.abc import Sequence
from random import Random

from proxy.ranking.policies.backend import B, Backend, Pairs, Shares, less_busy

NEAR_ENOUGH = 2.0
"""Backends whose expected latency is within this factor of the best are as good."""

LEAST_LATENCY_S = 0.001
"""Below a millisecond differences of distance are noise: machines of one rack are equals."""

SLOW = 4.0
"""Times the usual service time. Averages of equals with exponential service times differ by less
than three; a backend that swaps, or has a neighbour that takes its core, is ten times slower."""

JUDGED_AFTER = 4
"""Samples before a backend can be called slow."""

LEAST_SERVICE_S = 0.0002
"""Less is what the chooser's own pauses make of it."""

SURVEY_PART = 4
"""A survey each time that this part of the backends' number was picked."""


class Nearest:
    """The nearest until it is busy."""

    def __init__(self, random: Random) -> None:
        self._pairs = Pairs(random)
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
        known = sorted([b.latency.smoothed_s for b in among if b.latency.rounds])
        usual_s = known[(len(known) - 1) // 2] if known else 0.0
        self._usual_s = usual_s = max(usual_s, LEAST_SERVICE_S)
        usable = [(n, load) for n, b in enumerate(among) if (load := b.busy(now)) >= 0]
        let_in = [(n, load) for n, load in usable if among[n].latency.lets_in(load)] or usable
        costs = [(expected_s(among[n], load, now, usual_s), n, load) for n, load in let_in]
        self._best_s = min(costs)[0] if costs else 0.0
        self._near = [n for cost, n, load in costs if self._is_near(among[n], load, cost, now)]
        self._among, self._left = among, len(among) // SURVEY_PART + 1

    def _is_near(self, backend: Backend, load: int, cost_s: float, now: float) -> bool:
        best_s = self._best_s
        if cost_s <= best_s * NEAR_ENOUGH:
            return True
        if cost_s > LEAST_LATENCY_S * NEAR_ENOUGH:
            return False
        return not is_slow(backend, load, now, self._usual_s)

    def _drawn(self, among: Sequence[B], now: float) -> B | None:
        """Return the better of two of those that were near; None if neither is any more."""
        near = self._near
        if len(near) < 2:  # noqa: PLR2004
            return next((among[n] for n in near if self._fits(among[n], now) >= 0), None)
        one, other = self._pairs.of(near)
        first, second = among[one], among[other]
        busy, rest = self._fits(first, now), self._fits(second, now)
        if busy < 0:
            return second if rest >= 0 else None
        if busy == rest:
            return first if first.share <= second.share else second
        return first if rest < 0 or busy < rest else second

    def _best_drawn(self, among: Sequence[B]) -> B | None:
        """Return the better of two that a survey just found near."""
        near = self._near
        if len(near) < 2:  # noqa: PLR2004
            return among[near[0]] if near else None
        one, other = self._pairs.of(near)
        return less_busy(among[one], among[other])

    def _fits(self, backend: Backend, now: float) -> int:
        """Return the load of one that is near; -1 if it is not, or must not be used now."""
        load, latency = backend.busy(now), backend.latency
        if load < 0 or not latency.lets_in(load):
            return -1
        cost_s = expected_s(backend, load, now, self._usual_s)
        return load if self._is_near(backend, load, cost_s, now) else -1


def expected_s(backend: Backend, load: int, now: float, usual_s: float) -> float:
    """Return the latency to expect, in seconds, where answers usually take `usual_s`."""
    service_s = usual_s
    if is_slow(backend, load, now, usual_s):
        service_s = backend.latency.expected_s(now, usual_s)
    return backend.distance_s + service_s * (1 + load)


def is_slow(backend: Backend, load: int, now: float, usual_s: float) -> bool:
    """Return whether answers take so much longer there that it is no accident.

    One of which that has faded is not, until it has a request in flight: one tries it, no more.
    """
    latency = backend.latency
    if latency.smoothed_s <= SLOW * usual_s or latency.rounds < JUDGED_AFTER:
        return False
    return load > 0 or latency.expected_s(now, usual_s) > SLOW * usual_s
