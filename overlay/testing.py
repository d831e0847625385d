"""A view whose members come and go at a test's word."""

import random
from dataclasses import dataclass, field

from overlay.identity import Identity
from overlay.membership import Ack, Ping, incarnation_of
from overlay.names import PeerId
from overlay.probing import open_membership
from overlay.view import View


@dataclass(slots=True)
class StillClock:
    """A clock that stands until it is set."""

    now: float = 0.0

    def __call__(self) -> float:
        """Return the time, in seconds."""
        return self.now


@dataclass(slots=True)
class PlayedView:
    """A view and what happens to it.

    Attributes:
        view: what is looked at.
        clock: the view's clock.
    """

    view: View
    clock: StillClock = field(default_factory=StillClock)

    def meet(self, peer: PeerId, epoch: float = 1.0) -> None:
        """Have a peer, whose record is in the view, be alive."""
        self.view.membership.learn(peer, incarnation_of(epoch), self.clock.now)
        self.view.settle(peer)

    def suspect(self, peer: PeerId) -> None:
        """Have the connection to a peer be cut."""
        self.view.membership.cut(peer, self.clock.now)
        self.view.settle(peer)

    def bury(self, peer: PeerId) -> None:
        """Have a peer say nothing until it is dead."""
        self.suspect(peer)
        while self.view.membership.state(peer) in {"alive", "suspect"}:
            self.clock.now = max(self.clock.now, self.view.membership.next_wake())
            self.view.membership.tick(self.clock.now)
        self.view.settle(peer)

    def measure(self, peer: PeerId, rtt_s: float) -> None:
        """Have a probe of a peer be answered after `rtt_s`."""
        effects = self.view.membership.probe(peer, self.clock.now)
        (ping,) = [d.message for d in effects.datagrams if isinstance(d.message, Ping)]
        self.clock.now += rtt_s
        answer = Ack(ping.sequence, None)
        self.view.membership.receive(peer, answer, (), self.clock.now)
        self.view.measured(peer)


def played_view(me: Identity, machine: str) -> PlayedView:
    """Return an empty view of the peer that `me` is, and its strings."""
    membership = open_membership(me, 1.0, "lan", random.Random(0))  # noqa: S311
    clock = StillClock()
    return PlayedView(View(me.peer_id, machine, membership, clock), clock)
