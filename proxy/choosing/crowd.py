"""Requests that wait for room because all instances of their service are full.

Each has a place in its service's line, first come first served. When a request at one of the
service's instances ends, the first who sleeps is woken; when there is news (the service's instances
changed, a start ended), all are. Who is woken looks for itself. If it cannot use the room that it
was woken for, because another was quicker, it gave up, or that instance is none for it, it wakes
the next behind it: no room is lost on who does not take it. It keeps its own place.
"""

from bisect import bisect_right, insort
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self

import trio

from overlay.names import ServiceName
from overlay.view import InstanceView

MAX_WAITING = 10_000
"""In all; past it a request goes to a full instance, where it waits too."""


def _number(place: "Place") -> int:
    return place.number


@dataclass(slots=True)
class Crowd:
    """Who waits, by service; of each line those who sleep, in the order of their places.

    Attributes:
        most: that may wait, in all.
        count: that do.
    """

    most: int = MAX_WAITING
    count: int = 0
    _asleep: dict[ServiceName, list["Place"]] = field(default_factory=dict)
    _seen: dict[ServiceName, Sequence[InstanceView]] = field(default_factory=dict)
    _next: int = 0

    @property
    def full(self) -> bool:
        """Whether nobody more may wait."""
        return self.count >= self.most

    def enter(self, service: ServiceName) -> "Place":
        """Return a place at the end of a service's line, to be used as a context manager."""
        self._next += 1
        return Place(self, service, self._next)

    def freed(self, service: ServiceName, behind: int = 0) -> None:
        """Say that there is room for one request of the service.

        Args:
            service: whose line is told.
            behind: the number of a place; those before it have looked already.
        """
        line = self._asleep.get(service)
        if not line:
            return
        index = bisect_right(line, behind, key=_number) if behind else 0
        if index < len(line):
            place = line.pop(index)
            place.owes = True
            self._wake(place)
            if not line:
                del self._asleep[service]

    def news(self, service: ServiceName) -> None:
        """Say that something changed for a service."""
        for place in self._asleep.pop(service, ()):
            self._wake(place)

    def look(self, instances: Callable[[ServiceName], Sequence[InstanceView]]) -> None:
        """Look at the services that are waited for, and wake those whose instances changed.

        In a crowd the network changes all the time, each time for a few of them.

        Args:
            instances: returns the list of a service's instances, the same one until it changes.
        """
        waited_for = set(self._asleep)
        for service in waited_for:
            now = instances(service)
            if now is not self._seen.get(service):
                self._seen[service] = now
                self.news(service)
        for service in self._seen.keys() - waited_for:
            del self._seen[service]

    def sleep(self, place: "Place") -> None:
        """Take a place in among those who are to be woken."""
        self.count += 1
        insort(self._asleep.setdefault(place.service, []), place, key=_number)

    def rise(self, place: "Place") -> None:
        """Take out a place that was not woken."""
        self.count -= 1
        line = self._asleep[place.service]
        line.remove(place)
        if not line:
            del self._asleep[place.service]

    def _wake(self, place: "Place") -> None:
        self.count -= 1
        place.woken.set()


@dataclass(slots=True, eq=False)
class Place:
    """One request's place in its service's line.

    Attributes:
        owes: it was woken for room that it has neither taken nor left to the next.
    """

    _crowd: Crowd
    service: ServiceName
    number: int
    owes: bool = False
    woken: trio.Event = field(default_factory=trio.Event)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._pass_on()

    async def wait(self) -> None:
        """Return when there may be room; to wait again is to say that there was none for this."""
        self._pass_on()
        self.woken = trio.Event()
        self._crowd.sleep(self)
        try:
            await self.woken.wait()
        finally:
            if not self.woken.is_set():
                self._crowd.rise(self)

    def took(self) -> None:
        """Say that the room was used."""
        self.owes = False

    def _pass_on(self) -> None:
        if self.owes:
            self.owes = False
            self._crowd.freed(self.service, behind=self.number)
