"""Real etcd processes and short names of fixtures' types, for tests of what uses a registry."""

import os
import signal
import subprocess
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path

import trio

from overlay.names import PeerId
from overlay.revision import SignedRevision
from overlay.testing_ports import free_ports
from registry.store import Store

OpenStore = Callable[[PeerId | None], AbstractAsyncContextManager[Store]]
MakeRevision = Callable[..., SignedRevision]


class EtcdProcess:
    """A real etcd with a data directory of its own, which can be killed, hung and restarted."""

    def __init__(self, data: Path, *, tls: tuple[Path, Path, Path] | None = None) -> None:
        self.data = data
        self.tls = tls
        self.client_port, self.peer_port, self.health_port = free_ports(3)
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def endpoint(self) -> str:
        """Where clients connect."""
        return f"{'https' if self.tls else 'http'}://127.0.0.1:{self.client_port}"

    def start(self) -> None:
        """Start it, or start it again on the same data."""
        peer = f"http://127.0.0.1:{self.peer_port}"
        command = [
            "etcd", "--name", "test", "--data-dir", str(self.data),
            "--listen-client-urls", self.endpoint, "--advertise-client-urls", self.endpoint,
            "--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer,
            "--listen-metrics-urls", f"http://127.0.0.1:{self.health_port}",
            "--initial-cluster", f"test={peer}",
        ]  # fmt: skip
        if self.tls is not None:
            ca, cert, key = self.tls
            command += ["--cert-file", str(cert), "--key-file", str(key)]
            command += ["--trusted-ca-file", str(ca), "--client-cert-auth"]
        with (self.data.parent / "etcd.log").open("ab") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=log)

    async def wait_until_ready(self) -> None:
        """Wait until it has a leader and accepts connections."""
        with trio.fail_after(30):
            while not await self._ready():  # noqa: ASYNC110  (etcd tells nobody when it is ready)
                await trio.sleep(0.05)

    async def _ready(self) -> bool:
        if self.process is None or self.process.poll() is not None:
            raise RuntimeError((self.data.parent / "etcd.log").read_text()[-2000:])
        try:
            stream = await trio.open_tcp_stream("127.0.0.1", self.health_port)
        except OSError:
            return False
        async with stream:
            await stream.send_all(b"GET /health HTTP/1.0\r\n\r\n")
            return b" 200 " in await stream.receive_some(64)

    def kill(self) -> None:
        """End it as a crash does."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()

    def signal(self, number: signal.Signals) -> None:
        """Send it a signal: SIGSTOP hangs it, SIGCONT lets it go on."""
        if self.process is None:
            return
        self.process.send_signal(number)
        if number is signal.SIGSTOP:
            os.waitid(os.P_PID, self.process.pid, os.WSTOPPED | os.WNOWAIT)  # not at once

    def stop(self) -> None:
        """End it if it runs."""
        self.kill()
