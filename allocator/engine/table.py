"""Which container belongs to which instance, and which of them have ended."""

from collections import UserDict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import trio

from allocator.engine.containers import ALIVE, instance_id
from allocator.engine.sandboxes import Sandbox, sandbox_id
from allocator.runtime import Launch
from overlay.names import InstanceId, SandboxId, ServiceName


@dataclass(slots=True)
class Container:
    """One instance's container.

    Attributes:
        launch: what it is made for; None where an earlier run started it.
        ended_unseen: it ended while nobody was told of ends.
    """

    service: ServiceName
    name: str
    port: int
    launch: Launch | None = None
    sandbox: Sandbox | None = None
    started: bool = False
    ended_unseen: bool = False
    ended: trio.Event = field(default_factory=trio.Event)

    @property
    def sandbox_id(self) -> SandboxId | None:
        """The sandbox that it is in, if it is in one."""
        return None if self.sandbox is None else self.sandbox.id


class ContainerTable(UserDict[InstanceId, Container]):
    """The containers of an allocator, by instance."""

    def occupant(self, sandbox: SandboxId) -> tuple[ServiceName, InstanceId] | None:
        """Return the instance whose network `sandbox` holds, if there is one."""
        for instance, container in self.items():
            if container.sandbox_id == sandbox:
                return container.service, instance
        return None

    def take_exit(self, labels: Mapping[str, str]) -> None:
        """Mark the container with these labels as ended; who is in a sandbox ends with it."""
        instance, sandbox = instance_id(labels), sandbox_id(labels)
        for name, container in self.items():
            if name == instance or (sandbox is not None and container.sandbox_id == sandbox):
                container.ended.set()

    def compare(self, rows: Iterable[Mapping[str, Any]]) -> set[SandboxId | None]:
        """Mark what is not alive in the engine's list any more; return the sandboxes that are.

        None is among them: who needs no sandbox has it.
        """
        alive = [row.get("Labels") or {} for row in rows if row.get("State") in ALIVE]
        running = {instance_id(labels) for labels in alive}
        sandboxes = {sandbox_id(labels) for labels in alive} | {None}
        for instance, container in self.items():
            lives = instance in running and container.sandbox_id in sandboxes
            if container.started and not lives and not container.ended.is_set():
                container.ended_unseen = True
                container.ended.set()
        return sandboxes
