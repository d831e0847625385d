"""Which instance a request goes to: one that is there, one that gets room, or a new one.

    select ──► an instance with room ─────────────────────────────► it; over the soft limit, a
      │                                                             better one is started beside
      ├──► all are full: wait a little for room; then have another
      │    started and take whichever comes first ────────────────► it; at worst a full one
      │
      └──► none can be used: have one started, and wait for it or
           for one that others have started before it is there ──► it

An instance counts a request from the moment in which it is chosen, so that those who are woken
together do not all see the same room.
"""

from time import perf_counter

import trio

from overlay.balancing import ORIGINAL_DESTINATION, STATIC
from overlay.names import InstanceId, PeerId, ServiceName
from overlay.records import InstanceState
from overlay.view import InstanceView, View
from proxy.choosing.crowd import Crowd, Place
from proxy.choosing.starting import Flight, Starter
from proxy.errors import (
    DestinationGone,
    NothingFeasible,
    NotRouted,
    RequestRefused,
    UpstreamLost,
)
from proxy.guard.traffic import Traffic
from proxy.ranking.limits import RttLimits
from proxy.ranking.moving import Breaches, is_clearly_better, is_over
from proxy.ranking.placement import Site
from proxy.ranking.routing_table import BALANCING as ROUTED_BALANCING
from proxy.ranking.selection import Group, Upstream, rtt_s
from proxy.ranking.upstreams import Upstreams
from proxy.telemetry.decisions import Decision, Decisions, Waited

READY = InstanceState.READY

MAX_STARTS = 2
"""Instances that one request may have started: a second where the first died or filled up."""

QUEUE_TARGET_S = 0.02
"""How long requests may wait for room before another instance is started. A start takes some 0.1 s;
what is shorter than a fifth of that is over before one could help."""

GROW_RETRY_S = 1.0
"""After nobody would start another instance, those that wait do not ask again for so long."""

SHOWN_WHOLE = 8
"""Of up to so many instances a decision keeps what was known; of more, that would cost a request
too much, and it keeps the chosen one alone, unless the request wants to know or finds none."""


