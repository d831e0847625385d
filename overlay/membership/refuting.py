"""This peer's part in what others believe of it: its incarnation, and its doubt in itself.

Only the peer itself raises its incarnation, by signing it. It starts from its epoch, so that after
a restart it outranks whatever was said of it before, and is one higher after each refutation.

The doubt is Lifeguard's local health score (section IV-A): 0 while all is well, and higher after
what a peer sees that is slow itself, be it failing probes, missing nacks, or accusations.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import assert_never

from overlay.membership.messages import Alive, Dead, Left, Suspect, Update
from overlay.names import PeerId

Sign = Callable[[type[Alive] | type[Left], int], bytes]
"""Returns this peer's signature of being there, or going, in an incarnation."""

Verify = Callable[[Alive | Left], bool]
"""Says whether the signature is its peer's."""


@dataclass(slots=True)
class Counters:
    """How often things happened since the start.

    Attributes:
        probes: rounds begun.
        acks: rounds that ended with an answer.
        failures: rounds that ended without one.
        suspicions: peers that became suspect here.
        deaths: peers that became dead here.
        refutations: accusations of this peer that it answered with a higher incarnation.
        ignored: messages that were not awaited or not for this peer, and accusations of
            incarnations that nobody had signed.
        forged: signatures that were not their peer's.
        samples: RTTs measured.
    """

    probes: int = 0
    acks: int = 0
    failures: int = 0
    suspicions: int = 0
    deaths: int = 0
    refutations: int = 0
    ignored: int = 0
    forged: int = 0
    samples: int = 0


class Myself:
    """Who this peer is, and how it defends that.

    Attributes:
        health: the score, 0 at best and `max_health` at worst.
        verify: checks a signature, at some 0.1 ms; only asked about what would be news.
    """

    def __init__(
        self, peer: PeerId, incarnation: int, max_health: int, *, sign: Sign, verify: Verify
    ) -> None:
        self.peer = peer
        self.incarnation = incarnation
        self.health = 0
        self.counters = Counters()
        self._max_health = max_health
        self._sign = sign
        self._verify = verify
        self._alive: Alive | None = None

    def doubt(self, by: int) -> None:
        """Move the health score, within its bounds."""
        self.health = min(max(self.health + by, 0), self._max_health)

    def is_authentic(self, update: Alive | Left) -> bool:
        """Return whether a statement is its peer's own; one that is not is counted."""
        authentic = self._verify(update)
        self.counters.forged += not authentic
        return authentic

    def alive(self) -> Alive:
        """Return this peer's statement that it is there."""
        if self._alive is None or self._alive.incarnation != self.incarnation:
            signature = self._sign(Alive, self.incarnation)
            self._alive = Alive(self.peer, self.incarnation, signature)
        return self._alive

    def left(self) -> Left:
        """Return this peer's statement that it goes."""
        return Left(self.peer, self.incarnation, self._sign(Left, self.incarnation))

    def hear(self, update: Update) -> bool:
        """Take in what is said of this peer; return whether whoever said it must hear `alive`.

        What is said of its incarnation is refuted by the next one; what is said of an earlier one
        is refuted already. Of a later one it knows nothing: accepting it would let anybody use up
        all incarnations. Only if this peer itself signed it, before a restart with a clock that was
        set back, does it go on from there.
        """
        match update:
            case Alive() | Left():
                if update.incarnation > self.incarnation and self.is_authentic(update):
                    self.incarnation = update.incarnation
                elif update.incarnation > self.incarnation or isinstance(update, Alive):
                    return False
            case Suspect() | Dead():
                if update.incarnation > self.incarnation:
                    self.counters.ignored += 1
                    return False
            case _:
                assert_never(update)
        if update.incarnation == self.incarnation:
            self.incarnation += 1
            self.counters.refutations += 1
            self.doubt(+1)
        return True
