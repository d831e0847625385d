"""Starting an instance within the request that needs it, once however many requests wait.

One flight a service revision: the first request without a usable instance opens it, all others
join. A flight asks the allocators in rank order until one answers with a ready instance; its
record goes straight into the view, so that nobody has to discover it a second time. The flight
runs in the proxy's own nursery: a client that goes away does not take the others' start with it,
and only when all are gone the question is taken back, for the allocator to drop what has not begun.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from random import Random
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
from proxy.choosing.tender import invite
from proxy.errors import (
    NeverReady,
    NothingFeasible,
    RequestRefused,
    RevisionOutdated,
    ServiceUnknown,
)
from proxy.ranking.limits import RttLimits
from proxy.ranking.offers import contenders, in_words, order
from proxy.ranking.placement import Ranking, Site, rank, survey
from proxy.ranking.start_times import StartTimes
from proxy.telemetry.decisions import Plan

MAX_ALLOCATORS_ASKED = 8
"""Each refusal costs a round trip; after the eight best the answer is no."""

PULL_TIMEOUT_S = 600.0
"""An image of some GB over a slow line; the allocator bounds the start itself."""

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Started:
    """A ready instance and where the time went, in seconds by phase."""

    owner: PeerId
    instance: InstanceId
    phases: dict[str, float]


@dataclass(slots=True, eq=False)
class Flight:
    """A start under way, or ended.

    Attributes:
        service: what is started.
        plan: where it was tried, for explanations.
        done: set when it has ended.
        outcome: what came of it; None while it is under way, and where the proxy stopped.
        waiting: requests that cannot be answered before it ends.
        kept: it goes on when nobody waits for it.
        scope: ends it when nobody does.
    """

    service: ServiceName
    plan: Plan
    done: trio.Event = field(default_factory=trio.Event)
    outcome: Started | RequestRefused | None = None
    waiting: int = 0
    kept: bool = False
    scope: trio.CancelScope = field(default_factory=trio.CancelScope)

    @contextmanager
    def awaited(self) -> Iterator[None]:
        """Count one who waits for the end, or for something better before it.

        When the last one goes the start is taken back, unless it is kept. How many may wait is
        bounded by their service's traffic (`traffic.py`).
        """
        self.waiting += 1
        try:
            yield
        finally:
            self.waiting -= 1
            if not self.waiting and not self.kept:
                self.scope.cancel()

    async def landed(self) -> Started:
        """Wait for the end; return the instance.

        Raises:
            NothingFeasible, NeverReady, RevisionOutdated: as `Starter.begin` says.
        """
        with self.awaited():
            await self.done.wait()
        return self.started()

    def started(self) -> Started:
        """Return what came of it, once it has ended.

        Raises:
            NothingFeasible, NeverReady, RevisionOutdated: as `Starter.begin` says.
        """
        if isinstance(self.outcome, Started):
            return self.outcome
        raise self.outcome or NothingFeasible(self.service, ["the proxy is stopping"])


_FlightKey = tuple[ServiceName, int, RttLimits]
"""A start under one caller's limits may be too far away for another."""


