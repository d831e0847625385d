import trio

from allocator.instances.bound import wait_bound
from allocator.instances.readiness import Outcome
from overlay.testing_ports import free_port


async def never() -> None:
    await trio.sleep_forever()


async def at_once() -> None:
    await trio.lowlevel.checkpoint()


async def socket_of(port: int = 0) -> tuple[trio.socket.SocketType, str]:
    sock = trio.socket.socket(trio.socket.AF_INET, trio.socket.SOCK_DGRAM)
    await sock.bind(("127.0.0.1", port))
    return sock, f"127.0.0.1:{sock.getsockname()[1]}"


async def test_a_bound_port_is_ready_whether_it_answers_or_not() -> None:
    sock, address = await socket_of()
    with sock:
        assert await wait_bound(address, None, 5, never) is Outcome.READY


async def test_a_port_that_is_bound_late_is_found() -> None:
    port = free_port()
    outcomes: list[Outcome] = []

    async def wait() -> None:
        outcomes.append(await wait_bound(f"127.0.0.1:{port}", None, 30, never))

    with trio.fail_after(30):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(wait)
            await trio.sleep(0.05)
            assert outcomes == []
            late, _ = await socket_of(port)
    late.close()
    assert outcomes == [Outcome.READY]


async def test_nobody_waits_for_ever() -> None:
    address = f"127.0.0.1:{free_port()}"
    assert await wait_bound(address, None, 0.05, never) is Outcome.TIMED_OUT
    assert await wait_bound("", None, 60, at_once) is Outcome.EXITED
