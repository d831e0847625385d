"""Instances that rest, on a fake machine in virtual time."""

from collections.abc import AsyncIterator
from typing import Any

import pytest
import trio
import trio.testing
from trio.testing import MockClock

from allocator.errors import AllocatorError, InstanceGone, Refused, RuntimeDown
from allocator.instances.instances import Instances
from allocator.rules.admission import Limits
from allocator.rules.standby import Bounds
from allocator.testing import FakeRuntime, open_fake_machine
from allocator.testing_instances import (
    HELLO,
    READY_S,
    FakeHolder,
    Lab,
    id_of,
    record_of,
    revision,
)
from overlay.names import InstanceId
from overlay.records import InstanceState, Room
from overlay.revision import SignedRevision

READY, PAUSED, DRAINING = InstanceState.READY, InstanceState.PAUSED, InstanceState.DRAINING
RESTING = {"idle_pause_s": 10, "idle_stop_s": 100}


@pytest.fixture
async def lab() -> AsyncIterator[Lab]:
    async with open_fake_machine(listens=False) as machine:
        yield Lab(machine)


def resting(name: str = HELLO, **fields: Any) -> SignedRevision:
    return revision(name=name, **(RESTING | fields))


def states(instances: Instances) -> dict[str, str]:
    return {i["id"]: i["state"] for i in instances.status()["own_instances"]}


async def paused(instances: Instances, given: SignedRevision) -> InstanceId:
    """Have an instance started, and wait until it rests."""
    found = id_of(await instances.allocate(given))
    await trio.sleep(RESTING["idle_pause_s"] + 0.1)
    assert states(instances)[found] == "paused"
    return found


async def test_an_idle_instance_is_paused_exactly_after_its_time_and_stopped_later(
    lab: Lab, autojump_clock: MockClock
) -> None:
    async with lab.open() as instances:
        first = id_of(await instances.allocate(resting()))
        await trio.sleep(4)
        with instances.use.request(first):
            await trio.sleep(30)
        await trio.sleep(9.9)
        assert not lab.machine.instances[first].paused
        await trio.sleep(0.2)
        assert lab.machine.instances[first].paused
        await trio.sleep(89.7)
        assert first in lab.machine.instances
        await trio.sleep(0.3)
        assert lab.machine.removed == [first]
    assert lab.states(first)[-4:] == [READY, PAUSED, DRAINING, None]


async def test_an_allocation_wakes_the_paused_instance_within_the_call(
    lab: Lab, autojump_clock: MockClock
) -> None:
    lab.machine.start_s, lab.machine.resume_s = 1.0, 0.015
    async with lab.open() as instances:
        first = await paused(instances, resting())
        begun = trio.current_time()
        allocated = await instances.allocate(resting())
        assert trio.current_time() - begun == pytest.approx(0.015 + READY_S)
        assert record_of(allocated).id == first
        assert record_of(allocated).state is READY
        assert allocated.phases == pytest.approx({"queue": 0, "resume": 0.015, "ready": READY_S})
        assert len(lab.machine.starts) == 1
        value = lab.registry.get_sample_value
        assert value("myxo_allocator_allocations_total", {"result": "woken"}) == 1


async def test_who_waits_for_a_waking_when_the_allocator_stops_is_told_so(
    lab: Lab, autojump_clock: MockClock
) -> None:
    lab.machine.resume_s = 60.0
    why: list[AllocatorError] = []

    async def ask(instances: Instances) -> None:
        try:
            await instances.allocate(resting())
        except AllocatorError as exc:
            why.append(exc)

    async with trio.open_nursery() as nursery, lab.open() as instances:
        await paused(instances, resting())
        nursery.start_soon(ask, instances)
        await trio.sleep(1)
    assert [str(exc) for exc in why] == ["the allocator is stopping"]


async def test_fifty_callers_wake_it_once(lab: Lab, autojump_clock: MockClock) -> None:
    lab.machine.resume_s = 0.015
    got: set[InstanceId] = set()
    async with lab.open() as instances:
        first = await paused(instances, resting())

        async def ask() -> None:
            got.add(id_of(await instances.allocate(resting())))

        async with trio.open_nursery() as nursery:
            for _ in range(50):
                nursery.start_soon(ask)
        assert got == {first}
        assert lab.states(first)[-2:] == [PAUSED, READY]


async def test_a_paused_instance_is_published_with_what_resuming_it_takes(
    lab: Lab, autojump_clock: MockClock
) -> None:
    async with lab.open() as instances:
        await paused(instances, resting())
        record = lab.publisher.records[-1]
        assert record.state is PAUSED
        assert 0 < record.resume_s < 1
        assert record_of(await instances.allocate(resting())).resume_s == 0


