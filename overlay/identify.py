"""What a host of anybody's libp2p asks of ours: who it is, and whether it is there.

Sources: https://github.com/libp2p/specs/blob/master/identify/README.md and ping/ping.md.
"""

from collections.abc import Iterable

from libp2p.identity.identify.pb.identify_pb2 import Identify
from multiaddr import Multiaddr

from overlay.connection import MuxedBytes
from overlay.framing import encode_varint

IDENTIFY_PROTOCOL = "/ipfs/id/1.0.0"
PING_PROTOCOL = "/ipfs/ping/1.0.0"

_PING_BYTES = 32


async def identify(
    stream: MuxedBytes,
    *,
    public_key: bytes,
    addresses: Iterable[str],
    observed: str | None,
    protocols: Iterable[str],
) -> None:
    """Say who this host is.

    Args:
        stream: closed afterwards.
        public_key: in libp2p's encoding.
        addresses: that are listened on, as multiaddrs.
        observed: the asker's IP address, if it is connected directly.
        protocols: that are spoken.
    """
    seen = Multiaddr(f"/{'ip6' if ':' in observed else 'ip4'}/{observed}") if observed else None
    message: bytes = Identify(
        protocol_version="ipfs/0.1.0",
        agent_version="myxo",
        public_key=public_key,
        listen_addrs=[Multiaddr(one).to_bytes() for one in addresses],
        observed_addr=seen.to_bytes() if seen else b"",
        protocols=list(protocols),
    ).SerializeToString()
    await stream.write(encode_varint(len(message)) + message)
    await stream.close()


async def answer_pings(stream: MuxedBytes) -> None:
    """Send everything back."""
    while data := await stream.read(_PING_BYTES):
        await stream.write(data)
    await stream.close()
