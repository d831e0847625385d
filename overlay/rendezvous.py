"""Who of many has a service's part, so that all who see the same peers name the same one.

Rendezvous hashing (Thaler and Ravishankar, 1998): each peer has a weight for each service, a hash
of both names, and the heaviest is the first. When a peer comes or goes, only what is its own moves.
"""

import hashlib
from collections.abc import Iterable

from overlay.names import PeerId, ServiceName


def ranked(service: ServiceName, peers: Iterable[PeerId]) -> list[PeerId]:
    """Return `peers` in the order of their weights for `service`, the heaviest first."""
    return sorted(peers, key=lambda peer: (_weight(service, peer), peer), reverse=True)


def _weight(service: ServiceName, peer: PeerId) -> bytes:
    return hashlib.blake2b(f"{service}\0{peer}".encode(), digest_size=8).digest()
