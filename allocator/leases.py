"""Use-leases: the proxies of this machine dial instances directly, and answer for what they do.

Each proxy has one connection to the allocator's Unix socket. A lease ends when the proxy gives it
back, or with its connection.
"""

from collections.abc import Callable

import structlog
import trio
from pydantic import BaseModel, ValidationError

from allocator.errors import InstanceGone
from allocator.instances import Instances
from overlay.control import ControlConnection
from overlay.errors import MalformedMessage, PeerUnreachable
from overlay.leases import (
    FROM_PROXY,
    Acquire,
    Granted,
    Hello,
    Refused,
    Release,
    Released,
    Report,
    Welcome,
)
from overlay.names import InstanceId

OUTBOX = 2048
"""Twice the instances that an allocator can have: a proxy that is this slow is cut off."""

log = structlog.get_logger()


class LeaseDesk:
    """Serves the control socket's want `lease`.

    Args:
        instances: what is leased.
        bridge: returns address and interface of the containers' bridge; empty if there is none.
    """

    def __init__(self, instances: Instances, bridge: Callable[[], tuple[str, str]]) -> None:
        self._instances = instances
        self._bridge = bridge
        self._ports: dict[_ProxyHolder, int] = {}

    async def serve(self, connection: ControlConnection) -> None:
        """Serve one proxy until its connection ends; its leases end with it."""
        send, receive = trio.open_memory_channel[BaseModel](OUTBOX)
        holder = _ProxyHolder(send)
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
            self._ports.pop(holder, None)
            self._choose_proxy()

    def _take(self, message: Hello | Acquire | Report | Released, holder: "_ProxyHolder") -> bool:
        """Act on one message; return whether the proxy keeps up."""
        match message:
            case Hello(proxy_port=port):
                self._ports[holder] = port
                self._choose_proxy()
                address, interface = self._bridge()
                holder.post(
                    Welcome(bridge_address=address or None, bridge_interface=interface or None)
                )
            case Acquire(instance=instance):
                holder.post(self._acquire(instance, holder))
            case Report(instance=instance, in_flight=in_flight, served=served):
                self._instances.use.report(instance, holder, in_flight, served)
            case Released(instance=instance):
                self._instances.use.released(instance, holder)
        return holder.keeps_up

    def _choose_proxy(self) -> None:
        """Send instances to the proxy that is here longest: others come and go beside it."""
        if self._ports:
            self._instances.set_proxy_port(next(iter(self._ports.values())))

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
