import os
import socket
from pathlib import Path
from typing import Any

import pytest
import trio

from overlay.errors import MalformedMessage
from overlay.handover import Handover
from proxy.workers import link as subject
from proxy.workers.link import WHOLE_BYTES, Link
from proxy.workers.messages import FROM_WORKER, Accepting, Answer, Piece


def ends() -> tuple[Link[Any], Link[Any]]:
    made = []
    for sock in socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET):
        sock.setblocking(False)
        made.append(Link(Handover(trio.socket.from_stdlib_socket(sock)), FROM_WORKER))
    return made[0], made[1]


def opened() -> int:
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


@pytest.mark.parametrize(
    "text", ["short", "x" * WHOLE_BYTES, '"\\' * 200_000, "\U0001f40c" * 50_000]
)
async def test_messages_of_any_length_arrive(text: str) -> None:
    one, other = ends()
    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(one.send, Answer(number=1, content=[text]))
            received = await other.receive()
    assert received == (Answer(number=1, content=[text]), [])
    one.close()
    assert await other.receive() is None
    other.close()


async def test_long_messages_of_several_tasks_do_not_mix() -> None:
    one, other = ends()
    sent = [Answer(number=n, content=[str(n) * 300_000]) for n in range(4)]
    short = [Answer(number=n, content=[]) for n in range(4, 8)]
    got = []
    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            for message in sent + short:
                nursery.start_soon(one.send, message)
            for _ in range(8):
                received = await other.receive()
                assert received is not None
                got.append(received[0])
    assert sorted(got, key=lambda a: a.number) == sent + short
    one.close()
    other.close()


async def test_a_message_that_never_ends_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(subject, "MAX_MESSAGE", 10)
    one, other = ends()
    with trio.fail_after(60):
        await one.send(Piece(text="x" * 11, last=False))
        with pytest.raises(MalformedMessage):
            await other.receive()
    one.close()
    other.close()


async def test_what_cannot_be_read_takes_its_descriptors_with_it() -> None:
    sock, far = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    sock.setblocking(False)
    link = Link(Handover(trio.socket.from_stdlib_socket(sock)), FROM_WORKER)
    before = opened()
    socket.send_fds(far, [b"nonsense"], [far.fileno()])
    with trio.fail_after(60), pytest.raises(MalformedMessage):
        await link.receive()
    assert opened() == before
    socket.send_fds(far, [Accepting().model_dump_json().encode()], [far.fileno()])
    received = await link.receive()
    assert received is not None
    message, (descriptor,) = received
    assert message == Accepting()
    os.close(descriptor)
    link.close()
    far.close()
