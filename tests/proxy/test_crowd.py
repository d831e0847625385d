import trio
import trio.testing

from overlay.names import ServiceName
from proxy.crowd import Crowd

HELLO, OTHER = ServiceName("hello"), ServiceName("other")


class Line:
    """Waiters that note in which order they were woken."""

    def __init__(self, nursery: trio.Nursery) -> None:
        self.crowd = Crowd()
        self.woken: list[str] = []
        self._nursery = nursery

    async def add(self, name: str, service: ServiceName = HELLO) -> trio.CancelScope:
        scope = trio.CancelScope()

        async def wait() -> None:
            with scope:
                await self.crowd.wait(service)
                self.woken.append(name)

        self._nursery.start_soon(wait)
        await trio.testing.wait_all_tasks_blocked()
        return scope


async def test_one_end_wakes_the_first_of_the_service(nursery: trio.Nursery) -> None:
    line = Line(nursery)
    for name in ("a", "b"):
        await line.add(name)
    await line.add("x", OTHER)
    assert line.crowd.waiting(HELLO) == 2
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
    assert line.crowd == Crowd()


async def test_who_gives_up_takes_nobodys_turn(nursery: trio.Nursery) -> None:
    line = Line(nursery)
    gone = await line.add("gone")
    await line.add("next")
    gone.cancel()
    await trio.testing.wait_all_tasks_blocked()
    line.crowd.freed(HELLO)
    await trio.testing.wait_all_tasks_blocked()
    assert line.woken == ["next"]
    assert line.crowd == Crowd()
