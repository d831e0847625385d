"""How many bytes a message takes on the network.

Datagrams are counted from the sizes of their encoding, which the core itself fills them by; what
goes over streams from the JSON of real messages.
"""

from collections.abc import Sequence

from overlay.digest import BUCKETS
from overlay.identity import Identity
from overlay.names import Digest, InstanceId, ServiceName
from overlay.records import (
    InstanceRecord,
    InstanceState,
    PeerRecord,
    Role,
    Room,
    Version,
    sign_record,
)
from overlay.swim import Ack, Gossip, Message, Nack, Ping, PingReq, Update

SEAL_BYTES = 33
UDP_IP_BYTES = 28

_MESSAGE_BYTES: dict[type[Message], int] = {
    Ping: 2 + 8 + 32,
    Ack: 2 + 8 + 1 + 44 + 1,
    PingReq: 2 + 8 + 32,
    Nack: 2 + 8,
    Gossip: 2,
}

SEGMENT_BYTES = 1448
"""What a TCP segment carries."""

_FRAME_BYTES = 4 + 12 + 18
"""A frame's length, Yamux's header, Noise's length and tag."""

_SEGMENT_OVERHEAD_BYTES = 52 + 52
"""Headers of IP and TCP with timestamps, and once more for its acknowledgement."""

DIGEST_BYTES = 4 * (8 * BUCKETS + 2) // 3 + 60
"""Base64 in a hello or digest message."""

VERSION_BYTES = 110
"""A record's owner, kind, id and version in a list of what is held or wanted."""


def datagram_bytes(message: Message, updates: Sequence[Update]) -> int:
    """Return what a datagram takes on the network; an ack without load."""
    said = sum([update.SIZE for update in updates])
    return _MESSAGE_BYTES[type(message)] + said + SEAL_BYTES + UDP_IP_BYTES


def framed_bytes(payload: int) -> int:
    """Return what `payload` bytes take on the network as a frame of a gossip stream."""
    framed = payload + _FRAME_BYTES
    return framed + _SEGMENT_OVERHEAD_BYTES * -(-framed // SEGMENT_BYTES)


def _record_bytes() -> tuple[int, int]:
    """Return the bytes of a signed record of a peer and of an instance, in a message."""
    owner = Identity.from_seed(bytes(32))
    version = Version(epoch=1763726400.123456, counter=12)
    allocator = PeerRecord(
        version=version,
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
    instance = InstanceRecord(
        version=version,
        id=InstanceId("0123456789ab"),
        service=ServiceName("hello-world-server"),
        revision=3,
        state=InstanceState.READY,
        address="172.30.0.40:8080",
        concurrency=100,
    )
    peer, other = (
        len(sign_record(owner, record).model_dump_json()) for record in (allocator, instance)
    )
    return peer, other


PEER_RECORD_BYTES, INSTANCE_RECORD_BYTES = _record_bytes()
