"""Who is there: SWIM with Lifeguard's refinements, as a pure core.

`protocol.py` has the whole and begins with how it works; what was heard and the time go in,
datagrams and changes come out. The shell is `overlay/probing.py`.
"""

from overlay.membership.beliefs import incarnation_of
from overlay.membership.knobs import Knobs
from overlay.membership.messages import (
    Ack,
    Alive,
    Change,
    Datagram,
    Dead,
    Effects,
    Gossip,
    Left,
    MemberState,
    Message,
    Nack,
    Ping,
    PingReq,
    Suspect,
    Update,
)
from overlay.membership.protocol import Membership
from overlay.membership.refuting import Counters

__all__ = [
    "Ack",
    "Alive",
    "Change",
    "Counters",
    "Datagram",
    "Dead",
    "Effects",
    "Gossip",
    "Knobs",
    "Left",
    "MemberState",
    "Membership",
    "Message",
    "Nack",
    "Ping",
    "PingReq",
    "Suspect",
    "Update",
    "incarnation_of",
]
