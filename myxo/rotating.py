"""`myxo psk rotate`: give the network another passphrase while it goes on working.

The command signs two statements with the admin's owner key, prepare and commit, and hands them to a
daemon of this machine, which tells every member. Wherever it is interrupted it can be run again: it
takes up the change that the daemon knows to be under way.
"""

import time
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from myxo.banning import hear, open_desk
from myxo.keys import admin_key
from myxo.status import as_date, read_status
from overlay.control import ControlConnection
from overlay.errors import MyxoError, SettingsInvalid
from overlay.identity import Identity
from overlay.passphrase import generate_passphrase, network_keys
from overlay.rotation import MAX_GRACE_S, MAX_MEMBERS, Rotation, SignedRotation, Stage
from overlay.spreading import MAX_PASSPHRASE

Report = Callable[[str], None]
"""Takes one line for the person."""


@dataclass(frozen=True, slots=True)
class Wish:
    """What the person asks for.

    Attributes:
        passphrase: the new one; None has one made.
        grace_s: how long members may still come under the old one.
        resume: finish the last change, and begin none.
        force: leave behind the peers that refuse.
    """

    passphrase: str | None
    grace_s: float
    resume: bool
    force: bool

    def check(self) -> None:
        """Refuse what cannot be meant.

        Raises:
            SettingsInvalid: saying what.
        """
        text = self.passphrase
        if text is not None and not (0 < len(text) <= MAX_PASSPHRASE and text.isprintable()):
            raise SettingsInvalid(
                f"a passphrase has 1 to {MAX_PASSPHRASE} characters that can be printed"
            )
        if not 0 <= self.grace_s <= MAX_GRACE_S:
            raise SettingsInvalid(f"--grace is 0 to {MAX_GRACE_S / 3600:.0f} hours")


@dataclass(slots=True)
class _Network:
    """What the daemon says before anything is done."""

    ring: dict[str, Any]
    rotation: dict[str, Any] | None = None
    members: list[dict[str, Any]] = field(default_factory=list)


async def rotate(state_dir: Path, wish: Wish, report: Report) -> str:
    """Change the passphrase, or finish a change that was begun; return the one in force then.

    Raises:
        SettingsInvalid: the wish cannot be granted; nothing was done.
        MyxoError: this user is not the admin; or peers refuse, and nothing is in force yet.
    """
    wish.check()
    async with open_desk(await read_status(state_dir), "rotate") as desk:
        network = await _hear_network(desk)
        if network.ring["open"]:
            raise SettingsInvalid(
                "the network is open and has no passphrase to change; `myxo up` founds one that has"
            )
        key = admin_key(network.ring["admin"])
        return await _Change(desk, key, network, report).run(wish)


class _Change:
    """One change, over the connection to one daemon."""

    def __init__(
        self, desk: ControlConnection, key: Identity, network: _Network, report: Report
    ) -> None:
        self._desk = desk
        self._key = key
        self._ring = network.ring
        self._last = network.rotation
        self._people = {m["peer"]: m for m in network.members}
        self._report = report

    async def run(self, wish: Wish) -> str:
        passphrase, rotation = self._begun(wish) or self._begin(wish)
        if rotation.stage is Stage.PREPARE:
            refused = await self._tell(rotation, passphrase, "prepared")
            if refused and not wish.force:
                raise MyxoError(
                    f"{len(refused)} peers would be left behind, so nothing is changed yet: both "
                    "passphrases are accepted. See to them and run this again, or use --force"
                )
            rotation = rotation.model_copy(update={"stage": Stage.COMMIT, "at": time.time()})
        await self._tell(rotation, passphrase, "changed")
        return passphrase

    def _begun(self, wish: Wish) -> tuple[str, Rotation] | None:
        """Return the change that is to be taken up, if there is one."""
        unfinished = self._ring["stage"] == Stage.PREPARE
        if not unfinished and not wish.resume:
            return None
        if self._last is None:
            raise SettingsInvalid("there is nothing to resume: the passphrase was never changed")
        passphrase: str = self._ring["next"] if unfinished else self._ring["passphrase"]
        if wish.passphrase not in {None, passphrase}:
            raise SettingsInvalid(
                "a change to another passphrase was begun and is not finished; run `myxo psk "
                "rotate --resume` first"
            )
        self._report("going on with a change that was begun before")
        rotation = Rotation.model_validate(self._last)
        return passphrase, rotation

    def _begin(self, wish: Wish) -> tuple[str, Rotation]:
        passphrase = wish.passphrase or generate_passphrase()
        new_id = network_keys(passphrase).network_id
        if new_id == self._ring["current"]:
            raise SettingsInvalid("that is the passphrase that is in force")
        if new_id in self._ring["earlier"]:
            raise SettingsInvalid("the network had that passphrase before; take another one")
        now = time.time()
        members = [self._ring["me"], *self._people][:MAX_MEMBERS]
        return passphrase, Rotation(
            network=self._ring["network"],
            version=max(int(now * 1000), self._ring["version"] + 1),
            stage=Stage.PREPARE,
            replaces=self._ring["current"],
            passphrase_id=new_id,
            members=tuple(members),
            at=now,
            grace_s=wish.grace_s,
        )

    async def _tell(self, rotation: Rotation, passphrase: str, done: str) -> list[str]:
        """Have every member told one statement; return those that refuse it."""
        signed = SignedRotation.sign(self._key, rotation).signed
        await self._desk.send(
            {"statement": signed.model_dump(mode="json"), "passphrase": passphrase}
        )
        answers = [answer async for answer in self._answers()]
        taken = [a for a in answers if a["answer"] == "taken"]
        refused = [a for a in answers if a["answer"] == "refused"]
        self._report(f"{done}: {len(taken) + 1} of {len(answers) + 1} peers")
        until = as_date(rotation.at + rotation.grace_s)
        for one in answers:
            if one["answer"] == "away":
                self._report(f"  away     {self._name(one)}: may come back until {until}")
            elif one["answer"] == "refused":
                self._report(f"  refuses  {self._name(one)}: {one['why']}")
        return [one["peer"] for one in refused]

    async def _answers(self) -> AsyncIterator[dict[str, Any]]:
        while "done" not in (said := await hear(self._desk)):
            yield said

    def _name(self, answer: Mapping[str, Any]) -> str:
        known = self._people.get(answer["peer"], answer)
        host, role = known.get("host", ""), known.get("role", "")
        return f"{role or 'peer'} on {host or '?'} (…{answer['peer'][-8:]})"


async def _hear_network(desk: ControlConnection) -> _Network:
    network = _Network(await hear(desk))
    while "ready" not in (said := await hear(desk)):
        network.rotation = said.get("rotation", network.rotation)
        network.members += said.get("members", [])
    return network
