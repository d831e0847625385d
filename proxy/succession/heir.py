"""The process that takes a running proxy's place."""

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import structlog
import trio
from pydantic import ValidationError

from overlay.calls import Caller
from overlay.control import ControlConnection, open_control
from overlay.errors import MalformedMessage, PeerUnreachable
from overlay.handover import Handover, accept_handover, awaiting_handover, socket_of
from overlay.identity import Identity
from overlay.node import Legacy
from proxy.layer4.forwards import Bequest
from proxy.succession.calls import made_for
from proxy.succession.messages import (
    FROM_OLD,
    WANT,
    AllHandedOver,
    Call,
    Forwarding,
    FromOld,
    Listening,
    Moved,
    Permission,
    Ready,
    SteppedBack,
    Succeed,
)

STEP_BACK_S = 15.0
"""How long the old process may take to leave the overlay: its replica is written to disk."""

MAX_CALLS = 256
"""Calls under way for the old process; it makes them for requests that wait for a start."""

log = structlog.get_logger()

Adopt = Callable[[Moved, trio.SocketStream], None]
"""Has a connection that was handed over served to its end."""


@dataclass(slots=True)
class Inheritance:
    """What comes from the old process.

    Attributes:
        legacy: what the node takes over.
        listeners: the listening sockets, by name, once `claim` has returned; whoever uses one takes
            it out.
        forwards: the ports of `myxo forward`, once `claim` has returned.
    """

    legacy: Legacy
    _old: Handover
    listeners: dict[str, trio.SocketListener] = field(default_factory=dict)
    forwards: list[Bequest] = field(default_factory=list)

    async def claim(self) -> None:
        """Say that this process has joined, and take the listening sockets.

        Raises:
            PeerUnreachable: the old process has ended.
        """
        await self._old.send(Ready(pid=os.getpid()))
        while True:
            message, descriptors = await _next(self._old)
            if isinstance(message, AllHandedOver):
                return
            if isinstance(message, Listening):
                (descriptor,) = descriptors
                self.listeners[message.name] = trio.SocketListener(socket_of(descriptor))
            if isinstance(message, Forwarding):
                self.forwards.append(_left(message, descriptors))

    def close(self) -> None:
        """Have nothing more from the old process, which sees that."""
        self._old.close()

    async def adopt(self, adopt: Adopt, calls: Caller) -> None:
        """Take in connections, and make calls for the old process, until that one has ended.

        Args:
            adopt: takes a connection over.
            calls: makes calls.
        """
        limit = trio.CapacityLimiter(MAX_CALLS)

        async def make(call: Call) -> None:
            try:
                async with limit:
                    await made_for(self._old, calls, call)
            except PeerUnreachable as exc:
                log.debug("proxy.predecessor_gone", error=str(exc))

        moved = 0
        async with trio.open_nursery() as nursery:
            try:
                while True:
                    message, descriptors = await _next(self._old)
                    if isinstance(message, Moved) and descriptors:
                        moved += 1
                        adopt(message, trio.SocketStream(socket_of(descriptors[0])))
                    elif isinstance(message, Call):
                        nursery.start_soon(make, message)
            except (PeerUnreachable, MalformedMessage) as exc:
                log.info("proxy.predecessor_ended", connections=moved, reason=str(exc))
            nursery.cancel_scope.cancel()
        self.close()
        while self.listeners:  # one may be taken out while another is closed
            _, unwanted = self.listeners.popitem()
            await unwanted.aclose()


async def take_over(control: Path) -> Inheritance | None:
    """Have the proxy that serves `control` step back; None if none does.

    Raises:
        PeerUnreachable: it does not give way, or ended meanwhile; says why.
    """
    with trio.move_on_after(STEP_BACK_S):
        return await _take_over(control) if await _answers(control) else None
    raise PeerUnreachable(f"the running proxy did not step back within {STEP_BACK_S:g} s")


async def _take_over(control: Path) -> Inheritance:
    at = control.with_suffix(".next")
    async with awaiting_handover(at) as sock:
        async with open_control(control, WANT) as connection:
            await connection.send(Succeed(at=str(at)))
            line = await connection.receive()
            permission = Permission(error="it ended")
            if line is not None:
                permission = Permission.model_validate_json(line)
            if permission.error:
                raise PeerUnreachable(f"the running proxy stays: {permission.error}")
        old = await accept_handover(sock)
    try:
        message, _ = await _next(old)
    except BaseException:
        old.close()
        raise
    if not isinstance(message, SteppedBack):
        old.close()
        raise PeerUnreachable("the running proxy did not say that it has stepped back")
    identity = Identity.from_seed(bytes.fromhex(message.seed)) if message.seed else None
    return Inheritance(Legacy(message.tls_key.encode(), identity), old)


def _left(said: Forwarding, descriptors: list[int]) -> Bequest:
    sock, *held = [socket_of(descriptor) for descriptor in descriptors]
    command = ControlConnection(trio.SocketStream(held[0])) if held else None
    return Bequest(said.to, said.carries, said.keep, sock, command)


async def _answers(control: Path) -> bool:
    try:
        async with open_control(control, "status") as connection:
            return await connection.receive() is not None
    except PeerUnreachable:
        return False


async def _next(old: Handover) -> tuple[FromOld, list[int]]:
    """Return what the old process says next.

    Raises:
        PeerUnreachable: it has ended.
        MalformedMessage: it says what this one does not understand; what came with it is closed.
    """
    received = await old.receive()
    if received is None:
        raise PeerUnreachable("the old process has ended")
    data, descriptors = received
    try:
        return FROM_OLD.validate_json(data), descriptors
    except ValidationError as exc:
        for descriptor in descriptors:
            os.close(descriptor)
        raise MalformedMessage(f"the old process says {data[:80]!r}") from exc
