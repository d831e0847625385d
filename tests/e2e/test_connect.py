"""A program on a machine without any daemon is in a network for as long as it runs."""

import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from bench.netlab.testing import within
from tests.e2e.steps import join_line

pytestmark = [pytest.mark.netns, pytest.mark.slow, pytest.mark.timeout(600)]

ENDED_TIMEOUT_S = 60.0
PROGRAM = Path(__file__).with_name("connect_program.py")
MODULES = Path(__file__).parents[1] / "myxo" / "serving"
ANSWERS = "hello, you\n['hello, a', 'hello, b']\n90\n"


def test_a_program_calls_and_maps_where_no_daemon_is(lan: Any) -> None:
    first, bare = lan.host(), lan.host()
    line = join_line(first.start("myxo", "up", "--runtime", "process", "--hostname", "first"))
    bootstrap, psk = line[2], line[line.index("--psk") + 1]
    first.run(
        "sh", "-c", f"cd {shlex.quote(str(MODULES))} && {sys.executable} -m myxo serve served"
    )
    first.run("myxo", "allow", bare.run("myxo", "key", "show").split()[0])
    given = bare.run(sys.executable, str(PROGRAM), bootstrap, psk)
    assert given == ANSWERS
    variables = [f"P2P_BOOTSTRAPS={bootstrap}", f"P2P_PSK={psk}"]
    assert bare.run("env", *variables, sys.executable, str(PROGRAM)) == ANSWERS
    assert pids(bare) == "", "nothing of the program is left"


def test_the_proxy_of_a_program_that_is_killed_ends(lan: Any) -> None:
    first, bare = lan.host(), lan.host()
    line = join_line(first.start("myxo", "up", "--runtime", "process", "--hostname", "first"))
    program = (
        "import signal, sys, myxo\n"
        "myxo.connect(sys.argv[1], psk=sys.argv[2])\n"
        "print(1, flush=True)\n"
        "signal.pause()\n"
    )
    bootstrap, psk = line[2], line[line.index("--psk") + 1]
    with bare.running_command(sys.executable, "-c", program, bootstrap, psk) as running:
        assert running.stdout is not None
        assert running.stdout.readline() == b"1\n"
        assert pids(bare)
        running.kill()
        running.wait()
    within(ENDED_TIMEOUT_S, lambda: not pids(bare), "the program's proxy ends")


def pids(host: Any) -> str:
    return subprocess.run(
        ["ip", "netns", "pids", host.name], capture_output=True, text=True, check=True
    ).stdout


def test_a_network_that_cannot_be_joined_is_said(lan: Any) -> None:
    first, bare = lan.host(), lan.host()
    line = join_line(first.start("myxo", "up", "--runtime", "process", "--hostname", "first"))
    done = bare.try_run(sys.executable, str(PROGRAM), line[2], "another-passphrase")
    assert done.returncode != 0
    assert "could not be joined" in done.stderr
