"""How often somebody may: a bucket of tokens for each, and a bound on how many are remembered.

A bucket holds `burst` tokens and fills by `rate` a second; each use takes one (Turner 1986; RFC
2697 has the same meter). Buckets that are full again say nothing, so they are forgotten; when there
are more than `MAX_KEYS` that are not, the one that was used least lately goes. Whoever comes under
ever new names is therefore not held by this, and has to be bounded by a bucket for all.
"""

from collections import OrderedDict
from collections.abc import Hashable
from dataclasses import dataclass, field
from typing import Generic, TypeVar

MAX_KEYS = 4096
"""As many peers as a network has; a bucket takes some 200 bytes."""

K = TypeVar("K", bound=Hashable)


@dataclass(slots=True)
class Buckets(Generic[K]):
    """A bucket for each key. Pure: the time comes in."""

    _used: OrderedDict[K, tuple[float, float]] = field(default_factory=OrderedDict)

    def take(self, key: K, now: float, *, rate: float, burst: float) -> float:
        """Take a token; return 0, or the seconds until there is one.

        Args:
            key: whose bucket.
            now: in seconds; a clock that goes back earns nothing meanwhile.
            rate: tokens a second; over 0.
            burst: tokens that a full bucket holds; at least 1.
        """
        tokens, then = self._used.pop(key, (burst, now))
        tokens = min(burst, tokens + max(0.0, now - then) * rate)
        taken = tokens >= 1
        self._used[key] = (tokens - 1 if taken else tokens, now)
        while len(self._used) > MAX_KEYS:
            self._used.popitem(last=False)
        return 0.0 if taken else (1 - tokens) / rate

    def __len__(self) -> int:
        """Return how many keys are remembered."""
        return len(self._used)
