"""`Instances` on a fake machine, for tests in virtual time."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import trio
from prometheus_client import CollectorRegistry

from allocator.instances.instances import UNBOUNDED, Allocated, Instances
from allocator.instances.readiness import Outcome, Question
from allocator.metrics import AllocatorMetrics
from allocator.rules.admission import Ledger, Limits, Policy
from allocator.rules.policy import NO_RULES, Rules
from allocator.rules.standby import Bounds
from allocator.testing import FakeMachine, FakePublisher, FakeRuntime
from overlay.identity import Identity
from overlay.names import Digest, InstanceId, ServiceName
from overlay.records import InstanceRecord, InstanceState, verified_record
from overlay.revision import Revision, SignedRevision
from overlay.spec import Image, ServiceSpec

OWNER = Identity.generate()
HELLO = ServiceName("hello")
IMAGE = Image(reference="hello", config_digest=Digest("sha256:" + "0" * 64))

READY_S = 0.05
"""From an instance's start until it is ready."""


def revision(
    number: int = 1,
    name: str = HELLO,
    *,
    owner: Identity = OWNER,
    takes_over: int = 0,
    **fields: Any,
) -> SignedRevision:
    """Return a signed revision; its instances are never paused unless `fields` say so."""
    spec = ServiceSpec(**({"image": IMAGE, "idle_pause_s": 0} | fields))
    made = Revision(name=ServiceName(name), number=number, spec=spec, takes_over=takes_over)
    return SignedRevision.sign(owner, made)


def record_of(allocated: Allocated) -> InstanceRecord:
    """Return the record that an allocation was answered with."""
    record = verified_record(allocated.record, 2.0).record
    if not isinstance(record, InstanceRecord):
        raise TypeError(f"{record} is no instance")
    return record


def id_of(allocated: Allocated) -> InstanceId:
    """Return the instance that an allocation was answered with."""
    return record_of(allocated).id


class FakeHolder:
    """A proxy with leases that answers when it is told to."""

    def __init__(self) -> None:
        self.asked: list[InstanceId] = []

    def release(self, instance: InstanceId) -> None:
        """Note it."""
        self.asked.append(instance)


@dataclass
class Lab:
    """A fake machine whose allocator can be started again and again.

    Attributes:
        unwell: instances that fail their health checks.
        checks: which were checked, in order.
    """

    machine: FakeMachine
    publisher: FakePublisher = field(default_factory=FakePublisher)
    limits: Limits = field(default_factory=lambda: Limits(4000, 4096, 10))
    rules: Rules = NO_RULES
    parallel_starts: int = 16
    standby: Bounds = UNBOUNDED
    runtime: Callable[[FakeMachine], FakeRuntime] = FakeRuntime
    elsewhere: int = 0
    known: SignedRevision | None = None
    unwell: set[InstanceId] = field(default_factory=set)
    checks: list[InstanceId] = field(default_factory=list)
    registry: CollectorRegistry = field(default_factory=CollectorRegistry)
    ledger: Ledger = field(init=False)

    @asynccontextmanager
    async def open(self) -> AsyncIterator[Instances]:
        """Run an allocator's instances; they are drained and removed at the end."""
        self.registry = CollectorRegistry()
        policy = Policy(
            open_network=False, allow_any=False, allowed=frozenset, rules=lambda: self.rules
        )
        self.ledger = Ledger(self.limits, policy.quota)
        instances = Instances(
            {"docker": self.runtime(self.machine)},
            self.ledger,
            policy,
            self.publisher,
            AllocatorMetrics(self.registry),
            standby=self.standby,
            known=lambda _: self.known,
            elsewhere=lambda _: self.elsewhere,
            parallel_starts=self.parallel_starts,
            ready=partial(_ready_unless_it_hangs, self.machine),
            check=self._check,
        )
        async with trio.open_nursery() as nursery:
            await nursery.start(instances.run)
            yield instances
            nursery.cancel_scope.cancel()

    async def _check(self, address: str, question: Question) -> bool:
        """Answer for an instance: well, unless it is among `unwell`."""
        del question
        await trio.lowlevel.checkpoint()
        (found,) = [i for i in self.machine.instances.values() if i.address == address]
        self.checks.append(found.launch.id)
        return found.launch.id not in self.unwell

    def states(self, instance: InstanceId) -> list[InstanceState | None]:
        """Return what was published of an instance, in order; None is withdrawn."""
        return [state for who, state in self.publisher.said if who == instance]


async def _ready_unless_it_hangs(
    machine: FakeMachine,
    address: str,
    health: str | None,
    timeout_s: float,
    exited: Callable[[], Awaitable[None]],
) -> Outcome:
    """Readiness in virtual time: an instance is ready a moment after its start, or hangs."""
    del health
    (found,) = [i for i in machine.instances.values() if i.address == address]
    hangs = found.launch.spec.command == "hang" or found.launch.id in machine.hangs
    with trio.move_on_after(timeout_s if hangs else min(timeout_s, READY_S)):
        await exited()
        return Outcome.EXITED
    return Outcome.TIMED_OUT if hangs else Outcome.READY
