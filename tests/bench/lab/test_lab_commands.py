"""The commands as people type them: a bootstrap node, a load host, and the shell."""

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import psutil
import pytest

from bench.netlab.testing import within

pytestmark = pytest.mark.slow

MYXO = str(Path(sys.executable).with_name("myxo"))
LOOPBACK = ("--p2p-listen-addr", "127.0.0.1:0")


def children(pid: int) -> list[int]:
    return [child.pid for child in psutil.Process(pid).children()]


def lives(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def shell(
    daemons: Any, address: str, lines: str, *flags: str, psk: str = "words"
) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [MYXO, "lab", "shell", "--bootstrap", address, "--psk", psk, *flags],
        input=lines,
        env=daemons.environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_a_shell_commands_hosts_which_outlive_it_and_whose_clients_do_not_outlive_them(
    daemons: Any, tmp_path: Path
) -> None:
    port = daemons.free_port()
    listen = ("--p2p-listen-addr", f"127.0.0.1:{port}", "--prom-listen-addr", "127.0.0.1:0")
    boot = daemons("myxo", "bootstrap", "--psk", "words", *listen)
    address = next(line for line in boot.printed().splitlines() if line.startswith("/ip4"))
    network = ("--bootstrap", address, "--psk", "words", *LOOPBACK)
    host = daemons("myxo", "lab", "host", "--hostname", "h1", *network)

    # a server that does not answer is good enough for clients to be there
    silent = f"http://127.0.0.1:{port}"
    done = shell(daemons, address, f"hosts\nspawn h. {silent} 2\n")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines() == ["h1", f"h1:{silent}:0", f"h1:{silent}:1"]

    traces = tmp_path / "traces.csv"
    lines = tmp_path / "lines.txt"
    lines.write_text(f"rps h1 {silent} 20\nsleep 0.5\nclose h1 {silent}\nrps h1 {silent} 1\ndate\n")
    done = shell(daemons, address, "", "--source", str(lines), "--traces", str(traces))
    assert done.returncode == 1
    assert (
        done.stderr == f"error: {lines}, line 4: h1 has no clients of {silent}: spawn some first\n"
    )
    assert done.stdout == ""

    done = shell(daemons, address, f"spawn h1 {silent} 2\n")
    pids = children(host.process.pid)
    assert len(pids) == 2
    host.process.kill()
    within(60, lambda: not any(map(lives, pids)), "a client outlives its load host")
    done = shell(daemons, address, "hosts\n")
    assert done.returncode == 1
    assert "no load host" in done.stderr

    done = shell(daemons, address, "hosts\n", psk="swords")
    assert done.returncode == 1
    assert done.stderr.startswith(f"error: {address}: it answers but does not share this network's")
    assert "--psk" in done.stderr
    assert len(done.stderr.splitlines()) == 1, "an error and no traceback"


def test_clients_of_ones_own_are_deployed_listed_and_removed(daemons: Any, tmp_path: Path) -> None:
    (tmp_path / "poke.py").write_text("def next_request():\n    return 'GET', '', {}\n")

    def app(*words: str) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            [MYXO, "lab", "app", *words],
            env=daemons.environment,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    assert app("deploy", "--path", str(tmp_path / "poke.py")).stdout.startswith("poke  ")
    assert app("ls").stdout.startswith("poke  ")
    assert '"name": "poke"' in app("ls", "--json").stdout
    assert app("rm", "poke").returncode == 0
    again = app("rm", "poke")
    assert again.returncode == 1
    assert "no client 'poke' is deployed" in again.stderr
    assert app("deploy", "--path", str(tmp_path / "nowhere.py")).returncode == 1


def test_a_load_host_ends_well_when_it_is_told_to(daemons: Any) -> None:
    port = daemons.free_port()
    listen = ("--p2p-listen-addr", f"127.0.0.1:{port}", "--prom-listen-addr", "127.0.0.1:0")
    boot = daemons("myxo", "bootstrap", "--psk", "words", *listen)
    address = next(line for line in boot.printed().splitlines() if line.startswith("/ip4"))
    host = daemons("myxo", "lab", "host", "--bootstrap", address, "--psk", "words", *LOOPBACK)
    os.kill(host.process.pid, signal.SIGTERM)
    assert host.process.wait(20) == 0
