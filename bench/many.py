"""Two hundred services on one machine: what they cost the allocator, and how long the last takes.

Each is started by its first request, one after the other, and stays. Memory and processor time are
the allocator's own; those of the engine and its containers are not Myxo's to answer for.
"""

import secrets
from dataclasses import dataclass
from functools import partial
from statistics import median
from typing import Any

import docker
import trio

from bench import backend
from bench.client import OK, AnswerFailed, ask
from bench.command import Report, run
from bench.machine import cpu_s, memory_mib
from bench.network import Network, network, open_registrar
from bench.stats import table
from overlay.names import ServiceName, service_name
from overlay.spec import ServiceSpec

SERVICES, SERVICES_QUICK = 200, 20
LIMIT = 256
"""Instances that the allocator takes; its default is 128."""

NEAR = 10
"""The first and the last so many starts are compared."""

REST_S, REST_QUICK_S = 20.0, 3.0
BUDGET_S, BUDGET_QUICK_S = 300.0, 20.0
GONE_TIMEOUT_S = 120.0
_LABEL = "myxo.service"


@dataclass(slots=True)
class Held:
    """What the allocator holds, in MiB, and its processor seconds a second at rest."""

    pss: float
    rss: float
    cpu: float


def measure(quick: bool) -> Report:
    """Return all figures of this benchmark.

    Raises:
        NoEngine, AnswerFailed, NetworkFailed: it could not be measured.
    """
    client = backend.engine()
    spec = ServiceSpec(image=backend.image(client), port=backend.PORT, idle_pause_s=0)
    flags = ("--allocator-flag", f"--max-instances={LIMIT}")
    with network("docker", *flags) as running:
        return trio.run(_measure, running, client, spec, quick)


async def _measure(
    running: Network, client: docker.APIClient, spec: ServiceSpec, quick: bool
) -> Report:
    prefix = f"bench-{secrets.token_hex(3)}"
    count = SERVICES_QUICK if quick else SERVICES
    rest_s, budget_s = (REST_QUICK_S, BUDGET_QUICK_S) if quick else (REST_S, BUDGET_S)
    names = [service_name(f"{prefix}-{n}") for n in range(count)]
    pid = (await running.processes())["allocator"]
    async with open_registrar(running) as registrar:
        for name in names:
            await registrar.add(name, spec)
        empty = await _held(pid, rest_s)
        took = await _started(running, names, budget_s)
        full = await _held(pid, rest_s)
        for name in names:
            await registrar.delete(name)
        await _until_gone(client, prefix)
    return report(took, empty, full)


async def _started(running: Network, names: list[ServiceName], budget_s: float) -> list[float]:
    """Ask for each service once; return the seconds of each; fewer if time is up."""
    found: list[float] = []
    end = trio.current_time() + budget_s
    for name in names:
        answer = await trio.to_thread.run_sync(ask, running.url(name))
        if answer.status != OK:
            raise AnswerFailed(f"after {len(found)} services: {answer.status}: {answer.text}")
        found.append(answer.first_byte_s)
        if trio.current_time() > end:
            break
    return found


async def _held(pid: int, seconds: float) -> Held:
    before = cpu_s(pid)
    await trio.sleep(seconds)
    memory = memory_mib(pid)
    return Held(memory["pss"], memory["rss"], (cpu_s(pid) - before) / seconds)


async def _until_gone(client: docker.APIClient, prefix: str) -> None:
    look = partial(client.containers, all=True, filters={"label": _LABEL})
    deadline = trio.current_time() + GONE_TIMEOUT_S
    while any(c["Labels"][_LABEL].startswith(prefix) for c in await trio.to_thread.run_sync(look)):
        if trio.current_time() > deadline:
            raise AnswerFailed(f"deleted, and still there after {GONE_TIMEOUT_S:g} s")
        await trio.sleep(0.2)


def report(took: list[float], empty: Held, full: Held) -> Report:
    """Return the figures of so many starts."""
    first, last = median(took[:NEAR]), median(took[-NEAR:])
    figures: dict[str, Any] = {
        "services": len(took),
        "first_starts_s": first,
        "last_starts_s": last,
        "last_start_s": took[-1],
        "last_ratio_first": last / first,
        "allocator_pss_mib": full.pss,
        "allocator_rss_mib": full.rss,
        "kib_per_service": (full.pss - empty.pss) / len(took) * 1024,
        "cpu_at_rest": full.cpu,
        "cpu_at_rest_empty": empty.cpu,
    }
    rows = [
        [f"a start, s: median of the first and last {NEAR}", f"{first:.3f}", f"{last:.3f}"],
        ["the allocator's memory, MiB PSS", f"{empty.pss:.1f}", f"{full.pss:.1f}"],
        ["MiB RSS", f"{empty.rss:.1f}", f"{full.rss:.1f}"],
        ["its processors at rest", f"{empty.cpu:.4f}", f"{full.cpu:.4f}"],
    ]
    text = table(["services that run", "0", str(len(took))], rows)
    more = f"{figures['kib_per_service']:.0f} KiB a service; the last start took {took[-1]:.3f} s"
    return Report(figures, f"{text}\n\n{more}")


if __name__ == "__main__":
    run("many", "Two hundred services on one machine.", measure)
