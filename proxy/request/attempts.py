"""The attempts to have one request answered, within its deadline and its service's retry budget.

    choose ──► send ──────────────────────────► answered
      ▲          │ lost before the first byte of the answer, may be sent twice,
      │          ▼ and the budget is not spent
      └──── leave the instance alone

Where the service is `hedged`, one that waits for long is sent to a second instance, too
(`hedging.py`).
"""

from collections.abc import Callable, Coroutine
from functools import partial
from math import inf
from typing import Any, Protocol

import structlog
import trio

from overlay.http.errors import ResponseCut, UpstreamFailed
from overlay.http.exchange import Exchanged
from overlay.http.head import RequestHead
from overlay.http.seam import Client
from overlay.view import InstanceView
from proxy.choosing.chooser import Chooser
from proxy.errors import (
    DeadlineOver,
    UpstreamLost,
)
from proxy.guard.guards import Guards
from proxy.guard.traffic import Traffic
from proxy.request.grpc import is_failure
from proxy.request.hedging import Race
from proxy.request.repeats import Repeats
from proxy.request.sending import LOST, Send, Unwanted
from proxy.telemetry.decisions import Decision, Decisions, Failure, Hedge

MAX_ATTEMPTS = 4
"""Sends of one request, the first included; each goes to another instance or connection."""

SERVER_ERROR = 500

log = structlog.get_logger()


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
        "_made_repeats",
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
        self._made_repeats: Repeats | None = None

    def run(self) -> Coroutine[Any, Any, Exchanged]:
        """Have the request answered.

        Raises:
            RequestRefused: the client is still unanswered.
            BadRequest, ClientGone, ResponseCut: as `exchange` says.
        """
        if self._decision.allowed_s == inf or self._head.upgrade:  # what it becomes may last
            return self._in_turn()
        return self._in_time()

    @property
    def _repeats(self) -> Repeats:
        """What may be repeated; made when it is asked for first, as few requests do."""
        if self._made_repeats is None:
            self._made_repeats = Repeats(
                self._client, self._head, self._decision, self._traffic, self._parts.chooser
            )
        return self._made_repeats

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
                    found = self._parts.chooser.choose_at_once(self._decision)
                    instance = found or await self._choose()
                else:
                    instance = await self._chosen_again(failure)
                try:
                    if self._spec.hedged and self._repeats.hedged:
                        return await self._raced(instance)
                    return await self._sent(instance)
                except Unwanted as exc:
                    failure = exc
                except LOST as exc:
                    failure = exc
                    self._repeats.check(instance, exc)
        finally:
            if self._made_repeats and (unused := self._repeats.reserved()) is not None:
                self._parts.chooser.done(unused, None)
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
        if (reserved := self._repeats.reserved()) is not None:
            self._decision.chosen = reserved
            return reserved
        self._repeats.count(failure)
        self._parts.guards.metrics.retried(self._service)
        return await self._choose()

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
        except (trio.Cancelled, BaseExceptionGroup):  # a nursery's cancellation comes in a group
            if self._overslept:
                self._parts.guards.ejector.failed(instance, self._spec)
            raise
        else:
            service_time_s = exchanged.total_s
            bad = exchanged.status >= SERVER_ERROR
            if self._decision.grpc_status and not bad:
                bad = is_failure(self._decision.grpc_status)
            self._parts.guards.ejector.answered(instance, self._spec, bad=bad)
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
        if status in self._spec.retry_statuses and self._left and self._repeats.reserve(instance):
            self._parts.guards.metrics.retried(self._service)
            raise Unwanted(status)
        if claim is not None:
            claim()
        self._decision.chosen = instance

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
        second = None if first is None else self._repeats.other(first)
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
