"""Calls to peers that outlive this process's part in the overlay: the new process makes them then.

A call that is cut because this process stepped back is made again. That is safe for what a proxy
asks: who is asked for a start that is under way joins it, and a share of a rate that is lost is
worth a tenth of a second.
"""

from typing import Protocol, TypeVar

import trio
from pydantic import BaseModel, ConfigDict, ValidationError

from overlay.calls import Caller, CallHost, CallRefused
from overlay.errors import MalformedMessage, MyxoError, PeerUnreachable
from overlay.names import PeerId
from proxy.succession.messages import Call, CallEnded, Refusal

HEIR_S = 60.0
"""How long a call waits for the new process to be there; it takes a second to join, and more on a
machine that is busy."""

M = TypeVar("M", bound=BaseModel)


class Speaker(Protocol):
    """Says something to another process; raises `PeerUnreachable` if that is gone."""

    async def send(self, message: BaseModel) -> None:
        """Say it."""
        ...


class _Anything(BaseModel):
    """A request or reply that is passed on without being understood."""

    model_config = ConfigDict(extra="allow")


class LastingCalls(Caller):
    """The calls of a proxy that may step back.

    Args:
        host: makes them until then.
    """

    def __init__(self, host: CallHost) -> None:
        super().__init__(host)
        self._stepped_back = False
        self._heir: Speaker | None = None
        self._there = trio.Event()
        self._open: dict[int, _Open] = {}
        self._made = 0

    def step_back(self) -> None:
        """Make no more calls here; those that are wanted wait for `go_through`."""
        self._stepped_back = True

    def go_through(self, heir: Speaker | None) -> None:
        """Make calls through the new process from now on; None if there will be none."""
        self._heir = heir
        self._there.set()
        if heir is None:
            for call in self._open.values():
                call.ended.set()

    def ended(self, message: CallEnded) -> None:
        """Take in what came of a call."""
        call = self._open.get(message.number)
        if call is not None:
            call.message = message
            call.ended.set()

    async def call(
        self, peer: PeerId, protocol: str, request: BaseModel, reply: type[M], *, timeout_s: float
    ) -> M:
        """Return the peer's reply; raises as `Caller.call`."""
        if not self._stepped_back:
            try:
                return await super().call(peer, protocol, request, reply, timeout_s=timeout_s)
            except PeerUnreachable:
                if not self._stepped_back:
                    raise
        with trio.move_on_after(HEIR_S):
            await self._there.wait()
        if self._heir is None:
            raise PeerUnreachable("this proxy is being replaced, and the new one is not there")
        return await self._through(self._heir, peer, protocol, request, reply, timeout_s)

    async def given_up(self, number: int) -> None:
        """Do what is to be done about a call whose answer nobody waits for: nothing."""

    async def _through(
        self,
        heir: Speaker,
        peer: PeerId,
        protocol: str,
        request: BaseModel,
        reply: type[M],
        timeout_s: float,
    ) -> M:
        self._made += 1
        number = self._made
        call = self._open[number] = _Open()
        try:
            await heir.send(
                Call(
                    number=number,
                    peer=peer,
                    protocol=protocol,
                    request=request.model_dump(mode="json"),
                    timeout_s=timeout_s,
                )
            )
            with trio.move_on_after(timeout_s):
                await call.ended.wait()
        finally:
            del self._open[number]
            if call.message is None:
                await self.given_up(number)
        return _read(call.message, peer, reply)


class _Open:
    """A call that the new process makes."""

    def __init__(self) -> None:
        self.ended = trio.Event()
        self.message: CallEnded | None = None


async def made_for(old: Speaker, calls: Caller, call: Call) -> None:
    """Make a call for the old process and tell it what came of it."""
    try:
        answer = await calls.call(
            call.peer,
            call.protocol,
            _Anything.model_validate(call.request),
            _Anything,
            timeout_s=call.timeout_s,
        )
        ended = CallEnded(number=call.number, reply=answer.model_dump(mode="json"))
    except CallRefused as exc:
        refusal = Refusal(code=exc.code, text=exc.text, details=exc.details)
        ended = CallEnded(number=call.number, refusal=refusal)
    except MyxoError as exc:
        ended = CallEnded(number=call.number, refusal=Refusal(text=str(exc)))
    await old.send(ended)


def _read(message: CallEnded | None, peer: PeerId, reply: type[M]) -> M:
    if message is None:
        raise PeerUnreachable(f"{peer} did not answer the proxy that took over")
    if message.refusal is not None:
        refusal = message.refusal
        if refusal.code is not None:
            raise CallRefused(refusal.code, refusal.text, refusal.details)
        raise PeerUnreachable(refusal.text)
    try:
        return reply.model_validate(message.reply)
    except ValidationError as exc:
        raise MalformedMessage(f"the answer cannot be read: {exc.errors()[0]['msg']}") from exc
