"""The contract between the allocator and whatever runs instances: an engine, or the machine itself.

An instance is created, started, watched, paused, resumed and removed. Its address is known once it
is started; that it listens there is found out by `readiness.py`, not by the runtime. What a runtime
started outlives the allocator, and `adopt` finds it again; what belongs to another allocator is
never touched.

`engine/docker.py` and `processes/runtime.py` implement it, `testing.py` has one in memory; the same
tests hold them all to it.
"""

import signal
from dataclasses import dataclass, field
from typing import Literal, Protocol

import trio

from overlay.names import Digest, InstanceId, PeerId, ServiceName
from overlay.spec import ServiceSpec

LOG_TAIL_LINES = 40
LOG_TAIL_BYTES = 16 * 1024
"""What of an instance's log goes into an error: some screens, far under a frame's limit."""

STOP_GRACE_S = 3.0
"""Seconds between the polite signal and the hard one; no request is in flight any more."""

_KILLED = 128 + signal.SIGKILL
"""What ended for its memory ends so, and an engine does not always hear that it was for that."""


@dataclass(frozen=True, slots=True)
class Launch:
    """Everything that a runtime needs to start one instance.

    Attributes:
        author: the owner key that signed the revision.
        proxy_port: where this machine's proxy listens.
    """

    id: InstanceId
    service: ServiceName
    revision: int
    author: PeerId
    spec: ServiceSpec
    proxy_port: int


@dataclass(frozen=True, slots=True)
class Running:
    """An instance that was found running when its allocator came back.

    Attributes:
        address: `host:port`, dialled from this machine.
        spec: what it was started with, less what may be secret.
        paused: it was paused, and is so still.
    """

    id: InstanceId
    service: ServiceName
    revision: int
    author: PeerId
    spec: ServiceSpec
    address: str
    paused: bool = False


@dataclass(frozen=True, slots=True)
class PostMortem:
    """How an instance ended.

    Attributes:
        exit_code: None where it cannot be known, as for a process adopted from an earlier run.
        runtime_stopped: it ended with its runtime, or while that was away, and not by itself.
    """

    exit_code: int | None
    oom_killed: bool = False
    log: str = ""
    runtime_stopped: bool = False

    def __str__(self) -> str:
        """Say it in a few words."""
        if self.runtime_stopped:
            return "its container engine was stopped or lost"
        if self.oom_killed:
            return "it was killed for using more memory than its MemoryReq"
        if self.exit_code is None:
            return "it ended"
        why = " (killed, perhaps for its memory)" if self.exit_code == _KILLED else ""
        return f"it ended with exit code {self.exit_code}{why}"


@dataclass(frozen=True, slots=True)
class Capacity:
    """What a machine can give to instances."""

    cpu_millicores: int
    memory_mib: int
    platform: str


@dataclass(frozen=True, slots=True)
class Health:
    """Whether a runtime can be used, and what its user should know.

    Attributes:
        problem: empty if it can be used; else what to do.
        images: config digests of images that are there, the newest first; not always all.
        unenforced: requirements of a spec that this runtime cannot hold instances to.
    """

    problem: str = ""
    images: tuple[Digest, ...] = ()
    unenforced: tuple[str, ...] = field(default=())

    @property
    def usable(self) -> bool:
        """Whether instances can be started."""
        return not self.problem


class Runtime(Protocol):
    """Runs instances; all methods but `run` need `run` to be running."""

    name: Literal["docker", "process"]

    async def run(self, *, task_status: trio.TaskStatus[None]) -> None:
        """Watch the instances until cancelled; `started` once it is known whether it is usable."""
        ...

    def health(self) -> Health:
        """Return whether the runtime can be used right now."""
        ...

    async def health_changed(self) -> None:
        """Wait until `health` may say something else."""
        ...

    def capacity(self) -> Capacity:
        """Return what the machine has, reserved or not.

        Raises:
            RuntimeDown: the runtime has never been usable yet.
        """
        ...

    async def create(self, launch: Launch) -> None:
        """Make the instance without running it.

        Raises:
            ImageMissing: `pull` may help.
            LaunchFailed: the runtime said no.
            RuntimeDown: the runtime does not answer.
        """
        ...

    async def pull(self, launch: Launch) -> None:
        """Fetch the image of an instance, and check that it is the one that is meant.

        Raises:
            ImageMissing: it was pushed nowhere, cannot be fetched, or is another image.
            RuntimeDown: the runtime does not answer.
        """
        ...

    async def start(self, instance: InstanceId) -> str:
        """Run a created instance; return its `host:port`, which need not accept connections yet.

        Raises:
            LaunchFailed: the runtime said no, or the instance was not created.
            RuntimeDown: the runtime does not answer.
        """
        ...

    async def pause(self, instance: InstanceId) -> None:
        """Freeze a started instance: it uses no CPU, keeps its memory, and answers nobody.

        It is frozen as a whole, or not at all. Nothing happens if it is paused already. Only the
        caller knows that no request is in flight.

        Raises:
            Unpausable: the runtime cannot, or the instance is not there; it runs on if it is.
            RuntimeDown: the runtime does not answer; the instance may be paused.
        """
        ...

    async def resume(self, instance: InstanceId) -> None:
        """Let a paused instance run on; nothing happens if it is not paused.

        Raises:
            LaunchFailed: the runtime said no, or the instance is not there.
            RuntimeDown: the runtime does not answer.
        """
        ...

    async def memory_mib(self, instance: InstanceId) -> int:
        """Return what a started instance uses, paused or not, in MiB, at least 1.

        Raises:
            Unmeasured: it is not there, or the runtime cannot tell.
            RuntimeDown: the runtime does not answer.
        """
        ...

    async def exited(self, instance: InstanceId) -> None:
        """Return when a started instance has ended, or is not known."""
        ...

    async def post_mortem(self, instance: InstanceId) -> PostMortem:
        """Return how an instance ended, or the tail of its log while it runs; never raises."""
        ...

    async def remove(self, instance: InstanceId, *, grace_s: float) -> None:
        """Stop the instance, running or paused, and remove every trace, if there is any.

        It gets a polite signal and `grace_s` seconds, then it is killed.

        Raises:
            RuntimeDown: the runtime does not answer; the instance may still run.
        """
        ...

    async def adopt(self) -> list[Running]:
        """Take over what an earlier run of this allocator left running or paused; remove the rest.

        What this runtime knows already is neither returned nor touched.

        Raises:
            RuntimeDown: the runtime does not answer.
        """
        ...


def instance_environment(launch: Launch, *, port: int, proxy_ip: str) -> dict[str, str]:
    """Return the environment of an instance: the spec's own, and where to listen and to ask."""
    return dict(launch.spec.env) | {
        "SERVICE_PORT": str(port),
        "PORT": str(port),
        "PROXY_IP": proxy_ip,
        "PROXY_PORT": str(launch.proxy_port),
    }


def last_lines(text: str) -> str:
    """Return the end of a log, bounded in lines and bytes."""
    return "\n".join(text[-LOG_TAIL_BYTES:].splitlines()[-LOG_TAIL_LINES:])
