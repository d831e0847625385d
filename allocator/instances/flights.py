"""The flights of a machine: one start or waking of a revision, however many wait for it.

A flight belongs to the instance that it makes ready, so that there is no second table that could
disagree with the first. Several of one revision may be under way at once: who cannot use what is
being woken has another one started.
"""

from collections.abc import Collection, Mapping

from allocator.errors import LaunchFailed
from allocator.instances.crashes import RevisionKey
from allocator.instances.instance import Instance
from allocator.instances.lifecycle import RESTING, State
from allocator.rules.turns import Turns
from overlay.names import InstanceId
from overlay.signed import Signed


class Flights:
    """Finds what could be waited for, and waits.

    Args:
        instances: what is here; read at each call.
        turns: where starts wait that have not begun.
    """

    def __init__(self, instances: Mapping[InstanceId, Instance], turns: Turns) -> None:
        self._instances = instances
        self._turns = turns

    def ready(self, key: RevisionKey, exclude: Collection[str]) -> Instance | None:
        """Return the ready instance with the most room, if one has any."""
        usable = [
            i
            for i in self._of(key)
            if i.state is State.READY and i.id not in exclude and i.load < i.spec.concurrency
        ]
        return min(usable, key=lambda i: i.load, default=None)

    def under_way(self, key: RevisionKey, exclude: Collection[str]) -> Instance | None:
        """Return an instance whose flight may be joined: one that is woken, else one that starts.

        A start is joined also by who excludes it: nobody can have been disappointed by it yet.
        """
        found = [
            (i, i.flight)
            for i in self._of(key)
            if i.flight is not None and i.wanted and not (i.flight.wakes and i.id in exclude)
        ]
        return max(found, key=lambda f: f[1].wakes, default=(None, None))[0]

    def resting(self, key: RevisionKey, exclude: Collection[str]) -> Instance | None:
        """Return the instance to wake: one that is not frozen yet, else the one last in use."""
        found = [i for i in self._of(key) if i.state in RESTING and i.id not in exclude]
        return max(found, key=lambda i: (i.state is State.PAUSING, i.last_active), default=None)

    async def landed(self, instance: Instance) -> Signed:
        """Wait for the end of an instance's flight; return the instance's record.

        Raises:
            AllocatorError: it is not ready.
        """
        flight = instance.flight
        if flight is None:
            raise LaunchFailed("the instance is neither starting nor waking")
        flight.waiting += 1
        try:
            await flight.landed.wait()
        finally:
            flight.waiting -= 1
            if not flight.waiting:
                self._turns.withdraw(instance.id)
        if flight.error is not None:
            raise flight.error
        if instance.record is None:
            raise LaunchFailed("the instance ended before it could be used")
        return instance.record

    def _of(self, key: RevisionKey) -> list[Instance]:
        return [i for i in self._instances.values() if i.key == key and not i.unwanted]
