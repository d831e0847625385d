"""The API as people start it: `myxo lab api`, and another server with several workers."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from http import HTTPStatus
from pathlib import Path

import httpx
import pytest

from bench.lab.api.experiments import EXAMPLE
from overlay.notify import listening
from overlay.testing_ports import free_port
from tests.template import Forked, template

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

BIN = Path(sys.executable).parent
START_S = 120.0
TOKEN = "correct-horse-battery"


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    hidden = ("MYXO_", "P2P_", "MYSQL_", "DB_TYPE")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(hidden)}
    return kept | {"MYXO_STATE_DIR": str(tmp_path), "MYXO_CONFIG_DIR": str(tmp_path / "config")}


@contextmanager
def running(command: Sequence[str], environment: dict[str, str], folder: Path) -> Iterator[Forked]:
    """Run what says READY=1, and see it end well when it is told to."""
    log = folder / "log"
    with listening(folder / "ready") as ready, log.open("wb") as output:
        process = template().start(command, environment | ready.environment, output)
        try:
            assert ready.wait(process, START_S), log.read_text()
            yield process
            process.send_signal(signal.SIGTERM)
            assert process.wait(START_S) == 0, log.read_text()
        finally:
            process.kill()
            process.wait()
    assert "Traceback" not in log.read_text()


def test_the_command_serves_page_and_api(environment: dict[str, str], tmp_path: Path) -> None:
    url = f"http://127.0.0.1:{free_port()}"
    command = ["myxo", "lab", "api", "--listen", url.removeprefix("http://")]
    with running(command, environment, tmp_path):
        assert "<title>Myxo lab" in httpx.get(f"{url}/").text
        exp_id = httpx.post(f"{url}/api/experiments", json=EXAMPLE).json()
    listed = template().run(["myxo", "lab", "experiments", "list"], environment, START_S)
    assert exp_id in listed.stdout, listed.stderr


@pytest.mark.parametrize(
    ("flags", "code", "reason"),
    [
        (["--listen", ":5001"], 2, "--token-file"),
        (["--listen", "nonsense"], 2, "HOST:PORT"),
        (["--token-file", "/none"], 2, "cannot be read"),
        (["--database", "oracle://x"], 1, "not known"),
    ],
)
def test_the_command_says_what_is_wrong_with_its_flags(
    environment: dict[str, str], flags: list[str], code: int, reason: str
) -> None:
    done = template().run(["myxo", "lab", "api", *flags], environment, START_S)
    assert done.returncode == code, done.stderr
    assert reason in done.stderr
    assert "Traceback" not in done.stderr


def test_a_port_that_is_taken_is_said(environment: dict[str, str], tmp_path: Path) -> None:
    address = f"127.0.0.1:{free_port()}"
    command = ["myxo", "lab", "api", "--listen", address]
    with running(command, environment, tmp_path):
        done = template().run(command, environment, START_S)
    assert done.returncode == 1
    assert f"error: {address} cannot be listened at" in done.stderr


def test_another_server_with_two_workers_serves_the_same(
    environment: dict[str, str], tmp_path: Path
) -> None:
    url = f"http://127.0.0.1:{free_port()}"
    bind = url.removeprefix("http://")
    command = [str(BIN / "hypercorn"), "-w", "2", "-b", bind, "bench.lab.api.app:app"]
    secret = {"MYXO_LAB_API_TOKEN": TOKEN}
    server = subprocess.Popen(command, env=environment | secret, start_new_session=True)
    headers = {"Authorization": f"Bearer {TOKEN}"}
    transport = httpx.HTTPTransport(retries=9)
    try:
        with httpx.Client(transport=transport, base_url=url, timeout=START_S) as client:
            assert client.get("/api/experiments").status_code == HTTPStatus.UNAUTHORIZED
            exp_id = client.post("/api/experiments", json=EXAMPLE, headers=headers).json()
        for _ in range(8):  # each on a connection of its own, which either worker may get
            shown = httpx.get(f"{url}/api/experiments/{exp_id}", headers=headers, timeout=START_S)
            assert shown.json()["status"] == "QUEUED"
    finally:
        os.killpg(server.pid, signal.SIGTERM)
        server.wait(START_S)
