"""What the proxy costs on the way to a service that runs, beside Envoy as the same hop.

One backend, an instance that Myxo started, is asked directly, through Myxo and through Envoy, in
interleaved blocks: latency at concurrency 1 by a paced client on one kept connection, requests a
second by wrk at concurrency 32. What a hop adds is taken within each round, quantile of the hop
minus the same quantile of direct; the figure is the median of the rounds.
"""

import secrets
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from statistics import median
from typing import Any

import trio

from bench import backend
from bench.client import AnswerFailed, ask_until_ok, latencies, requests_per_second
from bench.command import Report, run
from bench.envoy import envoy
from bench.machine import cpu_s
from bench.network import Network, network, open_registrar
from bench.stats import quantile, spread, table
from overlay.names import ServiceName, service_name
from overlay.spec import ServiceSpec

RATE = 500.0
CONNECTIONS = 32
HOPS = ("direct", "myxo", "envoy")
PARTS = (0.5, 0.99)


@dataclass(frozen=True, slots=True)
class Plan:
    """How long to measure: rounds of one block for each hop, seconds a block.

    Attributes:
        block_s: of the paced client.
        load_s: of wrk, which takes whole seconds.
    """

    rounds: int
    block_s: float
    load_s: float
    settle_s: float


FULL = Plan(rounds=7, block_s=5.0, load_s=5.0, settle_s=1.0)
QUICK = Plan(rounds=5, block_s=0.6, load_s=1.0, settle_s=0.3)

Rounds = Mapping[str, Sequence[float]]
"""A figure of each round, by hop."""


def _by_hop() -> dict[str, list[float]]:
    return {hop: [] for hop in HOPS}


@dataclass(frozen=True, slots=True)
class Found:
    """What was measured, round by round and by hop.

    Attributes:
        latency_s: by quantile, in seconds, at concurrency 1.
        rate: requests a second at concurrency `CONNECTIONS`.
        cpu_us: microseconds of processor time that the proxy used for each of those requests.
    """

    latency_s: dict[float, dict[str, list[float]]] = field(
        default_factory=lambda: {p: _by_hop() for p in PARTS}
    )
    rate: dict[str, list[float]] = field(default_factory=_by_hop)
    cpu_us: dict[str, list[float]] = field(default_factory=_by_hop)


def measure(quick: bool) -> Report:
    """Return all figures of this benchmark.

    Raises:
        AnswerFailed, HopMissing, NetworkFailed: it could not be measured.
    """
    runtime, spec = _service()
    with ExitStack() as stack:
        running = stack.enter_context(network(runtime))
        name = service_name(f"bench-{secrets.token_hex(3)}")
        host, port = trio.run(_allocate, running, name, spec)
        envoy_url, envoy_pid = stack.enter_context(envoy(host, port))
        urls = {
            "direct": f"http://{host}:{port}/",
            "myxo": running.url(name, "/"),
            "envoy": envoy_url,
        }
        pids = {"myxo": trio.run(running.processes)["proxy"], "envoy": envoy_pid}
        return _report(runtime, _interleave(urls, pids, QUICK if quick else FULL))


def _service() -> tuple[str, ServiceSpec]:
    """Return the runtime to use and the service: Docker if an engine answers, else a process."""
    try:
        return "docker", ServiceSpec(image=backend.image(backend.engine()), port=backend.PORT)
    except backend.NoEngine:
        return "process", ServiceSpec(process=f"exec {backend.program()} $SERVICE_PORT")


async def _allocate(running: Network, name: ServiceName, spec: ServiceSpec) -> tuple[str, int]:
    """Have Myxo start the service; return where its instance listens."""
    async with open_registrar(running) as registrar:
        await registrar.add(name, spec)
        await trio.to_thread.run_sync(ask_until_ok, running.url(name))
        return instance_address(await running.status())


