"""Requests that wait for room because all instances of their service are full.

Whoever waits is woken when a request at one of its service's instances ends, first come first
served, or when there is news: an instance that appeared, or a start that ended. A waiter that is
woken looks for itself, and waits again if another was quicker.
"""

from collections import deque
from dataclasses import dataclass, field

import trio

from overlay.names import ServiceName

MAX_WAITING = 10_000
"""In all; past it a request goes to a full instance, where it waits too."""


@dataclass(slots=True)
class Crowd:
    """Who waits, by service."""

    _waiting: dict[ServiceName, deque[trio.Event]] = field(default_factory=dict)
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

    def news(self, service: ServiceName | None = None) -> None:
        """Say that something changed for a service, or for all."""
        for line in (
            list(self._waiting.values())
            if service is None
            else [self._waiting.get(service, deque())]
        ):
            while line:
                line.popleft().set()
