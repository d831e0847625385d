import pytest
import trio
import trio.testing

from allocator.instances.readiness import (
    EAGER_S,
    EAGER_STEP_S,
    LATEST_STEP_S,
    Attempt,
    Outcome,
    Question,
    wait_ready,
)
from overlay.testing_ports import free_port


async def never() -> None:
    await trio.sleep_forever()


async def serve(
    answer: bytes, *, task_status: trio.TaskStatus[str] = trio.TASK_STATUS_IGNORED
) -> None:
    async def handle(stream: trio.SocketStream) -> None:
        async with stream:
            if await stream.receive_some():
                await stream.send_all(answer)

    listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
    task_status.started(f"127.0.0.1:{listeners[0].socket.getsockname()[1]}")
    await trio.serve_listeners(handle, listeners)


def free_address() -> str:
    return f"127.0.0.1:{free_port()}"


def test_attempts_are_eager_at_first_and_then_back_off_to_a_bound() -> None:
    attempt, elapsed, steps = Attempt(), 0.0, []
    while elapsed < 2:
        elapsed += attempt.step_s
        steps.append(attempt.step_s)
        attempt = attempt.after(elapsed)
    eager = [s for s in steps if s == EAGER_STEP_S]
    assert len(eager) == pytest.approx(EAGER_S / EAGER_STEP_S, abs=2)
    assert steps == sorted(steps)
    assert steps[-1] == LATEST_STEP_S


async def test_an_address_that_accepts_is_ready() -> None:
    with trio.fail_after(30):
        async with trio.open_nursery() as nursery:
            address = await nursery.start(serve, b"")
            assert await wait_ready(address, None, 20, never) is Outcome.READY
            nursery.cancel_scope.cancel()


async def test_a_late_listener_is_found() -> None:
    address = free_address()
    with trio.fail_after(30):
        async with trio.open_nursery() as nursery:
            waited: list[Outcome] = []

            async def wait() -> None:
                waited.append(await wait_ready(address, None, 20, never))
                nursery.cancel_scope.cancel()

            nursery.start_soon(wait)
            await trio.testing.wait_all_tasks_blocked(0.0005)
            port = int(address.rpartition(":")[2])
            listeners = await trio.open_tcp_listeners(port, host="127.0.0.1")
            nursery.start_soon(trio.serve_listeners, trio.aclose_forcefully, listeners)
    assert waited == [Outcome.READY]


async def test_nobody_listening_ends_at_the_bound() -> None:
    address = free_address()
    with trio.fail_after(30):
        assert await wait_ready(address, None, 0.05, never) is Outcome.TIMED_OUT


async def test_an_exit_ends_the_wait_at_once() -> None:
    address = free_address()

    async def now() -> None:
        await trio.lowlevel.checkpoint()

    with trio.fail_after(30):
        assert await wait_ready(address, None, 60, now) is Outcome.EXITED


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (b"HTTP/1.1 204 No Content\r\n\r\n", Outcome.READY),
        (b"HTTP/1.1 503 Service Unavailable\r\n\r\n", Outcome.TIMED_OUT),
        (b"SSH-2.0-x\r\n", Outcome.TIMED_OUT),
        (b"", Outcome.TIMED_OUT),
    ],
)
async def test_a_health_path_must_answer_2xx(answer: bytes, expected: Outcome) -> None:
    bound_s = 20 if expected is Outcome.READY else 0.1
    with trio.fail_after(30):
        async with trio.open_nursery() as nursery:
            address = await nursery.start(serve, answer)
            assert await wait_ready(address, Question("/health"), bound_s, never) is expected
            nursery.cancel_scope.cancel()


async def test_no_address_is_nobody_s_and_not_this_machine_s() -> None:
    with trio.fail_after(30):
        async with trio.open_nursery() as nursery:
            address = await nursery.start(serve, b"HTTP/1.1 200 OK\r\n\r\n")
            port = address.rpartition(":")[2]
            assert await wait_ready(f":{port}", None, 0.2, never) is Outcome.TIMED_OUT
            nursery.cancel_scope.cancel()
