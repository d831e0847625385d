"""Where Myxo's map runs: on a network founded here, one that is joined, or one of a lab."""

import os
import shutil
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from bench.lab_network import HUB, PROXY_PORT, LabNetwork, lab_network
from bench.netlab.plan import make_plan
from bench.network import PROXY_READY_S, Network, environment, network
from bench.starting import started
from overlay.testing_ports import free_port

CORE_MILLICORES = 1000
OWNER, CALLER, MACHINE = "bench", "caller", "machine"


@dataclass(frozen=True, slots=True)
class Place:
    """Where a program that maps runs.

    Attributes:
        environment: of the program.
        inside: the command that runs it on a host of a lab; none runs it here.
    """

    environment: Mapping[str, str]
    inside: tuple[str, ...] = ()


@contextmanager
def founded(workers: int) -> Iterator[Network]:
    """Found a network with room for so many workers and no more.

    Raises:
        NetworkFailed: it did not get ready.
    """
    flags = ["--allocator-flag", f"--cpu-millicores={workers * CORE_MILLICORES}"]
    with network("process", *flags) as running:
        yield running


def beside(running: Network) -> Place:
    """Return where a program of the same user runs."""
    where = {"MYXO_PROXY": f"127.0.0.1:{running.proxy_port}"}
    return Place(environment(running.folder) | where)


@contextmanager
def joined(bootstrap: str) -> Iterator[Place]:
    """Join a network as the user who runs this.

    The passphrase is that of `MYXO_PSK` or `P2P_PSK`; machines must let this user's key run code.

    Raises:
        NetworkFailed: the proxy did not get ready.
    """
    with tempfile.TemporaryDirectory(prefix="myxo-bench-") as name:
        folder, port = Path(name), free_port()
        user = os.environ | {"MYXO_STATE_DIR": str(folder / "state")}
        command = [sys.executable, "-m", "myxo", "proxy", "--bootstrap", bootstrap, "--ephemeral"]
        command += ["--p2p-listen-addr", f":{free_port()}"]
        command += ["--prom-listen-addr", f"127.0.0.1:{free_port()}", str(port)]
        with started(
            command, log=folder / "proxy.log", environment=user, ready_timeout_s=PROXY_READY_S
        ):
            where = {"MYXO_PROXY": f"127.0.0.1:{port}", "MYXO_BOOTSTRAPS": bootstrap}
            yield Place(user | where)


@dataclass(frozen=True, slots=True)
class Distant:
    """A program's machine, and the one with the workers, on a lab.

    Attributes:
        place: of the program.
        network: what runs.
    """

    place: Place
    network: LabNetwork

    def set_rtt(self, milliseconds: float) -> None:
        """Have packets take so long from one machine to the other and back."""
        self.network.lab.link(CALLER, MACHINE).set(delay_s=milliseconds / 2000)


@contextmanager
def distant(workers: int) -> Iterator[Distant]:
    """Make a lab where workers have room on another machine than the program.

    Raises:
        LabFailed, NetworkFailed: it cannot be made.
    """
    hosts = [{"name": name} for name in (HUB, CALLER, MACHINE)]
    with lab_network(
        make_plan(hosts=hosts, preset="lan"),
        allocators=[MACHINE],
        proxies=[CALLER],
        runtime="process",
        flags=["--cpu-millicores", str(workers * CORE_MILLICORES)],
        owners=[OWNER],
    ) as running:
        caller = running.lab.host(CALLER)
        shutil.copy(running.key(OWNER), Path(caller.environment["MYXO_CONFIG_DIR"], "owner.key"))
        where = {
            "MYXO_PROXY": f"127.0.0.1:{PROXY_PORT}",
            "P2P_BOOTSTRAPS": running.bootstrap,
            "P2P_PSK": running.psk,
        }
        yield Distant(Place(caller.environment | where, tuple(caller.prefix())), running)
