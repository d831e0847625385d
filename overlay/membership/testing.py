"""Networks of membership cores in virtual time, with faults, in one process. For tests.

A run is a function of its seed: it replays exactly, in every process.
"""

import random
from collections.abc import Callable
from dataclasses import dataclass
from heapq import heappop, heappush
from math import exp, inf, log

from overlay.coordinates import Coordinates
from overlay.membership.knobs import Knobs
from overlay.membership.messages import Alive, Datagram, Effects, Left, MemberState
from overlay.membership.protocol import Membership
from overlay.names import PeerId

EPOCH = 1 << 16
"""The incarnation that cores start in; one epoch later is twice that."""

WAKE_MIN_S = 0.01
"""As the shell's timers: not finer than this."""

Delay = Callable[[random.Random, PeerId, PeerId], float]
"""Returns the seconds that one datagram takes one way."""


def pretend_signature(kind: type[Alive] | type[Left], peer: PeerId, incarnation: int) -> bytes:
    """Return what stands for `peer`'s signature."""
    return f"{kind.__name__} {peer} {incarnation}".encode()


def is_pretended(update: Alive | Left) -> bool:
    """Return whether the signature is what stands for its peer's."""
    return update.signature == pretend_signature(type(update), update.peer, update.incarnation)


def core(peer: PeerId, knobs: Knobs, rng: random.Random, incarnation: int = EPOCH) -> Membership:
    """Return a membership core that signs by `pretend_signature`."""
    return Membership(
        peer,
        incarnation,
        knobs,
        rng=rng,
        coordinates=Coordinates(rng),
        sign=lambda kind, of: pretend_signature(kind, peer, of),
        verify=is_pretended,
    )


def lines(seed: int, shortest_s: float, longest_s: float, jitter: float = 0.1) -> Delay:
    """Return delays that each pair of peers has its own of, log-uniform, with some jitter."""
    rng = random.Random(seed)  # noqa: S311
    ways: dict[tuple[PeerId, PeerId], float] = {}

    def delay(jitters: random.Random, one: PeerId, other: PeerId) -> float:
        pair = (min(one, other), max(one, other))
        if pair not in ways:
            ways[pair] = exp(rng.uniform(log(shortest_s), log(longest_s)))
        return ways[pair] * (1 + jitter * jitters.random())

    return delay


@dataclass(frozen=True, slots=True)
class Seen:
    """At that time, `by` began to believe that `peer` is in `state`."""

    at: float
    by: PeerId
    peer: PeerId
    state: MemberState


