"""What the proxy counts."""

from bisect import bisect_left
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Literal

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
)
from prometheus_client.registry import Collector

from overlay.names import ServiceName
from overlay.tunnel import Relayed

_BUCKETS_S = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
_BOUNDS = (*map(str, _BUCKETS_S), "+Inf")

_WARM = frozenset({"lookup", "select", "forward"})
"""Phases that every request has; the others are of a start."""


class ProxyMetrics:
    """Golden signals by service; only services that exist become a label."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._answers: dict[str, _Answers] = {}
        registry.register(_Answered(self._answers))
        self._roads: dict[str, _Times] = {}
        registry.register(_Taken(self._roads))
        self._phases = Histogram(
            "myxo_proxy_start_seconds",
            "Of requests that waited for a start: where the time went.",
            ["service", "phase"],
            buckets=_BUCKETS_S,
            registry=registry,
        )
        self._registry = registry
        self.tunnels = Gauge(
            "myxo_proxy_open_tunnels", "Open tunnels to instances.", registry=registry
        )
        self._tunnels = Counter(
            "myxo_proxy_tunnels_total",
            "Forwarded connections that ended, by service and how.",
            ["service", "how"],
            registry=registry,
        )
        self._tunnel_bytes = Counter(
            "myxo_proxy_tunnel_bytes_total",
            "Bytes in forwarded connections that ended, by service and direction.",
            ["service", "direction"],
            registry=registry,
        )
        self.connections = Gauge(
            "myxo_proxy_connections", "Open client connections.", registry=registry
        )
        self.waiting = Gauge(
            "myxo_proxy_requests_waiting",
            "Requests that wait for room at full instances.",
            registry=registry,
        )
        self.handshakes_failed = Counter(
            "myxo_proxy_handshakes_failed_total",
            "Connections from outside that did not get through TLS.",
            registry=registry,
        )
        self.outside = Gauge(
            "myxo_proxy_outside_connections", "Open connections from outside.", registry=registry
        )
        self._events = Counter(
            "myxo_proxy_resilience_total",
            "What the proxy did about failures and load, by service and what.",
            ["service", "event"],
            registry=registry,
        )
        self._carried = Counter(
            "myxo_proxy_envoy_requests_total",
            "Requests that Envoy took to instances by itself, by service.",
            ["service"],
            registry=registry,
        )
        self._turned_away = Counter(
            "myxo_proxy_connections_refused_total",
            "Client connections over a bound, by whose they were: host, container or outside.",
            ["client"],
            registry=registry,
        )

    def carried(self, service: str, requests: int) -> None:
        """Count requests that Envoy took to instances."""
        if requests:
            self._carried.labels(service).inc(requests)

    def retried(self, service: str) -> None:
        """Count a request that is sent again after a failure."""
        self._events.labels(service, "retry").inc()

    def hedged(self, service: str) -> None:
        """Count a request that is sent to a second instance."""
        self._events.labels(service, "hedge").inc()

    def ejected(self, service: str) -> None:
        """Count an instance that is left alone."""
        self._events.labels(service, "ejection").inc()

    def timed_out(self, service: str) -> None:
        """Count a request whose deadline is over."""
        self._events.labels(service, "deadline").inc()

    def over_rate(self, service: str) -> None:
        """Count a request that a rate limit refused."""
        self._events.labels(service, "rate_limit").inc()

    def turned_away(self, client: Literal["host", "container", "outside"]) -> None:
        """Count a connection over a bound, by whose it was."""
        self._turned_away.labels(client).inc()

    def tunnelled(self, service: str, relayed: Relayed | None) -> None:
        """Count a forwarded connection that ended; None is one that led nowhere or was cut."""
        self._tunnels.labels(service, "cut" if relayed is None else relayed.why).inc()
        if relayed is not None:
            self._tunnel_bytes.labels(service, "sent").inc(relayed.sent)
            self._tunnel_bytes.labels(service, "received").inc(relayed.received)

    def observe(self, service: str, status: int, duration_s: float) -> None:
        """Count one answered request; `service` is empty where the request named none."""
        answers = self._answers.get(service)
        if answers is None:
            answers = self._answers[service] = _Answers()
        answers.by_class[status // 100] += 1
        answers.times.observe(duration_s)

    def took(self, road: str, seconds: float) -> None:
        """Count a request that was answered by an instance: on which road, and in what time."""
        times = self._roads.get(road)
        if times is None:
            times = self._roads[road] = _Times()
        times.observe(seconds)

    def started(self, service: str, phases: Sequence[tuple[str, float]]) -> None:
        """Count a request that waited for a start, by the phases of that in seconds."""
        for phase, seconds in phases:
            if phase not in _WARM:
                self._phases.labels(service, phase).observe(seconds)

    def follow(self, under_way: Callable[[], Mapping[ServiceName, int]]) -> None:
        """Have it told at each scrape how many requests of each service have not ended."""
        self._registry.register(_UnderWay(under_way))


@dataclass(slots=True)
class _Times:
    """How long some requests took.

    Attributes:
        by_bucket: how many, by the first of the bounds that they took no longer than.
        total_s: how long they took together.
    """

    by_bucket: list[int] = field(default_factory=lambda: [0] * (len(_BUCKETS_S) + 1))
    total_s: float = 0.0

    def observe(self, seconds: float) -> None:
        self.by_bucket[bisect_left(_BUCKETS_S, seconds)] += 1
        self.total_s += seconds

    def tell(self, family: HistogramMetricFamily, label: str) -> None:
        upto = list(zip(_BOUNDS, accumulate(self.by_bucket), strict=True))
        family.add_metric([label], upto, self.total_s)


@dataclass(slots=True)
class _Answers:
    """Of one service: how many, by the status's first digit, and their times."""

    by_class: list[int] = field(default_factory=lambda: [0] * 10)
    times: _Times = field(default_factory=_Times)


