"""The ways to load hosts: over the overlay, or to the one inside this very process."""

import time
from collections.abc import Mapping
from typing import NamedTuple, Protocol, TypeVar

import trio
from pydantic import BaseModel

from bench.lab.hosts.messages import LAB_PROTOCOL, Command, Order
from bench.lab.hosts.station import Station
from bench.lab.hosts.warrant import WARRANT_S, warrant
from overlay.errors import PeerUnreachable
from overlay.identity import Identity
from overlay.names import PeerId
from overlay.node import Node
from overlay.records import Role
from overlay.signed import Signed

M = TypeVar("M", bound=BaseModel)


class Run(NamedTuple):
    """One life of a load host's process: who it is, and which of its starts."""

    peer: PeerId
    epoch: float


class HostNetwork(Protocol):
    """Knows which load hosts are there, and takes orders to them."""

    def hosts(self) -> Mapping[str, Run]:
        """Return the hosts that are there, by name."""
        ...

    async def changed(self) -> None:
        """Wait until other hosts may be there."""
        ...

    async def order(
        self, host: str, key: str, order: Order, reply: type[M], *, timeout_s: float
    ) -> M:
        """Return a host's answer; what has an effect has it once for each key.

        Raises:
            CallRefused: it says no.
            PeerUnreachable: it is not there, or does not answer in time.
        """
        ...


class OverlayNetwork:
    """The load hosts of an overlay network.

    Args:
        node: this process's member of it.
        owner: the key of the person who commands.
    """

    def __init__(self, node: Node, owner: Identity) -> None:
        self._node = node
        self._owner = owner
        self._warrant: tuple[Signed, float] | None = None

    def hosts(self) -> Mapping[str, Run]:
        """See `HostNetwork`; of two with one name, which a host refuses to have, the first."""
        peers = sorted(self._node.view.peers(Role.LOAD), key=lambda p: p.peer_id, reverse=True)
        return {p.record.host: Run(p.peer_id, p.record.version.epoch) for p in peers}

    async def changed(self) -> None:
        """See `HostNetwork`."""
        await self._node.changed()

    async def order(
        self, host: str, key: str, order: Order, reply: type[M], *, timeout_s: float
    ) -> M:
        """See `HostNetwork`."""
        run = self.hosts().get(host)
        if run is None:
            raise PeerUnreachable(f"load host {host} is gone")
        command = Command(warrant=self._current_warrant(), key=key, order=order)
        return await self._node.calls.call(
            run.peer, LAB_PROTOCOL, command, reply, timeout_s=timeout_s
        )

    def _current_warrant(self) -> Signed:
        now = time.time()
        if self._warrant is None or now > self._warrant[1]:
            made = warrant(self._owner, self._node.peer_id, now)
            self._warrant = made, now + WARRANT_S / 2
        return self._warrant[0]


class OwnNetwork:
    """The load host that runs inside this process, and no other.

    Args:
        name: its name.
        station: it.
    """

    def __init__(self, name: str, station: Station) -> None:
        self._name = name
        self._station = station

    def hosts(self) -> Mapping[str, Run]:
        """See `HostNetwork`."""
        return {self._name: Run(PeerId("own"), 0.0)}

    async def changed(self) -> None:
        """See `HostNetwork`."""
        await trio.sleep_forever()

    async def order(
        self, host: str, key: str, order: Order, reply: type[M], *, timeout_s: float
    ) -> M:
        """See `HostNetwork`."""
        del host
        with trio.move_on_after(timeout_s):
            return _as(reply, await self._station.do(PeerId("own"), key, order))
        raise PeerUnreachable(f"{self._name} did not do it within {timeout_s:g} s")


def _as(reply: type[M], answer: BaseModel) -> M:
    if not isinstance(answer, reply):
        raise TypeError(f"{type(answer).__name__} is no {reply.__name__}")
    return answer
