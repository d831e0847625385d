"""The far end of tunnels: where the gateway's connections become sockets to instances.

A tunnel counts as a request for as long as it is open, so that nothing is paused or stopped under
it; `tunnel_idle_s` of its service bounds how long one in which nothing moves does so.
"""

from allocator.errors import InstanceGone
from allocator.instances.instances import Instances
from overlay.datagram_end import open_datagrams
from overlay.errors import PeerUnreachable
from overlay.http.connection import ServerConnection
from overlay.http.errors import BadRequest
from overlay.http.gateway import open_tcp
from overlay.http.head import RequestHead
from overlay.http.transport import transport
from overlay.names import InstanceId, PeerId
from overlay.tunnel import (
    CARRIES,
    TARGET,
    UPGRADE,
    Carries,
    End,
    FramedEnd,
    SocketEnd,
    let_go,
    relay,
)


class TunnelDoor:
    """Answers the gateway's requests for tunnels.

    Args:
        instances: what runs here.
    """

    def __init__(self, instances: Instances) -> None:
        self._instances = instances

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
            there = await _reached(found.address, carries)
            switched = False
            try:
                here = FramedEnd(*await client.switch(UPGRADE), PeerId(caller), carries)
                switched = True
            finally:
                if not switched:
                    await let_go([there], orderly=False)
            await relay([here, there], found.spec.tunnel_bound_s)


async def _reached(address: str, carries: Carries) -> End:
    try:
        if carries == "udp":
            return await open_datagrams(address, "the instance")
        return SocketEnd(transport(await open_tcp(address, "the instance")))
    except PeerUnreachable as exc:
        raise InstanceGone(str(exc)) from exc
