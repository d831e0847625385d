"""The edge: where clients from outside come in, to the services that are exposed and no others.

    connection ──► a place? ──► TLS, within HANDSHAKE_S ──► HTTP, as inside, but
                                                             nothing believed, nothing told

A client from outside is not believed what it says of those before it, and is told nothing of what
is inside: no timing, no explanation, no reason of a refusal but its status.
"""

import ssl
from dataclasses import dataclass
from ipaddress import IPv6Address, ip_address, ip_network

import structlog
import trio

from overlay.http.tls_stream import TlsStream
from overlay.listeners import listen
from overlay.settings import split_address
from proxy.frontend.clients import Clients
from proxy.frontend.edge_tls import EdgeTls
from proxy.frontend.places import Places
from proxy.route.caller import Origin
from proxy.route.exposure import Exposure
from proxy.settings import LOOPBACK
from proxy.telemetry.metrics import ProxyMetrics

HANDSHAKE_S = 10.0
"""For TLS: two round trips and a retransmission or two on the slowest lines."""

MAX_OUTSIDE = 10_000
"""Connections from outside in all: half as many as this machine's own programs may have."""

log = structlog.get_logger()


@dataclass(slots=True)
class Edge:
    """Serves connections from outside.

    Attributes:
        clients: serves what is let in.
        exposure: what the outside may name.
        tls: what it is shown; None is HTTP without TLS.
        metrics: counts.
        places: for all of its listeners together.
    """

    clients: Clients
    exposure: Exposure
    tls: EdgeTls | None
    metrics: ProxyMetrics
    places: Places

    async def serve(self, stream: trio.SocketStream, received: bytes = b"") -> None:
        """Serve one connection to its end; it is closed.

        Args:
            stream: the connection.
            received: what another process has read of it, if one has, in which case it has no TLS.
        """
        address = _address(stream)
        source = _source(address)
        if not self.places.take(source):
            self.metrics.turned_away("outside")
            await trio.aclose_forcefully(stream)
            return
        try:
            secured = await self._secured(stream)
            if secured is not None:
                scheme = "http" if self.tls is None else "https"
                origin = Origin(address, scheme=scheme, who=address, exposure=self.exposure)
                await self.clients.serve_outside(secured, origin, received)
        finally:
            self.places.leave(source)

    async def _secured(self, stream: trio.SocketStream) -> trio.abc.Stream | None:
        """Return the connection with its handshake done; None if that failed."""
        if self.tls is None:
            return stream
        secured = TlsStream(stream, self.tls.context(), server_side=True)
        reason = f"no handshake within {HANDSHAKE_S:g} s"
        try:
            with trio.move_on_after(HANDSHAKE_S):
                await secured.do_handshake()
                return secured
        except trio.BrokenResourceError as exc:
            reason = _why(exc)
        self.metrics.handshakes_failed.inc()
        log.info("edge.handshake_failed", client=_address(stream), reason=reason)
        await trio.aclose_forcefully(stream)
        return None


async def listen_outside(text: str, *, secured: bool) -> trio.SocketListener:
    """Return a listener for clients from outside.

    Raises:
        AddressTaken: the port is in use; says by whom.
    """
    host, port = split_address(text, LOOPBACK)
    if not secured and not ip_address(host).is_loopback:
        log.warning("edge.without_tls", listen=text)
    return await listen(host, port, what="clients from outside")


def _why(exc: trio.BrokenResourceError) -> str:
    cause = exc.__cause__
    return str(cause.reason) if isinstance(cause, ssl.SSLError) else "the client left"


def _address(stream: trio.SocketStream) -> str:
    try:
        return str(stream.socket.getpeername()[0]).partition("%")[0]
    except OSError:  # it has left already
        return "unknown"


def _source(address: str) -> str:
    """Return whose connections are counted together: an IPv6 client has 2^64 addresses."""
    try:
        ip = ip_address(address)
    except ValueError:
        return address
    if isinstance(ip, IPv6Address) and ip.ipv4_mapped is None:
        return str(ip_network((ip, 64), strict=False))
    return address
