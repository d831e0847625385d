"""How evenly requests are spread, and what one slow backend does to the others' clients.

Three instances of a service that take `FAST_S` for an answer are asked at a fixed rate, free of
coordinated omission: through Myxo by each of several policies, and through HAProxy and Envoy by
theirs. Then one of them takes ten times as long, from one moment to the next, and then as long as
before. At last one instance is killed: its successor is new to everybody.

A second network has one service with as many instances as the seed's benchmark had.
"""

import os
import secrets
import signal
import tempfile
import time
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import ExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random
from typing import Any

import trio

from bench import delayed
from bench.balancers import BALANCERS
from bench.command import Report, run
from bench.delayed import Delayed
from bench.load import answered, open_loop
from bench.machine import memory_mib
from bench.network import Network, network, open_registrar
from bench.registrar import Registrar
from bench.stats import quantile, table
from overlay.balancing import PEAK_EWMA, Balancing
from overlay.names import ServiceName, service_name
from overlay.spec import ServiceSpec
from proxy.policies import Backend, policy_named

INSTANCES = 3
REQUESTS = 1500
RATE = 500.0
FAST_S, SLOW_S = 0.005, 0.05
CONNECTIONS = 200
"""More than are ever busy, so that the client is no part of what is measured."""

KNOWN_S = 1.0
"""Of load before anything is measured."""

RECOVERED = 0.8
"""Of its fair share, at which a backend counts as back."""

LOOK_S = 1.0
"""How long a window is in which shares are looked at on the way back."""

LOOK_OFTEN_S = 0.005
"""Between two looks at files that tell of nothing by themselves."""

READY_TIMEOUT_S = 180.0
POLL_S = 0.1
PICKS = 20_000
SIZES = (1, 10, 250)


