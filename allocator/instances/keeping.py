"""Who keeps the instances that a service wants at all times (`min_instances`). Pure.

There is nobody who could assign them, so every allocator computes the same assignment from what it
sees: rendezvous hashing (Thaler and Ravishankar, 1998). Each allocator that could run the service
has a weight, a hash of the service's name and the allocator's id; the k-th instance is the share
of the one with the k-th highest weight, and where there are fewer allocators than instances it
goes round again. When an allocator comes or goes, only what is its own share moves, and different
services fall to different machines.

Views differ for moments, so three things keep this calm:

- An allocator starts what it lacks only when it has lacked it for `SETTLE_S`: whoever has just
  joined sees few others and would take everything for its own.
- Whoever holds an instance that is another's share keeps it until it sees that the other's is
  there; of several such, in the order of the weights, as many as are missing. So the network never
  falls below the minimum by letting go, and duplicates last no longer than the news of them.
- Whoever should keep one and does not (its policy forbids it, its disk is full, nobody else can
  know) is stood in for after `TAKEOVER_S` by the next in order, then by the one after.

By the same order it is settled who gives up instances where a service has more than it may
(`max_instances`), because it may have fewer than it did or because several started one at once.

What is kept gives no room to others, so a machine keeps only so many: of one owner, and of all who
are not trusted there (`Allowance`). Who was there first is served first, or services would push
each other out again and again.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from math import inf

from overlay.names import PeerId

SETTLE_S = 3.0
"""A joining peer knows the others within a second or two."""

TAKEOVER_S = 15.0
"""A start takes its time, and so may the image; each further stand-in waits as long again."""


@dataclass(frozen=True, slots=True)
class Holding:
    """What one allocator has of a service.

    Attributes:
        able: it could run one more, or runs one; nothing that others can see is against it.
        usable: instances that are ready or paused.
        starting: instances that are on their way.
    """

    able: bool = True
    usable: int = 0
    starting: int = 0


@dataclass(frozen=True, slots=True)
class Duty:
    """What an allocator has to do for a service.

    Attributes:
        keep: as many of its instances are not put away.
        lacks: as many it has too few of its own share.
        stand_in_after_s: after what time of shortage it starts one for others.
    """

    keep: int = 0
    lacks: int = 0
    stand_in_after_s: float = inf

    def is_due(self, lacking_s: float, short_s: float) -> bool:
        """Return whether to start one more now.

        Args:
            lacking_s: for how long it has lacked something of its own.
            short_s: for how long the network has had too few.
        """
        if self.lacks and lacking_s >= SETTLE_S:
            return True
        return short_s >= self.stand_in_after_s


@dataclass(slots=True)
class Allowance:
    """How many instances a machine may keep still, while one look lasts.

    Attributes:
        most: returns how many of one owner; None is no bound, neither of its own nor of all.
        in_all: of all owners who have a bound.
    """

    most: Callable[[PeerId], int | None]
    in_all: int
    _taken: Counter[PeerId] = field(default_factory=Counter)

    def take(self, owner: PeerId, wanted: int) -> int:
        """Return how many of `wanted` instances may be kept; they are taken off."""
        most = self.most(owner)
        if most is None:
            return wanted
        granted = max(0, min(wanted, most - self._taken[owner], self.in_all - self._taken.total()))
        self._taken[owner] += granted
        return granted


def shares(able: Sequence[PeerId], minimum: int) -> dict[PeerId, int]:
    """Return how many instances each of the `able`, in their order, has to keep."""
    if not able:
        return {}
    whole, rest = divmod(minimum, len(able))
    return {peer: whole + (place < rest) for place, peer in enumerate(able)}


def is_short(minimum: int, holdings: Mapping[PeerId, Holding]) -> bool:
    """Return whether the network has too few, also when what is on its way has come."""
    return sum(h.usable + h.starting for h in holdings.values()) < minimum


def duty(
    me: PeerId, minimum: int, order: Sequence[PeerId], holdings: Mapping[PeerId, Holding]
) -> Duty:
    """Return what `me` has to do.

    Args:
        me: who asks; it is one of `holdings`.
        minimum: instances that the service wants.
        order: everybody in `holdings`, as `ranked` returns them.
        holdings: what each allocator has, this one included.
    """
    able = [peer for peer in order if holdings[peer].able]
    share = shares(able, minimum)
    own, mine = share.get(me, 0), holdings[me]
    keep = min(mine.usable, own) + _held_for_others(order, share, holdings).get(me, 0)
    lacks = max(0, own - mine.usable - mine.starting)
    return Duty(keep, lacks, _stands_in_after_s(me, able, share, holdings))


def excess(
    me: PeerId,
    minimum: int,
    most: int,
    order: Sequence[PeerId],
    holdings: Mapping[PeerId, Holding],
) -> int:
    """Return how many instances `me` gives up where the network has more than `most` of them.

    Those go first whose allocator is the last in order, and none that is somebody's share.
    """
    share = shares([peer for peer in order if holdings[peer].able], min(minimum, most))
    over = sum(holding.usable for holding in holdings.values()) - most
    for peer in reversed(order):
        gives = max(0, min(over, holdings[peer].usable - share.get(peer, 0)))
        if peer == me:
            return gives
        over -= gives
    return 0


def _held_for_others(
    order: Sequence[PeerId], share: Mapping[PeerId, int], holdings: Mapping[PeerId, Holding]
) -> dict[PeerId, int]:
    """Return how many instances beyond its share each holds until the others have theirs."""
    missing = sum(max(0, count - holdings[peer].usable) for peer, count in share.items())
    held = {}
    for peer in order:
        held[peer] = min(missing, max(0, holdings[peer].usable - share.get(peer, 0)))
        missing -= held[peer]
    return held


def _stands_in_after_s(
    me: PeerId,
    able: Sequence[PeerId],
    share: Mapping[PeerId, int],
    holdings: Mapping[PeerId, Holding],
) -> float:
    fit = [p for p in able if holdings[p].usable + holdings[p].starting >= share[p]]
    return TAKEOVER_S * (1 + fit.index(me)) if me in fit else inf
