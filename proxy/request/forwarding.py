"""One request through the proxy: resolve, select or allocate, forward, fail over.

    route ──► resolve ──► select ──► road ──► exchange ──► answered
                            │ none      │ lost before the first byte of the answer
                            ▼           ▼
                          start       mark it failed, select again (within bounds)

Everything that ends a request otherwise is a `RequestRefused` with its status and a text that says
what was wrong and what to do.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from math import inf

import trio

from overlay.definitions import Definitions, LookupsBusy, RegistryUnreachable, UnknownService
from overlay.http.dates import date_field
from overlay.http.errors import ResponseCut, UpstreamFailed
from overlay.http.exchange import Exchanged, Switched, exchange
from overlay.http.head import Field, RequestHead, ResponseHead, get
from overlay.http.seam import Client, Upstream
from overlay.http.written import Written
from overlay.names import PeerId, ServiceName
from overlay.revision import SignedRevision
from overlay.spec import ServiceSpec
from overlay.tunnel import SocketEnd, framed, switching
from overlay.view import InstanceView, View
from proxy.backend.roads import Road, Roads
from proxy.choosing.chooser import Chooser
from proxy.errors import (
    DefinitionUnavailable,
    RequestRefused,
    RevisionOutdated,
    ServiceUnknown,
    WrongProtocol,
)
from proxy.guard.guards import Guards
from proxy.ranking.limits import RttLimits, limits_of
from proxy.request.attempts import Attempts
from proxy.request.fields import LIMITED, interim_fields, request_fields, response_fields
from proxy.request.grpc import status_of as grpc_status
from proxy.request.own import own_answer
from proxy.request.sending import GoneFromGateway
from proxy.route.affinity import cookie, key_of, tie
from proxy.route.caller import Caller, Origin
from proxy.route.chains import FROM_OUTSIDE, HEADER, Call, Chains, render
from proxy.route.deadlines import passed_on
from proxy.route.paths import Paths
from proxy.route.routing import Route, route_by_path, route_of
from proxy.telemetry.decisions import Decision, Decisions, asked_of
from proxy.telemetry.explained import explained
from proxy.telemetry.timing import Timing

NEWS_TIMEOUT_S = 2.0
"""A registry tells everybody of a change at once; who has not heard by then is cut off from it."""

_MAX_LOAD_DIGITS = 9
_STAYS: AbstractContextManager[None] = nullcontext()
_CHAIN = HEADER.lower()
_NOT_HTTP = frozenset({"tcp", "udp"})


class Forwarder:
    """Takes requests to instances.

    Args:
        view: which instances there are.
        definitions: what services are.
        roads: how instances are reached.
        chooser: chooses among them, and has more started.
        decisions: where it is kept what was decided.
        guards: what requests are held back by, and what is learnt from how they go.
        machine_names: names under which this machine may be addressed.
        stand_in: returns what is taken for the definition of a service that has none.
        paths: returns the paths that lead to services of other names, where there may be some.
    """

    def __init__(
        self,
        view: View,
        definitions: Definitions,
        roads: Roads,
        chooser: Chooser,
        decisions: Decisions,
        guards: Guards,
        *,
        machine_names: frozenset[str],
        stand_in: Callable[[ServiceName], SignedRevision | None] = lambda _: None,
        paths: Callable[[], Paths] | None = None,
    ) -> None:
        self._view = view
        self._definitions = definitions
        self._roads = roads
        self.chooser = chooser
        self.decisions = decisions
        self.guards = guards
        self._machine_names = machine_names
        self._stand_in = stand_in
        self._paths = paths
        self._chains = Chains()

    async def forward(
        self,
        client: Client,
        head: RequestHead,
        begun: Callable[[Decision], None],
        origin: Origin,
    ) -> Exchanged:
        """Have `head` answered by an instance.

        Args:
            client: whose request it is.
            head: the request.
            begun: told as soon as it is known what the request is for.
            origin: whose request it is.

        Raises:
            RequestRefused: the client is still unanswered; answer it with this.
            BadRequest, ClientGone, ResponseCut: as `exchange` says.
        """
        timing, caller = Timing(), origin.caller
        if head.method in LIMITED:
            own = own_answer(head, self._machine_names)
            if own is not None:
                await client.respond(200, own.fields, own.body)
                return Exchanged(200, len(own.body), 0, 0.0, 0.0)
        route = self._route(head) if origin.exposure is None else origin.exposure.route(head)
        revision = self._definitions.get(route.service)
        if revision is None or (spec := revision.revision.spec) is None:
            revision, spec = await self.resolve(route.service, caller)
        if spec.protocol in _NOT_HTTP:
            raise _speaks_no_http(route.service, spec)
        timing.mark("lookup")
        call = FROM_OUTSIDE
        if caller is not None:
            call = self._chains.call(caller, get(head.headers, _CHAIN), route.service)
        try:
            asks = call.chain[-1] if call.chain else None
            limits = self.limits(spec, asks)
            decision = self.decisions.begin(asked_of(head), revision, spec, limits, timing, asks)
            if spec.policy is not None:
                decision.key = key_of(spec, head, route, origin)
            if spec.sticky and (named := cookie(head.headers, spec.sticky)) is not None:
                decision.tied = named.decode("ascii", "replace")
            begun(decision)
            return await self._admitted(client, head, route, origin, decision, call)
        finally:
            if call is not FROM_OUTSIDE:
                self._chains.called(call)

    def _route(self, head: RequestHead) -> Route:
        if self._paths is not None and (paths := self._paths()).services:
            return route_by_path(head, self._machine_names, paths)
        return route_of(head, self._machine_names)

    async def _admitted(
        self,
        client: Client,
        head: RequestHead,
        route: Route,
        origin: Origin,
        decision: Decision,
        call: Call,
    ) -> Exchanged:
        """Have a request answered, if its service's limits let it through."""
        try:
            if decision.spec.rate_limited:
                caller = origin.caller
                await self.guards.limiter.admit(
                    decision, origin.who if caller is None else caller.instance
                )
            traffic = self.guards.traffics.of(route.service)
            traffic.begin(decision.spec)
            try:
                send = partial(self._send, client, head, route, origin, decision, call)
                return await Attempts(self, client, head, decision, traffic, send).run()
            finally:
                traffic.end()
        except RequestRefused as exc:
            decision.status, decision.refusal = exc.status, exc.in_full()
            raise

    async def choose(self, decision: Decision) -> InstanceView:
        """Return an instance to try, of a newer revision if an allocator has heard of one.

        Raises:
            RequestRefused: none can be had; says why.
        """
        traffic = self.guards.traffics.of(decision.service)
        try:
            return await self.chooser.choose(decision, traffic)
        except RevisionOutdated:
            news = await self._newer(decision.revision)
            if news is None:
                raise
        decision.revision, decision.spec = news
        decision.limits = self.limits(decision.spec, decision.caller)
        decision.starts = 0
        return await self.chooser.choose(decision, traffic)

    async def _newer(self, revision: SignedRevision) -> tuple[SignedRevision, ServiceSpec] | None:
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

    async def resolve(
        self, service: ServiceName, caller: Caller | None = None
    ) -> tuple[SignedRevision, ServiceSpec]:
        """Return what a service is.

        Raises:
            ServiceUnknown: there is none of that name.
            DefinitionUnavailable: whether there is one cannot be known now.
        """
        revision = self._definitions.get(service)
        if revision is None or revision.revision.spec is None:
            revision = self._stand_in(service) or revision
        if revision is None:
            try:
                revision = await self._definitions.resolve(
                    service, "" if caller is None else caller.instance
                )
            except UnknownService as exc:
                raise ServiceUnknown(service, exc.near) from exc
            except (RegistryUnreachable, LookupsBusy) as exc:
                raise DefinitionUnavailable(str(exc)) from exc
        spec = revision.revision.spec
        if spec is None:
            raise ServiceUnknown(service, ())
        return revision, spec

    def limits(self, spec: ServiceSpec, caller: ServiceName | None) -> RttLimits:
        """Return what binds a request for a service, by the service that makes it, if one does."""
        if caller is None:
            return limits_of(spec)
        known = self._definitions.get(caller)
        return limits_of(spec, None if known is None else known.revision.spec)

    async def _send(
        self,
        client: Client,
        head: RequestHead,
        route: Route,
        origin: Origin,
        decision: Decision,
        call: Call,
        instance: InstanceView,
        deadline: float,
        *,
        fresh: bool,
        watched: bool,
        begins: Callable[[int], None] | None,
    ) -> Exchanged:
        """Forward the request to `instance`.

        Raises:
            UpstreamFailed, GoneFromGateway, PeerUnreachable, TooManyHops: the client is still
                unanswered.
        """
        road = self._roads.known(instance) or await self._roads.to(instance)
        decision.road = road.kind
        answer: list[ResponseHead] = []

        def edit_response(response: ResponseHead) -> Sequence[Field]:
            if road.lease is None and not road.routed:
                self._heed_gateway(response, instance)
            if begins is not None:
                begins(response.status)
            answer.append(response)
            fields = self._edited(response, road, decision, origin)
            if decision.spec.sticky and decision.tied != instance.record.id:
                tied = tie(decision.spec, instance.record.id, route, origin)
                fields += [] if tied is None else [tied]
            return fields

        fields: list[Field] = Written(request_fields(head, route, origin))
        fields += road.fields
        if road.routed:
            fields = _addressed(fields, road.routed)
        fields = self._told(fields, decision, call, deadline)
        service_time_s: float | None = None
        visit = self._chains.enter(instance.record.id, call) if road.lease is not None else None
        road.begin()
        try:
            with _ended_with(road) as scope:
                source = road.source(decision.spec.protocol)
                async with source.acquire(fresh=fresh) as upstream:
                    exchanged = await exchange(
                        client,
                        head,
                        upstream,
                        request_headers=fields,
                        edit_response=edit_response,
                        edit_interim=interim_fields,
                        target=route.target,
                        switched=_switched(client, upstream, road, decision, instance.owner)
                        if head.upgrade
                        else None,
                        watched=watched,
                    )
                    if answer and decision.spec.protocol == "h2c":
                        told = upstream.body.trailers
                        decision.grpc_status = grpc_status(answer[-1].headers, told)
            if scope is not None and scope.cancelled_caught:
                raise _machine_is_dead(client)
            service_time_s = exchanged.total_s
            return exchanged
        finally:
            if visit is not None:
                self._chains.leave(visit)
            if road.ended(service_time_s or 0.0):
                await road.hand_back()

    def _told(
        self, fields: list[Field], decision: Decision, call: Call, deadline: float
    ) -> list[Field]:
        """Return `fields` with what an instance is told of the request besides."""
        if decision.given_id is None:
            fields.append((b"X-Request-Id", self.decisions.id_of(decision).encode()))
        if decision.trace is not None:
            fields = decision.trace.passed_on(fields)
        if call.chain:
            fields.append((HEADER, render(call.chain)))
        return fields if deadline == inf else passed_on(fields, deadline - trio.current_time())

    def _heed_gateway(self, response: ResponseHead, instance: InstanceView) -> None:
        """Take in what a gateway says besides the instance's answer.

        Raises:
            GoneFromGateway: there is no answer of the instance.
        """
        if get(response.headers, b"myxo-refused") is not None:
            raise GoneFromGateway
        load = get(response.headers, b"myxo-in-flight") or b""
        if load.isdigit() and len(load) <= _MAX_LOAD_DIGITS:
            self._view.set_load(instance.owner, {instance.record.id: int(load)})

    def _edited(
        self, response: ResponseHead, road: Road, decision: Decision, origin: Origin
    ) -> list[Field]:
        decision.road = road.kind
        fields = Written(response_fields(response, date_field()))
        decision.timing.mark("forward")
        decision.status = response.status
        if origin.exposure is None:
            fields.append((b"Server-Timing", decision.timing.header()))
        if decision.explained:
            fields += explained(decision, self.decisions.id_of(decision), self._view)
        return fields


