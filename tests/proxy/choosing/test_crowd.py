import trio
import trio.testing

from overlay.names import ServiceName
from proxy.choosing.crowd import Crowd

HELLO, OTHER = ServiceName("hello"), ServiceName("other")


class Line:
    """Waiters that note in which order they were woken."""

    def __init__(self, nursery: trio.Nursery) -> None:
        self.crowd = Crowd()
        self.woken: list[str] = []
        self.picky: set[str] = set()
        self._nursery = nursery

    def useful(self, name: str) -> bool:
        return name not in self.picky

    async def add(self, name: str, service: ServiceName = HELLO) -> trio.CancelScope:
        scope = trio.CancelScope()

        async def wait() -> None:
            with scope, self.crowd.enter(service) as place:
                await place.wait()
                self.woken.append(name)
                while not self.useful(name):
                    await place.wait()
                    self.woken.append(name)
                place.took()

        self._nursery.start_soon(wait)
        await trio.testing.wait_all_tasks_blocked()
        return scope


async def test_one_end_wakes_the_first_of_the_service(nursery: trio.Nursery) -> None:
    line = Line(nursery)
    for name in ("a", "b"):
        await line.add(name)
    await line.add("x", OTHER)
    line.crowd.freed(HELLO)
    await trio.testing.wait_all_tasks_blocked()
    assert line.woken == ["a"]
    nursery.cancel_scope.cancel()


async def test_news_of_a_service_wakes_all_of_it(nursery: trio.Nursery) -> None:
    line = Line(nursery)
    for name, service in (("a", HELLO), ("b", HELLO), ("x", OTHER)):
        await line.add(name, service)
    line.crowd.news(HELLO)
    await trio.testing.wait_all_tasks_blocked()
    assert sorted(line.woken) == ["a", "b"]
    nursery.cancel_scope.cancel()


async def test_only_those_are_woken_whose_services_instances_changed(
    nursery: trio.Nursery,
) -> None:
    line, lists = Line(nursery), {HELLO: (), OTHER: ()}
    for name, service in (("a", HELLO), ("x", OTHER)):
        await line.add(name, service)
    line.crowd.look(lists.__getitem__)  # the first look knows of no change, and may wake anybody
    await trio.testing.wait_all_tasks_blocked()
    line.woken.clear()
    for name, service in (("a", HELLO), ("x", OTHER)):
        await line.add(name, service)
    line.crowd.look(lists.__getitem__)
    await trio.testing.wait_all_tasks_blocked()
    assert line.woken == []
    lists[OTHER] = (object(),)  # type: ignore[assignment]
    line.crowd.look(lists.__getitem__)
    await trio.testing.wait_all_tasks_blocked()
    assert line.woken == ["x"]
    line.crowd.freed(HELLO)
    await trio.testing.wait_all_tasks_blocked()
    line.crowd.look(lists.__getitem__)
    assert line.crowd == Crowd(_next=line.crowd._next)


async def test_who_gives_up_takes_nobodys_turn(nursery: trio.Nursery) -> None:
    line = Line(nursery)
    gone = await line.add("gone")
    await line.add("next")
    gone.cancel()
    await trio.testing.wait_all_tasks_blocked()
    line.crowd.freed(HELLO)
    await trio.testing.wait_all_tasks_blocked()
    assert line.woken == ["next"]
    assert line.crowd == Crowd(_next=line.crowd._next)


async def test_room_that_the_first_cannot_use_goes_to_the_next_and_no_further(
    nursery: trio.Nursery,
) -> None:
    line = Line(nursery)
    line.picky = {"a", "b"}
    for name in ("a", "b", "c", "d"):
        await line.add(name)
    line.crowd.freed(HELLO)
    await trio.testing.wait_all_tasks_blocked()
    assert line.woken == ["a", "b", "c"]
    nursery.cancel_scope.cancel()


async def test_room_that_nobody_can_use_is_offered_to_each_once_and_places_are_kept(
    nursery: trio.Nursery,
) -> None:
    line = Line(nursery)
    line.picky = {"a", "b"}
    for name in ("a", "b"):
        await line.add(name)
    line.crowd.freed(HELLO)
    await trio.testing.wait_all_tasks_blocked()
    assert line.woken == ["a", "b"]
    line.picky = set()
    line.crowd.freed(HELLO)
    await trio.testing.wait_all_tasks_blocked()
    assert line.woken == ["a", "b", "a"]
    nursery.cancel_scope.cancel()


async def test_who_is_woken_as_it_gives_up_leaves_the_room_to_the_next(
    nursery: trio.Nursery,
) -> None:
    line = Line(nursery)
    gone = await line.add("gone")
    await line.add("next")
    gone.cancel()
    line.crowd.freed(HELLO)
    await trio.testing.wait_all_tasks_blocked()
    assert line.woken == ["next"]


async def test_more_than_a_bound_do_not_wait(nursery: trio.Nursery) -> None:
    line = Line(nursery)
    for n in range(3):
        await line.add(str(n))
    line.crowd.most = 3
    assert line.crowd.full
    line.crowd.freed(HELLO)
    assert not line.crowd.full
    nursery.cancel_scope.cancel()
