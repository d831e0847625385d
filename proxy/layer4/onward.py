"""Leading a chain on: what a gateway of this machine asks of its proxy (`overlay/onward.py`)."""

from collections.abc import Callable

import structlog
import trio

from overlay.control import ControlConnection
from overlay.errors import MyxoError, PeerUnreachable
from overlay.onward import Led, Onward, end_of
from overlay.tunnel import MAX_REFUSAL_BYTES, Relayed, let_go
from proxy.layer4.hops import hops_of
from proxy.layer4.tunnels import Tunnels

log = structlog.get_logger()


class OnwardDesk:
    """Serves the control socket's want `onward`.

    Args:
        tunnels: lead to instances.
        ended: told of each chain's first service here and its end, for metrics.
        connections: runs what is carried; when the proxy stops it gets some time to end.
    """

    def __init__(
        self,
        tunnels: Tunnels,
        ended: Callable[[str, Relayed | None], None],
        connections: trio.Nursery,
    ) -> None:
        self._tunnels = tunnels
        self._ended = ended
        self._connections = connections

    async def serve(self, connection: ControlConnection) -> None:
        """Follow the order of a connection, and carry what comes on it afterwards to its end."""
        line = await connection.receive()
        if line is None:
            return
        order = Onward.model_validate_json(line)
        kept = connection.keep()  # the control socket ends first, and has no bound to keep
        self._connections.start_soon(self._lead, kept, order)

    async def _lead(self, connection: ControlConnection, order: Onward) -> None:
        here, relayed, led = end_of(connection), None, False

        async def opened() -> None:
            nonlocal led
            led = True
            await connection.send(Led())

        try:
            hops = hops_of(order.to)
            relayed = await self._tunnels.carry(hops, here, order.instance, order.caller, opened)
            self._ended(hops[0].service, relayed)
        except MyxoError as exc:
            log.warning("onward.failed", caller=order.caller, to=order.to, error=str(exc))
            if not led:
                await _refuse(connection, exc)
        except Exception:  # a bug that one connection meets must not end all others
            log.exception("onward.broke")
        finally:
            if relayed is None:
                await let_go([here], orderly=False)


async def _refuse(connection: ControlConnection, error: MyxoError) -> None:
    try:
        await connection.send(Led(error=str(error)[:MAX_REFUSAL_BYTES]))
    except PeerUnreachable as exc:
        log.debug("onward.gateway_lost", error=str(exc))
