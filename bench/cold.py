"""A request for a service that runs nowhere, beside a bare container start and beside Swarm.

Bare is what nobody can do without (`bare.py`); Swarm is `service scale` 0 → 1 (`swarm.py`). Myxo is
the first byte of a plain request to the proxy. They are asked in turn in one run, with the image
present, and nothing else is being started or removed meanwhile. Every cold request is for a name
that never ran before, and its Server-Timing must name the phase `start`, which only a request that
waited for one has. At the end come fifty requests at once, and requests for what is paused
(`paused.py`).
"""

import secrets
import socket
import sys
import time
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from statistics import median
from typing import Any

import docker
import trio

from bench import backend, paused
from bench.bare import Bare
from bench.client import OK, TIMEOUT_S, Answer, AnswerFailed, ask
from bench.command import Report, run
from bench.crowd import Asked, ask_at_once
from bench.netlab.errors import LabFailed
from bench.network import Network, is_stocked, network, open_registrar
from bench.registrar import Registrar
from bench.stats import quantile, spread, table
from bench.swarm import Swarm, open_swarm
from overlay.names import ServiceName, service_name
from overlay.spec import ServiceSpec


@dataclass(frozen=True, slots=True)
class Plan:
    """How much is measured. On a machine that is busy with other things there are fewer samples.

    Attributes:
        starts: cold requests, each beside a bare start; for at most `starts_s` seconds.
        swarms: how many of those have one of Swarm's beside them, each `swarm_every`-th.
        paused: requests for what is paused; for at most `paused_s` seconds.
    """

    starts: int
    starts_s: float
    swarms: int
    swarm_every: int
    paused: int
    paused_s: float


FULL = Plan(starts=200, starts_s=330.0, swarms=15, swarm_every=13, paused=200, paused_s=90.0)
QUICK = Plan(starts=50, starts_s=14.0, swarms=3, swarm_every=3, paused=50, paused_s=6.0)

WARM_UP = 2
ALLOWED_FAILURES = 0.1
"""Share of the requests; they are reported beside the figures. Past it the run ends at once."""

CONCURRENT = 50
GONE_TIMEOUT_S = 20.0
GONE_STEP_S = 0.02
STOCKED_TIMEOUT_S = 20.0
STOCKED_STEP_S = 0.1

_LABEL = "myxo.service"


@dataclass(slots=True)
class Found:
    """What was found, in seconds; what is None could not be measured, `lacking` says why."""

    bare: list[float] = field(default_factory=list)
    cold: list[Answer] = field(default_factory=list)
    failed: list[Answer] = field(default_factory=list)
    swarm: list[float] = field(default_factory=list)
    paused: list[float] = field(default_factory=list)
    crowd_answered: int = 0
    crowd_created: int = 0
    lacking: list[str] = field(default_factory=list)


def measure(quick: bool) -> Report:
    """Return all figures of this benchmark.

    Raises:
        NoEngine, AnswerFailed, NetworkFailed: it could not be measured.
    """
    client = backend.engine()
    spec = ServiceSpec(image=backend.image(client), port=backend.PORT, idle_pause_s=0)
    found = Found()
    with ExitStack() as stack:
        running = stack.enter_context(network("docker"))
        try:
            swarm = stack.enter_context(open_swarm())
        except LabFailed as exc:
            swarm = None
            found.lacking.append(f"Swarm: {exc}")
        bench = _Bench(running, client, spec, swarm, found)
        trio.run(bench.run, QUICK if quick else FULL)
    return _report(found)


