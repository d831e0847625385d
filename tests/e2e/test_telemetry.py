"""What a proxy tells of requests: spans to a collector, lines in a log, figures to Prometheus."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from tests.e2e.collector import Collector, collecting

TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"

pytestmark = pytest.mark.slow


@pytest.fixture
def collector() -> Iterator[Collector]:
    """A collector of spans on this machine."""
    with collecting() as taken:
        yield taken


def test_each_request_is_a_span_a_line_and_figures(
    daemons: Any, make_network: Any, collector: Collector, tmp_path: Path
) -> None:
    network = make_network(daemons)
    network.found("process")
    lines = tmp_path / "access.log"
    network.join(
        "seen",
        "proxy",
        "--access-log",
        str(lines),
        "--otlp-endpoint",
        collector.url,
        str(daemons.free_port()),
    )
    name = network.add_echo_process()
    url = network.url(name, "/a?token=1", "seen")
    sent = {"traceparent": f"00-{TRACE}-{PARENT}-01", "tracestate": "them=1"}
    cold = httpx.get(url, headers=sent, timeout=60)
    warm = httpx.get(url, headers={"X-Request-Id": "mine"})
    unknown = httpx.get(network.url("nothing-of-this-name", "/", "seen"))
    port = network.commands["seen"][network.commands["seen"].index("--prom-listen-addr") + 1]
    figures = httpx.get(f"http://{port}/metrics").text
    assert network.kill("seen", 15) == 0, "it ends well, and tells what it has"

    spans = {s.name: s for s in collector.spans}
    server = next(s for s in collector.spans if s.trace_id.hex() == TRACE and not is_phase(s))
    assert server.kind == Span.SPAN_KIND_SERVER
    assert server.parent_span_id.hex() == PARENT
    assert server.trace_state == "them=1"
    phases = [s for s in collector.spans if s.parent_span_id == server.span_id]
    assert {"lookup", "select", "start", "ready", "forward"} <= {s.name for s in phases}
    assert all(server.start_time_unix_nano <= s.start_time_unix_nano for s in phases)
    assert {s.name for s in collector.spans if s.trace_id.hex() != TRACE} == {f"GET {name}"}
    assert spans[f"GET {name}"].attributes
    assert collector.resources[0]["service.name"] == "myxo-proxy"

    got = {k.lower(): v for k, v in cold.json()["headers"].items()}
    assert got["traceparent"] == f"00-{TRACE}-{server.span_id.hex()}-01"
    assert got["tracestate"] == "them=1"
    assert {k.lower(): v for k, v in warm.json()["headers"].items()}["x-request-id"] == "mine"

    first, second, third = (json.loads(line) for line in lines.read_text().splitlines())
    assert first["status"] == cold.status_code == 200
    assert first["trace_id"] == TRACE
    assert first["started"] is True
    assert first["phases_ms"]["start"] > 0
    assert got["x-request-id"] == first["id"]
    assert first["sent_bytes"] == len(cold.content)
    assert second["id"] == "mine"
    assert "started" not in second
    assert third["status"] == unknown.status_code == 404
    assert "service" not in third

    assert f'myxo_proxy_requests_total{{code="2xx",service="{name}"}} 2.0' in figures
    assert f'myxo_proxy_start_seconds_count{{phase="start",service="{name}"}} 1.0' in figures
    assert "# TYPE myxo_proxy_requests_in_flight gauge" in figures
    network.no_traceback()


def is_phase(span: Span) -> bool:
    """Whether the span is a part of a request rather than one."""
    return span.kind == Span.SPAN_KIND_INTERNAL
