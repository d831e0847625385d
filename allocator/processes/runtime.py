"""The process runtime: commands of this machine's user, where no container engine is wanted.

A command runs by a shell in a session of its own, so that it outlives its allocator, with a port of
its own on loopback. A file per instance tells the next allocator what runs. There is no isolation
from the machine, and where no control group was delegated (`cgroups.py`) only some limits hold;
`health` names those that do not, and `policy.py` lets only allowed owners start such services.
"""

import os
import platform
import signal
from pathlib import Path
from typing import Literal

import structlog
import trio

from allocator.errors import ImageMissing, LaunchFailed, Unmeasured, Unpausable
from allocator.processes.cgroups import WANTED, Cgroups
from allocator.processes.entry import Process
from allocator.processes.files import (
    LOOPBACK,
    StateFile,
    bound_log,
    log_tail,
    read_state,
    running_of,
    write_state,
)
from allocator.processes.listening import exposed
from allocator.processes.procfs import (
    ProcessKey,
    memory_mib,
    open_pidfd,
    process_key,
    tell_each,
    used_mib,
)
from allocator.processes.signals import Signals
from allocator.processes.start import cores_for, free_port, spawn
from allocator.runtime import (
    Capacity,
    Health,
    Launch,
    PostMortem,
    Running,
)
from overlay.names import InstanceId

LOOK_S = 5.0
KILL_TIMEOUT_S = 2.0

_SIGNALLED = 128
"""What shells add to a signal's number to make an exit code of it."""

_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64", "armv7l": "arm"}

_WITHOUT = {
    "cpu": "CpuReq: bound to whole cores by affinity, not to a share of them",
    "memory": "MemoryReq: holds for each process of an instance, not for all of them together",
    "pids": "the number of an instance's processes",
}
"""What is not enforced without a controller of cgroups."""

_NEVER = "isolation: instances see this user's files and the machine's network"

log = structlog.get_logger()


