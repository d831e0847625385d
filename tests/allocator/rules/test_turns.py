import pytest
import trio
from trio.testing import MockClock

from allocator.errors import Refused
from allocator.rules.turns import MAX_WAIT_S, Turns
from overlay.names import InstanceId, PeerId

ALICE, MAD = PeerId("alice"), PeerId("mad")


async def start(
    turns: Turns, name: str, owner: PeerId, took_s: float, ended: list[tuple[str, float]]
) -> None:
    try:
        async with turns.turn(InstanceId(name), owner, None):
            await trio.sleep(took_s)
        ended.append((name, trio.current_time()))
    except Refused as exc:
        ended.append((f"{exc.code}: {exc}", trio.current_time()))


async def test_an_owners_start_waits_for_one_turn_of_a_flood_and_not_for_the_flood(
    autojump_clock: MockClock,
) -> None:
    turns, ended = Turns(2), list[tuple[str, float]]()
    begun = trio.current_time()
    async with trio.open_nursery() as nursery:
        for n in range(100):
            nursery.start_soon(start, turns, f"mad-{n}", MAD, 1.0, ended)
        await trio.testing.wait_all_tasks_blocked()
        nursery.start_soon(start, turns, "alice", ALICE, 1.0, ended)
    when = dict(ended)
    assert when["alice"] - begun == pytest.approx(2)
    assert len(ended) == 101
    assert sum("30 s were not enough" in name for name in when) == 1  # one text for all
    assert turns.waiting == 0


async def test_who_waits_too_long_is_told_and_frees_nothing_that_is_not_his(
    autojump_clock: MockClock,
) -> None:
    turns, ended = Turns(1), list[tuple[str, float]]()
    begun = trio.current_time()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(start, turns, "long", MAD, 100, ended)
        await trio.testing.wait_all_tasks_blocked()
        nursery.start_soon(start, turns, "other", ALICE, 1, ended)
    (text, at), (name, end) = ended
    assert "try again" in text
    assert at - begun == pytest.approx(MAX_WAIT_S)
    assert name == "long"
    assert end - begun == pytest.approx(100)


async def test_more_than_may_wait_are_refused_at_once(autojump_clock: MockClock) -> None:
    turns, ended = Turns(1), list[tuple[str, float]]()
    turns._queue.most = 3
    begun = trio.current_time()
    async with trio.open_nursery() as nursery:
        for n in range(10):
            nursery.start_soon(start, turns, f"mad-{n}", MAD, 1.0, ended)
    at_once = [text for text, at in ended if at == begun]
    assert len(at_once) == 6
    assert all("3 starts wait here already" in text for text in at_once)


async def test_a_start_that_nobody_waits_for_does_not_get_its_turn(
    autojump_clock: MockClock,
) -> None:
    turns, ended = Turns(1), list[tuple[str, float]]()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(start, turns, "first", MAD, 5, ended)
        await trio.testing.wait_all_tasks_blocked()
        nursery.start_soon(start, turns, "second", ALICE, 5, ended)
        await trio.testing.wait_all_tasks_blocked()
        turns.withdraw(InstanceId("second"))
        turns.withdraw(InstanceId("first"))
        turns.withdraw(InstanceId("nothing"))
    assert [text for text, _ in ended] == [
        "busy: nobody waits for this start any more; try again in a moment",
        "first",
    ]


async def test_a_start_that_lost_who_waited_while_it_was_elsewhere_gets_no_turn() -> None:
    turns = Turns(1)
    with pytest.raises(Refused, match="nobody waits"):
        async with turns.turn(InstanceId("a"), MAD, None, lambda: False):
            pass
    assert turns.waiting == 0


async def test_a_cancelled_wait_gives_its_place_back(autojump_clock: MockClock) -> None:
    turns, ended = Turns(1), list[tuple[str, float]]()
    async with trio.open_nursery() as nursery:
        with trio.move_on_after(1):
            async with turns.turn(InstanceId("a"), MAD, None):
                await trio.sleep_forever()
        nursery.start_soon(start, turns, "b", ALICE, 1, ended)
    assert [name for name, _ in ended] == ["b"]
