"""What peers say to each other about who is there: messages, and the updates that ride on them.

A datagram is one message and as many updates as fit beside it. Sizes are those of the encoding in
`datagrams.py`, so that the protocol fills a datagram without encoding anything.
"""

from dataclasses import dataclass, field
from enum import StrEnum
from typing import ClassVar

from overlay.coordinates import Coordinate
from overlay.names import InstanceId, PeerId
from overlay.signed import Purpose

MESSAGE_BYTES = 1200 - 32
"""Of a datagram that passes every link, without its seal: a message and its updates."""

LOAD_BYTES = 256
"""Room that updates leave in an ack: the shell adds the load of some 15 instances to it."""


class MemberState(StrEnum):
    """What is believed of a peer."""

    ALIVE = "alive"
    SUSPECT = "suspect"
    DEAD = "dead"
    LEFT = "left"


@dataclass(frozen=True, slots=True)
class Change:
    """A peer is now in another state."""

    peer: PeerId
    state: MemberState


@dataclass(frozen=True, slots=True)
class Alive:
    """`peer` is there, and says so itself: nobody else can raise its incarnation."""

    PURPOSE: ClassVar[Purpose] = Purpose.ALIVE
    SIZE: ClassVar[int] = 1 + 32 + 8 + 64

    peer: PeerId
    incarnation: int
    signature: bytes


@dataclass(frozen=True, slots=True)
class Left:
    """`peer` goes, and says so itself."""

    PURPOSE: ClassVar[Purpose] = Purpose.LEFT
    SIZE: ClassVar[int] = 1 + 32 + 8 + 64

    peer: PeerId
    incarnation: int
    signature: bytes


@dataclass(frozen=True, slots=True)
class Suspect:
    """`accuser` had no answer from `peer`."""

    SIZE: ClassVar[int] = 1 + 32 + 8 + 32

    peer: PeerId
    incarnation: int
    accuser: PeerId


@dataclass(frozen=True, slots=True)
class Dead:
    """`peer` did not refute the suspicion within the time that `accuser` gave it."""

    SIZE: ClassVar[int] = 1 + 32 + 8 + 32

    peer: PeerId
    incarnation: int
    accuser: PeerId


Update = Alive | Left | Suspect | Dead


@dataclass(frozen=True, slots=True)
class Ping:
    """Answer with an `Ack` of the same sequence, if `target` is you."""

    sequence: int
    target: PeerId


@dataclass(frozen=True, slots=True)
class Ack:
    """The answer to a ping, or a helper's word that its target answered.

    Attributes:
        coordinate: the answerer's own; None in a helper's word for another.
        load: requests in flight on the answerer's instances.
    """

    sequence: int
    coordinate: Coordinate | None
    load: tuple[tuple[InstanceId, int], ...] = ()


@dataclass(frozen=True, slots=True)
class PingReq:
    """Ping `target` for me; answer with an `Ack` or a `Nack` of this sequence."""

    sequence: int
    target: PeerId


@dataclass(frozen=True, slots=True)
class Nack:
    """The target of the `PingReq` of this sequence did not answer, but I do."""

    sequence: int


@dataclass(frozen=True, slots=True)
class Gossip:
    """Carries updates only."""


Message = Ping | Ack | PingReq | Nack | Gossip

_BYTES: dict[type[Message], int] = {
    Ping: 2 + 8 + 32,
    Ack: 2 + 8 + 1 + 44 + 1 + LOAD_BYTES,
    PingReq: 2 + 8 + 32,
    Nack: 2 + 8,
    Gossip: 2,
}


def room_beside(message: Message) -> int:
    """Return how many bytes of updates fit a datagram beside `message`."""
    return MESSAGE_BYTES - _BYTES[type(message)]


@dataclass(frozen=True, slots=True)
class Datagram:
    """Send this.

    Attributes:
        reliable: over a stream if there is one; the way of datagrams may be what is broken.
    """

    to: PeerId
    message: Message
    updates: tuple[Update, ...]
    reliable: bool = False


@dataclass(slots=True)
class Effects:
    """What follows from an event.

    Attributes:
        datagrams: to be sent, in this order.
        changes: what is believed now, in the order in which it came about.
        unknown: peers that something was heard of, or from, whose record is not held, or is from
            before a restart.
    """

    datagrams: list[Datagram] = field(default_factory=list)
    changes: list[Change] = field(default_factory=list)
    unknown: list[PeerId] = field(default_factory=list)
