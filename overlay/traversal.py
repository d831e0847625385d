"""What a node does about routers that translate addresses: for others, and for itself.

    bootstrap nodes, registries    dial back who asks, and relay
    every daemon                   finds out whether others can dial it; if not, it is reached
                                   through relays, and punches to be rid of them again

Registries help, too, so that hidden peers stay within reach when all bootstrap nodes are gone. A
client is none of this: nobody needs to reach it, and it reaches hidden peers through their relays.
"""

import time
from collections.abc import Awaitable, Callable
from random import Random

from overlay.addresses import Address, is_circuit, parse_addresses
from overlay.host import Host
from overlay.names import PeerId
from overlay.punching import Puncher
from overlay.reachability import DialBack, Reachability, Setting
from overlay.records import Role
from overlay.relay import Relay
from overlay.view import View

HELPERS = (Role.BOOTSTRAP, Role.REGISTRY)


class Traversal:
    """Serves a host's peers from the moment it is made, and its own peer while `run` runs.

    Args:
        host: this peer's.
        view: who is there; its own record must be in it.
        role: this peer's.
        setting: whether others can dial it, if that is known.
        connect: connects to a peer.
        publish: called with the addresses that its record is to have.
        random: spreads dials.
    """

    def __init__(
        self,
        host: Host,
        view: View,
        role: Role,
        setting: Setting,
        *,
        connect: Callable[[PeerId], Awaitable[None]],
        publish: Callable[[tuple[str, ...]], None],
        random: Random,
    ) -> None:
        self._view = view
        self._puncher = Puncher(host, self._outside, self._published, random)
        self.reachability = Reachability(
            host,
            self._own(),
            "yes" if role is Role.BOOTSTRAP and setting == "auto" else setting,
            helpers=self._helpers,
            connect=connect,
            changed=publish,
            beside=self._puncher.initiate,
            clock=time.time,
        )
        if role in HELPERS:
            Relay(host, self._own, time.time)
            DialBack(host)

    async def run(self) -> None:
        """Keep the own record's addresses such that others reach this peer, until cancelled."""
        await self.reachability.run()

    def _own(self) -> tuple[str, ...]:
        record = self._view.peer(self._view.me)
        return () if record is None else record.addresses

    def _outside(self) -> list[Address]:
        return self.reachability.outside()

    def _published(self, peer: PeerId) -> list[Address]:
        record = self._view.peer(peer)
        return [] if record is None else parse_addresses(record.addresses)

    def _helpers(self) -> list[PeerId]:
        """Return who can help, bootstrap nodes before registries, the nearest first.

        None of this machine: what gets through to it from there says nothing.
        """
        return [
            peer.peer_id
            for role in HELPERS
            for peer in self._view.peers(role)
            if not peer.local and any(not is_circuit(one) for one in peer.record.addresses)
        ]
