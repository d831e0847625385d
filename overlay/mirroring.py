"""A view of the network in another process: what one process learns, others of its machine mirror.

Membership, probes and gossip run in one process. `Feed` says what has changed in its view since it
was last asked; `Mirror` is a view that takes this in, and nothing else. Records travel verbatim and
are verified again; who is a member, and how far, is the first process's word.

Pure.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal, cast

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

from overlay.coordinates import RttGuess
from overlay.errors import RecordRefused
from overlay.membership import Membership, MemberState
from overlay.names import InstanceId, PeerId
from overlay.rtt import RttEstimate
from overlay.signed import Signed
from overlay.view import View

MAX_RECORDS = 4
"""In one message: a record has 16 KiB at most, a third more as text."""


class _Message(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")


class Published(_Message):
    """Signed records that are news."""

    kind: Literal["published"] = "published"
    records: tuple[Signed, ...]


class Seen(_Message):
    """What is believed of a peer: its state and how far it is, in seconds.

    Attributes:
        rtt_s: None while nothing is known.
        error_s: how far the truth may be from it.
        measured: by probes; otherwise estimated.
        latest_s: the newest measurement.
    """

    kind: Literal["seen"] = "seen"
    peer: PeerId
    state: MemberState
    rtt_s: float | None = None
    error_s: float = 0.0
    measured: bool = False
    latest_s: float | None = None


class Forgotten(_Message):
    """Nothing is held of a peer any more."""

    kind: Literal["forgotten"] = "forgotten"
    peer: PeerId


class Busy(_Message):
    """What an owner said is in flight at its instances."""

    kind: Literal["busy"] = "busy"
    owner: PeerId
    load: dict[InstanceId, int]


News = Published | Seen | Forgotten | Busy
NEWS: TypeAdapter[News] = TypeAdapter(Annotated[News, Field(discriminator="kind")])


class Feed:
    """Says what has changed in a view since it was last asked; everything at first."""

    def __init__(self, view: View) -> None:
        self._view = view
        self._sent: dict[PeerId, dict[tuple[str, str], Signed]] = {}
        self._seen: dict[PeerId, Seen] = {}
        self._loads: dict[PeerId, dict[InstanceId, int]] = {}
        self._generation = -1

    def news(self) -> Iterator[News]:
        """Yield the messages that bring a mirror up to date, in order."""
        if self._generation != self._view.generation:
            self._generation = self._view.generation
            yield from self._records()
        yield from self._members()
        yield from self._busy()

    def _records(self) -> Iterator[News]:
        known = self._view.known()
        for gone in self._sent.keys() - set(known):
            del self._sent[gone]
            self._seen.pop(gone, None)
            self._loads.pop(gone, None)
            yield Forgotten(peer=gone)
        for owner in known:
            held = {h.key: h.signed for h in self._view.records.of(owner)}
            sent = self._sent.get(owner, {})
            if sent.keys() - held.keys():  # it was forgotten in between, or much of it is void
                self._seen.pop(owner, None)
                self._loads.pop(owner, None)
                sent = {}
                yield Forgotten(peer=owner)
            fresh = [signed for key, signed in held.items() if sent.get(key) is not signed]
            # What a peer's own record makes void must not come before what replaces it.
            fresh.sort(key=lambda signed: signed is not held.get(("peer", "")))
            for begin in range(0, len(fresh), MAX_RECORDS):
                yield Published(records=tuple(fresh[begin : begin + MAX_RECORDS]))
            self._sent[owner] = held

    def _members(self) -> Iterator[News]:
        for peer in self._sent:
            seen = self._about(peer)
            if peer != self._view.me and self._seen.get(peer) != seen:
                self._seen[peer] = seen
                yield seen

    def _about(self, peer: PeerId) -> Seen:
        distance, estimate = self._view.distance(peer), self._view.membership.rtt(peer)
        return Seen(
            peer=peer,
            state=self._view.membership.state(peer),
            rtt_s=None if distance is None else distance.rtt_s,
            error_s=0.0 if distance is None else distance.error_s,
            measured=distance is not None and distance.measured,
            latest_s=None if estimate is None else estimate.latest,
        )

    def _busy(self) -> Iterator[News]:
        loads: dict[PeerId, dict[InstanceId, int]] = {}
        for instance in self._view.all_instances():
            loads.setdefault(instance.owner, {})[instance.record.id] = self._view.in_flight(
                instance
            )
        for owner, load in loads.items():
            before = self._loads.get(owner, {})
            if load != before:
                yield Busy(owner=owner, load=load)
        self._loads = loads


@dataclass(slots=True)
class _Beliefs:
    """Membership as another process has it; the part of `Membership` that a view asks."""

    seen: dict[PeerId, Seen] = field(default_factory=dict)

    @property
    def coordinates(self) -> "_Beliefs":
        return self

    def state(self, peer: PeerId) -> MemberState:
        seen = self.seen.get(peer)
        return MemberState.DEAD if seen is None else seen.state

    def rtt(self, peer: PeerId) -> RttEstimate | None:
        seen = self.seen.get(peer)
        if seen is None or not seen.measured or seen.rtt_s is None:
            return None
        latest_s = seen.rtt_s if seen.latest_s is None else seen.latest_s
        return RttEstimate(seen.rtt_s, seen.error_s, latest_s, seen.rtt_s)

    def rtt_age(self, peer: PeerId, now: float) -> float | None:
        del now
        return None if self.rtt(peer) is None else 0.0

    def estimate(self, peer: PeerId) -> RttGuess | None:
        seen = self.seen.get(peer)
        if seen is None or seen.measured or seen.rtt_s is None:
            return None
        return RttGuess(seen.rtt_s, seen.error_s)

    def forget(self, peer: PeerId) -> None:
        self.seen.pop(peer, None)


class Mirror:
    """A view that follows another process's.

    Args:
        me: the peer whose view it is.
        machine: this machine.
        clock: returns the time, in seconds.

    Attributes:
        view: to be read.
    """

    def __init__(self, me: PeerId, machine: str, clock: Callable[[], float]) -> None:
        self._beliefs = _Beliefs()
        self.view = View(me, machine, cast("Membership", cast("Any", self._beliefs)), clock)

    def take(self, news: Iterable[News], now: float) -> bool:
        """Take in what the feed says; return whether members or records have changed.

        Args:
            news: in the order in which it was said.
            now: the wall clock's time.
        """
        generation = self.view.generation
        for message in news:
            self._take(message, now)
        return generation != self.view.generation

    def _take(self, message: News, now: float) -> None:
        match message:
            case Published(records=records):
                for signed in records:
                    self._apply(signed, now)
            case Seen(peer=peer):
                before = self._beliefs.seen.get(peer)
                self._beliefs.seen[peer] = message
                known = before is not None and before.rtt_s is not None
                if before is None or before.state is not message.state or not known:
                    self.view.settle(peer)
                else:
                    self.view.measured(peer)
            case Forgotten(peer=peer):
                self.view.forget(peer)
            case Busy(owner=owner, load=load):
                self.view.set_load(owner, load)

    def _apply(self, signed: Signed, now: float) -> None:
        try:
            held = self.view.apply(signed, now)
        except RecordRefused:  # the feed's process has taken it, and judges it better
            return
        if held is not None and held.owner != self.view.me:
            self.view.settle(held.owner)
