"""One worker as the daemon sees it: it is told what is news, and done for what it asks."""

import os
import socket
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import structlog
import trio

from overlay.definitions import Definitions
from overlay.errors import MalformedMessage, MyxoError, PeerUnreachable
from overlay.http.carried import open_carried_bytes
from overlay.node import Node
from proxy.frontend.clients import Clients
from proxy.guard.limiting import Limits, Rates
from proxy.ranking.routing_table import RoutingTable
from proxy.settings import ProxySettings
from proxy.succession.calls import made_for
from proxy.succession.messages import Call, Moved
from proxy.workers.carrying import pass_on
from proxy.workers.counts import Row, read_rows
from proxy.workers.feeds import Feeds, keys_message
from proxy.workers.link import Link
from proxy.workers.messages import (
    Accept,
    Accepting,
    Admit,
    Admitted,
    Answer,
    Begin,
    Carried,
    Carry,
    FromWorker,
    GivenUp,
    Keys,
    Listen,
    Retire,
    Tell,
)

FEED_S = 0.25
"""How old a worker's idea of RTTs and load may be; what starts, ends or is changed it hears at
once."""

BETWEEN_S = 0.01
"""Between two times that it is told: a thousand instances that start at once are told in some."""

ANSWER_S = 1.0
"""Whoever scrapes or asks why does not wait for a worker that hangs."""

MAX_UNDER_WAY = 4096
"""Things that are done for one worker at once; what is more waits. Requests are bounded there."""

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Shared:
    """What the daemon has that workers need.

    Attributes:
        rates: counts for all processes.
        routes: the routing table.
        clients: tells where connections go once another proxy takes over.
        listeners: what to accept on, by name.
    """

    node: Node
    definitions: Definitions
    settings: ProxySettings
    rates: Rates
    routes: RoutingTable
    clients: Clients
    listeners: dict[str, trio.SocketListener] = field(default_factory=dict)


