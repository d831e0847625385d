"""Queue workers as services on Myxo: each is a service of its own, of one instance.

Where this machine is in a network it is used. Otherwise, and where an engine of its own is named
for the workers, a network is founded for the run, on free ports and with state in a temporary
folder, and ended with it.

the shares ─► a service each, signed and registered ─► a POST each to the local proxy, all at once
    ─► Myxo starts the workers ─► the figures of each ─► the services are deleted
"""

import secrets
import tempfile
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import trio

import myxo
from bench.errors import NetworkFailed
from bench.lab.errors import LabError
from bench.lab.queueing.figures import Figures
from bench.network import network
from bench.registrar import Registrar
from myxo.network import is_in_network
from myxo.services.proxy_address import proxy_address
from overlay.names import ServiceName, service_name
from overlay.node import open_node
from overlay.records import Role
from overlay.settings import NodeSettings, owner_key_path, read_joined_network, state_dir
from overlay.spec import Image, ServiceSpec

MOST_WORKERS = 64
"""Each is a service and an instance."""

ANSWER_TIMEOUT_S = 300.0
"""For a worker to be started and to serve its share: a million requests take seconds."""

LEAVE_S = 20.0
"""For the services to be deleted."""

COMMAND = 'exec "$SERVICE_PYTHON" -m bench.lab.queueing.worker'

Runtime = Literal["docker", "process"]


class RunFailed(LabError):
    """A worker could not be run, or did not answer."""


@dataclass(frozen=True, slots=True)
class Place:
    """A network in which workers run.

    Attributes:
        proxy: where it is asked.
        bootstraps: what it is joined through.
        psk: its passphrase; None of an open one.
        owner_key: the file of whose services the workers are.
    """

    proxy: str
    bootstraps: Sequence[str]
    psk: str | None
    owner_key: Path


@dataclass(frozen=True, slots=True)
class Answer:
    """What a worker said.

    Attributes:
        host: where it ran.
        figures: of its queue.
    """

    host: str
    figures: Figures


@contextmanager
def place(runtime: Runtime, *, own: bool) -> Iterator[Place]:
    """Yield the network that this machine is in, or one that lasts as long as the block.

    Args:
        runtime: of a network that is founded.
        own: found one in any case.

    Raises:
        RunFailed: it cannot be founded.
    """
    directory = state_dir()
    if not own and is_in_network(directory):
        yield _place(str(proxy_address()), directory, owner_key_path())
        return
    with _saying_so(), network(runtime) as founded:
        address, state = f"127.0.0.1:{founded.proxy_port}", founded.folder / "state"
        yield _place(address, state, founded.folder / "config" / "owner.key")


def _place(proxy: str, state: Path, owner_key: Path) -> Place:
    joined = read_joined_network(state)
    return Place(proxy, tuple(joined["bootstraps"]), joined.get("psk"), owner_key)


def spec_of(image: Image | None) -> ServiceSpec:
    """Return what a worker is: a container of an image without a way out, or a process."""
    if image is None:
        return ServiceSpec(process=COMMAND, concurrency=1, max_instances=1, idempotent=True)
    return ServiceSpec(
        image=image,
        concurrency=1,
        max_instances=1,
        idempotent=True,
        network="none",
        read_only=True,
        cap_drop_all=True,
    )


async def ask_workers(
    at: Place, spec: ServiceSpec, orders: Sequence[Mapping[str, Any]]
) -> list[Answer]:
    """Run a worker for each order, and return what they answer.

    Raises:
        RunFailed: no registry takes the services, or a worker does not answer in time.
        ServiceError: a worker cannot be started, or refuses; says why.
    """
    run = secrets.token_hex(4)
    names = [service_name(f"queue-worker-{run}-{n}") for n in range(1, len(orders) + 1)]
    answers: dict[ServiceName, Answer] = {}
    async with _registered(at, names, spec), trio.open_nursery() as nursery:
        for name, order in zip(names, orders, strict=True):
            nursery.start_soon(_ask, at, name, order, answers)
    return [answers[name] for name in names]


async def _ask(
    at: Place, name: ServiceName, order: Mapping[str, Any], answers: dict[ServiceName, Answer]
) -> None:
    try:
        said = await myxo.call(name, order, proxy=at.proxy, timeout=ANSWER_TIMEOUT_S)
        answers[name] = Answer(said["host"], Figures(**said["figures"]))
    except TimeoutError as exc:
        raise RunFailed(f"{name} did not answer within {ANSWER_TIMEOUT_S:g} s") from exc
    except (KeyError, TypeError) as exc:
        raise RunFailed(f"{name} answered something else than figures: {exc}") from exc


@asynccontextmanager
async def _registered(
    at: Place, names: Sequence[ServiceName], spec: ServiceSpec
) -> AsyncIterator[None]:
    """Have services in the registry for the length of a block."""
    added: list[ServiceName] = []
    async with _registrar(at) as registrar:
        try:
            with _saying_so():
                for name in names:
                    await registrar.add(name, spec)
                    added.append(name)
            yield
        finally:
            with trio.move_on_after(LEAVE_S, shield=True), _saying_so():
                for name in added:
                    await registrar.delete(name)


@contextmanager
def _saying_so() -> Iterator[None]:
    try:
        yield
    except NetworkFailed as exc:
        raise RunFailed(str(exc)) from exc


@asynccontextmanager
async def _registrar(at: Place) -> AsyncIterator[Registrar]:
    with tempfile.TemporaryDirectory(prefix="myxo-queues-") as folder:
        settings = NodeSettings(
            bootstraps=tuple(at.bootstraps), psk=at.psk, state_dir=Path(folder), ephemeral=True
        )
        async with open_node(settings, Role.CLIENT) as node:
            yield Registrar(node, at.owner_key)
