"""The namespaces of one host: made, entered, and ended with everything that runs in them.

They are held by the host's first process, a `cat` that reads its lifeline. It is process 1 of its
own process namespace, so that the kernel kills every process of the host with it, at once and
without exception, containers of the host's own engine among them; and with the last process go
interfaces, routes, firewall and mounts. `env` lets it ignore SIGCHLD, by which the kernel reaps
orphans.

Entering is done by a thread that ends afterwards: setns(2) moves the calling thread, and what a
thread starts is born where the thread is. So a command is a plain child of the caller, with its
signals, pipes and exit code, in another network. Python has setns from 3.12 on, hence ctypes.
"""

import ctypes
import fcntl
import os
import select
import signal
import socket
import struct
import subprocess
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, TypeVar

from bench.netlab.errors import LabFailed
from bench.netlab.processes import Process, ProcessId, children

T = TypeVar("T")

_HELD = ("uts", "ipc", "net", "pid_for_children", "mnt")
"""In the order of entering: the mount namespace last, because /proc is another one there."""

_OFF = "the host is off; `power_on` or `reboot` starts it"

_CLONE_FS = 0x200
_TUNSETIFF = 0x400454CA
_IFF_TUN, _IFF_NO_PI = 0x0001, 0x1000

START_TIMEOUT_S = 10.0
END_TIMEOUT_S = 10.0

_libc = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True, slots=True)
class Namespaces:
    """The namespaces that `holder` holds: unshare(1), the parent of the first process in them."""

    holder: ProcessId

    @property
    def pid(self) -> int:
        """The holder's number, by which ip(8) and nsenter(1) find them."""
        return self.holder.pid

    def prefix(self) -> list[str]:
        """Return what to write before a command to have it run inside, as by a shell.

        The command is then a child of nsenter(1), which passes no signals on.
        """
        options = {"pid_for_children": "pid", "mnt": "mount"}
        where = [f"--{options.get(n, n)}=/proc/{self.pid}/ns/{n}" for n in _HELD]
        return ["nsenter", *where, "--"]

    def popen(
        self,
        command: Sequence[str],
        *,
        environment: Mapping[str, str] | None = None,
        cwd: Path | None = None,
        stdin: int | IO[Any] | None = subprocess.DEVNULL,
        stdout: int | IO[Any] | None = None,
        stderr: int | IO[Any] | None = None,
    ) -> "subprocess.Popen[bytes]":
        """Start a command inside; it is a child of this process.

        Raises:
            LabFailed: they are gone.
            OSError: the command cannot be started.
        """
        directory = cwd or Path.cwd()

        def start() -> "subprocess.Popen[bytes]":
            return subprocess.Popen(
                command,
                env=environment,
                cwd=directory,
                stdin=stdin,
                stdout=stdout,
                stderr=stderr,
            )

        return self.inside(start)

    def set_up(self, *command: str, given: str = "") -> str:
        """Run a set-up command inside to its end; return what it printed.

        Raises:
            LabFailed: it failed, with what it said.
        """
        with self.popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        ) as process:
            printed, _ = process.communicate(given.encode())
        if process.returncode:
            raise LabFailed(f"{' '.join(command)} failed: {printed.decode().strip()}")
        return printed.decode()

    def inside(self, act: Callable[[], T]) -> T:
        """Return what `act` returns when a thread calls it inside; it may start no threads there.

        Raises:
            LabFailed: they are gone.
        """
        results: list[T] = []
        errors: list[BaseException] = []

        def enter_and_act() -> None:
            try:
                self.enter()
                results.append(act())
            except BaseException as exc:  # noqa: BLE001  (raised in the thread that asked)
                errors.append(exc)

        thread = threading.Thread(target=enter_and_act)
        thread.start()
        thread.join()
        if errors:
            raise errors[0]
        return results[0]

    def fork(self) -> int:
        """Fork this process; the child is numbered among those inside, and may `enter` the rest.

        Raises:
            LabFailed: they are gone.
        """
        theirs, own, pid = self._open("pid_for_children"), _open("self", "pid"), -1
        try:
            setns(theirs)
            pid = os.fork()
        except OSError as exc:
            raise LabFailed(_OFF) from exc
        finally:
            if pid != 0:
                setns(own)
            os.close(theirs)
            os.close(own)
        return pid

    def enter(self) -> None:
        """Have the calling thread be inside, in the root of their file systems; it stays there.

        Raises:
            LabFailed: they are gone.
        """
        fds = [self._open(name) for name in _HELD]
        try:
            _check(_libc.unshare(_CLONE_FS))  # a mount namespace is entered by one thread alone
            for fd in fds:
                setns(fd)
        finally:
            for fd in fds:
                os.close(fd)

    def open_tun(self, name: str) -> int:
        """Return the descriptor of a new TUN device inside, named `name`; the caller closes it."""

        def make() -> int:
            fd = os.open("/dev/net/tun", os.O_RDWR | os.O_CLOEXEC)
            request = struct.pack("16sH", name.encode(), _IFF_TUN | _IFF_NO_PI)
            try:
                fcntl.ioctl(fd, _TUNSETIFF, request.ljust(40, b"\0"))
            except OSError:
                os.close(fd)
                raise
            return fd

        return self.inside(make)

    def end(
        self,
        started: Sequence[Process] = (),
        *,
        killed: Callable[[], None] = lambda: None,
    ) -> None:
        """Kill every process inside, as a power cut does, and return when all are gone.

        The first process ends when all others have been reaped, so `started`, those started with
        `popen`, are reaped here.

        Args:
            started: children of this process, and others that it can wait for, that are inside.
            killed: called when all were sent the signal, before they are waited for.

        Raises:
            LabFailed: some are still there after `END_TIMEOUT_S`.
        """
        try:
            holder = os.pidfd_open(self.pid)
        except OSError:  # it has ended and was reaped
            return
        try:
            if not self.holder.alive:
                return
            for first in children(self.pid):
                with suppress(ProcessLookupError):
                    os.kill(first, signal.SIGKILL)
            killed()
            for child in started:
                child.wait(END_TIMEOUT_S)
            if not select.select([holder], [], [], END_TIMEOUT_S)[0]:
                raise LabFailed(f"the processes of a host do not end; see process {self.pid}")
        finally:
            os.close(holder)

    def _open(self, name: str) -> int:
        try:
            return _open(str(self.pid), name)
        except OSError as exc:
            raise LabFailed(_OFF) from exc


