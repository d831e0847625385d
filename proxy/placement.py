"""Which machine shall start a new instance: feasible, then rank.

The caller ranks what it can see, and the allocator decides last with what it really has. Machines
where the service is starting already come first, so that proxies that are within reach of each
other share one start; then those that have the image, if it is in no registry; then nearness in
bands (within a band, machines count as equally far), the image being there, and free room. Whether
the image really is not there only the allocator knows, because one that was built a moment ago is
in no record yet, and a record names only the newest.

Pure: the view in, candidates in order and reasons out.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from overlay.membership import MemberState
from overlay.names import PeerId
from overlay.records import Room
from overlay.spec import ServiceSpec
from overlay.view import PeerView

_BANDS_S = (0.002, 0.006, 0.015, 0.05, 0.1, 0.2, 0.3)
"""RTT band edges in seconds; two machines in one band differ by less than a start's own spread."""


@dataclass(frozen=True, slots=True)
class Ranking:
    """Allocators to ask, best first, and why each of the others was left out."""

    candidates: tuple[PeerView, ...]
    excluded: tuple[str, ...]


def rank(
    allocators: Iterable[PeerView], spec: ServiceSpec, *, starting: frozenset[PeerId]
) -> Ranking:
    """Return which allocators may start an instance of `spec`, best first.

    Args:
        allocators: the members with that role, as seen from the caller.
        spec: what is to be started.
        starting: allocators that are starting an instance of the same revision already.
    """
    found: list[PeerView] = []
    excluded: list[str] = []
    for allocator in allocators:
        reason = next(_objections(allocator, spec), None)
        if reason is None:
            found.append(allocator)
        else:
            excluded.append(f"{allocator.record.host}: {reason}")
    found.sort(key=lambda a: _rank_key(a, spec, starting))
    return Ranking(tuple(found), tuple(excluded))


def _objections(allocator: PeerView, spec: ServiceSpec) -> Iterator[str]:
    """Yield why `allocator` cannot start an instance, the most telling reason first."""
    record = allocator.record
    if allocator.state is MemberState.SUSPECT:
        yield "does not answer at the moment"
    if spec.runtime not in record.runtimes:
        has = " and ".join(record.runtimes) or "no runtime"
        yield f"has {has}, the service needs {spec.runtime}"
    if spec.image is not None and record.platform not in spec.image.platforms:
        yield f"is {record.platform}, the image is for {', '.join(spec.image.platforms)}"
    if spec.hard_rtt_s is not None and not allocator.local:
        if allocator.rtt_s is None:
            yield "its RTT is not known yet"
        elif allocator.rtt_s > spec.hard_rtt_s:
            yield f"RTT {allocator.rtt_s * 1000:.1f} ms is over the hard limit"
    if record.room is not None:
        yield from _lacks(record.room, spec)


def _lacks(room: Room, spec: ServiceSpec) -> Iterator[str]:
    if spec.cpu_millicores > room.cpu_millicores:
        yield f"{room.cpu_millicores} millicores are free, the service needs {spec.cpu_millicores}"
    if spec.memory_mib > room.memory_mib:
        yield f"{room.memory_mib} MiB are free, the service needs {spec.memory_mib}"
    if room.instances < 1:
        yield "takes no more instances"


def _rank_key(
    allocator: PeerView, spec: ServiceSpec, starting: frozenset[PeerId]
) -> tuple[bool, bool, int, bool, int, float]:
    record = allocator.record
    held = spec.image is None or spec.image.config_digest in record.images
    pulled = spec.image is not None and spec.image.repo_digest is not None
    free = 0 if record.room is None else record.room.cpu_millicores
    within_soft = _rtt_s(allocator) <= (spec.soft_rtt_s or float("inf"))
    joins = allocator.peer_id in starting and within_soft
    rtt_s = _rtt_s(allocator)
    return not joins, not (held or pulled), _band(rtt_s), not held, -free, rtt_s


def _rtt_s(allocator: PeerView) -> float:
    if allocator.local:
        return 0.0
    return 1.0 if allocator.rtt_s is None else allocator.rtt_s


def _band(rtt_s: float) -> int:
    return sum(rtt_s > edge for edge in _BANDS_S)