class VirtualNetwork:
    """Some peers, and the lines between them.

    Attributes:
        now: virtual time, in seconds.
        peers: everybody who was started, in that order.
        cores: those that run.
        seen: each change of belief.
        sent: each datagram, lost ones too, with its sender.
        loss: share of datagrams that are lost; a reliable one takes longer instead.
        twice: share of datagrams that arrive twice.
        delay: of each datagram, one way; where it varies, datagrams overtake each other.
        cut: peers whose line is cut.
        side: of a divided network on which a peer is; 0 if it is not named.
    """

    def __init__(
        self,
        size: int,
        knobs: Knobs,
        seed: int,
        *,
        loss: float = 0.0,
        twice: float = 0.0,
        delay: Delay = lambda _rng, _one, _other: 0.001,
    ) -> None:
        self.now = 0.0
        self.peers = [PeerId(f"peer{number}") for number in range(size)]
        self.cores: dict[PeerId, Membership] = {}
        self.seen: list[Seen] = []
        self.sent: list[tuple[PeerId, Datagram]] = []
        self.loss, self.twice, self.delay = loss, twice, delay
        self.cut: set[PeerId] = set()
        self.side: dict[PeerId, int] = {}
        self._knobs = knobs
        self._rng = random.Random(seed)  # noqa: S311
        self._heap: list[tuple[float, int, PeerId, Datagram | None]] = []
        self._pushed = 0
        self._wakes: dict[PeerId, float] = {}
        self._pauses: dict[PeerId, tuple[float, float]] = {}
        for peer in self.peers:
            self.start(peer)
        for peer in self.peers:
            self.meet(peer)

    def start(self, peer: PeerId, incarnation: int = EPOCH, knobs: Knobs | None = None) -> None:
        """Start a core, or start it anew; nobody hears of it, and it knows nobody."""
        rng = random.Random(self._rng.getrandbits(64))  # noqa: S311
        self.cores[peer] = core(peer, knobs or self._knobs, rng, incarnation)
        self._wakes[peer] = inf

    def meet(self, peer: PeerId) -> None:
        """Give a peer everybody's record."""
        for other, its in self.cores.items():
            if other != peer:
                self.do(peer, self.cores[peer].learn(other, its.incarnation, self.now))

    def crash(self, peer: PeerId) -> None:
        """End a peer without a word."""
        del self.cores[peer]

    def pause(self, peer: PeerId, seconds: float, *, noticed: bool) -> None:
        """Let a peer do nothing for some time; if that is noticed, it is told so afterwards."""
        self._pauses[peer] = self.now + seconds, seconds if noticed else 0.0

    def run(self, seconds: float) -> None:
        """Let time pass."""
        end = self.now + seconds
        while self._heap and self._heap[0][0] <= end:
            self.now, _, peer, datagram = heappop(self._heap)
            doer = peer if datagram is None else datagram.to
            if doer in self.cores and not self._is_paused(doer, peer, datagram):
                self._happen(peer, datagram)
        self.now = end

    def do(self, peer: PeerId, effects: Effects) -> None:
        """Do what `peer`'s core decided."""
        changes = effects.changes
        self.seen.extend(Seen(self.now, peer, change.peer, change.state) for change in changes)
        for datagram in effects.datagrams:
            self.sent.append((peer, datagram))
            self._send(peer, datagram)
        wake = max(self.cores[peer].next_wake(), self.now + WAKE_MIN_S)
        if wake < self._wakes[peer]:
            self._wakes[peer] = wake
            self._push(wake, peer, None)

    def times(self, peer: PeerId, state: MemberState, since: float) -> dict[PeerId, float]:
        """Return by whom, and how many seconds after `since`, `peer` was first found in `state`."""
        times: dict[PeerId, float] = {}
        for seen in self.seen:
            if seen.peer == peer and seen.state is state and seen.at >= since:
                times.setdefault(seen.by, seen.at - since)
        times.pop(peer, None)
        return times

    def beliefs(self, peer: PeerId) -> list[MemberState]:
        """Return what all others believe of `peer`."""
        return [its.state(peer) for other, its in self.cores.items() if other != peer]

    def _is_paused(self, doer: PeerId, peer: PeerId, datagram: Datagram | None) -> bool:
        if doer not in self._pauses:
            return False
        end, noticed_s = self._pauses[doer]
        if end > self.now:
            self._push(end, peer, datagram)
            return True
        del self._pauses[doer]
        if noticed_s:
            self.cores[doer].stood_still(noticed_s)
        return False

    def _happen(self, peer: PeerId, datagram: Datagram | None) -> None:
        if datagram is not None:
            if self._reaches(peer, datagram.to):
                its = self.cores[datagram.to]
                message, updates, reliable = datagram.message, datagram.updates, datagram.reliable
                effects = its.receive(peer, message, updates, self.now, reliable=reliable)
                self.do(datagram.to, effects)
        elif self.now >= self._wakes[peer]:
            self._wakes[peer] = inf
            self.do(peer, self.cores[peer].tick(self.now))

    def _send(self, source: PeerId, datagram: Datagram) -> None:
        if not self._reaches(source, datagram.to):
            return
        lost = self._rng.random() < self.loss
        if lost and not datagram.reliable:
            return
        copies = 1 + (self._rng.random() < self.twice)
        for _ in range(copies):
            way = self.delay(self._rng, source, datagram.to)
            self._push(self.now + way * (3 if lost else 1), source, datagram)

    def _reaches(self, one: PeerId, other: PeerId) -> bool:
        together = self.side.get(one, 0) == self.side.get(other, 0)
        return together and one not in self.cut and other not in self.cut

    def _push(self, at: float, peer: PeerId, datagram: Datagram | None) -> None:
        self._pushed += 1
        heappush(self._heap, (at, self._pushed, peer, datagram))
