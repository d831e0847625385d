"""A Myxo network on the host lab: who runs what, services added from within, requests sent there.

The first host has the bootstrap node and the registry and nothing else; which of the others run an
allocator and which a proxy, the benchmark says. Services are added as several owners, all of whom
every host lets run processes.
"""

import json
import secrets
import socket
import subprocess
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import trio

from bench.errors import NetworkFailed
from bench.netlab.hosts import Daemon
from bench.netlab.lab import Lab, open_lab
from bench.netlab.plan import Plan
from myxo.status import read_status
from overlay.identity import load_or_create
from overlay.spec import ServiceSpec

HUB = "hub"
"""The host with the bootstrap node and the registry."""

PROXY_PORT = 4200


@dataclass(slots=True)
class LabNetwork:
    """A network that runs on a lab.

    Attributes:
        allocators: the hosts with an allocator.
        proxies: the hosts with a proxy.
    """

    lab: Lab
    allocators: tuple[str, ...]
    proxies: tuple[str, ...]
    psk: str = field(default_factory=lambda: secrets.token_hex(12))
    bootstrap: str = ""
    _daemons: dict[tuple[str, str], Daemon] = field(default_factory=dict)
    _registrar: "subprocess.Popen[bytes] | None" = None

    def url(self, service: str, path: str = "/") -> str:
        """Return what a program on a host with a proxy asks for."""
        return f"http://127.0.0.1:{PROXY_PORT}/{service}{path}"

    def connect(self, host: str) -> socket.socket:
        """Return a connection to a host's proxy, made on that host."""
        return self.lab.host(host).inside(
            lambda: socket.create_connection(("127.0.0.1", PROXY_PORT), 10.0)
        )

    def add(self, services: Mapping[str, ServiceSpec], owner: str = "bench") -> None:
        """Add services of an owner; all proxies hear of them within a round trip.

        Raises:
            NetworkFailed: no registry took one.
        """
        specs = [[name, spec.model_dump(mode="json")] for name, spec in services.items()]
        self._order(owner, add=specs)

    def delete(self, services: Iterable[str], owner: str = "bench") -> None:
        """Delete services of an owner; their instances are drained.

        Raises:
            NetworkFailed: no registry took it.
        """
        self._order(owner, delete=list(services))

    def key(self, owner: str) -> Path:
        """Return the file with the key of an owner, who may run processes on all hosts."""
        return self.lab.folder / f"{owner}.key"

    def daemon(self, host: str, command: str) -> Daemon:
        """Return what runs on a host: `allocator`, `proxy`, `bootstrap` or `registry-service`."""
        return self._daemons[host, command]

    def status(self, host: str) -> list[dict[str, Any]]:
        """Return what a host's daemons say of themselves."""
        state = self.lab.host(host).environment["MYXO_STATE_DIR"]
        return trio.run(read_status, Path(state))

    def log(self) -> str:
        """Return the end of what each daemon has said."""
        said = (
            f"--- {command} on {host}\n" + "\n".join(daemon.printed().splitlines()[-8:])
            for (host, command), daemon in self._daemons.items()
        )
        return "\n".join(said)

    def found(self, runtime: str, flags: Sequence[str], owners: Sequence[str]) -> None:
        """Start everything; all daemons are ready when this returns.

        Raises:
            LabFailed, NetworkFailed: they are not.
        """
        ids = "\n".join(load_or_create(self.key(owner)).peer_id for owner in owners)
        for host in self.lab.hosts:
            config = Path(host.environment["MYXO_CONFIG_DIR"])
            config.mkdir(parents=True)
            (config / "allowed_keys").write_text(f"{ids}\n")
        printed = self._start(HUB, "bootstrap").printed()
        ours = f"/ip4/{self.lab.host(HUB).address}/"
        self.bootstrap = next(line for line in printed.splitlines() if line.startswith(ours))
        join = ("--bootstrap", self.bootstrap)
        orders: list[tuple[str, ...]] = [(HUB, "registry-service", *join)]
        orders += [
            (host, "allocator", *join, "--runtime", runtime, *flags) for host in self.allocators
        ]
        orders += [(host, "proxy", *join) for host in self.proxies]
        with ThreadPoolExecutor(len(orders)) as threads:
            list(threads.map(lambda order: self._start(*order), orders))
        self._registrar = self._start_registrar()

    def end(self) -> None:
        """End what this process holds; the daemons end with the lab."""
        if self._registrar is not None:
            self._registrar.kill()
            self._registrar.communicate()

    def _start(self, host: str, command: str, *flags: str) -> Daemon:
        started = self.lab.host(host).start(
            [command, "--psk", self.psk, "--log-level", "warning", *flags]
        )
        self._daemons[host, command] = started
        return started

    def _start_registrar(self) -> "subprocess.Popen[bytes]":
        host = self.lab.host(HUB)
        with (host.folder / "registrar.err").open("wb") as errors:
            process = host.popen(
                ["python", "-m", "bench.registrar"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
            )
        join = {
            "bootstrap": self.bootstrap,
            "psk": self.psk,
            "state": str(host.folder / "registrar"),
        }
        _write(process, join)
        return process

    def _order(self, owner: str, **order: Any) -> None:
        process = self._registrar
        assert process is not None  # noqa: S101  (for the type checker: found() has started it)
        assert process.stdout is not None  # noqa: S101  (for the type checker: it is a pipe)
        _write(process, {"owner": str(self.key(owner)), **order})
        line = process.stdout.readline()
        failed = json.loads(line)["failed"] if line else "the registrar has ended"
        if failed:
            raise NetworkFailed(f"services of {owner}: {failed}")


@contextmanager
def lab_network(
    plan: Plan,
    *,
    allocators: Sequence[str],
    proxies: Sequence[str],
    runtime: str,
    flags: Sequence[str] = (),
    owners: Sequence[str] = ("bench",),
) -> Iterator[LabNetwork]:
    """Make the lab and the network for the length of a block.

    Args:
        plan: its host `hub` gets bootstrap node and registry.
        allocators: names of hosts.
        proxies: names of hosts.
        runtime: of all allocators.
        flags: of all allocators.
        owners: names of those whose services are added.

    Raises:
        LabFailed, NetworkFailed: it cannot be made.
    """
    with open_lab(plan) as lab:
        network = LabNetwork(lab, tuple(allocators), tuple(proxies))
        try:
            network.found(runtime, flags, owners)
            yield network
        finally:
            network.end()


def _write(process: "subprocess.Popen[bytes]", order: Mapping[str, Any]) -> None:
    assert process.stdin is not None  # noqa: S101  (for the type checker: it is a pipe)
    process.stdin.write(json.dumps(order).encode() + b"\n")
    process.stdin.flush()
