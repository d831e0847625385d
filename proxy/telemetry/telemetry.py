"""What is told of each request: metrics always, a line in the access log and a span if wanted.

A warm request pays for three additions. What costs more is for who asked for it, and
left to threads as far as it can be: lines are rendered by the log's, spans by the exporter's.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from time import time
from typing import Protocol

from overlay.http.head import RequestHead
from overlay.names import ServiceName
from proxy.telemetry.access_log import AccessLog, Entry
from proxy.telemetry.decisions import Decision, Decisions
from proxy.telemetry.metrics import ProxyMetrics
from proxy.telemetry.traces import Trace

CLIENT_GONE = 499
"""Where nobody was left to be answered; nginx's number, which readers of logs know."""


class Tracer(Protocol):
    """Has spans of requests exported."""

    def begin(self, head: RequestHead, decision: Decision, request_id: str) -> Trace:
        """Return the span of a request that begins."""

    def end(self, trace: Trace, decision: Decision, status: int) -> None:
        """Export the span of a request that has ended."""


@dataclass(slots=True)
class Outcome:
    """How a request ended; until it is known better its client has left.

    Attributes:
        status: that the client was sent, or `CLIENT_GONE`.
        received_bytes: of the request's body.
        sent_bytes: of the answer's body, as far as an instance gave it.
        cut: the answer stopped before its end.
    """

    status: int = CLIENT_GONE
    received_bytes: int = 0
    sent_bytes: int = 0
    cut: bool = False


class Telemetry:
    """Tells of requests.

    Args:
        metrics: counts them.
        decisions: knows their ids.
        log: is written a line for each, if there is one.
        tracer: exports a span for each, if there is one.
    """

    def __init__(
        self,
        metrics: ProxyMetrics,
        decisions: Decisions,
        log: AccessLog | None = None,
        tracer: Tracer | None = None,
    ) -> None:
        self._metrics = metrics
        self._decisions = decisions
        self._log = log
        self._tracer = tracer
        self._under_way: Counter[ServiceName] = Counter()
        metrics.follow(self.under_way)

    def under_way(self) -> Mapping[ServiceName, int]:
        """Return how many requests of each service have not ended, those that wait included."""
        return self._under_way

    def begun(self, decision: Decision, head: RequestHead) -> None:
        """Take in that it is known what a request is for."""
        self._under_way[decision.service] += 1
        if self._tracer is not None:
            decision.trace = self._tracer.begin(head, decision, self._decisions.id_of(decision))

    def ended(
        self,
        head: RequestHead,
        decision: Decision | None,
        outcome: Outcome,
        duration_s: float,
        client: str,
    ) -> None:
        """Tell of a request that has ended.

        Args:
            head: the request.
            decision: None where it was for no service.
            outcome: how it ended.
            duration_s: from its head to the answer's last byte.
            client: who asked: the service of an instance, or an address.
        """
        if decision is None:
            self._metrics.observe("", outcome.status, duration_s)
        else:
            self._decided(decision, outcome, duration_s)
        if self._log is not None:
            self._log.write(
                Entry(
                    head,
                    decision,
                    "" if decision is None else self._decisions.id_of(decision),
                    client,
                    duration_s,
                    outcome.status,
                    outcome.received_bytes,
                    outcome.sent_bytes,
                    outcome.cut,
                    time(),
                )
            )

    def _decided(self, decision: Decision, outcome: Outcome, duration_s: float) -> None:
        service = decision.service
        left = self._under_way[service] - 1
        if left:
            self._under_way[service] = left
        else:
            del self._under_way[service]
        self._metrics.observe(service, outcome.status, duration_s)
        forward_s = decision.timing.last("forward")
        if forward_s:  # an instance answered
            self._metrics.took(decision.road, forward_s)
        if decision.started:
            self._metrics.started(service, decision.timing.phases())
        if self._tracer is not None and decision.trace is not None:
            self._tracer.end(decision.trace, decision, outcome.status)
