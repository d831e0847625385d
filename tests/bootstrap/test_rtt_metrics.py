from prometheus_client import CollectorRegistry

from bootstrap.rtt_metrics import PingMonitor
from overlay.identity import Identity
from overlay.records import PeerRecord, Role, Version, sign_record
from overlay.testing import depart, empty_view, measure, meet
from overlay.view import View

ME, OTHER = (Identity.from_seed(bytes([n]) * 32) for n in range(2))
OLDER = {"targetHost": OTHER.peer_id, "host": "here"}
OURS = {"peer": OTHER.peer_id, "peer_host": "there", "role": "proxy"}


def monitored() -> tuple[CollectorRegistry, View]:
    registry, view = CollectorRegistry(), empty_view(ME, "machine")
    registry.register(PingMonitor(view, "here"))
    record = PeerRecord(version=Version(epoch=1.0, counter=0), role=Role.PROXY, host="there")
    view.apply(sign_record(OTHER, record), 1.0)
    meet(view, OTHER.peer_id)
    return registry, view


def test_the_seeds_series_are_milliseconds_and_ours_are_seconds() -> None:
    registry, view = monitored()
    measure(view, OTHER.peer_id, 0.125)
    measure(view, OTHER.peer_id, 0.25)
    assert registry.get_sample_value("ping_rtt", OLDER) == 250.0
    assert registry.get_sample_value("ping_ewma_rtt", OLDER) == 0.9 * 125.0 + 0.1 * 250.0
    assert registry.get_sample_value("myxo_peer_rtt_seconds", OURS) == 0.140625
    assert registry.get_sample_value("myxo_peer_rtt_variation_seconds", OURS) == 0.078125


def test_a_peer_that_was_not_measured_yet_has_no_series() -> None:
    registry, _ = monitored()
    assert registry.get_sample_value("ping_rtt", OLDER) is None


def test_a_series_is_gone_with_its_peer() -> None:
    registry, view = monitored()
    measure(view, OTHER.peer_id, 0.125)
    depart(view, OTHER)
    assert registry.get_sample_value("ping_rtt", OLDER) is None
    assert registry.get_sample_value("myxo_peer_rtt_seconds", OURS) is None
