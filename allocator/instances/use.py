"""Who uses which instance, by every road, and what that says of its service.

The gateway counts each request that it takes to an instance. Whoever dials an instance directly
holds a lease and reports what is in flight. An instance is idle when neither knows of a request;
only then it may be paused or stopped, after its leases have come back.
"""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from types import TracebackType

import trio

from allocator.errors import InstanceGone
from allocator.instances.crashes import MAX_SERVICES, RevisionKey
from allocator.instances.instance import Holder, Instance
from allocator.instances.lifecycle import ASLEEP, State
from allocator.instances.resting import Peak
from allocator.metrics import AllocatorMetrics
from allocator.rules.standby import Habit
from overlay.names import InstanceId

LEAST_WINDOW_S = 0.001
"""A definition may ask for any idle time, and what is counted in it must stay a number."""


Parting = Callable[[InstanceId], Awaitable[None]]


@dataclass(slots=True)
class Activity:
    """What a revision's requests were like, over all of its instances here."""

    peak: Peak
    habit: Habit


class Use:
    """Counts requests to the instances of this machine.

    Args:
        instances: what is here; read at each call.
        metrics: counts.

    Attributes:
        partings: awaited with an instance that is about to be ended, for who dials it to let go.
    """

    def __init__(self, instances: Mapping[InstanceId, Instance], metrics: AllocatorMetrics) -> None:
        self._instances = instances
        self._metrics = metrics
        self._activities: dict[RevisionKey, Activity] = {}
        self.partings: list[Parting] = []

    def request(self, instance: InstanceId) -> "Counted":
        """Return a block that counts a request which goes to `instance` for as long as it lasts.

        Entering it raises `InstanceGone` if the instance is not there, not ready, or draining.
        """
        return Counted(self, instance)

    def rests(self, instance: InstanceId) -> bool:
        """Return whether an instance is paused, or about to be, and could be woken."""
        found = self._instances.get(instance)
        return found is not None and found.state in ASLEEP and not found.unwanted

    def least_loaded(self, key: RevisionKey) -> InstanceId:
        """Return the instance of a revision with the least under way, of those that have room.

        Raises:
            InstanceGone: there is none, or all are full.
        """
        there = [i for i in self._instances.values() if i.key == key and not i.unwanted]
        found = [i for i in there if i.state is State.READY and i.load < i.spec.concurrency]
        if found:
            return min(found, key=lambda i: (not i.healthy, i.load)).id
        resting = next((i for i in there if i.state in ASLEEP), None)
        if resting is None:
            how = "has room" if there else "is here"
            raise InstanceGone(f"no instance of {key[0]}, revision {key[1]}, {how}")
        return resting.id

    def lease(self, instance: InstanceId, holder: Holder) -> str:
        """Let `holder` dial an instance directly; return its address.

        Raises:
            InstanceGone: it is not there, not ready, or draining.
        """
        found = self._usable(instance)
        found.holders.setdefault(holder, 0)
        found.last_active = trio.current_time()
        return found.address

    def report(self, instance: InstanceId, holder: Holder, in_flight: int, served: int) -> None:
        """Take in what a holder has in flight, and how much it served since it last told."""
        found = self._instances.get(instance)
        if found is None or holder not in found.holders:
            return
        change = in_flight - found.holders[holder]
        found.holders[holder] = in_flight
        if change > 0 or served:
            self._begin(found, max(0, change))
        if in_flight or served or change < 0:
            self._end(found, max(0, -change))

    def released(self, instance: InstanceId, holder: Holder) -> None:
        """Take in that a holder has nothing in flight and will not dial any more."""
        found = self._instances.get(instance)
        if found is None or holder not in found.holders:
            return
        if in_flight := found.holders.pop(holder):
            self._end(found, in_flight)
        found.notify()

    def release_all(self, holder: Holder) -> None:
        """Take in that a holder is gone, and its leases with it."""
        for instance in list(self._instances):
            self.released(instance, holder)

    async def part(self, instance: Instance) -> None:
        """Let everybody close the connections to an instance while it is there to answer that."""
        for parting in self.partings:
            await parting(instance.id)

    def ended(self, instance: Instance) -> None:
        """Take every lease on an instance that is gone back, and tell who had one."""
        for holder in list(instance.holders):
            holder.release(instance.id)
            self.released(instance.id, holder)

    def load(self) -> dict[InstanceId, int]:
        """Return the requests in flight by instance."""
        return {i.id: i.load for i in self._instances.values()}

    def activity(self, instance: Instance) -> Activity:
        """Return what the requests for an instance's revision were like."""
        found = self._activities.get(instance.key)
        if found is None:
            if len(self._activities) >= MAX_SERVICES:
                self._activities.pop(next(iter(self._activities)))
            now = trio.current_time()
            peak = Peak(_window_s(instance), now)
            found = self._activities[instance.key] = Activity(peak, Habit(now))
        return found

    def adjust(self, instance: Instance) -> None:
        """Look back as long as an instance's service says now."""
        self.activity(instance).peak.window_s = _window_s(instance)

    def begin(self, instance: InstanceId) -> Instance:
        """Count a request to an instance, which `end` takes back.

        Raises:
            InstanceGone: it is not there, not ready, or draining.
        """
        found = self._usable(instance)
        self._begin(found, 1)
        found.in_flight += 1
        return found

    def end(self, instance: Instance) -> None:
        """Count the end of a request that was begun."""
        instance.in_flight -= 1
        self._end(instance, 1)

    def _usable(self, instance: InstanceId) -> Instance:
        found = self._instances.get(instance)
        if found is None:
            raise InstanceGone(f"there is no instance {instance[:80]} here")
        if found.state is not State.READY:
            raise InstanceGone(f"the instance {found.id} is {found.state}")
        return found

    def _begin(self, instance: Instance, count: int) -> None:
        now = trio.current_time()
        activity = self.activity(instance)
        activity.habit.asked(now)
        activity.peak.set(activity.peak.load + count, now)
        self._metrics.in_flight(count)

    def _end(self, instance: Instance, count: int) -> None:
        now = trio.current_time()
        peak = self.activity(instance).peak
        peak.set(max(0, peak.load - count), now)
        self._metrics.in_flight(-count)
        instance.last_active = now
        if not instance.load:
            instance.notify()


class Counted:
    """A request, counted for the length of a `with`; a generator would cost three times as much."""

    __slots__ = ("_found", "_instance", "_use")

    def __init__(self, use: Use, instance: InstanceId) -> None:
        self._use = use
        self._instance = instance
        self._found: Instance | None = None

    def __enter__(self) -> Instance:
        found = self._found = self._use.begin(self._instance)
        return found

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._found is not None:
            self._use.end(self._found)


def _window_s(instance: Instance) -> float:
    return max(LEAST_WINDOW_S, instance.spec.idle_pause_s or instance.spec.idle_stop_s)


async def returned(instance: Instance) -> None:
    """Ask for the leases back and wait for what is in flight.

    It returns early with an instance that should rest and is asked for, or must go.
    """
    for holder in list(instance.holders):
        holder.release(instance.id)
    while instance.holders or instance.in_flight:
        if instance.state is State.PAUSING and (instance.wanted or instance.unwanted):
            return
        await instance.changed()
