"""A cold start on a machine that is full of a map's workers, and on the same one without any.

The service needs a core, and workers have them all: one of them has to end the chunk that it is at
and go. When the service is deleted again the map gets its worker back, before the next start.
"""

import tempfile
from collections.abc import Container
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import trio

from bench import backend
from bench.client import OK, AnswerFailed, ask
from bench.map.contender import contender
from bench.map.places import CORE_MILLICORES, beside, founded
from bench.network import Network, open_registrar
from bench.registrar import Registrar
from overlay.names import service_name
from overlay.spec import ServiceSpec

WARM_UP = 1
"""The first start finds nothing that is kept for the next."""

FULL_TIMEOUT_S = 60.0
LOOK_S = 0.02
WORKER = "map-"
"""What names of the services that are workers begin with."""


@dataclass(slots=True)
class ColdStarts:
    """First bytes of cold starts, in seconds.

    Attributes:
        alone: without any worker on the machine.
        beside_map: on the machine that a running map's workers fill.
        items: that the map computed meanwhile.
    """

    alone: list[float] = field(default_factory=list)
    beside_map: list[float] = field(default_factory=list)
    items: int = 0


def measured(workers: int, samples: int) -> ColdStarts:
    """Return so many cold starts of each kind.

    Args:
        workers: of the map, which are as many as the machine has room for.
        samples: of each kind.

    Raises:
        AnswerFailed, NetworkFailed: it could not be measured.
    """
    found = ColdStarts()
    with founded(workers) as running, tempfile.TemporaryDirectory(prefix="myxo-bench-") as name:
        folder = Path(name)
        found.alone = trio.run(_cold_starts, running, samples, "alone", 0)
        place = beside(running)
        with (
            contender("myxo", workers, folder, place.environment) as mapping,
            ThreadPoolExecutor(1) as thread,
        ):
            stop = folder / "stop"
            under_way = thread.submit(mapping.ask, "flow_until", stop=str(stop))
            try:
                found.beside_map = trio.run(_cold_starts, running, samples, "beside", workers)
            finally:
                stop.touch()
            found.items = int(under_way.result())
    return found


async def _cold_starts(running: Network, samples: int, label: str, workers: int) -> list[float]:
    """Start services one after the other, each once the machine has so many workers."""
    found: list[float] = []
    async with open_registrar(running) as registrar:
        for number in range(samples + WARM_UP):
            taken_s = await _cold_start(running, registrar, f"{label}-{number}", workers)
            if number >= WARM_UP:
                found.append(taken_s)
    return found


async def _cold_start(running: Network, registrar: Registrar, label: str, workers: int) -> float:
    name = service_name(label)
    command = f"exec {backend.program()} $SERVICE_PORT"
    await registrar.add(name, ServiceSpec(process=command, cpu_millicores=CORE_MILLICORES))
    await _until(running, WORKER, workers, {"ready"})
    answer = await trio.to_thread.run_sync(ask, running.url(name))
    if answer.status != OK or "start" not in answer.server_timing:
        raise AnswerFailed(f"{name} was not started: {answer}")
    await registrar.delete(name)
    await _until(running, name, 0)  # also none that drains, and has its room still
    return answer.first_byte_s


async def _until(
    running: Network, prefix: str, count: int, states: Container[str] | None = None
) -> None:
    """Return when there are so many instances, in these states, of services named so."""
    deadline = trio.current_time() + FULL_TIMEOUT_S
    while (found := await _counted(running, prefix, states)) != count:
        if trio.current_time() > deadline:
            raise AnswerFailed(f"there are {found} instances of {prefix}, not {count}")
        await trio.sleep(LOOK_S)


async def _counted(running: Network, prefix: str, states: Container[str] | None) -> int:
    return sum(
        states is None or instance["state"] in states
        for daemon in await running.status()
        for instance in daemon.get("own_instances", ())
        if instance["service"].startswith(prefix)
    )