async def test_an_instance_is_paused_only_when_every_lease_has_come_back(
    lab: Lab, autojump_clock: MockClock
) -> None:
    holder = FakeHolder()
    async with lab.open() as instances:
        first = id_of(await instances.allocate(resting()))
        instances.use.lease(first, holder)
        await trio.sleep(50)
        assert holder.asked == [first]
        assert lab.states(first)[-1] is PAUSED
        assert not lab.machine.instances[first].paused
        with pytest.raises(InstanceGone):
            instances.use.lease(first, FakeHolder())
        with pytest.raises(InstanceGone), instances.use.request(first):
            pass
        instances.use.released(first, holder)
        await trio.testing.wait_all_tasks_blocked()
        assert lab.machine.instances[first].paused


async def test_one_that_is_asked_for_while_a_lease_is_out_is_used_on_without_a_pause(
    lab: Lab, autojump_clock: MockClock
) -> None:
    holder = FakeHolder()
    lab.machine.resume_s = 1.0
    async with lab.open() as instances:
        first = id_of(await instances.allocate(resting()))
        instances.use.lease(first, holder)
        await trio.sleep(50)
        begun = trio.current_time()
        assert id_of(await instances.allocate(resting())) == first
        assert trio.current_time() == begun
        with instances.use.request(first):
            await trio.sleep(30)
            assert not lab.machine.instances[first].paused


async def test_one_that_is_asked_for_while_it_is_being_frozen_is_resumed_at_once(
    lab: Lab, autojump_clock: MockClock
) -> None:
    lab.machine.pause_s, lab.machine.resume_s = 1.0, 0.5
    async with lab.open() as instances:
        first = id_of(await instances.allocate(resting()))
        await trio.sleep(10.5)
        assert states(instances)[first] == "pausing"
        allocated = await instances.allocate(resting())
        assert id_of(allocated) == first
        assert not lab.machine.instances[first].paused
        assert lab.ledger.resting_mib() == 0
        assert instances.room().instances == 9


async def test_a_waking_leaves_the_start_of_another_instance_to_be_joined(
    lab: Lab, autojump_clock: MockClock
) -> None:
    lab.machine.start_s = 5.0
    async with lab.open() as instances, trio.open_nursery() as nursery:
        first = await paused(instances, resting())
        got: list[InstanceId] = []

        async def ask_for_another() -> None:
            got.append(id_of(await instances.allocate(resting(), {first})))

        nursery.start_soon(ask_for_another)
        await trio.sleep(1)
        await instances.awake(first)
        await ask_for_another()
        assert len(lab.machine.starts) == 2  # the first one's, and one for both who asked
        await trio.testing.wait_all_tasks_blocked()
        assert len(set(got)) == 1
        assert first not in got


async def test_a_waking_that_its_caller_cannot_use_is_not_joined(
    lab: Lab, autojump_clock: MockClock
) -> None:
    lab.machine.resume_s = 5.0
    async with lab.open() as instances, trio.open_nursery() as nursery:
        first = await paused(instances, resting())
        nursery.start_soon(instances.awake, first)
        await trio.sleep(1)
        assert id_of(await instances.allocate(resting(), {first})) != first


async def test_whoever_waits_for_one_that_becomes_outdated_is_told_that(
    lab: Lab, autojump_clock: MockClock
) -> None:
    lab.machine.pause_s = 1.0
    async with lab.open() as instances, trio.open_nursery() as nursery:
        await instances.allocate(resting())
        await trio.sleep(10.5)
        assert [*states(instances).values()] == ["pausing"]

        async def ask() -> None:
            with pytest.raises(Refused, match="not the newest"):
                await instances.allocate(resting())

        nursery.start_soon(ask)
        await trio.testing.wait_all_tasks_blocked()
        instances.drain_outdated(HELLO, 2)


async def test_one_that_is_woken_while_it_is_being_adopted_keeps_what_it_was_promised(
    lab: Lab, autojump_clock: MockClock
) -> None:
    class SlowToMeasure(FakeRuntime):
        async def memory_mib(self, instance: InstanceId) -> int:
            await trio.sleep(1)
            return await super().memory_mib(instance)

    given = resting(cpu_millicores=500)
    async with lab.open() as instances:
        first = await paused(instances, given)
        left = lab.machine.instances[first]
    left.ended, left.scope = trio.Event(), trio.CancelScope()
    lab.machine.instances[first] = left
    lab.runtime = SlowToMeasure
    async with lab.open() as instances:
        await trio.sleep(0.5)
        assert states(instances) == {first: "paused"}
        assert instances.room().cpu_millicores == 4000
        assert id_of(await instances.allocate(given)) == first
        assert instances.room().cpu_millicores == 3500
        assert lab.ledger.resting_mib() == 0


