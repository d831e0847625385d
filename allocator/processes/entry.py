"""What a runtime of processes knows of one instance."""

import os
from dataclasses import dataclass, field

import trio

from allocator.processes.files import StateFile
from allocator.processes.procfs import ProcessKey


@dataclass(slots=True)
class Process:
    """One instance.

    Attributes:
        cpus: what it is bound to; empty is nothing.
        pidfd: of its leader; None before it is started.
        stopped: the processes that a pause has stopped.
        exposed: where it listens beside loopback.
    """

    launch: StateFile
    cpus: frozenset[int]
    proxy_port: int
    pidfd: int | None = None
    exit_code: int | None = None
    stopped: tuple[ProcessKey, ...] = ()
    exposed: tuple[str, ...] = ()
    ended: trio.Event = field(default_factory=trio.Event)

    @property
    def runs(self) -> bool:
        """Whether its leader was started and has not ended."""
        return self.pidfd is not None and not self.ended.is_set()

    def close(self) -> None:
        """Let go of the leader's pidfd."""
        if self.pidfd is not None:
            trio.lowlevel.notify_closing(self.pidfd)
            os.close(self.pidfd)
            self.pidfd = None
