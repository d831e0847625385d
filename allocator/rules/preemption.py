"""Which instances give their room to one that is to start. Pure.

A service may say that its instances are preemptible: what they compute can be computed elsewhere or
later, as a map's workers do. Whoever needs the room and is not preemptible may have it at once, so
nobody waits for such work to end.

Among themselves preemptible instances share a machine evenly by owner (max-min fairness): one is
taken from an owner only if that owner still has as much, afterwards, as the one who takes it. So
shares differ by one instance at the most, and nothing goes to and fro. One is always taken from who
has most, the youngest of theirs, and none that turns out not to be needed.
"""

from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass

from overlay.names import InstanceId, PeerId
from overlay.records import Room
from overlay.spec import ServiceSpec


@dataclass(frozen=True, slots=True)
class Reservation:
    """What one instance was promised."""

    author: PeerId
    cpu_millicores: int
    memory_mib: int
    preemptible: bool = False

    @property
    def weight(self) -> int:
        """What it counts in its owner's share: its millicores, or one where it asks for none."""
        return max(1, self.cpu_millicores)


def reservation(author: PeerId, spec: ServiceSpec) -> Reservation:
    """Return what an instance of `spec` is promised."""
    return Reservation(author, spec.cpu_millicores, spec.memory_mib, spec.preemptible)


def preempted(
    held: Mapping[InstanceId, Reservation], free: Room, claim: Reservation
) -> list[InstanceId] | None:
    """Return whose room a new instance takes, or None if it finds none so.

    Args:
        held: what is promised, the oldest promise first.
        free: what is not.
        claim: what the new one needs.
    """
    shares = Counter[PeerId]()
    for one in held.values():
        shares[one.author] += one.weight * one.preemptible
    chosen: list[InstanceId] = []
    while not _fits(free, claim, [held[i] for i in chosen]):
        takable = [
            (shares[one.author], at, instance)
            for at, (instance, one) in enumerate(held.items())
            if one.preemptible and instance not in chosen and _may_take(claim, one, shares)
        ]
        if not takable:
            return None
        taken = max(takable)[2]
        shares[held[taken].author] -= held[taken].weight
        chosen.append(taken)
    for instance in tuple(chosen):
        others = [i for i in chosen if i != instance]
        if _fits(free, claim, [held[i] for i in others]):
            chosen = others
    return chosen


def _may_take(claim: Reservation, one: Reservation, shares: Mapping[PeerId, int]) -> bool:
    if not claim.preemptible:
        return True
    if one.author == claim.author:
        return False
    return shares.get(claim.author, 0) + claim.weight <= shares[one.author] - one.weight


def _fits(free: Room, claim: Reservation, taken: Collection[Reservation]) -> bool:
    return (
        claim.cpu_millicores <= free.cpu_millicores + sum(r.cpu_millicores for r in taken)
        and claim.memory_mib <= free.memory_mib + sum(r.memory_mib for r in taken)
        and free.instances + len(taken) > 0
    )
