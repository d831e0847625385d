import contextlib
import json
import stat
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing

from overlay import control
from overlay.control import MAX_LINE, ControlConnection, open_control, serve_control
from overlay.errors import AddressTaken, MalformedMessage, PeerUnreachable, StreamCut


def status() -> Mapping[str, Any]:
    return {"peers": 3}


async def echo(connection: ControlConnection) -> None:
    while (line := await connection.receive()) is not None:
        await connection.send(json.loads(line))


@pytest.fixture
async def path(tmp_path: Path, nursery: trio.Nursery) -> AsyncIterator[Path]:
    served = tmp_path / "run" / "d.sock"
    with trio.fail_after(60):
        await nursery.start(serve_control, served, status, {"echo": echo})
        yield served


async def ask_status(path: Path) -> Any:
    async with open_control(path, "status") as connection:
        return json.loads(await connection.receive() or b"null")


async def test_status_is_answered_with_one_line_and_the_end(path: Path) -> None:
    async with open_control(path, "status") as connection:
        assert await connection.receive() == b'{"peers": 3}'
        assert await connection.receive() is None


async def test_only_the_user_may_open_the_socket(path: Path) -> None:
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700


async def test_another_want_keeps_the_connection(path: Path) -> None:
    async with open_control(path, "echo") as connection:
        for number in range(3):
            await connection.send({"n": number})
            assert json.loads(await connection.receive() or b"") == {"n": number}


async def test_several_messages_go_together_in_order(path: Path) -> None:
    async with open_control(path, "echo") as connection:
        async with trio.open_nursery() as nursery:
            for number in range(10):
                nursery.start_soon(connection.send, {"n": number, "part": 1}, {"n": number})
        for _ in range(10):
            first = json.loads(await connection.receive() or b"")
            second = json.loads(await connection.receive() or b"")
            assert (first["n"], first.get("part"), second.get("part")) == (second["n"], 1, None)


@pytest.mark.parametrize(
    "first",
    [
        b"nonsense",
        b"[]",
        b"3",
        b"{}",
        b'{"want": "other"}',
        b'{"want": []}',
        b'{"want": {}}',
        b"\xff\xfe",
        b"[" * 100_000,
    ],
)
async def test_a_first_line_that_says_nothing_usable_is_told_so_and_harms_nobody(
    path: Path, first: bytes
) -> None:
    stream = await trio.open_unix_socket(path)
    async with stream:
        await stream.send_all(first + b"\n")
        connection = ControlConnection(stream)
        assert "error" in json.loads(await connection.receive() or b"")
    assert await ask_status(path) == {"peers": 3}


@pytest.mark.parametrize("data", [b"", b"half a line", b"x" * (MAX_LINE + 2)])
async def test_a_client_that_breaks_off_harms_nobody(path: Path, data: bytes) -> None:
    stream = await trio.open_unix_socket(path)
    async with stream:
        await stream.send_all(data)
    assert await ask_status(path) == {"peers": 3}


async def test_a_cut_line_and_an_endless_one_are_errors_of_their_own() -> None:
    for data, error in ((b"half", StreamCut), (b"x" * (MAX_LINE + 2), MalformedMessage)):
        ours, theirs = trio.socket.socketpair()
        connection = ControlConnection(trio.SocketStream(ours))
        with trio.fail_after(60):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(_send_and_close, trio.SocketStream(theirs), data)
                with pytest.raises(error):
                    await connection.receive()
                await connection.aclose()


async def _send_and_close(stream: trio.SocketStream, data: bytes) -> None:
    with contextlib.suppress(trio.BrokenResourceError):
        await stream.send_all(data)
    await stream.aclose()


async def test_a_message_to_a_process_that_is_gone_is_an_error() -> None:
    ours, theirs = trio.socket.socketpair()
    theirs.close()
    connection = ControlConnection(trio.SocketStream(ours))
    with pytest.raises(PeerUnreachable):
        await connection.send({"n": 1})
    await connection.aclose()


async def test_a_reader_that_takes_nothing_is_given_up_and_no_line_is_cut(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(control, "STALL_S", 0.05)
    ours, theirs = trio.socket.socketpair()
    connection = ControlConnection(trio.SocketStream(ours))
    with trio.fail_after(60), pytest.raises(PeerUnreachable, match="reads nothing"):
        await connection.send({"x": "y" * 10_000_000})
    theirs.close()


async def test_a_cancelled_sender_leaves_whole_lines() -> None:
    ours, theirs = trio.socket.socketpair()
    connection, other = (ControlConnection(trio.SocketStream(s)) for s in (ours, theirs))
    lengths: list[int] = []

    async def send(scope: trio.CancelScope) -> None:
        with scope:
            await connection.send({"x": "y" * 900_000})

    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            scope = trio.CancelScope()
            nursery.start_soon(send, scope)
            await trio.testing.wait_all_tasks_blocked()
            scope.cancel()
            lengths.append(len(await other.receive() or b""))
            await connection.send({"last": True})
            assert await other.receive() == b'{"last": true}'
    assert lengths == [len(json.dumps({"x": "y" * 900_000}))]
    await connection.aclose()
    await other.aclose()


async def test_where_no_daemon_answers_it_is_said(tmp_path: Path) -> None:
    with pytest.raises(PeerUnreachable, match="no daemon answers"):
        async with open_control(tmp_path / "none", "status"):
            pytest.fail("it connected")


async def test_a_second_daemon_on_the_same_path_is_refused(path: Path) -> None:
    with pytest.raises(AddressTaken, match="another daemon"):
        await serve_control(path, status, {})
    assert await ask_status(path) == {"peers": 3}


async def test_a_socket_that_a_dead_daemon_left_is_replaced(
    tmp_path: Path, nursery: trio.Nursery
) -> None:
    left = trio.socket.socket(trio.socket.AF_UNIX)
    await left.bind(str(tmp_path / "s"))
    left.close()
    await nursery.start(serve_control, tmp_path / "s", status, {})
    assert await ask_status(tmp_path / "s") == {"peers": 3}


async def test_the_socket_is_removed_when_serving_ends(tmp_path: Path) -> None:
    async with trio.open_nursery() as nursery:
        await nursery.start(serve_control, tmp_path / "s", status, {})
        nursery.cancel_scope.cancel()
    assert not (tmp_path / "s").exists()


@pytest.mark.parametrize("name", ["x" * 120, "nodir/s"])
async def test_a_path_that_cannot_be_used_is_an_error_for_a_person(
    tmp_path: Path, name: str
) -> None:
    (tmp_path / "nodir").touch()
    with pytest.raises((AddressTaken, FileExistsError)):
        await serve_control(tmp_path / name, status, {})
