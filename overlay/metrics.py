"""`/metrics` for Prometheus, one registry a daemon, served on trio."""

from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Mapping
from itertools import accumulate

import trio
from prometheus_client import CollectorRegistry
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.registry import Collector

from overlay.announcements import Unheeded
from overlay.http.connection import ServerConnection
from overlay.http.errors import BadRequest, ClientGone
from overlay.measurements import Histogram
from overlay.membership import Membership, MemberState
from overlay.record_table import RecordTable
from overlay.records import Refusal
from overlay.sealing import Dropped
from overlay.udp import UdpCounts
from overlay.view import View

REQUEST_TIMEOUT_S = 10.0


async def serve_metrics(
    registry: CollectorRegistry,
    listener: trio.SocketListener,
    before: Callable[[], Awaitable[None]] = trio.lowlevel.checkpoint,
) -> None:
    """Answer `GET /metrics` until cancelled.

    Args:
        registry: what is told.
        listener: where.
        before: called before each answer.
    """

    async def serve(stream: trio.SocketStream) -> None:
        try:
            with trio.move_on_after(REQUEST_TIMEOUT_S):
                await _serve_scrape(ServerConnection(stream), registry, before)
        except (BadRequest, ClientGone, trio.BrokenResourceError, trio.ClosedResourceError):
            return
        finally:
            await trio.aclose_forcefully(stream)

    await trio.serve_listeners(serve, [listener])


async def _serve_scrape(
    connection: ServerConnection,
    registry: CollectorRegistry,
    before: Callable[[], Awaitable[None]],
) -> None:
    while (head := await connection.read_head()) is not None:
        if head.target.split(b"?")[0] == b"/metrics":
            await before()
            body = generate_latest(registry)
            await connection.respond(200, [(b"Content-Type", CONTENT_TYPE_LATEST.encode())], body)
        else:
            await connection.respond(404, [], b"metrics are at /metrics\n")
    await connection.aclose()  # what was answered last may not have been sent yet


class PeerMetrics(Collector):
    """What every daemon tells of its peers and of how far they are.

    Args:
        view: read at each scrape, so that the series follow it.
    """

    def __init__(self, view: View) -> None:
        self._view = view

    def collect(self) -> Iterator[Metric]:
        """Yield the families; their number of series does not depend on the number of peers."""
        peers = GaugeMetricFamily(
            "myxo_peers", "Members by state, this peer not counted.", labels=["state"]
        )
        view = self._view
        states = Counter(view.membership.state(p) for p in view.members() if p != view.me)
        for state in (MemberState.ALIVE, MemberState.SUSPECT):
            peers.add_metric([state.value], states[state])
        rtts = HistogramMetricFamily(
            "myxo_rtt_seconds", "RTT samples by the role of the peer probed.", labels=["role"]
        )
        for role, histogram in view.measurements.rtts.items():
            rtts.add_metric([role.value], *_buckets(histogram))
        errors = HistogramMetricFamily(
            "myxo_rtt_estimate_error_ratio",
            "How far coordinates were off before each RTT sample, relative to it.",
        )
        errors.add_metric([], *_buckets(view.measurements.error_ratios))
        yield from (peers, rtts, errors)


def _buckets(histogram: Histogram) -> tuple[list[tuple[str, float]], float]:
    """Return each upper bound with the count of all values up to it, and the sum of values."""
    bounds = (*map(str, histogram.bounds), "+Inf")
    counts = accumulate(histogram.counts)
    return list(zip(bounds, map(float, counts), strict=True)), histogram.total


