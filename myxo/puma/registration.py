"""A program's services are in the registry for as long as the program runs."""

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager

import structlog
import trio

from myxo.mapping.owner import owner
from overlay.errors import MyxoError
from overlay.names import ServiceName
from overlay.spec import ServiceSpec
from registry.client import RegistryClient, next_revision, open_client
from registry.docker import Engine
from registry.image import stock_image
from registry.settings import CliSettings

LEAVE_S = 8.0
"""How long the end of a program may take to take its services back."""

log = structlog.get_logger()


@asynccontextmanager
async def registered(
    services: Mapping[ServiceName, ServiceSpec], settings: CliSettings
) -> AsyncIterator[None]:
    """Register services for the length of a block; those that were there already stay there.

    Raises:
        MyxoError: no registry takes them.
    """
    added: list[ServiceName] = []
    try:
        async with open_client(settings) as registry:
            for name, spec in services.items():
                if await _add(registry, name, spec):
                    added.append(name)
        yield
    finally:
        if added:
            with trio.move_on_after(LEAVE_S, shield=True):
                try:
                    await _remove(added, settings)
                except MyxoError as exc:  # the program ends all the same
                    log.warning("puma.services_left", services=added, reason=str(exc))


async def with_image(
    services: Mapping[ServiceName, ServiceSpec], image: str | None
) -> Mapping[ServiceName, ServiceSpec]:
    """Return services with the image that a name stands for on this machine's engine, if any.

    Raises:
        MyxoError: the engine neither has it nor can pull it, or none answers.
    """
    if image is None:
        return services
    found, _ = await stock_image(Engine(), image, lambda _: None)
    return {name: spec.model_copy(update={"image": found}) for name, spec in services.items()}


async def _add(registry: RegistryClient, name: ServiceName, spec: ServiceSpec) -> bool:
    """Register a service; return whether that was needed."""
    newest = await registry.get(name)
    if newest is not None and newest.revision.spec == spec:
        return False
    await registry.add(next_revision(owner(), name, newest, spec))
    return True


async def _remove(names: list[ServiceName], settings: CliSettings) -> None:
    async with open_client(settings) as registry:
        for name in names:
            newest = await registry.get(name)
            if newest is not None and newest.revision.spec is not None:
                await registry.add(next_revision(owner(), name, newest, None))
