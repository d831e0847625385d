"""What `bench.overlay` compares: a peer of Myxo and an agent of Serf, each on its own lab host.

Both print what they see as lines; each line is stamped when it is read, by one clock for all hosts.
"""

import json
import queue
import re
import subprocess
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, Protocol

from bench.errors import NetworkFailed
from bench.netlab.hosts import Host

JOIN_TIMEOUT_S = 30.0
END_TIMEOUT_S = 10.0

_SERF_EVENT = re.compile(r"EventMember(Join|Failed|Leave|Reap): (\S+) ")
_SERF_STATES = {"Join": "alive", "Failed": "dead", "Leave": "left", "Reap": "dead"}


class SerfMissing(NetworkFailed):
    """Serf is not installed."""


@dataclass(frozen=True, slots=True)
class Seen:
    """A change as one host saw it.

    Attributes:
        at: seconds, `time.time()`.
        by: the host that saw it.
        host: the host that it is about.
        state: a member's, or an instance's if `instance` is set.
    """

    at: float
    by: str
    host: str
    state: str
    instance: str = ""


@dataclass(slots=True)
class Running:
    """A peer that runs on a host."""

    host: Host
    process: "subprocess.Popen[bytes]"
    reader: threading.Thread

    def end(self) -> None:
        """Kill it; a process that is stopped too."""
        self.process.kill()
        self.process.wait(END_TIMEOUT_S)
        self.reader.join(END_TIMEOUT_S)


class Contender(Protocol):
    """A membership system under test."""

    name: str
    seen: "queue.Queue[Seen]"

    def start(self, host: Host) -> Running:
        """Start a peer that is in no network yet, and return when it could join one."""
        ...

    def join(self, peer: Running, through: Running | None) -> float:
        """Have a peer join, or found; return the time at which it was told to."""
        ...


@dataclass(slots=True)
class MyxoPeers:
    """Peers of Myxo, one a host."""

    profile: str = "lan"
    name: str = "myxo"
    seen: "queue.Queue[Seen]" = field(default_factory=queue.Queue)
    did: "queue.Queue[dict[str, Any]]" = field(default_factory=queue.Queue)
    _addresses: dict[str, str] = field(default_factory=dict)

    def start(self, host: Host) -> Running:
        """Start a peer and wait until it has loaded its libraries."""
        running = _start(host, ["python", "-m", "bench.overlay_peer"], self._take)
        self._await(host.name, "start")
        return running

    def join(self, peer: Running, through: Running | None) -> float:
        """Tell a peer to join; return when it was told."""
        host = peer.host
        bootstraps = [] if through is None else [self._addresses[through.host.name]]
        state = str(host.folder / "state")
        began = time.time()
        self._order(
            peer,
            do="join",
            bootstraps=bootstraps,
            ip=host.ip,
            host=host.name,
            state=state,
            profile=self.profile,
        )
        self._addresses[host.name] = self._await(host.name, "join")["address"]
        return began

    def publish(self, peer: Running, instance: str) -> float:
        """Have a peer publish that an instance is ready; return when it did."""
        self._order(peer, do="publish", id=instance)
        return float(self._await(peer.host.name, "publish")["since"])

    def withdraw(self, peer: Running, instance: str) -> None:
        """Have a peer publish that an instance is gone."""
        self._order(peer, do="withdraw", id=instance)
        self._await(peer.host.name, "withdraw")

    def estimates(self, peer: Running) -> dict[str, float]:
        """Return the RTTs that a peer estimates from coordinates alone, in seconds by host."""
        self._order(peer, do="estimate")
        return dict(self._await(peer.host.name, "estimate")["rtts"])

    def _order(self, peer: Running, **order: Any) -> None:
        assert peer.process.stdin is not None  # noqa: S101  (for the type checker: it is a pipe)
        peer.process.stdin.write(json.dumps(order).encode() + b"\n")
        peer.process.stdin.flush()

    def _await(self, host: str, what: str) -> dict[str, Any]:
        deadline = time.monotonic() + JOIN_TIMEOUT_S
        while time.monotonic() < deadline:
            try:
                did = self.did.get(timeout=deadline - time.monotonic())
            except queue.Empty:
                break
            if did["by"] == host and did["did"] == what:
                return did
        raise NetworkFailed(f"the peer on {host} did not {what} within {JOIN_TIMEOUT_S:g} s")

    def _take(self, host: str, at: float, line: str) -> None:
        if not line.startswith("{"):
            return
        said = json.loads(line)
        if "did" in said:
            self.did.put(said | {"by": host})
        elif said.get("host"):
            self.seen.put(
                Seen(said["at"], host, said["host"], said["state"], said.get("instance", ""))
            )
        del at


@dataclass(slots=True)
class SerfAgents:
    """Agents of Serf, one a host, with its defaults for a LAN or a WAN."""

    profile: str = "lan"
    name: str = "serf"
    seen: "queue.Queue[Seen]" = field(default_factory=queue.Queue)
    _ready: "queue.Queue[str]" = field(default_factory=queue.Queue)

    def start(self, host: Host) -> Running:
        """Start an agent and wait until it answers commands."""
        command = ["serf", "agent", f"-node={host.name}", f"-bind={host.ip}:7946"]
        command += [f"-profile={self.profile}", "-log-level=info", "-rpc-addr=127.0.0.1:7373"]
        try:
            running = _start(host, command, self._take)
        except OSError as exc:
            raise SerfMissing("serf is not installed: sudo apt-get install serf") from exc
        while self._ready.get(timeout=JOIN_TIMEOUT_S) != host.name:
            pass
        return running

    def join(self, peer: Running, through: Running | None) -> float:
        """Tell an agent to join; return when it was told."""
        began = time.time()
        if through is not None:
            peer.host.run(["serf", "join", through.host.ip])
        return began

    def _take(self, host: str, at: float, line: str) -> None:
        if "Serf agent running!" in line:
            self._ready.put(host)
        found = _SERF_EVENT.search(line)
        if found is not None:
            self.seen.put(Seen(at, host, found[2], _SERF_STATES[found[1]]))


def changes(contender: Contender, timeout_s: float) -> Iterator[Seen]:
    """Yield what is seen until nothing more is within `timeout_s` of the beginning."""
    deadline = time.monotonic() + timeout_s
    while (left := deadline - time.monotonic()) > 0:
        try:
            yield contender.seen.get(timeout=left)
        except queue.Empty:
            return


def forget_seen(contender: Contender) -> list[Seen]:
    """Return what was seen and not asked for yet."""
    found = []
    while not contender.seen.empty():
        found.append(contender.seen.get())
    return found


def _start(host: Host, command: list[str], take: Any) -> Running:
    log = (host.folder / f"{Path(command[0]).name}.err").open("wb")
    process = host.popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log)
    log.close()
    assert process.stdout is not None  # noqa: S101  (for the type checker: it is a pipe)
    reader = threading.Thread(target=_read, args=(host.name, process.stdout, take), daemon=True)
    reader.start()
    return Running(host, process, reader)


def _read(host: str, output: IO[bytes], take: Any) -> None:
    for line in output:
        take(host, time.time(), line.decode(errors="replace").strip())
