"""A lab that is up: its hosts, the links between them, and what becomes of both while it runs.

Its folder has a home for each host, the router's socket and log, and what `state.py` writes, by
which a later command finds the lab again, and `clean` what a lab that was killed has left.
"""

import os
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict
from itertools import permutations
from pathlib import Path
from typing import Any

from bench.netlab import state
from bench.netlab.errors import LabFailed, LabNotUp, NotRoot, RouterGone, UnknownHost
from bench.netlab.hosts import Host
from bench.netlab.links import LabLink
from bench.netlab.messages import RouterClient
from bench.netlab.plan import Plan
from bench.netlab.processes import ProcessId

FOLDER_PREFIX = "myxo-lab-"
"""Of the temporary folders of labs that end with a block."""

MAX_SOCKET_PATH = 107
END_TIMEOUT_S = 10.0
CHECKOUT = Path(__file__).resolve().parents[2]


class Lab:
    """A lab that is up; made by `open_lab`, `found` and `find`.

    Args:
        plan: what was made; the links in it are those it began with.
        folder: its own.
        router: a connection to its router.
        router_process: the router itself.
        held: the namespaces of hosts that are on.
    """

    def __init__(
        self,
        plan: Plan,
        folder: Path,
        router: RouterClient,
        router_process: ProcessId,
        held: state.Held | None = None,
    ) -> None:
        self.plan = plan
        self.folder = folder
        self.router = router
        self._router_process = router_process
        known = held or {}
        self.hosts = tuple(
            Host(each, plan, folder / each.name, router, known.get(each.name, ()), self.note)
            for each in plan.hosts
        )

    def host(self, name: str) -> Host:
        """Return the host of this name.

        Raises:
            UnknownHost: there is none.
        """
        for host in self.hosts:
            if host.name == name:
                return host
        names = ", ".join(host.name for host in self.hosts)
        raise UnknownHost(f"the lab has no host {name!r}; it has {names}")

    def link(self, one: Host | str, other: Host | str) -> LabLink:
        """Return the link between two hosts; where a direction counts, from `one` to `other`.

        Raises:
            UnknownHost: there is no such host, or both are the same.
        """
        source, target = self._name(one), self._name(other)
        if source == target:
            raise UnknownHost(f"a link is between two hosts, not from {source} to itself")
        return LabLink(source, target, self.router)

    def cut(self, one: Host | str, other: Host | str) -> None:
        """Cut the link between two hosts, both ways, until `heal` of the two."""
        self.link(one, other).cut()

    def cut_host(self, host: Host | str) -> None:
        """Pull a host's network cable, until `heal` of it; the host itself goes on."""
        self.router.ask("cut_ports", names=[self._name(host)], cut=True)

    def partition(self, *groups: Iterable[Host | str]) -> None:
        """Cut every link between hosts of different groups."""
        sides = [[self._name(host) for host in group] for group in groups]
        paths = [(a, b) for one, other in permutations(sides, 2) for a in one for b in other]
        self.router.ask("cut", paths=paths, cut=True)

    def heal(self, *hosts: Host | str) -> None:
        """Undo `cut` of the two hosts given, `cut_host` of the one given, or all if none is."""
        match [self._name(host) for host in hosts]:
            case [one, other]:
                self.link(one, other).heal()
            case [one]:
                self.router.ask("cut_ports", names=[one], cut=False)
            case []:
                names = [host.name for host in self.hosts]
                self.router.ask("cut", paths=list(permutations(names, 2)), cut=False)
                self.router.ask("cut_ports", names=names, cut=False)
            case _:
                raise UnknownHost("heal takes one host, two, or none for all")

    def status(self) -> dict[str, Any]:
        """Return hosts and links as they are now, as JSON has it."""
        seen = self.router.ask("status")
        hosts = [
            {
                "name": host.name,
                "address": host.address,
                "ip": host.ip,
                "nat": host.plan.nat.value,
                "engine": host.plan.engine,
                "on": host.is_on,
            }
            | {key: seen["ports"][host.name][key] for key in ("cut", "unroutable")}
            for host in self.hosts
        ]
        return {
            "folder": str(self.folder),
            "router": {
                "pid": self._router_process.pid,
                "cpu_s": seen["cpu_s"],
                "latest_s": seen["latest_s"],
            },
            "hosts": hosts,
            "links": seen["paths"],
        }

    def note(self) -> None:
        """Write down which processes hold the lab, for later commands."""
        state.write(
            self.folder, self.plan, self._router_process, {h.name: h.held for h in self.hosts}
        )

    def power_on(self) -> None:
        """Switch all hosts on.

        Raises:
            LabFailed: one cannot be.
        """
        for host in self.hosts:
            host.power_on()

    def close(self) -> None:
        """End everything, and remove the folder."""
        with suppress(RouterGone):
            self.router.ask("stop")
        self.router.close()
        for host in self.hosts:
            host.end()
        shutil.rmtree(self.folder, ignore_errors=True)

    def _name(self, host: Host | str) -> str:
        return self.host(host).name if isinstance(host, str) else host.name


