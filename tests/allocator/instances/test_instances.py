from collections.abc import AsyncIterator

import pytest
import trio
import trio.testing
from trio.testing import MockClock

from allocator.errors import (
    AllocatorError,
    Exited,
    ImageMissing,
    InstanceGone,
    NotReady,
    Refused,
    RuntimeDown,
)
from allocator.instances.crashes import FAILURES
from allocator.instances.instances import Instances
from allocator.rules.admission import Limits
from allocator.testing import FakeRuntime, open_fake_machine
from allocator.testing_instances import (
    HELLO,
    IMAGE,
    OWNER,
    FakeHolder,
    Lab,
    id_of,
    record_of,
    revision,
)
from overlay.allocation import AllocationRefusal
from overlay.names import InstanceId
from overlay.records import InstanceState
from overlay.revision import Revision, SignedRevision
from overlay.spec import ServiceSpec

READY, DRAINING = InstanceState.READY, InstanceState.DRAINING


@pytest.fixture
async def lab() -> AsyncIterator[Lab]:
    async with open_fake_machine(listens=False) as machine:
        yield Lab(machine)


async def refused_with(instances: Instances, given: SignedRevision) -> AllocatorError:
    with pytest.raises(AllocatorError) as caught:
        await instances.allocate(given)
    return caught.value


# starting


async def test_an_allocation_answers_with_a_ready_instance_and_where_the_time_went(
    lab: Lab, autojump_clock: MockClock
) -> None:
    lab.machine.create_s, lab.machine.start_s = 0.01, 0.2
    async with lab.open() as instances:
        begun = trio.current_time()
        allocated = await instances.allocate(revision(concurrency=7))
        assert trio.current_time() - begun == pytest.approx(0.26)
        record = record_of(allocated)
    assert (record.service, record.revision, record.state) == (HELLO, 1, READY)
    assert record.concurrency == 7
    assert record.address
    assert allocated.phases == pytest.approx(
        {"queue": 0, "create": 0.01, "start": 0.2, "ready": 0.05}
    )


async def test_fifty_callers_at_once_get_one_start(lab: Lab, autojump_clock: MockClock) -> None:
    lab.machine.start_s = 0.2
    got: list[InstanceId] = []
    async with lab.open() as instances:

        async def ask() -> None:
            got.append(id_of(await instances.allocate(revision())))

        async with trio.open_nursery() as nursery:
            for _ in range(50):
                nursery.start_soon(ask)
        assert len(lab.machine.starts) == 1
    assert len(got) == 50
    assert len(set(got)) == 1


async def test_callers_that_give_up_do_not_end_the_start_that_others_wait_for(
    lab: Lab, autojump_clock: MockClock
) -> None:
    lab.machine.start_s = 1.0
    async with lab.open() as instances:
        with trio.move_on_after(0.1):
            await instances.allocate(revision())
        await instances.allocate(revision())
        assert len(lab.machine.starts) == 1


async def test_a_ready_instance_is_handed_out_without_a_start(
    lab: Lab, autojump_clock: MockClock
) -> None:
    async with lab.open() as instances:
        first = await instances.allocate(revision())
        second = await instances.allocate(revision())
        assert id_of(first) == id_of(second)
        assert second.phases == {}


async def test_an_excluded_instance_is_not_handed_out_and_another_one_starts(
    lab: Lab, autojump_clock: MockClock
) -> None:
    async with lab.open() as instances:
        first = id_of(await instances.allocate(revision()))
        second = id_of(await instances.allocate(revision(), exclude={first}))
        assert first != second
        assert id_of(await instances.allocate(revision(), exclude={second})) == first


async def test_a_full_instance_is_not_handed_out(lab: Lab, autojump_clock: MockClock) -> None:
    async with lab.open() as instances:
        first = id_of(await instances.allocate(revision(concurrency=1)))
        with instances.use.request(first):
            second = id_of(await instances.allocate(revision(concurrency=1)))
        assert first != second


