"""A database behind the front: its servers are what the front's routing table says of its service.

They are nobody's instances: the front spreads requests over their addresses by weight, and passes
over one that fails (`proxy/ranking/routing_table.py`).
"""

import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import trio

from myxo.puma.configuration import Database
from myxo.puma.errors import ConfigInvalid
from overlay.control import open_control
from overlay.errors import PeerUnreachable
from overlay.names import ServiceName

ANSWER_S = 10.0
"""How long a proxy of this machine may take to write its table."""


@asynccontextmanager
async def routed(control: Path, service: ServiceName, database: Database) -> AsyncIterator[None]:
    """Have a proxy lead a service to a database's servers for the length of a block.

    Args:
        control: the path of the proxy's control socket.
        service: its name.
        database: its servers.

    Raises:
        ConfigInvalid: they cannot be led to; says why.
        PeerUnreachable: the proxy does not answer.
    """
    weights = {} if database.weights is None else {"weights": database.weights}
    hosts = {"hosts": database.endpoints}
    await _command(control, {"do": "set", "service": service, **hosts, **weights})
    try:
        yield
    finally:
        with trio.CancelScope(shield=True), suppress(PeerUnreachable):  # its table ended with it
            await _command(control, {"do": "unset", "service": service})


async def _command(control: Path, command: Mapping[str, Any]) -> None:
    with trio.move_on_after(ANSWER_S):
        async with open_control(control, "rtable") as connection:
            await connection.send(command)
            answer = json.loads(await connection.receive() or b"{}")
            if "error" in answer:
                raise ConfigInvalid(f"dynamodb: {answer['error']}")
            return
    raise PeerUnreachable("the front does not answer")
