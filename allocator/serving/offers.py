"""Offers: what a start would meet here, so that callers with one old view do not all come.

A caller whose best machines are about as good asks them first, and decides when they have answered.
Two that ask in one moment must not be offered the same room, so what was offered is set aside for a
second, or until that caller comes: from other *offers* only. A start is admitted by what is really
there, so an offer that is never taken, or a peer that asks for a thousand, keeps nobody out.

Pure: room and time in, offers out.
"""

from dataclasses import dataclass, field

from overlay.allocation import OfferRequest
from overlay.names import PeerId, ServiceName
from overlay.records import Room

HOLD_S = 1.0
"""From the question to the start: two ways across the longest links and the caller's patience."""

MAX_HELD = 64
"""Offers that are set aside; of more the oldest is offered again."""

MAX_HELD_OF_A_PEER = 8
"""A proxy asks for each of its starts at once; past it its own oldest gives way."""

_Key = tuple[PeerId, ServiceName, int]


@dataclass(frozen=True, slots=True)
class _Held:
    cpu_millicores: int
    memory_mib: int
    until: float


@dataclass(slots=True)
class Held:
    """What was offered and not taken up yet."""

    _held: dict[_Key, _Held] = field(default_factory=dict)

    def offer(
        self, peer: PeerId, request: OfferRequest, room: Room, now: float
    ) -> tuple[Room, int]:
        """Return what `peer` is offered, and how many offers are before it; set it aside."""
        self._expire(now)
        key = peer, request.service, request.revision
        self._held.pop(key, None)
        offered, before = self._less(room), len(self._held)
        mine = [k for k in self._held if k[0] == peer]
        if len(mine) >= MAX_HELD_OF_A_PEER:
            del self._held[mine[0]]
        elif before >= MAX_HELD:
            del self._held[next(iter(self._held))]
        self._held[key] = _Held(request.cpu_millicores, request.memory_mib, now + HOLD_S)
        return offered, before

    def taken(self, peer: PeerId, service: ServiceName, revision: int) -> None:
        """Take in that `peer` came for the start that it asked about."""
        self._held.pop((peer, service, revision), None)

    def _expire(self, now: float) -> None:
        for key in [k for k, held in self._held.items() if held.until <= now]:
            del self._held[key]

    def _less(self, room: Room) -> Room:
        held = self._held.values()
        return room.less(
            cpu_millicores=sum(h.cpu_millicores for h in held),
            memory_mib=sum(h.memory_mib for h in held),
            instances=len(held),
        )
