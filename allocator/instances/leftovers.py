"""What could not be removed while its engine was down, and goes when that is back."""

import trio

from allocator.errors import RuntimeDown
from allocator.instances.instance import Instance
from allocator.runtime import Runtime
from overlay.names import InstanceId

ENGINE_RETRY_S = 2.0
"""Between attempts to do what an engine that was down left undone."""


class Leftovers:
    """Instances that are to be removed; `run` does it."""

    def __init__(self) -> None:
        self._runtimes: dict[InstanceId, Runtime] = {}
        self._news = trio.Event()

    def keep(self, instance: Instance) -> None:
        """Take note of an instance that is still there and should not be."""
        self._runtimes[instance.id] = instance.runtime
        self._news.set()

    async def run(self) -> None:
        """Remove them until cancelled."""
        while True:
            await self._news.wait()
            self._news = trio.Event()
            for instance, runtime in list(self._runtimes.items()):
                try:
                    await runtime.remove(instance, grace_s=0)
                except RuntimeDown:
                    self._news.set()
                else:
                    del self._runtimes[instance]
            await trio.sleep(ENGINE_RETRY_S)
