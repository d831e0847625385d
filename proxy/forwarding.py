"""One request through the proxy: resolve, select or allocate, forward, fail over.

    route ──► resolve ──► select ──► road ──► exchange ──► answered
                            │ none      │ lost before the first byte of the answer
                            ▼           ▼
                          start       mark it failed, select again (within bounds)

Everything that ends a request otherwise is a `RequestRefused` with its status and a text that says
what was wrong and what to do.
"""

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from random import Random

import structlog
import trio

from overlay.definitions import Definitions, LookupsBusy, RegistryUnreachable, UnknownService
from overlay.errors import PeerUnreachable
from overlay.http.connection import ServerConnection
from overlay.http.errors import ResponseCut, UpstreamFailed
from overlay.http.exchange import Exchanged, exchange
from overlay.http.head import Field, RequestHead, ResponseHead, end_to_end, get
from overlay.names import InstanceId, PeerId
from overlay.revision import SignedRevision
from overlay.spec import ServiceSpec
from overlay.view import InstanceView, View
from proxy.caller import Caller
from proxy.chains import HEADER, Call, Chains, render
from proxy.errors import (
    DefinitionUnavailable,
    NothingFeasible,
    RequestRefused,
    RevisionOutdated,
    ServiceUnknown,
    UpstreamLost,
    UpstreamTooSlow,
)
from proxy.limits import RttLimits, limits_of
from proxy.roads import Road, Roads
from proxy.routing import Route, route_of
from proxy.selection import feasible, pick, preferred
from proxy.starting import Starter
from proxy.timing import Timing
from proxy.upstreams import Upstreams

MAX_ATTEMPTS = 4
"""Sends of one request, the first included; each goes to another instance or connection."""

NEWS_TIMEOUT_S = 2.0
"""A registry tells everybody of a change at once; who has not heard by then is cut off from it."""

MAX_STARTS = 2
"""Instances that one request may have started: a second where the first died under it."""

_IDEMPOTENT = frozenset({b"GET", b"HEAD", b"OPTIONS", b"TRACE", b"PUT", b"DELETE"})
"""RFC 9110 section 9.2.2."""

_MAX_LOAD_DIGITS = 9
_CHAIN = HEADER.lower()

log = structlog.get_logger()


class GoneFromGateway(Exception):
    """The gateway says that the instance is not there any more; nothing was processed."""

    def __str__(self) -> str:
        return "its machine says that it is gone"


