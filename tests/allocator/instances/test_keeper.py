"""Allocators that keep what services want kept, on fake machines that see each other."""

from collections.abc import AsyncIterator, Iterable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from allocator.instances.instances import Instances
from allocator.instances.keeper import Keeper
from allocator.instances.keeping import SETTLE_S, TAKEOVER_S
from allocator.testing import FakeMachine, open_fake_machine
from allocator.testing_instances import HELLO, Lab, id_of, revision
from overlay.names import Digest, PeerId, ServiceName
from overlay.records import InstanceRecord, InstanceState, PeerRecord, Role, Version
from overlay.rendezvous import ranked
from overlay.revision import SignedRevision
from overlay.spec import Image
from overlay.view import InstanceView

STATES = {
    "ready": InstanceState.READY,
    "paused": InstanceState.PAUSED,
    "pausing": InstanceState.PAUSED,
    "resuming": InstanceState.PAUSED,
    "draining": InstanceState.DRAINING,
}


@dataclass
class Defined:
    """What services there are."""

    services: dict[ServiceName, SignedRevision] = field(default_factory=dict)

    def add(self, given: SignedRevision) -> None:
        self.services[given.revision.name] = given

    def get(self, name: ServiceName) -> SignedRevision | None:
        return self.services.get(name)

    def names(self) -> list[ServiceName]:
        return list(self.services)


@dataclass
class Machine:
    lab: Lab
    instances: Instances
    scope: trio.CancelScope
    keeper: Keeper = field(init=False)

    def count(self, service: str) -> int:
        rows = self.instances.status()["own_instances"]
        return sum(row["service"] == service for row in rows)

    def states(self) -> list[str]:
        return sorted(i["state"] for i in self.instances.status()["own_instances"])


