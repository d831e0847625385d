"""A request for a service that runs nowhere, beside a bare container start.

Bare is what nobody can do without: the Docker SDK creates and starts a container with the options
that Myxo uses (taken from the allocator itself, the bridge network among them), then the first byte
of an answer by a connect attempt each millisecond. Myxo is the same first byte of a plain request
to the proxy. Both are asked in turn in one run, with the image present, and nothing else is being
started or removed meanwhile. Every cold request is for a name that never ran before, and its
Server-Timing must name the phase `start`, which only a request that waited for one has.
"""

import secrets
import select
import socket
import sys
import time
from collections.abc import Sequence
from functools import partial
from statistics import median
from typing import Any

import docker
import trio

from allocator.containers import (
    Ownership,
    address_of,
    container_config,
    container_name,
    host_config,
)
from allocator.runtime import Launch
from bench import backend
from bench.client import OK, TIMEOUT_S, Answer, AnswerFailed, ask, request
from bench.command import Report, run
from bench.network import Network, network, open_registrar
from bench.registrar import Registrar
from bench.stats import quantile, spread, table
from overlay.names import InstanceId, PeerId, ServiceName, service_name
from overlay.spec import ServiceSpec

STARTS, STARTS_QUICK = 200, 50
BUDGET_S, BUDGET_QUICK_S = 1800.0, 33.0
"""On a machine that is busy with other things there are fewer starts than planned."""

WARM_UP = 2
ALLOWED_FAILURES = 0.1
"""Share of the requests; they are reported beside the figures."""

CONCURRENT = 50
GONE_TIMEOUT_S = 20.0
GONE_STEP_S = 0.02

_LABEL = "myxo.service"


class Bare:
    """Containers started by the SDK alone, one after the other.

    Args:
        client: of the engine.
        spec: what is run; the same as Myxo runs.
    """

    def __init__(self, client: docker.APIClient, spec: ServiceSpec) -> None:
        self._client = client
        self._spec = spec
        self._ownership = Ownership("bench", PeerId(f"bench-{secrets.token_hex(4)}"))
        self._name = ""

    def start(self) -> float:
        """Start one; return the seconds to the first byte of its answer."""
        launch = Launch(
            id=InstanceId(secrets.token_hex(6)),
            service=ServiceName("bench-bare"),
            revision=1,
            author=self._ownership.owner,
            spec=self._spec,
            proxy_port=4200,
        )
        self._name = container_name(launch.service, launch.id)
        began = time.perf_counter()
        config = container_config(launch, self._ownership, "127.0.0.1")
        limits = self._client.create_host_config(**host_config(self._spec))
        self._client.create_container(**config, host_config=limits)
        self._client.start(self._name)
        address = address_of(self._client.inspect_container(self._name))
        return ask(f"http://{address}:{self._spec.port}/", began=began).first_byte_s

    def remove(self) -> None:
        """Remove the one that was started last."""
        self._client.remove_container(self._name, force=True, v=True)


def measure(quick: bool) -> Report:
    """Return all figures of this benchmark.

    Raises:
        NoEngine, AnswerFailed, NetworkFailed: it could not be measured.
    """
    client = backend.engine()
    spec = ServiceSpec(image=backend.image(client), port=backend.PORT)
    with network("docker") as running:
        starts, budget_s = (STARTS_QUICK, BUDGET_QUICK_S) if quick else (STARTS, BUDGET_S)
        return trio.run(_measure, running, client, spec, starts, budget_s)


async def _measure(
    running: Network, client: docker.APIClient, spec: ServiceSpec, starts: int, budget_s: float
) -> Report:
    prefix = f"bench-{secrets.token_hex(3)}"
    names = [service_name(f"{prefix}-{i}") for i in range(starts + WARM_UP)]
    crowd = service_name(f"{prefix}-crowd")
    async with open_registrar(running) as registrar:
        for name in [*names, crowd]:
            await registrar.add(name, spec)
        end = trio.current_time() + budget_s
        bare, myxo, failed = await _alternate(
            running, registrar, client, Bare(client, spec), names, end
        )
        answered, created = await _crowd(running, client, crowd)
        await registrar.delete(crowd)
        await _until_gone(client, crowd)
    return _report(bare, myxo, failed, answered, created)


