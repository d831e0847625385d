"""How evenly requests are spread, and what one slow backend does to the others' clients.

Three instances of a service that take `FAST_S` for an answer are asked at a fixed rate, free of
coordinated omission: through Myxo by each of several policies, and through HAProxy and Envoy by
theirs. Then one of them takes ten times as long, from one moment to the next, and then as long as
before. At last one instance is killed: its successor is new to everybody.
"""

import os
import signal
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import trio

from bench import delayed
from bench.alike import (
    CONNECTIONS,
    FAST_S,
    RATE,
    READY_TIMEOUT_S,
    load,
    service,
)
from bench.balancers import BALANCERS
from bench.command import Report, run
from bench.delayed import Delayed
from bench.network import Network, network, open_registrar
from bench.open_load import open_loop
from bench.stats import quantile, share_deviation, table
from overlay.balancing import PEAK_EWMA
from overlay.names import ServiceName

INSTANCES = 3
REQUESTS = 1500
SLOW_S = 0.05

KNOWN_S = 1.0
"""Of load before anything is measured."""

RECOVERED = 0.8
"""Of its fair share, at which a backend counts as back."""

LOOK_S = 1.0
"""How long a window is in which shares are looked at on the way back."""

LOOK_OFTEN_S = 0.005
"""Between two looks at files that tell of nothing by themselves."""


@dataclass(frozen=True, slots=True)
class Plan:
    """How much to measure.

    Attributes:
        policies: of Myxo.
        balancers: that these are compared with.
        slow_s: seconds of load with one slow backend.
        recovery_s: seconds within which it should be back.
    """

    policies: Sequence[str]
    balancers: Sequence[str]
    slow_s: float
    recovery_s: float


FULL = Plan(
    (
        PEAK_EWMA,
        "round_robin",
        "weighted_round_robin",
        "random",
        "least_request",
        "weighted_least_request",
    ),
    tuple(BALANCERS),
    slow_s=10.0,
    recovery_s=40.0,
)
QUICK = Plan(
    (PEAK_EWMA, "round_robin"),
    ("envoy least_request", "haproxy leastconn"),
    slow_s=3.0,
    recovery_s=15.0,
)


@dataclass(frozen=True, slots=True)
class Found:
    """What one way of balancing did.

    Attributes:
        deviation: of the share that is farthest from a fair one.
        p99_s: with all backends alike.
        slow_p99_s: with one ten times slower.
        slow_share: of all requests, that the slow one got.
        recovery_s: until it was back; None if it was not, or nobody looked.
        new_share: of a fair share, that a new instance got in its first second; likewise.
    """

    deviation: float
    p99_s: float
    slow_p99_s: float
    slow_share: float
    recovery_s: float | None = None
    new_share: float | None = None


def measure(quick: bool) -> Report:
    """Return all figures of this benchmark.

    Raises:
        HopMissing, AnswerFailed, NetworkFailed: it could not be measured.
    """
    plan = QUICK if quick else FULL
    with tempfile.TemporaryDirectory(prefix="myxo-bench-fairness-") as name:
        folder = Path(name)
        with network("process") as running:
            found = trio.run(_with_myxo, running, folder, plan)
        for balancer in plan.balancers:
            serve = BALANCERS[balancer]
            with ExitStack() as stack:
                backends = stack.enter_context(delayed.backends(folder, [FAST_S] * INSTANCES))
                url = stack.enter_context(serve([b.port for b in backends]))
                found[balancer] = spread_and_slowed(url, backends, plan)
    return report(found)


async def _with_myxo(running: Network, folder: Path, plan: Plan) -> dict[str, Found]:
    found: dict[str, Found] = {}
    async with open_registrar(running) as registrar:
        for policy in plan.policies:
            async with service(running, registrar, folder, policy, INSTANCES) as (name, backends):
                url = running.url(name, "/")
                one = await trio.to_thread.run_sync(spread_and_slowed, url, backends, plan)
                one = replace(one, recovery_s=await _recovery(url, backends, plan))
                if policy == PEAK_EWMA:
                    new_share = await _new_one(running, folder, name, backends)
                    one = replace(one, new_share=new_share)
                found[f"myxo {policy}"] = one
    return found


