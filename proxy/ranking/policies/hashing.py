"""The same backend for the same key: ring hash and Maglev.

Both keep nearly all keys where they were when a backend comes or goes. The ring (Karger et al.,
"Consistent Hashing and Random Trees") has points for each backend and takes the first one behind
the key's. Maglev (Eisenbud et al., section 3.4) fills a table in which each backend claims slots in
an order of its own, in turns; shares are more even, and a change moves a few keys more.

Where a key's backend cannot be used the next one behind it is, so that its keys spread over the
others and come back to it. A request without a key goes anywhere, as with Envoy.

To lay a circle for 250 backends takes some 50 ms, in which a proxy would answer nobody. So each
pick lays a slice, a millisecond or so, and goes by the circle before it until it is done. The first
one of all has none before it, and is used as far as it is laid: what is claimed in a table stays
claimed, and on a ring each backend has points from the first slices on.
"""

from abc import ABC, abstractmethod
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from hashlib import blake2b
from itertools import chain
from math import ceil, inf
from random import Random

from proxy.ranking.policies.backend import B, Backend
from proxy.ranking.policies.chance import WeightedChance

POINTS = 1024
"""On the ring, at least; Envoy's."""

POINTS_EACH = 64
"""For each backend: shares are then within a third of each other, mostly."""

MAX_POINTS = 65_536

TABLE_SIZES = (1_021, 4_093, 16_381, 65_537)
"""Primes; the table has a hundred slots for each backend where it can, as the paper wants."""

SLOTS_EACH = 100

MOST_CIRCLES = 4
"""That are kept: of those near, far and suspect, and one that backends come back to."""

SLICE_PROBES = 5_000
"""Slots looked at in one slice, at 50 to 150 ns. The smallest table is laid at once, in a
millisecond: a slice would save nothing."""

SLICE_TURNS = 128
"""Backends whose order is worked out in one slice, at 4 µs."""

SLICE_DIGESTS = 160
"""Of points in one slice, at 4 µs each; the smallest ring is laid at once."""

_HASHES = 8
"""In one digest of 64 bytes."""

Named = tuple[str, float]
"""A backend's name and weight, which are all that a circle is laid by."""


class _Circle(ABC):
    """Slots, each of one backend, which `names` numbers.

    Attributes:
        names: in order.
        among: the backends that were given last.
        laid: it is complete.
        before: what stands in for it until it is.
    """

    def __init__(self, names: Sequence[Named]) -> None:
        self.names = names
        self.among: Sequence[Backend] = ()
        self.laid = False
        self.before: _Circle | None = None
        self._owners: Sequence[Backend | None] = ()
        self._owners_before: Sequence[Backend | None] = ()
        self._work = self._lay()

    def work(self) -> None:
        """Lay another slice."""
        for _ in self._work:
            return
        self.laid, self.before, self._owners_before = True, None, ()

    def take(self, among: Sequence[Backend]) -> None:
        """Have keys lead to these objects."""
        there = {backend.name: backend for backend in among}
        self.among = among
        self._owners = [there.get(name) for name, _ in self.names]
        if self.before is not None:
            self._owners_before = [there.get(name) for name, _ in self.before.names]

    def shared(self, names: Sequence[Named]) -> int:
        """Return how many backends it has in common with another."""
        return len(set(self.names).intersection(names))

    def behind(self, key: bytes) -> Iterator[Backend]:
        """Yield the backends from a key on, each once."""
        if self.before is None:
            return self._behind(key, self._owners)
        return self.before._behind(key, self._owners_before)  # noqa: SLF001  (of the same class)

    def _behind(self, key: bytes, owners: Sequence[Backend | None]) -> Iterator[Backend]:
        start, count = self._slot_of(hash64(key)), self._count()
        seen: set[int] = set()
        for step in range(count):
            number = self._number_at((start + step) % count)
            if number >= 0 and number not in seen:
                seen.add(number)
                owner = owners[number]
                if owner is not None:
                    yield owner
                if len(seen) == len(owners):
                    return

    @abstractmethod
    def _lay(self) -> Iterator[None]:
        """Lay it, and pause after each slice."""

    @abstractmethod
    def _count(self) -> int:
        """Return how many slots there are."""

    @abstractmethod
    def _slot_of(self, hashed: int) -> int:
        """Return the slot of a key; that behind the last is the first."""

    @abstractmethod
    def _number_at(self, slot: int) -> int:
        """Return the number of the backend that has a slot, -1 where none has yet."""


class _Ring(_Circle):
    """Points in order, and which backend has set each."""

    def __init__(self, names: Sequence[Named]) -> None:
        self._points: list[int] = []
        self._numbers: dict[int, int] = {}
        super().__init__(names)

    def _lay(self) -> Iterator[None]:
        digests = list(_digests(self.names))
        for begin in range(0, len(digests), SLICE_DIGESTS):
            if begin:
                yield
            few = dict(chain.from_iterable(map(_points, digests[begin : begin + SLICE_DIGESTS])))
            self._numbers |= few
            self._points += few
            self._points.sort()  # what was there is in order, which makes this a merge

    def _count(self) -> int:
        return len(self._points)

    def _slot_of(self, hashed: int) -> int:
        return bisect_left(self._points, hashed)

    def _number_at(self, slot: int) -> int:
        return self._numbers[self._points[slot]]


