"""How the admin's statements get to everybody: from each peer to those that it is connected to.

Two peers that meet compare the digests of their bans and the stamps of their key rings, and send
each other what the other lacks. Who learns something new does the same at once with everybody that
it is connected to. So a statement reaches all that are there in as many steps as the network is
wide, and whoever comes later hears of it from the first peer that it meets.

    protocol             request                           reply
    /myxo/bans/1.0.0     digest, stamp, some statements    the same, with all if digests differ
    /myxo/rotate/1.0.0   a statement, the passphrase       the stamp then

The passphrase itself goes only to whom the statement lists, or who has been let in after the
commit, over a connection on which that peer has proven its key.
"""

import random
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Protocol, TypeVar

import structlog
import trio
from pydantic import BaseModel, ConfigDict, Field

from overlay.bans import MAX_BANS
from overlay.calls import CallHost, CallRefused, serve_calls
from overlay.errors import MyxoError, PeerUnreachable, ProtocolRefused, StatementRefused
from overlay.names import PeerId
from overlay.rotation import Stamp
from overlay.signed import Signed
from overlay.trust import Trust

BANS_PROTOCOL = "/myxo/bans/1.0.0"
ROTATE_PROTOCOL = "/myxo/rotate/1.0.0"

TELL_TIMEOUT_S = 10.0
"""Of one call. Taking a passphrase derives its keys, 0.1 s of a core, and writes them to disk."""

TELL_AT_ONCE = 16
"""Calls under way; the answer to one may be a whole table."""

RETRIES_S = (1.0, 5.0, 25.0)
"""Pauses before a connected peer that did not answer is told again; then the next meeting has to
do."""

JITTER_S = 0.5
"""Before a change of the passphrase is passed on: most will have heard of it from the admin's peer
by then, so that it is told once and not by everybody to everybody."""

MAX_PASSPHRASE = 1024
"""Characters."""

log: structlog.stdlib.BoundLogger = structlog.get_logger()

M = TypeVar("M", bound=BaseModel)


