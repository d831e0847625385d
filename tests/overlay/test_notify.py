"""Who starts a daemon hears that it is ready, or that it has ended."""

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from overlay.notify import ReadyListener, listening, notify, notify_status

READY = "from overlay.notify import notify; notify('STATUS=soon'); notify('READY=1'); input()"


@pytest.fixture
def ready(tmp_path: Path) -> Iterator[ReadyListener]:
    with listening(tmp_path / "ready") as listener:
        yield listener


def start(ready: ReadyListener, *command: str) -> "subprocess.Popen[bytes]":
    environment = os.environ | ready.environment
    return subprocess.Popen(command, env=environment, stdin=subprocess.PIPE)


def test_a_process_that_says_so_is_ready(ready: ReadyListener) -> None:
    with start(ready, sys.executable, "-c", READY) as process:
        try:
            assert ready.wait(process, 60)
        finally:
            process.kill()


def test_a_process_that_ends_without_a_word_is_not_ready(ready: ReadyListener) -> None:
    with start(ready, "false") as process:
        assert not ready.wait(process, 60)
        assert process.poll() == 1
        assert not ready.wait(process, 60)


def test_a_process_that_stays_silent_is_not_ready(ready: ReadyListener) -> None:
    with start(ready, "sleep", "60") as process:
        try:
            assert not ready.wait(process, 0.05)
            assert process.poll() is None
        finally:
            process.kill()


def test_nobody_needs_to_listen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "nobody"))
    notify("READY=1")
    monkeypatch.delenv("NOTIFY_SOCKET")
    notify("READY=1")


def test_the_socket_is_gone_afterwards(tmp_path: Path) -> None:
    with listening(tmp_path / "ready"):
        assert (tmp_path / "ready").is_socket()
    assert not (tmp_path / "ready").exists()


def test_a_status_is_one_line_that_is_not_too_long(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as heard:
        heard.bind(str(tmp_path / "status"))
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "status"))
        notify_status("one\n  two")
        notify_status("long" * 5000)
        assert heard.recv(100) == b"STATUS=one two"
        assert heard.recv(10_000) == b"STATUS=" + b"long" * 250
