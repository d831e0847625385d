import pytest
import trio
import trio.testing

from overlay.quick_lock import QuickLock


async def test_one_task_at_a_time_holds_it_and_each_gets_its_turn() -> None:
    lock, inside, done = QuickLock(), 0, 0

    async def work() -> None:
        nonlocal inside, done
        for _ in range(50):
            async with lock:
                inside += 1
                assert inside == 1
                await trio.lowlevel.checkpoint()
                inside -= 1
            done += 1

    async with trio.open_nursery() as nursery:
        for _ in range(5):
            nursery.start_soon(work)
    assert done == 250


async def test_who_finds_it_free_goes_on_at_once_but_not_for_ever() -> None:
    lock, others = QuickLock(), 0

    async def other() -> None:
        nonlocal others
        others += 1

    async with trio.open_nursery() as nursery:
        nursery.start_soon(other)
        async with lock:
            assert others == 0
        for _ in range(50):
            async with lock:
                pass
        assert others == 1


async def test_who_is_cancelled_does_not_get_it_free_or_not() -> None:
    lock = QuickLock()
    with trio.CancelScope() as scope:
        scope.cancel()
        async with lock:
            pytest.fail("it was let in")
    assert scope.cancelled_caught
    async with lock, trio.open_nursery() as nursery:
        nursery.start_soon(lock.__aenter__)
        await trio.testing.wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    with trio.fail_after(1):
        async with lock:  # the one that was cancelled left nothing behind
            pass


async def test_an_error_inside_lets_the_next_one_in() -> None:
    lock = QuickLock()
    with pytest.raises(ValueError, match="inside"):
        async with lock:
            raise ValueError("inside")
    with trio.fail_after(1):
        async with lock:
            pass
