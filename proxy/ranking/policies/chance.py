"""Left to chance, evenly or by weight."""

from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate
from random import Random

from proxy.ranking.policies.backend import DRAWS, B, Backend, Prepared, usable_of


class EvenChance:
    """Any, each as likely."""

    def __init__(self, random: Random) -> None:
        self._random = random

    def pick(self, among: Sequence[B], now: float, key: bytes | None = None) -> B | None:
        """See `Policy.pick`."""
        del key
        for _ in range(DRAWS if among else 0):
            found = among[int(self._random.random() * len(among))]
            if found.usable(now):
                return found
        rest = [b for b in among if b.usable(now)]
        return self._random.choice(rest) if rest else None


class Lots:
    """Draws backends by weight: all weights up to each, in order."""

    def __init__(self, random: Random) -> None:
        self._random = random
        self._sums = Prepared(_sums)

    def draw(self, among: Sequence[B]) -> B | None:
        """Return one, as likely as its weight; None where all have none."""
        sums = self._sums.of(among)
        if not sums or sums[-1] <= 0:
            return None
        at = bisect_right(sums, self._random.random() * sums[-1])
        return among[min(at, len(among) - 1)]

    def total(self, among: Sequence[B]) -> float:
        """Return what all weigh together."""
        sums = self._sums.of(among)
        return sums[-1] if sums else 0.0


class WeightedChance:
    """Any, the heavier the likelier."""

    def __init__(self, random: Random) -> None:
        self._random = random
        self._lots = Lots(random)

    def pick(self, among: Sequence[B], now: float, key: bytes | None = None) -> B | None:
        """See `Policy.pick`."""
        del key
        for _ in range(DRAWS):
            found = self._lots.draw(among)
            if found is not None and found.usable(now):
                return found
        rest = usable_of(among, now)
        if not rest:
            return None
        return self._random.choices(rest, [b.weight or 1.0 for b in rest])[0]


def _sums(among: Sequence[Backend]) -> list[float]:
    return list(accumulate(b.weight for b in among))