def setns(namespace: int) -> None:
    """Have the calling thread, or what it starts, be in the namespace of a descriptor."""
    _check(_libc.setns(namespace, 0))


def hold(hostname: str) -> tuple[Namespaces, int, "subprocess.Popen[bytes]"]:
    """Make namespaces; return them, the lifeline on which they depend, and the process to reap.

    They end when the last descriptor of the lifeline is closed.

    Raises:
        LabFailed: they cannot be made, with the reason.
    """
    lifeline, inner = socket.socketpair()
    with inner:
        holder = subprocess.Popen(
            [
                *("unshare", "--net", "--uts", "--ipc", "--pid", "--mount-proc"),
                *("--fork", "--kill-child", "env", "--ignore-signal=CHLD", "cat"),
            ],
            stdin=inner.fileno(),
            stdout=inner.fileno(),
            stderr=subprocess.PIPE,
            start_new_session=True,
        )
    with lifeline:
        _await_echo(lifeline, holder)
        held = Namespaces(ProcessId.of(holder.pid))
        held.inside(lambda: socket.sethostname(hostname))
        return held, lifeline.detach(), holder


def _await_echo(lifeline: socket.socket, holder: "subprocess.Popen[bytes]") -> None:
    """Return when the first process runs: it sends back what is said to it."""
    assert holder.stderr is not None  # noqa: S101  (for the type checker: it is a pipe)
    with holder.stderr:
        lifeline.settimeout(START_TIMEOUT_S)
        try:
            lifeline.sendall(b"?")
            if lifeline.recv(1):
                return
            why = holder.stderr.read().decode().strip()
        except OSError as exc:
            why = str(exc)
        holder.kill()
        holder.wait()
    raise LabFailed(f"no namespaces could be made: {why}")


def _open(process: str, namespace: str) -> int:
    return os.open(f"/proc/{process}/ns/{namespace}", os.O_RDONLY | os.O_CLOEXEC)


def _check(result: int) -> None:
    if result:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
