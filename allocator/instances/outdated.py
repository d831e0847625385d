"""What a change of a service means for its instances, as soon as this machine hears of it.

Those of an earlier generation go, as do all when the service was deleted. Those that the new
revision takes over stay, and go by its numbers.
"""

from dataclasses import dataclass, field

import structlog
import trio

from allocator.instances.instances import Instances
from overlay.definitions import Definitions, LookupsBusy, RegistryUnreachable, UnknownService
from overlay.names import ServiceName

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Outdated:
    """Drains what is outdated, and adjusts the rest, while `run` runs.

    Attributes:
        instances: what runs here.
        definitions: what services there are.
    """

    instances: Instances
    definitions: Definitions
    _asked: set[ServiceName] = field(default_factory=set)

    async def run(self) -> None:
        """Follow the definitions until cancelled."""
        async with trio.open_nursery() as asking:
            while True:
                for service in self.instances.services():
                    newest = self.definitions.get(service)
                    if newest is not None and (spec := newest.revision.spec) is not None:
                        generation = newest.revision.generation
                        self.instances.drain_outdated(service, generation)
                        self.instances.adjust(service, generation, spec)
                    elif self.definitions.deleted(service):
                        self.instances.drain_outdated(service, None)
                    elif self.definitions.live and service not in self._asked:
                        self._asked.add(service)
                        asking.start_soon(self._drain_if_unknown, service)
                await self.definitions.changed()

    async def _drain_if_unknown(self, service: ServiceName) -> None:
        """Drain a service that a registry does not know; ours may only not be here yet."""
        try:
            while not await self._is_settled(service):
                pass
        finally:
            self._asked.discard(service)

    async def _is_settled(self, service: ServiceName) -> bool:
        try:
            await self.definitions.resolve(service, ask_again=True)
        except UnknownService:
            self.instances.drain_outdated(service, None)
        except LookupsBusy as exc:
            await trio.sleep(exc.retry_after_s)
            return False
        except RegistryUnreachable as exc:  # the next change asks again
            log.info("definition.unknown", service=service, error=str(exc))
        return True