def instance_address(daemons: Sequence[Mapping[str, Any]]) -> tuple[str, int]:
    """Return host and port of the one instance that the allocator says it has.

    Raises:
        AnswerFailed: it has none.
    """
    for daemon in daemons:
        for instance in daemon.get("own_instances", ()):
            if instance.get("address"):
                host, _, port = str(instance["address"]).rpartition(":")
                return host, int(port)
    raise AnswerFailed("no daemon says where the instance listens")


def _interleave(urls: Mapping[str, str], pids: Mapping[str, int], plan: Plan) -> Found:
    found = Found()
    for url in urls.values():
        latencies(url, rate=RATE, duration_s=plan.settle_s)
    for turn in range(plan.rounds):
        for hop in _rotated(turn):
            samples = latencies(urls[hop], rate=RATE, duration_s=plan.block_s)
            for p in PARTS:
                found.latency_s[p][hop].append(quantile(samples, p))
        for hop in _rotated(turn):
            _load(found, hop, urls[hop], pids.get(hop), plan.load_s)
    return found


def _load(found: Found, hop: str, url: str, pid: int | None, duration_s: float) -> None:
    """Take one block of requests a second, and what each costs the hop's processor."""
    before = 0.0 if pid is None else cpu_s(pid)
    rate = requests_per_second(url, connections=CONNECTIONS, duration_s=duration_s)
    found.rate[hop].append(rate)
    if pid is not None:
        found.cpu_us[hop].append((cpu_s(pid) - before) / (rate * duration_s) * 1e6)


def _rotated(turn: int) -> tuple[str, ...]:
    """Return the hops, another one first each time."""
    first = turn % len(HOPS)
    return HOPS[first:] + HOPS[:first]


def added(rounds: Rounds, hop: str) -> list[float]:
    """Return what `hop` adds to direct, round by round."""
    return [with_hop - bare for with_hop, bare in zip(rounds[hop], rounds["direct"], strict=True)]


def _report(runtime: str, found: Found) -> Report:
    more = {
        hop: {p: [s * 1000 for s in added(found.latency_s[p], hop)] for p in PARTS}
        for hop in HOPS[1:]
    }
    figures: dict[str, Any] = {
        "added_p50_ms": median(more["myxo"][0.5]),
        "added_p99_ms": median(more["myxo"][0.99]),
        "added_p50_ratio_envoy": median(more["myxo"][0.5]) / median(more["envoy"][0.5]),
        "rps_ratio_envoy": median(found.rate["myxo"]) / median(found.rate["envoy"]),
        "added_p50_ms_envoy": median(more["envoy"][0.5]),
        "added_p99_ms_envoy": median(more["envoy"][0.99]),
        "direct_p50_ms": median(found.latency_s[0.5]["direct"]) * 1000,
        "rps": {hop: median(found.rate[hop]) for hop in HOPS},
        "cpu_us_per_request": {hop: median(found.cpu_us[hop]) for hop in HOPS[1:]},
        "rounds": len(found.rate["myxo"]),
        "runtime": runtime,
    }
    columns = ["hop", "p50, ms", "added p50, ms", "added p99, ms", "requests/s", "CPU µs/request"]
    ratios = (
        f"\nMyxo ÷ Envoy: added p50 {figures['added_p50_ratio_envoy']:.2f}, "
        f"requests/s {figures['rps_ratio_envoy']:.2f} "
        f"(medians of {figures['rounds']} rounds, {runtime} runtime)"
    )
    return Report(figures, table(columns, [_row(found, more, hop) for hop in HOPS]) + "\n" + ratios)


def _row(found: Found, more: Mapping[str, Mapping[float, list[float]]], hop: str) -> list[str]:
    alone = spread([s * 1000 for s in found.latency_s[0.5][hop]]).text(3)
    plus = [spread(more[hop][p]).text(3) if hop in more else "" for p in PARTS]
    cpu = spread(found.cpu_us[hop]).text(0) if found.cpu_us[hop] else ""
    return [hop, alone, *plus, spread(found.rate[hop]).text(0), cpu]


if __name__ == "__main__":
    run("warm", "What the proxy adds to a warm request, beside Envoy.", measure)
