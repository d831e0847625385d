"""How long a suspect has to refute: less, the more others suspect it too.

Lifeguard's suspicion (Dadgar, Phillips, Currey, "Lifeguard: Local Health Awareness for More
Accurate Failure Detection", 2018, section IV-B): a peer that is alone with its suspicion may itself
be the slow one, so it waits for long. Each *independent* confirmation, one from another accuser,
brings the end nearer, the first one most, until k of them leave the minimum:

    min + (max − min) · (1 − log(confirmations + 1) / log(k + 1))
"""

from dataclasses import dataclass, field
from math import log, log10

from overlay.membership.knobs import Knobs
from overlay.names import PeerId

CONFIRMATIONS = 3
"""k, as in memberlist's defaults; fewer in a network that has fewer others."""


@dataclass(slots=True, eq=False)
class Suspicion:
    """One suspicion of one peer: when it began, who shares it, and when it ends in death."""

    peer: PeerId
    since: float
    least_s: float
    most_s: float
    needed: int
    accusers: list[PeerId]
    deadline: float = field(init=False)

    def __post_init__(self) -> None:
        self.deadline = self._end()

    @classmethod
    def begin(
        cls, peer: PeerId, accuser: PeerId, now: float, members: int, knobs: Knobs
    ) -> "Suspicion":
        """Return a suspicion that begins now in a network of `members`, this peer included."""
        least = knobs.suspicion_s * max(1.0, log10(members))
        needed = max(0, min(CONFIRMATIONS, members - 2))
        return cls(peer, now, least, least * knobs.suspicion_max_factor, needed, [accuser])

    @property
    def confirmations(self) -> int:
        """Return how many others share the first accuser's suspicion."""
        return len(self.accusers) - 1

    def confirm(self, accuser: PeerId) -> bool:
        """Take in another accuser; return if that was news that brings the end nearer."""
        if accuser in self.accusers or self.confirmations >= self.needed:
            return False
        self.accusers.append(accuser)
        self.deadline = self._end()
        return True

    def shift(self, seconds: float) -> None:
        """Take time in which nothing could be heard out of it."""
        self.since += seconds
        self.deadline += seconds

    def _end(self) -> float:
        if self.needed == 0:
            return self.since + self.least_s
        share = log(self.confirmations + 1) / log(self.needed + 1)
        return self.since + self.least_s + (self.most_s - self.least_s) * (1 - share)