class _Table(_Circle):
    """Maglev's."""

    def __init__(self, names: Sequence[Named]) -> None:
        weighty = [number for number, (_, weight) in enumerate(names) if weight]
        wanted = SLOTS_EACH * len(weighty)
        size = next((s for s in TABLE_SIZES if s >= wanted), TABLE_SIZES[-1])
        self._weighty = weighty
        self._slots = [-1] * (size if weighty else 0)
        super().__init__(names)

    def _lay(self) -> Iterator[None]:
        slots, turns = self._slots, []
        for number in self._weighty:
            turns.append(_Turn(number, *self.names[number], len(slots)))
            if len(turns) % SLICE_TURNS == 0:
                yield
        heaviest = max((turn.weight for turn in turns), default=1.0)
        left, probes = len(slots), 0
        most = SLICE_PROBES if left > TABLE_SIZES[0] else inf
        while left:
            for turn in turns:
                turn.due += turn.weight / heaviest
                if turn.due >= 1.0:
                    turn.due -= 1.0
                    probes += turn.claim(slots)
                    left -= 1
                    if not left:
                        return
                    if probes >= most:
                        probes = 0
                        yield

    def _count(self) -> int:
        return len(self._slots)

    def _slot_of(self, hashed: int) -> int:
        return hashed % max(len(self._slots), 1)

    def _number_at(self, slot: int) -> int:
        return self._slots[slot]


class _Turn:
    """A backend that claims slots."""

    __slots__ = ("due", "number", "size", "slot", "step", "weight")

    def __init__(self, number: int, name: str, weight: float, size: int) -> None:
        encoded = name.encode()
        self.number = number
        self.weight = weight
        self.size = size
        self.slot = hash64(encoded) % size
        self.step = hash64(encoded + b"\0") % (size - 1) + 1
        self.due = 0.0

    def claim(self, table: list[int]) -> int:
        """Take the first free slot in this backend's order; return how many were looked at."""
        slot, step, size, probes = self.slot, self.step, self.size, 1
        while table[slot] >= 0:
            slot = (slot + step) % size
            probes += 1
        table[slot] = self.number
        self.slot = (slot + step) % size
        return probes


class _ByKey:
    """Goes by circles of one kind."""

    circle: type[_Circle]

    def __init__(self, random: Random) -> None:
        self._anywhere = WeightedChance(random)
        self._circles: list[_Circle] = []

    def pick(self, among: Sequence[B], now: float, key: bytes | None = None) -> B | None:
        """See `Policy.pick`."""
        if key is None or not among:
            return self._anywhere.pick(among, now)
        circle = self._circle_of(among)
        if not circle.laid:
            circle.work()
        for backend in circle.behind(key):
            if backend.usable(now):
                return backend  # type: ignore[return-value]  # it is one of `among`
        return self._anywhere.pick(among, now)

    def _circle_of(self, among: Sequence[Backend]) -> _Circle:
        for circle in self._circles:
            if circle.among is among:
                return circle
        names = sorted((backend.name, backend.weight) for backend in among)
        found = next((c for c in self._circles if c.names == names), None)
        if found is None:
            found = self._begun(names)
        else:
            self._circles.remove(found)
        self._circles = [found, *self._circles[: MOST_CIRCLES - 1]]
        found.take(among)
        return found

    def _begun(self, names: Sequence[Named]) -> _Circle:
        """Return a circle that is still to be laid; the one most like it stands in meanwhile."""
        begun = self.circle(names)
        like = max(self._circles, key=lambda circle: circle.shared(names), default=None)
        if like is not None and like.shared(names):
            begun.before = like.before or like
        return begun


class RingHash(_ByKey):
    """The first backend behind the key on the ring."""

    circle = _Ring


class Maglev(_ByKey):
    """The backend in the key's slot of the table."""

    circle = _Table


def hash64(key: bytes) -> int:
    """Return 64 bits of `key`, the same on every machine and in every version."""
    return int.from_bytes(blake2b(key, digest_size=8).digest())


def _digests(names: Sequence[Named]) -> Iterator[tuple[str, int, int]]:
    """Yield what to digest, whose it is, and how many points it gives: of each backend in turn."""
    total = sum(weight for _, weight in names)
    size = min(max(POINTS, POINTS_EACH * len(names)), MAX_POINTS)
    wanted = [ceil(size * weight / total) if total else 0 for _, weight in names]
    for part in range(ceil(max(wanted, default=0) / _HASHES)):
        for number, (name, _) in enumerate(names):
            most = min(_HASHES, wanted[number] - part * _HASHES)
            if most > 0:
                yield f"{name}_{part}", number, most


def _points(digested: tuple[str, int, int]) -> Iterator[tuple[int, int]]:
    text, number, most = digested
    digest = blake2b(text.encode()).digest()
    for at in range(0, 8 * most, 8):
        yield int.from_bytes(digest[at : at + 8]), number
