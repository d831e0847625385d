"""The daemon as a worker sees it: makes the worker's calls, and counts against rate limits."""

from collections.abc import Awaitable, Callable
from contextlib import suppress

import trio
from pydantic import BaseModel

from overlay.errors import MalformedMessage, PeerUnreachable
from overlay.framing import FramedStream
from overlay.handover import socket_of
from overlay.http.carried import CarriedStream
from overlay.names import PeerId, ServiceName
from proxy.guard.limiting import Limits, Wait
from proxy.succession.calls import LastingCalls
from proxy.succession.messages import Moved
from proxy.workers.carrying import LentBytes
from proxy.workers.link import Link
from proxy.workers.messages import Admit, Admitted, Carried, Carry, FromDaemon, GivenUp, Rated

GIVE_UP_S = 1.0
"""For telling a daemon that may not listen."""


class _Nowhere:
    """The overlay, in which a worker has no part."""

    async def open_stream(self, peer: PeerId, protocol: str) -> FramedStream:
        raise PeerUnreachable(f"a worker opens no stream of {protocol} to {peer} by itself")

    def handle(
        self, protocol: str, handler: Callable[[PeerId, FramedStream], Awaitable[None]]
    ) -> None:
        """Serve nothing: nobody finds a worker."""


class _Question:
    """What the daemon was asked, until it answers."""

    def __init__(self) -> None:
        self.answered = trio.Event()
        self.answer: Admitted | Carried | None = None
        self.descriptor: int | None = None


class _Calls(LastingCalls):
    """A worker's calls, which the daemon makes, and cancels with those who wait for them here."""

    def __init__(self, link: Link[FromDaemon]) -> None:
        super().__init__(_Nowhere())
        self._link = link
        self.step_back()
        self.go_through(link)

    async def given_up(self, number: int) -> None:
        """Have the daemon give it up as well, so that what was asked for can be taken back."""
        with trio.move_on_after(GIVE_UP_S, shield=True), suppress(PeerUnreachable):
            await self._link.send(GivenUp(number=number))


class Daemon:
    """What a worker asks of the daemon.

    Attributes:
        calls: made by the daemon.
    """

    def __init__(self, link: Link[FromDaemon]) -> None:
        self._link = link
        self.calls: LastingCalls = _Calls(link)
        self._asked: dict[int, _Question] = {}
        self._number = 0

    async def carry(self, peer: PeerId) -> CarriedStream:
        """Return a connection to the gateway of `peer` that the overlay carries.

        Raises:
            PeerUnreachable: there is none; says why.
        """
        question = await self._ask(lambda number: Carry(number=number, peer=peer))
        answer = question.answer
        if not isinstance(answer, Carried) or question.descriptor is None:
            raise PeerUnreachable(getattr(answer, "error", "") or "the daemon is gone")
        try:
            return CarriedStream(LentBytes(socket_of(question.descriptor)), peer, moves=True)
        except MalformedMessage as exc:
            raise PeerUnreachable(str(exc)) from exc

    async def take(self, service: ServiceName, limits: Limits, client: str) -> Wait:
        """Count a request against rate limits, as all processes of the proxy do together."""
        rated = Rated(
            per_client=limits.per_client, per_proxy=limits.per_proxy, in_all=limits.in_all
        )
        try:
            question = await self._ask(
                lambda n: Admit(number=n, service=service, client=client, limits=rated)
            )
        except PeerUnreachable:  # this process ends
            return Wait()
        answer = question.answer
        return Wait(answer.limit, answer.wait_s) if isinstance(answer, Admitted) else Wait()

    def forget(self) -> None:
        """Forget nothing: the daemon counts."""

    async def move(self, moved: Moved, descriptor: int) -> bool:
        """Hand a connection over; return whether that was done."""
        try:
            await self._link.send(moved, [descriptor])
        except PeerUnreachable:
            return False
        return True

    def answered(self, answer: Admitted | Carried, descriptors: list[int]) -> bool:
        """Take in an answer; return whether somebody waits for it, who has its descriptors then."""
        question = self._asked.get(answer.number)
        if question is None:
            return False
        question.answer = answer
        question.descriptor = descriptors[0] if descriptors else None
        question.answered.set()
        return True

    def gone(self) -> None:
        """Take in that it is gone."""
        self.calls.go_through(None)
        for question in self._asked.values():
            question.answered.set()

    async def _ask(self, message: Callable[[int], BaseModel]) -> _Question:
        self._number += 1
        number = self._number
        question = self._asked[number] = _Question()
        try:
            await self._link.send(message(number))
            await question.answered.wait()
        finally:
            del self._asked[number]
        return question
