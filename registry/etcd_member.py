"""A local etcd member: started, watched and restarted as part of the registry-service.

Its data lies in the state directory, so a restart of the service restarts the same member. It dies
with the service, however that ends: the kernel tells it. When it dies by itself it is started
again, at growing intervals; meanwhile the store answers that it is unavailable.
"""

import ctypes
import errno
import os
import shutil
import signal
import socket
import subprocess
from dataclasses import dataclass
from pathlib import Path

import structlog
import trio

from overlay.advertising import host_port
from overlay.errors import AddressTaken, SettingsInvalid
from overlay.ports import port_taken
from registry.errors import StoreMisused, StoreUnavailable
from registry.etcd_gateway import EtcdAccess, EtcdGateway

READY_TIMEOUT_S = 30.0
READY_POLL_S = 0.05

RESTART_FIRST_S = 0.2
RESTART_MOST_S = 10.0
HEALTHY_AFTER_S = 30.0
"""A member that ran for so long begins again at the first interval."""

STOP_TIMEOUT_S = 3.0

LOG_BYTES = 1024 * 1024
"""Of etcd's log; the one before is kept beside it."""

_PR_SET_PDEATHSIG = 1
_LIBC = ctypes.CDLL(None, use_errno=True)

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class LocalMember:
    """What a member is started with.

    Attributes:
        ip: the address that it listens on and advertises.
        client_port: for the registry and other clients.
        peer_port: for the other members.
        state_dir: below it are its data and its log.
    """

    ip: str
    client_port: int
    peer_port: int
    state_dir: Path

    @property
    def name(self) -> str:
        """The member's name in the cluster."""
        return f"{self.ip}-{self.client_port}-{self.peer_port}"

    @property
    def client_url(self) -> str:
        """Where clients connect."""
        return f"http://{host_port(self.ip, self.client_port)}"

    @property
    def peer_url(self) -> str:
        """Where other members connect."""
        return f"http://{host_port(self.ip, self.peer_port)}"

    @property
    def data_dir(self) -> Path:
        """Where its data lies."""
        return self.state_dir / f"{self.name}.etcd"

    @property
    def log_file(self) -> Path:
        """Where its log goes."""
        return self.state_dir / f"{self.name}.log"

    @property
    def has_data(self) -> bool:
        """Whether it has been a member before."""
        return (self.data_dir / "member").exists()

    def command(self, program: str, initial_cluster: str, *, new: bool) -> list[str]:
        """Return the command line; `initial_cluster` counts only where there is no data yet."""
        options = {
            "name": self.name,
            "data-dir": str(self.data_dir),
            "listen-client-urls": self.client_url,
            "advertise-client-urls": self.client_url,
            "listen-peer-urls": self.peer_url,
            "initial-advertise-peer-urls": self.peer_url,
            "initial-cluster": initial_cluster or f"{self.name}={self.peer_url}",
            "initial-cluster-state": "new" if new else "existing",
            "auto-compaction-mode": "periodic",
            "auto-compaction-retention": "24h",
        }
        return [program, *(f"--{name}={value}" for name, value in options.items())]


def check_member(member: LocalMember) -> str:
    """Return the path of etcd once it is certain that it can listen as it is told to.

    Raises:
        StoreMisused: etcd is not installed.
        AddressTaken: a port is in use, and by whom.
        SettingsInvalid: the address is not this machine's.
    """
    program = shutil.which("etcd")
    if program is None:
        raise StoreMisused(
            "etcd is not installed: run `sudo apt install etcd-server`, or leave out "
            "--new-etcd-cluster and --etcd-ip to keep definitions in SQLite"
        )
    for port in (member.client_port, member.peer_port):
        _check_port(member.ip, port)
    return program


