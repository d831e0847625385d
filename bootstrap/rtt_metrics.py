"""The ping-monitor's series: the RTT to peers, in PhysarumSM's names and in ours.

`ping_rtt` and `ping_ewma_rtt` are milliseconds, labelled `targetHost` (a peer id) and `host` (this
machine), so that dashboards made for PhysarumSM's ping-monitor work unchanged. The `myxo_*` series
are seconds. All are read from the view at the scrape, so a series is gone when its peer is.

In a small network every peer has its series. In a large one at most `MAX_PEER_SERIES` have: those
that there is a connection to, and of the others that were measured lately the nearest. What is
known of the rest is in the histograms that every daemon has (`overlay/metrics.py`).
"""

from collections.abc import Callable, Collection, Iterable, Iterator
from heapq import nsmallest

from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from overlay.names import PeerId
from overlay.rtt import RttEstimate
from overlay.view import RTT_FRESH_S, View

MAX_PEER_SERIES = 256
"""Peers with series of their own, four each: some 150 KB a scrape. A hundred machines with a few
daemons each still have one for everybody."""


class PingMonitor(Collector):
    """Collects the RTT series from a view.

    Args:
        view: this peer's view.
        hostname: the value of the `host` label.
        connected: returns the peers that there is a connection to.
    """

    def __init__(
        self, view: View, hostname: str, connected: Callable[[], Collection[PeerId]]
    ) -> None:
        self._view = view
        self._hostname = hostname
        self._connected = connected

    def collect(self) -> Iterator[Metric]:
        """Yield the families with one sample for each peer that has series."""
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
        for peer, estimate in self._chosen():
            record = self._view.peer(peer)
            if record is None:
                continue
            names = [peer, self._hostname]
            latest.add_metric(names, estimate.latest * 1000)
            ewma.add_metric(names, estimate.ewma * 1000)
            labels = [peer, record.host, record.role.value]
            seconds.add_metric(labels, estimate.smoothed_rtt)
            spread.add_metric(labels, estimate.rtt_variation)
        yield from (latest, ewma, seconds, spread)

    def _chosen(self) -> list[tuple[PeerId, RttEstimate]]:
        """Return the peers that have series: connected ones first, then the nearest."""
        connected = self._connected()
        return nsmallest(
            MAX_PEER_SERIES,
            self._measured(connected),
            key=lambda entry: (entry[0] not in connected, entry[1].smoothed_rtt),
        )

    def _measured(self, connected: Collection[PeerId]) -> Iterable[tuple[PeerId, RttEstimate]]:
        """Yield the members whose RTT is known, and still means something."""
        membership, now = self._view.membership, self._view.clock()
        for peer in self._view.members():
            estimate = membership.rtt(peer)
            if estimate is None:
                continue
            age = membership.rtt_age(peer, now)
            if peer in connected or (age is not None and age <= RTT_FRESH_S):
                yield peer, estimate
