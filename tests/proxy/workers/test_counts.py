from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from proxy.telemetry.metrics import ProxyMetrics
from proxy.workers.counts import Past, Summed, read_rows, rows_of


def counted(requests: int, connections: int) -> CollectorRegistry:
    registry = CollectorRegistry()
    metrics = ProxyMetrics(registry)
    for _ in range(requests):
        metrics.observe("hello", 200, 0.002)
    metrics.connections.set(connections)
    metrics.follow(dict)
    return registry


def test_what_several_processes_counted_is_told_as_one() -> None:
    own, worker = counted(2, 1), counted(3, 4)
    told = CollectorRegistry()
    told.register(Summed(own, lambda: read_rows(rows_of(worker))))
    text = generate_latest(told).decode()
    assert 'myxo_proxy_requests_total{code="2xx",service="hello"} 5.0' in text
    assert 'myxo_proxy_request_duration_seconds_bucket{le="0.0025",service="hello"} 5.0' in text
    assert 'myxo_proxy_request_duration_seconds_bucket{le="0.001",service="hello"} 0.0' in text
    assert "myxo_proxy_connections 5.0" in text
    assert text.count("# TYPE myxo_proxy_requests_total ") == 1


def test_without_workers_it_tells_what_the_process_itself_would() -> None:
    own, told = counted(2, 1), CollectorRegistry()
    told.register(Summed(own, list))
    assert generate_latest(told) == generate_latest(own)


def test_a_dead_worker_s_counters_stay_and_what_it_had_open_is_gone() -> None:
    past, own, told = Past(), counted(1, 1), CollectorRegistry()
    past.add(rows_of(counted(2, 7)))
    past.add(rows_of(counted(3, 7)))
    told.register(Summed(own, past.rows))
    assert (
        told.get_sample_value("myxo_proxy_requests_total", {"service": "hello", "code": "2xx"}) == 6
    )
    assert told.get_sample_value("myxo_proxy_connections") == 1
    assert (
        told.get_sample_value("myxo_proxy_request_duration_seconds_count", {"service": "hello"})
        == 6
    )


def test_when_a_counter_began_is_no_number_to_be_added() -> None:
    first, second = CollectorRegistry(), CollectorRegistry()
    counters = [Counter("one", "One.", registry=registry) for registry in (first, second)]
    Gauge("level", "Level.", registry=second).set(3)
    Histogram("seconds", "Seconds.", registry=second).observe(1)
    began = [
        r[5]
        for c in counters
        for f in c.collect()
        for r in [(f.name, f.type, "", s.name, s.labels, s.value) for s in f.samples]
        if r[3] == "one_created"
    ]
    told = CollectorRegistry()
    told.register(Summed(first, lambda: rows_of(second)))
    assert told.get_sample_value("one_created") == min(began)
    assert told.get_sample_value("level") == 3
    assert told.get_sample_value("seconds_count") == 1
