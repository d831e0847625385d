"""Pre-made network sandboxes: how many there are to be, and which of them belongs to whom.

Most of what a container's start takes is its network: a namespace, a pair of interfaces, rules. It
can be made beforehand, by a container that does nothing but hold it, and another container then
starts in that network in less than half of the time. Kubernetes makes its pods so (the "pause"
container). A sandbox serves one instance and is never used again, because what an instance did in
its network (bound ports, open connections) would meet the next one.

Sandboxes are made in the background, and never while a start is under way, which would have to
share the engine with it. A stock that is short does not wait for ever, though: under an endless
stream of starts it is filled between them after `PATIENCE_S`.

Here is what is decided, from what is there; `sandbox_pool.py` does it.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from allocator.engine.containers import (
    ALIVE,
    LABEL,
    MIB,
    SMALLEST_MEMORY_MIB,
    Ownership,
    instance_id,
    instance_of,
    joined,
)
from allocator.engine.networks import BRIDGES, address_of
from allocator.runtime import Running
from overlay.names import InstanceId, SandboxId
from overlay.spec import Network

QUIET_S = 0.5
"""Seconds after the last start in which no sandbox is made: the service that was started needs the
processor for its own beginning, and another start often follows."""

PATIENCE_S = 5.0
"""Seconds that a stock which is short waits for quiet at most."""

HAND_OVER_S = 5.0
"""Seconds after which a sandbox whose socket no proxy has is a fault; the program looks again for a
proxy every 2 s even where nothing tells it of one."""


DIRECTORY = "/myxo"
"""Where the program finds the directory in which the proxy listens."""

NOBODY = "65534:65534"
PIDS_LIMIT = 16
"""The program is one process; the engine's runtime has threads there while it starts it."""

_ID = LABEL + "sandbox"
_NETWORK = LABEL + "sandbox-network"
_PORT = LABEL + "sandbox-proxy-port"
_LISTENS = LABEL + "sandbox-listens"


@dataclass(frozen=True, slots=True)
class Kind:
    """What instances a sandbox can be for.

    Attributes:
        proxy_port: where the proxy is found on its 127.0.0.1.
    """

    network: Network
    proxy_port: int


@dataclass(frozen=True, slots=True)
class Sandbox:
    """One sandbox that runs.

    Attributes:
        container: the engine's id of its container.
        address: on its bridge.
        listens: whether it has a socket to hand to the proxy.
    """

    id: SandboxId
    container: str
    kind: Kind
    address: str
    listens: bool


@dataclass(frozen=True, slots=True)
class Step:
    """What to do next: remove some, and make one."""

    remove: tuple[Sandbox, ...]
    make: Kind | None


def next_step(
    idle: Collection[Sandbox], networks: Iterable[Network], proxy_port: int, size: int
) -> Step:
    """Return what brings the unused sandboxes nearer to `size` of each network that is asked for.

    What has another proxy port than instances are told now is of no use to any.
    """
    keep: dict[Kind, int] = {Kind(network, proxy_port): 0 for network in networks}
    surplus = []
    for sandbox in idle:
        if keep.get(sandbox.kind, size) >= size:
            surplus.append(sandbox)
        else:
            keep[sandbox.kind] += 1
    fewest = min(keep, key=lambda kind: keep[kind], default=None)
    lacking = fewest is not None and keep[fewest] < size
    return Step(tuple(surplus), fewest if lacking else None)


def suits(kind: Kind, port: int) -> bool:
    """Whether who listens on `port` can be in a sandbox of `kind`, which listens itself."""
    return port != kind.proxy_port


def patience_s(now: float, last_start: float, lacking_since: float) -> float:
    """Return the seconds to wait before the next sandbox is made."""
    return max(0.0, min(last_start + QUIET_S, lacking_since + PATIENCE_S) - now)


@dataclass(frozen=True, slots=True)
class Found:
    """What an earlier run left.

    Attributes:
        running: its instances, and the sandbox that each is in, if it is in one.
        nobodys: ids of the containers that are of no use, instances before their sandboxes.
    """

    running: tuple[tuple[Running, Sandbox | None], ...]
    nobodys: tuple[str, ...]


def sort_out(
    rows: Sequence[Mapping[str, Any]],
    instances: Collection[InstanceId],
    sandboxes: Collection[SandboxId],
) -> Found:
    """Return who of the engine's list is whose; `instances` and `sandboxes` are known already.

    A sandbox without an instance may have had one before, so it is of no use.
    """
    by_container: dict[str, Sandbox] = {}
    for row in rows:
        sandbox = sandbox_of(row)
        if sandbox is not None:
            by_container[sandbox.container] = sandbox
    running: list[tuple[Running, Sandbox | None]] = []
    nobodys: list[str] = []
    for row in rows:
        labels = row.get("Labels") or {}
        if sandbox_id(labels) is not None or instance_id(labels) in instances:
            continue
        container = joined(row)
        sandbox = None if container is None else by_container.get(container)
        instance = instance_of(row, address_of(row) if sandbox is None else sandbox.address)
        if instance is None:
            nobodys.append(row["Id"])
        else:
            running.append((instance, sandbox))
    used = {sandbox.id for _, sandbox in running if sandbox is not None} | set(sandboxes)
    nobodys += [
        row["Id"]
        for row in rows
        if (name := sandbox_id(row.get("Labels") or {})) is not None and name not in used
    ]
    return Found(tuple(running), tuple(nobodys))


def sandbox_id(labels: Mapping[str, str]) -> SandboxId | None:
    """Return the sandbox that a container's labels name."""
    text = labels.get(_ID)
    return None if text is None else SandboxId(text)


def sandbox_of(row: Mapping[str, Any]) -> Sandbox | None:
    """Return the sandbox that a row of the engine's list is, if it runs and can be read."""
    labels: Mapping[str, str] = row.get("Labels") or {}
    name, address = sandbox_id(labels), address_of(row)
    if name is None or not address or row.get("State") not in ALIVE:
        return None
    network = next((n for n in BRIDGES if n == labels.get(_NETWORK)), None)
    port = labels.get(_PORT, "")
    if network is None or not port.isdecimal():
        return None
    kind = Kind(network, int(port))
    return Sandbox(name, row["Id"], kind, address, listens=labels.get(_LISTENS) == "yes")


def sandbox_config(
    name: SandboxId, kind: Kind, image: str, ownership: Ownership, *, listens: bool
) -> dict[str, Any]:
    """Return the arguments of the SDK's `create_container` for a sandbox, less `host_config`."""
    listening = [str(kind.proxy_port), DIRECTORY] if listens else []
    return {
        "image": image,
        "name": f"myxo-sandbox-{name}",
        "command": [name, *listening],
        "user": NOBODY,
        "labels": ownership.labels()
        | {
            _ID: name,
            _NETWORK: kind.network,
            _PORT: str(kind.proxy_port),
            _LISTENS: "yes" if listens else "no",
        },
    }


def sandbox_limits(kind: Kind) -> dict[str, Any]:
    """Return the arguments of the SDK's `create_host_config` for a sandbox, less its mount."""
    memory = SMALLEST_MEMORY_MIB * MIB
    return {
        "network_mode": BRIDGES[kind.network],
        "cap_drop": ["ALL"],
        "security_opt": ["no-new-privileges"],
        "read_only": True,
        "pids_limit": PIDS_LIMIT,
        "mem_limit": memory,
        "memswap_limit": memory,
        "ipc_mode": "none",
        "log_config": {"Type": "json-file", "Config": {"max-size": "8k", "max-file": "1"}},
    }
