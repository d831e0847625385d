from collections.abc import Iterator

import pytest
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import generate_latest

from bootstrap import rtt_metrics
from bootstrap.rtt_metrics import MAX_PEER_SERIES, PingMonitor
from overlay.announcements import Announcements
from overlay.coordinates import Coordinate
from overlay.identity import Identity
from overlay.metrics import DatagramMetrics, MembershipMetrics, PeerMetrics, RecordMetrics
from overlay.names import PeerId
from overlay.records import PeerRecord, Role, Version, sign_record
from overlay.sealing import Sealer
from overlay.testing import depart, empty_view, measure, meet, pass_time
from overlay.udp import UdpCounts
from overlay.view import RTT_FRESH_S, View

ME, OTHER, THIRD = (Identity.from_seed(bytes([n]) * 32) for n in range(3))
OLDER = {"targetHost": OTHER.peer_id, "host": "here"}
OURS = {"peer": OTHER.peer_id, "peer_host": "there", "role": "proxy"}


def monitored(*connected: PeerId) -> tuple[CollectorRegistry, View]:
    registry, view = CollectorRegistry(), empty_view(ME, "machine")
    registry.register(PingMonitor(view, "here", lambda: set(connected)))
    join(view, OTHER)
    return registry, view


def join(view: View, peer: Identity) -> None:
    record = PeerRecord(version=Version(epoch=1.0, counter=0), role=Role.PROXY, host="there")
    view.apply(sign_record(peer, record), 1.0)
    meet(view, peer.peer_id)


def shown(registry: CollectorRegistry) -> set[str]:
    """The peers that have a series."""
    families = (f for f in registry.collect() if f.name == "ping_rtt")
    return {sample.labels["targetHost"] for family in families for sample in family.samples}


def test_the_seeds_series_are_milliseconds_and_ours_are_seconds() -> None:
    registry, view = monitored()
    measure(view, OTHER.peer_id, 0.125)
    measure(view, OTHER.peer_id, 0.25)
    assert registry.get_sample_value("ping_rtt", OLDER) == 250.0
    assert registry.get_sample_value("ping_ewma_rtt", OLDER) == 0.9 * 125.0 + 0.1 * 250.0
    assert registry.get_sample_value("myxo_peer_rtt_seconds", OURS) == 0.140625
    assert registry.get_sample_value("myxo_peer_rtt_variation_seconds", OURS) == 0.078125


def test_a_peer_that_was_not_measured_yet_has_no_series() -> None:
    registry, _ = monitored(OTHER.peer_id)
    assert registry.get_sample_value("ping_rtt", OLDER) is None


def test_a_series_is_gone_with_its_peer() -> None:
    registry, view = monitored(OTHER.peer_id)
    measure(view, OTHER.peer_id, 0.125)
    depart(view, OTHER)
    assert registry.get_sample_value("ping_rtt", OLDER) is None
    assert registry.get_sample_value("myxo_peer_rtt_seconds", OURS) is None


@pytest.mark.parametrize("connected", [True, False])
def test_a_measurement_from_long_ago_is_shown_of_connected_peers_only(connected: bool) -> None:
    registry, view = monitored(*[OTHER.peer_id] * connected)
    measure(view, OTHER.peer_id, 0.125)
    pass_time(view, RTT_FRESH_S)
    assert shown(registry) == {OTHER.peer_id}
    pass_time(view, 1.0)
    assert shown(registry) == ({OTHER.peer_id} if connected else set())


def test_beyond_the_bound_connected_peers_come_first_and_then_the_nearest(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    registry, view = monitored(THIRD.peer_id)
    join(view, THIRD)
    near = Identity.from_seed(b"n" * 32)
    join(view, near)
    measure(view, near.peer_id, 0.001)
    measure(view, OTHER.peer_id, 0.01)
    measure(view, THIRD.peer_id, 0.1)
    monkeypatch.setattr(rtt_metrics, "MAX_PEER_SERIES", 2)
    assert shown(registry) == {THIRD.peer_id, near.peer_id}


MEMBERS = 4000


@pytest.fixture(scope="module")
def crowd() -> View:
    """A view of thousands, all of them measured a moment ago."""
    view = empty_view(ME, "machine")
    for number, peer in enumerate(crowded()):
        join(view, peer)
        place = Coordinate((number / 1e5,) * 8, error=0.5, adjustment=0.0, height=0.001)
        measure(view, peer.peer_id, 0.0001 * (1 + number % 100), place)
    return view


def crowded() -> Iterator[Identity]:
    for number in range(1, MEMBERS + 1):
        yield Identity.from_seed(number.to_bytes(32, "big"))


def every_metric(view: View) -> CollectorRegistry:
    """What a bootstrap daemon serves, less what the process says of itself."""
    registry = CollectorRegistry()
    registry.register(PeerMetrics(view))
    registry.register(MembershipMetrics(view.membership))
    registry.register(RecordMetrics(view.records))
    sealer, announcements = Sealer(view.me, b"network"), Announcements(view.me)
    registry.register(DatagramMetrics(UdpCounts(), sealer.dropped, announcements.unheeded))
    registry.register(PingMonitor(view, "here", set))
    return registry


MOST_SHARED_SERIES = 200
"""Series that do not tell of one peer: mostly the histograms' buckets."""

MOST_BYTES = 400_000
"""Of a page with `MAX_PEER_SERIES` peers: each has four series with its id of 52 signs."""


@pytest.mark.slow
def test_a_scrape_of_thousands_of_members_is_bounded(crowd: View) -> None:
    registry = every_metric(crowd)
    series = [s for family in registry.collect() for s in family.samples]
    assert len(shown(registry)) == MAX_PEER_SERIES
    assert 4 * MAX_PEER_SERIES < len(series) <= 4 * MAX_PEER_SERIES + MOST_SHARED_SERIES
    assert registry.get_sample_value("myxo_peers", {"state": "alive"}) == MEMBERS
    assert registry.get_sample_value("myxo_rtt_seconds_count", {"role": "proxy"}) == MEMBERS
    assert len(generate_latest(registry)) < MOST_BYTES


@pytest.mark.slow
def test_who_leaves_a_crowd_makes_room_for_the_next(crowd: View) -> None:
    registry = every_metric(crowd)
    peer = next(p for p in crowded() if p.peer_id in shown(registry))
    depart(crowd, peer)
    assert peer.peer_id.encode() not in generate_latest(registry)
    assert len(shown(registry)) == MAX_PEER_SERIES