async def test_whoever_comes_to_a_paused_instance_by_the_gateway_wakes_it(
    lab: Lab, autojump_clock: MockClock
) -> None:
    async with lab.open() as instances:
        first = await paused(instances, resting())
        assert instances.use.rests(first)
        await instances.awake(first)
        with instances.use.request(first):
            pass
        with pytest.raises(InstanceGone):
            await instances.awake(InstanceId("nothing"))


async def test_a_paused_instance_that_its_caller_cannot_use_is_left_alone(
    lab: Lab, autojump_clock: MockClock
) -> None:
    async with lab.open() as instances:
        first = await paused(instances, resting())
        assert id_of(await instances.allocate(resting(), exclude={first})) != first


async def test_one_that_its_runtime_cannot_pause_runs_on_and_is_stopped_in_its_time(
    lab: Lab, autojump_clock: MockClock
) -> None:
    lab.machine.unpausable = "this kernel has no freezer"
    async with lab.open() as instances:
        first = id_of(await instances.allocate(resting()))
        await trio.sleep(50)
        assert states(instances)[first] == "ready"
        with instances.use.request(first):
            pass
        await trio.sleep(100.1)
        assert lab.machine.removed == [first]


async def test_an_allocator_without_standby_pauses_nothing(
    lab: Lab, autojump_clock: MockClock
) -> None:
    lab.standby = Bounds(memory_mib=100, instances=0)
    async with lab.open() as instances:
        first = id_of(await instances.allocate(resting()))
        await trio.sleep(50)
        assert states(instances)[first] == "ready"


async def test_one_that_ends_while_it_is_paused_is_withdrawn_and_the_next_call_starts_another(
    lab: Lab, autojump_clock: MockClock
) -> None:
    async with lab.open() as instances:
        first = await paused(instances, resting())
        lab.machine.instances[first].crash()
        await trio.testing.wait_all_tasks_blocked()
        assert lab.states(first)[-1] is None
        assert lab.ledger.resting_mib() == 0
        assert id_of(await instances.allocate(resting())) != first


async def test_where_one_does_not_come_back_another_is_started_within_the_call(
    lab: Lab, autojump_clock: MockClock
) -> None:
    async with lab.open() as instances:
        first = await paused(instances, resting())
        lab.machine.hangs.add(first)
        assert id_of(await instances.allocate(resting())) != first
        await trio.testing.wait_all_tasks_blocked()
        assert first not in lab.machine.instances


async def test_an_engine_that_is_down_when_one_is_woken_loses_nothing(
    lab: Lab, autojump_clock: MockClock
) -> None:
    async with lab.open() as instances:
        first = await paused(instances, resting())
        lab.machine.problem = "no engine answers"
        with pytest.raises(RuntimeDown):
            await instances.allocate(resting())
        assert states(instances)[first] == "paused"
        lab.machine.problem = ""
        assert id_of(await instances.allocate(resting())) == first


async def test_an_engine_that_is_down_when_one_should_rest_is_asked_again(
    lab: Lab, autojump_clock: MockClock
) -> None:
    async with lab.open() as instances:
        first = id_of(await instances.allocate(resting()))
        await trio.sleep(5)
        lab.machine.problem = "no engine answers"
        await trio.sleep(10)
        assert states(instances)[first] == "ready"
        lab.machine.problem = ""
        await trio.sleep(10)
        assert states(instances)[first] == "paused"


# room


async def test_what_rests_counts_as_room_and_its_memory_as_used(
    lab: Lab, autojump_clock: MockClock
) -> None:
    async with lab.open() as instances:
        first = await paused(instances, resting(cpu_millicores=3000, memory_mib=3000))
        assert instances.room() == Room(cpu_millicores=4000, memory_mib=4096, instances=10)
        assert lab.ledger.resting_mib() == lab.machine.instances[first].memory_mib
        assert instances.status()["standby"]["memory_mib"] == 8
        assert lab.registry.get_sample_value("myxo_allocator_standby_bytes") == 8 * 2**20


