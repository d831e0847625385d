"""What a container looks like to the engine: a launch as arguments, and labels back as an instance.

The defaults are safe for images that nobody here has read: an own network without traffic between
containers, no published port, no new privileges, the capabilities that Docker gives less those that
a service behind a proxy has no use for, and bounds on processes, memory, CPU and logs.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from allocator.runtime import Launch, Running, instance_environment
from overlay.names import InstanceId, PeerId, ServiceName
from overlay.spec import ServiceSpec

DROPPED_CAPABILITIES = ("NET_RAW", "MKNOD", "AUDIT_WRITE", "SETFCAP")
PIDS_LIMIT = 4096
LOG_OPTIONS = {"max-size": "8m", "max-file": "2"}
NANO_CPUS_PER_MILLICORE = 1_000_000
MIB = 1024 * 1024

SMALLEST_MEMORY_MIB = 6
"""The engine refuses less."""

ALIVE = frozenset({"running", "paused"})
"""The states, in the engine's words, of a container that has not ended."""

KEPT_BY = {
    "CpuCfsQuota": "CpuReq: no quota of processors",
    "MemoryLimit": "MemoryReq: no bound on memory",
    "SwapLimit": "swap: an instance may have more memory than MemoryReq there",
    "PidsLimit": "the number of an instance's processes",
}
"""What the engine says of its kernel, and what is not enforced where it says no."""

LABEL = "myxo."
_JOINING = "container:"


@dataclass(frozen=True, slots=True)
class Ownership:
    """Who a container belongs to; what makes a restarted allocator find its own and only them."""

    network: str
    owner: PeerId

    def labels(self) -> dict[str, str]:
        """Return the labels that every container of this owner has."""
        return {LABEL + "network": self.network, LABEL + "owner": self.owner}

    def filters(self) -> list[str]:
        """Return the engine's label filters for this owner's containers."""
        return [f"{name}={value}" for name, value in self.labels().items()]


def container_name(service: ServiceName, instance: InstanceId) -> str:
    """Return the name that `docker ps` shows; a colon, which it may not have, becomes a dash."""
    return f"myxo-{service.replace(':', '-')}-{instance}"


def container_config(launch: Launch, ownership: Ownership, proxy_ip: str) -> dict[str, Any]:
    """Return the arguments of the SDK's `create_container`, less `host_config`.

    The spec travels in a label without its environment and command, which may hold secrets.
    """
    spec = launch.spec
    image = "" if spec.image is None else spec.image.config_digest
    public = spec.model_copy(update={"env": {}, "command": None})
    shell = {} if spec.command is None else {"entrypoint": ["/bin/sh", "-c"]}
    return {
        "image": image,
        "name": container_name(launch.service, launch.id),
        "environment": instance_environment(launch, port=spec.port, proxy_ip=proxy_ip),
        "command": None if spec.command is None else [spec.command],
        "labels": ownership.labels()
        | {
            LABEL + "service": launch.service,
            LABEL + "revision": str(launch.revision),
            LABEL + "instance": launch.id,
            LABEL + "author": launch.author,
            LABEL + "spec": public.model_dump_json(exclude_defaults=True),
        },
    } | shell


def host_config(spec: ServiceSpec, network_mode: str) -> dict[str, Any]:
    """Return the arguments of the SDK's `create_host_config`.

    There is no init process in front of the service: the engine's takes 20 to 30 ms of each start.
    """
    limits: dict[str, Any] = {}
    if spec.memory_mib:
        memory = max(spec.memory_mib, SMALLEST_MEMORY_MIB) * MIB
        limits |= {"mem_limit": memory, "memswap_limit": memory}
    if spec.cpu_millicores:
        limits["nano_cpus"] = spec.cpu_millicores * NANO_CPUS_PER_MILLICORE
    if spec.read_only:
        limits |= {"read_only": True, "tmpfs": {"/tmp": "rw,nosuid,nodev,size=64m"}}  # noqa: S108
    return limits | {
        "network_mode": network_mode,
        "cap_drop": ["ALL"] if spec.cap_drop_all else list(DROPPED_CAPABILITIES),
        "security_opt": ["no-new-privileges"],
        "pids_limit": PIDS_LIMIT,
        "log_config": {"Type": "json-file", "Config": LOG_OPTIONS},
    }


def unenforced_of(about: Mapping[str, Any]) -> tuple[str, ...]:
    """Return which limits the engine's kernel does not keep, by the engine's word on itself."""
    return tuple(text for key, text in KEPT_BY.items() if not about.get(key))


def instance_of(container: Mapping[str, Any], address: str) -> Running | None:
    """Return the instance that a row of the engine's container list is, if it runs or is paused.

    None is a container that has ended, was never started, or whose labels cannot be read; or one
    without an address, as its network is gone.
    """
    labels: Mapping[str, str] = container.get("Labels") or {}
    if container.get("State") not in ALIVE or not address:
        return None
    try:
        spec = ServiceSpec.model_validate_json(labels[LABEL + "spec"])
        return Running(
            id=InstanceId(labels[LABEL + "instance"]),
            service=ServiceName(labels[LABEL + "service"]),
            revision=int(labels[LABEL + "revision"]),
            author=PeerId(labels[LABEL + "author"]),
            spec=spec,
            address=f"{address}:{spec.port}",
            paused=container.get("State") == "paused",
        )
    except (KeyError, ValueError, ValidationError):
        return None


def instance_id(labels: Mapping[str, str]) -> InstanceId | None:
    """Return the instance that a container's labels name."""
    text = labels.get(LABEL + "instance")
    return None if text is None else InstanceId(text)


def joining(container: str) -> str:
    """Return the network mode of who is in the network of another container."""
    return _JOINING + container


def joined(container: Mapping[str, Any]) -> str | None:
    """Return the id of the container whose network a row of the engine's list is in, if any."""
    mode = str((container.get("HostConfig") or {}).get("NetworkMode") or "")
    return mode.removeprefix(_JOINING) if mode.startswith(_JOINING) else None


def memory_of(stats: Mapping[str, Any]) -> int:
    """Return the MiB that a container uses by the engine's statistics, as `docker stats` has it.

    Pages of files that the kernel would drop at need do not count (cgroup v1 and v2 name them
    differently).
    """
    memory: Mapping[str, Any] = stats.get("memory_stats") or {}
    detail: Mapping[str, int] = memory.get("stats") or {}
    reclaimable = detail.get("total_inactive_file", detail.get("inactive_file", 0))
    used = max(0, int(memory.get("usage", 0)) - int(reclaimable))
    return max(1, -(-used // MIB))
