"""For tests: load hosts on a network of real nodes, and a server that they send requests to."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import trio

from bench.lab.errors import NoSuchHost
from bench.lab.hosts.fleet import Fleet
from bench.lab.hosts.joining import open_fleet
from bench.lab.hosts.service import run
from bench.lab.hosts.settings import CommandSettings, HostSettings
from bench.lab.request_trace import RequestTrace
from overlay.identity import load_or_create
from overlay.node import Node
from overlay.records import Role
from overlay.settings import owner_key_path
from overlay.testing_nodes import NodeLab

POLL_S = 0.05


@dataclass
class Server:
    """Answers GET with 200 and the path; counts what it was asked for."""

    port: int = 0
    asked: list[str] = field(default_factory=list)

    @property
    def url(self) -> str:
        """Return where it is."""
        return f"http://127.0.0.1:{self.port}"

    async def serve(self, stream: trio.SocketStream) -> None:
        """Answer what comes on a connection, until it ends in whatever way."""
        with suppress(trio.BrokenResourceError):
            await self._serve(stream)

    async def _serve(self, stream: trio.SocketStream) -> None:
        received = b""
        while data := await stream.receive_some():
            received += data
            while b"\r\n\r\n" in received:
                head, _, received = received.partition(b"\r\n\r\n")
                path = head.split()[1].decode()
                self.asked.append(path)
                body = path.encode()
                answer = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\nX-Said: yes\r\n\r\n%b"
                await stream.send_all(answer % (len(body), body))


async def open_server(nursery: trio.Nursery) -> Server:
    """Return what load is sent to; it runs in `nursery`."""
    made = Server()
    listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
    made.port = listeners[0].socket.getsockname()[1]
    nursery.start_soon(partial(trio.serve_listeners, made.serve, listeners))
    return made


class Kept:
    """A `TraceSink` that has everything, and can be waited for."""

    def __init__(self) -> None:
        self.traces: list[RequestTrace] = []
        self.news = trio.Event()

    async def write(self, traces: Sequence[RequestTrace]) -> None:
        """Keep these."""
        self.traces += traces
        self.news.set()
        self.news = trio.Event()

    async def until(self, count: int) -> None:
        """Return when so many are there."""
        with trio.fail_after(20):
            while len(self.traces) < count:
                await self.news.wait()


@dataclass
class Network:
    """A network with a bootstrap node; hosts and who commands them join as a test asks."""

    nodes: NodeLab
    nursery: trio.Nursery
    kept: Kept = field(default_factory=Kept)
    events: list[tuple[str, str]] = field(default_factory=list)
    _scopes: dict[str, trio.CancelScope] = field(default_factory=dict)
    _ended: dict[str, trio.Event] = field(default_factory=dict)

    async def host(self, name: str, **fields: object) -> Node:
        """Have a load host of that name, until `lose` is called."""
        node: Node = await self.nursery.start(self._run, name, fields)
        return node

    async def lose(self, name: str) -> None:
        """End a host."""
        self._scopes[name].cancel()
        await self._ended[name].wait()

    @asynccontextmanager
    async def fleet(self, *names: str) -> AsyncIterator[Fleet]:
        """Yield who commands hosts, once it sees these."""
        values = self.nodes.settings("commander").model_dump(exclude_unset=True)
        settings = CommandSettings.model_validate(values)
        async with open_fleet(settings, self.kept, self._tell) as fleet:
            await until_there(fleet, *names)
            yield fleet

    async def told(self, count: int) -> tuple[str, str]:
        """Return the last event when there are so many."""
        with trio.fail_after(20):
            while len(self.events) < count:  # noqa: ASYNC110  (events are told, not awaited)
                await trio.sleep(POLL_S)
        return self.events[-1]

    def _tell(self, event: str, text: str) -> None:
        self.events.append((event, text))

    async def _run(
        self, name: str, fields: dict[str, object], *, task_status: trio.TaskStatus[Node]
    ) -> None:
        values = self.nodes.settings(name).model_dump(exclude_unset=True)
        settings = HostSettings.model_validate(values | fields)
        self._ended[name] = trio.Event()
        try:
            with trio.CancelScope() as self._scopes[name]:
                await run(settings, ready=task_status.started)
        finally:
            self._ended[name].set()


async def until_there(fleet: Fleet, *names: str) -> None:
    """Return when just these hosts are there, as the fleet sees it."""
    with trio.fail_after(20):
        while await _there(fleet) != set(names):  # noqa: ASYNC110  (it has no event for it)
            await trio.sleep(POLL_S)


async def _there(fleet: Fleet) -> set[str]:
    try:
        return set(await fleet.hosts())
    except NoSuchHost:
        return set()


@asynccontextmanager
async def open_network(folder: Path) -> AsyncIterator[Network]:
    """Yield a network whose admin is this user, and whose nodes keep their state in `folder`."""
    async with trio.open_nursery() as nursery:
        nodes = NodeLab(folder, nursery, load_or_create(owner_key_path()))
        await nodes.open("boot", Role.BOOTSTRAP)
        yield Network(nodes, nursery)
        nursery.cancel_scope.cancel()
