"""The process runtime: commands of this machine's user, where no container engine is wanted.

A command runs by a shell in a session of its own, so that it outlives its allocator, with a port of
its own on loopback. A file per instance tells the next allocator what runs. There is no isolation
from the machine, and where no control group was delegated (`cgroups.py`) only some limits hold;
`health` names those that do not, and `policy.py` lets only allowed owners start such services.
"""

import os
import platform
import random
import resource
import signal
import socket
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import structlog
import trio

from allocator.cgroups import WANTED, Cgroups
from allocator.errors import ImageMissing, LaunchFailed, Unmeasured, Unpausable
from allocator.listening import exposed
from allocator.process_files import (
    LOOPBACK,
    StateFile,
    log_tail,
    read_state,
    running_of,
    write_state,
)
from allocator.process_table import ProcessTable
from allocator.processes import (
    INSTANCE_VARIABLE,
    ProcessKey,
    is_stopped,
    memory_mib,
    open_pidfd,
    process_key,
    signal_each,
    tell_each,
    used_mib,
)
from allocator.runtime import (
    Capacity,
    Health,
    Launch,
    PostMortem,
    Running,
    instance_environment,
)
from overlay.names import InstanceId
from overlay.spec import ServiceSpec

PORTS = range(20_000, 32_768)
"""Below Linux's range of ports for outgoing connections, so that none of those can take one, and
no attempt to connect can ever meet itself."""

PORT_ATTEMPTS = 100
OPEN_FILES = 65_536
LOG_LIMIT = 8 * 1024 * 1024
LOOK_S = 5.0
KILL_TIMEOUT_S = 2.0

STOP_LOOKS = 100
STOP_LOOK_S = 0.001
"""A process stops as it leaves the kernel; one that waits for a disk may take some time to."""

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

_WRAPPER = """
[ -z "$4" ] || echo $$ > "$4" || exit 126
ulimit -n "$1"; [ "$2" = 0 ] || ulimit -d "$2"; exec /bin/sh -c "$3"
"""

log = structlog.get_logger()