class Chooser:
    """Chooses instances for requests.

    Args:
        view: which instances there are.
        upstreams: what is known of each.
        starter: starts more.
        crowd: who waits for room; `starter` and the view's changes are to tell it of news.
        decisions: where it is noted what happened.
    """

    def __init__(
        self,
        view: View,
        upstreams: Upstreams,
        starter: Starter,
        crowd: Crowd,
        decisions: Decisions,
    ) -> None:
        self._view = view
        self._upstreams = upstreams
        self._starter = starter
        self._crowd = crowd
        self._decisions = decisions
        self._breaches = Breaches()
        self._now = trio.lowlevel.current_clock().current_time  # in a third of `trio.current_time`
        self._grow_at: dict[ServiceName, float] = {}

    def choose_at_once(self, decision: Decision) -> InstanceView | None:
        """Return an instance with room, if there is one; `done` as for `choose`."""
        chosen = self._select(decision)
        if chosen is None:
            return None
        decision.timing.mark("select")
        instance = decision.chosen = chosen.instance
        if decision.limits.soft_s is not None or instance.suspect:
            self._watch(decision, instance)
        chosen.in_flight += 1
        return instance

    async def choose(self, decision: Decision, traffic: Traffic) -> InstanceView:
        """Return the instance for a request; `done` is to be called when it has ended there.

        Args:
            decision: of the request.
            traffic: of its service; bounds how many wait.

        Raises:
            TooManyPending, NothingFeasible, NeverReady, RevisionOutdated: none can be had, and why.
            DestinationGone: the one that the request names is not there, or full.
        """
        instance = self.choose_at_once(decision)
        if instance is None:
            decision.timing.mark("select")
            with traffic.waiting(decision.spec):
                chosen = await self._choose_late(decision)
            decision.chosen = instance = chosen.instance
            self._upstreams.begin(instance)
        return instance

    def another(self, decision: Decision, first: InstanceView) -> InstanceView | None:
        """Return an instance with room besides `first`, if there is one; `done` as for `choose`."""
        before, decision.excluded = decision.excluded, decision.excluded | {first.key}
        chosen = self._select(decision)
        decision.excluded = before
        if chosen is None:
            return None
        self._upstreams.begin(chosen.instance)
        return chosen.instance

    def done(self, instance: InstanceView, service_time_s: float | None) -> None:
        """Take in that a request has ended, and how long it took if it was answered."""
        self._upstreams.end(instance, service_time_s, self._now())
        self._crowd.freed(instance.record.service)

    def lost(self, decision: Decision, instance: InstanceView) -> None:
        """Take in that `instance` failed, for every request of this proxy."""
        decision.excluded |= {instance.key}
        self._upstreams.failed(instance, trio.current_time())

    def _group(self, decision: Decision) -> Group:
        revision = decision.revision.revision
        policy = decision.spec.policy
        return self._upstreams.group(revision.name, revision.generation, decision.limits, policy)

    def _select(self, decision: Decision) -> Upstream | None:
        """Return the best instance with room."""
        group, now = self._group(decision), self._now()
        chosen = None
        if decision.tied is not None:
            chosen = group.tied(decision.tied, now, decision.excluded)
        if chosen is None:
            chosen = group.pick(now, decision.key, decision.excluded)
        decision.instances = group.instances
        if chosen is None or decision.explained or 1 < len(group.instances) <= SHOWN_WHOLE:
            decision.candidates = group.seen(now)
        else:
            decision.candidates = (chosen.seen(now),)
        return chosen

    def _least_busy(self, decision: Decision) -> Upstream | None:
        """Return the instance to use where none has room; None if there is none at all."""
        return self._group(decision).least_busy(trio.current_time(), decision.excluded)

    async def _choose_late(self, decision: Decision) -> Upstream:
        policy = decision.spec.policy
        if decision.key is not None and policy is not None and policy.name == ORIGINAL_DESTINATION:
            raise DestinationGone(decision.service, decision.key)
        group = self._group(decision)
        if group.balancing is ROUTED_BALANCING:
            found = group.last_resort(decision.excluded)
            if found is None:
                raise UpstreamLost(f"no target of {decision.service} in the routing table answers")
            return found
        if policy is not None and policy.name == STATIC:
            raise NotRouted(decision.service)
        while True:
            full = self._least_busy(decision)
            chosen = await (self._first(decision) if full is None else self._room(decision, full))
            if chosen is not None:
                return chosen

    async def _first(self, decision: Decision) -> Upstream | None:
        """Have an instance started where none can be used; None if it must be looked again."""
        if decision.starts >= MAX_STARTS:
            raise NothingFeasible(decision.service, ["its instances end as soon as they start"])
        flight = self._begin(decision, "no instance can be used", decision.excluded)
        began = perf_counter()
        with flight.awaited():
            chosen = await self._sooner(decision, flight)
            if chosen is not None:
                flight.kept |= self._over_soft(decision, chosen.instance)
        if chosen is None:
            started = flight.started()
            decision.timing.add(started.phases)
            self._upstreams.vouched((started.owner, started.instance))
            return self._select(decision)
        decision.timing.mark("queue")
        self._decisions.note(decision, Waited(perf_counter() - began))
        return chosen

    async def _sooner(self, decision: Decision, flight: Flight) -> Upstream | None:
        """Return what can be used before `flight` has ended; None if it has ended first.

        Many proxies may start a service in the same moment, each where it is best for it. In a
        crowd these starts wait for one another, and the first instance that is there serves all.
        """
        with self._crowd.enter(decision.service) as place:
            while not flight.done.is_set():
                if self._crowd.full:
                    await flight.done.wait()
                else:
                    await place.wait()
                if flight.done.is_set():
                    break
                chosen = self._select(decision)
                # What the flight itself brings is in the view a moment before its answer is here.
                if chosen is not None and chosen.instance.owner != flight.plan.asked:
                    place.took()
                    return chosen
        return None

    async def _room(self, decision: Decision, full: Upstream) -> Upstream:
        """Return what gets room first, a full instance or another; at worst `full` itself."""
        began = perf_counter()
        with self._crowd.enter(decision.service) as place:
            chosen = await self._freed(decision, place)
            try:
                while chosen is None and self._may_grow(decision):
                    chosen = await self._grown(decision, place)
            except RequestRefused:
                self._grow_at[decision.service] = trio.current_time() + GROW_RETRY_S
            if chosen is not None:
                place.took()
        waited_s = perf_counter() - began
        decision.timing.mark("queue")
        self._decisions.note(decision, Waited(waited_s))
        return chosen or self._least_busy(decision) or full

    async def _freed(self, decision: Decision, place: Place) -> Upstream | None:
        """Return what gets room in a little while, if anything does."""
        chosen: Upstream | None = None
        with trio.move_on_after(QUEUE_TARGET_S):
            while chosen is None and not self._crowd.full:
                await place.wait()
                chosen = self._select(decision)
        if place.owes:  # it was woken in the moment in which its time was over
            chosen = chosen or self._select(decision)
        return chosen

    def _may_grow(self, decision: Decision) -> bool:
        at = self._grow_at.get(decision.service)
        if at is not None and at <= trio.current_time():
            del self._grow_at[decision.service]
            at = None
        return at is None and decision.starts < MAX_STARTS

    async def _grown(self, decision: Decision, place: Place) -> Upstream | None:
        """Have another instance started; return what has room first, if anything has."""
        full = {i.key for i in decision.instances if i.record.state is READY}
        flight = self._begin(
            decision, "all instances are full", decision.excluded | full, keep=True
        )
        while not flight.done.is_set():
            if self._crowd.full:
                await flight.landed()
            else:
                await place.wait()
            if (chosen := self._select(decision)) is not None:
                return chosen
        await flight.landed()
        return self._select(decision)

    def _begin(
        self,
        decision: Decision,
        why: str,
        exclude: frozenset[tuple[PeerId, InstanceId]],
        *,
        keep: bool = False,
    ) -> Flight:
        decision.starts += 1
        flight = self._starter.begin(
            decision.revision,
            decision.limits,
            why=why,
            exclude=exclude,
            request_id=self._decisions.id_of(decision),
            keep=keep,
        )
        self._decisions.note(decision, flight.plan)
        return flight

    def _watch(self, decision: Decision, instance: InstanceView) -> None:
        """Have a better instance started, now and then, where this one is not good."""
        soft_s, now = decision.limits.soft_s, trio.current_time()
        over = self._over_soft(decision, instance)
        if not over and not instance.suspect:
            self._breaches.ended(decision.service, now)
            return
        if not self._breaches.met(decision.service, now, suspect=instance.suspect):
            return
        limits, why, accept = decision.limits, "the only instance may not answer", None
        if soft_s is not None and over and not instance.suspect:
            current = self._view.distance(instance.owner)
            limits, why = RttLimits(soft_s, soft_s), "all instances are over the soft RTT limit"

            def accept(site: Site) -> bool:
                return is_clearly_better(site, current, soft_s)

        flight = self._starter.begin(
            decision.revision,
            limits,
            why=why,
            exclude=frozenset({instance.key}),
            request_id=self._decisions.id_of(decision),
            accept=accept,
            keep=True,
        )
        self._decisions.note(decision, flight.plan)

    def _over_soft(self, decision: Decision, instance: InstanceView) -> bool:
        soft_s = decision.limits.soft_s
        return soft_s is not None and rtt_s(instance) > soft_s and self.is_over(instance, soft_s)

    def is_over(self, instance: InstanceView, limit_s: float) -> bool:
        """Return whether an instance is farther away than a limit now, not by one sample alone."""
        if instance.local:
            return False
        estimate = self._view.membership.rtt(instance.owner)
        latest_s = None if estimate is None else estimate.latest
        return is_over(self._view.distance(instance.owner), latest_s, limit_s)
