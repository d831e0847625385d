"""`myxo.connect`: a program on a machine without any daemon is in a network while it runs.

It cannot be a peer by itself: a peer answers probes every second and keeps a view of the network,
which a program that computes, or has an event loop of another kind, does not. So it has a proxy of
its own, as a process beside it, which has a new identity, stores nothing that outlives it, and
ends with the program, however that ends.
"""

import atexit
import os
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Self

from myxo.services.errors import NoProxy
from myxo.services.proxy_address import ProxyAddress
from overlay import options
from overlay.cli import SUPERVISED
from overlay.errors import SettingsInvalid
from overlay.notify import listening
from overlay.settings import NodeSettings

READY_TIMEOUT_S = 60.0
STOP_TIMEOUT_S = 10.0
LOOPBACK = "127.0.0.1"
NETWORK = ("MYXO_BOOTSTRAPS", "MYXO_PSK", "P2P_BOOTSTRAPS", "P2P_PSK")
"""The variables that say which network."""

SHOWN_LINES = 5
"""Of the proxy's last words, where it does not start."""


class Connection:
    """A proxy of the program's own, for as long as it is not closed; made by `connect`.

    Attributes:
        proxy: where it takes requests.
    """

    def __init__(self, bootstraps: Sequence[str], psk: str | None) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="myxo-program-")
        self._pid = os.getpid()
        self.proxy = ProxyAddress(LOOPBACK, _free_port())
        said = dict.fromkeys(NETWORK) | {
            "P2P_BOOTSTRAPS": " ".join(bootstraps),
            "P2P_PSK": psk,
        }
        self._process = self._start(said)
        self._before = _replace_environment(said | {"MYXO_PROXY": str(self.proxy)})
        atexit.register(self.close)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the proxy; what was in force before holds again. A second time it does nothing."""
        if os.getpid() != self._pid or self._process.returncode is not None:
            return
        atexit.unregister(self.close)
        _replace_environment(self._before)
        self._end()

    def _start(self, said: dict[str, str | None]) -> "subprocess.Popen[bytes]":
        folder = Path(self._folder.name)
        flags = ["--ephemeral", "--state-dir", str(folder), "--log-level", "warning"]
        # Any ports: the well-known ones are those of daemons that may be started here later.
        flags += ["--p2p-listen-addr", ":0", "--prom-listen-addr", f"{LOOPBACK}:0"]
        kept = {k: v for k, v in os.environ.items() if k not in said and "PROXY" not in k}
        environment = kept | {k: v for k, v in said.items() if v} | {SUPERVISED: "1"}
        log = folder / "log"
        with log.open("wb") as output, listening(folder / "ready") as ready:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "myxo", "proxy", *flags, str(self.proxy.port)],
                env=environment | ready.environment,
                stdin=subprocess.PIPE,  # its end tells the proxy that this program has ended
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
            if ready.wait(self._process, READY_TIMEOUT_S):
                return self._process
        words = "\n".join(log.read_text(errors="replace").splitlines()[-SHOWN_LINES:])
        self._end()
        raise NoProxy(f"the network at {said['P2P_BOOTSTRAPS']} could not be joined:\n{words}")

    def _end(self) -> None:
        if self._process.stdin is not None:
            self._process.stdin.close()
        self._process.terminate()
        try:
            self._process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._folder.cleanup()


def connect(*bootstraps: str, psk: str | None = None) -> Connection:
    """Be in a network, with a proxy of the program's own, until the program or the block ends.

    Everything that asks a proxy asks that one then, in programs that this one starts too. Blocks
    for some seconds.

    Args:
        bootstraps: addresses of bootstrap nodes; else those of `P2P_BOOTSTRAPS`, of the settings'
            file, or of the network that this machine is in.
        psk: the network's passphrase; else that of `P2P_PSK`, and so on.

    Raises:
        NoProxy: the network cannot be joined; the message has the proxy's last words.
        SettingsInvalid: no bootstrap node is known, or an address is none.
    """
    settings = NodeSettings.load({"bootstraps": bootstraps, "psk": psk})
    if not settings.bootstraps:
        raise SettingsInvalid(options.NO_BOOTSTRAP)
    return Connection(settings.bootstraps, settings.psk)


_connecting = threading.Lock()


def connected_by_environment(otherwise: ProxyAddress) -> ProxyAddress:
    """Be in the network that the environment names; return where its proxy is.

    If one takes connections at `otherwise`, that one is used.
    """
    with _connecting:
        said = os.environ.get("MYXO_PROXY")
        if said is None and not _answers(otherwise):
            return connect().proxy
    return otherwise if said is None else _address(said)


def _address(said: str) -> ProxyAddress:
    host, _, port = said.rpartition(":")
    return ProxyAddress(host, int(port))


def _answers(proxy: ProxyAddress) -> bool:
    try:
        socket.create_connection((proxy.host, proxy.port), timeout=1.0).close()
    except OSError:
        return False
    return True


def _free_port() -> int:
    with socket.create_server((LOOPBACK, 0)) as sock:
        port: int = sock.getsockname()[1]
        return port


def _replace_environment(by: dict[str, str | None]) -> dict[str, str | None]:
    """Set variables, or unset those that are None; return what they were."""
    before = {name: os.environ.get(name) for name in by}
    for name, value in by.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value
    return before