async def test_each_revision_has_its_own_instances(lab: Lab, autojump_clock: MockClock) -> None:
    async with lab.open() as instances:
        first = id_of(await instances.allocate(revision(1)))
        second = id_of(await instances.allocate(revision(2)))
        assert first != second


async def test_a_start_that_takes_long_is_published_while_it_lasts(
    lab: Lab, autojump_clock: MockClock
) -> None:
    lab.machine.create_s = 5.0
    async with lab.open() as instances, trio.open_nursery() as nursery:
        nursery.start_soon(instances.allocate, revision())
        await trio.sleep(1)
        ((instance, state),) = lab.publisher.said
        assert state is InstanceState.STARTING
        await trio.sleep(10)
        assert lab.states(instance) == [InstanceState.STARTING, READY]


async def test_a_quick_start_is_published_once_when_it_is_ready(
    lab: Lab, autojump_clock: MockClock
) -> None:
    lab.machine.create_s = 0.05
    async with lab.open() as instances:
        instance = id_of(await instances.allocate(revision()))
        await trio.sleep(10)
        assert lab.states(instance) == [READY]


# refusals


async def test_no_room_is_refused_and_an_ended_instance_gives_its_room_back(
    lab: Lab, autojump_clock: MockClock
) -> None:
    async with lab.open() as instances:
        first = id_of(await instances.allocate(revision(cpu_millicores=3000)))
        assert instances.room().cpu_millicores == 1000
        error = await refused_with(instances, revision(name="other", cpu_millicores=2000))
        assert error.code is AllocationRefusal.NO_ROOM
        lab.machine.instances[first].crash()
        await trio.testing.wait_all_tasks_blocked()
        assert instances.room().cpu_millicores == 4000
        await instances.allocate(revision(name="other", cpu_millicores=2000))


async def test_a_missing_image_is_pulled_where_it_can_be(
    lab: Lab, autojump_clock: MockClock
) -> None:
    lab.machine.absent = {IMAGE.config_digest}
    lab.machine.pull_s = 3.0
    async with lab.open() as instances:
        error = await refused_with(instances, revision())
        assert isinstance(error, ImageMissing)
        assert error.code is AllocationRefusal.IMAGE_MISSING
        lab.machine.pullable = {IMAGE.config_digest}
        allocated = await instances.allocate(revision())
        assert allocated.phases["image"] == pytest.approx(3.0)


async def test_a_runtime_that_is_down_is_told_and_used_again_when_it_is_back(
    lab: Lab, autojump_clock: MockClock
) -> None:
    async with lab.open() as instances:
        lab.machine.problem = "no engine answers"
        error = await refused_with(instances, revision())
        assert isinstance(error, RuntimeDown)
        assert str(error) == "no engine answers"
        lab.machine.problem = ""
        await instances.allocate(revision())


async def test_a_service_for_a_runtime_that_is_not_here_is_refused(
    lab: Lab, autojump_clock: MockClock
) -> None:
    own = SignedRevision.sign(
        OWNER, Revision(name=HELLO, number=1, spec=ServiceSpec(process="exec server"))
    )
    async with lab.open() as instances:
        assert (await refused_with(instances, own)).code is AllocationRefusal.NOT_ALLOWED


async def test_max_instances_counts_the_whole_network(lab: Lab, autojump_clock: MockClock) -> None:
    lab.elsewhere = 2
    async with lab.open() as instances:
        first = id_of(await instances.allocate(revision(max_instances=3)))
        with pytest.raises(Refused, match="max_instances"):
            await instances.allocate(revision(max_instances=3), exclude={first})


async def test_what_never_listens_is_given_up_with_its_log_and_leaves_nothing(
    lab: Lab, autojump_clock: MockClock
) -> None:
    async with lab.open() as instances:
        begun = trio.current_time()
        error = await refused_with(instances, revision(command="hang", ready_timeout_s=7))
        assert trio.current_time() - begun == pytest.approx(7)
        assert isinstance(error, NotReady)
        assert "within 7 s" in str(error)
        await trio.testing.wait_all_tasks_blocked()
        assert not lab.machine.instances
        assert instances.room().instances == 10


