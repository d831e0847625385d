"""What could not be removed: its engine was down, or an allocator that stops had no more time."""

import structlog
import trio

from allocator.errors import RuntimeDown
from allocator.instances.instance import Instance
from overlay.names import InstanceId

ENGINE_RETRY_S = 2.0
"""Between attempts to do what an engine that was down left undone."""

NAMED = 20
"""As many are named one by one."""

log = structlog.get_logger()


class Leftovers:
    """Instances that are to be removed; `run` does it."""

    def __init__(self) -> None:
        self._rest: dict[InstanceId, Instance] = {}
        self._news = trio.Event()

    def keep(self, instance: Instance) -> None:
        """Take note of an instance that is still there and should not be."""
        self._rest[instance.id] = instance
        self._news.set()

    async def run(self) -> None:
        """Remove them until cancelled."""
        while True:
            await self._news.wait()
            self._news = trio.Event()
            for instance in list(self._rest.values()):
                try:
                    await instance.runtime.remove(instance.id, grace_s=0)
                except RuntimeDown:
                    self._news.set()
                else:
                    del self._rest[instance.id]
            await trio.sleep(ENGINE_RETRY_S)

    def name(self) -> None:
        """Say what is left when the allocator ends."""
        if self._rest:
            named = [f"{i.service}/{i.id}" for i in self._rest.values()]
            log.warning(
                "instances.left_behind",
                count=len(named),
                instances=named[:NAMED],
                hint="the allocator's next start takes back what runs and removes the rest",
            )
