"""One service with 250 instances, as PUMA's benchmark had: is each reached, and at what price?

By the process runtime on this machine, asked through one proxy in a closed loop, so that a busy
machine makes it slower and not wrong. Shares are those of the default policy, of so many requests
that chance would be off by less; memory is what the proxy holds more for the connections that it
keeps to all of them.
"""

import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import trio

from bench.alike import service
from bench.client import requests_per_second
from bench.command import Report, run
from bench.machine import memory_mib, open_files
from bench.network import Network, network, open_registrar
from bench.stats import share_deviation, table
from overlay.balancing import PEAK_EWMA
from proxy.ranking.policies import Backend, policy_named

INSTANCES, EACH = 250, 200
INSTANCES_QUICK, EACH_QUICK = 30, 40
KNOWN_EACH = 4
"""Requests for each instance before anything is counted."""

CONNECTIONS = 64
BLOCK_S = 2.0
"""Of wrk, which takes whole seconds; it goes on until there were enough requests."""

PICKS = 20_000
SIZES = (1, 10, 250)


@dataclass(frozen=True, slots=True)
class Crowded:
    """What a service with many instances showed.

    Attributes:
        instances: that there were.
        started_s: until all were ready.
        requests: that were counted.
        reached: instances that got one.
        deviation: of the share that is farthest from a fair one.
        rps: requests a second.
        before_mib: resident and proportional memory of the proxy with the instances there.
        after_mib: the same with connections to all of them.
        files: that the proxy has open, before and after.
    """

    instances: int
    started_s: float
    requests: int
    reached: int
    deviation: float
    rps: float
    before_mib: Mapping[str, float]
    after_mib: Mapping[str, float]
    files: tuple[int, int]


def measure(quick: bool) -> Report:
    """Return all figures of this benchmark.

    Raises:
        AnswerFailed, NetworkFailed: it could not be measured.
    """
    count, each = (INSTANCES_QUICK, EACH_QUICK) if quick else (INSTANCES, EACH)
    with (
        tempfile.TemporaryDirectory(prefix="myxo-bench-crowded-") as folder,
        network("process", "--allocator-flag", f"--max-instances={count + 1}") as running,
    ):
        found = trio.run(crowded, running, Path(folder), count, each)
    return report(found, selection_us())


async def crowded(running: Network, folder: Path, instances: int, each: int) -> Crowded:
    """Measure a service with so many instances by so many requests for each.

    Raises:
        AnswerFailed, NetworkFailed: it could not be measured.
    """
    proxy = (await running.processes())["proxy"]
    async with open_registrar(running) as registrar:
        began = time.monotonic()
        async with service(running, registrar, folder, PEAK_EWMA, instances) as (name, backends):
            started_s = time.monotonic() - began
            url = running.url(name, "/")

            async def ask(requests: int) -> tuple[list[int], list[float]]:
                """Return how many each instance got, and requests/s of each block."""
                before, rates, counts = [b.count for b in backends], list[float](), list[int]()
                while sum(counts) < requests:
                    rates.append(await trio.to_thread.run_sync(_load, url))
                    counts = [b.count - n for b, n in zip(backends, before, strict=True)]
                return counts, rates

            files, before_mib = open_files(proxy), memory_mib(proxy)
            await ask(instances * KNOWN_EACH)
            counts, rates = await ask(instances * each)
            return Crowded(
                instances,
                started_s,
                sum(counts),
                sum(bool(count) for count in counts),
                share_deviation(counts),
                sum(rates) / len(rates),
                before_mib,
                memory_mib(proxy),
                (files, open_files(proxy)),
            )


def _load(url: str) -> float:
    return requests_per_second(url, connections=CONNECTIONS, duration_s=BLOCK_S)


def selection_us(picks: int = PICKS) -> dict[int, float]:
    """Return what one choice by the default policy takes, in microseconds, by their number."""
    taken: dict[int, float] = {}
    for size in SIZES:
        among = tuple(Backend(f"b{n}") for n in range(size))
        policy = policy_named(PEAK_EWMA, Random(1))  # noqa: S311  (draws, and hides nothing)
        began = time.perf_counter()
        for _ in range(picks):
            policy.pick(among, 0.0)
        taken[size] = (time.perf_counter() - began) / picks * 1e6
    return taken


def report(found: Crowded, chosen_us: Mapping[int, float]) -> Report:
    """Return the figures and tables of what was found."""
    grown_kib = (found.after_mib["pss"] - found.before_mib["pss"]) * 1024 / found.instances
    figures: dict[str, Any] = {
        "instances": found.instances,
        "instances_reached": found.reached,
        "requests": found.requests,
        "max_share_deviation": found.deviation,
        "requests_per_s": found.rps,
        "proxy_rss_mib": found.after_mib["rss"],
        "pool_bytes_each": grown_kib * 1024,
        "files_before": found.files[0],
        "files_after": found.files[1],
    }
    figures |= {f"select_us_{size}": us for size, us in chosen_us.items()}
    rows = [
        ["instances, ready after, s", f"{found.instances}, {found.started_s:.1f}"],
        ["reached, by how many requests", f"{found.reached}, {found.requests:,}"],
        ["the share farthest from a fair one is off by", f"{found.deviation:.1%}"],
        ["requests/s", f"{found.rps:,.0f}"],
        ["proxy's memory before requests, MiB RSS (PSS)", _memory(found.before_mib)],
        ["with connections to all, MiB RSS (PSS)", _memory(found.after_mib)],
        ["for each instance, KiB PSS", f"{grown_kib:.1f}"],
        ["files that the proxy has open, before and after", "{}, {}".format(*found.files)],
    ]
    picks = ", ".join(f"{us:.1f} µs among {size}" for size, us in chosen_us.items())
    text = table(["one service with many instances", ""], rows)
    return Report(figures, f"{text}\n\nOne choice: {picks}.")


def _memory(mib: Mapping[str, float]) -> str:
    return f"{mib['rss']:.1f} ({mib['pss']:.1f})"


if __name__ == "__main__":
    run("crowded", "One service with 250 instances.", measure)
