from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio
import trio.testing

from overlay.errors import AddressTaken
from overlay.tunnel import End
from proxy.layer4 import sessions as sessions_module
from proxy.layer4.sessions import DatagramPort, open_port


@asynccontextmanager
async def served(
    stopping: trio.Event | None = None,
) -> AsyncIterator[tuple[DatagramPort, list[End]]]:
    """Serve a port whose sessions give back what they get, until they are told to end.

    With `stopping` the port is to end by itself after that.
    """
    port, ends = await open_port("127.0.0.1", 0, what="a test"), list[End]()

    async def carry(end: End, client: str) -> None:
        assert client == "127.0.0.1"
        ends.append(end)
        while (data := await end.receive()) != b"end":
            assert data is not None
            await end.send(b"%d %b" % (ends.index(end), data))

    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(port.serve, carry, trio.Event() if stopping is None else stopping)
            yield port, ends
            if stopping is None:
                nursery.cancel_scope.cancel()


async def client_of(port: DatagramPort) -> trio.socket.SocketType:
    sock = trio.socket.socket(trio.socket.AF_INET, trio.socket.SOCK_DGRAM)
    await sock.connect(("127.0.0.1", port.number))
    return sock


async def test_each_client_has_a_session_of_its_own() -> None:
    async with served() as (port, ends):
        with await client_of(port) as one, await client_of(port) as other:
            for sock, said in ((one, b"a"), (other, b"b"), (one, b"c")):
                await sock.send(said)
                assert (await sock.recv(100)).split()[1] == said
        assert len(ends) == 2


async def test_a_datagram_after_the_end_of_a_session_begins_another_one() -> None:
    async with served() as (port, ends):
        with await client_of(port) as sock:
            await sock.send(b"a")
            assert await sock.recv(100) == b"0 a"
            await sock.send(b"end")
            while port._sessions:
                await trio.testing.wait_all_tasks_blocked(0.01)
            await sock.send(b"b")
            assert await sock.recv(100) == b"1 b"
        assert len(ends) == 2


async def test_more_clients_than_there_may_be_get_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sessions_module, "MAX_SESSIONS", 1)
    async with served() as (port, ends):
        with await client_of(port) as one, await client_of(port) as other:
            await one.send(b"a")
            await one.recv(100)
            await other.send(b"b")
            while not port.dropped:
                await trio.testing.wait_all_tasks_blocked(0.01)
        assert len(ends) == 1


async def test_what_waits_for_a_session_has_a_bound() -> None:
    port = await open_port("127.0.0.1", 0, what="a test")

    async def never(end: End, client: str) -> None:
        await trio.sleep_forever()

    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(port.serve, never, trio.Event())
            with await client_of(port) as sock:
                for _ in range(sessions_module.QUEUE + 3):
                    await sock.send(b"x")
                while port.dropped < 3:
                    await trio.testing.wait_all_tasks_blocked(0.01)
            nursery.cancel_scope.cancel()
    assert port.dropped == 3


async def test_a_port_that_is_taken_says_so() -> None:
    taken = await open_port("127.0.0.1", 0, what="a test")
    with taken.sock, pytest.raises(AddressTaken, match=f"UDP 127.0.0.1:{taken.number} for more"):
        await open_port("127.0.0.1", taken.number, what="more")


async def test_a_port_that_is_to_stop_serves_the_sessions_there_are_and_begins_none() -> None:
    stopping = trio.Event()
    async with served(stopping) as (port, ends):
        with await client_of(port) as one, await client_of(port) as late:
            await one.send(b"a")
            assert await one.recv(100) == b"0 a"
            stopping.set()
            await late.send(b"b")
            while not port.dropped:
                await trio.testing.wait_all_tasks_blocked(0.01)
            await one.send(b"c")
            assert await one.recv(100) == b"0 c"
            await one.send(b"end")
    assert len(ends) == 1
    assert port.sock.fileno() == -1


async def test_a_port_without_sessions_stops_at_once() -> None:
    stopping = trio.Event()
    async with served(stopping) as (port, _):
        stopping.set()
    assert port.sock.fileno() == -1
