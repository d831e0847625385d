"""The proxy's own counts, shown as prometheus-client shows its own."""

import re
from random import Random

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest

from proxy.telemetry.metrics import _BUCKETS_S, ProxyMetrics

COMPARED = re.compile("myxo_proxy_request(s_total|_duration)")


def shown(registry: CollectorRegistry) -> list[str]:
    """Return the lines about requests, without the times at which counting began."""
    lines = generate_latest(registry).decode().splitlines()
    return sorted(line for line in lines if COMPARED.search(line) and "_created" not in line)


def test_what_is_counted_is_shown_as_prometheus_client_would() -> None:
    ours, theirs = CollectorRegistry(), CollectorRegistry()
    metrics = ProxyMetrics(ours)
    requests = Counter(
        "myxo_proxy_requests_total",
        "Requests answered, by service and status class.",
        ["service", "code"],
        registry=theirs,
    )
    seconds = Histogram(
        "myxo_proxy_request_duration_seconds",
        "From the request's head to the answer's last byte.",
        ["service"],
        buckets=_BUCKETS_S,
        registry=theirs,
    )
    random = Random(1)
    for _ in range(500):
        service, status = (
            random.choice(["", "web", "api"]),
            random.choice([200, 204, 304, 499, 503]),
        )
        took_s = random.choice([*_BUCKETS_S, random.expovariate(10), 60.0])
        metrics.observe(service, status, took_s)
        requests.labels(service, f"{status // 100}xx").inc()
        seconds.labels(service).observe(took_s)
    assert shown(ours) == shown(theirs)
