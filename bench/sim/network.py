"""What a simulated peer has around it."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

from bench.sim.events import Events
from bench.sim.lines import Lines
from bench.sim.table import Founding
from overlay.digest import Key, Stamp
from overlay.membership import Change
from overlay.names import PeerId

if TYPE_CHECKING:
    from bench.sim.peer import Peer


class Network(Protocol):
    """What a peer needs of the world.

    Attributes:
        events: the true time, and what is to happen.
        lines: to all other peers.
        ids: of all peers.
        founding: the founders' records.
        notices_stalls: processes take time in which they did not run out of others' silence.
    """

    events: Events
    lines: Lines
    ids: Sequence[PeerId]
    founding: Founding
    notices_stalls: bool

    def bootstrap(self, source: "Peer") -> PeerId | None:
        """Return a peer that a newcomer may ask."""
        ...

    def life(self, peer: PeerId, epoch: float) -> int:
        """Return which of the peer's lives began with that epoch."""
        ...

    def changed(self, observer: "Peer", change: Change) -> None:
        """Be told what a peer now believes."""
        ...

    def learned(self, observer: "Peer", key: Key, stamp: Stamp) -> None:
        """Be told of a record that was new to a peer."""
        ...