def spread_and_slowed(url: str, backends: Sequence[Delayed], plan: Plan) -> Found:
    """Measure shares and latencies, then latencies with one backend that is slow.

    Raises:
        AnswerFailed: a request failed.
    """
    load(url, KNOWN_S)
    before = [b.count for b in backends]
    p99_s = quantile(load(url, REQUESTS / RATE), 0.99)
    counts = [b.count - n for b, n in zip(backends, before, strict=True)]
    slow, before_slow = backends[0], backends[0].count
    slow.take(SLOW_S)
    slowed = load(url, plan.slow_s)
    share = (slow.count - before_slow) / len(slowed)
    slow.take(FAST_S)
    return Found(share_deviation(counts), p99_s, quantile(slowed, 0.99), share)


async def _recovery(url: str, backends: Sequence[Delayed], plan: Plan) -> float | None:
    """Return the seconds until the backend that was slow has its share again."""
    began, slow = time.monotonic(), backends[0]
    while (passed := time.monotonic() - began) < plan.recovery_s:
        before = slow.count
        sent = await trio.to_thread.run_sync(load, url, LOOK_S)
        if (slow.count - before) / len(sent) >= RECOVERED / len(backends):
            return passed + LOOK_S
    return None


async def _new_one(
    running: Network, folder: Path, name: ServiceName, backends: Sequence[Delayed]
) -> float:
    """Kill an instance under load; return what of a fair share its successor got in a second."""
    known = {b.port for b in backends}
    victim = backends[-1].pid
    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.to_thread.run_sync, _load_anyhow, running.url(name, "/"), 6.0)
        await trio.sleep(1.0)
        os.kill(victim, signal.SIGKILL)
        with trio.fail_after(READY_TIMEOUT_S):
            while not (new := _ports(folder) - known):  # noqa: ASYNC110  (what it looks at is files)
                await trio.sleep(LOOK_OFTEN_S)
            newcomer = Delayed(folder, new.pop())
            while not newcomer.count:  # noqa: ASYNC110  (likewise)
                await trio.sleep(LOOK_OFTEN_S)
        await trio.sleep(1.0)
        return newcomer.count / (RATE / len(backends))


def _ports(folder: Path) -> set[int]:
    return {int(path.name) for path in folder.iterdir() if path.name.isdigit()}


def _load_anyhow(url: str, seconds: float) -> None:
    open_loop(url, rate=RATE, duration_s=seconds, connections=CONNECTIONS)


def report(found: Mapping[str, Found]) -> Report:
    """Return the figures and tables of what was found."""
    default = found[f"myxo {PEAK_EWMA}"]
    figures: dict[str, Any] = {
        "max_share_deviation": default.deviation,
        "p99_ratio_one_slow": default.slow_p99_s / default.p99_s,
        "recovery_s": default.recovery_s,
        "new_share_first_s": default.new_share,
    }
    for name, one in found.items():
        key = name.replace(" ", "_")
        figures[f"{key}_share_deviation"] = one.deviation
        figures[f"{key}_p99_ms"] = one.p99_s * 1000
        figures[f"{key}_p99_ratio_one_slow"] = one.slow_p99_s / one.p99_s
    columns = [
        "by",
        "share off by",
        "p99, ms",
        "one slow: p99, ms",
        "ratio",
        "its share",
        "back, s",
    ]
    rows = [[name, *_row(one)] for name, one in found.items()]
    text = table(columns, rows)
    new = "" if default.new_share is None else f"{default.new_share:.2f}"
    newcomer = f"A new instance got {new} of a fair share in its first second."
    return Report(figures, f"{text}\n\n{newcomer}")


def _row(one: Found) -> Iterator[str]:
    yield f"{one.deviation:.1%}"
    yield f"{one.p99_s * 1000:.1f}"
    yield f"{one.slow_p99_s * 1000:.1f}"
    yield f"{one.slow_p99_s / one.p99_s:.2f}"
    yield f"{one.slow_share:.1%}"
    yield "" if one.recovery_s is None else f"{one.recovery_s:.0f}"


if __name__ == "__main__":
    run("fairness", "How evenly requests are spread, and around a slow backend.", measure)
