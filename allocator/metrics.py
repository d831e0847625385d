"""What an allocator counts for Prometheus."""

from collections.abc import Callable, Iterable, Mapping

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.core import CounterMetricFamily
from prometheus_client.registry import Collector

_START_BUCKETS = (0.01, 0.025, 0.05, 0.1, 0.15, 0.2, 0.3, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)


class AllocatorMetrics:
    """The series `myxo_allocator_*`, in one registry."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._allocations = Counter(
            "myxo_allocator_allocations",
            "Allocate calls by result: ready, joined, found, or the refusal's code.",
            ["result"],
            registry=registry,
        )
        self._phases = Histogram(
            "myxo_allocator_start_seconds",
            "Where the time of a start went, by phase.",
            ["phase"],
            buckets=_START_BUCKETS,
            registry=registry,
        )
        self._instances = Gauge(
            "myxo_allocator_instances", "Instances by state.", ["state"], registry=registry
        )
        self._in_flight = 0
        Gauge(
            "myxo_allocator_in_flight_requests",
            "Requests being served by instances of this machine.",
            registry=registry,
        ).set_function(lambda: self._in_flight)
        self._crashes = Counter(
            "myxo_allocator_crashes",
            "Instances that ended by themselves, or never became ready.",
            registry=registry,
        )
        self._put_away = Counter(
            "myxo_allocator_put_away",
            "Instances that were paused or stopped on purpose, by why.",
            ["how", "why"],
            registry=registry,
        )
        self._standby = Gauge(
            "myxo_allocator_standby_bytes",
            "Memory of paused instances, as it was measured.",
            registry=registry,
        )
        self._starts_waiting = Gauge(
            "myxo_allocator_starts_waiting",
            "Starts that wait for their turn.",
            registry=registry,
        )
        self._crash_loops = Gauge(
            "myxo_allocator_crash_loops",
            "Revisions that fail again and again and are not started for a while.",
            registry=registry,
        )
        self._images = Counter(
            "myxo_allocator_image_bytes",
            "Bytes of images by way: from peers, from a registry, or sent to peers.",
            ["way"],
            registry=registry,
        )
        self._served: dict[str, int] = {}
        registry.register(_Served(self._served))

    def allocated(self, result: str) -> None:
        """Count an allocate call."""
        self._allocations.labels(result).inc()

    def started(self, phases: Mapping[str, float]) -> None:
        """Take in the phases of a start, in seconds."""
        for phase, seconds in phases.items():
            self._phases.labels(phase).observe(seconds)

    def moved(self, before: str | None, after: str | None) -> None:
        """Take in that an instance changed its state; None is outside of life."""
        if before is not None:
            self._instances.labels(before).dec()
        if after is not None:
            self._instances.labels(after).inc()

    def in_flight(self, change: int) -> None:
        """Take in that requests began (positive) or ended (negative)."""
        self._in_flight += change

    def crashed(self) -> None:
        """Count an instance that ended by itself."""
        self._crashes.inc()

    def put_away(self, how: str, why: str) -> None:
        """Count an instance that was paused or stopped on purpose."""
        self._put_away.labels(how, why).inc()

    def standby(self, memory: Callable[[], int]) -> None:
        """Show what `memory` returns, in MiB, as the memory of paused instances."""
        self._standby.set_function(lambda: memory() * 1024 * 1024)

    def starts_waiting(self, count: Callable[[], int]) -> None:
        """Show what `count` returns."""
        self._starts_waiting.set_function(count)

    def crash_loops(self, count: Callable[[], int]) -> None:
        """Show what `count` returns."""
        self._crash_loops.set_function(count)

    def image_bytes(self, way: str, count: int) -> None:
        """Count bytes of images that came or went."""
        self._images.labels(way).inc(count)

    def gateway(self, result: str) -> None:
        """Count a request that came by the gateway."""
        self._served[result] = self._served.get(result, 0) + 1


class _Served(Collector):
    """Tells what was counted; prometheus-client would take a lock for each request."""

    def __init__(self, served: Mapping[str, int]) -> None:
        self._served = served

    def collect(self) -> Iterable[CounterMetricFamily]:
        family = CounterMetricFamily(
            "myxo_allocator_gateway_requests",
            "Requests that came by the gateway, by result: served, refused or failed.",
            labels=["result"],
        )
        for result, number in dict(self._served).items():
            family.add_metric([result], number)
        yield family
