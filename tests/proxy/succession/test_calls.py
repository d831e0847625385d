import socket
from collections.abc import Callable
from functools import partial
from typing import cast

import pytest
import trio
from pydantic import BaseModel

from overlay.calls import Caller, CallHost, CallRefused
from overlay.errors import PeerUnreachable
from overlay.framing import FramedStream
from overlay.handover import Handover
from overlay.names import PeerId
from proxy.succession.calls import HEIR_S, LastingCalls, made_for
from proxy.succession.messages import FROM_NEW, FROM_OLD, Call, CallEnded

PEER = PeerId("somebody")
ASK = "/test/ask"


class Question(BaseModel):
    number: int


class Reply(BaseModel):
    number: int


class Severed:
    """A host on which each stream waits until its node has withdrawn, and is cut then."""

    def __init__(self) -> None:
        self.opened = trio.Event()
        self.withdrawn = trio.Event()

    async def open_stream(self, *_: str) -> FramedStream:
        self.opened.set()
        await self.withdrawn.wait()
        raise PeerUnreachable("the connection is lost")


class Answering:
    """The new process's calls: it answers twice what it is asked, and refuses 13."""

    async def call(
        self,
        peer: PeerId,
        protocol: str,
        request: BaseModel,
        reply: Callable[..., BaseModel],
        *,
        timeout_s: float,
    ) -> BaseModel:
        assert (peer, protocol, timeout_s) == (PEER, ASK, 5.0)
        number = request.model_dump()["number"]
        if number == 13:
            raise CallRefused("unlucky", "not that one", {"why": "it is unlucky"})
        if number == 0:
            raise PeerUnreachable("nobody is there")
        return reply(number=2 * number)


async def go_through(calls: LastingCalls, nursery: trio.Nursery) -> None:
    """Have calls made by a process that answers."""
    here, there = trio.socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    heir, old = Handover(here), Handover(there)

    async def hear() -> None:
        while (received := await heir.receive()) is not None:
            message = FROM_NEW.validate_json(received[0])
            assert isinstance(message, CallEnded)
            calls.ended(message)

    async def serve() -> None:
        while (received := await old.receive()) is not None:
            message = FROM_OLD.validate_json(received[0])
            assert isinstance(message, Call)
            nursery.start_soon(made_for, old, cast("Caller", Answering()), message)

    async def hold() -> None:
        try:
            await trio.sleep_forever()
        finally:
            heir.close()
            old.close()

    for task in (hear, serve, hold):
        nursery.start_soon(task)
    calls.go_through(heir)


async def test_a_call_that_is_cut_by_stepping_back_is_made_by_the_new_process() -> None:
    host = Severed()
    calls = LastingCalls(cast("CallHost", host))
    numbers = []

    async def ask(number: int) -> None:
        reply = await calls.call(PEER, ASK, Question(number=number), Reply, timeout_s=5)
        numbers.append(reply.number)

    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            async with trio.open_nursery() as asking:
                asking.start_soon(ask, 1)
                await host.opened.wait()
                calls.step_back()
                host.withdrawn.set()
                asking.start_soon(ask, 2)
                await go_through(calls, nursery)
            nursery.cancel_scope.cancel()
    assert sorted(numbers) == [2, 4]


async def test_what_the_new_process_is_told_is_told_here() -> None:
    calls = LastingCalls(cast("CallHost", Severed()))
    calls.step_back()
    ask = partial(calls.call, PEER, ASK, reply=Reply, timeout_s=5)
    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            await go_through(calls, nursery)
            with pytest.raises(CallRefused) as refused:
                await ask(request=Question(number=13))
            with pytest.raises(PeerUnreachable, match="nobody is there"):
                await ask(request=Question(number=0))
            nursery.cancel_scope.cancel()
    assert (refused.value.code, refused.value.details) == ("unlucky", {"why": "it is unlucky"})


async def test_a_call_ends_where_no_new_process_comes(
    autojump_clock: trio.testing.MockClock,
) -> None:
    calls = LastingCalls(cast("CallHost", Severed()))
    calls.step_back()
    began = trio.current_time()
    with pytest.raises(PeerUnreachable):
        await calls.call(PEER, ASK, Question(number=1), Reply, timeout_s=5)
    assert trio.current_time() == began + HEIR_S
    calls.go_through(None)
    with pytest.raises(PeerUnreachable):
        await calls.call(PEER, ASK, Question(number=1), Reply, timeout_s=5)
    assert trio.current_time() == began + HEIR_S