async def test_a_start_that_needs_the_room_gets_it_from_the_least_valuable(
    lab: Lab, autojump_clock: MockClock
) -> None:
    lab.limits = Limits(4000, 1000, 10)
    async with lab.open() as instances:
        small = await paused(instances, resting("small"))
        large = id_of(await instances.allocate(resting("large")))
        lab.machine.instances[large].memory_mib = 600
        await trio.sleep(10.1)
        await instances.allocate(resting("new", memory_mib=900))
        await trio.testing.wait_all_tasks_blocked()
        assert lab.machine.removed == [large]
        assert small in lab.machine.instances
        (gone,) = instances.status()["put_away"]
        assert (gone["id"], gone["why"]) == (large, "room_needed")


async def test_one_that_rests_is_not_woken_where_its_room_is_taken(
    lab: Lab, autojump_clock: MockClock
) -> None:
    async with lab.open() as instances:
        first = await paused(instances, resting(cpu_millicores=3000))
        await instances.allocate(resting("other", cpu_millicores=3000))
        with pytest.raises(Refused, match="millicores"):
            await instances.allocate(resting(cpu_millicores=3000))
        assert states(instances)[first] == "paused"


async def test_more_than_the_standby_holds_are_stopped_the_least_valuable_first(
    lab: Lab, autojump_clock: MockClock
) -> None:
    lab.standby = Bounds(memory_mib=1000, instances=2)
    async with lab.open() as instances:
        ids = [id_of(await instances.allocate(resting(name))) for name in ("a", "b", "c")]
        lab.machine.instances[ids[1]].memory_mib = 50
        await trio.sleep(11)
        assert lab.machine.removed == [ids[1]]
        assert sorted(states(instances).values()) == ["paused", "paused"]
        value = lab.registry.get_sample_value
        labels = {"how": "stopped", "why": "standby_full"}
        assert value("myxo_allocator_put_away_total", labels) == 1


# several instances


async def busy(instances: Instances, given: SignedRevision, count: int, seconds: float) -> None:
    """Keep `count` requests at once going for so long, each in the instance that it is given."""

    async def client() -> None:
        end = trio.current_time() + seconds
        while trio.current_time() < end:
            full = {
                i["id"]
                for i in instances.status()["own_instances"]
                if i["in_flight"] >= given.revision.spec.concurrency  # type: ignore[union-attr]
            }
            found = id_of(await instances.allocate(given, exclude=full))
            try:
                with instances.use.request(found):
                    await trio.sleep(0.5)
            except InstanceGone:
                continue

    async with trio.open_nursery() as nursery:
        for _ in range(count):
            nursery.start_soon(client)
            await trio.sleep(0.1)


async def test_the_instances_that_the_load_does_not_need_rest_although_none_is_idle(
    lab: Lab, autojump_clock: MockClock
) -> None:
    given = resting(concurrency=2)
    async with lab.open() as instances, trio.open_nursery() as nursery:
        await busy(instances, given, 5, 5)
        assert len(lab.machine.starts) >= 3

        async def keep_all_warm() -> None:
            while True:
                for i in instances.status()["own_instances"]:
                    if i["state"] == "ready":
                        with instances.use.request(i["id"]):
                            await trio.sleep(0.01)

        nursery.start_soon(keep_all_warm)
        await trio.sleep(60)
        assert list(states(instances).values()).count("ready") == 1
        assert "paused" in states(instances).values()
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize(
    ("high_s", "low_s", "most_pauses_a_period"), [(4, 4, 0), (5, 9, 0), (40, 40, 3), (20, 30, 3)]
)
async def test_a_load_that_comes_and_goes_flaps_no_instance(
    lab: Lab,
    autojump_clock: MockClock,
    high_s: float,
    low_s: float,
    most_pauses_a_period: int,
) -> None:
    given = resting(concurrency=1)
    periods = 6
    async with lab.open() as instances:
        for _ in range(periods):
            await busy(instances, given, 3, high_s)
            await trio.sleep(low_s)
        assert len(lab.machine.starts) <= 4
        pauses = lab.registry.get_sample_value
        counted = sum(
            pauses("myxo_allocator_put_away_total", {"how": "paused", "why": why}) or 0
            for why in ("idle", "surplus")
        )
        assert counted <= most_pauses_a_period * periods + 1


async def test_an_idle_time_that_is_next_to_nothing_breaks_no_count(
    lab: Lab, autojump_clock: MockClock
) -> None:
    given = revision(idle_pause_s=1e-320, idle_stop_s=1e-320)
    async with lab.open() as instances:
        await instances.allocate(given)
        await trio.sleep(10)
        await instances.allocate(given)
        assert len(lab.machine.removed) == 1