class _State(BaseModel):
    """What a peer holds, in short, and statements that the other one lacks.

    Attributes:
        digest: of its bans.
        stamp: of its key ring.
        bans: statements that it sends.
        refused: in a reply, why not all statements of the request were taken.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    digest: str = Field(max_length=64)
    stamp: Stamp
    bans: tuple[Signed, ...] = Field((), max_length=MAX_BANS)
    refused: str = Field("", max_length=1024)


class _Offer(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")

    statement: Signed
    passphrase: str = Field(max_length=MAX_PASSPHRASE, repr=False)


class _Taken(BaseModel):
    stamp: Stamp


class Answer(StrEnum):
    """What became of telling a peer."""

    TAKEN = "taken"
    AWAY = "away"
    REFUSED = "refused"


@dataclass(frozen=True, slots=True)
class Told:
    """What one peer said when it was told something, and why if it did not take it."""

    peer: PeerId
    answer: Answer = Answer.TAKEN
    why: str = ""


class _Calls(Protocol):
    async def call(
        self,
        peer: PeerId,
        protocol: str,
        request: BaseModel,
        reply: type[M],
        *,
        timeout_s: float,
    ) -> M: ...


class Spreading:
    """Tells and hears; `run` does it in the background.

    Args:
        me: this peer.
        trust: what is told, and takes what is heard.
        host: where calls of others come in.
        calls: makes calls.
        connected: returns the peers that there is a connection with.
    """

    def __init__(
        self,
        me: PeerId,
        trust: Trust,
        host: CallHost,
        calls: _Calls,
        connected: Callable[[], Iterable[PeerId]],
    ) -> None:
        self._me = me
        self._trust = trust
        self._host = host
        self._calls = calls
        self._connected = connected
        self._limit = trio.CapacityLimiter(TELL_AT_ONCE)
        self._nursery: trio.Nursery | None = None
        self._complained = False

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Serve, and meet whoever gets connected, until cancelled."""
        try:
            async with trio.open_nursery() as nursery:
                self._nursery = nursery
                serve_calls(self._host, BANS_PROTOCOL, _State, self._hear)
                serve_calls(self._host, ROTATE_PROTOCOL, _Offer, self._hear_offer)
                self._trust.meeting = self._meet
                for peer in self._connected():
                    self._meet(peer)
                nursery.start_soon(self._trust.run)
                task_status.started()
        finally:
            self._nursery = None

    async def tell_bans(self, statements: Sequence[Signed]) -> list[Told]:
        """Tell every connected peer of bans that are held here; return what became of each."""
        return await self._tell_each(self._connected(), lambda p: self._push(p, statements))

    async def tell_rotation(
        self, peers: Iterable[PeerId], done: Callable[[Told], Awaitable[None]]
    ) -> None:
        """Tell `peers` of the last change of the passphrase; `done` gets each when it answered."""
        await self._tell_each(peers, self._offer, done)

    def spread(self, source: PeerId | None, *, bans: Sequence[Signed] = ()) -> None:
        """Tell every connected peer but `source` of what is new here, in the background."""
        for peer in self._connected():
            if peer != source and bans:
                self._start(self._keep_telling, peer, lambda p: self._push(p, bans))
            elif peer != source:
                self._start(self._pass_on_rotation, peer)

    def _meet(self, peer: PeerId) -> None:
        if self._me < peer:  # one of the two begins
            self._start(self._keep_telling, peer, self._compare)

    def _start(self, task: Callable[..., Awaitable[None]], *args: Any) -> None:
        if self._nursery is not None:
            self._nursery.start_soon(task, *args)

    async def _tell_each(
        self,
        peers: Iterable[PeerId],
        tell: Callable[[PeerId], Awaitable[None]],
        done: Callable[[Told], Awaitable[None]] | None = None,
    ) -> list[Told]:
        results: list[Told] = []

        async def one(peer: PeerId) -> None:
            try:
                async with self._limit:
                    await tell(peer)
                told = Told(peer)
            except PeerUnreachable as exc:
                told = Told(peer, Answer.AWAY, str(exc))
            except MyxoError as exc:
                told = Told(peer, Answer.REFUSED, str(exc))
            results.append(told)
            if done is not None:
                await done(told)

        async with trio.open_nursery() as nursery:
            for peer in peers:
                nursery.start_soon(one, peer)
        return results

    async def _keep_telling(self, peer: PeerId, tell: Callable[[PeerId], Awaitable[None]]) -> None:
        for pause_s in (*RETRIES_S, None):
            try:
                async with self._limit:
                    await tell(peer)
            except (PeerUnreachable, ProtocolRefused) as exc:  # it may just be starting
                log.debug("statements.not_told", peer=peer, error=str(exc))
            except MyxoError as exc:
                log.debug("statements.not_taken", peer=peer, error=str(exc))
                return
            else:
                return
            if pause_s is None or peer not in self._connected():
                return
            await trio.sleep(pause_s)

    # what this peer says

    async def _compare(self, peer: PeerId) -> None:
        """Bring this peer and another one to the same table of bans and the newest passphrase."""
        theirs = await self._exchange(peer, ())
        lacking = self._trust.bans.lacking(theirs.bans)
        if theirs.digest != self._trust.bans.digest and lacking:
            theirs = await self._exchange(peer, lacking)
        if theirs.stamp < self._trust.ring.stamp and self._trust.entitled(peer):
            await self._offer(peer)

    async def _push(self, peer: PeerId, bans: Sequence[Signed]) -> None:
        """Tell of new bans; raises `StatementRefused` if the other one does not take them."""
        theirs = await self._exchange(peer, bans)
        if theirs.refused:
            raise StatementRefused(theirs.refused)

    async def _exchange(self, peer: PeerId, bans: Iterable[Signed]) -> _State:
        theirs = await self._calls.call(
            peer, BANS_PROTOCOL, self._state(bans), _State, timeout_s=TELL_TIMEOUT_S
        )
        self._take_bans(peer, theirs.bans)
        self._note(peer, theirs, everything=True)
        return theirs

    async def _offer(self, peer: PeerId) -> None:
        rotation, ring = self._trust.rotation, self._trust.ring
        if rotation is None or not self._trust.entitled(peer):
            raise StatementRefused("it is banned, or was no member when the change began")
        text = (ring.next or ring.current).text
        offer = _Offer(statement=rotation.signed, passphrase=text)
        taken = await self._calls.call(
            peer, ROTATE_PROTOCOL, offer, _Taken, timeout_s=TELL_TIMEOUT_S
        )
        if taken.stamp == self._trust.ring.stamp:
            self._trust.follows(peer)

    async def _pass_on_rotation(self, peer: PeerId) -> None:
        await trio.sleep(random.uniform(0, JITTER_S))  # noqa: S311  (spreads load, hides nothing)
        await self._keep_telling(peer, self._compare)

    def _state(self, bans: Iterable[Signed], refused: str = "") -> _State:
        return _State(
            digest=self._trust.bans.digest,
            stamp=self._trust.ring.stamp,
            bans=tuple(bans),
            refused=refused,
        )

    # what others say

    async def _hear(self, peer: PeerId, theirs: _State) -> _State:
        refused = self._take_bans(peer, theirs.bans)
        self._note(peer, theirs)
        if theirs.stamp < self._trust.ring.stamp and self._trust.entitled(peer):
            self._start(self._keep_telling, peer, self._offer)
        same = theirs.digest == self._trust.bans.digest
        return self._state(() if same else self._trust.bans.lacking(theirs.bans), refused)

    async def _hear_offer(self, peer: PeerId, offer: _Offer) -> _Taken:
        try:
            news = await self._trust.take_rotation(offer.statement, offer.passphrase)
        except StatementRefused as exc:
            say = log.debug if self._complained else log.warning
            self._complained = True  # once will do: everybody will bring it again
            say("passphrase.refused", source=peer, error=str(exc))
            raise CallRefused("refused", str(exc)) from exc
        if news:
            self.spread(peer)
            # bans that seemed to be another network's may have been this one's
            self._start(self._keep_telling, peer, self._compare)
        return _Taken(stamp=self._trust.ring.stamp)

    def _take_bans(self, peer: PeerId, statements: Sequence[Signed]) -> str:
        """Take in bans and pass them on; return why not all were taken."""
        news, refused = self._trust.take_bans(statements)
        if news:
            self.spread(peer, bans=[one.signed for one in news])
        if refused is not None:
            log.debug("ban.refused", source=peer, error=str(refused))
        return "" if refused is None else str(refused)

    def _note(self, peer: PeerId, theirs: _State, *, everything: bool = False) -> None:
        """Take in how a peer stands.

        Args:
            peer: who said so.
            theirs: what it said.
            everything: whether it sent all bans that it holds and this peer lacked.
        """
        mine = self._trust.ring.stamp
        if theirs.stamp == mine:
            self._trust.follows(peer)
        same = everything or theirs.digest == self._trust.bans.digest
        if same and theirs.stamp <= mine:
            self._trust.introduced.set()
