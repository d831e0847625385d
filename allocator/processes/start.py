"""How a command becomes a process of this machine: its port, its cores, its limits, its spawn."""

import os
import random
import resource
import signal
import socket
import sys
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path

from allocator.errors import LaunchFailed
from allocator.processes.cgroups import Cgroups
from allocator.processes.entry import Process
from allocator.processes.files import LOOPBACK
from allocator.processes.procfs import INSTANCE_VARIABLE
from allocator.runtime import Launch, instance_environment
from overlay.spec import ServiceSpec

PORTS = range(20_000, 32_768)
"""Below Linux's range of ports for outgoing connections, so that none of those can take one, and
no attempt to connect can ever meet itself."""

PORT_ATTEMPTS = 100
OPEN_FILES = 65_536

_WRAPPER = """
[ -z "$4" ] || echo $$ > "$4" || exit 126
ulimit -n "$1"; [ "$2" = 0 ] || ulimit -d "$2"; exec /bin/sh -c "$3"
"""


def spawn(process: Process, log: Path, cgroups: Cgroups | None) -> int:
    """Run the command of an instance; return its pid. Blocks.

    Run it in a thread: affinity belongs to the thread and is inherited.

    Raises:
        OSError: it cannot be run.
    """
    spec = process.launch.spec
    before = os.sched_getaffinity(0)
    files = min(OPEN_FILES, resource.getrlimit(resource.RLIMIT_NOFILE)[1])
    group = "" if cgroups is None else str(cgroups.entrance(process.launch.id))
    data_kib = 0 if bounds(cgroups, "memory") else spec.memory_mib * 1024
    arguments = [str(files), str(data_kib), str(spec.process), group]
    log_flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND
    try:
        os.sched_setaffinity(0, process.cpus or before)
        return os.posix_spawn(
            "/bin/sh",
            ["/bin/sh", "-c", _WRAPPER, "sh", *arguments],
            _environment(process),
            file_actions=[
                (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
                (os.POSIX_SPAWN_OPEN, 1, str(log), log_flags, 0o600),
                (os.POSIX_SPAWN_DUP2, 1, 2),
            ],
            setsid=True,
            setsigmask=[],
            setsigdef=[signal.SIGPIPE, signal.SIGINT, signal.SIGTERM, signal.SIGHUP],
        )
    finally:
        os.sched_setaffinity(0, before)


def free_port(taken: Iterable[int]) -> int:
    """Return a port that nobody listens on, and none of those `taken`.

    Raises:
        LaunchFailed: there is none.
    """
    used = set(taken)
    for _ in range(PORT_ATTEMPTS):
        port = random.choice(PORTS)  # noqa: S311  (spread, not secrecy)
        if port not in used and _is_free(port):
            return port
    raise LaunchFailed(f"no free port among {PORTS.start} to {PORTS.stop - 1}")


def cores_for(
    spec: ServiceSpec, others: Iterable[Process], cgroups: Cgroups | None
) -> frozenset[int]:
    """Return the least promised cores, as many as the spec's millicores need; none is any."""
    available = sorted(os.sched_getaffinity(0))
    count = -(-spec.cpu_millicores // 1000)
    if bounds(cgroups, "cpu") or not 0 < count < len(available):
        return frozenset()
    promised = Counter(cpu for p in others for cpu in p.cpus)
    return frozenset(sorted(available, key=lambda cpu: promised[cpu])[:count])


def bounds(cgroups: Cgroups | None, controller: str) -> bool:
    """Return whether a controller of the groups bounds instances as a whole."""
    return cgroups is not None and controller in cgroups.controllers


def _environment(process: Process) -> Mapping[str, str]:
    state = process.launch
    launch = Launch(
        state.id, state.service, state.revision, state.author, state.spec, process.proxy_port
    )
    own = instance_environment(launch, port=state.port, proxy_ip=LOOPBACK)
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("MYXO_", "P2P_"))}
    return kept | own | {INSTANCE_VARIABLE: state.id, "SERVICE_PYTHON": sys.executable}


def _is_free(port: int) -> bool:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            sock.bind((LOOPBACK, port))
        except OSError:
            return False
    return True
