"""One request through the proxy: resolve, select or allocate, forward, fail over.

    route ──► resolve ──► select ──► road ──► exchange ──► answered
                            │ none      │ lost before the first byte of the answer
                            ▼           ▼
                          start       mark it failed, select again (within bounds)

Everything that ends a request otherwise is a `RequestRefused` with its status and a text that says
what was wrong and what to do.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager

import structlog
import trio

from overlay.definitions import Definitions, LookupsBusy, RegistryUnreachable, UnknownService
from overlay.errors import PeerUnreachable
from overlay.http.dates import date_field
from overlay.http.errors import ResponseCut, UpstreamFailed
from overlay.http.exchange import Exchanged, exchange
from overlay.http.head import Field, RequestHead, ResponseHead, get
from overlay.http.seam import Client
from overlay.names import ServiceName
from overlay.revision import SignedRevision
from overlay.spec import ServiceSpec
from overlay.view import InstanceView, View
from proxy.affinity import cookie, key_of, tie
from proxy.caller import Caller, Origin
from proxy.chains import HEADER, Call, Chains, render
from proxy.choosing import Chooser
from proxy.decisions import Decision, Decisions, Failure
from proxy.errors import (
    DefinitionUnavailable,
    RequestRefused,
    RevisionOutdated,
    ServiceUnknown,
    UpstreamLost,
    UpstreamTooSlow,
    WrongProtocol,
)
from proxy.explaining import explained
from proxy.fields import LIMITED, request_fields, response_fields
from proxy.limits import RttLimits, limits_of
from proxy.own import own_answer
from proxy.roads import Road, Roads
from proxy.routing import Route, route_of
from proxy.timing import Timing

MAX_ATTEMPTS = 4
"""Sends of one request, the first included; each goes to another instance or connection."""

NEWS_TIMEOUT_S = 2.0
"""A registry tells everybody of a change at once; who has not heard by then is cut off from it."""

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
        chooser: chooses among them, and has more started.
        decisions: where it is kept what was decided.
        machine_names: names under which this machine may be addressed.
        stand_in: returns what is taken for the definition of a service that has none.
    """

    def __init__(
        self,
        view: View,
        definitions: Definitions,
        roads: Roads,
        chooser: Chooser,
        decisions: Decisions,
        *,
        machine_names: frozenset[str],
        stand_in: Callable[[ServiceName], SignedRevision | None] = lambda _: None,
    ) -> None:
        self._view = view
        self._definitions = definitions
        self._roads = roads
        self.chooser = chooser
        self.decisions = decisions
        self._machine_names = machine_names
        self._stand_in = stand_in
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
        route = self._route(head, origin)
        revision, spec = await self.resolve(route.service, caller)
        _check_speaks_http(route.service, spec)
        timing.mark("lookup")
        call = self._chains.call(caller, get(head.headers, _CHAIN), route.service)
        try:
            asks = call.chain[-1] if call.chain else None
            limits = self.limits(spec, asks)
            decision = self.decisions.begin(head.headers, revision, spec, limits, timing, asks)
            decision.key = key_of(spec, head, route, origin)
            if spec.sticky and (named := cookie(head.headers, spec.sticky)) is not None:
                decision.tied = named.decode("ascii", "replace")
            begun(decision)
            return await _Attempts(self, client, head, route, origin, decision, call).run()
        finally:
            self._chains.called(call)

    def _route(self, head: RequestHead, origin: Origin) -> Route:
        if origin.exposure is not None:
            return origin.exposure.route(head)
        return route_of(head, self._machine_names)

    async def choose(self, decision: Decision) -> InstanceView:
        """Return an instance to try, of a newer revision if an allocator has heard of one.

        Raises:
            RequestRefused: none can be had; says why.
        """
        try:
            return await self.chooser.choose(decision)
        except RevisionOutdated:
            news = await self._newer(decision.revision)
            if news is None:
                raise
        decision.revision, decision.spec = news
        decision.limits = self.limits(decision.spec, decision.caller)
        decision.starts = 0
        return await self.chooser.choose(decision)

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
        known = None if caller is None else self._definitions.get(caller)
        return limits_of(spec, None if known is None else known.revision.spec)

    async def send(
        self,
        client: Client,
        head: RequestHead,
        route: Route,
        origin: Origin,
        instance: InstanceView,
        decision: Decision,
        call: Call,
        *,
        fresh: bool,
    ) -> Exchanged:
        """Forward the request to `instance`.

        Raises:
            UpstreamFailed, GoneFromGateway, PeerUnreachable, TooManyHops: the client is still
                unanswered.
        """
        road = await self._roads.to(instance)
        decision.road = road.kind

        def edit_response(response: ResponseHead) -> Sequence[Field]:
            fields = self._edited(response, instance, road, decision, origin)
            if decision.spec.sticky and decision.tied != instance.record.id:
                tied = tie(decision.spec, instance.record.id, route, origin)
                fields += [] if tied is None else [tied]
            return fields

        fields = [*request_fields(head, route, origin), *road.fields]
        if road.routed:
            fields = _addressed(fields, road.routed)
        if decision.given_id is None:
            fields.append((b"X-Request-Id", self.decisions.id_of(decision).encode()))
        if decision.trace is not None:
            fields = decision.trace.passed_on(fields)
        if call.chain:
            fields.append((HEADER, render(call.chain)))
        service_time_s: float | None = None
        visit = self._chains.enter(instance.record.id, call) if road.lease is not None else None
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
            await road.end(service_time_s or 0.0)

    def _edited(
        self,
        response: ResponseHead,
        instance: InstanceView,
        road: Road,
        decision: Decision,
        origin: Origin,
    ) -> list[Field]:
        if road.lease is None and not road.routed:
            if get(response.headers, b"myxo-refused") is not None:
                raise GoneFromGateway
            load = get(response.headers, b"myxo-in-flight") or b""
            if load.isdigit() and len(load) <= _MAX_LOAD_DIGITS:
                self._view.set_load(instance.owner, {instance.record.id: int(load)})
        fields = response_fields(response, date_field())
        decision.timing.mark("forward")
        decision.status = response.status
        if origin.exposure is None:
            fields.append((b"Server-Timing", decision.timing.header()))
        if decision.explained:
            fields += explained(decision, self.decisions.id_of(decision), self._view)
        return fields


