"""What the proxy costs on the way to a service that runs, beside Envoy as the same hop.

One backend, an instance that Myxo started, is asked directly, through Myxo and through Envoy, in
interleaved blocks: latency at concurrency 1 by a paced client on one kept connection, requests a
second by wrk at concurrency 32. What a hop adds is taken within each round, quantile of the hop
minus the same quantile of direct; the figure is the median of the rounds.
"""

import secrets
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from statistics import median
from typing import Any

import trio

from bench import backend
from bench.client import AnswerFailed, ask, latencies, requests_per_second
from bench.command import Report, run
from bench.envoy import envoy
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
    """How long to measure: rounds of one block for each hop, seconds a block."""

    rounds: int
    block_s: float
    settle_s: float = 1.0


FULL = Plan(rounds=7, block_s=5.0)
QUICK = Plan(rounds=5, block_s=1.0, settle_s=0.5)

Rounds = Mapping[str, Sequence[float]]


def measure(quick: bool) -> Report:
    """Return all figures of this benchmark.

    Raises:
        AnswerFailed, EnvoyMissing, NetworkFailed: it could not be measured.
    """
    runtime, spec = _service()
    with ExitStack() as stack:
        running = stack.enter_context(network(runtime))
        name = service_name(f"bench-{secrets.token_hex(3)}")
        host, port = trio.run(_allocate, running, name, spec)
        urls = {
            "direct": f"http://{host}:{port}/",
            "myxo": running.url(name, "/"),
            "envoy": stack.enter_context(envoy(host, port)),
        }
        return _report(runtime, *_interleave(urls, QUICK if quick else FULL))


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
        answer = await trio.to_thread.run_sync(ask, running.url(name))
        if answer.status != 200:
            raise AnswerFailed(f"{name} was answered {answer.status}: {answer.text}")
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


def _interleave(
    urls: Mapping[str, str], plan: Plan
) -> tuple[dict[float, dict[str, list[float]]], dict[str, list[float]]]:
    """Return, by hop, each round's latency quantiles in seconds and its requests a second."""
    slow: dict[float, dict[str, list[float]]] = {p: {hop: [] for hop in HOPS} for p in PARTS}
    rates: dict[str, list[float]] = {hop: [] for hop in HOPS}
    for url in urls.values():
        latencies(url, rate=RATE, duration_s=plan.settle_s)
    for turn in range(plan.rounds):
        for hop in _rotated(turn):
            found = latencies(urls[hop], rate=RATE, duration_s=plan.block_s)
            for p in PARTS:
                slow[p][hop].append(quantile(found, p))
        for hop in _rotated(turn):
            rates[hop].append(
                requests_per_second(urls[hop], connections=CONNECTIONS, duration_s=plan.block_s)
            )
    return slow, rates


def _rotated(turn: int) -> tuple[str, ...]:
    """Return the hops, another one first each time."""
    first = turn % len(HOPS)
    return HOPS[first:] + HOPS[:first]


def added(rounds: Rounds, hop: str) -> list[float]:
    """Return what `hop` adds to direct, round by round."""
    return [with_hop - bare for with_hop, bare in zip(rounds[hop], rounds["direct"], strict=True)]


def _report(runtime: str, slow: Mapping[float, Rounds], rates: Rounds) -> Report:
    more: dict[str, dict[float, list[float]]] = {
        hop: {p: [s * 1000 for s in added(slow[p], hop)] for p in PARTS} for hop in HOPS[1:]
    }
    mid: Callable[[str, float], float] = lambda hop, p: median(more[hop][p])  # noqa: E731
    figures = {
        "added_p50_ms": mid("myxo", 0.5),
        "added_p99_ms": mid("myxo", 0.99),
        "added_p50_ratio_envoy": mid("myxo", 0.5) / mid("envoy", 0.5),
        "rps_ratio_envoy": median(rates["myxo"]) / median(rates["envoy"]),
        "added_p50_ms_envoy": mid("envoy", 0.5),
        "added_p99_ms_envoy": mid("envoy", 0.99),
        "direct_p50_ms": median(slow[0.5]["direct"]) * 1000,
        "rps": {hop: median(rates[hop]) for hop in HOPS},
        "rounds": len(rates["myxo"]),
        "runtime": runtime,
    }
    rows = []
    for hop in HOPS:
        alone = spread([s * 1000 for s in slow[0.5][hop]]).text(3)
        plus = [spread(more[hop][p]).text(3) if hop in more else "" for p in PARTS]
        rows.append([hop, alone, *plus, spread(rates[hop]).text(0)])
    columns = ["hop", "p50, ms", "added p50, ms", "added p99, ms", "requests/s"]
    ratios = (
        f"\nMyxo ÷ Envoy: added p50 {figures['added_p50_ratio_envoy']:.2f}, "
        f"requests/s {figures['rps_ratio_envoy']:.2f} "
        f"(medians of {figures['rounds']} rounds, {runtime} runtime)"
    )
    return Report(figures, table(columns, rows) + "\n" + ratios)


if __name__ == "__main__":
    run("warm", "What the proxy adds to a warm request, beside Envoy.", measure)
