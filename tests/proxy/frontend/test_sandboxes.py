"""Sockets that are handed over: right ones from sandboxes, wrong ones from whoever connects."""

import secrets
import shutil
import socket
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import trio

from overlay.errors import AddressTaken
from overlay.leases import HandedOver, HandOverEnded
from overlay.names import InstanceId, SandboxId, ServiceName
from proxy.frontend.sandboxes import SandboxDoor
from proxy.route.caller import Caller

S1, S2 = SandboxId("s1"), SandboxId("s2")
WEB = Caller(ServiceName("web"), InstanceId("i1"))
SOURCE = Path(__file__).parents[3] / "allocator" / "sandbox.c"


class PlayedDesk:
    """An allocator that knows who is in some sandboxes, and keeps what it is told."""

    def __init__(self) -> None:
        self.occupants: dict[SandboxId, Caller] = {}
        self.asked: list[SandboxId] = []
        self._said, self._heard = trio.open_memory_channel[HandedOver | HandOverEnded](100)

    async def tell(self, message: HandedOver | HandOverEnded) -> None:
        await self._said.send(message)

    async def who_is_in(self, sandbox: SandboxId) -> Caller | None:
        self.asked.append(sandbox)
        return self.occupants.get(sandbox)

    async def heard(self) -> HandedOver | HandOverEnded:
        return await self._heard.receive()


@dataclass
class Lab:
    path: Path
    desk: PlayedDesk = field(default_factory=PlayedDesk)
    sources: list[str] = field(default_factory=list)
    door: SandboxDoor = field(init=False)

    def hand_over(self, name: SandboxId, *given: socket.socket, text: bytes = b"") -> socket.socket:
        """Connect as a sandbox does, and send sockets."""
        sock = socket.socket(socket.AF_UNIX)
        sock.connect(str(self.path))
        message = text or f"myxo-sandbox/1 {name}\n".encode()
        if given:
            socket.send_fds(sock, [message], [one.fileno() for one in given])
        else:
            sock.sendall(message)
        return sock

    async def ends(self, sock: socket.socket) -> None:
        """Wait until the other end has closed."""
        sock.setblocking(False)
        with trio.socket.from_stdlib_socket(sock) as connection:
            try:
                assert await connection.recv(1) == b""
            except ConnectionResetError:
                return


def listening(address: str = "127.0.0.1") -> socket.socket:
    sock = socket.socket()
    sock.bind((address, 0))
    sock.listen()
    return sock


async def ask(listener: socket.socket) -> bytes:
    async with await trio.open_tcp_stream(*listener.getsockname()) as stream:
        return b"".join([chunk async for chunk in stream])


@pytest.fixture
async def lab() -> AsyncIterator[Lab]:
    folder = Path("/tmp") / f"myxo-door-{secrets.token_hex(6)}"  # noqa: S108
    folder.mkdir()
    found = Lab(folder / "proxy")

    async def serve(
        client: trio.SocketStream, source: str, ask: Callable[[], Awaitable[Caller | None]]
    ) -> None:
        async with client:
            found.sources.append(source)
            caller = await ask()
            await client.send_all(b"nobody" if caller is None else caller.service.encode())

    async with trio.open_nursery() as connections:
        door = found.door = SandboxDoor(found.path, found.desk, serve, connections)
        connections.start_soon(door.run)
        with trio.fail_after(20):
            await appears(found.path)
            yield found
        connections.cancel_scope.cancel()
    assert not found.path.exists()
    shutil.rmtree(folder)


async def appears(path: Path) -> None:
    """Return when the path is there; the system has no other word on it."""
    while not path.exists():
        await trio.lowlevel.checkpoint()


async def test_who_connects_to_a_handed_over_socket_is_known_by_its_sandbox(lab: Lab) -> None:
    lab.desk.occupants[S1] = WEB
    with listening() as inside, lab.hand_over(S1, inside):
        assert await lab.desk.heard() == HandedOver(sandbox=S1)
        assert await ask(inside) == b"web"
        assert await ask(inside) == b"web"
    assert lab.desk.asked == [S1]
    assert lab.sources == [S1, S1]
    assert await lab.desk.heard() == HandOverEnded(sandbox=S1)


async def test_who_is_not_known_yet_is_served_and_asked_for_again(lab: Lab) -> None:
    with listening() as inside, lab.hand_over(S1, inside):
        assert await ask(inside) == b"nobody"
        lab.desk.occupants[S1] = WEB
        assert await ask(inside) == b"web"


async def test_who_was_told_of_is_known_while_its_allocator_is_away(lab: Lab) -> None:
    with listening() as inside, lab.hand_over(S1, inside):
        assert await lab.desk.heard() == HandedOver(sandbox=S1)
        lab.door.occupied(S1, WEB)
        assert await ask(inside) == b"web"
        lab.door.occupied(S1, Caller(ServiceName("other"), InstanceId("i2")))
        assert await ask(inside) == b"other"
    assert lab.desk.asked == []
    assert await lab.desk.heard() == HandOverEnded(sandbox=S1)
    lab.door.occupied(S1, WEB)
    with listening() as inside, lab.hand_over(S1, inside):
        assert await ask(inside) == b"nobody"


