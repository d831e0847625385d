import socket
from typing import Any

import pytest
import trio
from pydantic import BaseModel

from overlay.errors import PeerUnreachable
from overlay.handover import Handover
from overlay.names import PeerId, ServiceName
from overlay.spec import RateLimit
from proxy.guard.limiting import Limits, Wait
from proxy.succession.messages import Call, CallEnded
from proxy.workers.daemon import Daemon
from proxy.workers.link import Link
from proxy.workers.messages import (
    FROM_DAEMON,
    FROM_WORKER,
    Admit,
    Admitted,
    Carried,
    Carry,
    GivenUp,
)

PEER, HELLO = PeerId("somebody"), ServiceName("hello")


class Number(BaseModel):
    number: int


class Ground:
    """A worker's end, and the daemon's, which is played by hand."""

    def __init__(self) -> None:
        ends = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        for sock in ends:
            sock.setblocking(False)
        here, there = (Handover(trio.socket.from_stdlib_socket(sock)) for sock in ends)
        self._here: Link[Any] = Link(here, FROM_DAEMON)
        self.played: Link[Any] = Link(there, FROM_WORKER)
        self.daemon = Daemon(self._here)

    async def heard(self) -> Any:
        received = await self.played.receive()
        assert received is not None
        return received[0]

    async def hear(self) -> None:
        while (received := await self._here.receive()) is not None:
            message, descriptors = received
            if isinstance(message, CallEnded):
                self.daemon.calls.ended(message)
            else:
                self.daemon.answered(message, descriptors)
        self.daemon.gone()
        self._here.close()


async def test_a_call_is_made_by_the_daemon() -> None:
    ground = Ground()
    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(ground.hear)

            async def play() -> None:
                call = await ground.heard()
                assert isinstance(call, Call)
                assert call.request == {"number": 1}
                await ground.played.send(CallEnded(number=call.number, reply={"number": 2}))

            nursery.start_soon(play)
            answer = await ground.daemon.calls.call(
                PEER, "/p", Number(number=1), Number, timeout_s=5
            )
            assert answer == Number(number=2)
            ground.played.close()


async def test_a_call_that_nobody_waits_for_is_given_up_at_the_daemon_too() -> None:
    ground = Ground()
    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(ground.hear)
            scope = trio.CancelScope()

            async def ask() -> None:
                with scope:
                    await ground.daemon.calls.call(
                        PEER, "/p", Number(number=1), Number, timeout_s=5
                    )

            nursery.start_soon(ask)
            call = await ground.heard()
            scope.cancel()
            assert await ground.heard() == GivenUp(number=call.number)
            ground.played.close()


async def test_rates_are_the_daemons_and_hold_nobody_back_when_it_is_gone() -> None:
    ground, limits = Ground(), Limits(per_proxy=RateLimit(per_s=1, burst=1))
    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(ground.hear)

            async def play() -> None:
                asked = await ground.heard()
                assert isinstance(asked, Admit)
                assert (asked.service, asked.client) == (HELLO, "somebody")
                assert asked.limits.per_proxy == limits.per_proxy
                answer = Admitted(number=asked.number, limit="rate_limit", wait_s=0.5)
                await ground.played.send(answer)
                await ground.heard()
                ground.played.close()

            nursery.start_soon(play)
            waits = [await ground.daemon.take(HELLO, limits, "somebody") for _ in range(2)]
    assert waits == [Wait("rate_limit", 0.5), Wait()]


async def test_a_connection_that_the_overlay_cannot_carry_is_refused_with_the_reason() -> None:
    ground = Ground()
    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(ground.hear)

            async def play() -> None:
                asked = await ground.heard()
                assert isinstance(asked, Carry)
                await ground.played.send(Carried(number=asked.number, error="no way there"))
                await ground.heard()
                ground.played.close()

            nursery.start_soon(play)
            with pytest.raises(PeerUnreachable, match="no way there"):
                await ground.daemon.carry(PEER)
            with pytest.raises(PeerUnreachable, match="gone"):
                await ground.daemon.carry(PEER)