class ProcessRuntime:
    """Instances as process groups of this user.

    Args:
        directory: holds a state file and a log for each instance; made if it does not exist.
        cgroups: bound instances as a whole; None leaves it to rlimits and affinity.
    """

    name: Literal["docker", "process"] = "process"

    def __init__(self, directory: Path, cgroups: Cgroups | None = None) -> None:
        self._directory = directory
        self._cgroups = cgroups
        self._processes: dict[InstanceId, Process] = {}
        self._signals = Signals()
        self._nursery: trio.Nursery | None = None

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Watch the processes until cancelled; they run on after that."""
        self._directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        try:
            async with trio.open_nursery() as nursery:
                self._nursery = nursery
                nursery.start_soon(self._look_after)
                task_status.started()
        finally:
            self._nursery = None
            for process in self._processes.values():
                process.close()

    def health(self) -> Health:
        """Return what is not enforced; processes can always be started."""
        missing = WANTED if self._cgroups is None else self._cgroups.unenforced()
        outside = [
            f"loopback: {p.launch.service} ({p.launch.id}) listens on {', '.join(p.exposed)}"
            for p in self._processes.values()
            if p.exposed
        ]
        return Health(unenforced=(*(_WITHOUT[name] for name in missing), _NEVER, *outside))

    async def health_changed(self) -> None:
        """Wait forever: it does not change."""
        await trio.sleep_forever()

    def capacity(self) -> Capacity:
        """Return what this machine has."""
        machine = platform.machine()
        return Capacity(
            cpu_millicores=len(os.sched_getaffinity(0)) * 1000,
            memory_mib=memory_mib(),
            platform=f"linux/{_ARCHITECTURES.get(machine, machine)}",
        )

    async def create(self, launch: Launch) -> None:
        """Choose port and cores and note them; nothing runs yet."""
        if launch.spec.process is None:
            raise LaunchFailed("the service has no command for the process runtime")
        state = StateFile(
            id=launch.id,
            service=launch.service,
            revision=launch.revision,
            author=launch.author,
            spec=launch.spec,
            port=free_port(p.launch.port for p in self._processes.values()),
        )
        cpus = cores_for(launch.spec, self._processes.values(), self._cgroups)
        if self._cgroups is not None:
            try:
                self._cgroups.make(launch.id, launch.spec)
            except OSError as exc:
                raise LaunchFailed(f"its control group cannot be made: {exc}") from exc
        self._processes[launch.id] = Process(state, cpus, launch.proxy_port)
        write_state(self._state(state.id), state)

    async def pull(self, launch: Launch) -> None:
        """Refuse: processes have no images."""
        raise ImageMissing(f"{launch.service} has an image, and this runtime runs commands")

    async def start(self, instance: InstanceId) -> str:
        """Run the command; return the address that it was told to listen on."""
        process = self._processes.get(instance)
        if process is None or process.pidfd is not None or process.ended.is_set():
            raise LaunchFailed(f"{instance} was not created, or runs already")
        try:
            log_path = self._log(instance)
            pid = await trio.to_thread.run_sync(spawn, process, log_path, self._cgroups)
        except OSError as exc:
            raise LaunchFailed(f"the command could not be started: {exc}") from exc
        process.pidfd = os.pidfd_open(pid)
        key = process_key(pid) or ProcessKey(pid, 0, "")
        process.launch = process.launch.model_copy(
            update={"pid": key.pid, "start_time": key.start_time, "boot": key.boot}
        )
        write_state(self._state(instance), process.launch)
        self._watch(process)
        return f"{LOOPBACK}:{process.launch.port}"

    async def pause(self, instance: InstanceId) -> None:
        """Freeze the instance's group, or stop each of its processes where it has none."""
        process = self._processes.get(instance)
        if process is None or not process.runs:
            raise Unpausable(f"{instance} does not run")
        if self._cgroups is not None and self._cgroups.can_freeze(instance):
            await self._freeze(self._cgroups, instance)
        else:
            await self._signals.stop_all(process)

    async def resume(self, instance: InstanceId) -> None:
        """Thaw, or continue what was stopped: there is no more than that to be looked for."""
        process = self._processes.get(instance)
        if process is None or process.ended.is_set():
            raise LaunchFailed(f"{instance} does not run")
        await trio.lowlevel.checkpoint()
        if self._cgroups is not None:
            self._cgroups.thaw(instance)
        tell_each(process.stopped, signal.SIGCONT)
        process.stopped = ()

    @staticmethod
    async def _freeze(cgroups: Cgroups, instance: InstanceId) -> None:
        try:
            frozen = await trio.to_thread.run_sync(cgroups.freeze, instance)
        except OSError as exc:
            raise Unpausable(f"the group of {instance} cannot be frozen: {exc}") from exc
        if not frozen:
            raise Unpausable(f"a process of {instance} does not freeze")

    async def memory_mib(self, instance: InstanceId) -> int:
        """Return what all processes of the instance use."""
        process = self._processes.get(instance)
        if process is None or not process.runs:
            raise Unmeasured(f"{instance} does not run")
        return await trio.to_thread.run_sync(used_mib, await self._signals.members(process))

    async def exited(self, instance: InstanceId) -> None:
        """Return when the command has ended."""
        process = self._processes.get(instance)
        if process is not None:
            await process.ended.wait()

    async def post_mortem(self, instance: InstanceId) -> PostMortem:
        """Return exit code and log tail; a process adopted from an earlier run has no exit code."""
        process = self._processes.get(instance)
        exit_code = None if process is None else process.exit_code
        oom_killed = self._cgroups is not None and self._cgroups.oom_killed(instance)
        return PostMortem(exit_code, oom_killed, log=log_tail(self._log(instance)))

    async def remove(self, instance: InstanceId, *, grace_s: float) -> None:
        """Stop everything that the instance started and forget it."""
        process = self._processes.get(instance)
        if process is not None:
            await self._stop(process, grace_s)
            del self._processes[instance]
        if self._cgroups is not None:
            self._cgroups.kill(instance)
            await trio.to_thread.run_sync(self._cgroups.remove, instance)
        self._state(instance).unlink(missing_ok=True)
        self._log(instance).unlink(missing_ok=True)

    async def adopt(self) -> list[Running]:
        """Take over what an earlier run left running; end what it left half started."""
        found = []
        self._directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        for path in sorted(self._directory.glob("*.json")):
            state = read_state(path)
            if state is None:
                path.unlink(missing_ok=True)
                continue
            if state.id in self._processes:
                continue
            pidfd = open_pidfd(state.key) if state.pid else None
            process = Process(state, frozenset(), proxy_port=0, pidfd=pidfd)
            self._processes[state.id] = process
            if pidfd is None:
                await self.remove(state.id, grace_s=0)
                continue
            process.stopped = await self._signals.still_stopped(process)
            self._watch(process)
            frozen = self._cgroups is not None and self._cgroups.is_frozen(state.id)
            found.append(running_of(state, paused=frozen or bool(process.stopped)))
        return found

    def _watch(self, process: Process) -> None:
        if self._nursery is None:
            raise RuntimeError("the runtime does not run")
        self._nursery.start_soon(self._await_end, process)

    async def _await_end(self, process: Process) -> None:
        """A pidfd becomes readable when its process ends, whoever's child it is.

        What the command left running in its session ends with it, and before the zombie is reaped:
        until then its process id names that session for certain. The pidfd is let go of here alone:
        who removes an instance does not wait for ever for one that cannot be killed.
        """
        pidfd = process.pidfd
        if pidfd is None:
            return
        try:
            await trio.lowlevel.wait_readable(pidfd)
            is_child, exit_code = _wait_for(pidfd, os.WNOWAIT)
            process.exit_code = exit_code
            if self._cgroups is not None:
                self._cgroups.kill(process.launch.id)
            leader = process.launch.pid if is_child else None
            await self._signals.kill_all(process.launch.id, leader)
            if is_child:
                _wait_for(pidfd, 0)
            process.ended.set()
        finally:
            process.close()

    async def _stop(self, process: Process, grace_s: float) -> None:
        """End the leader, politely at first; `_await_end` then ends the rest."""
        state = process.launch
        runs = process.runs
        if runs and grace_s > 0:
            await self._signals.ask_to_end(process)
            if self._cgroups is not None:
                self._cgroups.thaw(state.id)
            with trio.move_on_after(grace_s):
                await process.ended.wait()
        with trio.move_on_after(KILL_TIMEOUT_S):
            await self._signals.kill_all(state.id, state.pid if runs else None)
            if runs:
                await process.ended.wait()
        if process.pidfd is not None and not process.ended.is_set():
            signal.pidfd_send_signal(process.pidfd, signal.SIGKILL)  # `_await_end` goes on

    async def _look_after(self) -> None:
        """Bound logs, and find out who listens where it should not."""
        while True:
            await trio.sleep(LOOK_S)
            for instance in list(self._processes):
                bound_log(self._log(instance))
            await self.find_exposed()

    async def find_exposed(self) -> None:
        """Note and log which instances listen on other addresses than loopback."""
        running = {p.launch.pid: p for p in self._processes.values() if p.runs}
        if not running:
            return
        sessions = {pid: process.launch.id for pid, process in running.items()}
        found = await trio.to_thread.run_sync(exposed, sessions)
        for process in running.values():
            state, places = process.launch, found.get(process.launch.id, ())
            if places and places != process.exposed:
                log.warning("instance.exposed", service=state.service, id=state.id, on=places)
            process.exposed = places

    def _state(self, instance: InstanceId) -> Path:
        return self._directory / f"{instance}.json"

    def _log(self, instance: InstanceId) -> Path:
        return self._directory / f"{instance}.log"


def _wait_for(pidfd: int, options: int) -> tuple[bool, int | None]:
    """Return whether an ended process is a child of this one, and its exit code if so."""
    try:
        result = os.waitid(os.P_PIDFD, pidfd, os.WEXITED | options)
    except ChildProcessError:
        return False, None
    if result is None:
        return False, None
    killed = result.si_code != os.CLD_EXITED
    return True, result.si_status + (_SIGNALLED if killed else 0)
