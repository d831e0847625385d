"""CONNECT: a client's connection becomes a tunnel to an instance (RFC 9110 section 9.3.6).

It leads to services only, whatever the authority names, so it opens no way out of the network.
"""

from overlay.http.connection import ServerConnection
from overlay.http.dates import date_field
from overlay.http.errors import BadRequest, ResponseCut
from overlay.http.exchange import Exchanged
from overlay.http.head import RequestHead
from overlay.http.seam import Client
from overlay.tunnel import Relayed, SocketEnd, Why, let_go, relay
from proxy.layer4.hops import Hop
from proxy.layer4.tunnels import Tunnel, Tunnels
from proxy.route.caller import Origin
from proxy.route.routing import route_of

_OK = 200


async def connect(tunnels: Tunnels, client: Client, head: RequestHead, origin: Origin) -> Exchanged:
    """Carry what follows a CONNECT to an instance and back, to its end.

    Args:
        tunnels: opens them.
        client: whose request it is.
        head: the request.
        origin: whose request it is.

    Raises:
        BadRequest: the client speaks HTTP/2, where this is not offered.
        RequestRefused: there is no tunnel; the client is still unanswered.
        ClientGone: the client left before there was one.
        ResponseCut: the tunnel was cut, and with it the client's connection.
    """
    if not isinstance(client, ServerConnection):
        raise BadRequest(501, "CONNECT is offered in HTTP/1 alone")
    relayed: Relayed | None = None
    route = route_of(head, frozenset())
    caller = None if origin.caller is None else origin.caller.service
    whose = origin.address if origin.caller is None else origin.caller.instance
    async with tunnels.open(Hop(route.service, "tcp"), whose, caller) as tunnel:
        near = await _answered(client, tunnel)
        relayed = await relay([near, tunnel.end], tunnel.spec.tunnel_bound_s)
    if relayed is None or relayed.why is not Why.ENDED:
        why = "its instance is not usable any more" if relayed is None else relayed.why
        raise ResponseCut(_OK, f"the tunnel to {route.service} was cut: {why}")
    return Exchanged(_OK, relayed.received, relayed.sent, 0.0, 0.0)


async def _answered(client: ServerConnection, tunnel: Tunnel) -> SocketEnd:
    """Say that the tunnel is there; let go of it if there is nobody to be told."""
    told = False
    try:
        near = SocketEnd(*await client.switch([date_field()], _OK))
        told = True
        return near
    finally:
        if not told:
            await let_go([tunnel.end], orderly=False)
