"""The instances of this machine that go when others need their room, the paused ones above all.

`standby.py` and `preemption.py` decide who goes; here it is told to. Nobody waits until it is gone:
its memory comes back while the new instance is being created, which is what takes time.
"""

from collections.abc import Callable, Mapping

import trio

from allocator.instances.instance import Instance
from allocator.instances.lifecycle import State
from allocator.instances.resting import Kept, Why
from allocator.instances.use import Use
from allocator.rules.admission import Ledger
from allocator.rules.standby import TYPICAL_START_S, Bounds, Resting, Shortage, victims
from overlay.names import InstanceId


class Pool:
    """Puts instances away when too many are paused, or some are in the way.

    Args:
        instances: what is here; read at each call.
        ledger: what is promised, and what paused instances hold.
        use: how often each service is asked for.
        bounds: what paused instances may have.
        resume_s: returns what resuming one takes.
    """

    def __init__(
        self,
        instances: Mapping[InstanceId, Instance],
        ledger: Ledger,
        use: Use,
        bounds: Bounds,
        resume_s: Callable[[], float],
    ) -> None:
        self._instances = instances
        self._ledger = ledger
        self._use = use
        self._bounds = bounds
        self._resume_s = resume_s

    def hold_bounds(self) -> None:
        """Stop the least valuable of those that are over this machine's bounds."""
        self._stop(self._bounds.excess(self._resting()), Why.STANDBY_FULL)

    def make_room(self) -> None:
        """Stop what is in the way of the promises that were made."""
        if shortage := self._ledger.shortage():
            self._stop(shortage, Why.ROOM_NEEDED)
        for preempted in self._ledger.preempted():
            self._instances[preempted].give_up(Why.PREEMPTED)

    def status(self) -> dict[str, int]:
        """Return size and bounds as JSON-ready values."""
        return {
            "instances": sum(i.state is State.PAUSED for i in self._instances.values()),
            "memory_mib": self._ledger.resting_mib(),
            "most_instances": self._bounds.instances,
            "most_memory_mib": self._bounds.memory_mib,
        }

    def _stop(self, shortage: Shortage, why: Why) -> None:
        for victim in victims(self._resting(), shortage):
            instance = self._instances[victim]
            self._ledger.release(victim)
            instance.give_up(why)

    def _resting(self) -> list[Resting]:
        """Return the paused instances that may go."""
        now = trio.current_time()
        return [
            Resting(
                id=i.id,
                since=i.paused_at,
                memory_mib=i.memory_mib,
                saved_s=(i.start_s or TYPICAL_START_S) - self._resume_s(),
                gap_s=self._use.activity(i).habit.expected_gap_s(now),
                left_s=i.last_active + i.spec.idle_stop_s - now,
            )
            for i in self._instances.values()
            if i.state is State.PAUSED and i.kept is Kept.NOT and not (i.unwanted or i.wanted)
        ]