async def test_what_ends_at_once_is_told_with_code_and_log(
    lab: Lab, autojump_clock: MockClock
) -> None:
    async with lab.open() as instances:
        error = await refused_with(instances, revision(command="exit 3 no such file"))
        assert isinstance(error, Exited)
        assert (error.exit_code, error.log) == (3, "no such file")
        await trio.sleep(10)
        assert lab.publisher.said == []  # nobody had heard of it yet


async def test_what_fails_again_and_again_is_refused_for_a_while(
    lab: Lab, autojump_clock: MockClock
) -> None:
    failing = revision(command="exit 3")
    async with lab.open() as instances:
        for _ in range(FAILURES):
            await refused_with(instances, failing)
        error = await refused_with(instances, failing)
        assert isinstance(error, Refused)
        assert len(lab.machine.starts) == FAILURES
        await trio.sleep(31)
        assert isinstance(await refused_with(instances, failing), Exited)


# ends


async def test_a_preemptible_instance_gives_its_room_up_at_once_and_ends_what_it_is_at(
    lab: Lab, autojump_clock: MockClock
) -> None:
    lab.limits = Limits(1000, 4096, 10)
    lab.machine.create_s, lab.machine.ends_s = 0.2, 3.0
    worker = revision(name="worker", cpu_millicores=1000, preempt_grace_s=5)
    holder = FakeHolder()
    async with lab.open() as instances:
        first = id_of(await instances.allocate(worker))
        instances.use.lease(first, holder)
        instances.use.report(first, holder, 1, 0)
        assert instances.room().fits(ServiceSpec(image=IMAGE, cpu_millicores=1000))
        begun = trio.current_time()
        await instances.allocate(revision(cpu_millicores=1000))
        assert trio.current_time() - begun == pytest.approx(0.25)  # as on an empty machine
        assert lab.states(first)[-1] == DRAINING
        assert holder.asked == [first]
        assert first in lab.machine.instances
        await trio.sleep(3)
        assert lab.machine.removed == [first]
        assert lab.states(first)[-1] is None
        error = await refused_with(instances, worker)
        assert isinstance(error, Refused)
        assert error.code is AllocationRefusal.NO_ROOM
        assert [gone["why"] for gone in instances.status()["put_away"]] == ["preempted"]


async def test_a_preemptible_instance_has_so_long_and_no_longer(
    lab: Lab, autojump_clock: MockClock
) -> None:
    lab.limits = Limits(1000, 4096, 10)
    lab.machine.ends_s = 60.0
    async with lab.open() as instances:
        worker = revision(name="worker", cpu_millicores=1000, preempt_grace_s=5)
        first = id_of(await instances.allocate(worker))
        with instances.use.request(first):
            await instances.allocate(revision(cpu_millicores=1000))
            await trio.sleep(4.5)
            assert first in lab.machine.instances
            await trio.sleep(1)
            assert first not in lab.machine.instances


async def test_a_resting_service_takes_its_room_back_from_a_preemptible_one(
    lab: Lab, autojump_clock: MockClock
) -> None:
    lab.limits = Limits(1000, 4096, 10)
    service = revision(cpu_millicores=1000, idle_pause_s=1)
    async with lab.open() as instances:
        rests = id_of(await instances.allocate(service))
        await trio.sleep(2)
        worker = revision(name="worker", cpu_millicores=1000, preempt_grace_s=5)
        first = id_of(await instances.allocate(worker))
        assert id_of(await instances.allocate(service)) == rests
        await trio.sleep(1)
        assert lab.machine.removed == [first]


async def test_a_crash_withdraws_the_instance_at_once_and_the_next_call_starts_another(
    lab: Lab, autojump_clock: MockClock
) -> None:
    async with lab.open() as instances:
        first = id_of(await instances.allocate(revision()))
        lab.machine.instances[first].crash()
        await trio.testing.wait_all_tasks_blocked()
        assert lab.states(first)[-1] is None
        with pytest.raises(InstanceGone), instances.use.request(first):
            pass
        assert id_of(await instances.allocate(revision())) != first


