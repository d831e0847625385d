"""`make demo`, as a new user starts it."""

import re
import socket
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("runtime", ["process", pytest.param("docker", marks=pytest.mark.docker)])
def test_the_demo_shows_a_cold_and_a_warm_answer_and_stops(runtime: str) -> None:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port = sock.getsockname()[1]
    demo = ROOT / "demos" / "helloworld" / "demo.py"
    done = subprocess.run(
        [sys.executable, demo, "--runtime", runtime, "--proxy-port", str(port)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    assert f"Runtime: {runtime}" in done.stdout
    assert done.stdout.count("Hello, world") == 2, done.stdout
    assert re.search(r"Server-Timing: .*start", done.stdout, re.IGNORECASE), done.stdout
    assert "everything stopped in" in done.stdout
