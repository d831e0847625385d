"""Containers that an earlier run left are removed beside what goes on."""

from collections.abc import Callable
from typing import Any

import trio
from trio.testing import MockClock

from allocator.engine.sweep import AT_ONCE, PATIENCE_S, RETRY_S, Sweep
from allocator.errors import RuntimeDown


class Engine:
    """An engine that takes a second for each container."""

    def __init__(self) -> None:
        self.removed: list[str] = []
        self.down_until = 0.0
        self.most = self._now = 0

    async def call(self, function: Callable[[Any], Any]) -> Any:
        self._now += 1
        self.most = max(self.most, self._now)
        try:
            await trio.sleep(1)
            if trio.current_time() < self.down_until:
                raise RuntimeDown("the engine went away")
            return function(self)
        finally:
            self._now -= 1

    def remove_container(self, name: str, **_: bool) -> None:
        self.removed.append(name)


async def test_a_few_go_at_a_time_and_all_are_waited_for(
    nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    engine = Engine()
    sweep = Sweep(engine.call)
    nursery.start_soon(sweep.run)
    await sweep.remove(f"c{n}" for n in range(2 * AT_ONCE))
    assert trio.current_time() <= PATIENCE_S
    assert len(engine.removed) == 2 * AT_ONCE
    assert engine.most == AT_ONCE
    await sweep.remove([])
    await sweep.remove(["late"])
    assert engine.removed[-1] == "late"
    nursery.cancel_scope.cancel()


async def test_those_that_are_named_first_go_first(
    nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    engine = Engine()
    sweep = Sweep(engine.call)
    nursery.start_soon(sweep.run)
    names = [f"c{n}" for n in range(3 * AT_ONCE)]
    await sweep.remove(names)
    first, last = set(names[:AT_ONCE]), set(names[-AT_ONCE:])
    assert set(engine.removed[:AT_ONCE]) == first
    assert set(engine.removed[-AT_ONCE:]) == last
    nursery.cancel_scope.cancel()


async def test_who_waits_goes_on_after_a_while_and_so_does_the_sweep(
    nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    engine = Engine()
    sweep = Sweep(engine.call)
    nursery.start_soon(sweep.run)
    began, many = trio.current_time(), AT_ONCE * 20
    await sweep.remove(f"c{n}" for n in range(many))
    assert trio.current_time() - began == PATIENCE_S
    assert 0 < len(engine.removed) < many
    await trio.sleep(20)
    assert len(engine.removed) == many
    nursery.cancel_scope.cancel()


async def test_an_engine_that_is_down_is_asked_again(
    nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    engine = Engine()
    engine.down_until = trio.current_time() + 2
    sweep = Sweep(engine.call)
    nursery.start_soon(sweep.run)
    await sweep.remove(["c0"])
    assert engine.removed == []
    await trio.sleep(RETRY_S + 2)
    assert engine.removed == ["c0"]
    nursery.cancel_scope.cancel()
