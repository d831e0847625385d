"""What may start here: the machine's policy, and a ledger of what is promised to whom.

The caller of an allocation ranked this machine from a view that may be a moment old; the decision
is made here, last, from what is really there. It is pure: what is known comes in, `Admitted` or
`Refusal` comes out, and the ledger changes only by `reserve`, `rest`, `wake` and `release`.

A paused instance gives its promise back, and keeps the memory that it was measured to use. That
memory counts as room all the same, because the instance goes when the room is needed (`shortage`
says how much then), except where the network keeps it. What preemptible instances were promised is
given to who may have it (`preemption.py`), and they are told to end (`preempted`).

Who may run what at all is decided in `policy.py`.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from math import ceil

from allocator.rules.policy import (
    KEPT_OF_AN_OWNER,
    NO_RULES,
    Ground,
    Quota,
    Rules,
    Verdict,
    decide,
    rests_on_name,
    within,
)
from allocator.rules.preemption import Reservation, preempted, reservation
from allocator.rules.standby import Shortage
from allocator.runtime import Capacity
from overlay.allocation import AllocationRefusal
from overlay.labels import Called, unmet
from overlay.names import InstanceId, PeerId
from overlay.pacing import Buckets
from overlay.records import Room
from overlay.revision import SignedRevision
from overlay.spec import Image, ServiceSpec


@dataclass(frozen=True, slots=True)
class Admitted:
    """The instance may start."""


@dataclass(frozen=True, slots=True)
class Refusal:
    """The instance may not start here, and why."""

    code: AllocationRefusal
    text: str


Decision = Admitted | Refusal


@dataclass(frozen=True, slots=True)
class Limits:
    """How much of the machine instances may have.

    Attributes:
        instances: most instances at once.
        instances_per_author: most instances of one owner key at once; 0 is no bound.
    """

    cpu_millicores: int
    memory_mib: int
    instances: int
    instances_per_author: int = 0


@dataclass(frozen=True, slots=True)
class Rest:
    """What a paused instance holds."""

    memory_mib: int
    reclaimable: bool


@dataclass(slots=True)
class Ledger:
    """Every promise that was made and not taken back, and what paused instances hold.

    Attributes:
        limits: what there is to promise.
        quota: how much of it one owner may have.
    """

    limits: Limits
    quota: Callable[[PeerId], Quota] = lambda _: Quota()
    _reservations: dict[InstanceId, Reservation] = field(default_factory=dict)
    _rests: dict[InstanceId, Rest] = field(default_factory=dict)
    _preempted: list[InstanceId] = field(default_factory=list)

    def reserve(self, instance: InstanceId, author: PeerId, spec: ServiceSpec) -> Decision:
        """Promise `instance` what its spec asks for, if there is room."""
        decision = self.room_for(author, spec)
        if isinstance(decision, Admitted):
            for victim in self._giving_way(author, spec) or ():
                self.release(victim)
                self._preempted.append(victim)
            self.hold(instance, author, spec)
        return decision

    def preempted(self) -> list[InstanceId]:
        """Return the instances whose promise was given to others, once each."""
        told, self._preempted = self._preempted, []
        return told

    def rest(self, instance: InstanceId, memory_mib: int, *, reclaimable: bool) -> None:
        """Take back what a paused instance was promised; it holds `memory_mib`."""
        self._reservations.pop(instance, None)
        self._rests[instance] = Rest(memory_mib, reclaimable)

    def wake(self, instance: InstanceId, author: PeerId, spec: ServiceSpec) -> Decision:
        """Promise a paused instance again what its spec asks for, if there is room."""
        if instance in self._reservations:
            return Admitted()
        rest = self._rests.pop(instance, None)
        decision = self.reserve(instance, author, spec)
        if isinstance(decision, Refusal) and rest is not None:
            self._rests[instance] = rest
        return decision

    def room_for(self, author: PeerId, spec: ServiceSpec) -> Decision:
        """Return whether `reserve` would find room."""
        room = self.room()
        mine = [r for r in self._reservations.values() if r.author == author]
        fits = self._giving_way(author, spec) is not None
        if room.instances < 1 and not fits:
            return _no_room(f"{self.limits.instances} instances run here, which is the most")
        if 0 < self.limits.instances_per_author <= len(mine):
            return _no_room(f"{len(mine)} instances of this owner run here, which is the most")
        verdict = within(
            self.quota(author),
            instances=len(mine),
            cpu=sum(r.cpu_millicores for r in mine),
            memory_mib=sum(r.memory_mib for r in mine),
            spec=spec,
        )
        if not verdict.allowed:
            return _no_room(str(verdict))
        if fits:
            return Admitted()
        if spec.cpu_millicores > room.cpu_millicores:
            return _no_room(
                f"CpuReq is {spec.cpu_millicores} millicores, {room.cpu_millicores} of "
                f"{self.limits.cpu_millicores} are free"
            )
        return _no_room(
            f"MemoryReq is {spec.memory_mib} MiB, {room.memory_mib} of "
            f"{self.limits.memory_mib} are free"
        )

    def _giving_way(self, author: PeerId, spec: ServiceSpec) -> list[InstanceId] | None:
        """Return whose room an instance gets, nobody's where enough is free; None: it gets none."""
        return preempted(self._reservations, self.room(), reservation(author, spec))

    def hold(self, instance: InstanceId, author: PeerId, spec: ServiceSpec) -> None:
        """Enter what an instance uses that runs already, room or not."""
        self._rests.pop(instance, None)
        self._reservations[instance] = reservation(author, spec)

    def release(self, instance: InstanceId) -> None:
        """Take the promise back; nothing happens if there is none."""
        self._reservations.pop(instance, None)
        self._rests.pop(instance, None)

    def room(self) -> Room:
        """Return what is left, never below zero; what can be had back counts as left."""
        held = self._reservations.values()
        kept = [r.memory_mib for r in self._rests.values() if not r.reclaimable]
        yielding = [r for r in held if r.preemptible]
        memory_mib = sum(r.memory_mib for r in held) + sum(kept)
        return Room(
            cpu_millicores=max(0, self.limits.cpu_millicores - sum(r.cpu_millicores for r in held)),
            memory_mib=max(0, self.limits.memory_mib - memory_mib),
            instances=max(0, self.limits.instances - len(held) - len(kept)),
            preemptible_millicores=sum(r.cpu_millicores for r in yielding),
            preemptible_mib=sum(r.memory_mib for r in yielding),
            preemptible_instances=len(yielding),
        )

    def shortage(self) -> Shortage:
        """Return what paused instances must give back so that all promises can be kept."""
        held, rests = self._reservations.values(), self._rests.values()
        memory_mib = sum(r.memory_mib for r in held) + sum(r.memory_mib for r in rests)
        return Shortage(
            memory_mib=max(0, memory_mib - self.limits.memory_mib),
            instances=max(0, len(held) + len(rests) - self.limits.instances),
        )

    def resting_mib(self) -> int:
        """Return the memory of paused instances."""
        return sum(r.memory_mib for r in self._rests.values())


