"""Small answers through each hop: latency at fixed rates, most requests a second, processor time.

The hops and direct take turns, another one first each time. What a hop adds is taken within each
round: its quantile minus direct's.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Any

from bench.client import requests_per_second
from bench.machine import cpu_s
from bench.open_load import answered, open_loop
from bench.stats import quantile, spread, table

RATES = (500, 5000)
LOOP_CONNECTIONS = 16
PEAK_CONNECTIONS = 32
PARTS = (0.5, 0.99)
DIRECT = "direct"
ENGINE = "myxo_envoy"
"""Myxo with Envoy as its engine."""


@dataclass(frozen=True, slots=True)
class Target:
    """Where a hop answers; `pid` is its process, None for the server itself."""

    url: str
    pid: int | None


@dataclass(slots=True)
class Found:
    """Round by round, by hop.

    Attributes:
        latency_s: by rate and quantile.
        peak: requests a second with wrk.
        cpu_us: of the hop's process for each of those requests.
    """

    latency_s: dict[tuple[int, float], dict[str, list[float]]] = field(
        default_factory=lambda: defaultdict(lambda: defaultdict(list))
    )
    peak: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    cpu_us: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))


def measure(
    targets: Mapping[str, Target], *, rounds: int, block_s: float, peak_s: float
) -> tuple[dict[str, Any], str]:
    """Return figures and a table.

    Args:
        targets: by hop, `direct` and `myxo` and `envoy` among them.
        rounds: of one block for each hop, rate and peak.
        block_s: seconds of a block at a fixed rate.
        peak_s: seconds of a block of wrk, which takes whole ones.

    Raises:
        AnswerFailed: some hop does not answer.
    """
    found = Found()
    for target in targets.values():
        open_loop(target.url, rate=2000, duration_s=0.25, connections=PEAK_CONNECTIONS)
    for turn in range(rounds):
        order = _rotated(list(targets), turn)
        for rate in RATES:
            for hop in order:
                _pace(found, hop, targets[hop], rate, block_s)
        for hop in order:
            _press(found, hop, targets[hop], peak_s)
    return report_of(found)


def _pace(found: Found, hop: str, target: Target, rate: int, duration_s: float) -> None:
    sent = open_loop(target.url, rate=rate, duration_s=duration_s, connections=LOOP_CONNECTIONS)
    latencies = answered(sent, target.url)
    for part in PARTS:
        found.latency_s[rate, part][hop].append(quantile(latencies, part))


def _press(found: Found, hop: str, target: Target, duration_s: float) -> None:
    before = 0.0 if target.pid is None else cpu_s(target.pid)
    rate = requests_per_second(target.url, connections=PEAK_CONNECTIONS, duration_s=duration_s)
    found.peak[hop].append(rate)
    if target.pid is not None:
        found.cpu_us[hop].append((cpu_s(target.pid) - before) / (rate * duration_s) * 1e6)


def _rotated(hops: Sequence[str], turn: int) -> list[str]:
    first = turn % len(hops)
    return [*hops[first:], *hops[:first]]


def report_of(found: Found) -> tuple[dict[str, Any], str]:
    """Return figures and the table of what was found."""
    hops = list(found.peak)
    added = {
        key: {
            hop: [
                (of_hop - bare) * 1000
                for of_hop, bare in zip(by_hop[hop], by_hop[DIRECT], strict=True)
            ]
            for hop in hops
            if hop != DIRECT
        }
        for key, by_hop in found.latency_s.items()
    }
    figures: dict[str, Any] = {
        f"rps_ratio_{hop}": median(found.peak["myxo"]) / median(found.peak[hop])
        for hop in hops
        if hop not in {DIRECT, "myxo"}
    }
    if ENGINE in hops and "envoy" in hops:
        figures["engine_rps_ratio_envoy"] = median(found.peak[ENGINE]) / median(found.peak["envoy"])
    figures["rps"] = {hop: median(rates) for hop, rates in found.peak.items()}
    figures["cpu_us_per_request"] = {hop: median(each) for hop, each in found.cpu_us.items()}
    for (rate, part), by_hop in added.items():
        name = f"p{part * 100:.0f}"
        suffix = "" if rate == RATES[0] else f"_{rate}"
        figures[f"added_{name}_ms{suffix}"] = median(by_hop["myxo"])
        for hop in by_hop:
            if hop != "myxo":
                ratio = median(by_hop["myxo"]) / median(by_hop[hop])
                figures[f"added_{name}_ratio_{hop}{suffix}"] = ratio
    columns = ["added to direct, ms"]
    columns += [f"p{part * 100:.0f} at {rate:,}/s" for rate, part in added]
    columns += ["requests/s", "CPU µs/request"]
    rows = [
        [
            hop,
            *("" if hop == DIRECT else spread(by[hop]).text(3) for by in added.values()),
            spread(found.peak[hop]).text(0),
            spread(found.cpu_us[hop]).text(0) if hop in found.cpu_us else "",
        ]
        for hop in hops
    ]
    return figures, table(columns, rows)