class _Attempts:
    """The attempts to have one request answered."""

    def __init__(
        self,
        forwarder: Forwarder,
        client: Client,
        head: RequestHead,
        route: Route,
        origin: Origin,
        decision: Decision,
        call: Call,
    ) -> None:
        self._forwarder = forwarder
        self._client = client
        self._head = head
        self._route = route
        self._origin = origin
        self._decision = decision
        self._call = call
        self._fresh = False

    async def run(self) -> Exchanged:
        try:
            return await self._in_turn()
        except RequestRefused as exc:
            self._decision.status, self._decision.refusal = exc.status, str(exc)
            raise

    async def _in_turn(self) -> Exchanged:
        failure: Exception | None = None
        chooser = self._forwarder.chooser
        for _ in range(MAX_ATTEMPTS):
            instance = await self._forwarder.choose(self._decision)
            service_time_s: float | None = None
            try:
                exchanged = await self._send(instance)
            except (GoneFromGateway, PeerUnreachable) as exc:
                failure = exc
                self._give_up_on(instance, exc)
                self._check_replayable(instance, exc)
            except UpstreamFailed as exc:
                failure = exc
                self._after_failure(instance, exc)
            else:
                service_time_s = exchanged.total_s
                return exchanged
            finally:
                chooser.done(instance, service_time_s)
        raise UpstreamLost(f"{self._route.service} failed {MAX_ATTEMPTS} times: {failure}")

    async def _send(self, instance: InstanceView) -> Exchanged:
        return await self._forwarder.send(
            self._client,
            self._head,
            self._route,
            self._origin,
            instance,
            self._decision,
            self._call,
            fresh=self._fresh,
        )

    def _give_up_on(self, instance: InstanceView, exc: Exception) -> None:
        self._forwarder.decisions.note(self._decision, Failure(instance, str(exc)))
        self._forwarder.chooser.lost(self._decision, instance)

    def _after_failure(self, instance: InstanceView, exc: UpstreamFailed) -> None:
        """Prepare another attempt, or say why there must not be one.

        Raises:
            UpstreamLost, UpstreamTooSlow: the request may have been acted on, or is not remembered.
        """
        log.info("forward.failed", service=self._route.service, reason=exc.reason)
        if exc.reused:
            self._fresh = True  # the server closed a kept connection; the instance may be well
        else:
            self._give_up_on(instance, exc)
        where = f"{self._route.service} (instance {instance.record.id})"
        if exc.timed_out:
            raise UpstreamTooSlow(f"{where} did not answer in time") from exc
        repeatable = self._head.method in _IDEMPOTENT or self._decision.spec.idempotent
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


def _addressed(fields: Iterable[Field], target: str) -> list[Field]:
    """Return the fields with the target's own name as Host: it knows no other."""
    host: Field = (b"Host", target.encode())
    return [host, *(f for f in fields if f[0].lower() != b"host")]


def _machine_is_dead(client: Client) -> Exception:
    reason = "its machine does not answer any more"
    if client.answering:
        return ResponseCut(0, reason)
    return UpstreamFailed(reason, maybe_processed=True, sent_any_body=True, reused=False)


def _check_speaks_http(service: ServiceName, spec: ServiceSpec) -> None:
    if spec.protocol in {"tcp", "udp"}:
        raise WrongProtocol(
            f"{service} speaks {spec.protocol}, not HTTP; `myxo forward {service} PORT` leads to it"
        )
