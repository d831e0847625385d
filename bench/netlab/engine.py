"""A Docker engine of a host's own: in its namespaces, with data, socket and bridge of its own.

Its containers are processes of the host and end with it. What they leave behind are folders of
control groups, all below one named for the host, which are removed when it is off. Its images stay
over a reboot; its pid files must not, because after a reboot the same numbers are others'.
"""

import hashlib
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from bench.netlab.errors import LabFailed
from bench.netlab.namespaces import Namespaces

READY_TIMEOUT_S = 60.0
"""It takes two seconds on an idle machine, and several engines may start at once."""

CGROUPS = Path("/sys/fs/cgroup")
CGROUP_PREFIX = "myxo-lab-"

_SHIMS = Path("/run/containerd")
"""Where containerd has its shims' sockets, whatever else it is told."""

_POLL_S = 0.05
_PING_TIMEOUT_S = 5.0
_MAX_SOCKET_PATH = 107
_LONGEST_SOCKET = "exec/containerd/containerd-debug.sock.ttrpc"
_LOG_LINES = 20


class Engine:
    """The engine of one host; `start` it when the host is on.

    Args:
        folder: its own.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        # The name must differ from those of all labs of this machine, and tell which are left over.
        self.cgroup = CGROUP_PREFIX + hashlib.sha256(str(folder).encode()).hexdigest()[:12]

    @property
    def url(self) -> str:
        """Where it answers, also for clients outside of the host."""
        return f"unix://{self._socket}"

    @property
    def _socket(self) -> Path:
        return self._folder / "docker.sock"

    def start(
        self, inside: Namespaces, environment: Mapping[str, str]
    ) -> "subprocess.Popen[bytes]":
        """Start it on the host and return it when it answers.

        Raises:
            LabFailed: it is not installed or does not start; with the end of its log.
        """
        if shutil.which("dockerd", path=environment["PATH"]) is None:
            raise LabFailed("a host with an engine needs dockerd (Debian: docker.io)")
        if len(str(self._folder / _LONGEST_SOCKET).encode()) > _MAX_SOCKET_PATH:
            raise LabFailed(f"{self._folder} is too long a path for an engine's sockets")
        self._folder.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(self._folder / "exec", ignore_errors=True)
        (self._folder / "docker.pid").unlink(missing_ok=True)
        _SHIMS.mkdir(parents=True, exist_ok=True)
        inside.set_up("mount", "-t", "tmpfs", "tmpfs", str(_SHIMS))
        log = self._folder / "log"
        with log.open("wb") as output:
            process = inside.popen(
                [
                    *("dockerd", "--host", self.url, "--cgroup-parent", f"/{self.cgroup}"),
                    *("--data-root", str(self._folder / "data")),
                    *("--exec-root", str(self._folder / "exec")),
                    *("--pidfile", str(self._folder / "docker.pid")),
                ],
                environment=environment,
                stdout=output,
                stderr=subprocess.STDOUT,
            )
        self._await_answer(process, log)
        return process

    def thaw(self) -> None:
        """Let what is paused go on: a frozen process does not end, not even when it is killed."""
        thaw(self.cgroup)

    def forget(self) -> None:
        """Remove what the engine of a host that is off has left in the kernel."""
        remove_cgroups(self.cgroup)

    def _await_answer(self, process: "subprocess.Popen[bytes]", log: Path) -> None:
        deadline = time.monotonic() + READY_TIMEOUT_S
        while process.poll() is None and time.monotonic() < deadline:
            if self._answers():
                return
            time.sleep(_POLL_S)
        process.kill()
        process.wait()
        said = "\n".join(log.read_text().splitlines()[-_LOG_LINES:])
        raise LabFailed(f"the Docker engine in {self._folder} did not start:\n{said}")

    def _answers(self) -> bool:
        with suppress(OSError), socket.socket(socket.AF_UNIX) as sock:
            sock.settimeout(_PING_TIMEOUT_S)
            sock.connect(str(self._socket))
            sock.sendall(b"GET /_ping HTTP/1.0\r\n\r\n")
            return b" 200 " in sock.recv(64)
        return False


def thaw(name: str) -> None:
    """Let go on what is frozen in the control group `name` and below."""
    for file, word in (("freezer.state", "THAWED"), ("cgroup.freeze", "0")):
        for top in (*CGROUPS.glob(name), *CGROUPS.glob(f"*/{name}")):
            for path in top.rglob(file):
                with suppress(OSError):  # it was removed meanwhile
                    path.write_text(word)


def remove_cgroups(name: str) -> None:
    """Remove the control group `name`, which only dead processes are in, from each hierarchy."""
    thaw(name)
    for top in CGROUPS.glob(f"*/{name}"):
        for folder, _, _ in os.walk(top, topdown=False):
            with suppress(OSError):  # one that is busy says so at the next `clean` again
                Path(folder).rmdir()
