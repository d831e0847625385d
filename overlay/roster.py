"""Which peers were in the network lately, so that one that is switched off is not forgotten.

A change of the passphrase lists the members that may come back under the old one. A machine that is
off is in nobody's view, so each daemon notes whom it sees, and keeps the notes.
"""

import json
import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Protocol

import structlog
import trio

from overlay.names import PeerId
from overlay.records import Role
from overlay.rotation import MAX_MEMBERS
from overlay.view import PeerView

REMEMBER_S = 30 * 24 * 3600.0
"""A machine that was away for longer has to be joined anew after a change of the passphrase."""

NOTE_EVERY_S = 10.0
"""How often the view is looked at, if it has changed."""

WRITE_EVERY_S = 3600.0
"""How old the times on disk may be; a peer that is new is written at once."""

log: structlog.stdlib.BoundLogger = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Seen:
    """A peer, and when it was last a member, in seconds since the epoch."""

    peer: PeerId
    host: str
    role: str
    at: float


@dataclass(slots=True)
class Roster:
    """The peers that were seen within `REMEMBER_S`. Pure."""

    _seen: dict[PeerId, Seen] = field(default_factory=dict)

    def note(self, members: Iterable[PeerView], now: float) -> bool:
        """Take in who is there; return whether somebody is new.

        Clients are left out: each of their runs is another peer.
        """
        before = len(self._seen)
        for peer in members:
            if peer.record.role is not Role.CLIENT:
                self._seen.pop(peer.peer_id, None)  # the dictionary stays in order of time
                self._seen[peer.peer_id] = Seen(
                    peer.peer_id, peer.record.host, peer.record.role.value, now
                )
        grown = len(self._seen) > before
        oldest = now - REMEMBER_S
        kept = [s for s in self._seen.values() if s.at >= oldest][-MAX_MEMBERS:]
        self._seen = {s.peer: s for s in kept}
        return grown

    def all(self) -> list[Seen]:
        """Return everybody who was seen, the latest first."""
        return list(reversed(self._seen.values()))

    def to_json(self) -> str:
        """Return the text that `from_json` reads."""
        return json.dumps([asdict(s) for s in self._seen.values()])

    @classmethod
    def from_json(cls, text: str) -> "Roster":
        """Return the roster in `text`.

        Raises:
            ValueError: it is none.
        """
        try:
            seen = [Seen(**one) for one in json.loads(text)]
            seen.sort(key=lambda s: s.at)
        except TypeError as exc:
            raise ValueError(f"no roster: {exc}") from exc
        return cls({s.peer: s for s in seen})


class _View(Protocol):
    @property
    def generation(self) -> int: ...
    def peers(self, role: Role | None = None) -> list[PeerView]: ...


class KeptRoster:
    """The roster of one daemon and its file.

    Args:
        path: where it is kept; None keeps it in memory.
        view: who is there.
    """

    def __init__(self, path: Path | None, view: _View) -> None:
        self._path = path
        self._view = view
        self._roster = _load(path)
        self._written_at = 0.0

    def all(self) -> list[Seen]:
        """Return everybody who was seen lately, those who are there now first."""
        self._roster.note(self._view.peers(), time.time())
        return self._roster.all()

    async def run(self) -> None:
        """Note now and then who is there, until cancelled, and once more at the end."""
        noted = -1
        try:
            while True:
                if noted != self._view.generation:
                    noted = self._view.generation
                    await self._note()
                await trio.sleep(NOTE_EVERY_S)
        finally:
            self._roster.note(self._view.peers(), time.time())
            _write(self._path, self._roster.to_json())

    async def _note(self) -> None:
        now = time.time()
        new = self._roster.note(self._view.peers(), now)
        if new or now - self._written_at > WRITE_EVERY_S:
            self._written_at = now
            await trio.to_thread.run_sync(_write, self._path, self._roster.to_json())


def _load(path: Path | None) -> Roster:
    if path is None or not path.exists():
        return Roster()
    try:
        return Roster.from_json(path.read_text())
    except (OSError, ValueError) as exc:
        log.warning("roster.not_loaded", path=str(path), error=str(exc))
        return Roster()


def _write(path: Path | None, text: str) -> None:
    if path is None:
        return
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        written = path.with_suffix(".new")
        written.write_text(text)
        written.replace(path)
    except OSError as exc:
        log.warning("roster.not_kept", path=str(path), error=str(exc))
