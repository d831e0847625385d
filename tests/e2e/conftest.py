"""Several hosts on this machine: network namespaces on one bridge, each with a home of its own."""

import itertools
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import pytest

COMMANDS = Path(sys.executable).parent
READY_TIMEOUT_S = 40.0
COMMAND_TIMEOUT_S = 60.0
_numbers = itertools.count(os.getpid() % 4096)


@dataclass
class Host:
    """A namespace with an address, and the commands that run in it.

    `link` is the namespace and the name of the switch's port that it is plugged into.
    """

    name: str
    address: str
    folder: Path
    link: tuple[str, str]
    running: list[subprocess.Popen[bytes]] = field(default_factory=list)

    @property
    def environment(self) -> dict[str, str]:
        """What its commands see: a home of this host's own."""
        kept = {
            k: v for k, v in os.environ.items() if not k.startswith(("MYXO_", "P2P_", "NOTIFY_"))
        }
        return kept | {
            "MYXO_STATE_DIR": str(self.folder / "state"),
            "MYXO_CONFIG_DIR": str(self.folder / "config"),
        }

    def start(self, *command: str) -> str:
        """Start a command; return what it printed once it has said READY=1."""
        number = len(self.running)
        log = self.folder / f"{number}.log"
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as ready, log.open("wb") as output:
            ready.bind(str(self.folder / f"{number}.ready"))
            ready.settimeout(0.2)
            process = subprocess.Popen(
                self._inside(command),
                env=self.environment | {"NOTIFY_SOCKET": str(ready.getsockname())},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
            )
            self.running.append(process)
            deadline = time.monotonic() + READY_TIMEOUT_S
            while process.poll() is None and time.monotonic() < deadline:
                with suppress(TimeoutError):
                    if b"READY=1" in ready.recv(4096):
                        return log.read_text()
        pytest.fail(f"{command} on {self.name} is not ready:\n{log.read_text()}")

    def run(self, *command: str) -> str:
        """Run a command to its end and return what it printed; fail if it fails."""
        done = self.try_run(*command)
        assert done.returncode == 0, f"{command} on {self.name}:\n{done.stdout}{done.stderr}"
        return done.stdout

    def try_run(self, *command: str) -> subprocess.CompletedProcess[str]:
        """Run a command to its end, whatever that is."""
        return subprocess.run(
            self._inside(command),
            env=self.environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            timeout=COMMAND_TIMEOUT_S,
        )

    def cut(self) -> None:
        """Pull the host's network cable."""
        _ip("-n", self.link[0], "link", "set", self.link[1], "down")

    def mend(self) -> None:
        """Put the cable back."""
        _ip("-n", self.link[0], "link", "set", self.link[1], "up")

    def stop(self) -> None:
        """Press Ctrl-C on everything that was started here."""
        for process in reversed(self.running):
            if process.poll() is None:
                process.send_signal(signal.SIGINT)
            try:
                process.wait(15)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def _inside(self, command: tuple[str, ...]) -> list[str]:
        program = COMMANDS / command[0]
        first = str(program) if program.exists() else command[0]
        return ["ip", "netns", "exec", self.name, first, *command[1:]]


@pytest.fixture
def lan() -> Iterator["Lan"]:
    """Hosts on one Ethernet; `lan.host()` plugs in the next one."""
    with tempfile.TemporaryDirectory(prefix="myxo-lan-") as folder:
        network = Lan(next(_numbers), Path(folder))
        try:
            network.create()
            yield network
        finally:
            network.destroy()


@dataclass
class Lan:
    """A bridge with hosts on it."""

    number: int
    folder: Path
    hosts: list[Host] = field(default_factory=list)

    @property
    def switch(self) -> str:
        """The namespace with the bridge; in one of its own no firewall of this machine sees it."""
        return f"mx{self.number}-switch"

    def create(self) -> None:
        """Make the bridge."""
        _ip("netns", "add", self.switch)
        _ip("-n", self.switch, "link", "add", "bridge0", "type", "bridge")
        _ip("-n", self.switch, "link", "set", "bridge0", "up")

    def host(self) -> Host:
        """Plug in another host."""
        position = len(self.hosts) + 1
        name, port = f"mx{self.number}-{position}", f"port{position}"
        folder = self.folder / str(position)
        folder.mkdir()
        host = Host(name, f"10.77.0.{position}", folder, (self.switch, port))
        self.hosts.append(host)
        _ip("netns", "add", name)
        _ip("-n", name, "link", "add", "eth0", "type", "veth", "peer", port, "netns", self.switch)
        _ip("-n", self.switch, "link", "set", port, "master", "bridge0", "up")
        _ip("-n", name, "addr", "add", f"{host.address}/24", "dev", "eth0")
        _ip("-n", name, "link", "set", "eth0", "up")
        _ip("-n", name, "link", "set", "lo", "up")
        return host

    def destroy(self) -> None:
        """Stop everything and remove it."""
        for host in reversed(self.hosts):
            host.stop()
        for namespace in [*(host.name for host in self.hosts), self.switch]:
            subprocess.run(["ip", "netns", "delete", namespace], check=False)


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True)
