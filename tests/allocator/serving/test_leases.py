import secrets
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import trio
import trio.testing
from prometheus_client import CollectorRegistry

from allocator.instances.instances import Instances
from allocator.metrics import AllocatorMetrics
from allocator.rules.admission import Ledger, Limits, Policy
from allocator.serving.leases import LeaseDesk
from allocator.testing import FakeMachine, FakePublisher, FakeRuntime, open_fake_machine
from overlay.control import ControlConnection, open_control, serve_control
from overlay.identity import Identity
from overlay.leases import (
    FROM_ALLOCATOR,
    Acquire,
    Bridge,
    FromAllocator,
    Granted,
    HandedOver,
    HandOverEnded,
    Hello,
    Occupant,
    Refused,
    Release,
    Released,
    Report,
    Retiring,
    Welcome,
    WhoIsIn,
)
from overlay.names import Digest, InstanceId, SandboxId, ServiceName
from overlay.revision import Revision, SignedRevision
from overlay.spec import Image, ServiceSpec

BRIDGE = Bridge(interface="myxo0", address="172.18.0.1")
S1 = SandboxId("s1")
OWNER = Identity.generate()
IMAGE = Image(reference="hello", config_digest=Digest("sha256:" + "0" * 64))


def revision(number: int = 1) -> SignedRevision:
    spec = ServiceSpec(image=IMAGE, idle_stop_s=1000)
    return SignedRevision.sign(OWNER, Revision(name=ServiceName("hello"), number=number, spec=spec))


@dataclass
class FakeContainers:
    """Sandboxes that are only known by name."""

    instances: Instances
    taken: set[SandboxId] = field(default_factory=set)
    occupants: dict[SandboxId, tuple[ServiceName, InstanceId]] = field(default_factory=dict)
    tell: Callable[[SandboxId], None] = field(init=False)

    def bridges(self) -> list[Bridge]:
        return [BRIDGE]

    def socket(self) -> str:
        return "/somewhere/proxy"

    def proxy_chosen(self, port: int) -> None:
        self.instances.set_proxy_port(port)

    def handed_over(self, sandbox: SandboxId, *, done: bool) -> None:
        (self.taken.add if done else self.taken.discard)(sandbox)

    def on_occupied(self, tell: Callable[[SandboxId], None]) -> None:
        self.tell = tell

    def occupy(self, sandbox: SandboxId, service: str, instance: str) -> Occupant:
        """Put an instance into a sandbox; return what a proxy is to hear of it."""
        named = self.occupants[sandbox] = ServiceName(service), InstanceId(instance)
        self.tell(sandbox)
        return Occupant(sandbox=sandbox, service=named[0], instance=named[1])

    def occupant(self, sandbox: SandboxId) -> tuple[ServiceName, InstanceId] | None:
        return self.occupants.get(sandbox)


@dataclass
class Lab:
    machine: FakeMachine
    instances: Instances
    path: Path
    containers: "FakeContainers"

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
        containers = FakeContainers(instances)
        desk = LeaseDesk(instances, containers)
        await nursery.start(serve_control, path, dict, {"lease": desk.serve})
        with trio.fail_after(20):
            yield Lab(machine, instances, path, containers)
        nursery.cancel_scope.cancel()


async def test_a_proxy_is_told_the_bridge_and_instances_are_told_the_proxy(lab: Lab) -> None:
    async with open_control(lab.path, "lease") as connection:
        await connection.send(Hello(proxy_port=4711))
        welcome = await heard(connection)
    assert welcome == Welcome(bridges=(BRIDGE,), sandboxes="/somewhere/proxy", listen=True)
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
    async with lab.proxy() as good, lab.proxy() as bad:
        await bad.send({"kind": "nonsense"})
        assert await bad.receive() is None
        await good.send(Acquire(instance=instance))
        assert isinstance(await heard(good), Granted)


async def test_a_proxy_that_is_replaced_keeps_its_leases_and_meets_no_more_sandboxes(
    lab: Lab,
) -> None:
    instance = await lab.start()
    async with open_control(lab.path, "lease") as old, open_control(lab.path, "lease") as new:
        await old.send(Hello(proxy_port=4711))
        await heard(old)
        await old.send(Acquire(instance=instance))
        assert isinstance(await heard(old), Granted)
        await new.send(Hello(proxy_port=4711))
        assert isinstance(welcome := await heard(new), Welcome)
        assert not welcome.listen
        await old.send(Retiring())
        assert isinstance(welcome := await heard(new), Welcome)
        assert welcome.listen
        lab.instances.drain_outdated(ServiceName("hello"), 2)
        assert await heard(old) == Release(instance=instance)
        assert instance in lab.machine.instances
        await old.send(Released(instance=instance))
        await lab.gone(instance)


