"""`myxo ban`, `myxo unban` and `myxo bans`: what the network's admin says of who is shut out.

The command asks a daemon of this machine who is who, signs a statement with the owner key, and
hands it to that daemon, which tells everybody.
"""

import json
import time
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from myxo.keys import admin_key
from myxo.status import as_date, read_status
from overlay.bans import Ban, SignedBan
from overlay.control import ControlConnection, open_control
from overlay.errors import MyxoError, SettingsInvalid, SignatureInvalid
from overlay.identity import public_key_of
from overlay.names import PeerId

SHORTEST_END = 6
"""Of a peer id that is named by its end; `myxo status` shows eight signs."""


@dataclass(frozen=True, slots=True)
class Target:
    """A peer that a word on the command line may mean.

    Attributes:
        role: what it does; empty where that is not known.
        here: whether it is a daemon of this machine's user.
    """

    peer: PeerId
    host: str = ""
    role: str = ""
    here: bool = False

    def __str__(self) -> str:
        """Show it as a person would look for it."""
        where = f"{self.role or 'peer'} on {self.host}" if self.host else self.role or "a peer"
        return f"{self.peer} ({where})"


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a statement did.

    Attributes:
        targets: whom it was about.
        told: how many peers have it now.
        troubles: who does not, and why.
    """

    targets: Sequence[Target]
    told: int
    troubles: Sequence[str]


def find_targets(word: str, known: Iterable[Target]) -> list[Target]:
    """Return the peers that `word` means: one by its id or the end of it, or all of a host.

    Raises:
        SettingsInvalid: nobody, or more than one peer by the end of an id.
    """
    candidates = list(known)
    if exact := [t for t in candidates if t.peer == word]:
        return exact
    if named := [t for t in candidates if t.host == word]:
        return named
    end = word.removeprefix("…")
    ending = [t for t in candidates if len(end) >= SHORTEST_END and t.peer.endswith(end)]
    if len(ending) > 1:
        raise SettingsInvalid(f"{word} is the end of several peer ids; write one of them whole")
    if ending:
        return ending
    try:
        public_key_of(PeerId(word))
    except SignatureInvalid as exc:
        hosts = ", ".join(sorted({t.host for t in candidates if t.host})) or "none"
        raise SettingsInvalid(
            f"{word} is no peer id, no end of one, and no host that is known here: {hosts}"
        ) from exc
    return [Target(PeerId(word))]


async def ban(state_dir: Path, word: str, *, force: bool) -> Outcome:
    """Ban the peers that `word` means.

    Raises:
        MyxoError: this user is not the admin, or the daemon does not take it.
        SettingsInvalid: `word` means nobody, or a daemon of this machine and `force` is not set.
    """
    daemons = await read_status(state_dir)
    targets = find_targets(word, _known(daemons))
    own = [t for t in targets if t.here]
    if own and not force:
        raise SettingsInvalid(
            f"{own[0]} is a daemon of this machine, and once it is banned nothing can be said "
            "through it, not even that it is welcome again; use --force if that is meant"
        )
    return await _state(daemons, targets, lifted=False)


async def unban(state_dir: Path, word: str) -> Outcome:
    """Lift the bans that `word` means: of one peer, or of all that a host had.

    Raises:
        MyxoError: this user is not the admin, or the daemon does not take it.
        SettingsInvalid: `word` means no peer that is banned.
    """
    daemons = await read_status(state_dir)
    held = await _held(daemons)
    banned = [Target(PeerId(b["peer"]), b["host"]) for b in held["bans"]]
    targets = [t for t in find_targets(word, banned) if t in banned]
    if not targets:
        raise SettingsInvalid(f"{word} is not banned; `myxo bans` shows who is")
    return await _state(daemons, targets, lifted=True)


async def read_bans(state_dir: Path) -> list[dict[str, Any]]:
    """Return the bans in force, the oldest first: peer, host, and since when."""
    held = await _held(await read_status(state_dir))
    bans: list[dict[str, Any]] = held["bans"]
    return bans


def print_bans(bans: Sequence[dict[str, Any]], *, as_json: bool) -> None:
    """Print what `read_bans` returned."""
    console = Console()
    if as_json:
        console.print_json(json.dumps(bans))
        return
    if not bans:
        console.print("nobody is banned")
        return
    table = Table(box=None, pad_edge=False)
    for column in ("host", "since", "peer"):
        table.add_column(column, overflow="fold")
    for one in bans:
        table.add_row(one["host"], as_date(one["at"]), one["peer"])
    console.print(table)


@asynccontextmanager
async def open_desk(
    daemons: Iterable[dict[str, Any]], want: str
) -> AsyncIterator[ControlConnection]:
    """Connect to the daemon of this machine that reaches most peers, and say what is wanted."""
    best = max(daemons, key=lambda d: (d["trust"]["banned"] is None, len(d["peers"])))
    async with open_control(Path(best["control"]), want) as connection:
        yield connection


async def hear(connection: ControlConnection) -> dict[str, Any]:
    """Return the daemon's next line.

    Raises:
        MyxoError: it refuses, and why; or it ended.
    """
    line = await connection.receive()
    if line is None:
        raise MyxoError("the daemon ended while it was asked; see its log")
    said: dict[str, Any] = json.loads(line)
    if "error" in said:
        raise MyxoError(f"the daemon did not take it: {said['error']}")
    return said


def _known(daemons: Iterable[dict[str, Any]]) -> list[Target]:
    known = {
        PeerId(p["peer_id"]): Target(PeerId(p["peer_id"]), p["host"], p["role"])
        for d in daemons
        for p in d["peers"]
    }
    for d in daemons:
        peer = PeerId(d["peer_id"])
        known[peer] = Target(peer, d["host"], d["role"], here=True)
    return list(known.values())


async def _held(daemons: Iterable[dict[str, Any]]) -> dict[str, Any]:
    async with open_desk(daemons, "bans") as desk:
        return await hear(desk)


async def _state(
    daemons: Sequence[dict[str, Any]], targets: Sequence[Target], *, lifted: bool
) -> Outcome:
    async with open_desk(daemons, "bans") as desk:
        held = await hear(desk)
        key = admin_key(held["admin"])
        now = time.time()
        signed = [
            SignedBan.sign(
                key,
                Ban(
                    network=held["network"],
                    peer=target.peer,
                    version=max(int(now * 1000), held["versions"].get(target.peer, 0) + 1),
                    lifted=lifted,
                    at=now,
                    host=target.host,
                ),
            ).signed
            for target in targets
        ]
        await desk.send({"statements": [one.model_dump(mode="json") for one in signed]})
        told = (await hear(desk))["told"]
    troubles = [f"{t['host'] or t['peer']}: {t['why']}" for t in told if t["answer"] != "taken"]
    return Outcome(targets, len(told) - len(troubles) + 1, troubles)