class MembershipMetrics(Collector):
    """What the membership protocol has done and seen since the start.

    Args:
        membership: read at each scrape.
    """

    def __init__(self, membership: Membership) -> None:
        self._membership = membership

    def collect(self) -> Iterator[Metric]:
        """Yield a family for each counter, and the health score."""
        counted = self._membership.counters
        yield _total("myxo_probes", "Probes begun.", counted.probes)
        yield _total("myxo_probe_acks", "Probes answered, by helpers too.", counted.acks)
        yield _total("myxo_probe_failures", "Probes that nobody answered.", counted.failures)
        yield _total("myxo_rtt_samples", "RTTs measured.", counted.samples)
        yield _total("myxo_suspicions", "Peers that became suspect here.", counted.suspicions)
        yield _total("myxo_deaths", "Peers that became dead here.", counted.deaths)
        yield _total(
            "myxo_refutations", "Accusations that this peer answered.", counted.refutations
        )
        yield _total(
            "myxo_membership_messages_ignored",
            "Messages not awaited or not for this peer.",
            counted.ignored,
        )
        yield _total(
            "myxo_membership_signatures_forged",
            "Updates that their peer had not signed.",
            counted.forged,
        )
        yield GaugeMetricFamily(
            "myxo_health_score",
            "Doubt in oneself (Lifeguard): 0 is well, and probes are 1 + score times as patient.",
            value=self._membership.health,
        )


class RecordMetrics(Collector):
    """What is held of peers' records, and what was not taken.

    Args:
        table: read at each scrape.
    """

    def __init__(self, table: RecordTable) -> None:
        self._table = table

    def collect(self) -> Iterator[Metric]:
        """Yield the families, with a series for each reason whether it has occurred or not."""
        table = self._table
        yield GaugeMetricFamily("myxo_records", "Records held.", value=len(table))
        yield GaugeMetricFamily(
            "myxo_records_bytes", "Signed payloads of the records held.", value=table.payload_bytes
        )
        yield _total("myxo_record_duplicates", "Records that were held already.", table.duplicates)
        yield _by_reason(
            "myxo_records_refused",
            "Records not taken; stale ones are older than what is held, or void.",
            {reason: table.refused[reason] for reason in Refusal},
        )


class DatagramMetrics(Collector):
    """What goes over UDP, and what is dropped there.

    Args:
        counts: of the sockets, read at each scrape.
        dropped: datagrams that were not opened, by reason.
        unheeded: announcements that were not taken in, by reason.
    """

    def __init__(
        self,
        counts: UdpCounts,
        dropped: Mapping[Dropped, int],
        unheeded: Mapping[Unheeded, int],
    ) -> None:
        self._counts = counts
        self._dropped = dropped
        self._unheeded = unheeded

    def collect(self) -> Iterator[Metric]:
        """Yield the families."""
        counts = self._counts
        yield _total("myxo_datagrams_sent", "Datagrams sent.", counts.sent)
        yield _total(
            "myxo_datagrams_sent_bytes", "Their bytes, without headers.", counts.sent_bytes
        )
        yield _total("myxo_datagrams_received", "Datagrams opened.", counts.received)
        yield _total(
            "myxo_datagrams_received_bytes",
            "Bytes of all that arrived, whether it opened or not.",
            counts.received_bytes,
        )
        yield _by_reason(
            "myxo_datagrams_unsent",
            "Datagrams that the system did not take.",
            {"full": counts.unsent_full, "refused": counts.unsent_refused},
        )
        yield _by_reason(
            "myxo_datagrams_dropped",
            "Datagrams that arrived and were not opened.",
            {reason: self._dropped.get(reason, 0) for reason in Dropped},
        )
        yield _by_reason(
            "myxo_announcements_unheeded",
            "Newcomers' announcements that were not taken in.",
            {reason: self._unheeded[reason] for reason in Unheeded},
        )


def _total(name: str, help_text: str, value: int) -> CounterMetricFamily:
    return CounterMetricFamily(name, help_text, value=value)


def _by_reason(name: str, help_text: str, values: Mapping[str, int]) -> CounterMetricFamily:
    family = CounterMetricFamily(name, help_text, labels=["reason"])
    for reason, value in values.items():
        family.add_metric([str(reason)], value)
    return family
