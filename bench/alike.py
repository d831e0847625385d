"""A service whose instances are alike, and the load that shows how they are asked."""

import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import trio

from bench import delayed
from bench.delayed import Delayed
from bench.network import Network
from bench.open_load import answered, open_loop
from bench.registrar import Registrar
from overlay.balancing import Balancing
from overlay.names import ServiceName, service_name
from overlay.spec import ServiceSpec

RATE = 500.0
FAST_S = 0.005
CONNECTIONS = 200
"""More than are ever busy, so that the client is no part of what is measured."""

READY_TIMEOUT_S = 180.0
_POLL_S = 0.1


@asynccontextmanager
async def service(
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
    ports = [int(a.rpartition(":")[2]) for a in await until_ready(running, name, count)]
    yield name, [Delayed(folder, port) for port in ports]
    await registrar.delete(name)
    await until_ready(running, name, 0)


async def until_ready(running: Network, name: ServiceName, count: int) -> list[str]:
    """Return where the instances of a service listen once there are so many."""
    with trio.fail_after(READY_TIMEOUT_S):
        while len(where := await running.addresses(name)) != count:  # noqa: ASYNC110  (it is asked)
            await trio.sleep(_POLL_S)
    return where


def load(url: str, seconds: float) -> list[float]:
    """Send requests at the fixed rate; return their latencies.

    Raises:
        AnswerFailed: one of them failed.
    """
    sent = open_loop(url, rate=RATE, duration_s=seconds, connections=CONNECTIONS)
    return answered(sent, url)
