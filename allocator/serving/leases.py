"""Use-leases: the proxies of this machine dial instances directly, and answer for what they do.

Each proxy has one connection to the allocator's Unix socket. A lease ends when the proxy gives it
back, or with its connection.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

import structlog
import trio
from pydantic import BaseModel, ValidationError

from allocator.errors import InstanceGone
from allocator.instances.instances import Instances
from overlay.control import ControlConnection
from overlay.errors import MalformedMessage, PeerUnreachable
from overlay.leases import (
    FROM_PROXY,
    Acquire,
    Bridge,
    FromProxy,
    Granted,
    HandedOver,
    HandOverEnded,
    Hello,
    Occupant,
    Refused,
    Release,
    Released,
    Report,
    Retiring,
    Welcome,
    WhoIsIn,
)
from overlay.names import InstanceId, SandboxId, ServiceName

OUTBOX = 2048
"""Twice the instances that an allocator can have: a proxy that is this slow is cut off."""

MAX_SANDBOXES = 4096
"""Four times the instances that an allocator can have: who says it has more sockets is cut off."""

log = structlog.get_logger()


class Containers(Protocol):
    """What proxies need to know of this machine's containers."""

    def bridges(self) -> Sequence[Bridge]:
        """Return where containers look for the proxy."""
        ...

    def socket(self) -> str:
        """Return where the proxy is to meet sandboxes; empty if it is not."""
        ...

    def proxy_chosen(self, port: int) -> None:
        """Take note of where containers find the proxy from now on."""
        ...

    def handed_over(self, sandbox: SandboxId, *, done: bool) -> None:
        """Take note that a proxy answers on 127.0.0.1 in a sandbox, or does so no more."""
        ...

    def on_occupied(self, tell: Callable[[SandboxId], None]) -> None:
        """Have `tell` called with each sandbox that has got an instance."""
        ...

    def occupant(self, sandbox: SandboxId) -> tuple[ServiceName, InstanceId] | None:
        """Return who is in a sandbox."""
        ...


class LeaseDesk:
    """Serves the control socket's want `lease`.

    Args:
        instances: what is leased.
        containers: where they look for the proxy.
    """

    def __init__(self, instances: Instances, containers: Containers) -> None:
        self._instances = instances
        self._containers = containers
        self._proxies: list[_ProxyHolder] = []
        self._holders: set[_ProxyHolder] = set()
        containers.on_occupied(self._occupied)

    def leads_on(self) -> Path | None:
        """Return the control socket of the proxy by which chains go on from this machine."""
        return next((Path(one.control) for one in self._proxies if one.control), None)

    async def serve(self, connection: ControlConnection) -> None:
        """Serve one proxy until its connection ends; its leases end with it."""
        send, receive = trio.open_memory_channel[BaseModel](OUTBOX)
        holder = _ProxyHolder(send)
        self._holders.add(holder)
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(_send_all, connection, receive)
                while (line := await connection.receive()) is not None:
                    if not self._take(FROM_PROXY.validate_json(line), holder):
                        log.warning("lease.proxy_too_slow")
                        break
                nursery.cancel_scope.cancel()
        except* (PeerUnreachable, MalformedMessage, ValidationError) as group:
            log.debug("lease.connection_ended", error=str(group.exceptions[0]))
        finally:
            self._instances.use.release_all(holder)
            self._holders.discard(holder)
            for sandbox in list(holder.sandboxes):
                self._hand_over_ended(sandbox, holder)
            self._leave(holder)

    def _take(self, message: FromProxy, holder: "_ProxyHolder") -> bool:
        """Act on one message; return whether the proxy keeps up."""
        match message:
            case Hello(proxy_port=port, control=control):
                self._enter(holder, port, control)
            case Retiring():
                self._leave(holder)
            case Acquire(instance=instance):
                holder.post(self._acquire(instance, holder))
            case Report(instance=instance, in_flight=in_flight, served=served):
                self._instances.use.report(instance, holder, in_flight, served)
            case Released(instance=instance):
                self._instances.use.released(instance, holder)
            case HandedOver(sandbox=sandbox):
                holder.sandboxes.add(sandbox)
                self._containers.handed_over(sandbox, done=True)
                self._occupied(sandbox)
            case HandOverEnded(sandbox=sandbox):
                self._hand_over_ended(sandbox, holder)
            case WhoIsIn(sandbox=sandbox):
                holder.post(self._occupant(sandbox))
        return holder.keeps_up and len(holder.sandboxes) <= MAX_SANDBOXES

    def _occupied(self, sandbox: SandboxId) -> None:
        """Tell whoever answers in a sandbox which instance is in it, before that calls anybody."""
        occupant = self._occupant(sandbox)
        for holder in self._holders:
            if occupant.instance is not None and sandbox in holder.sandboxes:
                holder.post(occupant)

    def _occupant(self, sandbox: SandboxId) -> Occupant:
        service, instance = self._containers.occupant(sandbox) or (None, None)
        return Occupant(sandbox=sandbox, service=service, instance=instance)

    def _hand_over_ended(self, sandbox: SandboxId, holder: "_ProxyHolder") -> None:
        """Take in that a proxy left a sandbox; the next one may have said before that it is in."""
        holder.sandboxes.discard(sandbox)
        if not any(sandbox in other.sandboxes for other in self._holders):
            self._containers.handed_over(sandbox, done=False)

    def _enter(self, holder: "_ProxyHolder", port: int, control: str) -> None:
        """Send instances to the proxy that is here longest: others come and go beside it."""
        if holder.port:
            return
        holder.port, holder.control = port, control
        self._proxies.append(holder)
        self._welcome(holder)

    def _leave(self, holder: "_ProxyHolder") -> None:
        chosen = self._proxies[:1] == [holder]
        if holder in self._proxies:
            self._proxies.remove(holder)
        if chosen and self._proxies:
            self._welcome(self._proxies[0])

    def _welcome(self, holder: "_ProxyHolder") -> None:
        chosen = self._proxies[0] is holder
        if chosen:
            self._containers.proxy_chosen(holder.port)
        bridges = tuple(self._containers.bridges())
        socket = self._containers.socket() or None
        holder.post(Welcome(bridges=bridges, sandboxes=socket, listen=chosen and bool(socket)))

    def _acquire(self, instance: InstanceId, holder: "_ProxyHolder") -> Granted | Refused:
        try:
            address = self._instances.use.lease(instance, holder)
        except InstanceGone as exc:
            return Refused(instance=instance, reason=str(exc))
        return Granted(instance=instance, address=address)


class _ProxyHolder:
    """A proxy as the instances see it."""

    def __init__(self, outbox: "trio.MemorySendChannel[BaseModel]") -> None:
        self._outbox = outbox
        self.keeps_up = True
        self.port = 0
        self.control = ""
        self.sandboxes: set[SandboxId] = set()

    def release(self, instance: InstanceId) -> None:
        self.post(Release(instance=instance))

    def post(self, message: BaseModel) -> None:
        try:
            self._outbox.send_nowait(message)
        except trio.WouldBlock:
            self.keeps_up = False
        except trio.BrokenResourceError:
            return  # its connection has just ended


async def _send_all(
    connection: ControlConnection, outbox: "trio.MemoryReceiveChannel[BaseModel]"
) -> None:
    async for message in outbox:
        await connection.send(message)
