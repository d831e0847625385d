import contextlib
from collections.abc import AsyncIterator

import httpx
import pytest
import trio
from prometheus_client import CollectorRegistry, Counter

from overlay.identity import Identity
from overlay.listeners import listen, port_of
from overlay.metrics import PeerMetrics, serve_metrics
from overlay.records import PeerRecord, Role, Version, sign_record
from overlay.testing import cut, empty_view, meet

ME, OTHER = (Identity.from_seed(bytes([n]) * 32) for n in range(2))


@pytest.fixture
def registry() -> CollectorRegistry:
    made = CollectorRegistry()
    Counter("myxo_tests_total", "Tests.", registry=made).inc()
    return made


@pytest.fixture
async def port(registry: CollectorRegistry, nursery: trio.Nursery) -> AsyncIterator[int]:
    listener = await listen("127.0.0.1", 0, what="metrics")
    nursery.start_soon(serve_metrics, registry, listener)
    with trio.fail_after(15):
        yield port_of(listener)


async def get(port: int, path: str) -> httpx.Response:
    async with httpx.AsyncClient(trust_env=False) as client:
        return await client.get(f"http://127.0.0.1:{port}{path}")


@pytest.mark.parametrize("path", ["/metrics", "/metrics?name[]=x"])
async def test_metrics_are_served_as_prometheus_reads_them(port: int, path: str) -> None:
    answer = await get(port, path)
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("text/plain; version=")
    assert "myxo_tests_total 1.0" in answer.text


async def test_other_paths_say_where_metrics_are(port: int) -> None:
    answer = await get(port, "/")
    assert (answer.status_code, answer.text) == (404, "metrics are at /metrics\n")


@pytest.mark.parametrize("data", [b"", b"nonsense\r\n\r\n", b"GET /metrics", b"\x00" * 70_000])
async def test_a_client_that_talks_nonsense_harms_nobody(port: int, data: bytes) -> None:
    stream = await trio.open_tcp_stream("127.0.0.1", port)
    with contextlib.suppress(trio.BrokenResourceError):
        await stream.send_all(data)
    await stream.aclose()
    assert (await get(port, "/metrics")).status_code == 200


def test_peers_are_counted_by_state_as_they_are_at_the_scrape() -> None:
    registry, view = CollectorRegistry(), empty_view(ME, "here")
    PeerMetrics(registry, view)

    def count(state: str) -> float | None:
        return registry.get_sample_value("myxo_peers", {"state": state})

    assert (count("alive"), count("suspect")) == (0, 0)
    record = PeerRecord(version=Version(epoch=1.0, counter=0), role=Role.PROXY, host="h")
    view.apply(sign_record(OTHER, record), 1.0)
    meet(view, OTHER.peer_id)
    assert (count("alive"), count("suspect")) == (1, 0)
    cut(view, OTHER.peer_id)
    assert (count("alive"), count("suspect")) == (0, 1)