@dataclass(frozen=True, slots=True)
class Plan:
    """How much to measure.

    Attributes:
        policies: of Myxo.
        balancers: that these are compared with.
        slow_s: seconds of load with one slow backend.
        recovery_s: seconds within which it should be back.
        many: instances of the large service.
        many_each: requests for each of them.
    """

    policies: Sequence[str]
    balancers: Sequence[str]
    slow_s: float
    recovery_s: float
    many: int
    many_each: int


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
    many=250,
    many_each=80,
)
QUICK = Plan(
    (PEAK_EWMA, "round_robin"),
    ("envoy least_request", "haproxy leastconn"),
    slow_s=3.0,
    recovery_s=15.0,
    many=30,
    many_each=40,
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
        flags = ("--allocator-flag", f"--max-instances={plan.many + INSTANCES + 1}")
        with network("process", *flags) as running:
            found = trio.run(_with_myxo, running, folder, plan)
            many = trio.run(_with_many, running, folder, plan)
        for balancer in plan.balancers:
            serve = BALANCERS[balancer]
            with ExitStack() as stack:
                backends = stack.enter_context(delayed.backends(folder, [FAST_S] * INSTANCES))
                url = stack.enter_context(serve([b.port for b in backends]))
                found[balancer] = spread_and_slowed(url, backends, plan)
    return _report(found, many, selection_us())


async def _with_myxo(running: Network, folder: Path, plan: Plan) -> dict[str, Found]:
    found: dict[str, Found] = {}
    async with open_registrar(running) as registrar:
        for policy in plan.policies:
            async with _service(running, registrar, folder, policy, INSTANCES) as (name, backends):
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
    _load(url, KNOWN_S)
    before = [b.count for b in backends]
    p99_s = quantile(_load(url, REQUESTS / RATE), 0.99)
    counts = [b.count - n for b, n in zip(backends, before, strict=True)]
    slow, before_slow = backends[0], backends[0].count
    slow.take(SLOW_S)
    slowed = _load(url, plan.slow_s)
    share = (slow.count - before_slow) / len(slowed)
    slow.take(FAST_S)
    return Found(share_deviation(counts), p99_s, quantile(slowed, 0.99), share)


def share_deviation(counts: Sequence[int]) -> float:
    """Return how far the share that is farthest from a fair one is from it, relative to that."""
    fair = sum(counts) / len(counts)
    return max(abs(count - fair) for count in counts) / fair


async def _recovery(url: str, backends: Sequence[Delayed], plan: Plan) -> float | None:
    """Return the seconds until the backend that was slow has its share again."""
    began, slow = time.monotonic(), backends[0]
    while (passed := time.monotonic() - began) < plan.recovery_s:
        before = slow.count
        sent = await trio.to_thread.run_sync(_load, url, LOOK_S)
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


def _load(url: str, seconds: float) -> list[float]:
    sent = open_loop(url, rate=RATE, duration_s=seconds, connections=CONNECTIONS)
    return answered(sent, url)


def _load_anyhow(url: str, seconds: float) -> None:
    open_loop(url, rate=RATE, duration_s=seconds, connections=CONNECTIONS)


@asynccontextmanager
async def _service(
    running: Network, registrar: Registrar, folder: Path, policy: str, count: int
) -> AsyncIterator[tuple[ServiceName, list[Delayed]]]:
    """Keep a service with so many instances for the length of a block; yield it when all are."""
    name = service_name(f"fair-{secrets.token_hex(3)}")
    spec = ServiceSpec(
        process=delayed.command(folder, FAST_S),
        min_instances=count,
        idle_pause_s=0,
        policy=Balancing(name=policy),
    )
    await registrar.add(name, spec)
    ports = [int(a.rpartition(":")[2]) for a in await _until_ready(running, name, count)]
    yield name, [Delayed(folder, port) for port in ports]
    await registrar.delete(name)
    await _until_ready(running, name, 0)


async def _until_ready(running: Network, name: ServiceName, count: int) -> list[str]:
    """Return where the instances of a service listen once there are so many."""
    with trio.fail_after(READY_TIMEOUT_S):
        while len(where := await running.addresses(name)) != count:  # noqa: ASYNC110  (it is asked)
            await trio.sleep(POLL_S)
    return where


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


async def _with_many(running: Network, folder: Path, plan: Plan) -> Many:
    proxy = (await running.processes())["proxy"]
    async with open_registrar(running) as registrar:
        began = time.monotonic()
        async with _service(running, registrar, folder, PEAK_EWMA, plan.many) as (name, backends):
            started_s = time.monotonic() - began
            idle_mib = memory_mib(proxy)["pss"]
            await trio.to_thread.run_sync(_load, running.url(name, "/"), plan.many * 4 / RATE)
            before = [b.count for b in backends]
            seconds = plan.many * plan.many_each / RATE
            await trio.to_thread.run_sync(_load, running.url(name, "/"), seconds)
            counts = [b.count - n for b, n in zip(backends, before, strict=True)]
            grown = (memory_mib(proxy)["pss"] - idle_mib) * 2**20
    reached = sum(bool(count) for count in counts)
    return Many(plan.many, started_s, reached, share_deviation(counts), grown / plan.many)


def selection_us() -> dict[int, float]:
    """Return what one choice by the default policy takes, in microseconds, by their number."""
    taken: dict[int, float] = {}
    for size in SIZES:
        among = tuple(Backend(f"b{n}") for n in range(size))
        policy = policy_named(PEAK_EWMA, Random(1))  # noqa: S311  (draws, and hides nothing)
        began = time.perf_counter()
        for _ in range(PICKS):
            policy.pick(among, 0.0)
        taken[size] = (time.perf_counter() - began) / PICKS * 1e6
    return taken


def _report(found: Mapping[str, Found], many: Many, chosen_us: Mapping[int, float]) -> Report:
    default = found[f"myxo {PEAK_EWMA}"]
    figures: dict[str, Any] = {
        "max_share_deviation": default.deviation,
        "p99_ratio_one_slow": default.slow_p99_s / default.p99_s,
        "recovery_s": default.recovery_s,
        "new_share_first_s": default.new_share,
        "instances": many.instances,
        "instances_reached": many.reached,
        "many_share_deviation": many.deviation,
        "many_pool_bytes": many.pool_bytes,
    }
    figures |= {f"select_us_{size}": us for size, us in chosen_us.items()}
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
    text += f"\n\nA new instance got {new} of a fair share in its first second.\n\n"
    text += table(
        ["instances", "ready after, s", "reached", "share off by", "proxy's memory each, KiB"],
        [
            [
                str(many.instances),
                f"{many.started_s:.1f}",
                str(many.reached),
                f"{many.deviation:.1%}",
                f"{many.pool_bytes / 1024:.1f}",
            ]
        ],
    )
    picks = ", ".join(f"{us:.1f} µs among {size}" for size, us in chosen_us.items())
    return Report(figures, f"{text}\n\nOne choice: {picks}.")


def _row(one: Found) -> Iterator[str]:
    yield f"{one.deviation:.1%}"
    yield f"{one.p99_s * 1000:.1f}"
    yield f"{one.slow_p99_s * 1000:.1f}"
    yield f"{one.slow_p99_s / one.p99_s:.2f}"
    yield f"{one.slow_share:.1%}"
    yield "" if one.recovery_s is None else f"{one.recovery_s:.0f}"


if __name__ == "__main__":
    run("fairness", "How evenly requests are spread, and around a slow backend.", measure)