async def test_a_crash_tells_whoever_holds_a_lease(lab: Lab, autojump_clock: MockClock) -> None:
    holder = FakeHolder()
    async with lab.open() as instances:
        first = id_of(await instances.allocate(revision()))
        instances.use.lease(first, holder)
        lab.machine.instances[first].crash()
        await trio.testing.wait_all_tasks_blocked()
        assert holder.asked == [first]


async def test_an_idle_instance_stops_exactly_after_its_time(
    lab: Lab, autojump_clock: MockClock
) -> None:
    async with lab.open() as instances:
        first = id_of(await instances.allocate(revision(idle_stop_s=10)))
        await trio.sleep(4)
        with instances.use.request(first):
            await trio.sleep(30)
        await trio.sleep(9.9)
        assert first in lab.machine.instances
        await trio.sleep(0.2)
        assert lab.machine.removed == [first]
        assert lab.states(first)[-2:] == [DRAINING, None]


async def test_requests_that_come_and_go_keep_an_instance(
    lab: Lab, autojump_clock: MockClock
) -> None:
    async with lab.open() as instances:
        first = id_of(await instances.allocate(revision(idle_stop_s=10)))
        for _ in range(20):
            await trio.sleep(9)
            with instances.use.request(first):
                pass
        assert first in lab.machine.instances


async def test_a_request_in_flight_holds_an_outdated_instance_until_it_ends(
    lab: Lab, autojump_clock: MockClock
) -> None:
    async with lab.open() as instances:
        first = id_of(await instances.allocate(revision(1)))
        with instances.use.request(first):
            instances.drain_outdated(HELLO, 2)
            await trio.sleep(1000)
            assert first in lab.machine.instances
            with pytest.raises(InstanceGone, match="draining"), instances.use.request(first):
                pass
        await trio.testing.wait_all_tasks_blocked()
        assert first not in lab.machine.instances


async def test_the_newest_revision_and_other_services_are_not_drained(
    lab: Lab, autojump_clock: MockClock
) -> None:
    async with lab.open() as instances:
        newest = id_of(await instances.allocate(revision(2)))
        other = id_of(await instances.allocate(revision(1, name="other")))
        instances.drain_outdated(HELLO, 2)
        await trio.sleep(1)
        assert {newest, other} == set(lab.machine.instances)
        instances.drain_outdated(HELLO, None)
        await trio.sleep(1)
        assert {other} == set(lab.machine.instances)


async def test_instances_that_a_later_revision_takes_over_serve_it_and_go_by_its_numbers(
    lab: Lab, autojump_clock: MockClock
) -> None:
    later = revision(3, takes_over=1, idle_stop_s=10, concurrency=7)
    assert later.revision.spec is not None
    async with lab.open() as instances:
        first = id_of(await instances.allocate(revision(1, concurrency=1)))
        instances.drain_outdated(HELLO, later.revision.generation)
        instances.adjust(HELLO, later.revision.generation, later.revision.spec)
        found = record_of(await instances.allocate(later))
        assert (found.id, found.revision, found.concurrency) == (first, 1, 7)
        await trio.sleep(9)
        assert first in lab.machine.instances
        await trio.sleep(2)
        assert first not in lab.machine.instances


async def test_a_new_instance_is_of_the_generation_that_its_revision_goes_on(
    lab: Lab, autojump_clock: MockClock
) -> None:
    async with lab.open() as instances:
        later = revision(3, takes_over=1)
        assert record_of(await instances.allocate(later)).revision == 1
        assert instances.outlook(HELLO, later.revision.generation).ready


