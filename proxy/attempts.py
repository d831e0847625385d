"""The attempts to have one request answered, within its deadline and its service's retry budget.

    choose ──► send ──────────────────────────► answered
      ▲          │ lost before the first byte of the answer, may be sent twice,
      │          ▼ and the budget is not spent
      └──── leave the instance alone

Where the service is `hedged`, one that waits for long is sent to a second instance, too
(`hedging.py`).
"""

from collections.abc import Callable
from functools import partial
from math import inf
from typing import Protocol

import structlog
import trio

from overlay.errors import PeerUnreachable
from overlay.http.errors import ResponseCut, UpstreamFailed
from overlay.http.exchange import Exchanged
from overlay.http.head import RequestHead
from overlay.http.seam import Client
from overlay.view import InstanceView
from proxy.choosing import Chooser
from proxy.decisions import Decision, Decisions, Failure, Hedge
from proxy.errors import (
    DeadlineOver,
    RequestRefused,
    RetriesSpent,
    UpstreamLost,
    UpstreamTooSlow,
)
from proxy.guards import Guards
from proxy.hedging import Race
from proxy.traffic import Traffic

MAX_ATTEMPTS = 4
"""Sends of one request, the first included; each goes to another instance or connection."""

_IDEMPOTENT = frozenset({b"GET", b"HEAD", b"OPTIONS", b"TRACE", b"PUT", b"DELETE"})
"""RFC 9110 section 9.2.2."""

log = structlog.get_logger()


class GoneFromGateway(Exception):
    """The gateway says that the instance is not there any more; nothing was processed."""

    def __str__(self) -> str:
        return "its machine says that it is gone"


class Unwanted(Exception):
    """The instance answered with a status for which the service wants another one to be asked."""

    def __init__(self, status: int) -> None:
        self.status = status
        super().__init__(f"it answered {status}")


LOST = (GoneFromGateway, PeerUnreachable, UpstreamFailed, Unwanted)
"""What an attempt may end with while the client is still unanswered."""


class Send(Protocol):
    """Forwards the request to an instance."""

    async def __call__(
        self,
        instance: InstanceView,
        deadline: float,
        *,
        fresh: bool,
        watched: bool,
        begins: Callable[[int], None] | None,
    ) -> Exchanged:
        """Forward it.

        Args:
            instance: whom to ask.
            deadline: when the answer must be complete, on trio's clock.
            fresh: do not use a connection that was used before.
            begins: called with the status when the answer is there; may raise to keep it from the
                client.
            watched: somebody else looks whether the client leaves.
        """
        ...


class Parts(Protocol):
    """What attempts need of the proxy."""

    chooser: Chooser
    decisions: Decisions
    guards: Guards

    async def choose(self, decision: Decision) -> InstanceView:
        """Return an instance to try."""
        ...