class Forwarder:
    """Takes requests to instances.

    Args:
        view: which instances there are.
        definitions: what services are.
        roads: how instances are reached.
        starter: starts instances where none can be used.
        upstreams: what is known of each instance.
        machine_names: names under which this machine may be addressed.
        random: draws among equal instances.
    """

    def __init__(
        self,
        view: View,
        definitions: Definitions,
        roads: Roads,
        starter: Starter,
        upstreams: Upstreams,
        *,
        machine_names: frozenset[str],
        random: Random,
    ) -> None:
        self._view = view
        self._definitions = definitions
        self._roads = roads
        self._starter = starter
        self._upstreams = upstreams
        self._machine_names = machine_names
        self._chains = Chains()
        self._random = random

    async def forward(
        self,
        client: ServerConnection,
        head: RequestHead,
        routed: Callable[[Route], None],
        caller: Caller | None = None,
    ) -> Exchanged:
        """Have `head` answered by an instance.

        Args:
            client: whose request it is.
            head: the request.
            routed: told the route as soon as it is known, for metrics.
            caller: the instance that asks, where it is known.

        Raises:
            RequestRefused: the client is still unanswered; answer it with this.
            BadRequest, ClientGone, ResponseCut: as `exchange` says.
        """
        timing = Timing()
        route = route_of(head, self._machine_names)
        revision, spec = await self._resolve(route, caller)
        routed(route)
        timing.mark("lookup")
        call = self._chains.call(caller, get(head.headers, _CHAIN), route.service)
        try:
            attempts = _Attempts(self, client, head, route, revision, spec, timing, call)
            return await attempts.run()
        finally:
            self._chains.called(call)

    async def newer(self, revision: SignedRevision) -> tuple[SignedRevision, ServiceSpec] | None:
        """Wait a moment for a newer revision, which an allocator has heard of first.

        Raises:
            ServiceUnknown: the news is that the service was deleted.
        """
        name, number = revision.revision.name, revision.revision.number
        with trio.move_on_after(NEWS_TIMEOUT_S):
            while (known := self._definitions.get(name)) is not None:
                if known.revision.number > number and known.revision.spec is not None:
                    return known, known.revision.spec
                await self._definitions.changed()
            raise ServiceUnknown(name, ())
        return None

    async def _resolve(
        self, route: Route, caller: Caller | None
    ) -> tuple[SignedRevision, ServiceSpec]:
        revision = self._definitions.get(route.service)
        if revision is None:
            try:
                revision = await self._definitions.resolve(
                    route.service, "" if caller is None else caller.instance
                )
            except UnknownService as exc:
                raise ServiceUnknown(route.service, exc.near) from exc
            except (RegistryUnreachable, LookupsBusy) as exc:
                raise DefinitionUnavailable(str(exc)) from exc
        spec = revision.revision.spec
        if spec is None:
            raise ServiceUnknown(route.service, ())
        return revision, spec

    def limits(self, spec: ServiceSpec, call: Call) -> RttLimits:
        """Return what binds a request for a service, by who makes it."""
        known = self._definitions.get(call.chain[-1]) if call.chain else None
        return limits_of(spec, None if known is None else known.revision.spec)

    def select(
        self, revision: SignedRevision, limits: RttLimits, *, full_too: bool
    ) -> InstanceView | None:
        """Return the instance to use now; one at its concurrency only if `full_too`."""
        instances = self._view.instances(revision.revision.name)
        usable = feasible(
            self._upstreams.candidates(instances, trio.current_time()),
            revision=revision.revision.number,
            limits=limits,
        )
        candidates = preferred(usable, limits) or (usable if full_too else [])
        chosen = pick(candidates, self._random)
        return None if chosen is None else chosen.instance

    async def start(
        self,
        revision: SignedRevision,
        limits: RttLimits,
        exclude: frozenset[tuple[PeerId, InstanceId]],
        timing: Timing,
    ) -> InstanceView | None:
        """Have an instance started and return it; None if it is gone again already."""
        started = await self._starter.start(
            revision, limits, exclude=exclude, request_id=os.urandom(8).hex()
        )
        timing.add(started.phases)
        wanted = started.owner, started.instance
        found = self._view.instances(revision.revision.name)
        return next((i for i in found if i.key == wanted), None)

    async def send(
        self,
        client: ServerConnection,
        head: RequestHead,
        route: Route,
        instance: InstanceView,
        road: Road,
        timing: Timing,
        call: Call,
        *,
        fresh: bool,
    ) -> Exchanged:
        """Forward the request to `instance` over `road`.

        Raises:
            UpstreamFailed, GoneFromGateway, PeerUnreachable: the client is still unanswered.
        """

        def edit_response(response: ResponseHead) -> Sequence[Field]:
            return self._edited(response, instance, road, timing)

        fields = [*(f for f in end_to_end(head) if not _is_ours(f[0])), *road.fields]
        if call.chain:
            fields.append((HEADER, render(call.chain)))
        service_time_s: float | None = None
        visit = self._chains.enter(instance.record.id, call) if road.lease is not None else None
        self._upstreams.begin(instance)
        road.begin()
        try:
            with _ended_with(road) as scope:
                async with road.pool.acquire(fresh=fresh) as upstream:
                    exchanged = await exchange(
                        client,
                        head,
                        upstream,
                        request_headers=fields,
                        edit_response=edit_response,
                        target=route.target,
                    )
            if scope is not None and scope.cancelled_caught:
                raise _machine_is_dead(client)
            service_time_s = exchanged.total_s
            return exchanged
        finally:
            if visit is not None:
                self._chains.leave(visit)
            self._upstreams.end(instance, service_time_s)
            await road.end(service_time_s or 0.0)

    def lost(self, instance: InstanceView) -> None:
        """Take note that `instance` failed, for every request of this proxy."""
        self._upstreams.failed(instance, trio.current_time())

    async def road_to(self, instance: InstanceView) -> Road:
        """Return the best road to `instance`."""
        return await self._roads.to(instance)

    def _edited(
        self, response: ResponseHead, instance: InstanceView, road: Road, timing: Timing
    ) -> Sequence[Field]:
        fields = end_to_end(response)
        if road.lease is None:
            if get(fields, b"myxo-refused") is not None:
                raise GoneFromGateway
            load = get(fields, b"myxo-in-flight") or b""
            if load.isdigit() and len(load) <= _MAX_LOAD_DIGITS:
                self._view.set_load(instance.owner, {instance.record.id: int(load)})
        fields = [f for f in fields if not _is_ours(f[0])]
        timing.mark("forward")
        fields.append((b"Server-Timing", timing.header()))
        return fields


