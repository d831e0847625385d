"""Where the admin's commands come in: `myxo ban`, `bans`, `unban` and `psk rotate`.

They speak over a daemon's control socket, which only this machine's user can open. The daemon tells
what it knows, the command signs with the admin's owner key, which no daemon has, and the daemon
takes the statement as it would from any peer and tells everybody.

    want    daemon                  command               daemon
    bans    what it holds           signed statements     who took them
    rotate  ring and members        statement, text       who took it, peer by peer, and `done`
"""

from collections.abc import Callable, Iterable
from typing import Any

from pydantic import BaseModel, Field, ValidationError

from overlay.bans import MAX_BANS
from overlay.control import ControlConnection
from overlay.errors import StatementRefused
from overlay.names import PeerId
from overlay.roster import Seen
from overlay.signed import Signed
from overlay.spreading import MAX_PASSPHRASE, Answer, Spreading, Told
from overlay.trust import Trust
from overlay.view import View

MAX_WORDS = 300
"""Characters of what a peer says for itself."""

MEMBERS_A_LINE = 1000
"""Some 120 bytes each; a line may have a MiB."""


class Statements(BaseModel):
    """What `myxo ban` sends."""

    statements: tuple[Signed, ...] = Field(max_length=MAX_BANS)


class Step(BaseModel):
    """What `myxo psk rotate` sends, once for each stage."""

    statement: Signed
    passphrase: str = Field(max_length=MAX_PASSPHRASE, repr=False)


class TrustDesk:
    """Serves the commands of one daemon's user.

    Args:
        me: this peer.
        trust: what holds here.
        spreading: tells others.
        view: who is there.
        seen: returns who was there lately.
    """

    def __init__(
        self,
        me: PeerId,
        trust: Trust,
        spreading: Spreading,
        view: View,
        seen: Callable[[], Iterable[Seen]],
    ) -> None:
        self._me = me
        self._trust = trust
        self._spreading = spreading
        self._view = view
        self._seen = seen

    async def serve_bans(self, connection: ControlConnection) -> None:
        """Tell which bans are held, then take statements until the other end closes."""
        await connection.send(self._bans())
        while (line := await connection.receive()) is not None:
            try:
                given = Statements.model_validate_json(line).statements
            except ValidationError as exc:
                await connection.send({"error": f"it cannot be read: {exc.errors()[0]['msg']}"})
                continue
            _, refused = self._trust.take_bans(given)
            if refused is not None:
                await connection.send({"error": str(refused)})
                continue
            told = await self._spreading.tell_bans(given)
            await connection.send({"told": [self._about(one) for one in told]})

    async def serve_rotate(self, connection: ControlConnection) -> None:
        """Tell how things are, then take the steps of a change until the other end closes."""
        await connection.send(*self._ring())
        while (line := await connection.receive()) is not None:
            try:
                step = Step.model_validate_json(line)
                await self._trust.take_rotation(step.statement, step.passphrase)
            except ValidationError as exc:
                await connection.send({"error": f"it cannot be read: {exc.errors()[0]['msg']}"})
            except StatementRefused as exc:
                await connection.send({"error": str(exc)})
            else:
                await self._tell_members(connection)

    async def _tell_members(self, connection: ControlConnection) -> None:
        rotation = self._trust.rotation
        members = () if rotation is None else rotation.rotation.members
        there = {p.peer_id for p in self._view.peers()}

        async def report(told: Told) -> None:
            await connection.send(self._about(told))

        for peer in members:
            if peer not in there and peer != self._me:
                await report(Told(peer, Answer.AWAY, "it is not there"))
        await self._spreading.tell_rotation([p for p in members if p in there], report)
        self._spreading.spread(None)
        await connection.send({"done": True})

    def _bans(self) -> dict[str, Any]:
        return {
            "me": self._me,
            "network": self._trust.bans.network,
            "admin": self._trust.admin,
            "versions": {held.ban.peer: held.ban.version for held in self._trust.bans},
            "bans": [
                {"peer": b.ban.peer, "host": b.ban.host, "at": b.ban.at}
                for b in self._trust.bans.in_force()
            ],
        }

    def _ring(self) -> Iterable[dict[str, Any]]:
        """Yield what a change starts from: the ring, the last statement, and who is a member."""
        ring, rotation = self._trust.ring, self._trust.rotation
        yield {
            "me": self._me,
            "network": ring.network,
            "admin": self._trust.admin,
            "open": self._trust.keys.is_open,
            "version": ring.stamp[0],
            "stage": ring.stage.value,
            "current": ring.current.id,
            "earlier": list(ring.earlier),
            "passphrase": ring.current.text,
            "next": None if ring.next is None else ring.next.text,
        }
        yield {"rotation": None if rotation is None else rotation.rotation.model_dump(mode="json")}
        members = list(self._members())
        for start in range(0, len(members), MEMBERS_A_LINE):
            yield {"members": members[start : start + MEMBERS_A_LINE]}
        yield {"ready": True}

    def _members(self) -> Iterable[dict[str, Any]]:
        """Yield who may be told a new passphrase: who is there, and who was there lately."""
        there = {p.peer_id: p for p in self._view.peers() if p.peer_id != self._me}
        for peer, found in there.items():
            if not self._trust.bans.is_banned(peer):
                record = found.record
                yield {"peer": peer, "host": record.host, "role": record.role.value, "away": False}
        for one in self._seen():
            known = one.peer in there or one.peer == self._me
            if not known and not self._trust.bans.is_banned(one.peer):
                yield {"peer": one.peer, "host": one.host, "role": one.role, "away": True}

    def _about(self, told: Told) -> dict[str, Any]:
        record = self._view.peer(told.peer)
        return {
            "peer": told.peer,
            "host": "" if record is None else record.host,
            "role": "" if record is None else record.role.value,
            "answer": told.answer.value,
            "why": _plain(told.why),
        }


def _plain(text: str) -> str:
    """Return a peer's words for a person: nothing in them may steer the terminal."""
    return "".join(sign if sign.isprintable() else "?" for sign in text)[:MAX_WORDS]
