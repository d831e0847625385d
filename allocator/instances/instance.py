"""One instance, and whom its life is told to."""

from dataclasses import dataclass, field
from typing import Protocol

import trio

from allocator.errors import AllocatorError
from allocator.instances.crashes import RevisionKey
from allocator.instances.flight import Flight
from allocator.instances.lifecycle import BEGINNING, State
from allocator.instances.resting import Kept, Standing
from allocator.runtime import Runtime
from overlay.names import InstanceId, PeerId, ServiceName
from overlay.records import InstanceState
from overlay.signed import Signed
from overlay.spec import ServiceSpec


class Publisher(Protocol):
    """Says to the network what runs here; the overlay's node does."""

    def set_instance(
        self,
        instance: InstanceId,
        *,
        service: ServiceName,
        revision: int,
        state: InstanceState,
        address: str,
        concurrency: int,
        resume_s: float = 0.0,
        healthy: bool = True,
    ) -> Signed:
        """Publish an instance's state."""
        ...

    def withdraw_instance(self, instance: InstanceId) -> None:
        """Publish that an instance is gone."""
        ...


class Holder(Protocol):
    """Whoever dials instances directly, past the gateway."""

    def release(self, instance: InstanceId) -> None:
        """Ask for a lease back; the answer is `Use.released`."""
        ...


@dataclass(slots=True, eq=False)
class Instance:
    """One instance and everything that is known of it.

    Attributes:
        address: `host:port`, dialled from this machine; empty until it is started.
        in_flight: requests that came by the gateway.
        holders: who dials it directly, with the requests in flight that they last told of.
        last_active: when the last request ended that is known of, on trio's clock.
        flight: the start or the waking that is under way, or was the last one.
        start_s: what its start took, less what a paused one need not do; None if that is unknown.
        started_at: when it got ready for the first time.
        paused_at: when it was paused last.
        memory_mib: what it was last measured to use.
        healthy: it passes the checks of its health; see `checkups.py`.
        surplus: the load does not need it.
        pausable_at: when it may be paused at the earliest.
        beginning: cancelled, it ends what makes the instance ready.
        unwanted: why it must go; empty if it need not.
    """

    id: InstanceId
    service: ServiceName
    revision: int
    author: PeerId
    spec: ServiceSpec
    runtime: Runtime
    last_active: float
    state: State = State.REQUESTED
    address: str = ""
    record: Signed | None = None
    in_flight: int = 0
    holders: dict[Holder, int] = field(default_factory=dict)
    flight: Flight | None = None
    start_s: float | None = None
    started_at: float = 0.0
    paused_at: float = 0.0
    memory_mib: int = 0
    healthy: bool = True
    surplus: bool = False
    kept: Kept = Kept.NOT
    pausable_at: float = 0.0
    beginning: trio.CancelScope = field(default_factory=trio.CancelScope)
    unwanted: str = ""
    _change: trio.Event = field(default_factory=trio.Event)

    @property
    def key(self) -> RevisionKey:
        """The revision that it is an instance of."""
        return self.service, self.revision

    @property
    def load(self) -> int:
        """Requests in flight by every road."""
        return self.in_flight + sum(self.holders.values())

    @property
    def wanted(self) -> bool:
        """Whether somebody waits until it is ready."""
        return self.flight is not None and not self.flight.landed.is_set()

    @property
    def standing(self) -> Standing:
        """What decides whether it rests."""
        return Standing(
            state=self.state,
            wanted=self.wanted,
            load=self.load,
            idle_since=self.last_active,
            idle_pause_s=self.spec.idle_pause_s,
            idle_stop_s=self.spec.idle_stop_s,
            surplus=self.surplus,
            kept=self.kept,
            pausable_at=self.pausable_at,
            unwanted=self.unwanted,
        )

    def give_up(self, why: str) -> None:
        """Let the instance go as soon as nobody uses it; a start of it is broken off."""
        self.unwanted = why
        if self.state in BEGINNING:
            self.beginning.cancel()
        self.notify()

    def land(self, error: AllocatorError | None = None) -> None:
        """Tell whoever waits for the instance that it is ready, or why not."""
        if self.flight is not None:
            self.flight.land(error)

    def notify(self) -> None:
        """Wake whoever waits for `changed`."""
        self._change.set()
        self._change = trio.Event()

    async def changed(self) -> None:
        """Wait until the instance may be idle, is unwanted, or a lease came back."""
        await self._change.wait()
