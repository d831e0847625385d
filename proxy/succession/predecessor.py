"""The process whose place is taken: it steps back, hands over, and ends what is under way."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

import structlog
import trio
from pydantic import ValidationError

from overlay.control import ControlConnection
from overlay.errors import MalformedMessage, MyxoError, PeerUnreachable
from overlay.handover import Handover, open_handover
from overlay.node import Node
from overlay.notify import notify
from proxy.backend.roads import Roads
from proxy.frontend.clients import Clients
from proxy.frontend.grace import Grace
from proxy.layer4.forwards import Bequest, Forwards
from proxy.succession.calls import LastingCalls
from proxy.succession.messages import (
    FROM_NEW,
    AllHandedOver,
    CallEnded,
    Forwarding,
    Listening,
    Moved,
    Permission,
    Ready,
    SteppedBack,
    Succeed,
)

READY_S = 60.0
"""How long the new process may take to join. Its programs are answered meanwhile."""

log = structlog.get_logger()


class HeirLost(MyxoError):
    """The process that was to take over ended before it had; this one has left the overlay."""


class Entrance:
    """Where the process comes that is to take over; serves the want `succeed`.

    Args:
        refusal: why none can; empty if one can.
    """

    def __init__(self, refusal: str = "") -> None:
        self._refusal = refusal
        self._came = trio.Event()
        self._asked = False
        self._heir: Handover | None = None

    async def serve(self, connection: ControlConnection) -> None:
        """Let the first one that asks take over."""
        line = await connection.receive()
        if line is None:
            return
        at = Succeed.model_validate_json(line).at
        if self._refusal:
            await connection.send(Permission(error=self._refusal))
            return
        if self._asked:
            await connection.send(Permission(error="another process is taking over already"))
            return
        self._asked = True
        try:
            self._heir = await open_handover(at)
        except PeerUnreachable:
            self._asked = False
            raise
        try:
            await connection.send(Permission())
        finally:
            self._came.set()

    async def heir(self) -> Handover:
        """Wait for the process that takes over."""
        await self._came.wait()
        if self._heir is None:
            raise RuntimeError("nobody came")  # it is set before the event
        return self._heir


@dataclass(frozen=True, slots=True)
class Predecessor:
    """What a proxy does once its place is to be taken.

    Attributes:
        node: its part in the overlay; is withdrawn.
        seed: of its identity, where no file has it.
        calls: of its requests.
        grace: ends them.
        clients: whose connections go to the new process.
        roads: whose leases last.
        listeners: returns what it listens on, by name.
        forwards: whose ports the new process gets, too.
        drain_s: how long what is under way may take.
    """

    node: Node
    seed: bytes
    calls: LastingCalls
    grace: Grace
    clients: Clients
    roads: Roads
    listeners: Callable[[], Mapping[str, trio.SocketListener]]
    forwards: Forwards
    drain_s: float

    async def give_way(self, heir: Handover) -> None:
        """Let `heir` take over; return when nothing is left to do here.

        Raises:
            HeirLost: it ended before it had taken over.
        """
        log.info("proxy.steps_back")
        self.calls.step_back()
        await self.node.withdraw()
        try:
            await heir.send(SteppedBack(tls_key=self.node.tls.key().decode(), seed=self.seed.hex()))
            pid = await _ready(heir)
            await self.roads.retire()
            for name, listener in list(self.listeners().items()):
                await heir.send(Listening(name=name), [listener.socket.fileno()])
            await self.forwards.leave(partial(_bequeath, heir))
            await heir.send(AllHandedOver())
        except PeerUnreachable as exc:
            self.calls.go_through(None)
            raise HeirLost(f"{exc}; start the proxy anew, this one ends") from exc
        notify(f"MAINPID={pid}")
        log.info("proxy.replaced", by=pid, drain_s=self.drain_s)
        self.calls.go_through(heir)
        self.clients.move = partial(_move, heir)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._hear, heir)
            self.grace.retire(self.drain_s)
            await self.grace.ended.wait()
            nursery.cancel_scope.cancel()
        heir.close()

    async def _hear(self, heir: Handover) -> None:
        """Take in what became of calls, until the new process ends."""
        try:
            while (message := await _next(heir)) is not None:
                if isinstance(message, CallEnded):
                    self.calls.ended(message)
        except MalformedMessage as exc:
            log.warning("proxy.heir_malformed", error=str(exc))
        self.clients.move = None
        self.calls.go_through(None)


async def _ready(heir: Handover) -> int:
    """Return the process id of the new proxy once it has joined.

    Raises:
        PeerUnreachable: it ended before, or did not within `READY_S`.
    """
    with trio.move_on_after(READY_S):
        message = await _next(heir)
        if isinstance(message, Ready):
            return message.pid
        raise PeerUnreachable("the process that was to take over ended before it was ready")
    raise PeerUnreachable(f"the process that was to take over was not ready in {READY_S:g} s")


async def _next(heir: Handover) -> Ready | CallEnded | None:
    received = await heir.receive()
    if received is None:
        return None
    try:
        return FROM_NEW.validate_json(received[0])
    except ValidationError as exc:
        raise MalformedMessage(f"the process that takes over says {received[0]!r}") from exc


async def _bequeath(heir: Handover, left: Bequest) -> None:
    sockets = [left.sock.fileno()]
    if left.command is not None:
        sockets.append(left.command.descriptor())
    await heir.send(Forwarding(to=left.to, carries=left.carries, keep=left.keep), sockets)


async def _move(heir: Handover, moved: Moved, descriptor: int) -> bool:
    try:
        await heir.send(moved, [descriptor])
    except PeerUnreachable as exc:
        log.debug("client.not_moved", error=str(exc))
        return False
    return True
