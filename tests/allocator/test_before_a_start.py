"""What stands in front of a start: the operator's rules, and the turn among other starts."""

from collections.abc import AsyncIterator
from contextlib import suppress

import pytest
import trio
import trio.testing
from trio.testing import MockClock

from allocator.errors import AllocatorError, Refused
from allocator.instances.crashes import FAILURES
from allocator.instances.instances import Instances
from allocator.rules.admission import Limits
from allocator.rules.policy import Listed, Quota, Rules
from allocator.rules.turns import MAX_WAIT_S
from allocator.testing import open_fake_machine
from allocator.testing_instances import IMAGE, Lab, revision
from overlay.allocation import AllocationRefusal
from overlay.identity import Identity
from overlay.names import PeerId
from overlay.revision import SignedRevision


@pytest.fixture
async def lab() -> AsyncIterator[Lab]:
    async with open_fake_machine(listens=False) as machine:
        yield Lab(machine)


async def outcome_of(instances: Instances, given: SignedRevision) -> None:
    """Ask, and let a refusal be one."""
    with suppress(AllocatorError):
        await instances.allocate(given)


async def refused_with(instances: Instances, given: SignedRevision) -> AllocatorError:
    with pytest.raises(AllocatorError) as caught:
        await instances.allocate(given)
    return caught.value


async def test_another_owners_start_waits_for_one_turn_and_not_for_a_flood(
    lab: Lab, autojump_clock: MockClock
) -> None:
    lab.machine.start_s = 1.0
    lab.limits = Limits(4000, 4096, 200)
    mad = Identity.generate()
    lab.parallel_starts = 2
    async with lab.open() as instances, trio.open_nursery() as nursery:
        for n in range(100):
            nursery.start_soon(outcome_of, instances, revision(name=f"mad-{n}", owner=mad))
        await trio.testing.wait_all_tasks_blocked()
        begun = trio.current_time()
        await instances.allocate(revision())
        assert trio.current_time() - begun < 2.1
        assert len(lab.machine.starts) <= 6
        nursery.cancel_scope.cancel()


async def test_what_has_not_begun_is_dropped_when_nobody_waits_and_what_has_goes_on(
    lab: Lab, autojump_clock: MockClock
) -> None:
    lab.machine.start_s = 1.0
    lab.parallel_starts = 1
    async with lab.open() as instances:
        with trio.move_on_after(0.5):
            async with trio.open_nursery() as nursery:
                for n in range(5):
                    nursery.start_soon(instances.allocate, revision(name=f"s{n}"))
        await trio.sleep(10)
        assert {launch.service for launch in lab.machine.starts} == instances.services()
        assert len(lab.machine.starts) == 1
        assert instances.room().instances == 9


@pytest.mark.parametrize("somebody_stays", [False, True])
async def test_a_start_that_nobody_waits_for_any_more_ends_with_its_pull(
    lab: Lab, autojump_clock: MockClock, somebody_stays: bool
) -> None:
    lab.machine.absent, lab.machine.pullable = {IMAGE.config_digest}, {IMAGE.config_digest}
    lab.machine.pull_s = 5.0
    async with lab.open() as instances, trio.open_nursery() as nursery:
        if somebody_stays:
            nursery.start_soon(instances.allocate, revision())
        with trio.move_on_after(1):
            await instances.allocate(revision())
        await trio.sleep(10)
        assert len(lab.machine.starts) == somebody_stays
        assert not lab.machine.absent
        assert instances.room().instances == 10 - somebody_stays


async def test_a_revision_is_told_of_only_when_it_has_passed_every_check(
    lab: Lab, autojump_clock: MockClock
) -> None:
    told: list[SignedRevision] = []
    lab.known = revision()
    forged = revision(number=2, owner=Identity.generate())
    async with lab.open() as instances:
        instances.admitted = told.append
        error = await refused_with(instances, forged)
        assert error.code is AllocationRefusal.BAD_REVISION
        await refused_with(instances, revision(number=2, cpu_millicores=10_000))
        assert told == []
        await instances.allocate(revision())
        assert told == [lab.known]


async def test_a_start_that_did_not_get_its_turn_is_no_crash(
    lab: Lab, autojump_clock: MockClock
) -> None:
    lab.machine.start_s = MAX_WAIT_S + 10
    lab.parallel_starts = 1
    async with lab.open() as instances:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(outcome_of, instances, revision(name="slow"))
            await trio.testing.wait_all_tasks_blocked()
            error = await refused_with(instances, revision())
            assert error.code is AllocationRefusal.BUSY
        lab.machine.start_s = 0
        for _ in range(FAILURES + 1):
            await instances.allocate(revision())
    assert lab.registry.get_sample_value("myxo_allocator_crashes_total") == 0


async def test_what_the_operators_rules_forbid_is_refused_with_the_rule(
    lab: Lab, autojump_clock: MockClock
) -> None:
    lab.rules = Rules(quota=Quota(starts_per_minute=1), peers=Listed(deny=("mad",)))
    async with lab.open() as instances:
        with pytest.raises(Refused, match=r'policy: peers\.deny "mad"'):
            await instances.allocate(revision(), caller=PeerId("mad"))
        await instances.allocate(revision(), caller=PeerId("sane"))
        error = await refused_with(instances, revision(name="other"))
        assert error.code is AllocationRefusal.BUSY
        assert "limits.starts_per_minute" in str(error)
        assert len(lab.machine.starts) == 1