class Starter:
    """Starts instances for a proxy.

    Args:
        view: the proxy's view.
        calls: makes the allocate calls.
        nursery: outlives the requests.
        apply: takes an instance's signed record into the view.
        random: draws whom to ask among equal machines.
        landed: told when a start of a service has ended, whatever came of it.
        deputy: returns the word of whom this proxy speaks for; what services of theirs printed is
            told. Asked at each start, as the key may be younger than the proxy.
        cut_off: whether requests do not get to a peer, which is then asked last.
    """

    def __init__(
        self,
        view: View,
        calls: Caller,
        nursery: trio.Nursery,
        apply: Callable[[Signed], None],
        random: Random,
        landed: Callable[[ServiceName], None] = lambda _: None,
        deputy: Callable[[], Signed | None] = lambda: None,
        cut_off: Callable[[PeerId], bool] = lambda _: False,
    ) -> None:
        self._deputy = deputy
        self._random = random
        self._landed = landed
        self._cut_off = cut_off
        self._view = view
        self._calls = calls
        self._nursery = nursery
        self._apply = apply
        self._times = StartTimes()
        self._flights: dict[_FlightKey, Flight] = {}

    def begin(
        self,
        revision: SignedRevision,
        limits: RttLimits,
        *,
        why: str,
        exclude: frozenset[tuple[PeerId, InstanceId]] = frozenset(),
        request_id: str = "",
        accept: Callable[[Site], bool] | None = None,
        keep: bool = False,
    ) -> Flight:
        """Join the flight of `revision` under `limits`, or begin it.

        It ends with an instance, or with `NothingFeasible` (no allocator would start one; says why
        for each), `NeverReady` (one was started and did not get ready) or `RevisionOutdated` (an
        allocator has heard of a newer one).

        Args:
            revision: what to start.
            limits: how far away it may be.
            why: what makes it necessary.
            exclude: instances that the caller found unusable.
            request_id: of the request that waits, for logs.
            accept: which of the feasible machines will do; all if None.
            keep: go on with it although nobody waits for it.
        """
        key = revision.revision.name, revision.revision.number, limits
        flight = self._flights.get(key)
        if flight is None or flight.scope.cancel_called:
            flight = self._flights[key] = Flight(key[0], Plan(why))
            asking = _Asking(
                revision, limits, exclude, request_id, accept, flight.plan, self._deputy()
            )
            self._nursery.start_soon(self._fly, key, flight, asking)
        flight.kept |= keep
        return flight

    def ranking(self, revision: SignedRevision, limits: RttLimits) -> Ranking:
        """Return which allocators would be asked now, best first, and what each would cost."""
        name, generation = revision.revision.name, revision.revision.generation
        return rank(
            self._view.peers(Role.ALLOCATOR),
            _spec_of(revision),
            limits,
            survey(self._view.instances(name), generation),
            self._times.of(name),
        )

    async def _fly(
        self,
        key: _FlightKey,
        flight: Flight,
        asking: "_Asking",
    ) -> None:
        try:
            with flight.scope:
                flight.outcome = await self._ask_in_turn(asking)
        except RequestRefused as exc:
            flight.outcome = exc
        finally:
            if self._flights.get(key) is flight:
                del self._flights[key]
            flight.done.set()
            self._landed(flight.service)

    async def _ask_in_turn(self, asking: "_Asking") -> Started:
        revision, plan = asking.revision, asking.plan
        name, spec = revision.revision.name, _spec_of(revision)
        plan.ranking = self.ranking(revision, asking.limits)
        logs: list[str] = []
        there, cut_off = self._by_reach(plan.ranking)
        sites = [*await self._in_order(asking, there, spec), *cut_off]
        for site in sites[:MAX_ALLOCATORS_ASKED]:
            allocator = site.allocator
            host = allocator.record.host
            plan.asked = allocator.peer_id
            try:
                started = await self._ask(allocator, asking.request(allocator.peer_id), spec)
            except CallRefused as exc:
                plan.refused.append(f"{host}: {exc.text}")
                tail = exc.details.get("log")
                if exc.code == AllocationRefusal.NOT_READY:
                    raise NeverReady(name, exc.text, None if tail is None else str(tail)) from exc
                if tail:
                    logs.append(f"  {host}:\n{indent(str(tail), ' ' * 4)}")
                if exc.code == AllocationRefusal.BAD_REVISION:
                    raise RevisionOutdated(f"{host}: {exc.text}") from exc
            except MyxoError as exc:
                plan.refused.append(f"{host}: {exc}")
            else:
                plan.chosen = allocator.peer_id
                return started
        raise NothingFeasible(
            name, [*plan.ranking.excluded, *plan.refused], "\n".join(logs) or None
        )

    def _by_reach(self, ranking: Ranking) -> tuple[Ranking, Sequence[Site]]:
        """Split off machines that others see, but that no request gets to from here."""
        cut_off = [s for s in ranking.sites if self._cut_off(s.allocator.peer_id)]
        there = [s for s in ranking.sites if s not in cut_off] if cut_off else ranking.sites
        return replace(ranking, sites=tuple(there)), cut_off

    async def _in_order(
        self, asking: "_Asking", ranking: Ranking, spec: ServiceSpec
    ) -> Sequence[Site]:
        """Return the machines to ask for a start, by their offers where several are as good."""
        if asking.accept is not None:
            ranking = replace(ranking, sites=tuple(s for s in ranking.sites if asking.accept(s)))
        asked = contenders(ranking, self._random)
        if not asked:
            return ranking.sites
        times = self._times.of(asking.revision.revision.name)
        offers = await invite(self._calls, asked, asking.revision, spec, times)
        asking.plan.offers = {peer: in_words(offer) for peer, offer in offers.items()}
        return order(ranking, {s.allocator.peer_id for s in asked}, offers, spec, times)

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


@dataclass(frozen=True, slots=True)
class _Asking:
    """What one flight asks of allocators."""

    revision: SignedRevision
    limits: RttLimits
    exclude: frozenset[tuple[PeerId, InstanceId]]
    request_id: str
    accept: Callable[[Site], bool] | None
    plan: Plan
    deputy: Signed | None

    def request(self, allocator: PeerId) -> AllocateRequest:
        return AllocateRequest(
            revision=self.revision.signed,
            exclude=tuple(i for owner, i in self.exclude if owner == allocator),
            request_id=self.request_id,
            deputy=self.deputy,
        )


def _spec_of(revision: SignedRevision) -> ServiceSpec:
    spec = revision.revision.spec
    if spec is None:
        raise ServiceUnknown(revision.revision.name, ())
    return spec
