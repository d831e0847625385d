"""How many bytes a message takes on the network.

Datagrams are counted from the sizes of their encoding, which the core itself fills them by; what
goes over streams from the JSON of real messages.
"""

import random
from collections.abc import Sequence

from overlay.coordinates import Coordinates
from overlay.datagrams import MAX_MESSAGE_BYTES, SEAL_BYTES, updates_room
from overlay.digest import SUMMARY_BYTES
from overlay.gossip import Hello, Items, Records, frame
from overlay.identity import Identity
from overlay.membership import Ack, Gossip, Message, Nack, Ping, PingReq, Update
from overlay.names import Digest, InstanceId, ServiceName
from overlay.records import (
    InstanceRecord,
    InstanceState,
    PeerRecord,
    Record,
    Role,
    Room,
    Version,
    sign_record,
)

UDP_IP_BYTES = 28
"""Headers of IPv4 and UDP."""

SEGMENT_BYTES = 1448
"""What a TCP segment carries."""

FRAMING_BYTES = 4 + 12 + 18
"""A frame's length, Yamux's header, Noise's length and tag."""

SEGMENT_OVERHEAD_BYTES = 52 + 52
"""Headers of IP and TCP with timestamps, and those of the acknowledgement."""

_OWNER = Identity.from_seed(bytes(32))
_VERSION = Version(epoch=1763726400.123456, counter=12)


def datagram_bytes(message: Message, updates: Sequence[Update]) -> int:
    """Return what a datagram takes on the network; an ack without load."""
    return _AROUND[type(message)] + sum([update.SIZE for update in updates])


def framed_bytes(payload: int) -> int:
    """Return what `payload` bytes take on the network as a frame of a gossip stream."""
    framed = payload + FRAMING_BYTES
    return framed + SEGMENT_OVERHEAD_BYTES * -(-framed // SEGMENT_BYTES)


def _record_bytes(record: Record) -> int:
    empty, one = Records(records=()), Records(records=(sign_record(_OWNER, record),))
    return len(frame(one)) - len(frame(empty))


def _plain_bytes(message: Message) -> int:
    return MAX_MESSAGE_BYTES - updates_room(message)


_MESSAGES = (
    Ping(1, _OWNER.peer_id),
    Ack(1, Coordinates(random.Random(0)).mine),  # noqa: S311  (draws nothing)
    PingReq(1, _OWNER.peer_id),
    Nack(1),
    Gossip(),
)

_AROUND = {type(one): _plain_bytes(one) + SEAL_BYTES + UDP_IP_BYTES for one in _MESSAGES}
"""What each kind of message takes without updates."""

PEER_RECORD_BYTES = _record_bytes(
    PeerRecord(
        version=_VERSION,
        role=Role.ALLOCATOR,
        host="machine-0001",
        machine="0123456789abcdef0123456789abcdef",
        addresses=("/ip4/10.20.30.40/tcp/40123", "/ip4/192.168.1.40/tcp/40123"),
        gateway=("10.20.30.40:40124",),
        certificate="0" * 64,
        control="/run/user/1000/myxo/allocator.sock",
        room=Room(cpu_millicores=4000, memory_mib=8192, instances=100),
        runtimes=("docker", "process"),
        platform="linux/amd64",
        images=tuple(Digest(f"sha256:{number:064}") for number in range(5)),
    )
)
"""An allocator's with five images, as it travels."""

INSTANCE_RECORD_BYTES = _record_bytes(
    InstanceRecord(
        version=_VERSION,
        id=InstanceId("0123456789ab"),
        service=ServiceName("hello-world-server"),
        revision=3,
        state=InstanceState.READY,
        address="172.30.0.40:8080",
        concurrency=100,
    )
)

SUMMARY_MESSAGE_BYTES = len(frame(Hello(chosen=True, digest=bytes(SUMMARY_BYTES))))
"""A hello or a digest."""

VERSION_BYTES = len(
    frame(
        Items(
            buckets=(),
            versions=((_OWNER.peer_id, "instance", "0123456789ab", 1763726400.123456, 12),),
        )
    )
) - len(frame(Items(buckets=(), versions=())))
"""One version in a list of what is held; a key in a list of what is wanted takes a bit less."""
