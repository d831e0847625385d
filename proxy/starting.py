"""Starting an instance within the request that needs it, once however many requests wait.

One flight a service revision: the first request without a usable instance opens it, all others
join. A flight asks the allocators in rank order until one answers with a ready instance; its
record goes straight into the view, so that nobody has to discover it a second time. The flight
runs in the proxy's own nursery: a client that goes away does not take the others' start with it,
and only when all are gone the question is taken back, for the allocator to drop what has not begun.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from textwrap import indent

import structlog
import trio

from overlay.allocation import (
    ALLOCATE_PROTOCOL,
    AllocateReply,
    AllocateRequest,
    AllocationRefusal,
)
from overlay.calls import Caller, CallRefused
from overlay.errors import MyxoError, RecordRefused
from overlay.names import InstanceId, PeerId, ServiceName
from overlay.records import InstanceRecord, Role, verified_record
from overlay.revision import SignedRevision
from overlay.signed import Signed
from overlay.spec import ServiceSpec
from overlay.view import PeerView, View
from proxy.errors import (
    NeverReady,
    NothingFeasible,
    RequestRefused,
    RevisionOutdated,
    ServiceUnknown,
)
from proxy.limits import RttLimits
from proxy.placement import Ranking, rank, survey
from proxy.start_times import StartTimes

MAX_ALLOCATORS_ASKED = 8
"""Each refusal costs a round trip; after the eight best the answer is no."""

PULL_TIMEOUT_S = 600.0
"""An image of some GB over a slow line; the allocator bounds the start itself."""

MAX_WAITING = 10_000
"""Requests that may wait for one start; past it the answer is 503 at once."""

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Started:
    """A ready instance and where the time went, in seconds by phase."""

    owner: PeerId
    instance: InstanceId
    phases: dict[str, float]


@dataclass(slots=True)
class _Flight:
    done: trio.Event = field(default_factory=trio.Event)
    outcome: Started | RequestRefused | None = None
    waiting: int = 0
    scope: trio.CancelScope = field(default_factory=trio.CancelScope)


_FlightKey = tuple[ServiceName, int, RttLimits]
"""A start under one caller's limits may be too far away for another."""


class Starter:
    """Starts instances for a proxy.

    Args:
        view: the proxy's view.
        calls: makes the allocate calls.
        nursery: outlives the requests.
        apply: takes an instance's signed record into the view.
    """

    def __init__(
        self,
        view: View,
        calls: Caller,
        nursery: trio.Nursery,
        apply: Callable[[Signed], None],
    ) -> None:
        self._view = view
        self._calls = calls
        self._nursery = nursery
        self._apply = apply
        self._times = StartTimes()
        self._flights: dict[_FlightKey, _Flight] = {}

    async def start(
        self,
        revision: SignedRevision,
        limits: RttLimits,
        *,
        exclude: frozenset[tuple[PeerId, InstanceId]] = frozenset(),
        request_id: str = "",
    ) -> Started:
        """Return a ready instance of `revision`, started or found by the best allocator.

        Args:
            revision: what to start.
            limits: how far away it may be.
            exclude: instances that the caller found unusable.
            request_id: of the request that waits, for logs.

        Raises:
            NothingFeasible: no allocator would start one; says why for each.
            NeverReady: one was started and did not get ready.
            RevisionOutdated: an allocator has heard of a newer one.
        """
        key = revision.revision.name, revision.revision.number, limits
        flight = self._flights.get(key)
        if flight is None or flight.scope.cancel_called:
            flight = self._flights[key] = _Flight()
            self._nursery.start_soon(self._fly, key, flight, revision, exclude, request_id)
        if flight.waiting >= MAX_WAITING:
            raise NothingFeasible(key[0], [f"{MAX_WAITING} requests are waiting for it already"])
        flight.waiting += 1
        try:
            await flight.done.wait()
        finally:
            flight.waiting -= 1
            if not flight.waiting:
                flight.scope.cancel()
        if isinstance(flight.outcome, Started):
            return flight.outcome
        raise flight.outcome or NothingFeasible(key[0], ["the proxy is stopping"])

    def ranking(self, revision: SignedRevision, limits: RttLimits) -> Ranking:
        """Return which allocators would be asked now, best first, and what each would cost."""
        name, number = revision.revision.name, revision.revision.number
        return rank(
            self._view.peers(Role.ALLOCATOR),
            _spec_of(revision),
            limits,
            survey(self._view.instances(name), number),
            self._times.of(name),
        )

    async def _fly(
        self,
        key: _FlightKey,
        flight: _Flight,
        revision: SignedRevision,
        exclude: frozenset[tuple[PeerId, InstanceId]],
        request_id: str,
    ) -> None:
        try:
            with flight.scope:
                flight.outcome = await self._ask_in_turn(revision, key[2], exclude, request_id)
        except RequestRefused as exc:
            flight.outcome = exc
        finally:
            if self._flights.get(key) is flight:
                del self._flights[key]
            flight.done.set()

    async def _ask_in_turn(
        self,
        revision: SignedRevision,
        limits: RttLimits,
        exclude: frozenset[tuple[PeerId, InstanceId]],
        request_id: str,
    ) -> Started:
        name, spec = revision.revision.name, _spec_of(revision)
        ranking = self.ranking(revision, limits)
        reasons = list(ranking.excluded)
        for site in ranking.sites[:MAX_ALLOCATORS_ASKED]:
            allocator = site.allocator
            request = AllocateRequest(
                revision=revision.signed,
                exclude=tuple(i for owner, i in exclude if owner == allocator.peer_id),
                request_id=request_id,
            )
            try:
                return await self._ask(allocator, request, spec)
            except CallRefused as exc:
                if exc.code == AllocationRefusal.NOT_READY:
                    tail = str(exc.details.get("log", ""))
                    raise NeverReady(name, exc.text, tail) from exc
                if exc.code == AllocationRefusal.BAD_REVISION:
                    raise RevisionOutdated(f"{allocator.record.host}: {exc.text}") from exc
                reasons.append(f"{allocator.record.host}: {exc.text}{_log_of(exc)}")
            except MyxoError as exc:
                reasons.append(f"{allocator.record.host}: {exc}")
        raise NothingFeasible(name, reasons)

    async def _ask(
        self, allocator: PeerView, request: AllocateRequest, spec: ServiceSpec
    ) -> Started:
        timeout_s = PULL_TIMEOUT_S + spec.ready_timeout_s
        reply = await self._calls.call(
            allocator.peer_id, ALLOCATE_PROTOCOL, request, AllocateReply, timeout_s=timeout_s
        )
        held = verified_record(reply.instance, time.time())
        if held.owner != allocator.peer_id or not isinstance(held.record, InstanceRecord):
            raise RecordRefused("owner", "it answered with what is no instance of its own")
        self._apply(reply.instance)
        self._times.observe(held.record.service, reply.phases)
        log.info("instance.started", service=held.record.service, host=allocator.record.host)
        return Started(held.owner, held.record.id, reply.phases)


def _log_of(refused: CallRefused) -> str:
    """Return the end of the log that came with a refusal, ready to stand below its reason."""
    log_tail = str(refused.details.get("log", ""))
    return f"; the end of its log:\n{indent(log_tail, ' ' * 4)}" if log_tail else ""


def _spec_of(revision: SignedRevision) -> ServiceSpec:
    spec = revision.revision.spec
    if spec is None:
        raise ServiceUnknown(revision.revision.name, ())
    return spec
