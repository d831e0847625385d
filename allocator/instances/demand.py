"""What the load needs of each revision's instances: those that it does not need are told so."""

from collections.abc import Mapping

import trio

from allocator.instances.crashes import RevisionKey
from allocator.instances.instance import Instance
from allocator.instances.lifecycle import State
from allocator.instances.resting import Sibling, surplus
from allocator.instances.use import Use
from overlay.names import InstanceId

CHECK_S = 1.0
"""How often it is looked for instances that the load does not need; their peaks are of seconds."""


class Demand:
    """Marks instances as surplus while `run` runs.

    Args:
        instances: what is here; read at each look.
        use: what the load was.
    """

    def __init__(self, instances: Mapping[InstanceId, Instance], use: Use) -> None:
        self._instances = instances
        self._use = use

    def exceeds(self, instance: Instance) -> None:
        """Take in that one more instance of a revision is needed than are ready."""
        needed = len(self._ready(instance.key)) * instance.spec.concurrency + 1
        self._use.activity(instance).peak.needed(needed, trio.current_time())

    async def run(self) -> None:
        """Look now and then."""
        while True:
            await trio.sleep(CHECK_S)
            for key in {i.key for i in self._instances.values()}:
                self._look_at(self._ready(key))

    def _ready(self, key: RevisionKey) -> list[Instance]:
        return [
            i
            for i in self._instances.values()
            if i.key == key and i.state is State.READY and not i.unwanted
        ]

    def _look_at(self, ready: list[Instance]) -> None:
        if len(ready) < 2:  # noqa: PLR2004
            return
        peak = self._use.activity(ready[0]).peak.over(trio.current_time())
        siblings = [Sibling(i.id, i.load, i.started_at, i.kept) for i in ready]
        spare = surplus(siblings, ready[0].spec.concurrency, peak)
        if spare is not None and not self._instances[spare].surplus:
            self._instances[spare].surplus = True
            self._instances[spare].notify()
