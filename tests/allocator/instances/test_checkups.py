"""Instances that fail their health checks, on a fake machine in virtual time."""

from collections.abc import AsyncIterator
from typing import Any

import pytest
import trio
import trio.testing
from hypothesis import given
from hypothesis import strategies as st

from allocator.instances.checkups import Checkup, Finding
from allocator.instances.life import UNHEALTHY_DRAIN_S
from allocator.instances.resting import Why
from allocator.testing import open_fake_machine
from allocator.testing_instances import HELLO, FakeHolder, Lab, id_of, revision
from overlay.records import InstanceState

READY = InstanceState.READY
CHECKED: dict[str, Any] = {
    "health": "/health",
    "health_interval_s": 10,
    "health_failures": 2,
    "idle_stop_s": 1e6,
}


@given(st.lists(st.booleans()), st.integers(1, 5))
def test_a_finding_is_what_the_last_checks_in_a_row_say(answers: list[bool], most: int) -> None:
    checkup, well, row = Checkup(most), True, 0
    for answered in answers:
        finding = checkup.checked(answered=answered)
        row = 0 if answered else row + 1
        if finding is Finding.LOST:
            assert row == 2 * most
            assert not well
            return
        if finding is not None:
            well = finding is Finding.WELL
        assert well == (row < most)


@pytest.fixture
async def lab() -> AsyncIterator[Lab]:
    async with open_fake_machine(listens=False) as machine:
        yield Lab(machine)


def healthy(lab: Lab) -> list[bool]:
    """Return what was published of health, in order."""
    return [record.healthy for record in lab.publisher.records if record.state is READY]


async def test_an_instance_that_fails_its_checks_is_published_as_unwell_and_then_as_well(
    lab: Lab, autojump_clock: trio.testing.MockClock
) -> None:
    async with lab.open() as instances:
        instance = id_of(await instances.allocate(revision(**CHECKED)))
        await trio.sleep(25)
        assert lab.checks == [instance] * 2
        assert healthy(lab) == [True]
        lab.unwell.add(instance)
        await trio.sleep(10)
        assert healthy(lab) == [True], "one failure is no finding"
        await trio.sleep(10)
        assert healthy(lab) == [True, False]
        assert instances.status()["own_instances"][0]["healthy"] is False
        lab.unwell.clear()
        await trio.sleep(10)
        assert healthy(lab) == [True, False, True]
        await trio.sleep(1000)
        assert healthy(lab) == [True, False, True]


async def test_an_instance_that_goes_on_failing_is_replaced(
    lab: Lab, autojump_clock: trio.testing.MockClock
) -> None:
    async with lab.open() as instances:
        first = id_of(await instances.allocate(revision(**CHECKED)))
        lab.unwell.add(first)
        await trio.sleep(45)
        assert lab.states(first)[-1] is None
        assert instances.status()["put_away"][0]["why"] == Why.UNHEALTHY
        assert id_of(await instances.allocate(revision(**CHECKED))) != first


async def test_what_it_hangs_on_does_not_keep_an_unwell_instance_for_ever(
    lab: Lab, autojump_clock: trio.testing.MockClock
) -> None:
    holder = FakeHolder()
    async with lab.open() as instances:
        first = id_of(await instances.allocate(revision(**CHECKED)))
        instances.use.lease(first, holder)
        instances.use.report(first, holder, 1, 0)
        lab.unwell.add(first)
        await trio.sleep(41)
        assert holder.asked == [first]
        assert lab.states(first)[-1] is InstanceState.DRAINING
        await trio.sleep(UNHEALTHY_DRAIN_S)
        await trio.sleep(10)
        assert lab.states(first)[-1] is None


async def test_checks_are_no_use_and_paused_instances_are_not_asked(
    lab: Lab, autojump_clock: trio.testing.MockClock
) -> None:
    async with lab.open() as instances:
        instance = id_of(await instances.allocate(revision(**CHECKED | {"idle_pause_s": 25})))
        lab.unwell.add(instance)
        await trio.sleep(500)
        assert lab.states(instance)[-1] is InstanceState.PAUSED
        assert lab.checks == [instance] * 2


async def test_without_health_or_an_interval_nobody_asks(
    lab: Lab, autojump_clock: trio.testing.MockClock
) -> None:
    async with lab.open() as instances:
        await instances.allocate(revision(idle_stop_s=1e6))
        await instances.allocate(revision(name="other", **CHECKED | {"health_interval_s": 0}))
        await trio.sleep(1000)
        assert lab.checks == []
        assert {i["service"] for i in instances.status()["own_instances"]} == {HELLO, "other"}
