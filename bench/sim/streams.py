"""What goes over gossip streams, and the connections that carry it.

A connection keeps the order of what is posted and loses nothing while it lasts: a lost segment
makes everything behind it late, a cut line until it is mended.
"""

from collections import deque
from dataclasses import dataclass, field

from bench.sim.sizes import (
    INSTANCE_RECORD_BYTES,
    PEER_RECORD_BYTES,
    SUMMARY_MESSAGE_BYTES,
    UDP_IP_BYTES,
    VERSION_BYTES,
    datagram_bytes,
)
from overlay.datagrams import SEAL_BYTES
from overlay.digest import Key, Stamp
from overlay.membership import Message, Update
from overlay.names import PeerId

Versions = tuple[tuple[Key, Stamp], ...]


@dataclass(frozen=True, slots=True)
class Hello:
    """What a stream begins with.

    Attributes:
        chosen: the sender wants this link.
        summary: digest of the sender's records; None if it has none but its own.
    """

    chosen: bool
    summary: bytes | None


@dataclass(frozen=True, slots=True)
class Records:
    """Signed records."""

    versions: Versions


@dataclass(frozen=True, slots=True)
class Everything:
    """All members' records, to a newcomer; what the founders said of themselves goes unlisted."""

    members: tuple[PeerId, ...]
    versions: Versions


@dataclass(frozen=True, slots=True)
class Summary:
    """The sender's digest, to be compared."""

    summary: bytes


@dataclass(frozen=True, slots=True)
class Items:
    """The versions that the sender holds in some buckets."""

    buckets: tuple[int, ...]
    versions: Versions


@dataclass(frozen=True, slots=True)
class Want:
    """Keys of records that the sender lacks."""

    keys: tuple[Key, ...]


@dataclass(frozen=True, slots=True)
class Enclosed:
    """A membership datagram."""

    message: Message
    updates: tuple[Update, ...]


@dataclass(frozen=True, slots=True)
class Farewell:
    """The sender ends its stream in good order."""


StreamMessage = Hello | Records | Everything | Summary | Items | Want | Enclosed | Farewell


def payload_bytes(message: StreamMessage) -> int:
    """Return what a message takes before framing."""
    match message:
        case Hello() | Summary():
            size = SUMMARY_MESSAGE_BYTES
        case Records():
            size = _record_bytes(message.versions)
        case Everything():
            size = PEER_RECORD_BYTES * len(message.members) + _record_bytes(message.versions)
        case Items():
            size = VERSION_BYTES * len(message.versions)
        case Want():
            size = VERSION_BYTES * len(message.keys)
        case Enclosed():
            size = datagram_bytes(message.message, message.updates) - SEAL_BYTES - UDP_IP_BYTES
        case Farewell():
            size = 0
    return size


def _record_bytes(versions: Versions) -> int:
    peers = sum([key[1] == "peer" for key, _ in versions])
    return PEER_RECORD_BYTES * peers + INSTANCE_RECORD_BYTES * (len(versions) - peers)


@dataclass(slots=True, eq=False)
class Lane:
    """One direction of a connection.

    Attributes:
        waiting: posted and not yet on its way, with its bytes.
        clear_at: when what is on its way will have arrived.
        stuck: seconds until the next attempt while the line is cut; 0 while it is not.
    """

    waiting: deque[tuple[StreamMessage, int]] = field(default_factory=deque)
    clear_at: float = 0.0
    stuck: float = 0.0


@dataclass(slots=True, eq=False)
class Connection:
    """A connection of two processes.

    Attributes:
        ends: index and life of the two peers.
        up: both ends hold it for open.
    """

    ends: tuple[tuple[int, int], tuple[int, int]]
    up: bool = True
    lanes: tuple[Lane, Lane] = field(default_factory=lambda: (Lane(), Lane()))

    def lane_from(self, index: int) -> Lane:
        """Return the direction in which peer `index` sends."""
        return self.lanes[self.ends[0][0] != index]

    def end_beyond(self, index: int) -> tuple[int, int]:
        """Return the other end's index and life."""
        return self.ends[self.ends[0][0] == index]