class _Bench:
    """One run.

    Args:
        running: the network.
        client: of the engine that it uses.
        spec: what is run.
        swarm: None if there is none.
        found: is filled.
    """

    def __init__(
        self,
        running: Network,
        client: docker.APIClient,
        spec: ServiceSpec,
        swarm: Swarm | None,
        found: Found,
    ) -> None:
        self._running = running
        self._client = client
        self._spec = spec
        self._swarm = swarm
        self._bare = Bare(client, spec)
        self._found = found
        self._prefix = f"bench-{secrets.token_hex(3)}"

    async def run(self, plan: Plan) -> None:
        """Measure everything."""
        async with open_registrar(self._running) as registrar:
            await self._alternate(registrar, plan)
            await self._crowd(registrar)
            await self._paused(registrar, plan)

    async def _paused(self, registrar: Registrar, plan: Plan) -> None:
        try:
            self._found.paused = await paused.first_bytes(
                self._running,
                registrar,
                self._client,
                self._spec,
                prefix=self._prefix,
                samples=plan.paused,
                budget_s=plan.paused_s,
            )
        except AnswerFailed as exc:
            self._found.lacking.append(f"what is paused: {exc}")

    async def _alternate(self, registrar: Registrar, plan: Plan) -> None:
        """Start each of some services once and a bare container beside it, in turn going first.

        It ends when time is up, once there are enough for a figure.
        """
        names = [service_name(f"{self._prefix}-{i}") for i in range(plan.starts + WARM_UP)]
        for name in names:
            await registrar.add(name, self._spec)
        end = trio.current_time() + plan.starts_s
        for i, name in enumerate(names):
            if trio.current_time() > end and i > 2 * WARM_UP:
                break
            await trio.to_thread.run_sync(self._bare.prepare)
            await _until_stocked(self._running)
            bare_s, answer = await self._pair(name, bare_first=bool(i % 2))
            if i >= WARM_UP:
                self._found.bare.append(bare_s)
                self._take(answer, plan)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(trio.to_thread.run_sync, self._bare.remove)
                await registrar.delete(name)
                await _until_gone(self._client, name)
            if i % plan.swarm_every == 0 and len(self._found.swarm) < plan.swarms:
                await self._scale()

    async def _scale(self) -> None:
        """Have Swarm start its service once."""
        if self._swarm is not None:
            self._found.swarm.append(await trio.to_thread.run_sync(self._swarm.start))
            await trio.to_thread.run_sync(self._swarm.remove)

    async def _pair(self, name: ServiceName, *, bare_first: bool) -> tuple[float, Answer]:
        """Return the seconds of a bare start, and the answer to a cold request."""
        cold = partial(ask, self._running.url(name))
        if bare_first:
            bare_s = await trio.to_thread.run_sync(self._bare.start)
            return bare_s, await trio.to_thread.run_sync(cold)
        answer = await trio.to_thread.run_sync(cold)
        return await trio.to_thread.run_sync(self._bare.start), answer

    def _take(self, answer: Answer, plan: Plan) -> None:
        if answer.status == OK and "start" in answer.server_timing:
            self._found.cold.append(answer)
            return
        print(f"not a cold start: {answer}", file=sys.stderr)
        self._found.failed.append(answer)
        if len(self._found.failed) > ALLOWED_FAILURES * plan.starts:
            raise AnswerFailed(f"{len(self._found.failed)} were not cold starts: {answer}")

    async def _crowd(self, registrar: Registrar) -> None:
        """Ask `CONCURRENT` times at once for one name."""
        name = service_name(f"{self._prefix}-crowd")
        await registrar.add(name, self._spec)
        began = int(time.time())
        found = self._found
        found.crowd_answered = await trio.to_thread.run_sync(_ask_at_once, self._running.url(name))
        found.crowd_created = await trio.to_thread.run_sync(
            _created_since, self._client, name, began
        )
        await registrar.delete(name)
        await _until_gone(self._client, name)


async def _until_stocked(running: Network) -> None:
    """Wait until the allocator has its sandboxes, so that both starts are in one."""
    deadline = trio.current_time() + STOCKED_TIMEOUT_S
    while not is_stocked(await running.status()):
        if trio.current_time() > deadline:
            raise AnswerFailed("the allocator has not filled its stock of sandboxes")
        await trio.sleep(STOCKED_STEP_S)


async def _until_gone(client: docker.APIClient, name: ServiceName) -> None:
    look = partial(client.containers, all=True, filters={"label": f"{_LABEL}={name}"})
    deadline = trio.current_time() + GONE_TIMEOUT_S
    while await trio.to_thread.run_sync(look):
        if trio.current_time() > deadline:
            raise AnswerFailed(f"{name} was deleted, and its container is still there")
        await trio.sleep(GONE_STEP_S)


