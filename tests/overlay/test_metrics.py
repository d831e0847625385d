import contextlib
from collections.abc import AsyncIterator
from dataclasses import asdict

import httpx
import pytest
import trio
from prometheus_client import CollectorRegistry, Counter

from overlay.announcements import Announcements, Unheeded
from overlay.coordinates import Coordinate
from overlay.errors import RecordRefused
from overlay.identity import Identity
from overlay.listeners import listen, port_of
from overlay.metrics import (
    DatagramMetrics,
    MembershipMetrics,
    PeerMetrics,
    RecordMetrics,
    serve_metrics,
)
from overlay.records import PeerRecord, Refusal, Role, Version, sign_record
from overlay.sealing import Dropped, Sealer
from overlay.testing import cut, empty_view, measure, meet
from overlay.udp import UdpCounts

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
    with trio.fail_after(60):
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


async def test_a_scrape_on_a_connection_of_its_own_is_answered_before_that_ends(port: int) -> None:
    async with httpx.AsyncClient(trust_env=False, headers={"Connection": "close"}) as client:
        answer = await client.get(f"http://127.0.0.1:{port}/metrics")
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
    registry.register(PeerMetrics(view))

    def count(state: str) -> float | None:
        return registry.get_sample_value("myxo_peers", {"state": state})

    assert (count("alive"), count("suspect")) == (0, 0)
    record = PeerRecord(version=Version(epoch=1.0, counter=0), role=Role.PROXY, host="h")
    view.apply(sign_record(OTHER, record), 1.0)
    meet(view, OTHER.peer_id)
    assert (count("alive"), count("suspect")) == (1, 0)
    cut(view, OTHER.peer_id)
    assert (count("alive"), count("suspect")) == (0, 1)


def test_samples_are_counted_by_role_and_against_what_was_estimated() -> None:
    registry, view = CollectorRegistry(), empty_view(ME, "here")
    registry.register(PeerMetrics(view))
    record = PeerRecord(version=Version(epoch=1.0, counter=0), role=Role.PROXY, host="h")
    view.apply(sign_record(OTHER, record), 1.0)
    meet(view, OTHER.peer_id)

    def rtts(le: str) -> float | None:
        labels = {"role": "proxy", "le": le}
        return registry.get_sample_value("myxo_rtt_seconds_bucket", labels)

    place = Coordinate((0.02,) * 8, error=0.5, adjustment=0.0, height=0.001)
    measure(view, OTHER.peer_id, 0.05, place)
    assert (rtts("0.025"), rtts("0.05"), rtts("+Inf")) == (0, 1, 1)
    assert registry.get_sample_value("myxo_rtt_seconds_sum", {"role": "proxy"}) == 0.05
    assert registry.get_sample_value("myxo_rtt_estimate_error_ratio_count") == 0
    guess = view.membership.coordinates.estimate(OTHER.peer_id)
    assert guess is not None
    measure(view, OTHER.peer_id, 0.25, place)
    off = registry.get_sample_value("myxo_rtt_estimate_error_ratio_sum")
    assert off == pytest.approx(abs(guess.rtt_s - 0.25) / 0.25)
    assert registry.get_sample_value("myxo_rtt_estimate_error_ratio_count") == 1


def test_what_membership_counts_is_served() -> None:
    registry, view = CollectorRegistry(), empty_view(ME, "here")
    registry.register(MembershipMetrics(view.membership))
    counted = view.membership.counters
    for number, name in enumerate(asdict(counted)):
        setattr(counted, name, number + 1)
    served = {
        "myxo_probes_total": counted.probes,
        "myxo_probe_acks_total": counted.acks,
        "myxo_probe_failures_total": counted.failures,
        "myxo_rtt_samples_total": counted.samples,
        "myxo_suspicions_total": counted.suspicions,
        "myxo_deaths_total": counted.deaths,
        "myxo_refutations_total": counted.refutations,
        "myxo_membership_messages_ignored_total": counted.ignored,
        "myxo_membership_signatures_forged_total": counted.forged,
        "myxo_health_score": view.membership.health,
    }
    assert {name: registry.get_sample_value(name) for name in served} == served
    assert len(served) == len(asdict(counted)) + 1


def test_refused_records_are_served_by_reason_from_the_start() -> None:
    registry, view = CollectorRegistry(), empty_view(ME, "here")
    registry.register(RecordMetrics(view.records))

    def refused(reason: Refusal) -> float | None:
        return registry.get_sample_value("myxo_records_refused_total", {"reason": reason.value})

    assert {refused(reason) for reason in Refusal} == {0}
    record = PeerRecord(version=Version(epoch=1.0, counter=0), role=Role.PROXY, host="h")
    signed = sign_record(OTHER, record)
    with pytest.raises(RecordRefused):
        view.apply(signed.model_copy(update={"signature": bytes(64)}), 1.0)
    view.apply(signed, 1.0)
    view.apply(signed, 1.0)
    assert refused(Refusal.SIGNATURE) == 1
    assert registry.get_sample_value("myxo_records") == 1
    assert registry.get_sample_value("myxo_records_bytes") == len(signed.payload)
    assert registry.get_sample_value("myxo_record_duplicates_total") == 1


def test_what_goes_over_udp_and_what_is_dropped_is_served() -> None:
    registry, sealer = CollectorRegistry(), Sealer(ME.peer_id, b"network")
    announcements = Announcements(ME.peer_id, [b"key"])
    registry.register(
        DatagramMetrics(UdpCounts(1, 2, 3, 4, 5, 6), sealer.dropped, announcements.unheeded)
    )
    sealer.open(b"")
    record = PeerRecord(version=Version(epoch=1.0, counter=0), role=Role.PROXY, host="h")
    signed = sign_record(OTHER, record)
    mine = Announcements(OTHER.peer_id, [b"key"]).seal(ME.peer_id, signed, 1e9, bytes(16))
    assert mine is not None
    announcements.open(mine, 2e9)
    for name, value in [("sent", 1), ("sent_bytes", 2), ("received", 3), ("received_bytes", 4)]:
        assert registry.get_sample_value(f"myxo_datagrams_{name}_total") == value
    for reason, value in [("full", 5), ("refused", 6)]:
        labels = {"reason": reason}
        assert registry.get_sample_value("myxo_datagrams_unsent_total", labels) == value
    dropped = {
        reason: registry.get_sample_value("myxo_datagrams_dropped_total", {"reason": reason.value})
        for reason in Dropped
    }
    assert dropped == dict.fromkeys(Dropped, 0) | {Dropped.MALFORMED: 1}
    unheeded = {
        reason: registry.get_sample_value("myxo_announcements_unheeded_total", {"reason": reason})
        for reason in Unheeded
    }
    assert unheeded == dict.fromkeys(Unheeded, 0) | {Unheeded.STALE: 1}
