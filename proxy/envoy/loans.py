"""Instances that Envoy may send requests to, on leases that the proxy holds.

    SERVING ──► DRAINING ──► GONE ──► returned
       Envoy may    it gets nothing    it is taken    Envoy does not list
       send to it   new                out            it any more

An allocator pauses or stops an instance when its lease is back. So the lease goes back only when
Envoy itself has said, in this order, that it sends nothing new there, that nothing is under way,
and that it knows the instance no more, by when the connections that it kept are closed. Envoy's
workers hear of a change a moment after the thread that answers; so that nothing is under way has to
be the case in two answers, the second of which is asked for later.

Pure: what Envoy said in, states out.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import Enum

from overlay.names import InstanceId, PeerId, ServiceName
from proxy.envoy.mapping import Endpoint

Key = tuple[PeerId, InstanceId]

QUIET_ANSWERS = 2
"""In a row, with nothing under way."""


UNHEARD_LOOKS = 200
"""Answers in a row, some ten seconds, by which Envoy has not heard of what was written: it never
will."""


class Phase(Enum):
    """How far an instance is from being given back."""

    SERVING = "serving"
    DRAINING = "draining"
    GONE = "gone"
    RETURNED = "returned"


@dataclass(frozen=True, slots=True)
class Seen:
    """What Envoy says of one of its endpoints.

    Attributes:
        active: requests under way.
        total: requests so far.
        draining: it gets nothing new.
    """

    active: int
    total: int
    draining: bool


@dataclass(slots=True)
class Loan:
    """An instance in Envoy's hands.

    Attributes:
        quiet: answers in a row by which it drains and has nothing under way.
        unheard: answers in a row by which it should be leaving and Envoy does not know.
        total: requests that are counted already.
        active: requests that were under way in the last answer.
    """

    key: Key
    service: ServiceName
    address: str
    weight: int = 1
    phase: Phase = Phase.SERVING
    quiet: int = 0
    unheard: int = 0
    total: int = 0
    active: int = 0

    @property
    def leaving(self) -> bool:
        """Whether it is on its way back."""
        return self.phase is not Phase.SERVING

    def endpoint(self) -> Endpoint | None:
        """Return what is to be in Envoy's file; None if nothing is."""
        match self.phase:
            case Phase.SERVING:
                return Endpoint(self.key[1], self.address, self.weight)
            case Phase.DRAINING:
                return Endpoint(self.key[1], self.address, self.weight, draining=True)
            case _:
                return None

    def recall(self) -> None:
        """Begin to take it back."""
        if self.phase is Phase.SERVING:
            self.phase, self.quiet, self.unheard = Phase.DRAINING, 0, 0

    def resume(self) -> None:
        """Have it served again, if nothing was taken out yet."""
        if self.phase is Phase.DRAINING:
            self.phase = Phase.SERVING

    def observe(self, seen: Seen | None) -> int:
        """Take in what Envoy says, None if it does not know the instance; return new requests."""
        served = self._counted(seen)
        if seen is None:
            self._unknown()
        elif self.phase is Phase.DRAINING:
            self.quiet = self.quiet + 1 if seen.draining and not seen.active else 0
            if self.quiet >= QUIET_ANSWERS:
                self.phase = Phase.GONE
        elif self.phase is Phase.GONE and seen.active:  # it heard later than ever
            self.phase, self.quiet = Phase.DRAINING, 0
        heard = seen is None or not self.leaving or (seen.draining and self.phase is not Phase.GONE)
        self.unheard = 0 if heard else self.unheard + 1
        return served

    def _unknown(self) -> None:
        if self.phase is Phase.DRAINING:
            self.phase = Phase.GONE
        elif self.phase is Phase.GONE:
            self.phase = Phase.RETURNED

    def lost(self) -> None:
        """Take in that Envoy has ended, and whatever it had under way."""
        self.active = self.total = 0
        if self.leaving:
            self.phase = Phase.RETURNED

    def _counted(self, seen: Seen | None) -> int:
        if seen is None:
            self.active = self.total = 0
            return 0
        new = fresh(self.total, seen.total)
        self.active, self.total = seen.active, seen.total
        return new


def crowded(
    loans: Mapping[Key, Loan], concurrency: int, elsewhere: Iterable[tuple[int, int]] = ()
) -> bool:
    """Return whether all instances of a service have as much under way as they take.

    Args:
        loans: those of this machine.
        concurrency: what one takes.
        elsewhere: of each other machine, what is under way there and what it takes.
    """
    serving = [(loan.active, concurrency) for loan in loans.values() if not loan.leaving]
    serving += elsewhere
    return bool(serving) and all(active >= most for active, most in serving)


def fresh(before: int, total: int) -> int:
    """Return how many are new, of a total that may have begun anew."""
    return total - (before if before <= total else 0)
