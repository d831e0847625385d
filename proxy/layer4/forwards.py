"""Local ports that lead to services: what `myxo forward` asks of a proxy.

A port is listened on for as long as the command that asked for it runs, or, if it is to be kept,
until it is removed or the proxy ends. Each connection to it is a tunnel of its own; what is open
when the proxy stops gets the time that requests get, and when the port's command ends it is cut.

A process that takes the proxy's place is left the ports, with the connections of their commands.
What is open on them stays here, to its end or that of its command, which both processes see. Of
datagrams the new process gets all that come from then on, for sessions of its own.
"""

from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial

import structlog
import trio
from trio.socket import SocketType

from overlay.advertising import host_port
from overlay.control import ControlConnection
from overlay.errors import (
    AddressTaken,
    InvalidName,
    MalformedMessage,
    MyxoError,
    PeerUnreachable,
)
from overlay.http.transport import transport
from overlay.listeners import listen
from overlay.tunnel import Carries, End, Relayed, SocketEnd, let_go
from proxy.errors import RequestRefused
from proxy.layer4.forward_orders import ORDER, Answer, Forwarded, Open, Remove, Show
from proxy.layer4.hops import Hop, hops_of, written
from proxy.layer4.sessions import DatagramPort, open_port
from proxy.layer4.tunnels import MAX_TUNNELS, Tunnels
from proxy.request.forwarding import Forwarder

MAX_FORWARDS = 256
"""Ports at once; each is asked for by a person or a script on this machine."""

MAX_TROUBLE = 16
"""Reports that wait for a command that does not read; the log has them all."""

log = structlog.get_logger()


class TooManyForwards(MyxoError):
    """No more ports are listened on."""


@dataclass(slots=True, eq=False)
class _Forward:
    """One port.

    Attributes:
        carries: what its clients send.
        sock: is listened on.
        tell: says what went wrong to whoever asked for the port.
        command: the connection of the command that holds it, if one does.
        scope: ends the listening.
        leave: ends the listening alone, where another process goes on with it.
        open: connections that are served; each scope ends one.
        left: another process listens on the port.
        closed: set when one of those that are open has ended.
    """

    hops: tuple[Hop, ...]
    carries: Carries
    sock: SocketType
    keep: bool
    tell: Callable[[str], None]
    command: ControlConnection | None = None
    scope: trio.CancelScope = field(default_factory=trio.CancelScope)
    leave: Callable[[], None] = field(init=False)
    open: set[trio.CancelScope] = field(default_factory=set)
    host: str = field(init=False)
    port: int = field(init=False)
    left: bool = False
    closed: trio.Event = field(default_factory=trio.Event)

    def __post_init__(self) -> None:
        self.host, self.port = self.sock.getsockname()[:2]
        self.leave = self.scope.cancel

    @property
    def is_held(self) -> bool:
        """Whether anybody wants it: a command that has not been answered yet will not be."""
        return self.keep or self.command is not None

    def end(self) -> None:
        """Listen no more, and cut what is open."""
        self.scope.cancel()
        for scope in self.open:
            scope.cancel()

    def shown(self) -> Forwarded:
        return Forwarded(
            listen=host_port(self.host, self.port),
            to=written(self.hops),
            carries=self.carries,
            open=len(self.open),
            keep=self.keep,
        )


@dataclass(frozen=True, slots=True)
class Bequest:
    """A port that one process leaves to another.

    Attributes:
        to: what it leads to, as `hops_of` reads it.
        sock: is listened on.
        command: the connection of the command that holds it, unless it is kept without one.
    """

    to: str
    carries: Carries
    keep: bool
    sock: SocketType
    command: ControlConnection | None