async def _alternate(
    running: Network,
    registrar: Registrar,
    client: docker.APIClient,
    bare: Bare,
    names: Sequence[ServiceName],
    end: float,
) -> tuple[list[float], list[Answer], int]:
    """Start each of `names` once and a bare container beside it, taking turns at going first.

    It stops at `end`, by trio's clock, once there are enough for a figure.
    """
    bares: list[float] = []
    answers: list[Answer] = []
    failed: list[Answer] = []
    for i, name in enumerate(names):
        if trio.current_time() > end and i > 2 * WARM_UP:
            break
        if i % 2:
            bares.append(await trio.to_thread.run_sync(bare.start))
        answer = await trio.to_thread.run_sync(ask, running.url(name))
        if answer.status == OK and "start" in answer.server_timing:
            answers.append(answer)
        else:
            failed.append(answer)
        if not i % 2:
            bares.append(await trio.to_thread.run_sync(bare.start))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.to_thread.run_sync, bare.remove)
            await registrar.delete(name)
            await _until_gone(client, name)
    if len(failed) > ALLOWED_FAILURES * len(bares):
        raise AnswerFailed(f"{len(failed)} of {len(bares)} were not cold starts: {failed[-1]}")
    for answer in failed:
        print(f"not a cold start: {answer}", file=sys.stderr)
    return bares[WARM_UP:], answers[WARM_UP:], len(failed)


async def _until_gone(client: docker.APIClient, name: ServiceName) -> None:
    look = partial(client.containers, all=True, filters={"label": f"{_LABEL}={name}"})
    deadline = trio.current_time() + GONE_TIMEOUT_S
    while await trio.to_thread.run_sync(look):
        if trio.current_time() > deadline:
            raise AnswerFailed(f"{name} was deleted, and its container is still there")
        await trio.sleep(GONE_STEP_S)


async def _crowd(running: Network, client: docker.APIClient, name: ServiceName) -> tuple[int, int]:
    """Ask `CONCURRENT` times at once; return how many were answered 200, and containers made."""
    began = int(time.time())
    answered = await trio.to_thread.run_sync(_ask_at_once, running.url(name))
    return answered, await trio.to_thread.run_sync(_created_since, client, name, began)


def _ask_at_once(url: str) -> int:
    host, _, port = url.removeprefix("http://").partition("/")[0].partition(":")
    sockets = [socket.create_connection((host, int(port)), TIMEOUT_S) for _ in range(CONCURRENT)]
    for sock in sockets:
        sock.sendall(request(url))
    return sum(_is_answered(sock) for sock in sockets)


def _is_answered(sock: socket.socket) -> bool:
    with sock:
        readable, _, _ = select.select([sock], [], [], TIMEOUT_S)
        return bool(readable) and sock.recv(4096).startswith(b"HTTP/1.1 200")


def _created_since(client: docker.APIClient, name: ServiceName, since: int) -> int:
    filters = {"type": "container", "event": "create", "label": f"{_LABEL}={name}"}
    found: Any = client.events(
        since=since - 1, until=int(time.time()) + 1, filters=filters, decode=True
    )
    return sum(1 for _ in found)


def _report(
    bare: list[float], myxo: list[Answer], failed: int, answered: int, created: int
) -> Report:
    first = [answer.first_byte_s for answer in myxo]
    ratios = {p: quantile(first, p) / quantile(bare, p) for p in (0.5, 0.99)}
    phases = {
        phase: median(a.server_timing[phase] for a in myxo) for phase in myxo[0].server_timing
    }
    tail = f"p99 of {len(bare)}" if len(bare) >= 100 else f"maximum of {len(bare)}"
    rows = [
        [what, spread([s * 1000 for s in samples]).text(0), f"{quantile(samples, 0.99) * 1000:.0f}"]
        for what, samples in (("bare SDK start", bare), ("cold request through Myxo", first))
    ]
    rows.append(["ratio", f"{ratios[0.5]:.2f}", f"{ratios[0.99]:.2f}"])
    shown = ", ".join(f"{phase} {s * 1000:.1f}" for phase, s in phases.items())
    crowd = f"{created} container started, {CONCURRENT - answered} not answered"
    text = "\n".join(
        [
            table(["to the first byte, ms", "median (min–max)", tail], rows),
            f"\nmedian of each phase that Server-Timing names, ms: {shown}",
            f"{failed} further cold requests were not answered by a start",
            f"{CONCURRENT} cold requests at once: {crowd}",
        ]
    )
    figures = {
        "cold_ratio_p50": ratios[0.5],
        "cold_ratio_p99": ratios[0.99],
        "starts_for_50_concurrent": created,
        "failed_of_50_concurrent": CONCURRENT - answered,
        "starts": len(myxo),
        "failed_starts": failed,
        "bare_p50_ms": quantile(bare, 0.5) * 1000,
        "bare_p99_ms": quantile(bare, 0.99) * 1000,
        "cold_p50_ms": quantile(first, 0.5) * 1000,
        "cold_p99_ms": quantile(first, 0.99) * 1000,
        "phases_ms": {phase: s * 1000 for phase, s in phases.items()},
    }
    return Report(figures, text)


if __name__ == "__main__":
    run("cold", "A cold request beside a bare container start.", measure)
