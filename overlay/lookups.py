"""What names that nobody registered may cost: how often is asked for them, and what is remembered.

A thousand requests for a thousand made-up names must not become a thousand calls to a registry, nor
a thousand comparisons with every name there is. So a "no" is remembered for some seconds, while the
watch lives that would bring the name if it were added; questions are bounded for each client, so
that one that makes names up does not keep others from asking, and for all together; and so are
hints, which cost some 30 ms among 10,000 names. Names that are registered are in the replica and
meet none of this.
"""

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field

from overlay.names import ServiceName
from overlay.pacing import Buckets

REMEMBERED_S = 5.0
"""A bound on how long a name that was added stays unknown where its news was lost."""

MAX_REMEMBERED = 4096
"""Names of at most 63 bytes; some 600 KiB."""

CLIENT_RATE, CLIENT_BURST = 20.0, 50.0
"""Questions of one client for new names; a person types one a second."""

RATE, BURST = 100.0, 200.0
"""Questions of one daemon, a tenth of what a registry answers."""

HINT_RATE, HINT_BURST = 2.0, 5.0
"""Hints of one daemon: at the very most 6 % of a core."""


@dataclass(frozen=True, slots=True)
class Miss:
    """There was no such name.

    Attributes:
        near: known names that it may be a slip of.
        until: when this is to be asked again, on the clock of whoever asks.
    """

    near: tuple[ServiceName, ...]
    until: float


@dataclass(slots=True)
class Lookups:
    """Bounds questions about names that are not known. Pure: the time comes in."""

    _misses: OrderedDict[ServiceName, Miss] = field(default_factory=OrderedDict)
    _clients: Buckets[str] = field(default_factory=Buckets)
    _all: Buckets[None] = field(default_factory=Buckets)
    _hints: Buckets[None] = field(default_factory=Buckets)

    def remembered(self, name: ServiceName, now: float) -> Miss | None:
        """Return what was answered a moment ago, if it was no."""
        miss = self._misses.get(name)
        if miss is not None and miss.until <= now:
            del self._misses[name]
            return None
        return miss

    def missed(self, name: ServiceName, near: tuple[ServiceName, ...], now: float) -> None:
        """Remember that there is no such name."""
        self._misses.pop(name, None)
        self._misses[name] = Miss(near, now + REMEMBERED_S)
        while len(self._misses) > MAX_REMEMBERED:
            self._misses.popitem(last=False)

    def forget(self) -> None:
        """Forget every no: something may have been added that was not heard of."""
        self._misses.clear()

    def wait_s(self, client: str, now: float) -> float:
        """Count a question; return 0, or the seconds until this client may ask."""
        own = self._clients.take(client, now, rate=CLIENT_RATE, burst=CLIENT_BURST)
        return own or self._all.take(None, now, rate=RATE, burst=BURST)

    def hint(self, near: Callable[[], list[ServiceName]], now: float) -> tuple[ServiceName, ...]:
        """Return what `near` returns, or nothing where there were many hints lately."""
        busy = self._hints.take(None, now, rate=HINT_RATE, burst=HINT_BURST)
        return () if busy else tuple(near())

    def __len__(self) -> int:
        """Return how many names are remembered."""
        return len(self._misses)
