"""Instances of services that were changed or deleted go, as soon as this machine hears of it."""

from dataclasses import dataclass

import structlog
import trio

from allocator.instances import Instances
from overlay.definitions import Definitions, LookupsBusy, RegistryUnreachable, UnknownService
from overlay.names import ServiceName

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Outdated:
    """Drains what is outdated while `run` runs.

    Attributes:
        instances: what runs here.
        definitions: what services there are.
    """

    instances: Instances
    definitions: Definitions

    async def run(self) -> None:
        """Follow the definitions until cancelled."""
        async with trio.open_nursery() as asking:
            while True:
                for service in self.instances.services():
                    newest = self.definitions.get(service)
                    if newest is not None:
                        self.instances.drain_outdated(service, newest.revision.number)
                    elif self.definitions.live:
                        asking.start_soon(self._drain_if_deleted, service)
                await self.definitions.changed()

    async def _drain_if_deleted(self, service: ServiceName) -> None:
        """Drain a service that a registry does not know; ours may only not be here yet."""
        try:
            await self.definitions.resolve(service, ask_again=True)
        except UnknownService:
            self.instances.drain_outdated(service, None)
        except (RegistryUnreachable, LookupsBusy) as exc:
            log.info("definition.unknown", service=service, error=str(exc))