class Attendant:
    """Attends to one worker.

    Attributes:
        accepting: it accepts.
        rows: what it had counted when it was last asked.
    """

    def __init__(self, shared: Shared, link: Link[FromWorker]) -> None:
        self._shared = shared
        self._link = link
        self.accepting = False
        self.rows: list[Row] = []
        self._bell = trio.Event()
        self._limit = trio.CapacityLimiter(MAX_UNDER_WAY)
        self._calls: dict[int, trio.CancelScope] = {}
        self._asked: dict[int, tuple[trio.Event, list[Any]]] = {}
        self._number = 0
        self._keys: Keys | None = None

    def wake(self) -> None:
        """Tell the worker soon what is news."""
        self._bell.set()

    async def attend(self, stopping: trio.Event, retire: Callable[[], Retire]) -> None:
        """Attend to it until it is gone or this is cancelled.

        Args:
            stopping: set when it is to end.
            retire: returns how.
        """
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._tell, stopping)
                nursery.start_soon(self._retire, stopping, retire)
                await self._hear(nursery)
                nursery.cancel_scope.cancel()
        except* PeerUnreachable as group:
            log.debug("worker.gone", error=str(group.exceptions[0]))
        except* MalformedMessage as group:
            log.warning("worker.malformed", error=str(group.exceptions[0]))

    async def count(self) -> None:
        """Have the worker tell what it has counted."""
        answer = await self._ask("counts", "")
        if answer is not None:
            self.rows = read_rows(answer)

    async def decided(self, about: str) -> list[dict[str, Any]]:
        """Return what the worker says of its decisions; nothing where it does not answer."""
        return await self._ask("why", about) or []

    async def _tell(self, stopping: trio.Event) -> None:
        """Tell the worker everything, have it accept, and then what is news."""
        shared, node = self._shared, self._shared.node
        self._keys = self._keys_now()
        await self._link.send(
            Begin(
                settings=shared.settings.model_dump(mode="json"),
                peer_id=node.peer_id,
                machine=node.view.machine,
                hostname=node.hostname,
                tls_key=node.tls.key().decode(),
                keys=self._keys,
            )
        )
        feeds = Feeds(node.view, shared.definitions, shared.routes)
        await self._tell_news(feeds)
        if stopping.is_set():
            return
        for name, listener in shared.listeners.items():
            await self._link.send(Listen(name=name), [listener.socket.fileno()])
        await self._link.send(Accept())
        while True:
            with trio.move_on_after(FEED_S):
                await self._bell.wait()
            self._bell = trio.Event()
            await self._tell_news(feeds)
            await trio.sleep(BETWEEN_S)

    async def _tell_news(self, feeds: Feeds) -> None:
        keys = self._keys_now()
        if keys != self._keys:
            self._keys = keys
            await self._link.send(keys)
        for message in feeds.news():
            await self._link.send(message)

    def _keys_now(self) -> Keys:
        node = self._shared.node
        return keys_message(node.keys, node.trust.trusted_authorities())

    async def _retire(self, stopping: trio.Event, retire: Callable[[], Retire]) -> None:
        await stopping.wait()
        await self._link.send(retire())

    async def _hear(self, nursery: trio.Nursery) -> None:
        while (received := await self._link.receive()) is not None:
            message, descriptors = received
            try:
                await self._do(nursery, message, descriptors)
            finally:
                for descriptor in descriptors:
                    os.close(descriptor)

    async def _do(self, nursery: trio.Nursery, message: FromWorker, descriptors: list[int]) -> None:
        match message:
            case Accepting():
                self.accepting = True
            case Answer(number=number, content=content) if number in self._asked:
                answered, into = self._asked[number]
                into.extend(content)
                answered.set()
            case Call():
                self._calls[message.number] = trio.CancelScope()
                nursery.start_soon(self._call, message)
            case GivenUp(number=number) if number in self._calls:
                self._calls[number].cancel()
            case Admit():
                nursery.start_soon(self._admit, message)
            case Carry():
                nursery.start_soon(self._carry, message)
            case Moved() if len(descriptors) == 1 and self._shared.clients.move is not None:
                await self._shared.clients.move(message, descriptors[0])

    async def _call(self, call: Call) -> None:
        with self._calls[call.number]:
            async with self._limit:
                await made_for(self._link, self._shared.node.calls, call)
        del self._calls[call.number]

    async def _admit(self, asked: Admit) -> None:
        rated = asked.limits
        limits = Limits(rated.per_client, rated.per_proxy, rated.in_all)
        async with self._limit:
            wait = await self._shared.rates.take(asked.service, limits, asked.client)
        await self._link.send(Admitted(number=asked.number, limit=wait.limit, wait_s=wait.for_s))

    async def _carry(self, asked: Carry) -> None:
        """Open a connection that the overlay carries, and pass its bytes on to its end."""
        node = self._shared.node
        try:
            held = await open_carried_bytes(node.host, node.reach.connect, asked.peer)
        except MyxoError as exc:
            await self._link.send(Carried(number=asked.number, error=str(exc)))
            return
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        with theirs:
            ours.setblocking(False)
            try:
                await self._link.send(Carried(number=asked.number), [theirs.fileno()])
            except BaseException:
                ours.close()
                with trio.CancelScope(shield=True):
                    await held.reset()
                raise
        await pass_on(held, trio.SocketStream(trio.socket.from_stdlib_socket(ours)))

    async def _ask(self, what: str, about: str) -> list[Any] | None:
        """Return the worker's answer; None if there is none within `ANSWER_S`."""
        if not self.accepting:
            return None
        self._number += 1
        number, answered, content = self._number, trio.Event(), list[Any]()
        self._asked[number] = answered, content
        try:
            with trio.move_on_after(ANSWER_S):
                await self._link.send(
                    Tell.model_validate({"number": number, "what": what, "about": about})
                )
                await answered.wait()
                return content
        except PeerUnreachable:
            return None
        finally:
            del self._asked[number]
        return None