async def test_of_too_many_the_idle_ones_are_let_go(lab: Lab, autojump_clock: MockClock) -> None:
    async with lab.open() as instances:
        busy = id_of(await instances.allocate(revision()))
        idle = id_of(await instances.start_another(revision()))
        with instances.use.request(busy):
            instances.let_go(HELLO, 1, 1)
            await trio.testing.wait_all_tasks_blocked()
            await trio.sleep(1)
            assert (busy in lab.machine.instances, idle in lab.machine.instances) == (True, False)


async def test_a_lease_keeps_an_instance_until_it_is_given_back(
    lab: Lab, autojump_clock: MockClock
) -> None:
    holder = FakeHolder()
    async with lab.open() as instances:
        first = id_of(await instances.allocate(revision(idle_stop_s=10)))
        assert instances.use.lease(first, holder) == lab.machine.instances[first].address
        await trio.sleep(100)
        assert holder.asked == [first]
        assert first in lab.machine.instances
        with pytest.raises(InstanceGone):
            instances.use.lease(first, FakeHolder())
        instances.use.released(first, holder)
        await trio.testing.wait_all_tasks_blocked()
        assert first not in lab.machine.instances


async def test_what_a_lease_holder_reports_counts_as_use(
    lab: Lab, autojump_clock: MockClock
) -> None:
    holder = FakeHolder()
    async with lab.open() as instances:
        first = id_of(await instances.allocate(revision(idle_stop_s=10)))
        instances.use.lease(first, holder)
        instances.use.report(first, holder, in_flight=2, served=0)
        await trio.sleep(100)
        assert instances.use.load() == {first: 2}
        assert holder.asked == []
        instances.use.report(first, holder, in_flight=0, served=2)
        await trio.sleep(9.9)
        assert holder.asked == []
        await trio.sleep(0.2)
        assert holder.asked == [first]


async def test_a_lease_holder_that_is_gone_holds_nothing(
    lab: Lab, autojump_clock: MockClock
) -> None:
    holder = FakeHolder()
    async with lab.open() as instances:
        first = id_of(await instances.allocate(revision(idle_stop_s=10)))
        instances.use.lease(first, holder)
        instances.use.report(first, holder, in_flight=5, served=0)
        instances.use.release_all(holder)
        assert instances.use.load() == {first: 0}
        await trio.sleep(10.1)
        assert first not in lab.machine.instances


@pytest.mark.parametrize("offset", [-0.001, 0.0, 0.001])
async def test_no_request_is_cut_at_the_moment_an_idle_instance_stops(
    lab: Lab, autojump_clock: MockClock, offset: float
) -> None:
    async with lab.open() as instances:
        first = id_of(await instances.allocate(revision(idle_stop_s=10)))
        begun = trio.current_time()
        await trio.sleep_until(begun + 10 + offset)
        try:
            with instances.use.request(first):
                await trio.sleep(5)
                assert first in lab.machine.instances
        except InstanceGone:
            assert offset >= 0
            assert id_of(await instances.allocate(revision(idle_stop_s=10))) != first


# the allocator's own end and return


async def test_a_clean_stop_removes_what_runs_and_withdraws_it(
    lab: Lab, autojump_clock: MockClock
) -> None:
    async with lab.open() as instances:
        first = id_of(await instances.allocate(revision()))
        second = id_of(await instances.allocate(revision(name="other")))
    assert not lab.machine.instances
    assert {first, second} == set(lab.machine.removed)
    assert lab.states(first)[-2:] == [DRAINING, None]


async def test_a_start_of_an_outdated_revision_is_broken_off_and_whoever_waits_is_told(
    lab: Lab, autojump_clock: MockClock
) -> None:
    lab.machine.start_s = 100.0
    async with lab.open() as instances, trio.open_nursery() as nursery:
        begun = trio.current_time()

        async def ask() -> None:
            error = await refused_with(instances, revision(1))
            assert error.code is AllocationRefusal.BAD_REVISION
            assert "not the newest" in str(error)
            assert trio.current_time() - begun == pytest.approx(1)

        nursery.start_soon(ask)
        await trio.sleep(1)
        instances.drain_outdated(HELLO, 2)
        await trio.testing.wait_all_tasks_blocked()
        assert not lab.machine.instances
        assert instances.room().instances == 10
        assert lab.registry.get_sample_value("myxo_allocator_crashes_total") == 0


