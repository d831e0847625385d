"""The ping-monitor's series: the RTT to every connected peer, in PhysarumSM's names and in ours.

`ping_rtt` and `ping_ewma_rtt` are milliseconds, labelled `targetHost` (a peer id) and `host` (this
machine), so that dashboards made for PhysarumSM's ping-monitor work unchanged. The `myxo_*` series
are seconds. All are read from the view at the scrape, so a series is gone when its peer is.
"""

from collections.abc import Iterator

from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from overlay.view import View


class PingMonitor(Collector):
    """Collects the RTT series from a view.

    Args:
        view: this peer's view.
        hostname: the value of the `host` label.
    """

    def __init__(self, view: View, hostname: str) -> None:
        self._view = view
        self._hostname = hostname

    def collect(self) -> Iterator[Metric]:
        """Yield the families with one sample per member that a probe has measured."""
        older = ["targetHost", "host"]
        latest = GaugeMetricFamily("ping_rtt", "Latest RTT in milliseconds.", labels=older)
        ewma = GaugeMetricFamily(
            "ping_ewma_rtt", "Exponentially smoothed RTT in milliseconds.", labels=older
        )
        ours = ["peer", "peer_host", "role"]
        seconds = GaugeMetricFamily(
            "myxo_peer_rtt_seconds", "Smoothed RTT to a peer (RFC 6298).", labels=ours
        )
        spread = GaugeMetricFamily(
            "myxo_peer_rtt_variation_seconds", "RTT variation (RFC 6298).", labels=ours
        )
        for peer in self._view.peers():
            estimate = self._view.membership.rtt(peer.peer_id)
            if estimate is None:
                continue
            names = [peer.peer_id, self._hostname]
            latest.add_metric(names, estimate.latest * 1000)
            ewma.add_metric(names, estimate.ewma * 1000)
            labels = [peer.peer_id, peer.record.host, peer.record.role.value]
            seconds.add_metric(labels, estimate.smoothed_rtt)
            spread.add_metric(labels, estimate.rtt_variation)
        yield from (latest, ewma, seconds, spread)