class _Answered(Collector):
    """Tells what was counted, which costs a request a twentieth of what prometheus-client's do."""

    def __init__(self, answers: Mapping[str, _Answers]) -> None:
        self._answers = answers

    def collect(self) -> Iterable[CounterMetricFamily | HistogramMetricFamily]:
        requests = CounterMetricFamily(
            "myxo_proxy_requests",
            "Requests answered, by service and status class.",
            labels=["service", "code"],
        )
        seconds = HistogramMetricFamily(
            "myxo_proxy_request_duration_seconds",
            "From the request's head to the answer's last byte.",
            labels=["service"],
        )
        for service, answers in dict(self._answers).items():
            for digit, number in enumerate(answers.by_class):
                if number:
                    requests.add_metric([service, f"{digit}xx"], number)
            answers.times.tell(seconds, service)
        yield requests
        yield seconds


class _Taken(Collector):
    """Tells what the roads cost, as `_Answered` does."""

    def __init__(self, roads: Mapping[str, _Times]) -> None:
        self._roads = roads

    def collect(self) -> Iterable[HistogramMetricFamily]:
        family = HistogramMetricFamily(
            "myxo_proxy_road_seconds",
            "From the choice of an instance to the head of its answer, by the road to it.",
            labels=["road"],
        )
        for road, times in dict(self._roads).items():
            times.tell(family, road)
        yield family


class _UnderWay(Collector):
    def __init__(self, under_way: Callable[[], Mapping[ServiceName, int]]) -> None:
        self._under_way = under_way

    def collect(self) -> Iterable[GaugeMetricFamily]:
        family = GaugeMetricFamily(
            "myxo_proxy_requests_in_flight",
            "Requests that have not ended, those that wait for an instance included.",
            labels=["service"],
        )
        for service, number in dict(self._under_way()).items():
            family.add_metric([service], number)
        yield family
