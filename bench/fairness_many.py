"""One service with as many instances as the seed had, and what a choice among them takes."""

import time
from dataclasses import dataclass
from pathlib import Path
from random import Random

import trio

from bench.alike import RATE, load, service, share_deviation
from bench.machine import memory_mib
from bench.network import Network, open_registrar
from overlay.balancing import PEAK_EWMA
from proxy.ranking.policies import Backend, policy_named

PICKS = 20_000
SIZES = (1, 10, 250)
KNOWN_EACH = 4
"""Requests for each instance before anything is counted."""


@dataclass(frozen=True, slots=True)
class Many:
    """What a service with many instances showed.

    Attributes:
        instances: that there were.
        started_s: until all were ready.
        reached: that got a request.
        deviation: of the share that is farthest from a fair one.
        pool_bytes: growth of the proxy's memory for each instance that it holds connections to.
    """

    instances: int
    started_s: float
    reached: int
    deviation: float
    pool_bytes: float


async def with_many(running: Network, folder: Path, instances: int, each: int) -> Many:
    """Measure a service with so many instances by so many requests for each.

    Raises:
        AnswerFailed, NetworkFailed: it could not be measured.
    """
    proxy = (await running.processes())["proxy"]
    async with open_registrar(running) as registrar:
        began = time.monotonic()
        async with service(running, registrar, folder, PEAK_EWMA, instances) as (name, backends):
            started_s = time.monotonic() - began
            idle_mib = memory_mib(proxy)["pss"]
            await trio.to_thread.run_sync(
                load, running.url(name, "/"), instances * KNOWN_EACH / RATE
            )
            before = [b.count for b in backends]
            seconds = instances * each / RATE
            await trio.to_thread.run_sync(load, running.url(name, "/"), seconds)
            counts = [b.count - n for b, n in zip(backends, before, strict=True)]
            grown = (memory_mib(proxy)["pss"] - idle_mib) * 2**20
    reached = sum(bool(count) for count in counts)
    return Many(instances, started_s, reached, share_deviation(counts), grown / instances)


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