async def test_a_clean_stop_waits_for_requests_only_so_long(
    lab: Lab, autojump_clock: MockClock
) -> None:
    async with lab.open() as instances:
        first = id_of(await instances.allocate(revision()))
        instances.use.request(first).__enter__()
        begun = trio.current_time()
    assert trio.current_time() - begun < 5
    assert not lab.machine.instances


async def test_a_stop_during_a_start_leaves_nothing_and_tells_who_waits(
    lab: Lab, autojump_clock: MockClock
) -> None:
    lab.machine.start_s = 1000.0
    async with trio.open_nursery() as nursery, lab.open() as instances:

        async def ask() -> None:
            with pytest.raises(Refused, match="stopping"):
                await instances.allocate(revision())

        nursery.start_soon(ask)
        await trio.sleep(1)
    assert not lab.machine.instances


async def test_a_restart_adopts_what_still_answers_and_removes_what_does_not(
    lab: Lab, autojump_clock: MockClock
) -> None:
    async with lab.open() as instances:
        kept = id_of(await instances.allocate(revision(idle_stop_s=100, cpu_millicores=500)))
        survivor = lab.machine.instances[kept]
        survivor_ended = survivor.ended
    lab.machine.instances[kept] = survivor
    survivor.ended, survivor.scope = trio.Event(), trio.CancelScope()
    assert survivor_ended.is_set()
    async with lab.open() as instances:
        await trio.sleep(0.1)
        assert id_of(await instances.allocate(revision(idle_stop_s=100))) == kept
        assert instances.room().cpu_millicores == 3500
        assert len(lab.machine.starts) == 1
        await trio.sleep(100)
        assert kept not in lab.machine.instances


async def test_what_could_not_be_removed_goes_when_the_engine_is_back(
    lab: Lab, autojump_clock: MockClock
) -> None:
    async with lab.open() as instances:
        first = id_of(await instances.allocate(revision(idle_stop_s=10)))
        await trio.sleep(9)
        lab.machine.problem = "no engine answers"
        await trio.sleep(10)
        assert lab.states(first)[-1] is None
        assert first in lab.machine.instances
        lab.machine.problem = ""
        await trio.sleep(5)
        assert first not in lab.machine.instances


async def test_the_metrics_follow_the_instances(lab: Lab, autojump_clock: MockClock) -> None:
    async with lab.open() as instances:
        first = id_of(await instances.allocate(revision(idle_stop_s=10)))
        await instances.allocate(revision(idle_stop_s=10))
        value = lab.registry.get_sample_value
        assert value("myxo_allocator_allocations_total", {"result": "ready"}) == 1
        assert value("myxo_allocator_allocations_total", {"result": "found"}) == 1
        assert value("myxo_allocator_instances", {"state": "ready"}) == 1
        assert value("myxo_allocator_instances", {"state": "starting"}) == 0
        with instances.use.request(first):
            assert value("myxo_allocator_in_flight_requests") == 1
        assert value("myxo_allocator_in_flight_requests") == 0
        await trio.sleep(20)
        assert value("myxo_allocator_instances", {"state": "ready"}) == 0
        assert value("myxo_allocator_instances", {"state": "draining"}) == 0


async def test_a_bug_that_one_instance_meets_ends_no_other(
    lab: Lab, autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with lab.open() as instances:
        kept = await instances.allocate(revision())
        with monkeypatch.context() as patched:

            async def fail(*_: object) -> None:
                raise ValueError("embedded null byte")

            patched.setattr(FakeRuntime, "create", fail)
            error = await refused_with(instances, revision(name="other"))
            assert "a fault of its own" in str(error)
        assert (await instances.allocate(revision())).record == kept.record
        await instances.allocate(revision(name="other"))
