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
    proxy, p2p = free_ports(2)
    demo = ROOT / "demos" / "helloworld" / "demo.py"
    done = subprocess.run(
        [
            *(sys.executable, demo, "--runtime", runtime),
            *("--proxy-port", str(proxy), "--p2p-listen-addr", f"127.0.0.1:{p2p}"),
        ],
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


def free_ports(count: int) -> list[int]:
    """Return TCP ports of 127.0.0.1 that were free just now."""
    socks = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [sock.getsockname()[1] for sock in socks]
    for sock in socks:
        sock.close()
    return ports
