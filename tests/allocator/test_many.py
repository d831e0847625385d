"""An allocator that stops with many instances: in its time, and nothing is lost."""

import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import docker
import pytest
import trio
import trio.testing
from prometheus_client import CollectorRegistry
from structlog.testing import capture_logs
from trio.testing import MockClock

from allocator.engine.containers import Ownership
from allocator.engine.docker import DockerRuntime
from allocator.engine.session import CALLS_AT_ONCE
from allocator.instances.instances import Instances
from allocator.instances.readiness import Outcome, wait_ready
from allocator.instances.starts import ReadyWait
from allocator.metrics import AllocatorMetrics
from allocator.processes.runtime import ProcessRuntime
from allocator.rules.admission import Ledger, Limits, Policy
from allocator.testing import (
    BUSY_STOP_S,
    FakeMachine,
    FakePublisher,
    FakeRuntime,
    open_fake_machine,
)
from allocator.testing_instances import OWNER, Lab, revision
from overlay.names import InstanceId, PeerId, ServiceName
from overlay.revision import Revision, SignedRevision
from overlay.spec import Image, ServiceSpec

MANY = 200
CONTAINERS = 60
STOP_S = 5.0
"""After so long a person who pressed Ctrl-C has the prompt back."""

TWICE_STOP_S = 2 * STOP_S
"""For a real engine beside whatever else this machine does."""


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
        with capture_logs() as logs:
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
        (said,) = [line for line in logs if line["event"] == "instances.left_behind"]
        assert said["count"] == len(left)
        assert {name.partition("/")[2] for name in said["instances"]} <= left.keys()
        async with lab.open() as instances:
            await trio.sleep(2)
            rows = instances.status()["own_instances"]
            assert {i["id"]: i["state"] == "paused" for i in rows} == left
            assert instances.room().instances == 2 * MANY - sum(not p for p in left.values())


async def ready_at_once(*_: object) -> Outcome:
    await trio.lowlevel.checkpoint()
    return Outcome.READY


def allocating(runtime: DockerRuntime | ProcessRuntime, ready: ReadyWait) -> Instances:
    return Instances(
        {runtime.name: runtime},
        Ledger(Limits(10**6, 10**6, 2 * MANY)),
        Policy(open_network=False, allow_any=False, allowed=lambda: frozenset({OWNER.peer_id})),
        FakePublisher(),
        AllocatorMetrics(CollectorRegistry()),
        ready=ready,
    )


@dataclass
class Run:
    """One allocator's run on a real engine.

    Attributes:
        found: what it adopted.
        took_s: what its stop took.
        named: how many it said that it left behind.
    """

    found: set[str]
    took_s: float
    named: int


async def run_once(ownership: Ownership, specs: Sequence[ServiceSpec]) -> Run:
    """Adopt what there is, start an instance of each spec, and stop."""
    runtime = DockerRuntime(ownership)
    instances = allocating(runtime, wait_ready)
    at_once = trio.CapacityLimiter(8)

    async def start(n: int, spec: ServiceSpec) -> None:
        given = Revision(name=ServiceName(f"s{n}"), number=1, spec=spec)
        async with at_once:
            await instances.allocate(SignedRevision.sign(OWNER, given))

    async with trio.open_nursery() as outer:
        await outer.start(runtime.run)
        with capture_logs() as logs:
            async with trio.open_nursery() as inner:
                await inner.start(instances.run)
                found = {row["id"] for row in instances.status()["own_instances"]}
                async with trio.open_nursery() as starting:
                    for n, spec in enumerate(specs):
                        starting.start_soon(start, n, spec)
                began = trio.current_time()
                inner.cancel_scope.cancel()
        took_s = trio.current_time() - began
        outer.cancel_scope.cancel()
    named = [line["count"] for line in logs if line["event"] == "instances.left_behind"]
    return Run(found, took_s, sum(named))


@pytest.mark.slow
@pytest.mark.docker
async def test_containers_that_a_stop_has_no_time_for_are_named_and_taken_back(
    engine: docker.APIClient, image: Image, monkeypatch: pytest.MonkeyPatch
) -> None:
    ownership = Ownership(secrets.token_hex(4), PeerId("me"))

    def there() -> set[str]:
        rows = engine.containers(all=True, filters={"label": ownership.filters()})
        return {row["Names"][0].rpartition("-")[2] for row in rows}

    with trio.fail_after(170):
        with monkeypatch.context() as hurried:
            hurried.setattr("allocator.instances.life.STOP_TOTAL_S", 0)
            first = await run_once(ownership, [ServiceSpec(image=image)] * CONTAINERS)
        left = there()
        assert len(left) == first.named == CONTAINERS
        second = await run_once(ownership, [])
        assert second.found <= left
        assert len(second.found) >= CONTAINERS - CALLS_AT_ONCE  # so many were told to end
        assert second.took_s < TWICE_STOP_S
        assert len(there()) <= second.named
        while left := there():
            assert (await run_once(ownership, [])).found <= left


@pytest.mark.slow
async def test_two_hundred_processes_ready_and_paused_are_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("allocator.instances.life.STOP_TOTAL_S", BUSY_STOP_S)
    runtime = ProcessRuntime(tmp_path)
    instances = allocating(runtime, ready_at_once)

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