@dataclass(slots=True)
class _Process:
    launch: StateFile
    cpus: frozenset[int]
    proxy_port: int
    pidfd: int | None = None
    exit_code: int | None = None
    stopped: tuple[ProcessKey, ...] = ()
    exposed: tuple[str, ...] = ()
    ended: trio.Event = field(default_factory=trio.Event)


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
        self._processes: dict[InstanceId, _Process] = {}
        self._table = ProcessTable()
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
                _close(process)

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
            port=self._choose_port(),
        )
        cpus = self._choose_cpus(launch.spec)
        if self._cgroups is not None:
            try:
                self._cgroups.make(launch.id, launch.spec)
            except OSError as exc:
                raise LaunchFailed(f"its control group cannot be made: {exc}") from exc
        self._processes[launch.id] = _Process(state, cpus, launch.proxy_port)
        write_state(self._state(state.id), state)

    async def pull(self, launch: Launch) -> None:
        """Refuse: processes have no images."""
        raise ImageMissing(f"{launch.service} has an image, and this runtime runs commands")

    async def start(self, instance: InstanceId) -> str:
        """Run the command; return the address that it was told to listen on."""
        process = self._processes.get(instance)
        if process is None or process.pidfd is not None:
            raise LaunchFailed(f"{instance} was not created, or runs already")
        try:
            pid = await trio.to_thread.run_sync(self._spawn, process)
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
        if process is None or process.pidfd is None or process.ended.is_set():
            raise Unpausable(f"{instance} does not run")
        if self._cgroups is not None and self._cgroups.can_freeze(instance):
            await self._freeze(self._cgroups, instance)
        else:
            await self._stop_all(process)

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

    async def _stop_all(self, process: _Process) -> None:
        """Stop every process of the instance by a signal.

        A stop takes effect a moment after the signal, and until then a process may start another
        one. So whoever is found running is signalled again until a look finds all stopped; then
        nobody is left to start anything.
        """
        for _ in range(STOP_LOOKS):
            found = await self._members(process)
            running = [key for key in found if not is_stopped(key)]
            if not running:
                process.stopped = tuple(found)
                return
            tell_each(running, signal.SIGSTOP)
            await trio.sleep(STOP_LOOK_S)
        tell_each(await self._members(process), signal.SIGCONT)
        raise Unpausable(f"a process of {process.launch.id} does not stop")

    async def memory_mib(self, instance: InstanceId) -> int:
        """Return what all processes of the instance use."""
        process = self._processes.get(instance)
        if process is None or process.pidfd is None or process.ended.is_set():
            raise Unmeasured(f"{instance} does not run")
        return await trio.to_thread.run_sync(used_mib, await self._members(process))

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
            _close(process)
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
            process = _Process(state, frozenset(), proxy_port=0, pidfd=pidfd)
            self._processes[state.id] = process
            if pidfd is None:
                await self.remove(state.id, grace_s=0)
                continue
            process.stopped = await self._still_stopped(process)
            self._watch(process)
            frozen = self._cgroups is not None and self._cgroups.is_frozen(state.id)
            found.append(running_of(state, paused=frozen or bool(process.stopped)))
        return found

    def _spawn(self, process: _Process) -> int:
        """Run in a thread: affinity belongs to the thread and is inherited; return the pid."""
        spec = process.launch.spec
        before = os.sched_getaffinity(0)
        files = min(OPEN_FILES, resource.getrlimit(resource.RLIMIT_NOFILE)[1])
        group = "" if self._cgroups is None else str(self._cgroups.entrance(process.launch.id))
        data_kib = 0 if self._bounds("memory") else spec.memory_mib * 1024
        arguments = [str(files), str(data_kib), str(spec.process), group]
        log_flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND
        try:
            os.sched_setaffinity(0, process.cpus or before)
            return os.posix_spawn(
                "/bin/sh",
                ["/bin/sh", "-c", _WRAPPER, "sh", *arguments],
                self._environment(process),
                file_actions=[
                    (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
                    (os.POSIX_SPAWN_OPEN, 1, str(self._log(process.launch.id)), log_flags, 0o600),
                    (os.POSIX_SPAWN_DUP2, 1, 2),
                ],
                setsid=True,
                setsigmask=[],
                setsigdef=[signal.SIGPIPE, signal.SIGINT, signal.SIGTERM, signal.SIGHUP],
            )
        finally:
            os.sched_setaffinity(0, before)

    def _environment(self, process: _Process) -> Mapping[str, str]:
        state = process.launch
        launch = Launch(
            state.id, state.service, state.revision, state.author, state.spec, process.proxy_port
        )
        own = instance_environment(launch, port=state.port, proxy_ip=LOOPBACK)
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("MYXO_", "P2P_"))}
        return kept | own | {INSTANCE_VARIABLE: state.id}

    def _watch(self, process: _Process) -> None:
        if self._nursery is None:
            raise RuntimeError("the runtime does not run")
        self._nursery.start_soon(self._await_end, process)

    async def _await_end(self, process: _Process) -> None:
        """A pidfd becomes readable when its process ends, whoever's child it is.

        What the command left running in its session ends with it, and before the zombie is reaped:
        until then its process id names that session for certain.
        """
        if process.pidfd is None:
            return
        await trio.lowlevel.wait_readable(process.pidfd)
        is_child, exit_code = _wait_for(process.pidfd, os.WNOWAIT)
        process.exit_code = exit_code
        if self._cgroups is not None:
            self._cgroups.kill(process.launch.id)
        await self._kill_all(process.launch.id, process.launch.pid if is_child else None)
        if is_child:
            _wait_for(process.pidfd, 0)
        process.ended.set()

    async def _stop(self, process: _Process, grace_s: float) -> None:
        """End the leader, politely at first; `_await_end` then ends the rest."""
        state = process.launch
        runs = process.pidfd is not None and not process.ended.is_set()
        if runs and grace_s > 0:
            found = await self._members(process)
            tell_each(found, signal.SIGTERM)
            tell_each(found, signal.SIGCONT)  # one that is stopped or frozen hears nothing
            if self._cgroups is not None:
                self._cgroups.thaw(state.id)
            with trio.move_on_after(grace_s):
                await process.ended.wait()
        with trio.move_on_after(KILL_TIMEOUT_S):
            await self._kill_all(state.id, state.pid if runs else None)
            if runs:
                await process.ended.wait()

    async def _kill_all(self, instance: InstanceId, session: int | None) -> None:
        """Kill every process of an instance until there is none; see `Look.members`."""
        while found := await self._table.members(instance, session):
            ending = signal_each(found, signal.SIGKILL)
            try:
                for fd in ending:
                    await trio.lowlevel.wait_readable(fd)
            finally:
                for fd in ending:
                    os.close(fd)

    async def _members(self, process: _Process) -> list[ProcessKey]:
        """Return the processes of an instance that runs."""
        return await self._table.members(process.launch.id, process.launch.pid)

    async def _still_stopped(self, process: _Process) -> tuple[ProcessKey, ...]:
        """Return an adopted instance's processes if it is paused; end a pause that was cut."""
        found = tuple(await self._members(process))
        if all(is_stopped(key) for key in found):
            return found
        tell_each(found, signal.SIGCONT)
        return ()

    def _choose_port(self) -> int:
        used = {p.launch.port for p in self._processes.values()}
        for _ in range(PORT_ATTEMPTS):
            port = random.choice(PORTS)  # noqa: S311  (spread, not secrecy)
            if port not in used and _is_free(port):
                return port
        raise LaunchFailed(f"no free port among {PORTS.start} to {PORTS.stop - 1}")

    def _choose_cpus(self, spec: ServiceSpec) -> frozenset[int]:
        """Return the least promised cores, as many as the spec's millicores need; none is any."""
        available = sorted(os.sched_getaffinity(0))
        count = -(-spec.cpu_millicores // 1000)
        if self._bounds("cpu") or not 0 < count < len(available):
            return frozenset()
        promised = Counter(cpu for p in self._processes.values() for cpu in p.cpus)
        return frozenset(sorted(available, key=lambda cpu: promised[cpu])[:count])

    def _bounds(self, controller: str) -> bool:
        return self._cgroups is not None and controller in self._cgroups.controllers

    async def _look_after(self) -> None:
        """Bound logs, and find out who listens where it should not."""
        while True:
            await trio.sleep(LOOK_S)
            self._bound_logs()
            await self.find_exposed()

    async def find_exposed(self) -> None:
        """Note and log which instances listen on other addresses than loopback."""
        running = {
            p.launch.pid: p
            for p in self._processes.values()
            if p.pidfd is not None and not p.ended.is_set()
        }
        if not running:
            return
        sessions = {pid: process.launch.id for pid, process in running.items()}
        found = await trio.to_thread.run_sync(exposed, sessions)
        for process in running.values():
            state, places = process.launch, found.get(process.launch.id, ())
            if places and places != process.exposed:
                log.warning("instance.exposed", service=state.service, id=state.id, on=places)
            process.exposed = places

    def _bound_logs(self) -> None:
        """Keep the end of logs that have grown over the limit; they are open for appending."""
        for instance in list(self._processes):
            path = self._log(instance)
            if path.exists() and path.stat().st_size > LOG_LIMIT:
                tail = log_tail(path)
                os.truncate(path, 0)
                with path.open("a") as file:
                    file.write(f"[the log before this was cut]\n{tail}\n")

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


def _close(process: _Process) -> None:
    if process.pidfd is not None:
        trio.lowlevel.notify_closing(process.pidfd)
        os.close(process.pidfd)
        process.pidfd = None


def _is_free(port: int) -> bool:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            sock.bind((LOOPBACK, port))
        except OSError:
            return False
    return True
