"""Which machine shall start a new instance: feasible, then rank by what it will cost the caller.

A machine is feasible if nothing hard speaks against it: it answers, has the runtime, the platform,
the labels and the room that the service needs, and is within the hard RTT limit. What remains is
ranked by one number in seconds: what the caller's next requests will pay there. It is a sum, so
that every part of it can be shown, and each weight is said in seconds, so that it can be argued
about:

    REQUESTS x (RTT from the caller + the error of that estimate)
    + seconds until an instance answers (under way, paused, image here, image to be fetched)
    + what it is worth to leave room, and to spread a service over machines
    + what it is worth to share a start that is under way, and to keep to wishes

All soft wishes are in it, with prices that only a much worse machine outbids. The caller ranks what
it can see, and the allocator decides last with what it really has. Whether an image really is not
there only the allocator knows, because one that was built a moment ago is in no record yet, and a
record names only the newest; so an image that nobody lists makes a machine dear, not infeasible.

Pure: the view in, candidates in order and reasons out.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, fields, replace

from overlay.labels import unmet
from overlay.membership import MemberState
from overlay.names import PeerId
from overlay.records import InstanceState, PeerRecord, Room
from overlay.spec import Image, ServiceSpec
from overlay.view import InstanceView, PeerView
from proxy.ranking.limits import UNKNOWN_RTT_S, RttLimits

REQUESTS = 20
"""Requests that a placement is made for. An instance serves more, but traffic moves when a better
one appears; with 20, a machine 5 ms nearer is worth waiting a whole start (0.1 s) for."""

START_S = 0.1
"""Create and start with the image present, as measured on Docker; used until one was observed."""

RESUME_S = 0.02
"""From paused to the first byte, as measured; used where the allocator does not say."""

FETCH_S = 10.0
"""An image of some 100 MB over 100 Mbit/s; used until one was observed, and for one whose revision
does not say how large it is."""

FETCH_RATE = 10e6
"""Bytes a second: an image comes from a machine that has it, or a registry, over such a line."""

CROWDED_S = 0.05
"""What a machine that is full costs more than one with much room: neighbours slow a service down,
and the next one finds no place. A full machine is worth 2.5 ms of RTT less than an empty one."""

SPREAD_S = 0.02
"""For each instance of the service that is there already, as they share a fate and processors."""

MOST_SPREAD = 10
"""More than so many instances on a machine make it no dearer."""

DUPLICATE_S = 1.0
"""For starting a second instance beside one that is being started and would do: sharing is worth
50 ms of RTT. Callers further apart than that each have one of their own."""

OVER_SOFT_S = 10.0
"""For being over the soft RTT limit: any machine within it comes first, unless its start takes
longer by so much."""

UNWANTED_S = 1.0
"""For each of the service's wishes about labels that a machine does not meet: 50 ms of RTT."""


@dataclass(frozen=True, slots=True)
class Cost:
    """What the caller's requests will pay on a machine, in seconds, by reason."""

    rtt_s: float
    start_s: float
    room_s: float = 0.0
    spread_s: float = 0.0
    duplicate_s: float = 0.0
    over_soft_s: float = 0.0
    unwanted_s: float = 0.0

    @property
    def total_s(self) -> float:
        """The sum of all parts."""
        return sum(self.parts().values())

    def parts(self) -> dict[str, float]:
        """Return the parts by name, without the unit's ending."""
        return {f.name.removesuffix("_s"): getattr(self, f.name) for f in fields(self)}


@dataclass(frozen=True, slots=True)
class Site:
    """A machine that may start an instance, and what that would cost the caller."""

    allocator: PeerView
    cost: Cost


@dataclass(frozen=True, slots=True)
class Ranking:
    """Allocators to ask, best first, and why each of the others was left out."""

    sites: tuple[Site, ...]
    excluded: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class There:
    """What of a service one machine has already.

    Attributes:
        instances: in whatever state.
        starting: one of the wanted revision is being started.
        resume_s: until the fastest paused one of the wanted revision answers; None: there is none.
    """

    instances: int = 0
    starting: bool = False
    resume_s: float | None = None


@dataclass(frozen=True, slots=True)
class Times:
    """What starts of a service took, in seconds, as far as it was observed."""

    start_s: float = START_S
    fetch_s: float = FETCH_S


UNOBSERVED = Times()
_NOTHING = There()


def rank(
    allocators: Iterable[PeerView],
    spec: ServiceSpec,
    limits: RttLimits,
    there: Mapping[PeerId, There],
    times: Times = UNOBSERVED,
) -> Ranking:
    """Return which allocators may start an instance of `spec`, best first.

    Args:
        allocators: the members with that role, as seen from the caller.
        spec: what is to be started.
        limits: on the RTT from the caller.
        there: what the allocators have of the service; see `survey`.
        times: what starts of it took.
    """
    found: list[PeerView] = []
    excluded: list[str] = []
    for allocator in allocators:
        resumes = there.get(allocator.peer_id, _NOTHING).resume_s is not None
        reason = next(_objections(allocator, spec, limits, resumes=resumes), None)
        if reason is None:
            found.append(allocator)
        else:
            excluded.append(f"{allocator.record.host}: {reason}")
    shared = any(_joins(a, limits, there) for a in found)
    costed = [
        Site(a, _cost(a, spec, limits, there.get(a.peer_id, _NOTHING), times, shared=shared))
        for a in found
    ]
    costed.sort(key=lambda c: (c.cost.total_s, c.allocator.peer_id))
    return Ranking(tuple(costed), tuple(excluded))


