"""What must hold in the end, and what a run that fails says.

Everything is judged from outside: what each running peer believes and holds, against what is so.
"""

from collections.abc import Iterable, Iterator

from bench.sim.peer import Peer
from bench.sim.table import peer_key
from bench.sim.world import World
from overlay.digest import Key, Stamp
from overlay.membership import MemberState

GONE_STATES = frozenset({MemberState.DEAD, MemberState.LEFT})

SHOWN = 5
"""Of what does not hold, so much is said."""


class CheckFailed(Exception):
    """Something does not hold that must; the text says what, and how to see it again."""


def alive_everywhere(world: World, indices: Iterable[int]) -> Iterator[str]:
    """Yield who does not believe that one of these is alive."""
    for index in indices:
        about = world.ids[index]
        for peer in world.up():
            state = peer.membership.state(about)
            if peer.index != index and state is not MemberState.ALIVE:
                yield f"{peer.id} holds {about} for {state.value}"


def gone_everywhere(world: World, indices: Iterable[int]) -> Iterator[str]:
    """Yield who does not believe that one of these is dead or has left."""
    for index in indices:
        about = world.ids[index]
        for peer in world.up():
            state = peer.membership.state(about)
            if peer.index != index and state not in GONE_STATES:
                yield f"{peer.id} holds {about}, which is gone, for {state.value}"


def records_everywhere(world: World) -> Iterator[str]:
    """Yield who does not hold exactly the records of those that run, as published last."""
    truth = _truth(world)
    for peer in world.up():
        held = dict(_in_view(peer))
        for key in sorted(truth.keys() | held.keys()):
            if truth.get(key) != held.get(key):
                yield f"{peer.id} holds {held.get(key)} of {key}, published is {truth.get(key)}"


def _truth(world: World) -> dict[Key, Stamp]:
    running = {peer.id: peer.epoch for peer in world.up()}
    truth = {k: s for k, s in world.published.items() if running.get(k[0]) == s[0]}
    changed = {peer.id: peer.epoch for peer in world.up() if peer.life}
    return truth | {peer_key(peer): (epoch, 0) for peer, epoch in changed.items()}


def _in_view(peer: Peer) -> Iterator[tuple[Key, Stamp]]:
    """Yield the records that count in the peer's view, without those of founders of themselves."""
    for key, stamp in peer.table.counting():
        if stamp != peer.table.founding.stamps.get(key):
            yield key, stamp


def everything_is_so(world: World) -> Iterator[str]:
    """Yield whatever anybody believes or holds that is not so."""
    yield from alive_everywhere(world, [peer.index for peer in world.peers if peer.up])
    yield from gone_everywhere(world, [peer.index for peer in world.peers if not peer.up])
    yield from records_everywhere(world)


def first_of(wrong: Iterator[str]) -> str | None:
    """Return what is wrong in a few words; None if nothing is."""
    found = []
    for one in wrong:
        found.append(one)
        if len(found) > SHOWN:
            return "; ".join([*found[:SHOWN], "and more"])
    return "; ".join(found) or None