class Attempts:
    """The attempts for one request.

    Args:
        parts: of the proxy.
        client: whose request it is.
        head: the request.
        decision: of the request.
        traffic: of its service.
        send: makes one attempt.
    """

    __slots__ = (
        "_client",
        "_deadline",
        "_decision",
        "_fresh",
        "_head",
        "_left",
        "_next",
        "_parts",
        "_send",
        "_service",
        "_spec",
        "_traffic",
    )

    def __init__(
        self,
        parts: Parts,
        client: Client,
        head: RequestHead,
        decision: Decision,
        traffic: Traffic,
        send: Send,
    ) -> None:
        self._parts = parts
        self._client = client
        self._head = head
        self._decision = decision
        self._traffic = traffic
        self._send = send
        self._service = decision.service
        self._spec = decision.spec
        self._fresh = False
        self._deadline = inf
        self._left = MAX_ATTEMPTS
        self._next: InstanceView | None = None

    async def run(self) -> Exchanged:
        """Have the request answered.

        Raises:
            RequestRefused: the client is still unanswered.
            BadRequest, ClientGone, ResponseCut: as `exchange` says.
        """
        try:
            if self._decision.allowed_s == inf or self._head.upgrade:  # what it becomes may last
                return await self._in_turn()
            return await self._in_time()
        except RequestRefused as exc:
            self._decision.status, self._decision.refusal = exc.status, exc.in_full()
            raise

    async def _in_time(self) -> Exchanged:
        left_s = self._decision.allowed_s - self._decision.timing.elapsed_s()
        self._deadline = trio.current_time() + max(0.0, left_s)
        with trio.CancelScope(deadline=self._deadline):
            return await self._in_turn()
        self._parts.guards.metrics.timed_out(self._service)
        if self._client.answering:
            raise ResponseCut(self._decision.status, "the request's deadline is over")
        raise DeadlineOver(self._service, self._decision.allowed_s)

    async def _in_turn(self) -> Exchanged:
        failure: Exception | None = None
        try:
            while self._left:
                self._left -= 1
                if failure is None:
                    instance = await self._choose()
                else:
                    instance = await self._chosen_again(failure)
                try:
                    return await (self._raced if self._hedges else self._sent)(instance)
                except (GoneFromGateway, PeerUnreachable) as exc:
                    failure = exc
                    self._check_replayable(instance, exc)
                except UpstreamFailed as exc:
                    failure = exc
                    self._check_repeatable(instance, exc)
                except Unwanted as exc:
                    failure = exc
        finally:
            if self._next is not None:
                self._parts.chooser.done(self._next, None)
        raise UpstreamLost(f"{self._service} failed {MAX_ATTEMPTS} times: {failure}")

    async def _choose(self) -> InstanceView:
        instance = await self._parts.choose(self._decision)
        self._spec = self._decision.spec  # there may have been news of it
        return instance

    async def _chosen_again(self, failure: Exception) -> InstanceView:
        """Return the instance to try after a failure.

        Raises:
            RetriesSpent: there must be no other attempt.
        """
        if self._next is not None:
            instance, self._next = self._next, None
            self._decision.chosen = instance
            return instance
        self._may_repeat(failure)
        return await self._choose()

    def _may_repeat(self, failure: Exception) -> None:
        """Count a repetition.

        Raises:
            RetriesSpent: there are too many.
        """
        if isinstance(failure, UpstreamFailed) and failure.reused:
            return  # the server closed a kept connection, which says nothing about the service
        if not self._traffic.retry(self._spec):
            raise RetriesSpent(self._service, self._spec.retry_percent, failure)
        self._parts.guards.metrics.retried(self._service)

    async def _sent(
        self, instance: InstanceView, claim: Callable[[], None] | None = None
    ) -> Exchanged:
        """Make one attempt at a chosen instance, and take in how it went.

        Args:
            instance: the chosen one.
            claim: where another attempt runs beside: raises if that was quicker.
        """
        begins: Callable[[int], None] | None = None
        if claim is not None or self._spec.retry_statuses:
            begins = partial(self._begins, instance, claim)
        service_time_s: float | None = None
        try:
            exchanged = await self._send(
                instance,
                self._deadline,
                fresh=self._fresh,
                watched=claim is not None,
                begins=begins,
            )
        except LOST as exc:
            self._note(instance, exc)
            raise
        except trio.Cancelled:
            if self._overslept:
                self._parts.guards.ejector.failed(instance, self._spec)
            raise
        else:
            service_time_s = exchanged.total_s
            self._parts.guards.ejector.answered(instance, exchanged.status, self._spec)
            return exchanged
        finally:
            self._parts.chooser.done(instance, service_time_s)

    @property
    def _overslept(self) -> bool:
        """Whether the service's own bound on time is over, and not only the client's."""
        bound = self._spec.timeout_s
        return self._decision.allowed_s == bound and trio.current_time() >= self._deadline

    def _begins(
        self, instance: InstanceView, claim: Callable[[], None] | None, status: int
    ) -> None:
        """Let an answer through to the client, if no other is to be preferred.

        Raises:
            Unwanted: another instance is asked instead.
            Slower: another has answered.
        """
        if status in self._spec.retry_statuses and self._has_next(instance):
            raise Unwanted(status)
        if claim is not None:
            claim()
        self._decision.chosen = instance

    def _has_next(self, instance: InstanceView) -> bool:
        """Return whether another instance can be asked, which is kept ready for it then."""
        if self._next is None and self._left and self._repeatable and self._client.body.replayable:
            self._next = self._other(instance)
            if self._next is not None:
                self._parts.guards.metrics.retried(self._service)
        return self._next is not None

    def _other(self, instance: InstanceView) -> InstanceView | None:
        """Return another instance with room, if there is one and the budget has it."""
        chooser = self._parts.chooser
        other = chooser.another(self._decision, instance)
        if other is not None and not self._traffic.retry(self._spec):
            chooser.done(other, None)
            return None
        return other

    @property
    def _repeatable(self) -> bool:
        return self._head.method in _IDEMPOTENT or self._spec.idempotent

    @property
    def _hedges(self) -> bool:
        if not self._spec.hedged or not self._client.body.framing.empty:
            return False
        return self._repeatable and not self._head.upgrade

    async def _raced(self, instance: InstanceView) -> Exchanged:
        """Send the request to a second instance too if the first one does not answer soon."""
        began = trio.current_time()

        async def sent(to: InstanceView, claim: Callable[[], None]) -> Exchanged:
            def first() -> None:
                claim()
                self._traffic.answer_times.add(trio.current_time() - began)

            return await self._sent(to, first)

        return await Race(self._client, LOST).run(instance, self._patience_s(), sent, self._second)

    def _patience_s(self) -> float:
        """Return how long to wait for one instance before another is asked, too."""
        least_s, percentile = (self._spec.hedge_ms or 0.0) / 1000, self._spec.hedge_percentile
        if percentile is None:
            return least_s
        usual_s = self._traffic.answer_times.quantile(percentile / 100)
        return inf if usual_s is None else max(least_s, usual_s)

    def _second(self) -> InstanceView | None:
        """Return the instance to send a hedge to, if there is one."""
        first = self._decision.chosen
        second = None if first is None else self._other(first)
        if second is not None:
            self._parts.decisions.note(self._decision, Hedge(second))
            self._parts.guards.metrics.hedged(self._service)
        return second

    def _note(self, instance: InstanceView, exc: Exception) -> None:
        """Take in a failure.

        The instance is left alone for a while, unless only a kept connection failed, or only this
        request did where others go on beside it: a client could end the instance for all otherwise.
        """
        if isinstance(exc, UpstreamFailed):
            log.info("forward.failed", service=self._service, reason=exc.reason)
            if exc.reused:
                self._fresh = True  # the instance may be well
                return
        self._parts.decisions.note(self._decision, Failure(instance, str(exc)))
        self._parts.guards.ejector.failed(instance, self._spec)
        if isinstance(exc, Unwanted) or (isinstance(exc, UpstreamFailed) and exc.alone):
            self._decision.excluded |= {instance.key}  # it lives, and may serve others well
        else:
            self._parts.chooser.lost(self._decision, instance)

    def _check_repeatable(self, instance: InstanceView, exc: UpstreamFailed) -> None:
        """Say why there must not be another attempt.

        Raises:
            UpstreamLost, UpstreamTooSlow: the request may have been acted on, or is not remembered.
        """
        where = f"{self._service} (instance {instance.record.id})"
        if exc.timed_out:
            raise UpstreamTooSlow(f"{where} did not answer in time") from exc
        if exc.maybe_processed and not self._repeatable:
            raise UpstreamLost(
                f"{where} failed after it was sent the request: {exc.reason}; "
                f"a {self._head.method.decode()} is not sent twice unless the service says "
                "`idempotent`"
            ) from exc
        self._check_replayable(instance, exc)

    def _check_replayable(self, instance: InstanceView, exc: Exception) -> None:
        if not self._client.body.replayable:
            raise UpstreamLost(
                f"{self._service} (instance {instance.record.id}) failed in the middle of a "
                f"body too large to be sent again: {exc}"
            ) from exc