def _ask_at_once(url: str) -> int:
    """Return how many of the requests were answered 200."""
    host, _, port = url.removeprefix("http://").partition("/")[0].partition(":")
    address = (host, int(port))
    crowd = [Asked(socket.create_connection(address, TIMEOUT_S), url) for _ in range(CONCURRENT)]
    ask_at_once(crowd, TIMEOUT_S)
    return sum(asked.ok for asked in crowd)


def _created_since(client: docker.APIClient, name: ServiceName, since: int) -> int:
    filters = {"type": "container", "event": "create", "label": f"{_LABEL}={name}"}
    found: Any = client.events(
        since=since - 1, until=int(time.time()) + 1, filters=filters, decode=True
    )
    return sum(1 for _ in found)


def _report(found: Found) -> Report:
    first = [answer.first_byte_s for answer in found.cold]
    ratios = {p: quantile(first, p) / quantile(found.bare, p) for p in (0.5, 0.99)}
    phases = {
        phase: median(a.server_timing[phase] for a in found.cold if phase in a.server_timing)
        for phase in found.cold[0].server_timing
    }
    figures: dict[str, Any] = {
        "cold_ratio_p50": ratios[0.5],
        "cold_ratio_p99": ratios[0.99],
        "swarm_ratio": median(first) / median(found.swarm) if found.swarm else None,
        "paused_p50_ms": _ms(found.paused, 0.5),
        "paused_p99_ms": _ms(found.paused, 0.99),
        "starts_for_50_concurrent": found.crowd_created,
        "failed_of_50_concurrent": CONCURRENT - found.crowd_answered,
        "starts": len(first),
        "failed_starts": len(found.failed),
        "swarm_starts": len(found.swarm),
        "paused_requests": len(found.paused),
        "bare_p50_ms": _ms(found.bare, 0.5),
        "bare_p99_ms": _ms(found.bare, 0.99),
        "cold_p50_ms": _ms(first, 0.5),
        "cold_p99_ms": _ms(first, 0.99),
        "phases_ms": {phase: s * 1000 for phase, s in phases.items()},
    }
    shown = ", ".join(f"{phase} {s * 1000:.1f}" for phase, s in phases.items())
    crowd = f"{found.crowd_created} container started, {CONCURRENT - found.crowd_answered} not"
    text = "\n".join(
        [
            _table(found, first, ratios),
            f"\nmedian of each phase that Server-Timing names, ms: {shown}",
            f"{len(found.failed)} further cold requests were not answered by a start",
            f"{CONCURRENT} cold requests at once: {crowd} answered",
            *(f"not measured: {lacking}" for lacking in found.lacking),
        ]
    )
    return Report(figures, text)


def _ms(samples: list[float], p: float) -> float | None:
    """Return a quantile in milliseconds; None of nothing."""
    return quantile(samples, p) * 1000 if samples else None


def _table(found: Found, first: list[float], ratios: dict[float, float]) -> str:
    kinds = {
        "bare SDK start": found.bare,
        "cold request through Myxo": first,
        "Swarm, `service scale` 0 → 1": found.swarm,
        "request for what Myxo has paused": found.paused,
    }
    rows = [
        [
            what,
            str(len(samples)),
            spread([s * 1000 for s in samples]).text(0),
            f"{quantile(samples, 0.99) * 1000:.0f}",
        ]
        for what, samples in kinds.items()
        if samples
    ]
    rows.append(["Myxo ÷ bare", "", f"{ratios[0.5]:.2f}", f"{ratios[0.99]:.2f}"])
    if found.swarm:
        rows.append(["Myxo ÷ Swarm", "", f"{median(first) / median(found.swarm):.2f}", ""])
    return table(["to the first byte, ms", "samples", "median (min–max)", "p99"], rows)


if __name__ == "__main__":
    run("cold", "A cold request beside a bare container start and Swarm's.", measure)
