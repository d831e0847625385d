"""Each in a process of its own: pytest's has threads, with which a process does not fork well."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

DAEMON = """
import functools, os, sys
from pathlib import Path
import trio
from myxo.daemons import Daemon
from myxo.forking import Forked, fork_daemons
from myxo.supervisor import supervised

flags = ["--state-dir", sys.argv[1], "--ephemeral", "--log-level", "error"]
flags += ["--p2p-listen-addr", "127.0.0.1:0", "--prom-listen-addr", "127.0.0.1:0"]
daemon = Daemon("bootstrap", flags, {"P2P_PSK": "secret"})
forked = fork_daemons([daemon])
"""

RESTARTED = """
async def main():
    async with supervised(forked=forked) as supervisor:
        await supervisor.start([daemon])
        first = supervisor._processes["bootstrap"]
        assert first is forked[0] and first.returncode is None
        command = Path(f"/proc/{first.pid}/cmdline").read_text().rstrip("\\0")
        assert command.startswith(f"{sys.executable} -m myxo bootstrap --state-dir "), command
        assert "secret" not in command
        assert Path(f"/proc/{first.pid}/comm").read_text() == "bootstrap\\n"
        assert os.getsid(first.pid) == first.pid
        first.kill()
        while supervisor._processes["bootstrap"] is first:
            await trio.sleep(0.01)
        assert first.returncode == -9
        second = supervisor._processes["bootstrap"]
        assert isinstance(second, trio.Process)
    assert second.returncode is not None

trio.run(main)
print("done")
"""

GONE = """
import signal
os.kill(forked[0].pid, signal.SIGKILL)
os.waitid(os.P_PID, forked[0].pid, os.WEXITED | os.WNOWAIT)

async def main():
    async with supervised(forked=forked) as supervisor:
        await supervisor.start([daemon])
        assert isinstance(supervisor._processes["bootstrap"], trio.Process)

trio.run(main)
print("done")
"""

NEVER_TOLD = """
forked[0].leave()
assert trio.run(forked[0].wait) == 0
print("done")
"""


@pytest.mark.parametrize("then", [RESTARTED, GONE, NEVER_TOLD])
def test_a_forked_daemon_is_one_like_any_other(tmp_path: Path, then: str) -> None:
    """It is the daemon, is started anew after its end or death, and ends if it is not needed."""
    done = subprocess.run(
        [sys.executable, "-c", DAEMON + then, str(tmp_path)],
        env={k: v for k, v in os.environ.items() if not k.startswith(("MYXO_", "P2P_"))},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith("done\n")


def test_a_forked_daemon_ends_with_who_forked_it(tmp_path: Path) -> None:
    dies = "print(forked[0].pid, flush=True)\nforked[0].go({'MYXO_SUPERVISED': '1'})\nos._exit(1)\n"
    done = subprocess.run(
        [sys.executable, "-c", DAEMON + dies, str(tmp_path)],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,  # this waits for the end of all who have its pipes, so for the daemon's
    )
    assert done.returncode == 1, done.stderr
