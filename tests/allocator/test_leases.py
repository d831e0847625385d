import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
import trio
import trio.testing
from prometheus_client import CollectorRegistry

from allocator.admission import Ledger, Limits, Policy
from allocator.instances import Instances
from allocator.leases import LeaseDesk
from allocator.metrics import AllocatorMetrics
from allocator.testing import FakeMachine, FakePublisher, FakeRuntime, open_fake_machine
from overlay.control import ControlConnection, open_control, serve_control
from overlay.identity import Identity
from overlay.leases import (
    FROM_ALLOCATOR,
    Acquire,
    FromAllocator,
    Granted,
    Hello,
    Refused,
    Release,
    Released,
    Report,
    Welcome,
)
from overlay.names import Digest, InstanceId, ServiceName
from overlay.revision import Revision, SignedRevision
from overlay.spec import Image, ServiceSpec

OWNER = Identity.generate()
IMAGE = Image(reference="hello", config_digest=Digest("sha256:" + "0" * 64))


def revision(number: int = 1) -> SignedRevision:
    spec = ServiceSpec(image=IMAGE, idle_stop_s=1000)
    return SignedRevision.sign(OWNER, Revision(name=ServiceName("hello"), number=number, spec=spec))


@dataclass
class Lab:
    machine: FakeMachine
    instances: Instances
    path: Path

    @asynccontextmanager
    async def proxy(self, port: int = 4200) -> AsyncIterator[ControlConnection]:
        async with open_control(self.path, "lease") as connection:
            await connection.send(Hello(proxy_port=port))
            assert isinstance(await heard(connection), Welcome)
            yield connection

    async def start(self, number: int = 1) -> InstanceId:
        await self.instances.allocate(revision(number))
        return list(self.machine.instances)[-1]

    async def gone(self, instance: InstanceId) -> None:
        while instance in self.machine.instances:
            await trio.testing.wait_all_tasks_blocked(0.001)


async def heard(connection: ControlConnection) -> FromAllocator:
    line = await connection.receive()
    assert line is not None
    return FROM_ALLOCATOR.validate_json(line)


@pytest.fixture
async def lab() -> AsyncIterator[Lab]:
    path = Path("/tmp") / f"myxo-lease-{secrets.token_hex(6)}.sock"  # noqa: S108
    async with open_fake_machine() as machine, trio.open_nursery() as nursery:
        instances = Instances(
            {"docker": FakeRuntime(machine)},
            Ledger(Limits(1000, 1000, 10)),
            Policy(open_network=False, allow_any=False, allowed=frozenset),
            FakePublisher(),
            AllocatorMetrics(CollectorRegistry()),
        )
        await nursery.start(instances.run)
        desk = LeaseDesk(instances, lambda: ("172.18.0.1", "myxo0"))
        await nursery.start(serve_control, path, dict, {"lease": desk.serve})
        with trio.fail_after(20):
            yield Lab(machine, instances, path)
        nursery.cancel_scope.cancel()


async def test_a_proxy_is_told_the_bridge_and_instances_are_told_the_proxy(lab: Lab) -> None:
    async with open_control(lab.path, "lease") as connection:
        await connection.send(Hello(proxy_port=4711))
        welcome = await heard(connection)
    assert welcome == Welcome(bridge_address="172.18.0.1", bridge_interface="myxo0")
    instance = await lab.start()
    assert lab.machine.instances[instance].launch.proxy_port == 4711


async def test_a_lease_gives_the_address_and_counts_what_is_reported(lab: Lab) -> None:
    instance = await lab.start()
    async with lab.proxy() as proxy:
        await proxy.send(Acquire(instance=instance))
        address = lab.machine.instances[instance].address
        assert await heard(proxy) == Granted(instance=instance, address=address)
        await proxy.send(Report(instance=instance, in_flight=3))
        await proxy.send(Acquire(instance=instance))
        await heard(proxy)
        assert lab.instances.use.load() == {instance: 3}


async def test_there_is_no_lease_on_what_is_not_there(lab: Lab) -> None:
    async with lab.proxy() as proxy:
        await proxy.send(Acquire(instance=InstanceId("nothing")))
        assert isinstance(await heard(proxy), Refused)


async def test_an_instance_stops_only_when_every_proxy_has_let_go(lab: Lab) -> None:
    instance = await lab.start()
    async with lab.proxy() as first, lab.proxy() as second:
        for proxy in (first, second):
            await proxy.send(Acquire(instance=instance))
            assert isinstance(await heard(proxy), Granted)
        lab.instances.drain_outdated(ServiceName("hello"), 2)
        assert await heard(first) == Release(instance=instance)
        assert await heard(second) == Release(instance=instance)
        await first.send(Released(instance=instance))
        await first.send(Acquire(instance=instance))
        assert isinstance(await heard(first), Refused)
        assert instance in lab.machine.instances
        await second.send(Released(instance=instance))
        await lab.gone(instance)


async def test_a_proxy_that_dies_loses_its_leases(lab: Lab) -> None:
    instance = await lab.start()
    async with lab.proxy() as proxy:
        await proxy.send(Acquire(instance=instance))
        await heard(proxy)
        await proxy.send(Report(instance=instance, in_flight=3))
        lab.instances.drain_outdated(ServiceName("hello"), 2)
        assert isinstance(await heard(proxy), Release)
        assert instance in lab.machine.instances
    await lab.gone(instance)


async def test_nonsense_ends_only_the_connection_that_sent_it(lab: Lab) -> None:
    instance = await lab.start()
    async with lab.proxy() as bad, lab.proxy() as good:
        await bad.send({"kind": "nonsense"})
        assert await bad.receive() is None
        await good.send(Acquire(instance=instance))
        assert isinstance(await heard(good), Granted)
