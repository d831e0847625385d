"""The figures of the simulator as tables, and by key."""

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

from bench.command import Report
from bench.sim.estimates import estimates
from bench.sim.figures import Measured, Mistakes, Plan, mistakes, network
from bench.sim.latency import MATRICES, SITES
from bench.stats import quantile, table

SIZES, SIZES_QUICK = (8, 100, 1000, 4000), (8, 100)
"""Of the networks in the page's tables."""

NETWORK, SHORT = Plan(10.0, 20, 5), Plan(5.0, 10, 3)
SHORT_FROM = 4000
"""Peers from which on a network is observed for the shorter time: a virtual second takes 6 s."""

SAMPLES, SAMPLES_QUICK = (100, 300, 1000), (300,)
"""RTTs that a peer measures before its estimates are judged: some 20, 60 and 200 s of probing."""

SETTLED = 300
"""Samples after which estimates are quoted."""

DOUBTERS, DOUBTERS_QUICK = 1000, 100
DOUBT_S = 30.0
"""Peers and virtual seconds of the networks with slow peers."""

VARIANTS: Mapping[str, tuple[bool, bool]] = {
    "as it is": (True, True),
    "without self-doubt": (False, True),
}
"""Self-doubt, and whether a process notices that it did not run."""

PARTS = ("estimates", "networks", "mistakes")
"""What the tables are about; each can be measured alone."""


@dataclass(frozen=True, slots=True)
class _Part:
    figures: Mapping[str, Any]
    text: str


def measure(quick: bool) -> Report:
    """Return all figures of this benchmark, for networks of several sizes."""
    return report(SIZES_QUICK if quick else SIZES, seed=1, quick=quick)


def report(sizes: Sequence[int], seed: int, *, quick: bool, only: Sequence[str] = PARTS) -> Report:
    """Return all figures of the parts asked for; by key those of the largest of the networks."""
    doubters = min(max(sizes), DOUBTERS_QUICK if quick else DOUBTERS)
    measures = {
        "estimates": lambda: _estimates(seed, quick=quick),
        "networks": lambda: _networks(sizes, seed, quick=quick),
        "mistakes": lambda: _mistakes(doubters, seed),
    }
    parts = [measures[part]() for part in PARTS if part in only]
    figures = {key: value for part in parts for key, value in part.figures.items()}
    return Report({"seed": seed} | figures, "\n\n".join(part.text for part in parts))


def _estimates(seed: int, *, quick: bool) -> _Part:
    rows = []
    figures: dict[str, Any] = {}
    for name, matrix in MATRICES.items():
        for samples in SAMPLES_QUICK if quick else SAMPLES:
            rng = random.Random(f"{seed}/{name}/{samples}")  # noqa: S311
            found = estimates(matrix(SITES, rng), SITES, samples, rng)
            quality = (f"{part:.1%}" for part in (found.median, found.p90, found.held))
            rows.append([f"{name}, {samples} samples each", *quality])
            if name == "geographic" and samples == SETTLED:
                figures = {
                    "coordinate_error_median": round(found.median, 4),
                    "coordinate_error_p90": round(found.p90, 4),
                    "coordinate_within_error": round(found.held, 4),
                }
    columns = [f"estimates of RTTs, {SITES} peers", "error, median", "p90", "within stated error"]
    return _Part(figures, table(columns, rows))


def _networks(sizes: Sequence[int], seed: int, *, quick: bool) -> _Part:
    runs = [
        network(size, seed, SHORT if quick or size >= SHORT_FROM else NETWORK) for size in sizes
    ]
    columns = [
        "peers",
        "bytes/s sent, median (most)",
        "received, median (most)",
        "ready to view, s: p50",
        "p99",
        "most",
        "crash to first, s",
        "to all, median (most)",
    ]
    return _Part(
        _by_key(max(runs, key=lambda run: run.peers)), table(columns, list(map(_row, runs)))
    )


def _by_key(run: Measured) -> dict[str, Any]:
    return {
        "peers": run.peers,
        "bytes_per_peer_s": round(quantile(run.sent, 0.5)),
        "bytes_per_peer_s_max": round(max(run.sent)),
        "received_bytes_per_peer_s_max": round(max(run.received)),
        "converged_p50_s": round(quantile(run.converged, 0.5), 4),
        "converged_p99_s": round(quantile(run.converged, 0.99), 4),
        "converged_missing": run.missing,
        "crash_first_s": round(median(run.first), 3),
        "crash_all_s": round(median(run.every), 3),
        "crash_all_max_s": round(max(run.every), 3),
        "quiet_false_deaths": run.false_deaths,
    }


def _row(run: Measured) -> list[str]:
    missing = f" ({run.missing} never)" if run.missing else ""
    return [
        f"{run.peers:,}",
        f"{quantile(run.sent, 0.5):,.0f} ({max(run.sent):,.0f})",
        f"{quantile(run.received, 0.5):,.0f} ({max(run.received):,.0f})",
        f"{quantile(run.converged, 0.5):.3f}{missing}",
        f"{quantile(run.converged, 0.99):.3f}",
        f"{max(run.converged):.3f}",
        f"{median(run.first):.2f}",
        f"{median(run.every):.2f} ({max(run.every):.2f})",
    ]


def _mistakes(peers: int, seed: int) -> _Part:
    found = {
        name: mistakes(peers, seed, DOUBT_S, self_doubt=doubt, notices_stalls=notices)
        for name, (doubt, notices) in VARIANTS.items()
    }
    columns = [
        f"{peers:,} peers, 5 % of them slow, 2 % loss; cases per peer and hour",
        "suspected: well",
        "slow",
        "held for dead: well",
        "slow",
    ]
    rows = [[name, *_rates(one)] for name, one in found.items()]
    with_doubt, without = found["as it is"], found["without self-doubt"]
    figures = {
        "mistaken_peers": peers,
        "false_suspicions_per_peer_hour": round(with_doubt.suspicions, 2),
        "false_suspicions_per_peer_hour_without_doubt": round(without.suspicions, 2),
        "false_deaths_per_peer_hour": round(with_doubt.deaths, 2),
        "false_deaths_per_peer_hour_without_doubt": round(without.deaths, 2),
    }
    return _Part(figures, table(columns, rows))


def _rates(found: Mistakes) -> list[str]:
    rates = (found.suspicions, found.slow_suspicions, found.deaths, found.slow_deaths)
    return [f"{rate:,.1f}" for rate in rates]
