"""A Myxo network for a benchmark: `myxo up` as a user runs it, with state of its own.

Nothing of the user's is touched: state, keys and settings are in a temporary folder, ports are free
ones, and at the end the daemons and what they started are gone.
"""

import os
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.errors import NetworkFailed
from bench.registrar import Registrar
from bench.starting import CHECKOUT, started
from myxo.status import read_status
from overlay.node import open_node
from overlay.records import Role
from overlay.settings import NodeSettings, read_joined_network
from overlay.testing_ports import free_port

PROXY_READY_S = 60.0
_LOG_LINES = 40


@dataclass(frozen=True, slots=True)
class Network:
    """A network that runs.

    Attributes:
        up: the process of `myxo up`.
        folder: where its state, configuration and log are.
        proxy_port: where the proxy listens.
        ready_s: from starting the process to its READY=1.
        inside: what comes before each command, where it runs in a namespace.
    """

    up: "subprocess.Popen[bytes]"
    folder: Path
    proxy_port: int
    ready_s: float
    inside: tuple[str, ...] = ()

    def url(self, name: str, path: str = "") -> str:
        """Return where the proxy answers for the service `name`."""
        return f"http://127.0.0.1:{self.proxy_port}/{name}{path}"

    def registry_cli(self, *arguments: str) -> str:
        """Run `registry-cli` as a user does; return what it printed.

        Raises:
            NetworkFailed: it said no.
        """
        command = [*self.inside, sys.executable, "-m", "myxo", "registry-cli", *arguments]
        done = subprocess.run(
            command,
            env=environment(self.folder),
            cwd=CHECKOUT,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        if done.returncode:
            raise NetworkFailed(f"registry-cli {' '.join(arguments)}: {done.stdout}")
        return done.stdout

    async def status(self) -> list[dict[str, Any]]:
        """Return what each daemon says of itself."""
        return await read_status(self.folder / "state")

    async def addresses(self, service: str) -> list[str]:
        """Return where the ready instances of a service listen."""
        return [
            str(instance["address"])
            for daemon in await self.status()
            for instance in daemon.get("own_instances", ())
            if instance["service"] == service and instance["state"] == "ready"
        ]

    async def processes(self) -> dict[str, int]:
        """Return the daemons' process ids by role, with the supervisor's as `myxo up`."""
        found = {str(daemon["role"]): int(daemon["pid"]) for daemon in await self.status()}
        return {"myxo up": self.up.pid} | found

    def log(self) -> str:
        """Return what the daemons have said so far."""
        return (self.folder / "up.log").read_text()


@contextmanager
def network(
    runtime: str, *flags: str, inside: tuple[str, ...] = (), address: str = "127.0.0.1"
) -> Iterator[Network]:
    """Run `myxo up`; yield when it is ready, stop it at the end.

    Args:
        runtime: the allocator's.
        flags: further ones of `myxo up`.
        inside: the command that runs another in a namespace, if it is to be in one.
        address: where the bootstrap node listens.

    Raises:
        NetworkFailed: it did not get ready.
    """
    with tempfile.TemporaryDirectory(prefix="myxo-bench-") as name:
        folder = Path(name)
        proxy_port, p2p_port = free_port(), free_port()
        command = [*inside, sys.executable, "-m", "myxo", "up", "--runtime", runtime]
        command += ["--proxy-port", str(proxy_port), "--p2p-listen-addr", f"{address}:{p2p_port}"]
        with started(
            [*command, *flags], log=folder / "up.log", environment=environment(folder)
        ) as up:
            running = Network(up.process, folder, proxy_port, up.ready_s, inside)
            with _saying_why(running):
                yield running


@contextmanager
def _saying_why(running: Network) -> Iterator[None]:
    """Show what the daemons said where the benchmark fails on them."""
    try:
        yield
    except BaseException:
        print("\n".join(running.log().splitlines()[-_LOG_LINES:]), file=sys.stderr)
        raise


@asynccontextmanager
async def open_registrar(running: Network) -> AsyncIterator[Registrar]:
    """Join the network as the machine's own user and yield who adds services to it."""
    joined = read_joined_network(running.folder / "state")
    settings = NodeSettings(
        bootstraps=tuple(joined["bootstraps"]),
        psk=joined.get("psk"),
        state_dir=running.folder / "registrar",
        ephemeral=True,
    )
    async with open_node(settings, Role.CLIENT) as node:
        yield Registrar(node, running.folder / "config" / "owner.key")


def is_stocked(daemons: Iterable[Mapping[str, Any]]) -> bool:
    """Whether the allocator among a machine's daemons has as many sandboxes as it is to have.

    Args:
        daemons: what each says of itself.
    """
    for daemon in daemons:
        if stock := daemon.get("sandboxes"):
            return bool(stock["ready"] >= stock["wanted"] or stock["problem"])
    return True


@contextmanager
def joined_proxy(
    founded: Network, name: str, arguments: Iterable[str], inside: Iterable[str] = ()
) -> Iterator[int]:
    """Run a further proxy of the network; yield its process id when it is ready.

    Args:
        founded: the network.
        name: of its folder, in which it has state of its own.
        arguments: of the command `myxo proxy`, beside what it needs to join.
        inside: the command that runs it on another host of a lab.

    Raises:
        NetworkFailed: it did not get ready; says what it printed.
    """
    joined, folder = read_joined_network(founded.folder / "state"), founded.folder / name
    command = [*inside, sys.executable, "-m", "myxo", "proxy", *arguments]
    for bootstrap in joined["bootstraps"]:
        command += ["--bootstrap", bootstrap]
    command += ["--psk", joined["psk"], "--log-level", "warning"]
    folder.mkdir()
    with started(
        command,
        log=folder / "log",
        environment=environment(folder),
        ready_timeout_s=PROXY_READY_S,
    ) as proxy:
        yield proxy.process.pid


def environment(folder: Path) -> dict[str, str]:
    """Return what daemons see whose state and settings are in `folder`."""
    ours = {
        "MYXO_STATE_DIR": str(folder / "state"),
        "MYXO_CONFIG_DIR": str(folder / "config"),
    }
    others = {k: v for k, v in os.environ.items() if not k.startswith(("MYXO_", "P2P_"))}
    return others | ours