@dataclass
class Network:
    """Machines that see each other without delay."""

    defined: Defined = field(default_factory=Defined)
    most_kept: int | None = None
    most_in_all: int = 5
    machines: dict[PeerId, Machine] = field(default_factory=dict)

    async def join(self, peer: PeerId, nursery: trio.Nursery, **machine: Any) -> Machine:
        return await nursery.start(self._run, peer, machine)  # type: ignore[no-any-return]

    async def _run(
        self,
        peer: PeerId,
        settings: dict[str, Any],
        *,
        task_status: trio.TaskStatus[Machine] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        async with AsyncExitStack() as stack:
            fake: FakeMachine = await stack.enter_async_context(open_fake_machine(listens=False))
            for name, value in settings.items():
                setattr(fake, name, value)
            lab = Lab(fake)
            scope = stack.enter_context(trio.CancelScope())
            instances = await stack.enter_async_context(lab.open())
            machine = self.machines[peer] = Machine(lab, instances, scope)
            keeper = Keeper(
                peer,
                instances,
                self.defined,
                self.allocators,
                self.there,
                lambda _: self.most_kept,
                self.most_in_all,
                stopwatch=lambda: 0.0,  # or the virtual time would depend on the real one
            )
            machine.keeper = keeper
            try:
                task_status.started(machine)
                await keeper.run()
            finally:
                del self.machines[peer]

    def allocators(self) -> dict[PeerId, PeerRecord]:
        return {
            peer: PeerRecord(
                version=Version(epoch=1, counter=1),
                role=Role.ALLOCATOR,
                host=peer,
                room=machine.instances.room(),
                runtimes=("docker",),
                platform="linux/amd64",
            )
            for peer, machine in self.machines.items()
        }

    def there(self, service: ServiceName) -> Iterable[InstanceView]:
        for peer, machine in self.machines.items():
            for row in machine.instances.status()["own_instances"]:
                record = InstanceRecord(
                    version=Version(epoch=1, counter=1),
                    id=row["id"],
                    service=row["service"],
                    revision=row["revision"],
                    state=STATES.get(row["state"], InstanceState.STARTING),
                    concurrency=1,
                )
                if record.service == service:
                    yield InstanceView(peer, record, 0.01, local=False, suspect=False)

    def total(self) -> list[str]:
        return sorted(state for m in self.machines.values() for state in m.states())

    def starts(self) -> int:
        return sum(len(m.lab.machine.starts) for m in self.machines.values())


@asynccontextmanager
async def network(*peers: str, **machine: Any) -> AsyncIterator[tuple[Network, trio.Nursery]]:
    found = Network()
    async with trio.open_nursery() as nursery:
        for peer in peers:
            await found.join(PeerId(peer), nursery, **machine)
        yield found, nursery
        nursery.cancel_scope.cancel()


def kept(minimum: int, **fields: Any) -> SignedRevision:
    return revision(min_instances=minimum, **({"idle_pause_s": 10, "idle_stop_s": 20} | fields))


async def test_what_a_service_wants_is_started_unasked_and_never_put_away(
    autojump_clock: MockClock,
) -> None:
    async with network("a", "b", "c") as (net, _):
        net.defined.add(kept(2))
        await trio.sleep(SETTLE_S - 1)
        assert net.total() == []
        await trio.sleep(1000)
        assert net.total() == ["ready", "ready"]
        assert net.starts() == 2


async def test_they_rest_if_the_service_says_so_and_are_kept_like_that(
    autojump_clock: MockClock,
) -> None:
    async with network("a", "b") as (net, _):
        net.defined.add(kept(2, min_state="paused"))
        await trio.sleep(1000)
        assert net.total() == ["paused", "paused"]
        assert net.starts() == 2


async def test_a_kept_one_that_rests_gives_no_room_to_others(autojump_clock: MockClock) -> None:
    async with network("a") as (net, _):
        net.defined.add(kept(1, min_state="paused"))
        await trio.sleep(100)
        (machine,) = net.machines.values()
        assert machine.instances.room().memory_mib == 4096 - 8
        assert machine.instances.room().instances == 9


async def test_what_is_wanted_running_is_woken(autojump_clock: MockClock) -> None:
    async with network("a") as (net, _):
        net.defined.add(kept(1, min_state="paused"))
        await trio.sleep(100)
        net.defined.add(kept(1))
        await trio.sleep(2)
        assert net.total() == ["ready"]
        assert net.starts() == 1


async def test_of_more_than_a_service_may_have_now_the_others_stay_as_they_are(
    autojump_clock: MockClock,
) -> None:
    lasting = {"idle_pause_s": 1000, "idle_stop_s": 5000}
    fewer = kept(2, number=2, takes_over=1, max_instances=2, **lasting)
    assert fewer.revision.spec is not None
    async with network("a", "b") as (net, _):
        net.defined.add(kept(4, **lasting))
        await trio.sleep(100)
        assert net.total() == ["ready"] * 4
        for machine in net.machines.values():
            machine.instances.adjust(HELLO, 1, fewer.revision.spec)
        net.defined.add(fewer)
        await trio.sleep(SETTLE_S - 1)
        assert len(net.total()) == 4
        await trio.sleep(3)
        assert net.total() == ["ready"] * 2
        await trio.sleep(1000)
        assert (net.total(), net.starts()) == (["ready"] * 2, 4)


async def test_what_many_started_at_once_comes_down_to_what_there_may_be(
    autojump_clock: MockClock,
) -> None:
    async with network("a", "b") as (net, _):
        wanted = revision(max_instances=1, idle_stop_s=1000)
        net.defined.add(wanted)
        for machine in net.machines.values():
            await machine.instances.allocate(wanted)
        assert net.total() == ["ready", "ready"]
        await trio.sleep(SETTLE_S + 2)
        assert net.total() == ["ready"]


async def test_when_a_keeper_goes_another_takes_over_and_when_it_comes_back_there_is_one(
    autojump_clock: MockClock,
) -> None:
    first, second = ranked(HELLO, [PeerId("a"), PeerId("b")])
    async with network("a", "b") as (net, nursery):
        net.defined.add(kept(1))
        await trio.sleep(20)
        assert net.machines[first].states() == ["ready"]
        net.machines[first].scope.cancel()
        await trio.sleep(10)
        assert net.machines[second].states() == ["ready"]
        await net.join(first, nursery)
        for _ in range(300):
            await trio.sleep(0.1)
            assert "ready" in net.total()
        assert net.machines[first].states() == ["ready"]
        assert net.machines[second].states() == []


async def test_where_the_keeper_cannot_another_stands_in_after_a_while(
    autojump_clock: MockClock,
) -> None:
    first, second = ranked(HELLO, [PeerId("a"), PeerId("b")])
    async with network("a", "b") as (net, _):
        net.machines[first].lab.machine.problem = "no engine answers"
        net.defined.add(kept(1))
        await trio.sleep(TAKEOVER_S - 2)
        assert net.total() == []
        await trio.sleep(10)
        assert net.machines[second].states() == ["ready"]


async def test_a_deleted_service_and_one_that_wants_none_any_more_are_let_go(
    autojump_clock: MockClock,
) -> None:
    async with network("a") as (net, _):
        net.defined.add(kept(1))
        await trio.sleep(20)
        net.defined.add(kept(0))
        await trio.sleep(22)
        assert net.total() == []
        net.defined.add(kept(1))
        await trio.sleep(20)
        net.defined.services.clear()
        await trio.sleep(22)
        assert net.total() == []


async def test_a_newcomer_to_many_services_starts_few_at_once(autojump_clock: MockClock) -> None:
    async with network("a", start_s=5.0) as (net, _):
        for n in range(6):
            net.defined.add(kept(1, name=f"service-{n}"))
        await trio.sleep(SETTLE_S + 3)
        assert net.total().count("starting") <= 2
        await trio.sleep(60)
        assert net.total() == ["ready"] * 6


async def test_images_that_come_slowly_are_in_no_other_services_way(
    autojump_clock: MockClock,
) -> None:
    slow = Image(reference="slow", config_digest=Digest("sha256:" + "1" * 64))
    absent = {slow.config_digest}
    async with network("a", absent=absent, pullable=absent, pull_s=1000.0) as (net, _):
        for n in range(4):
            net.defined.add(kept(1, name=f"slow-{n}", image=slow))
        await trio.sleep(SETTLE_S + 5)
        net.defined.add(kept(3))
        await trio.sleep(SETTLE_S + 5)
        assert net.total().count("ready") == 3
        await trio.sleep(1010)
        assert net.total() == ["ready"] * 7


async def test_what_came_while_a_start_waited_for_its_place_is_not_started_again(
    autojump_clock: MockClock,
) -> None:
    async with network("a", start_s=5.0) as (net, _):
        for n in range(2):
            net.defined.add(kept(1, name=f"service-{n}"))
        await trio.sleep(1.5)
        net.defined.add(kept(1))
        await trio.sleep(SETTLE_S + 1)  # it is due from now on, and there is no place for it
        assert net.total().count("starting") == 2
        (machine,) = net.machines.values()
        machine.lab.machine.start_s = 0.1
        await machine.instances.allocate(kept(1))
        await trio.sleep(60)
        assert net.total() == ["ready"] * 3
        assert net.starts() == 3


async def test_services_take_turns_at_the_places(autojump_clock: MockClock) -> None:
    async with network("a", start_s=1.0) as (net, _):
        net.defined.add(kept(3, name="many"))
        net.defined.add(kept(3, name="as-many"))
        net.defined.add(kept(1, name="one"))
        await trio.sleep(SETTLE_S + 3.5)
        (machine,) = net.machines.values()
        assert [s.service for s in machine.lab.machine.starts if s.service == "one"] == ["one"]


async def test_one_that_crashes_is_replaced_and_one_that_crashes_always_is_not_hammered(
    autojump_clock: MockClock,
) -> None:
    async with network("a") as (net, _):
        net.defined.add(kept(1))
        await trio.sleep(20)
        (machine,) = net.machines.values()
        (found,) = machine.lab.machine.instances.values()
        found.crash()
        await trio.sleep(10)
        assert net.total() == ["ready"]
        net.defined.add(kept(1, name="broken", command="exit 3"))
        before = net.starts()
        await trio.sleep(600)
        assert net.starts() - before <= 600 / 6 + 5


@pytest.mark.parametrize("minimum", [1, 3])
async def test_an_instance_that_requests_brought_counts(
    autojump_clock: MockClock, minimum: int
) -> None:
    async with network("a") as (net, _):
        (machine,) = net.machines.values()
        await machine.instances.allocate(kept(minimum))
        net.defined.add(kept(minimum))
        await trio.sleep(100)
        assert net.starts() == minimum


async def test_only_machines_that_may_run_it_keep_it(autojump_clock: MockClock) -> None:
    async with network("a", "b", "c") as (net, _):
        net.defined.add(kept(2, constraints={"host": ["b"]}))
        await trio.sleep(100)
        assert net.machines[PeerId("b")].states() == ["ready", "ready"]
        assert net.starts() == 2


async def test_no_more_are_kept_for_an_owner_than_it_may_have_and_what_is_not_is_told(
    autojump_clock: MockClock,
) -> None:
    async with network("a") as (net, _):
        net.most_kept = 3
        (machine,) = net.machines.values()
        net.defined.add(kept(2))
        await trio.sleep(20)
        assert machine.keeper.status() == []
        net.defined.add(kept(4, name="another"))
        net.defined.add(kept(2, name="and-another"))
        await trio.sleep(100)
        assert net.total() == ["ready"] * 3
        assert {s: machine.count(s) for s in (HELLO, "another")} == {HELLO: 2, "another": 1}
        withheld = {row["service"]: row["withheld"] for row in machine.keeper.status()}
        assert withheld == {"another": 3, "and-another": 2}
        net.most_kept = None
        await trio.sleep(100)
        assert net.total() == ["ready"] * 8
        assert machine.keeper.status() == []


async def test_an_instance_beyond_what_may_be_kept_is_put_away_like_any_other(
    autojump_clock: MockClock,
) -> None:
    async with network("a") as (net, _):
        net.most_kept = 1
        (machine,) = net.machines.values()
        net.defined.add(kept(2))
        first = await machine.instances.allocate(kept(2))
        await machine.instances.allocate(kept(2), exclude={id_of(first)})
        await trio.sleep(100)
        assert net.total() == ["ready"]
        assert net.starts() == 2


async def test_what_a_machine_may_not_keep_another_one_keeps(autojump_clock: MockClock) -> None:
    async with network("a", "b") as (net, _):
        net.most_kept = 2
        net.defined.add(kept(4))
        await trio.sleep(100)
        assert [len(m.states()) for m in net.machines.values()] == [2, 2]