@dataclass(frozen=True, slots=True)
class Policy:
    """What this machine's operator lets run.

    Attributes:
        open_network: there is no passphrase: anybody may be a member.
        allow_any: in an open network, run everybody's images all the same.
        allowed: the owner keys that may do everything; read at each use, so that a change counts
            at once.
        rules: the operator's rules, likewise.
        starts: of each owner within the last minute.
    """

    open_network: bool
    allow_any: bool
    allowed: Callable[[], frozenset[PeerId]]
    rules: Callable[[], Rules] = lambda: NO_RULES
    starts: Buckets[PeerId] = field(default_factory=Buckets)

    def decide(self, author: PeerId, spec: ServiceSpec, peer: PeerId | None = None) -> Decision:
        """Return whether this owner's service may run here when `peer` asks for it."""
        verdict = decide(self.rules(), self._ground(), owner=author, spec=spec, peer=peer)
        if verdict.allowed:
            return Admitted()
        return Refusal(AllocationRefusal.NOT_ALLOWED, str(verdict))

    def rests_on_name(self, author: PeerId, image: Image) -> bool:
        """Return whether an image may run for what it is called, so that this has to be proved."""
        return rests_on_name(self.rules(), self._ground(), author, image)

    def _ground(self) -> Ground:
        return Ground(self.open_network, self.allow_any, self.allowed())

    def quota(self, author: PeerId) -> Quota:
        """Return how much of this machine an owner may have."""
        return self.rules().quota_of(author)

    def most_kept(self, author: PeerId) -> int | None:
        """Return how many instances this machine may keep for an owner; None is no bound."""
        written = self.rules().quota_of(author).kept
        if written is None and author not in self.allowed():
            return KEPT_OF_AN_OWNER
        return written

    def pace(self, author: PeerId, now: float) -> Decision:
        """Count a start, or say that this owner had as many as it may within a minute.

        Args:
            author: whose service it is.
            now: in seconds, on any clock that does not go back.
        """
        most = self.rules().quota_of(author).starts_per_minute
        if most is None:
            return Admitted()
        wait_s = self.starts.take(author, now, rate=most / 60, burst=most)
        if not wait_s:
            return Admitted()
        why = f"its owner may have {most} starts a minute; the next one in {ceil(wait_s)} s"
        return Refusal(AllocationRefusal.BUSY, str(Verdict("limits.starts_per_minute", why)))


def check_revision(given: SignedRevision, known: SignedRevision | None) -> Decision:
    """Return whether `given` is what its name means, as far as this machine knows.

    A caller brings the revision along, so that no registry is needed; it must not be an older one,
    and not somebody else's under a name that has an owner.
    """
    revision = given.revision
    if revision.spec is None:
        return _bad_revision(f"{revision.name} is deleted")
    if known is None or given.signed.payload == known.signed.payload:
        return Admitted()
    newest = known.revision
    if revision.number <= newest.number:
        return _bad_revision(
            f"revision {revision.number} of {revision.name} is not the newest; {newest.number} is"
        )
    if newest.spec is not None and given.owner not in {known.owner, *newest.editors}:
        return _bad_revision(f"{revision.name} does not belong to {given.owner}")
    return Admitted()


def check_platform(spec: ServiceSpec, capacity: Capacity) -> Decision:
    """Return whether the image runs on this machine's processor."""
    if spec.image is None or capacity.platform in spec.image.platforms:
        return Admitted()
    return Refusal(
        AllocationRefusal.PLATFORM,
        f"the image is for {', '.join(spec.image.platforms)}; this machine is {capacity.platform}",
    )


def check_constraints(spec: ServiceSpec | None, called: Called) -> Decision:
    """Return whether a machine with these labels is one that the service may run on."""
    reasons = [] if spec is None else list(unmet(spec.constraints, called))
    if not reasons:
        return Admitted()
    return Refusal(AllocationRefusal.CONSTRAINT, "; ".join(reasons))


def check_runnable(spec: ServiceSpec) -> Decision:
    """Return whether the spec says what to run."""
    if (spec.image is None) == (spec.process is None):
        return _bad_revision("the spec must have either an image or a process")
    return Admitted()


def _no_room(text: str) -> Refusal:
    return Refusal(AllocationRefusal.NO_ROOM, text)


def _bad_revision(text: str) -> Refusal:
    return Refusal(AllocationRefusal.BAD_REVISION, text)
