"""What is taken in of a datagram depends on who its source is, as believed here."""

from collections.abc import Iterable

import pytest

from overlay import datagrams
from overlay.announcements import Announcements
from overlay.announcing import Announcer
from overlay.identity import Identity
from overlay.membership import (
    Alive,
    Change,
    Dead,
    Gossip,
    MemberState,
    Suspect,
    Update,
    incarnation_of,
)
from overlay.names import PeerId
from overlay.probing import Probing
from overlay.reach import Reach
from overlay.records import PeerRecord, Role, Version, sign_record
from overlay.sealing import Sealer
from overlay.signed import sign_incarnation
from overlay.testing import bury, empty_view, meet
from overlay.view import View

NOW = 1_700_000_000.0
ME, OTHER, THIRD, FOURTH = (Identity.from_seed(bytes([n]) * 32) for n in range(4))


SILENT = Announcer(Announcements(ME.peer_id), (), own=list, knows=lambda _: True)


class NoStreams:
    """Nobody is a neighbour."""

    def post_datagram(self, peer: PeerId, data: bytes) -> bool:
        del peer, data
        return False

    def post_forward(self, relay: PeerId, to: PeerId, sealed: bytes) -> bool:
        del relay, to, sealed
        return False


@pytest.fixture
def view() -> View:
    """A view in which the three others are members."""
    found = empty_view(ME, "here")
    for owner in (ME, OTHER, THIRD, FOURTH):
        version = Version(epoch=NOW, counter=0)
        record = PeerRecord(version=version, role=Role.PROXY, host="h", machine=owner.peer_id)
        found.apply(sign_record(owner, record), NOW)
    for owner in (OTHER, THIRD, FOURTH):
        meet(found, owner.peer_id, NOW)
    return found


async def hear(view: View, source: PeerId, *updates: Update) -> None:
    """Have a datagram with updates come from a peer, over its stream."""

    def change(changes: Iterable[Change]) -> None:
        for each in changes:
            view.settle(each.peer)

    probing = Probing(view, Sealer(ME.peer_id, b"n"), [], _unreachable(), SILENT, load=dict)
    probing.streams, probing.changed = NoStreams(), change
    probing.unknown = lambda _peer, _unknown: None
    probing.hear(source, datagrams.encode(Gossip(), updates))


def _unreachable() -> Reach:
    class Nobody:
        def connected(self) -> frozenset[PeerId]:
            return frozenset()

    return Reach(Nobody(), lambda _: ())  # type: ignore[arg-type]  # nothing else is asked of it


def alive(owner: Identity, incarnation: int) -> Alive:
    return Alive(owner.peer_id, incarnation, sign_incarnation(owner, Alive.PURPOSE, incarnation))


async def test_a_dead_peer_that_says_it_lives_is_believed(view: View) -> None:
    bury(view, OTHER.peer_id)
    await hear(view, OTHER.peer_id, alive(OTHER, incarnation_of(NOW) + 1))
    assert view.membership.state(OTHER.peer_id) is MemberState.ALIVE


async def test_two_peers_that_hold_each_other_for_dead_are_not_deaf_to_each_other(
    view: View,
) -> None:
    bury(view, OTHER.peer_id)
    before = view.membership.incarnation
    await hear(view, OTHER.peer_id, Dead(ME.peer_id, before, OTHER.peer_id))
    assert view.membership.incarnation == before + 1, "it refutes, which brings it back there"


async def test_a_dead_peer_accuses_nobody_else(view: View) -> None:
    bury(view, OTHER.peer_id)
    for each in (THIRD, FOURTH):  # they started anew meanwhile
        meet(view, each.peer_id, NOW + 1)
    said = Suspect(THIRD.peer_id, incarnation_of(NOW + 1), FOURTH.peer_id)
    await hear(view, OTHER.peer_id, said)
    assert view.membership.state(THIRD.peer_id) is MemberState.ALIVE
    await hear(view, FOURTH.peer_id, said)
    assert view.membership.state(THIRD.peer_id) is MemberState.SUSPECT


async def test_a_guest_tells_nothing(view: View) -> None:
    guest = Identity.from_seed(b"g" * 32).peer_id
    before = view.membership.incarnation
    await hear(view, guest, Dead(ME.peer_id, before, guest), alive(OTHER, incarnation_of(NOW) + 1))
    assert view.membership.incarnation == before
    await hear(view, THIRD.peer_id, Suspect(OTHER.peer_id, incarnation_of(NOW), THIRD.peer_id))
    assert view.membership.state(OTHER.peer_id) is MemberState.SUSPECT, "nor was that outranked"
