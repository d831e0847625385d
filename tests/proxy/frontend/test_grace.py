import trio
import trio.testing

from proxy.frontend.grace import CLOSE_S, DRAIN_S, Grace


class Told:
    """What ended, in order, and when."""

    def __init__(self) -> None:
        self.ends: list[tuple[str, float]] = []

    async def last(self, what: str, seconds: float = float("inf")) -> None:
        try:
            await trio.sleep(seconds)
        finally:
            self.ends.append((what, trio.current_time()))


async def stop(grace: Grace, told: Told, request_s: float) -> float:
    """Have a request under way that takes `request_s` from the stop on; return when that was."""
    async with trio.open_nursery() as nursery:
        await nursery.start(grace.run)
        grace.listeners.start_soon(told.last, "listener")
        grace.lasting.start_soon(told.last, "lease")
        grace.connections.start_soon(told.last, "request", request_s)
        await trio.testing.wait_all_tasks_blocked()
        began = trio.current_time()
        nursery.cancel_scope.cancel()
    return began


async def test_a_lease_outlives_the_requests_under_way(
    autojump_clock: trio.testing.MockClock,
) -> None:
    grace, told = Grace(), Told()

    async def close() -> None:
        told.ends.append(("roads", trio.current_time()))

    grace.close = close
    began = await stop(grace, told, 1.0)
    assert told.ends == [
        ("listener", began),
        ("request", began + 1.0),
        ("roads", began + 1.0),
        ("lease", began + 1.0),
    ]


async def test_a_request_without_end_and_roads_that_do_not_close_end_in_time(
    autojump_clock: trio.testing.MockClock,
) -> None:
    grace, told = Grace(), Told()
    grace.close = trio.sleep_forever
    began = await stop(grace, told, float("inf"))
    assert told.ends == [
        ("listener", began),
        ("request", began + DRAIN_S),
        ("lease", began + DRAIN_S + CLOSE_S),
    ]


async def test_requests_have_as_long_as_its_user_says(
    autojump_clock: trio.testing.MockClock,
) -> None:
    grace, told = Grace(drain_s=12.5), Told()
    began = await stop(grace, told, float("inf"))
    assert ("request", began + 12.5) in told.ends


async def test_a_connection_without_a_request_ends_at_once(
    autojump_clock: trio.testing.MockClock,
) -> None:
    grace, told = Grace(), Told()

    async def wait() -> None:
        with trio.CancelScope() as scope:
            grace.idle.add(scope)
            await told.last("idle")

    async with trio.open_nursery() as nursery:
        await nursery.start(grace.run)
        grace.connections.start_soon(wait)
        await trio.testing.wait_all_tasks_blocked()
        began = trio.current_time()
        nursery.cancel_scope.cancel()
    assert told.ends == [("idle", began)]
    assert trio.current_time() == began


async def retired(grace: Grace, told: Told, request_s: float, stop_after_s: float) -> float:
    """Retire with a request under way; be told to stop later; return when it was retired."""
    async with trio.open_nursery() as nursery:
        await nursery.start(grace.run)
        grace.listeners.start_soon(told.last, "listener")
        grace.lasting.start_soon(told.last, "lease")
        grace.connections.start_soon(told.last, "request", request_s)
        await trio.testing.wait_all_tasks_blocked()
        began = trio.current_time()
        grace.retire(100.0)
        with trio.move_on_after(stop_after_s):
            await grace.ended.wait()
        nursery.cancel_scope.cancel()
    return began


async def test_one_that_was_replaced_ends_when_its_requests_have(
    autojump_clock: trio.testing.MockClock,
) -> None:
    grace, told = Grace(), Told()
    began = await retired(grace, told, 50.0, 1000.0)
    assert grace.ended.is_set()
    assert told.ends == [("listener", began), ("request", began + 50), ("lease", began + 50)]


async def test_one_that_was_replaced_cuts_what_takes_too_long(
    autojump_clock: trio.testing.MockClock,
) -> None:
    grace, told = Grace(), Told()
    began = await retired(grace, told, float("inf"), 1000.0)
    assert told.ends == [("listener", began), ("request", began + 100), ("lease", began + 100)]


async def test_one_that_was_replaced_stops_as_fast_as_others_when_it_is_told_to(
    autojump_clock: trio.testing.MockClock,
) -> None:
    grace, told = Grace(), Told()
    began = await retired(grace, told, float("inf"), 10.0)
    end = began + 10 + DRAIN_S
    assert told.ends == [("listener", began), ("request", end), ("lease", end)]
