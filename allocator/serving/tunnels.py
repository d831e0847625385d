"""The far end of tunnels: where the gateway's connections become sockets to instances.

A tunnel counts as a request for as long as it is open, so that nothing is paused or stopped under
it; `tunnel_idle_s` of its service bounds how long one in which nothing moves does so.

Where it is the beginning of a chain, a proxy of this machine leads on (`overlay/onward.py`), and
what the instance says goes there.
"""

from collections.abc import Callable
from contextlib import AsyncExitStack
from pathlib import Path

import structlog
from pydantic import ValidationError

from allocator.errors import InstanceGone
from allocator.instances.instance import Instance
from allocator.instances.instances import Instances
from overlay.datagram_end import open_datagrams
from overlay.errors import PeerUnreachable
from overlay.http.connection import ServerConnection
from overlay.http.errors import BadRequest
from overlay.http.gateway import open_tcp
from overlay.http.head import Field, RequestHead, get
from overlay.http.transport import transport
from overlay.names import InstanceId, PeerId
from overlay.onward import Onward, open_onward
from overlay.tunnel import (
    CARRIES,
    ONWARD,
    TARGET,
    UPGRADE,
    Carries,
    End,
    FramedEnd,
    OnwardRefused,
    SocketEnd,
    let_go,
    relay,
)

_BAD_GATEWAY = 502
_TEXT: Field = (b"Content-Type", b"text/plain; charset=utf-8")

log = structlog.get_logger()


class TunnelDoor:
    """Answers the gateway's requests for tunnels.

    Args:
        instances: what runs here.
        proxy: returns the control socket of the proxy that leads chains on, if there is one.
    """

    def __init__(
        self, instances: Instances, proxy: Callable[[], Path | None] = lambda: None
    ) -> None:
        self._instances = instances
        self._proxy = proxy

    async def serve(self, client: ServerConnection, head: RequestHead, caller: str) -> None:
        """Carry a tunnel to its end.

        Raises:
            InstanceGone: the instance was not reached; the caller is not answered yet.
            BadRequest: this is no request for a tunnel.
        """
        word, _, named = head.target[len(TARGET) :].decode("ascii").partition("/")
        carries = CARRIES.get(word)
        if carries is None or head.method != b"GET":
            raise BadRequest(400, "a tunnel is asked for by GET /tunnel/tcp|udp/INSTANCE")
        instance = InstanceId(named)
        if self._instances.use.rests(instance):  # whoever asks has not heard of that yet
            await self._instances.awake(instance)
        with self._instances.use.request(instance) as found:
            async with AsyncExitStack() as stack:
                try:  # before the instance, which may not bear a silence that lasts a start
                    onward = await self._onward(stack, head, found)
                except OnwardRefused as exc:
                    await client.respond(_BAD_GATEWAY, [_TEXT], f"{exc}\n".encode())
                    return
                there = await _reached(found.address, carries)
                stack.push_async_callback(let_go, [there], orderly=False)
                fields = [*UPGRADE, (ONWARD, b"led")] if onward else UPGRADE
                here = FramedEnd(*await client.switch(fields), PeerId(caller), carries)
                await relay([here, there, *onward], found.spec.tunnel_bound_s)

    async def _onward(
        self, stack: AsyncExitStack, head: RequestHead, instance: Instance
    ) -> list[End]:
        """Return what follows the instance in a chain; nothing if whoever asks is to lead on.

        Raises:
            OnwardRefused: it cannot be had from here.
            BadRequest: it is no chain.
        """
        chain, proxy = get(head.headers, ONWARD.lower()), self._proxy()
        if chain is None or proxy is None:
            return []
        try:
            to = chain.decode("latin-1")
            order = Onward(to=to, caller=instance.service, instance=instance.id)
        except ValidationError as exc:
            raise BadRequest(400, "what follows in a chain is written udp/SERVICE/…") from exc
        try:
            return [await stack.enter_async_context(open_onward(proxy, order))]
        except PeerUnreachable as exc:  # it has just ended
            log.info("tunnel.proxy_lost", reason=str(exc))
            return []


async def _reached(address: str, carries: Carries) -> End:
    try:
        if carries == "udp":
            return await open_datagrams(address, "the instance")
        return SocketEnd(transport(await open_tcp(address, "the instance")))
    except PeerUnreachable as exc:
        raise InstanceGone(str(exc)) from exc
