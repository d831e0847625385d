"""Requests that wait for room because all instances of their service are full.

Whoever waits is woken when a request at one of its service's instances ends, first come first
served, or when there is news: its service's instances changed, or a start ended. A waiter that is
woken looks for itself, and waits again if another was quicker.
"""

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import trio

from overlay.names import ServiceName
from overlay.view import InstanceView

MAX_WAITING = 10_000
"""In all; past it a request goes to a full instance, where it waits too."""


@dataclass(slots=True)
class Crowd:
    """Who waits, by service."""

    _waiting: dict[ServiceName, deque[trio.Event]] = field(default_factory=dict)
    _seen: dict[ServiceName, Sequence[InstanceView]] = field(default_factory=dict)
    _count: int = 0

    def waiting(self, service: ServiceName) -> int:
        """Return how many requests wait for room."""
        return len(self._waiting.get(service, ()))

    @property
    def full(self) -> bool:
        """Whether nobody more may wait."""
        return self._count >= MAX_WAITING

    async def wait(self, service: ServiceName) -> None:
        """Return when there may be room."""
        woken = trio.Event()
        line = self._waiting.setdefault(service, deque())
        line.append(woken)
        self._count += 1
        try:
            await woken.wait()
        finally:
            self._count -= 1
            if woken in line:
                line.remove(woken)
            if not line and self._waiting.get(service) is line:
                del self._waiting[service]

    def freed(self, service: ServiceName) -> None:
        """Say that one request of the service has ended."""
        if line := self._waiting.get(service):
            line.popleft().set()

    def news(self, service: ServiceName) -> None:
        """Say that something changed for a service."""
        line = self._waiting.get(service, ())
        while line:
            line.popleft().set()

    def look(self, instances: Callable[[ServiceName], Sequence[InstanceView]]) -> None:
        """Look at the services that are waited for, and wake those whose instances changed.

        In a crowd the network changes all the time, each time for a few of them.

        Args:
            instances: returns the list of a service's instances, the same one until it changes.
        """
        for service in list(self._waiting):
            now = instances(service)
            if now is not self._seen.get(service):
                self._seen[service] = now
                self.news(service)
        for service in self._seen.keys() - self._waiting.keys():
            del self._seen[service]
