import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio
from pydantic import BaseModel

from overlay.errors import AddressTaken, MalformedMessage, PeerUnreachable
from overlay.handover import (
    MAX_MESSAGE,
    Handover,
    accept_handover,
    awaiting_handover,
    open_handover,
    socket_of,
)


class Note(BaseModel):
    text: str


@pytest.fixture
def pair() -> Iterator[tuple[Handover, Handover]]:
    here, there = trio.socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with here, there:
        yield Handover(here), Handover(there)


async def test_messages_come_whole_and_each_with_its_own_sockets(
    pair: tuple[Handover, Handover],
) -> None:
    here, there = pair
    with socket.socket() as first, socket.socket() as second:
        with trio.fail_after(60):
            await here.send(Note(text="plain"))
            await here.send(Note(text="one"), [first.fileno()])
            await here.send(Note(text="two"), [second.fileno(), first.fileno()])
            here.close()
            received = [await there.receive() for _ in range(4)]
        *heard, end = received
        assert end is None
        assert [data for data, _ in filter(None, heard)] == [
            b'{"text":"plain"}',
            b'{"text":"one"}',
            b'{"text":"two"}',
        ]
        descriptors = [fds for _, fds in filter(None, heard)]
        assert [len(fds) for fds in descriptors] == [0, 1, 2]
        assert _inode(descriptors[1][0]) == _inode(descriptors[2][1]) == _inode(first.fileno())
        assert _inode(descriptors[2][0]) == _inode(second.fileno())
        for fds in descriptors:
            for descriptor in fds:
                os.close(descriptor)


async def test_what_is_over_the_bounds_is_refused_and_its_sockets_closed(
    pair: tuple[Handover, Handover],
) -> None:
    here, there = pair
    with socket.socket() as sock, trio.fail_after(60):
        before = set(Path("/proc/self/fd").iterdir())
        await here.send(Note(text="x" * MAX_MESSAGE), [sock.fileno()])
        with pytest.raises(MalformedMessage):
            await there.receive()
        await here.send(Note(text="too many"), [sock.fileno()] * 9)
        with pytest.raises(MalformedMessage):
            await there.receive()
        assert set(Path("/proc/self/fd").iterdir()) == before


async def test_a_sender_learns_that_the_other_is_gone(
    pair: tuple[Handover, Handover],
) -> None:
    here, there = pair
    there.close()
    with pytest.raises(PeerUnreachable):
        await here.send(Note(text="anybody?"))


async def test_who_waits_is_found_by_its_path(tmp_path: Path) -> None:
    path = tmp_path / "next"
    with pytest.raises(PeerUnreachable):
        await open_handover(str(path))
    async with awaiting_handover(path) as sock:
        assert path.stat().st_mode & 0o777 == 0o600
        with trio.fail_after(60):
            came = await open_handover(str(path))
            met = await accept_handover(sock)
            await came.send(Note(text="here"))
            assert await met.receive() == (b'{"text":"here"}', [])
            came.close()
            assert await met.receive() is None
            met.close()
    assert not path.exists()
    with pytest.raises(AddressTaken):
        async with awaiting_handover(tmp_path / ("x" * 200)):
            pass


async def test_a_descriptor_of_no_socket_is_refused() -> None:
    read, write = os.pipe()
    os.close(write)
    with pytest.raises(MalformedMessage):
        socket_of(read)
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(read)


def _inode(descriptor: int) -> int:
    return os.fstat(descriptor).st_ino