def survey(instances: Iterable[InstanceView], revision: int) -> dict[PeerId, There]:
    """Return what each allocator has of a service, from the view's list of its instances."""
    found: dict[PeerId, There] = {}
    for instance in instances:
        old, record = found.get(instance.owner, _NOTHING), instance.record
        current = record.revision == revision
        resume_s = old.resume_s
        if current and record.state is InstanceState.PAUSED:
            this_s = record.resume_s or RESUME_S
            resume_s = this_s if resume_s is None else min(resume_s, this_s)
        starting = old.starting or (current and record.state is InstanceState.STARTING)
        found[instance.owner] = There(old.instances + 1, starting, resume_s)
    return found


def offered(
    cost: Cost, spec: ServiceSpec, there: There, room: Room, times: Times, *, image: bool
) -> Cost:
    """Return a machine's cost anew by what it says of itself this moment."""
    return replace(
        cost,
        start_s=_start_s(spec, there, times, image=image),
        room_s=0.0 if there.starting else _room_s(room, spec),
    )


def rtt_s(allocator: PeerView) -> float:
    """Return the RTT to plan with: an estimate counts with its error, none with the worst."""
    distance = allocator.distance
    if allocator.local:
        return 0.0
    if distance is None:
        return UNKNOWN_RTT_S
    return distance.rtt_s + (0.0 if distance.measured else distance.error_s)


def _objections(
    allocator: PeerView, spec: ServiceSpec, limits: RttLimits, *, resumes: bool
) -> Iterator[str]:
    """Yield why `allocator` cannot start an instance, the most telling reason first."""
    record = allocator.record
    if allocator.state is MemberState.SUSPECT:
        yield "does not answer at the moment"
    if spec.runtime not in record.runtimes:
        has = " and ".join(record.runtimes) or "no runtime"
        yield f"has {has}, the service needs {spec.runtime}"
    if spec.image is not None and record.platform not in spec.image.platforms:
        yield f"is {record.platform}, the image is for {', '.join(spec.image.platforms)}"
    if spec.constraints:
        yield from unmet(spec.constraints, record.called)
    if limits.hard_s is not None and not allocator.local:
        if allocator.rtt_s is None:
            yield "its RTT is not known yet"
        elif allocator.rtt_s > limits.hard_s:
            yield f"RTT {allocator.rtt_s * 1000:.1f} ms is over the hard limit"
    if record.room is not None:
        yield from _lacks(record.room, spec, resumes=resumes)


def _lacks(room: Room, spec: ServiceSpec, *, resumes: bool) -> Iterator[str]:
    room = room.most
    if spec.cpu_millicores > room.cpu_millicores:
        yield f"{room.cpu_millicores} millicores are free, the service needs {spec.cpu_millicores}"
    if resumes:  # what is paused has its memory and its place already
        return
    if spec.memory_mib > room.memory_mib:
        yield f"{room.memory_mib} MiB are free, the service needs {spec.memory_mib}"
    if room.instances < 1:
        yield "takes no more instances"


def _cost(
    allocator: PeerView,
    spec: ServiceSpec,
    limits: RttLimits,
    there: There,
    times: Times,
    *,
    shared: bool,
) -> Cost:
    record = allocator.record
    joins = there.starting and _within_soft(allocator, limits)
    return Cost(
        rtt_s=REQUESTS * rtt_s(allocator),
        start_s=_start_s(spec, there, times, image=_lists_image(record, spec)),
        room_s=0.0 if there.starting else _room_s(record.room, spec),
        spread_s=0.0 if there.starting else SPREAD_S * min(there.instances, MOST_SPREAD),
        duplicate_s=DUPLICATE_S if shared and not joins else 0.0,
        over_soft_s=0.0 if _within_soft(allocator, limits) else OVER_SOFT_S,
        unwanted_s=UNWANTED_S * sum(1 for _ in unmet(spec.prefer, record.called)),
    )


def _joins(allocator: PeerView, limits: RttLimits, there: Mapping[PeerId, There]) -> bool:
    return there.get(allocator.peer_id, _NOTHING).starting and _within_soft(allocator, limits)


def _within_soft(allocator: PeerView, limits: RttLimits) -> bool:
    if limits.soft_s is None or allocator.local:
        return True
    return allocator.rtt_s is not None and allocator.rtt_s <= limits.soft_s


def _lists_image(record: PeerRecord, spec: ServiceSpec) -> bool:
    return spec.image is None or spec.image.config_digest in record.images


def _start_s(spec: ServiceSpec, there: There, times: Times, *, image: bool) -> float:
    """Return the seconds until an instance would answer there."""
    if there.resume_s is not None:
        return there.resume_s
    if there.starting:
        return times.start_s / 2  # on average half of it is over
    if image or spec.image is None:
        return times.start_s
    return times.start_s + _fetch_s(spec.image, times)


def _fetch_s(image: Image, times: Times) -> float:
    """Return the seconds until an image is there: by its size if that is known, else as usual."""
    return times.fetch_s if image.size_bytes is None else image.size_bytes / FETCH_RATE


def _room_s(room: Room | None, spec: ServiceSpec) -> float:
    """Return what the little room that would be left is worth; half for each core or GiB more."""
    if room is None:
        return CROWDED_S
    cores = (room.cpu_millicores - spec.cpu_millicores) / 1000
    gib = (room.memory_mib - spec.memory_mib) / 1024
    return CROWDED_S / 2 * (1 / (1 + max(0.0, cores)) + 1 / (1 + max(0.0, gib)))
