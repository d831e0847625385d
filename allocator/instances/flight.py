"""A start or a waking that is under way: who waits, where the time went, and how it ended."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import trio

from allocator.errors import AllocatorError
from overlay.names import PeerId


@dataclass(slots=True, eq=False)
class Flight:
    """A start or a waking that is under way, and everybody who waits for it.

    Attributes:
        wakes: it thaws a paused instance instead of starting one.
        caller: the peer that asked first; None is this machine itself.
        waiting: how many wait.
    """

    wakes: bool = False
    caller: PeerId | None = None
    waiting: int = 0
    phases: dict[str, float] = field(default_factory=dict)
    landed: trio.Event = field(default_factory=trio.Event)
    error: AllocatorError | None = None

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Add the time that the block takes to a phase."""
        begun = trio.current_time()
        try:
            yield
        finally:
            self.add(name, trio.current_time() - begun)

    def add(self, name: str, seconds: float) -> None:
        """Add time to a phase."""
        self.phases[name] = self.phases.get(name, 0.0) + seconds

    def land(self, error: AllocatorError | None = None) -> None:
        """Tell everybody who waits that the instance is ready, or why not; only once."""
        if not self.landed.is_set():
            self.error = error
            self.landed.set()