class _Attempts:
    """The attempts to have one request answered."""

    def __init__(
        self,
        forwarder: Forwarder,
        client: ServerConnection,
        head: RequestHead,
        route: Route,
        revision: SignedRevision,
        spec: ServiceSpec,
        timing: Timing,
        call: Call,
    ) -> None:
        self._call = call
        self._limits = forwarder.limits(spec, call)
        self._forwarder = forwarder
        self._client = client
        self._head = head
        self._route = route
        self._revision = revision
        self._spec = spec
        self._timing = timing
        self._starts = 0
        self._excluded: set[tuple[PeerId, InstanceId]] = set()
        self._fresh = False

    async def run(self) -> Exchanged:
        failure: Exception | None = None
        for _ in range(MAX_ATTEMPTS):
            instance = await self._instance()
            try:
                road = await self._forwarder.road_to(instance)
                return await self._forwarder.send(
                    self._client,
                    self._head,
                    self._route,
                    instance,
                    road,
                    self._timing,
                    self._call,
                    fresh=self._fresh,
                )
            except (GoneFromGateway, PeerUnreachable) as exc:
                failure = exc
                self._give_up_on(instance)
                self._check_replayable(instance, exc)
            except UpstreamFailed as exc:
                failure = exc
                self._after_failure(instance, exc)
        raise UpstreamLost(f"{self._route.service} failed {MAX_ATTEMPTS} times: {failure}")

    async def _instance(self) -> InstanceView:
        """Return an instance to try: one with room, else a new one, else a full one."""
        select = self._forwarder.select
        chosen = select(self._revision, self._limits, full_too=self._starts >= MAX_STARTS)
        self._timing.mark("select")
        if chosen is not None:
            return chosen
        full = select(self._revision, self._limits, full_too=True)
        try:
            started = None if self._starts >= MAX_STARTS else await self._start()
        except RequestRefused:
            if full is None:
                raise
            started = None
        if started is None and full is None:
            raise NothingFeasible(self._route.service, ["its instances end as soon as they start"])
        return started or full  # type: ignore[return-value]  # one of them is there

    async def _start(self) -> InstanceView | None:
        self._starts += 1
        start, excluded = self._forwarder.start, frozenset(self._excluded)
        try:
            return await start(self._revision, self._limits, excluded, self._timing)
        except RevisionOutdated:
            news = await self._forwarder.newer(self._revision)
            if news is None:
                raise
        self._revision, self._spec = news
        self._limits = self._forwarder.limits(self._spec, self._call)
        return await start(self._revision, self._limits, excluded, self._timing)

    def _give_up_on(self, instance: InstanceView) -> None:
        self._excluded.add(instance.key)
        self._forwarder.lost(instance)

    def _after_failure(self, instance: InstanceView, exc: UpstreamFailed) -> None:
        """Prepare another attempt, or say why there must not be one.

        Raises:
            UpstreamLost, UpstreamTooSlow: the request may have been acted on, or is not remembered.
        """
        log.info("forward.failed", service=self._route.service, reason=exc.reason)
        if exc.reused:
            self._fresh = True  # the server closed a kept connection; the instance may be well
        else:
            self._give_up_on(instance)
        where = f"{self._route.service} (instance {instance.record.id})"
        if exc.timed_out:
            raise UpstreamTooSlow(f"{where} did not answer in time") from exc
        repeatable = self._head.method in _IDEMPOTENT or self._spec.idempotent
        if exc.maybe_processed and not repeatable:
            raise UpstreamLost(
                f"{where} failed after it was sent the request: {exc.reason}; "
                f"a {self._head.method.decode()} is not sent twice unless the service says "
                "`idempotent`"
            ) from exc
        self._check_replayable(instance, exc)

    def _check_replayable(self, instance: InstanceView, exc: Exception) -> None:
        if not self._client.body.replayable:
            raise UpstreamLost(
                f"{self._route.service} (instance {instance.record.id}) failed in the middle of a "
                f"body too large to be sent again: {exc}"
            ) from exc


@contextmanager
def _ended_with(road: Road) -> Iterator[trio.CancelScope | None]:
    """Yield a scope that is cancelled when the road's other machine is dead, if there is one."""
    if road.lease is not None:
        yield None
        return
    with trio.CancelScope() as scope:
        road.under_way.add(scope)
        try:
            yield scope
        finally:
            road.under_way.discard(scope)


def _machine_is_dead(client: ServerConnection) -> Exception:
    reason = "its machine does not answer any more"
    if client.answering:
        return ResponseCut(0, reason)
    return UpstreamFailed(reason, maybe_processed=True, sent_any_body=True, reused=False)


def _is_ours(name: bytes) -> bool:
    lower = name.lower()
    return lower[:5] == b"myxo-" or lower == _CHAIN
