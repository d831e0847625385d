"""The rest of a chain of services, on its way from machine to machine.

A chain is a line: each service is chosen and reached from the machine of the one before it, whose
gateway has its machine's own proxy lead on.

    proxy ──tunnel──► gateway ──► instance of A
                         │
                         └──► proxy of that machine ──tunnel──► gateway ──► instance of B …

The request for the first tunnel says in `Myxo-Onward: udp/B/tcp/C` what follows; who leads on says
the same field in its answer. A gateway without a proxy beside it, or that is older than this, does
not: then whoever asked leads on itself. Each machine hands on one service fewer than it was given,
so a chain ends, however it is written.

Gateway and proxy meet at the proxy's control socket. An order and its answer are lines; after an
answer without an error the connection carries messages (`framing.py`).
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Annotated

import trio
from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError

from overlay.control import ControlConnection, open_control
from overlay.errors import MalformedMessage, PeerUnreachable
from overlay.http.transport import transport
from overlay.names import InstanceId, PeerId, ServiceName
from overlay.tunnel import MAX_REFUSAL_BYTES, FramedEnd, OnwardRefused

WANT = "onward"
"""Of a proxy's control socket."""

MAX_CHAIN = 2048
"""Characters of a chain: of sixteen services with the longest names there are."""

ONWARD_S = 600.0
"""For leading on: each service that follows may have to be started, and its image to be pulled."""

Chain = Annotated[str, StringConstraints(pattern=r"^[a-z0-9._:/-]+$", max_length=MAX_CHAIN)]


class _Message(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")


class Onward(_Message):
    """Lead on from a service of this machine.

    Attributes:
        to: what follows, as `myxo forward` is given it.
        caller: the service before it, whose limits hold too.
        instance: which of its instances; whose the tunnel is, to policies that hash that.
    """

    to: Chain
    caller: ServiceName
    instance: InstanceId


class Led(_Message):
    """The answer.

    Attributes:
        error: why nothing leads there; empty if the connection does from here on.
    """

    error: str = Field("", max_length=MAX_REFUSAL_BYTES)


def end_of(connection: ControlConnection) -> FramedEnd:
    """Return a control connection after `Led` as an end of a tunnel."""
    stream, left = connection.switch()
    # Datagrams keep their bounds in the messages, and a stream does not mind them.
    return FramedEnd(transport(stream), left, PeerId("this machine"), "udp")


@asynccontextmanager
async def open_onward(proxy: Path, order: Onward) -> AsyncIterator[FramedEnd]:
    """Have the proxy at this control socket lead on; yield an end at which the last one speaks.

    Raises:
        PeerUnreachable: no such proxy answers.
        OnwardRefused: it cannot; says why.
    """
    async with open_control(proxy, WANT) as connection:
        await connection.send(order)
        led = None
        with trio.move_on_after(ONWARD_S):
            led = await _answer(connection)
        if led is None:
            raise OnwardRefused(f"{order.to} was not there within {ONWARD_S:.0f} s")
        if led.error:
            raise OnwardRefused(led.error)
        yield end_of(connection)


async def _answer(connection: ControlConnection) -> Led:
    try:
        line = await connection.receive()
        if line is None:
            raise PeerUnreachable("the proxy ended")
        return Led.model_validate_json(line)
    except (MalformedMessage, ValidationError) as exc:
        raise PeerUnreachable(f"the proxy answers with what is no answer: {exc}") from exc
