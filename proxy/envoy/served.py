"""A service in Envoy's hands: its cluster, and what is under way there.

What a cluster is cannot be changed in place: Envoy makes another one of that name, and tells no
more of what is under way in the one before. So whatever changes a cluster, such as a definition
that is new or another machine that has instances, gets a cluster of another name. The one before
keeps its leases until Envoy has nothing under way in it.
"""

from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field

from overlay.names import PeerId, ServiceName
from overlay.revision import SignedRevision
from overlay.spec import ServiceSpec
from proxy.backend.leases import Lease, LeaseHolder
from proxy.envoy.admin import PROXY
from proxy.envoy.loans import QUIET_ANSWERS, Key, Loan, Seen, crowded, fresh
from proxy.envoy.mapping import Machine, Mapped


@dataclass(slots=True)
class Held:
    """A lease in Envoy's hands.

    Attributes:
        told: requests under way that the lease knows of.
    """

    loan: Loan
    lease: Lease
    holder: LeaseHolder
    told: int = 0

    @classmethod
    def lend(
        cls, loan: Loan, lease: Lease, holder: LeaseHolder, wake: Callable[[], None]
    ) -> "Held":
        """Put a lease into Envoy's hands; `wake` is called when it is wanted back."""
        holder.lend(lease, wake)
        return cls(loan, lease, holder)

    def count(self, served: int, passed_s: float) -> None:
        """Tell the lease what is under way, and what was in the last `passed_s` seconds."""
        active = self.loan.active
        # What was under way, over the time: the sum of how long requests took (Little).
        self.holder.count(self.lease, active - self.told, served, active * passed_s)
        self.told = active

    async def give_back(self) -> None:
        """Take the lease out of Envoy's hands."""
        self.holder.count(self.lease, -self.told, 0, 0.0)
        self.told = 0
        await self.holder.give_back(self.lease)


@dataclass(slots=True)
class Away:
    """Another machine that Envoy sends requests to.

    Attributes:
        machine: as Envoy is told of it.
        keys: instances that it has.
        elsewhere: requests there that their machine knows of.
        total: requests that are counted already.
        active: requests that were under way in Envoy's last answer.
    """

    machine: Machine
    keys: frozenset[Key]
    elsewhere: int = 0
    total: int = 0
    active: int = 0

    def observe(self, seen: Seen | None) -> int:
        """Take in what Envoy says, None if it does not know the machine; return new requests."""
        new = 0 if seen is None else fresh(self.total, seen.total)
        self.active, self.total = (0, 0) if seen is None else (seen.active, seen.total)
        return new


@dataclass(slots=True)
class Served:
    """A service that Envoy knows, or is to know, by one cluster.

    Attributes:
        version: of the cluster.
        held: instances of this machine.
        away: other machines, by whose gateway it is.
        pins: of the key that each gateway shows.
        empty_since: it had something until then.
        waiting: requests that went through its cluster to the proxy, and have not ended.
        crowded: looks in a row in which all instances were full.
        grow_at: nothing more is started before.
        known: Envoy has its cluster.
        quiet: looks in a row in which Envoy had nothing under way in it.
    """

    name: ServiceName
    revision: SignedRevision
    spec: ServiceSpec
    version: int
    held: dict[Key, Held] = field(default_factory=dict)
    away: dict[PeerId, Away] = field(default_factory=dict)
    pins: dict[PeerId, str] = field(default_factory=dict)
    empty_since: float = 0.0
    waiting: int = 0
    crowded: int = 0
    grow_at: float = 0.0
    known: bool = False
    quiet: int = 0

    @property
    def mapped(self) -> Mapped:
        """What Envoy is to be told."""
        endpoints = (one.loan.endpoint() for one in self.held.values())
        return Mapped(
            self.name,
            self.spec,
            tuple(e for e in endpoints if e is not None),
            tuple(away.machine for away in self.away.values()),
            tuple(self.pins.items()),
            self.version,
        )

    @property
    def over(self) -> bool:
        """Whether nothing is left of what went by its cluster."""
        return not self.held and self.quiet >= QUIET_ANSWERS

    def fits(self, spec: ServiceSpec, pins: Mapping[PeerId, str]) -> bool:
        """Whether its cluster will do for a definition, and for gateways that show these keys."""
        return spec == self.spec and all(self.pins.get(p) == pin for p, pin in pins.items())

    def observe(self, seen: Mapping[str, Seen] | None, passed_s: float) -> int:
        """Take in what Envoy says of its cluster; return new requests that it serves itself."""
        self.known = seen is not None
        said: Mapping[str, Seen] = seen or {}
        self.waiting = said[PROXY].active if PROXY in said else 0
        new = 0
        for held in self.held.values():
            served = held.loan.observe(said.get(held.loan.address))
            held.count(served, passed_s)
            new += served
        new += sum(away.observe(said.get(away.machine.where)) for away in self.away.values())
        busy = self.waiting or any(away.active for away in self.away.values())
        self.quiet = 0 if busy else self.quiet + 1
        return new

    def lost(self) -> None:
        """Take in that Envoy has ended, with all that it had under way."""
        self.known = False
        for held in self.held.values():
            held.loan.lost()
            held.count(0, 0.0)
        for away in self.away.values():
            away.observe(None)

    def full(self) -> bool:
        """Whether all of its instances have as much under way as they take."""
        most = self.spec.concurrency
        elsewhere = [
            (max(away.active, away.elsewhere), most * len(away.keys)) for away in self.away.values()
        ]
        return crowded({key: held.loan for key, held in self.held.items()}, most, elsewhere)

    def keys(self) -> Iterator[Key]:
        """Yield every instance that it has."""
        yield from self.held
        for away in self.away.values():
            yield from away.keys

    def recall(self, but: Collection[Key] = ()) -> None:
        """Begin to take back what is held, but for some."""
        for key, held in self.held.items():
            if key not in but:
                held.loan.recall()
