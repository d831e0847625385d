"""Whom this peer trusts: the bans and passphrases that the network's admin states, in force here.

`Trust` is the gate of the host, and takes what the admin's key has signed, from whoever passes it
on. What it takes holds at once, outlives a restart, and is told to others by `spreading.py`.
"""

import hmac
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import structlog
import trio
from pydantic import ValidationError

from overlay.bans import MAX_BANS, Bans, SignedBan
from overlay.errors import SettingsInvalid, StatementRefused
from overlay.gate import Psk, Reason, Refusal
from overlay.names import PeerId
from overlay.passphrase import NetworkKeys, network_keys
from overlay.passphrases import find_ring, keep_ring, restate
from overlay.records import PeerRecord
from overlay.rotation import (
    MAX_MEMBERS,
    KeyRing,
    Passphrase,
    Rotation,
    SignedRotation,
    Stage,
)
from overlay.signed import Signed

MOST_SLEEP_S = 3600.0
"""A clock that is set while this peer sleeps is noticed in this time."""

_PROOF_BYTES = 16
"""Of a MAC that is to be forged in one try: 2^-128."""

log: structlog.stdlib.BoundLogger = structlog.get_logger()


class Trust:
    """The gate of one peer, and what it is decided by; made by `open_trust`.

    Attributes:
        bans: who is shut out.
        ring: the passphrases.
        rotation: the last change that was taken, None if there was none.
        keys: what the passphrase in force gives, with the network's id.
        admin: the only key whose statements are taken.
        banned: called with each peer that is shut out from now on.
        changed: called whenever the gate may decide otherwise than before.
        meeting: called with each peer that there is a connection with.
        introduced: set when another peer's statements have been heard once.
    """

    def __init__(
        self,
        me: PeerId,
        admin: PeerId | None,
        ring: KeyRing,
        state_dir: Path,
        *,
        durable: bool,
    ) -> None:
        self.admin = admin
        self.ring = ring
        self.rotation = _rotation_of(ring)
        self.bans = Bans(ring.network)
        self.banned: Callable[[PeerId], None] = _nothing
        self.changed: Callable[[], None] = _nothing
        self.meeting: Callable[[PeerId], None] = _nothing
        self.introduced = trio.Event()
        self._me = me
        self._state_dir = state_dir
        self._directory = state_dir if durable else None
        self._by_id = {p.id: network_keys(p.text) for p in ring.held()}
        self.keys = self._keys_in_force()
        self._followed: OrderedDict[PeerId, str] = OrderedDict()
        self._said_banned_by: PeerId | None = None
        self._told: set[Reason] = set()
        self._taking = trio.Lock()
        self._unkept = trio.Event()
        self._turned = trio.Event()
        self._outdated = trio.Event()
        self._load_bans()

    # the gate

    def keys_to_dial(self, peer: PeerId | None) -> list[Psk]:
        """Return the keys to dial under, the likeliest first."""
        return [self._by_id[one].psk for one in self.ring.dialled(peer)]

    def keys_to_accept(self) -> list[Psk]:
        """Return the keys that a caller may use, the likeliest first."""
        return [self._by_id[one].psk for one in self.ring.accepted()]

    def refusal(self, peer: PeerId, psk: Psk) -> Refusal | None:
        """Return why `peer` is turned away: banned, or no member with an old passphrase."""
        if peer == self._me:
            return None
        ban = self.bans.of(peer)
        if ban is not None:
            return Refusal(reason=Reason.BANNED, statement=ban.signed)
        used = next((i for i, keys in self._by_id.items() if keys.psk == psk), "")
        known = {used, self._followed.get(peer, "")}
        if any(self.ring.accepts(peer, one, time.time()) for one in known):
            return None
        return Refusal(reason=Reason.PASSPHRASE)

    def proof(self) -> str:
        """Return what shows others, in this peer's record, that it knows the passphrase in force.

        A connection shows it too, but in a large network few are connected: so a peer that no
        longer knows the passphrase would stay in everybody's view for as long as it answers.
        """
        return "" if self.keys.is_open else _proof(self.keys, self._me)

    def admits(self, peer: PeerId, record: PeerRecord) -> bool:
        """Whether a record shows that its owner knows a passphrase that is of use to it.

        A passphrase that this peer does not know yet may be a newer one: that is believed until
        another peer has been heard on it.
        """
        if self.keys.is_open or peer == self._me:
            return True
        named, _, _ = record.proof.partition(":")
        keys = self._by_id.get(named)
        if keys is None:
            return not self.introduced.is_set()
        shown = hmac.compare_digest(record.proof.encode(), _proof(keys, peer).encode())
        return shown and self.ring.accepts(peer, named, time.time())

    def turned_away(self, peer: PeerId, refusal: Refusal) -> None:
        """Take in that `peer` turned this one away, and say so in the log once.

        Another daemon of this machine may know the new passphrase: a client, which is no member,
        learns it only so.
        """
        if refusal.statement is not None:
            self.take_bans([refusal.statement])
        if self.bans.is_banned(self._me):
            return  # and has been said
        if refusal.reason is Reason.BANNED:
            self._said_banned_by = peer
        if refusal.reason is Reason.PASSPHRASE:
            self._outdated.set()
        if refusal.reason not in self._told:
            self._told.add(refusal.reason)
            log.error("node.turned_away", by=peer, reason=refusal.reason.value)

    def met(self, peer: PeerId) -> None:
        """Have the statements of both compared."""
        self._said_banned_by = None
        self.meeting(peer)

    # what the admin says

    def take_bans(
        self, statements: Iterable[Signed]
    ) -> tuple[list[SignedBan], StatementRefused | None]:
        """Take in bans and lifted bans, which hold at once.

        Returns:
            Those that are news, and why no more were taken: one was not the admin's, was about
            another network, or one too many.
        """
        news: list[SignedBan] = []
        refused: StatementRefused | None = None
        try:
            for signed in statements:
                if not self.bans.holds(signed):
                    offered = SignedBan.verified(signed, self.admin)
                    if self.bans.take(offered):
                        news.append(offered)
        except StatementRefused as exc:
            refused = exc
        if news:
            self._enforce(news)
        return news, refused

    async def take_rotation(self, signed: Signed, text: str) -> bool:
        """Take in one step of a change of the passphrase; return whether it was news.

        It is stored, and holds, when this returns.

        Raises:
            StatementRefused: it is not the admin's, is about another network, does not go with the
                passphrase, or cannot be stored.
        """
        async with self._taking:
            offered = SignedRotation.verified(signed, self.admin)
            if not self.ring.check(offered):
                return False
            keys = await trio.to_thread.run_sync(network_keys, text)
            if keys.network_id != offered.rotation.passphrase_id or keys.is_open:
                raise StatementRefused("the passphrase is not the one that the statement is about")
            ring = self.ring.take(offered, text, time.time())
            await self._keep(ring)
            self._by_id[keys.passphrase_id] = keys
            await self._adopt(ring)
        return True

    def follows(self, peer: PeerId) -> None:
        """Take in that a connected peer says that it holds the passphrase in force.

        Its connection may then outlive the passphrase under which it was made. There is nothing to
        gain from lying: who is still let in may be told the passphrase.
        """
        if self.ring.stage is Stage.COMMIT and self.ring.previous:
            self._followed[peer] = self.ring.current.id
            self._followed.move_to_end(peer)
            if len(self._followed) > MAX_MEMBERS:
                self._followed.popitem(last=False)

    def entitled(self, peer: PeerId) -> bool:
        """Whether a connected peer may be told the newest passphrase.

        After the commit that is whoever is still let in: others are cut by then.
        """
        if self.rotation is None or self.bans.is_banned(peer):
            return False
        return self.ring.stage is Stage.COMMIT or peer in self.rotation.rotation.members

    async def run(self) -> None:
        """Keep bans on disk and forget old passphrases in time, until cancelled."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._keep_bans)
            nursery.start_soon(self._forget_old_passphrases)
            nursery.start_soon(self._look_for_newer_ring)

    def trusted_authorities(self) -> list[NetworkKeys]:
        """Return the keys whose TLS authority somebody may still, or already, come under."""
        return [self._by_id[one] for one in self.ring.accepted() if one != self.ring.current.id]

    def announcement_keys(self) -> list[bytes]:
        """Return the keys that announcements may be sealed under, the one in force first."""
        if self.keys.is_open:
            return []
        return [k.announcement_key for k in (self.keys, *self.trusted_authorities())]

    def status(self) -> dict[str, Any]:
        """Return what `myxo status` shows of it, as JSON-ready values."""
        ban = self.bans.of(self._me)
        banned = None
        if ban is not None:
            banned = {"by": ban.signed.signer, "at": ban.ban.at}
        elif self._said_banned_by is not None:
            banned = {"by": None, "at": None, "said_by": self._said_banned_by}
        return {
            "admin": self.admin,
            "banned": banned,
            "bans": len(self.bans.in_force()),
            "passphrase": {
                "version": self.ring.stamp[0],
                "stage": self.ring.stage.value,
                "old_until": [p.until for p in self.ring.previous],
            },
        }

    def _enforce(self, news: Iterable[SignedBan]) -> None:
        for one in news:
            ban = one.ban
            say = log.warning if ban.peer != self._me else log.error
            event = "unbanned" if ban.lifted else "banned"
            say(f"{'node' if ban.peer == self._me else 'peer'}.{event}", peer=ban.peer, at=ban.at)
            self._followed.pop(ban.peer, None)
            if ban.peer != self._me and not ban.lifted:
                self.banned(ban.peer)
        self.changed()
        self._unkept.set()

    async def _adopt(self, ring: KeyRing) -> None:
        """Let a ring hold that is stored already."""
        old = self.ring
        held = {p.id for p in ring.held()}
        self.ring = ring
        self._by_id = {one: keys for one, keys in self._by_id.items() if one in held}
        self.keys = self._keys_in_force()
        if ring.stamp != old.stamp:
            self.rotation = _rotation_of(ring)
            log.warning("passphrase.changing", stage=ring.stage.value, version=ring.stamp[0])
        if ring.network != old.network:
            self.bans.move(ring.network)
            self._load_bans()
        self.changed()
        self._turned.set()
        if self._directory is not None and ring.current != old.current:
            await trio.to_thread.run_sync(
                restate, self._directory, old.current.text, ring.current.text
            )

    async def _keep(self, ring: KeyRing) -> None:
        if self._directory is None:
            return
        try:
            await trio.to_thread.run_sync(keep_ring, self._directory, ring)
        except OSError as exc:
            raise StatementRefused(f"the new passphrase cannot be stored: {exc}") from exc

    async def _forget_old_passphrases(self) -> None:
        while True:
            self._turned = trio.Event()
            due_s = self.ring.next_expiry() - time.time()
            with trio.move_on_after(max(0.0, min(due_s, MOST_SLEEP_S))):
                await self._turned.wait()
            async with self._taking:
                ring = self.ring.expired(time.time())
                if ring != self.ring:
                    log.warning("passphrase.old_is_over", version=ring.stamp[0])
                    try:
                        await self._keep(ring)
                    except StatementRefused as exc:
                        log.warning("passphrase.not_kept", error=str(exc))
                    await self._adopt(ring)

    async def _look_for_newer_ring(self) -> None:
        """When this peer's passphrase is refused, take what the machine's other daemons took."""
        while True:
            await self._outdated.wait()
            self._outdated = trio.Event()
            async with self._taking:
                try:
                    ring = await trio.to_thread.run_sync(
                        find_ring, self._state_dir, self.ring.current
                    )
                except SettingsInvalid as exc:
                    log.warning("passphrase.ring_unreadable", error=str(exc))
                    continue
                if ring.stamp > self.ring.stamp:
                    for one in ring.held():
                        if one.id not in self._by_id:
                            keys = await trio.to_thread.run_sync(network_keys, one.text)
                            self._by_id[one.id] = keys
                    await self._adopt(ring)

    def _keys_in_force(self) -> NetworkKeys:
        return replace(self._by_id[self.ring.current.id], network_id=self.ring.network)

    # the bans' file

    def _bans_path(self) -> Path | None:
        if self._directory is None:
            return None
        return self._directory / "bans" / f"{self.bans.network}-{self._me}.jsonl"

    def _load_bans(self) -> None:
        path = self._bans_path()
        if path is None or not path.exists():
            return
        try:
            for line in path.read_bytes().splitlines()[:MAX_BANS]:
                self.bans.take(SignedBan.verified(Signed.model_validate_json(line), self.admin))
        except (OSError, ValidationError, StatementRefused) as exc:
            log.warning("bans.not_loaded", path=str(path), error=str(exc))

    async def _keep_bans(self) -> None:
        try:
            while True:
                await self._unkept.wait()
                await self._write_bans()
        finally:
            if self._unkept.is_set():
                await self._write_bans()

    async def _write_bans(self) -> None:
        self._unkept = trio.Event()
        path = self._bans_path()
        if path is not None:
            lines = [held.signed.model_dump_json().encode() for held in self.bans]
            with trio.CancelScope(shield=True):
                await trio.to_thread.run_sync(_write_lines, path, lines)


def open_trust(
    me: PeerId, admin: PeerId | None, passphrase: str | None, directory: Path, *, durable: bool
) -> Trust:
    """Return the trust of a peer whose settings name `passphrase`, as far as that is in force.

    Args:
        me: this peer.
        admin: the network founder's owner key, if it is known.
        passphrase: of the settings; a later one that is stored in `directory` takes its place.
        directory: the state directory.
        durable: whether what is taken is stored there; else it is forgotten with the process.

    Raises:
        SettingsInvalid: what is stored cannot be read.
    """
    text = passphrase or ""
    given = Passphrase(text=text, id=network_keys(text).network_id)
    ring = find_ring(directory, given).expired(time.time())
    if ring.current.text != text:
        log.info("passphrase.newer_than_settings", version=ring.stamp[0])
        if durable:
            restate(directory, text, ring.current.text)
    return Trust(me, admin, ring, directory, durable=durable)


def _rotation_of(ring: KeyRing) -> SignedRotation | None:
    """Return the statement in the ring, which was verified when it was taken."""
    if ring.statement is None:
        return None
    return SignedRotation(Rotation.model_validate_json(ring.statement.payload), ring.statement)


def _proof(keys: NetworkKeys, peer: PeerId) -> str:
    """Return the passphrase's id and a MAC of the peer id, which nobody else can use."""
    mac = hmac.digest(keys.member_key, b"myxo/member/1\n" + peer.encode(), "sha256")
    return f"{keys.passphrase_id}:{mac[:_PROOF_BYTES].hex()}"


def _write_lines(path: Path, lines: list[bytes]) -> None:
    written = path.with_suffix(".new")
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        written.write_bytes(b"".join(line + b"\n" for line in lines))
        written.replace(path)
    except OSError as exc:
        log.warning("bans.not_kept", path=str(path), error=str(exc))


def _nothing(*_: object) -> None:
    """Be replaced by the node."""