def _switched(
    client: Client, upstream: Upstream, road: Road, decision: Decision, owner: PeerId
) -> Switched | None:
    far = SocketEnd if road.lease is not None or road.routed else framed(owner)
    return switching(client, upstream, SocketEnd, far, decision.spec.tunnel_bound_s)


def _ended_with(road: Road) -> AbstractContextManager[trio.CancelScope | None]:
    """Return a scope that is cancelled when the road's other machine is dead, if there is one."""
    return _STAYS if road.lease is not None else _cancelled_with(road)


@contextmanager
def _cancelled_with(road: Road) -> Iterator[trio.CancelScope]:
    with trio.CancelScope() as scope:
        road.under_way.add(scope)
        try:
            yield scope
        finally:
            road.under_way.discard(scope)


def _addressed(fields: Iterable[Field], target: str) -> list[Field]:
    """Return the fields with the target's own name as Host: it knows no other."""
    host: Field = (b"Host", target.encode())
    return [host, *(f for f in fields if f[0].lower() != b"host")]


def _machine_is_dead(client: Client) -> Exception:
    reason = "its machine does not answer any more"
    if client.answering:
        return ResponseCut(0, reason)
    return UpstreamFailed(reason, maybe_processed=True, sent_any_body=True, reused=False)


def _speaks_no_http(service: ServiceName, spec: ServiceSpec) -> WrongProtocol:
    return WrongProtocol(
        f"{service} speaks {spec.protocol}, not HTTP; `myxo forward {service} PORT` leads to it"
    )
