"""Fetches in turn: the core by itself, and its shell in virtual time."""

import pytest
import trio
import trio.testing
from hypothesis import given
from hypothesis import strategies as st

from allocator.errors import ImageMissing, Refused
from allocator.images.lanes import BESIDE, FETCHES_AT_ONCE, LONG_S, Lanes
from allocator.images.plan import WHOLE_MOST_S, most_s
from allocator.images.turns import FetchTurns
from allocator.rules.queue import Ticket
from overlay.names import PeerId

ONE, OTHER = PeerId("one"), PeerId("other")


def joined(lanes: Lanes, *owners: PeerId) -> list[Ticket]:
    tickets = [Ticket(owner) for owner in owners]
    for ticket in tickets:
        assert lanes.join(ticket) is None
    return tickets


def test_a_fetch_that_is_long_and_in_the_way_goes_on_beside() -> None:
    lanes = Lanes()
    tickets = joined(lanes, ONE, ONE, OTHER)
    assert list(lanes.go_on(0.0)) == tickets[:1] + tickets[2:], "an owner without one comes first"
    assert lanes.wait_s(10.0) == LONG_S - 10
    assert list(lanes.go_on(LONG_S - 1)) == []
    assert list(lanes.go_on(LONG_S)) == [tickets[1]]
    assert list(lanes.surplus()) == []


def test_a_long_fetch_that_is_in_nobodys_way_keeps_its_lane() -> None:
    lanes = Lanes()
    joined(lanes, ONE, ONE)
    assert len(list(lanes.go_on(0.0))) == FETCHES_AT_ONCE
    list(lanes.go_on(100 * LONG_S))
    (late,) = joined(lanes, OTHER)
    assert list(lanes.go_on(100 * LONG_S)) == [late]


def test_whoever_has_most_beside_gives_way_and_not_the_one_who_has_one() -> None:
    lanes = Lanes()
    (honest,) = joined(lanes, OTHER)
    flood = joined(lanes, *[ONE] * (BESIDE + FETCHES_AT_ONCE + 1))
    gone = []
    for step in range(BESIDE):
        list(lanes.go_on(step * LONG_S))
        gone += list(lanes.surplus())
    assert gone, "there is no place for all"
    assert honest not in gone
    assert gone[0] == flood[0], "the oldest of its owner"


@given(st.lists(st.tuples(st.sampled_from([ONE, OTHER]), st.floats(0, 100)), max_size=60))
def test_never_do_more_go_on_than_there_are_places(joins: list[tuple[PeerId, float]]) -> None:
    lanes, going, now = Lanes(), set[Ticket](), 0.0
    for owner, later_s in joins:
        now += later_s
        lanes.join(Ticket(owner))
        going |= set(lanes.go_on(now))
        going -= set(lanes.surplus())
        assert len(going) <= FETCHES_AT_ONCE + BESIDE


async def test_two_fetches_that_take_for_ever_hold_up_nobody(
    autojump_clock: trio.testing.MockClock,
) -> None:
    turns = FetchTurns()

    async def slow() -> None:
        async with turns.turn(ONE, 10**12):
            await trio.sleep_forever()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(slow)
        nursery.start_soon(slow)
        await trio.testing.wait_all_tasks_blocked()
        begun = trio.current_time()
        async with turns.turn(OTHER, 1):
            assert trio.current_time() - begun == LONG_S
        nursery.cancel_scope.cancel()


async def test_a_fetch_ends_when_its_bytes_had_time_enough(
    autojump_clock: trio.testing.MockClock,
) -> None:
    begun = trio.current_time()
    with pytest.raises(ImageMissing, match="did not come within"):
        async with FetchTurns().turn(ONE, 10_000_000):
            await trio.sleep_forever()
    assert trio.current_time() - begun == most_s(10_000_000)
    assert most_s(10**15) == WHOLE_MOST_S


async def test_what_gives_way_is_told_so(autojump_clock: trio.testing.MockClock) -> None:
    turns = FetchTurns()
    refused = trio.Event()

    async def slow() -> None:
        with pytest.raises(Refused, match="comes slowly"):
            async with turns.turn(ONE, 10**12):
                await trio.sleep_forever()
        refused.set()

    async with trio.open_nursery() as nursery:
        for _ in range(BESIDE + FETCHES_AT_ONCE + 1):
            nursery.start_soon(slow)
        async with turns.turn(OTHER, 1):
            pass
        await refused.wait()
        nursery.cancel_scope.cancel()
