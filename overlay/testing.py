"""A view whose members come and go at a test's word, at a time that stands until it is moved."""

import random
from dataclasses import dataclass

from overlay.coordinates import Coordinate
from overlay.identity import Identity
from overlay.membership import Ack, Gossip, Left, MemberState, Ping, incarnation_of
from overlay.names import PeerId
from overlay.probing import open_membership
from overlay.signed import sign_incarnation
from overlay.view import View


@dataclass(slots=True)
class StillClock:
    """A clock that stands until it is set."""

    now: float = 0.0

    def __call__(self) -> float:
        """Return the time, in seconds."""
        return self.now


def empty_view(me: Identity, machine: str) -> View:
    """Return the view of a peer that has heard of nobody."""
    membership = open_membership(me, 1.0, "lan", random.Random(0))  # noqa: S311
    return View(me.peer_id, machine, membership, StillClock())


def meet(view: View, peer: PeerId, epoch_s: float = 1.0) -> None:
    """Have a peer be alive, in the epoch that its record is of."""
    view.membership.learn(peer, incarnation_of(epoch_s), view.clock())
    view.settle(peer)


def cut(view: View, peer: PeerId) -> None:
    """Have the connection to a peer end, so that it is suspect."""
    view.membership.cut(peer, view.clock())
    view.settle(peer)


def bury(view: View, peer: PeerId) -> None:
    """Have nobody answer from now on until a peer is dead."""
    cut(view, peer)
    while view.membership.state(peer) is not MemberState.DEAD:
        pass_time(view, view.membership.next_wake() - view.clock())
    view.settle(peer)


def depart(view: View, peer: Identity, epoch_s: float = 1.0) -> None:
    """Have a peer say goodbye."""
    incarnation = incarnation_of(epoch_s)
    goodbye = Left(peer.peer_id, incarnation, sign_incarnation(peer, Left.PURPOSE, incarnation))
    view.membership.receive(peer.peer_id, Gossip(), [goodbye], view.clock())
    view.settle(peer.peer_id)


def measure(view: View, peer: PeerId, rtt_s: float, coordinate: Coordinate | None = None) -> None:
    """Have a probe of a peer be answered after `rtt_s` seconds, from its coordinate."""
    guess = view.membership.coordinates.estimate(peer)
    effects = view.membership.probe(peer, view.clock())
    (ping,) = [d.message for d in effects.datagrams if isinstance(d.message, Ping)]
    now = view.clock() + rtt_s
    view.membership.receive(peer, Ack(ping.sequence, coordinate), (), now)
    _set(view, now)
    view.measured(peer, guess)


def pass_time(view: View, seconds: float) -> None:
    """Let time pass in which nobody says anything."""
    _set(view, view.clock() + max(seconds, 0.0))
    for change in view.membership.tick(view.clock()).changes:
        view.settle(change.peer)


def _set(view: View, now: float) -> None:
    assert isinstance(view.clock, StillClock)  # noqa: S101  (made by `empty_view`)
    view.clock.now = now