async def test_a_sandbox_that_is_gone_takes_its_socket_along(lab: Lab) -> None:
    inside = listening()
    address = inside.getsockname()
    connection = lab.hand_over(S1, inside)
    inside.close()
    assert await lab.desk.heard() == HandedOver(sandbox=S1)
    connection.close()
    assert await lab.desk.heard() == HandOverEnded(sandbox=S1)
    with pytest.raises(OSError, match=r"connect|refused"):
        await trio.open_tcp_stream(*address)


async def test_wrong_things_on_the_socket_end_only_their_own_connection(
    lab: Lab, tmp_path: Path
) -> None:
    file = (tmp_path / "file").open("w")
    client, other = socket.socketpair()
    unbound, datagram = socket.socket(), socket.socket(type=socket.SOCK_DGRAM)
    everywhere = listening("0.0.0.0")
    unix = socket.socket(socket.AF_UNIX)
    unix.bind(str(tmp_path / "unix"))
    unix.listen()
    with file, client, other, unbound, datagram, everywhere, unix, listening() as good:
        before = len(list(Path("/proc/self/fd").iterdir()))
        for given in (client, unbound, datagram, everywhere, unix, file):
            await lab.ends(lab.hand_over(S1, given))  # type: ignore[arg-type]
        await lab.ends(lab.hand_over(S1))
        await lab.ends(lab.hand_over(S1, good, good))
        await lab.ends(lab.hand_over(S1, *[good] * 50))
        for text in (b"GET / HTTP/1.1\r\n\r\n", b"myxo-sandbox/1 ../x\n", b"x" * 5000, b"\xff\n"):
            await lab.ends(lab.hand_over(S1, good, text=text))
        assert len(list(Path("/proc/self/fd").iterdir())) == before
        with lab.hand_over(S1, good):
            assert await lab.desk.heard() == HandedOver(sandbox=S1)


async def test_a_second_sandbox_of_the_same_name_is_refused(lab: Lab) -> None:
    lab.desk.occupants[S1] = WEB
    with listening() as inside, listening() as other, lab.hand_over(S1, inside):
        assert await lab.desk.heard() == HandedOver(sandbox=S1)
        await lab.ends(lab.hand_over(S1, other))
        assert await ask(inside) == b"web"


async def test_a_socket_that_is_shut_down_ends_its_own_hand_over(lab: Lab) -> None:
    with listening() as inside, listening() as other:
        connection = lab.hand_over(S1, inside)
        assert await lab.desk.heard() == HandedOver(sandbox=S1)
        inside.shutdown(socket.SHUT_RDWR)
        await lab.ends(connection)
        assert await lab.desk.heard() == HandOverEnded(sandbox=S1)
        with lab.hand_over(S2, other):
            assert await lab.desk.heard() == HandedOver(sandbox=S2)


async def test_an_allocator_that_comes_back_is_told_of_every_sandbox(tmp_path: Path) -> None:
    path, first, second = tmp_path / "proxy", PlayedDesk(), PlayedDesk()

    async def serve(client: trio.SocketStream, *_: object) -> None:
        await client.aclose()

    with trio.fail_after(20):
        async with trio.open_nursery() as nursery:
            door = SandboxDoor(path, first, serve, nursery)
            nursery.start_soon(door.run)
            await appears(path)
            with listening() as inside, Lab(path).hand_over(S1, inside):
                assert await first.heard() == HandedOver(sandbox=S1)
                await door.announce(second)
                assert await second.heard() == HandedOver(sandbox=S1)
            nursery.cancel_scope.cancel()


async def test_a_directory_that_is_not_there_is_said(tmp_path: Path) -> None:
    async with trio.open_nursery() as nursery:
        door = SandboxDoor(tmp_path / "no" / "proxy", PlayedDesk(), _never, nursery)
        with pytest.raises(AddressTaken, match="cannot be listened on"):
            await door.run()


async def _never(*_: object) -> None:
    raise AssertionError


async def test_the_program_hands_its_socket_to_one_proxy_after_the_other(tmp_path: Path) -> None:
    """The real program, without a container: it needs nothing that one has."""
    if shutil.which("cc") is None:
        pytest.skip("there is no C compiler")
    program, port = tmp_path / "sandbox", listening()
    number = port.getsockname()[1]
    port.close()
    subprocess.run(["cc", "-static", "-o", str(program), str(SOURCE)], check=True)  # noqa: ASYNC221
    path = tmp_path / "proxy"

    async def serve(client: trio.SocketStream, *_: object) -> None:
        async with client:
            await client.send_all(b"here")

    async def answered() -> None:
        desk = PlayedDesk()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(SandboxDoor(path, desk, serve, nursery).run)
            assert await desk.heard() == HandedOver(sandbox=S1)
            async with await trio.open_tcp_stream("127.0.0.1", number) as stream:
                assert await stream.receive_some() == b"here"
            nursery.cancel_scope.cancel()

    async def run(*command: str) -> None:
        await trio.run_process(command)

    with trio.fail_after(30):
        async with trio.open_nursery() as programs:
            programs.start_soon(run, str(program), S1, str(number), str(tmp_path))
            await answered()
            await answered()
            programs.cancel_scope.cancel()
