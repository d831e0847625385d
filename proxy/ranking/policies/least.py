"""Where the fewest requests are in flight, as far as two draws show it.

Looking at two is nearly as good as looking at all (Mitzenmacher, "The Power of Two Choices in
Randomized Load Balancing"), and callers that share a view do not all rush to the same one. By
weight, backends are drawn as often as they weigh, and that with the most weight over its requests
in flight is taken. Between equals the one that is behind its share is, so that light traffic, which
meets nothing in flight, is spread as evenly as heavy.
"""

from collections.abc import Sequence
from random import Random

from proxy.ranking.policies.backend import DRAWS, B, Pairs, Shares, less_busy, usable_of
from proxy.ranking.policies.chance import Lots


class LeastRequest:
    """The less busy of two."""

    def __init__(self, random: Random) -> None:
        self._pairs = Pairs(random)
        self._shares = Shares()

    def pick(self, among: Sequence[B], now: float, key: bytes | None = None) -> B | None:
        """See `Policy.pick`."""
        del key
        found = self._drawn(among, now) if len(among) > 1 else None
        if found is None:
            rest = [b for b in among if b.usable(now)]
            if not rest:
                return None
            found = less_busy(*self._pairs.of(rest)) if len(rest) > 1 else rest[0]
        self._shares.give(found, len(among))
        return found

    def _drawn(self, among: Sequence[B], now: float) -> B | None:
        for _ in range(DRAWS):
            one, other = self._pairs.of(among)
            if not one.usable(now):
                one = other
            elif other.usable(now):
                return less_busy(one, other)
            if one.usable(now):
                return one
        return None


class WeightedLeastRequest:
    """That of two with the most weight over its requests in flight."""

    def __init__(self, random: Random) -> None:
        self._lots = Lots(random)
        self._shares = Shares()

    def pick(self, among: Sequence[B], now: float, key: bytes | None = None) -> B | None:
        """See `Policy.pick`."""
        del key
        one = self._draw(among, now)
        if one is None:
            rest = usable_of(among, now)
            return min(rest, key=_per_weight, default=None)
        other = self._draw(among, now)
        found = one if other is None or other is one else min(one, other, key=_per_weight)
        self._shares.give(found, self._lots.total(among), found.weight)
        return found

    def _draw(self, among: Sequence[B], now: float) -> B | None:
        for _ in range(DRAWS):
            found = self._lots.draw(among)
            if found is not None and found.usable(now):
                return found
        return None


def _per_weight(backend: B) -> tuple[float, float]:
    weight = backend.weight or 1e-9
    return backend.load() / weight, backend.share
