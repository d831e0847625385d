"""What thousands of members cost one daemon: memory, and processor time to take them in.

`python -m bench.overlay_members 4000` prints one JSON object. Each member has a peer record, one
instance, a coordinate and a measured RTT, and a sealed session that was used once.
"""

import json
import random
import resource
import sys
import time
from pathlib import Path

from overlay.coordinates import Coordinate
from overlay.identity import Identity
from overlay.membership import Ack, Ping, incarnation_of
from overlay.names import InstanceId, ServiceName
from overlay.probing import open_membership
from overlay.records import InstanceRecord, InstanceState, PeerRecord, Role, Version, sign_record
from overlay.sealing import Sealer
from overlay.signed import Signed
from overlay.view import View

EPOCH = 1_700_000_000.0


def main() -> None:
    """Measure with as many members as the first argument says."""
    number = int(sys.argv[1])
    rng = random.Random(1)  # noqa: S311
    me = Identity.from_seed(bytes(32))
    view = View(me.peer_id, "here", open_membership(me, EPOCH, "lan", rng), lambda: 1.0)
    sealer = Sealer(me.peer_id, b"bench")
    before_kib, cpu_s = _resident_kib(), 0.0
    for each in range(number):
        peer, key, records = _said(each)
        began = time.process_time()
        for signed in records:
            view.apply(signed, EPOCH)
        view.membership.learn(peer.peer_id, incarnation_of(EPOCH), 0.0)
        view.settle(peer.peer_id)
        sealer.know(peer.peer_id, key)
        sealer.seal(peer.peer_id, b"ping")
        _measure(view, peer, rng)
        cpu_s += time.process_time() - began
    print(
        json.dumps(
            {
                "members": len(view.members()),
                "memory_mib": (_resident_kib() - before_kib) / 1024,
                "cpu_s": cpu_s,
            }
        )
    )


def _said(number: int) -> tuple[Identity, bytes, list[Signed]]:
    peer = Identity.from_seed((number + 1).to_bytes(32, "big"))
    key = Sealer(peer.peer_id, b"bench").public_key
    version = Version(epoch=EPOCH, counter=1)
    host = f"10.{number >> 16}.{number >> 8 & 255}.{number & 255}"
    record = PeerRecord(
        version=version,
        role=Role.ALLOCATOR,
        host=f"host-{number}",
        machine=f"machine-{number}",
        addresses=(f"/ip4/{host}/tcp/4003",),
        gateway=(f"{host}:4443",),
        certificate="ab" * 32,
        datagram_key=key,
        datagram_port=4003,
    )
    instance = InstanceRecord(
        version=Version(epoch=EPOCH, counter=2),
        id=InstanceId(f"i{number}"),
        service=ServiceName(f"service-{number % 100}"),
        revision=1,
        state=InstanceState.READY,
        address="172.18.0.2:8080",
        concurrency=100,
    )
    return peer, key, [sign_record(peer, record), sign_record(peer, instance)]


def _measure(view: View, peer: Identity, rng: random.Random) -> None:
    effects = view.membership.probe(peer.peer_id, 0.0)
    for datagram in effects.datagrams:
        if isinstance(datagram.message, Ping):
            vector = tuple(rng.gauss(0, 0.02) for _ in range(8))
            place = Coordinate(vector, error=0.2, adjustment=0.0, height=0.0001)
            answer = Ack(datagram.message.sequence, place)
            view.membership.receive(peer.peer_id, answer, (), rng.uniform(0.001, 0.1))


def _resident_kib() -> int:
    """Return what is resident now; the maximum that getrusage knows is the parent's at first."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() // 1024


if __name__ == "__main__":
    main()
