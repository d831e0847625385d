"""What the proxies of this machine are told of its containers; nothing, where no engine is."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from allocator.engine.docker import DockerRuntime
from allocator.instances.instances import Instances
from overlay.leases import Bridge
from overlay.names import InstanceId, SandboxId, ServiceName


@dataclass(frozen=True, slots=True)
class EngineContainers:
    """The containers of an engine, as `LeaseDesk` asks for them."""

    instances: Instances
    docker: DockerRuntime | None

    def bridges(self) -> Sequence[Bridge]:
        """Return where containers look for the proxy."""
        if self.docker is None:
            return ()
        return [Bridge(interface=i, address=a) for i, a in self.docker.bridges.items() if a]

    def socket(self) -> str:
        """Return where the proxy is to meet sandboxes; empty if it is not."""
        return "" if self.docker is None else self.docker.sandboxes.socket

    def proxy_chosen(self, port: int) -> None:
        """Tell whoever is started from now on where the proxy is."""
        self.instances.set_proxy_port(port)
        if self.docker is not None:
            self.docker.sandboxes.set_proxy_port(port)

    def handed_over(self, sandbox: SandboxId, *, done: bool) -> None:
        """Take note that a proxy answers on 127.0.0.1 in a sandbox, or does so no more."""
        if self.docker is not None:
            self.docker.sandboxes.handed_over(sandbox, done=done)

    def on_occupied(self, tell: Callable[[SandboxId], None]) -> None:
        """Have `tell` called with each sandbox that has got an instance."""
        if self.docker is not None:
            self.docker.occupied = tell

    def occupant(self, sandbox: SandboxId) -> tuple[ServiceName, InstanceId] | None:
        """Return who is in a sandbox."""
        return None if self.docker is None else self.docker.occupant(sandbox)
