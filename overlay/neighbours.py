"""Whom a peer keeps gossip streams to, so that news reaches everybody in a few hops.

Records are flooded: whoever hears something new passes it on to all neighbours but the one it came
from. While the network is small everybody is everybody's neighbour, and news takes one hop. Past
`FULL_MESH` peers, each one chooses `NEAR` of the nearest, over which news spreads fast, and `FAR`
at random, which keep the whole connected: the union of some random choices of each node is a good
expander, so that n peers are reached in about log(n) hops and the failure of many cuts nobody off
(Bollobás 1988; the same reason as for HyParView's random view, Leitão 2007). With the links that
others choose a peer has twice as many on average, whatever the size of the network.

Pure: who is there and how far, and what is kept already, go in; whom to keep comes out.
"""

import random
from collections.abc import Collection, Mapping
from heapq import nsmallest

from overlay.names import PeerId

FULL_MESH = 32
"""Peers up to which everybody is connected to everybody: some 31 streams, 2 MB a daemon."""

NEAR = 3
"""Chosen for being near: news crosses a data centre before it crosses an ocean."""

FAR = 5
"""Chosen at random. With 4 or more of them a random graph of any size in question is connected
with overwhelming probability; the fifth is there for those that are dead and not yet known so."""


def choose(
    members: Mapping[PeerId, float], kept: Collection[PeerId], rng: random.Random
) -> frozenset[PeerId]:
    """Return the peers to keep gossip streams to.

    Args:
        members: the live peers that can be dialled, this one left out, with the RTT in seconds as
            far as it is known, infinite if it is not.
        kept: who was chosen before; whoever still serves is kept, because a change costs a
            connection and a comparison of all records.
        rng: chooses among strangers.
    """
    if len(members) <= FULL_MESH:
        return frozenset(members)
    near = nsmallest(2 * NEAR, members, key=lambda peer: (members[peer], peer))
    still_near = [peer for peer in near if peer in kept][:NEAR]
    chosen = still_near + [peer for peer in near if peer not in kept][: NEAR - len(still_near)]
    far = [peer for peer in sorted(kept) if peer in members and peer not in chosen][:FAR]
    strangers = sorted(members.keys() - set(chosen) - set(far))
    return frozenset(chosen + far + rng.sample(strangers, FAR - len(far)))