@contextmanager
def open_lab(plan: Plan) -> Iterator[Lab]:
    """Make a lab for the length of a block; every host is on when it begins.

    Raises:
        NotRoot, LabFailed: it cannot be made.
    """
    need_root()
    with tempfile.TemporaryDirectory(prefix=FOLDER_PREFIX, ignore_cleanup_errors=True) as name:
        lab, router = _made(plan, Path(name), owned=True)
        try:
            lab.power_on()
            yield lab
        finally:
            lab.close()
            _reap(router)


def found(plan: Plan, folder: Path) -> Lab:
    """Make a lab that stays up when this process has ended; `find(folder)` finds it again.

    Raises:
        NotRoot, LabFailed: it cannot be made; one that is up in `folder` goes on.
    """
    need_root()
    with suppress(LabNotUp):
        find(folder).router.close()
        raise LabFailed(f"a lab is up in {folder} already; `myxo lab net down` ends it")
    folder.mkdir(parents=True, exist_ok=True)
    lab, router = _made(plan, folder, owned=False)
    try:
        lab.power_on()
    except BaseException:
        lab.close()
        _reap(router)
        raise
    return lab


def find(folder: Path) -> Lab:
    """Return the lab that `found` made in `folder`.

    Raises:
        LabNotUp: there is none, or it has ended.
    """
    known = state.read(folder)
    if known is None or not known.router.alive:
        raise LabNotUp(f"no lab is up in {folder}; `myxo lab net up` makes one")
    return Lab(known.plan, folder, RouterClient(_socket(folder)), known.router, known.held)


def _made(plan: Plan, folder: Path, *, owned: bool) -> tuple[Lab, "subprocess.Popen[bytes]"]:
    """Start the router; return it, and the lab with all links set and every host off."""
    process = _start_router(folder, plan.seed, owned=owned)
    try:
        router = RouterClient(_socket(folder))
        names, addresses = zip(*((h.name, [h.address]) for h in plan.hosts), strict=True)
        router.ask("ports", names=names, addresses=addresses)
        router.ask("set", paths=[(*path, asdict(link)) for path, link in plan.links.items()])
        lab = Lab(plan, folder, router, ProcessId.of(process.pid))
        lab.note()
    except BaseException:
        process.kill()
        _reap(process)
        raise
    return lab, process


def _reap(router: "subprocess.Popen[bytes]") -> None:
    if router.stdin is not None:
        router.stdin.close()
    try:
        router.wait(END_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        router.kill()
        router.wait()


def _start_router(folder: Path, seed: int, *, owned: bool) -> "subprocess.Popen[bytes]":
    path = _socket(folder)
    if len(str(path).encode()) > MAX_SOCKET_PATH:
        raise LabFailed(f"{path} is longer than a Unix socket's path may be")
    path.unlink(missing_ok=True)
    with socket.socket(socket.AF_UNIX) as listener, (folder / "router.log").open("wb") as log:
        listener.bind(str(path))
        listener.listen()
        command = [sys.executable, "-m", "bench.netlab.router"]
        command += ["--listen", str(listener.fileno()), "--seed", str(seed)]
        return subprocess.Popen(
            command + (["--owned"] if owned else []),
            cwd=CHECKOUT,
            stdin=subprocess.PIPE if owned else subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            pass_fds=[listener.fileno()],
            start_new_session=True,
        )


def _socket(folder: Path) -> Path:
    return folder / "router.sock"


def need_root() -> None:
    """Return if this process is root's.

    Raises:
        NotRoot: it is not.
    """
    if os.geteuid() != 0:
        raise NotRoot