async def test_a_sandbox_stays_handed_over_whichever_proxy_is_heard_first(lab: Lab) -> None:
    async with lab.proxy() as old, lab.proxy() as new:
        for proxy in (old, new):
            await proxy.send(HandedOver(sandbox=S1))
            await proxy.send(WhoIsIn(sandbox=S1))
            assert isinstance(await heard(proxy), Occupant)
        await old.send(HandOverEnded(sandbox=S1))
        await old.send(WhoIsIn(sandbox=S1))
        assert isinstance(await heard(old), Occupant)
        assert S1 in lab.containers.taken
        await new.send(HandOverEnded(sandbox=S1))
        await new.send(WhoIsIn(sandbox=S1))
        assert isinstance(await heard(new), Occupant)
        assert S1 not in lab.containers.taken


async def test_one_proxy_meets_the_sandboxes_and_the_next_does_when_it_is_gone(lab: Lab) -> None:
    async with open_control(lab.path, "lease") as second:
        async with open_control(lab.path, "lease") as first:
            await first.send(Hello(proxy_port=4711))
            assert isinstance(welcome := await heard(first), Welcome)
            assert welcome.listen
            await second.send(Hello(proxy_port=4712))
            assert isinstance(welcome := await heard(second), Welcome)
            assert not welcome.listen
            assert welcome.sandboxes == "/somewhere/proxy"
        assert isinstance(welcome := await heard(second), Welcome)
        assert welcome.listen
    instance = await lab.start()
    assert lab.machine.instances[instance].launch.proxy_port == 4712


async def test_a_proxy_tells_in_which_sandboxes_it_answers_until_its_connection_ends(
    lab: Lab,
) -> None:
    async with lab.proxy() as proxy:
        for name in ("s1", "s2", "s3"):
            await proxy.send(HandedOver(sandbox=SandboxId(name)))
        await proxy.send(HandOverEnded(sandbox=SandboxId("s2")), WhoIsIn(sandbox=S1))
        assert await heard(proxy) == Occupant(sandbox=S1)
        assert lab.containers.taken == {"s1", "s3"}
    await trio.testing.wait_all_tasks_blocked(0.01)
    assert lab.containers.taken == set()


async def test_a_proxy_is_told_who_is_in_a_sandbox(lab: Lab) -> None:
    lab.containers.occupants[S1] = ServiceName("web"), InstanceId("i1")
    async with lab.proxy() as proxy:
        await proxy.send(WhoIsIn(sandbox=S1))
        answer = Occupant(sandbox=S1, service=ServiceName("web"), instance=InstanceId("i1"))
        assert await heard(proxy) == answer


async def test_who_answers_in_a_sandbox_is_told_unasked_who_is_in_it(lab: Lab) -> None:
    async with lab.proxy() as first, lab.proxy() as second:
        await first.send(HandedOver(sandbox=S1))
        while S1 not in lab.containers.taken:
            await trio.testing.wait_all_tasks_blocked(0.001)
        told = lab.containers.occupy(S1, "web", "i1")
        assert await heard(first) == told
        await second.send(HandedOver(sandbox=SandboxId("s2")))
        await second.send(WhoIsIn(sandbox=SandboxId("s2")))
        assert await heard(second) == Occupant(sandbox=SandboxId("s2"))


async def test_who_comes_to_answer_in_a_sandbox_is_told_who_is_in_it(lab: Lab) -> None:
    told = lab.containers.occupy(S1, "web", "i1")
    async with lab.proxy() as proxy:
        await proxy.send(HandedOver(sandbox=S1))
        assert await heard(proxy) == told


async def test_a_proxy_that_claims_endless_sandboxes_is_cut_off(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("allocator.serving.leases.MAX_SANDBOXES", 2)
    async with lab.proxy() as proxy:
        for name in ("s1", "s2", "s3"):
            await proxy.send(HandedOver(sandbox=SandboxId(name)))
        assert await proxy.receive() is None
    assert lab.containers.taken == set()
