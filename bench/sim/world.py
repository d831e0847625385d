"""The simulated network as a whole: it begins at rest, and things can be done to it."""

import random
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from bench.sim.clock import Clock
from bench.sim.events import Events
from bench.sim.latency import Latency
from bench.sim.lines import Lines, Weather
from bench.sim.peer import LEAVE_S, Peer
from bench.sim.table import Founding, peer_key
from overlay.digest import Key, Stamp
from overlay.membership import Change, Knobs, MemberState, incarnation_of
from overlay.names import PeerId
from overlay.neighbours import choose

EPOCH = 1_763_726_400.0
"""Wall clock at the true time 0."""

_LETTERS = {state: number for number, state in enumerate(MemberState)}


class World:
    """All peers, the lines between them, and the only clock that is right.

    Attributes:
        peers: the running process of each, or the last one it had.
        published: the last version of each record that was published.
        watch: told of every change of what a peer believes: who, what, and the peer it is about.
        arrivals: told of every record that was new to a peer.
    """

    def __init__(
        self,
        size: int,
        seed: int,
        latency: Callable[[int, random.Random], Latency],
        *,
        knobs: Knobs,
        weather: Weather | None = None,
        notices_stalls: bool = True,
    ) -> None:
        self.size = size
        self.notices_stalls = notices_stalls
        self.events = Events()
        self._seed = seed
        self.rng = self._drawn("world")
        self.ids: Sequence[PeerId] = [PeerId(f"peer-{index:05}") for index in range(size)]
        self.published: dict[Key, Stamp] = {}
        self.watch: list[Callable[[Peer, Change, Peer], None]] = []
        self.arrivals: list[Callable[[Peer, Key, Stamp], None]] = []
        self.peers: list[Peer] = []
        self._knobs = knobs
        self._latency = latency(size, self.rng)
        self.lines = Lines(
            self.events, self._latency, weather or Weather(), self.rng, self.peers, self.ids
        )
        self._epochs = [[EPOCH - self.rng.uniform(0, 86400)] for _ in self.ids]
        stamps = {peer_key(p): (self._epochs[i][0], 0) for i, p in enumerate(self.ids)}
        self.founding = Founding(stamps)
        self.peers.extend(self._process(index, self.founding) for index in range(size))
        self._acquaint()
        self._link()
        for peer in self.peers:
            peer.start()

    @property
    def now(self) -> float:
        """Return the true time, in seconds since the start."""
        return self.events.now

    def at(self, time: float, act: Callable[..., None], *args: Any) -> None:
        """Have something done at a true time."""
        self.events.at(time, act, *args)

    def run(self, seconds: float) -> None:
        """Let time pass."""
        self.events.run(self.now + seconds)

    def run_until(self, holds: Callable[[], bool], within: float, step: float = 0.5) -> bool:
        """Let time pass until something holds; return False if it does not within that time."""
        end = self.now + within
        while not holds():
            if self.now >= end:
                return False
            self.run(min(step, end - self.now))
        return True

    def up(self) -> list[Peer]:
        """Return the peers whose process exists."""
        return [peer for peer in self.peers if peer.up]

    # what is done to it

    def crash(self, index: int) -> None:
        """Have a machine gone at once, without a word from anybody."""
        self.events.note(b"C", index, 0)
        self.peers[index].up = False

    def kill(self, index: int) -> None:
        """Have a process gone; its machine closes its connections."""
        self.events.note(b"K", index, 0)
        self._end(self.peers[index])

    def leave(self, index: int) -> None:
        """Have a process say goodbye and end."""
        self.events.note(b"L", index, 0)
        peer = self.peers[index]
        peer.leave()
        self.at(self.now + LEAVE_S, self._end, peer)

    def restart(self, index: int) -> None:
        """Have a peer's process started anew: it knows only its key and a bootstrap node."""
        self.events.note(b"R", index, 0)
        self._end(self.peers[index])
        self._epochs[index].append(EPOCH + self.now)
        self.peers[index] = self._process(index, Founding({}))
        self.peers[index].start()

    def cut(self, indices: Iterable[int], side: int) -> None:
        """Have these peers reach only each other."""
        self.events.note(b"P", side, 0)
        self.lines.cut(indices, side)

    def heal(self) -> None:
        """Have everybody reach everybody again."""
        self.events.note(b"H", 0, 0)
        self.lines.heal()

    def stop(self, index: int, seconds: float) -> None:
        """Have a process stand still for so long."""
        peer = self.peers[index]
        if peer.up and not peer.stopped:
            self.events.note(b"S", index, 0)
            peer.stop()
            self.at(self.now + seconds, peer.resume)

    def falter(self, index: int, until: float, *, run_s: float, stop_s: float) -> None:
        """Have a process run and stop in turn, for exponential times of these means, until then."""
        if self.now >= until:
            return
        stopped = min(self.rng.expovariate(1 / stop_s), 5 * stop_s)
        self.stop(index, stopped)
        again = self.now + stopped + self.rng.expovariate(1 / run_s)
        self.at(again, lambda: self.falter(index, until, run_s=run_s, stop_s=stop_s))

    def publish(self, index: int, name: str) -> tuple[Key, Stamp]:
        """Have a peer publish a new version of one of its instances' records."""
        key, stamp = self.peers[index].gossip.publish(name)
        self.published[key] = stamp
        self.events.note(b"N", index, 0, stamp[1])
        return key, stamp

    # what peers ask of it, and tell it

    def bootstrap(self, source: Peer) -> PeerId | None:
        """Return a random peer that runs and can be reached."""
        reached = [p for p in self.up() if self.lines.reaches(source.index, p.index)]
        others = [p for p in reached if p is not source]
        return self.rng.choice(others).id if others else None

    def life(self, peer: PeerId, epoch: float) -> int:
        """Return which of the peer's lives began with that epoch."""
        return self._epochs[self.lines.numbers[peer]].index(epoch)

    def changed(self, observer: Peer, change: Change) -> None:
        """Pass on what a peer now believes."""
        about = self.lines.numbers[change.peer]
        self.events.note(b"m", observer.index, about, _LETTERS[change.state])
        for watch in self.watch:
            watch(observer, change, self.peers[about])

    def learned(self, observer: Peer, key: Key, stamp: Stamp) -> None:
        """Pass on what a peer now holds."""
        self.events.note(b"r", observer.index, self.lines.numbers[key[0]], stamp[1])
        for arrived in self.arrivals:
            arrived(observer, key, stamp)

    # how it begins

    def _drawn(self, *what: object) -> random.Random:
        """Return a generator of its own for each purpose, whatever the order of their use."""
        return random.Random("/".join(map(str, (self._seed, *what))))  # noqa: S311

    def _process(self, index: int, founding: Founding) -> Peer:
        life = len(self._epochs[index]) - 1
        drift = self.lines.weather.drift
        drawn = self._drawn("clock", index)
        return Peer(
            self,
            index,
            life,
            self._epochs[index][-1],
            clock=Clock(drawn.uniform(0, 1e6), 1 + drawn.uniform(-drift, drift)),
            knobs=self._knobs,
            rng=self._drawn("peer", index, life),
            founding=founding,
        )

    def _acquaint(self) -> None:
        """Have every founder know every other, as if they had long been together."""
        everybody = [(peer.id, incarnation_of(peer.epoch)) for peer in self.peers]
        for peer in self.peers:
            now, learn = peer.local, peer.membership.learn
            for other, incarnation in everybody:
                learn(other, incarnation, now)  # of itself, a peer learns nothing

    def _link(self) -> None:
        """Have every founder choose its neighbours, by their true distance."""
        for peer in self.peers:
            distances = {
                other: self._latency.rtt(peer.index, index)
                for index, other in enumerate(self.ids)
                if index != peer.index
            }
            peer.links.chosen = choose(distances, (), peer.rng)
        for peer in self.peers:
            for name in sorted(peer.links.chosen):
                other = self.peers[self.lines.numbers[name]]
                connection = self.lines.link(peer, other)
                peer.links.begin(other.id, connection, mutual=peer.id in other.links.chosen)
                other.links.begin(peer.id, connection, mutual=True)

    def _end(self, peer: Peer) -> None:
        peer.up = False
        if self.peers[peer.index] is peer:
            self.lines.hang_up(peer.index)