async def run_member(
    member: LocalMember,
    initial_cluster: str,
    *,
    new: bool,
    task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Keep the member running until cancelled; `started` when it first answers.

    Raises:
        StoreMisused, AddressTaken, SettingsInvalid: see `check_member`.
        StoreUnavailable: it died or stayed silent at its first start, with the end of its log.
    """
    command = member.command(check_member(member), initial_cluster, new=new)
    member.data_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
    first = True
    delay = RESTART_FIRST_S
    while True:
        began = trio.current_time()
        async with trio.open_nursery() as nursery:
            process = await nursery.start(_run_once, member, command)
            if first:
                await _until_ready(member, process)
                first = False
                task_status.started()
                log.info(
                    "etcd.ready", name=member.name, pid=process.pid, endpoint=member.client_url
                )
        if trio.current_time() - began > HEALTHY_AFTER_S:
            delay = RESTART_FIRST_S
        log.error(
            "etcd.died", name=member.name, status=process.returncode, log=str(member.log_file)
        )
        await trio.sleep(delay)
        delay = min(delay * 2, RESTART_MOST_S)


async def _run_once(
    member: LocalMember,
    command: list[str],
    *,
    task_status: trio.TaskStatus["subprocess.Popen[bytes]"],
) -> None:
    """Run etcd until it ends, or end it when cancelled."""
    parent = os.getpid()

    def die_with_parent() -> None:
        _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != parent:
            os._exit(1)

    # Started by this very thread: the signal comes when the thread that started it ends.
    process = subprocess.Popen(  # noqa: ASYNC220
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        preexec_fn=die_with_parent,  # noqa: PLW1509
        start_new_session=True,
    )
    ended = os.pidfd_open(process.pid)
    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_keep_log, process, member.log_file)
            task_status.started(process)
            await trio.lowlevel.wait_readable(ended)
            process.wait()
    finally:
        if process.poll() is None:
            process.terminate()
            with trio.move_on_after(STOP_TIMEOUT_S, shield=True):
                await trio.lowlevel.wait_readable(ended)
            process.kill()
            process.wait()
        os.close(ended)
        if process.stdout is not None:
            process.stdout.close()


async def _keep_log(process: "subprocess.Popen[bytes]", path: Path) -> None:
    """Write what etcd says to its log, which never grows beyond its bound."""
    if process.stdout is None:
        return
    async with trio.lowlevel.FdStream(os.dup(process.stdout.fileno())) as pipe:
        with path.open("ab") as file:
            async for chunk in pipe:
                if file.tell() + len(chunk) > LOG_BYTES:
                    shutil.copyfile(path, path.with_suffix(".log.old"))
                    file.truncate(0)
                file.write(chunk)
                file.flush()


async def _until_ready(member: LocalMember, process: "subprocess.Popen[bytes]") -> None:
    gateway = EtcdGateway(EtcdAccess((member.client_url,), timeout_s=1.0))
    with trio.move_on_after(READY_TIMEOUT_S):
        while process.poll() is None:
            try:
                await gateway.read("/myxo/health")  # linearizable: it needs a leader
            except StoreUnavailable:
                await trio.sleep(READY_POLL_S)
            else:
                return
    how = "did not become ready" if process.poll() is None else "ended at once"
    raise StoreUnavailable(
        f"the local etcd {how}; the end of {member.log_file}:\n{_tail(member.log_file)}"
    )


def _tail(path: Path, lines: int = 5) -> str:
    try:
        return "\n".join(path.read_text(errors="replace").splitlines()[-lines:])
    except OSError:
        return ""


def _check_port(ip: str, port: int) -> None:
    with socket.socket(socket.AF_INET6 if ":" in ip else socket.AF_INET) as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            sock.bind((ip, port))
        except socket.gaierror as exc:
            raise SettingsInvalid(f"--etcd-ip {ip} is no IP address") from exc
        except PermissionError as exc:
            raise SettingsInvalid(f"TCP port {port} for etcd may not be used: {exc}") from exc
        except OSError as exc:
            if exc.errno == errno.EADDRINUSE:
                raise AddressTaken(f"etcd cannot start: {port_taken(port)}") from exc
            raise SettingsInvalid(
                f"--etcd-ip {ip} is not an address of this machine ({exc.strerror})"
            ) from exc