class Forwards:
    """The ports of one proxy, while `run` runs.

    Args:
        forwarder: knows services.
        tunnels: leads to their instances.
        ended: told of each tunnel's service and end, for metrics.
        connections: runs what is carried; when the proxy stops it gets some time to end.
        stopping: set when the proxy stops.
    """

    def __init__(
        self,
        forwarder: Forwarder,
        tunnels: Tunnels,
        ended: Callable[[str, Relayed | None], None],
        connections: trio.Nursery,
        stopping: trio.Event,
    ) -> None:
        self._forwarder = forwarder
        self._tunnels = tunnels
        self._ended = ended
        self._connections = connections
        self._stopping = stopping
        self._forwards: list[_Forward] = []
        self._nursery: trio.Nursery | None = None

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Hold the ports until cancelled; what is open then goes on among the connections."""
        async with trio.open_nursery() as self._nursery:
            task_status.started()
            await trio.sleep_forever()

    async def serve(self, connection: ControlConnection) -> None:
        """Follow one order of a control socket's connection."""
        line = await connection.receive()
        if line is None:
            return
        match ORDER.validate_json(line):
            case Open() as order:
                await self._serve_open(connection, order)
            case Show():
                await connection.send(Answer(forwards=tuple(f.shown() for f in self._forwards)))
            case Remove(port=port):
                await connection.send(self._remove(port))

    async def leave(self, tell: Callable[[Bequest], Awaitable[None]]) -> None:
        """Leave every port to another process, which `tell` gives copies of what it is told of."""
        for forward in list(self._forwards):
            if forward.is_held:
                to, command = written(forward.hops), forward.command
                await tell(Bequest(to, forward.carries, forward.keep, forward.sock, command))
            forward.left = True
            forward.leave()

    def inherit(self, left: Bequest) -> None:
        """Go on with a port that another process has left.

        Raises:
            InvalidName: what it leads to is of another version than this process.
        """
        said, heard = trio.open_memory_channel[str](MAX_TROUBLE)
        hops = hops_of(left.to)
        forward = _Forward(hops, left.carries, left.sock, left.keep, partial(_post, said))
        self._begin(forward)
        if left.command is not None:
            self._attend_to(forward, left.command, heard)

    async def _serve_open(self, connection: ControlConnection, order: Open) -> None:
        said, heard = trio.open_memory_channel[str](MAX_TROUBLE)
        try:
            forward = await self._listen(order, partial(_post, said))
        except (RequestRefused, InvalidName, AddressTaken, TooManyForwards) as exc:
            await connection.send(Answer(error=str(exc)))
            return
        try:
            await connection.send(Answer(forwards=(forward.shown(),)))
        except PeerUnreachable:
            if not order.keep:
                forward.end()
            raise
        if not order.keep:
            self._attend_to(forward, connection.keep(), heard)

    def _attend_to(
        self,
        forward: _Forward,
        command: ControlConnection,
        heard: "trio.MemoryReceiveChannel[str]",
    ) -> None:
        forward.command = command
        self._connections.start_soon(self._attend, forward, command, heard)

    async def _attend(
        self,
        forward: _Forward,
        command: ControlConnection,
        heard: "trio.MemoryReceiveChannel[str]",
    ) -> None:
        """End a port with the command that asked for it; let go of that when this proxy stops."""
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._let_go, forward, nursery.cancel_scope)
                await _until_gone(command, heard)
                forward.end()
                nursery.cancel_scope.cancel()
        finally:
            with trio.CancelScope(shield=True):
                await command.aclose()

    async def _let_go(self, forward: _Forward, attending: trio.CancelScope) -> None:
        """End the wait for a command when the proxy stops, unless it may still end something."""
        await self._stopping.wait()
        while forward.left and forward.open:
            forward.closed = trio.Event()
            await forward.closed.wait()
        attending.cancel()

    def _remove(self, port: int) -> Answer:
        gone = [forward for forward in self._forwards if forward.port == port]
        if not gone:
            return Answer(error=f"this proxy forwards nothing on port {port}")
        for forward in gone:
            forward.end()
        return Answer(forwards=tuple(forward.shown() for forward in gone))

    async def _listen(self, order: Open, tell: Callable[[str], None]) -> _Forward:
        """Begin to listen.

        Raises:
            RequestRefused, InvalidName: what it should lead to cannot be.
            AddressTaken: the port is in use; says by whom.
            TooManyForwards: there are `MAX_FORWARDS`.
        """
        hops = hops_of(order.to)
        carried = list[Carries]()
        for hop in hops:
            _, spec = await self._forwarder.resolve(hop.service)
            carried.append(hop.carried(spec))
        carries = carried[0]
        if self._nursery is None or len(self._forwards) >= MAX_FORWARDS:
            raise TooManyForwards(
                f"this proxy forwards {len(self._forwards)} ports; `myxo forward --list` shows "
                "them, `myxo forward --remove PORT` removes one"
            )
        host, what = str(order.host), f"the forward to {order.to}"
        if carries == "tcp":
            sock = (await listen(host, order.port, what=what)).socket
        else:
            sock = (await open_port(host, order.port, what=what)).sock
        forward = _Forward(hops, carries, sock, order.keep, tell)
        self._begin(forward)
        return forward

    def _begin(self, forward: _Forward) -> None:
        if forward.carries == "tcp":
            listener = trio.SocketListener(forward.sock)
            serve, nursery = partial(self._accept, forward, listener), self._nursery
        else:
            port = DatagramPort(forward.sock)
            forward.leave = port.leave
            serve = partial(port.serve, partial(self._carry, forward), self._stopping)
            nursery = self._connections  # sessions have no other socket
        if nursery is None:
            raise RuntimeError("ports are held while `run` runs")
        self._forwards.append(forward)
        nursery.start_soon(self._hold, forward, serve)
        at = host_port(forward.host, forward.port)
        log.info("forward.opened", to=written(forward.hops), listen=at)

    async def _hold(self, forward: _Forward, serve: Callable[[], Awaitable[None]]) -> None:
        try:
            with forward.scope:
                await serve()
        finally:
            self._forwards.remove(forward)

    async def _accept(self, forward: _Forward, listener: trio.SocketListener) -> None:
        async def carry(stream: trio.SocketStream) -> None:
            try:
                client = str(stream.socket.getpeername()[0])
            except OSError:  # it has left already
                client = "gone"
            await self._carry(forward, SocketEnd(transport(stream)), client)

        async with listener:
            await trio.serve_listeners(carry, [listener], handler_nursery=self._connections)

    async def _carry(self, forward: _Forward, here: End, client: str) -> None:
        """Carry one connection, or one client's datagrams, to the end."""
        relayed = None
        with trio.CancelScope() as scope:
            forward.open.add(scope)
            try:
                self._check_room()
                relayed = await self._tunnels.carry(forward.hops, here, client)
            except MyxoError as exc:
                log.warning("forward.failed", to=written(forward.hops), error=str(exc))
                forward.tell(str(exc))
            except Exception:  # a bug that one connection meets must not end all others
                log.exception("forward.broke")
            finally:
                forward.open.discard(scope)
                forward.closed.set()
                if relayed is None:
                    await let_go([here], orderly=False)
                self._ended(forward.hops[0].service, relayed)

    def _check_room(self) -> None:
        if sum(len(forward.open) for forward in self._forwards) > MAX_TUNNELS:
            raise TooManyForwards(f"{MAX_TUNNELS} connections are forwarded already")


def _post(said: "trio.MemorySendChannel[str]", trouble: str) -> None:
    with suppress(trio.WouldBlock, trio.BrokenResourceError):
        said.send_nowait(trouble)


async def _until_gone(
    connection: ControlConnection, heard: "trio.MemoryReceiveChannel[str]"
) -> None:
    """Return when the command that holds the connection is gone; report to it meanwhile."""
    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_report, connection, heard)
            while await connection.receive() is not None:
                pass
            nursery.cancel_scope.cancel()
    except* (PeerUnreachable, MalformedMessage) as group:
        log.debug("forward.command_lost", error=str(group.exceptions[0]))


async def _report(connection: ControlConnection, heard: "trio.MemoryReceiveChannel[str]") -> None:
    async for trouble in heard:
        await connection.send(Answer(trouble=trouble))
