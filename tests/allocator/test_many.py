"""An allocator that stops with two hundred instances: in its time, and nothing is lost."""

from pathlib import Path
from typing import Literal

import pytest
import trio
import trio.testing
from prometheus_client import CollectorRegistry
from trio.testing import MockClock

from allocator.instances.instances import Instances
from allocator.instances.readiness import Outcome
from allocator.metrics import AllocatorMetrics
from allocator.processes.runtime import ProcessRuntime
from allocator.rules.admission import Ledger, Limits, Policy
from allocator.testing import FakeMachine, FakePublisher, FakeRuntime, open_fake_machine
from allocator.testing_instances import OWNER, Lab, revision
from overlay.names import InstanceId, ServiceName
from overlay.revision import Revision, SignedRevision
from overlay.spec import ServiceSpec

MANY = 200
STOP_S = 5.0
"""After so long systemd and `myxo up` end an allocator the hard way."""


class Slow(FakeRuntime):
    """A runtime that removes sixteen at a time, half a second each, as a busy engine does."""

    def __init__(
        self,
        machine: FakeMachine,
        owner: str = "me",
        name: Literal["docker", "process"] = "docker",
    ) -> None:
        super().__init__(machine, owner, name)
        self._turns = trio.CapacityLimiter(16)

    async def remove(self, instance: InstanceId, *, grace_s: float) -> None:
        async with self._turns:
            await trio.sleep(0.5)
            await super().remove(instance, grace_s=grace_s)


async def test_a_stop_ends_in_its_time_and_what_it_left_is_adopted_by_the_next_run(
    autojump_clock: MockClock,
) -> None:
    async with open_fake_machine(listens=False) as machine:
        lab = Lab(machine, limits=Limits(10**6, 10**6, 2 * MANY))
        lab.runtime = Slow
        async with lab.open() as instances, trio.open_nursery() as nursery:
            for n in range(MANY):
                given = revision(name=f"s{n}", idle_pause_s=5 if n % 2 else 0)
                nursery.start_soon(instances.allocate, given)
            await trio.sleep(10)
            stopped_at = trio.current_time()
        assert trio.current_time() - stopped_at <= STOP_S
        left = {i: found.paused for i, found in machine.instances.items()}
        assert left
        assert len(machine.removed) + len(left) == MANY
        async with lab.open() as instances:
            await trio.sleep(2)
            rows = instances.status()["own_instances"]
            assert {i["id"]: i["state"] == "paused" for i in rows} == left
            assert instances.room().instances == 2 * MANY - sum(not p for p in left.values())


async def ready_at_once(*_: object) -> Outcome:
    await trio.lowlevel.checkpoint()
    return Outcome.READY


@pytest.mark.slow
async def test_two_hundred_processes_ready_and_paused_are_ended_in_time(tmp_path: Path) -> None:
    runtime = ProcessRuntime(tmp_path)
    instances = Instances(
        {"process": runtime},
        Ledger(Limits(10**6, 10**6, 2 * MANY)),
        Policy(open_network=False, allow_any=False, allowed=lambda: frozenset({OWNER.peer_id})),
        FakePublisher(),
        AllocatorMetrics(CollectorRegistry()),
        ready=ready_at_once,
    )

    async def start(n: int) -> None:
        spec = ServiceSpec(process="exec sleep 1000", idle_pause_s=0.5 if n % 2 else 0)
        name = ServiceName(f"s{n}")
        await instances.allocate(
            SignedRevision.sign(OWNER, Revision(name=name, number=1, spec=spec))
        )

    with trio.fail_after(120):
        async with trio.open_nursery() as outer:
            await outer.start(runtime.run)
            async with trio.open_nursery() as inner:
                await inner.start(instances.run)
                async with trio.open_nursery() as starting:
                    for n in range(MANY):
                        starting.start_soon(start, n)
                while instances.status()["standby"]["instances"] < MANY // 2:
                    await trio.testing.wait_all_tasks_blocked(0.05)
                inner.cancel_scope.cancel()
            assert await runtime.adopt() == []
            assert list(tmp_path.iterdir()) == []
            outer.cancel_scope.cancel()
