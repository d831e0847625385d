import trio

from allocator.instances.bound import wait_bound
from allocator.instances.readiness import Outcome


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
    sock, address = await socket_of()
    sock.close()
    outcomes: list[Outcome] = []

    async def wait() -> None:
        outcomes.append(await wait_bound(address, None, 10, never))

    with trio.fail_after(10):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(wait)
            await trio.sleep(0.05)
            assert outcomes == []
            late, _ = await socket_of(int(address.rpartition(":")[2]))
    late.close()
    assert outcomes == [Outcome.READY]


async def test_nobody_waits_for_ever() -> None:
    sock, address = await socket_of()
    sock.close()
    assert await wait_bound(address, None, 0.05, never) is Outcome.TIMED_OUT
    assert await wait_bound("", None, 60, at_once) is Outcome.EXITED
