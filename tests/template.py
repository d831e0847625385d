"""This checkout's commands, forked from one process that has imported all they need.

A daemon imports for longer than it does anything else in most tests, and some thousand of them are
started. What a forked command meets is its own: arguments, environment, standard streams, network
namespaces, exit code. How a person starts them, by exec, the tests of documents, demos and
containers show.
"""

import functools
import gc
import importlib
import json
import os
import select
import shlex
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import entry_points
from math import inf
from pathlib import Path
from typing import IO, Any

from setproctitle import setproctitle

from bench.lab.parts import PARTS, loaded
from bench.netlab.errors import LabFailed
from bench.netlab.hosts import execute
from bench.netlab.namespaces import Namespaces, setns
from bench.netlab.processes import Process, ProcessId, run_to_end
from myxo.daemons import load

PROGRAMS = Path(sys.executable).parent
COMMANDS = {
    entry.name: entry.value
    for entry in entry_points(group="console_scripts")
    if entry.dist is not None and entry.dist.name == "myxo"
}
"""Name and entry point of each."""

_MESSAGE_BYTES = 2**17
_LATE = (
    "myxo.cli",
    "bench.lab.api.application",
    "bench.lab.api.serving",
    "bench.lab.experiments.recording",
    "bench.lab.experiments.store",
    "bench.lab.hosts.service",
)
"""What commands import only once they know that they need it."""

_AS_MODULE = [sys.executable, "-m", "myxo"]


@functools.cache
def template() -> "Template":
    """Return the template of this run, started when it is needed first."""
    return Template()


class Template:
    """The process that others are forked from; it ends with this one."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._begun = 0
        self._codes: dict[int, int] = {}
        self._sock, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "tests.template", str(theirs.fileno())],
                cwd=Path(__file__).parents[1],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
            )

    def start(
        self,
        command: Sequence[str],
        environment: Mapping[str, str],
        output: IO[bytes],
        error: IO[bytes] | None = None,
        namespace: str | None = None,
        holder: int | None = None,
    ) -> "Forked":
        """Start one of `COMMANDS`; its standard input is empty.

        Args:
            command: its name and arguments.
            environment: all that it sees.
            output: of its standard output.
            error: of its standard error; if None, that of its output.
            namespace: its network's, by a name of `ip netns`.
            holder: the process that holds its namespaces, those of a host of the lab.

        Raises:
            LabFailed: the host is off.
        """
        order: dict[str, Any] = {
            "command": list(command),
            "environment": dict(environment),
            "netns": namespace,
            "holder": holder,
        }
        streams = [output.fileno(), (error or output).fileno()]
        with self._lock:
            self._begun += 1  # by this its end is told: numbers of processes are used again
            order["number"] = number = self._begun
            socket.send_fds(self._sock, [json.dumps(order).encode()], streams)
            while (said := self._hear(None)) is not None and "ended" in said:
                pass
        assert said is not None, "the template has ended"
        if "failed" in said:
            raise LabFailed(f"the host of process {holder} is off")
        return Forked(self, said["started"], number, command)

    def run(
        self,
        command: Sequence[str],
        environment: Mapping[str, str],
        timeout_s: float,
        namespace: str | None = None,
    ) -> "Completed":
        """Run one of `COMMANDS` to its end, whatever that is."""
        ended = run_to_end(
            lambda output, error: self.start(command, environment, output, error, namespace),
            timeout_s,
        )
        return subprocess.CompletedProcess(list(command), *ended)

    def code(self, number: int, timeout_s: float | None) -> int | None:
        """Return the exit code of what was started as this one, None if it goes on so long."""
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        while True:
            left = inf if deadline is None else max(0.0, deadline - time.monotonic())
            with self._lock:
                if number not in self._codes:
                    self._hear(min(left, 0.05))  # others want the lock, too
                if number in self._codes:
                    return self._codes[number]
            if left == 0:
                return None

    def close(self) -> None:
        """End it."""
        self._sock.close()
        self._process.wait()

    def _hear(self, timeout_s: float | None) -> dict[str, int] | None:
        """Take what it says next, None if that takes longer."""
        if not select.select([self._sock], [], [], timeout_s)[0]:
            return None
        text = self._sock.recv(_MESSAGE_BYTES)
        assert text, "the template has ended"
        said: dict[str, int] = json.loads(text)
        if "ended" in said:
            self._codes[said["ended"]] = said["code"]
        return said


Completed = subprocess.CompletedProcess[str]


def start(
    command: Sequence[str],
    environment: Mapping[str, str],
    output: IO[bytes],
    namespace: str | None = None,
) -> "Forked | subprocess.Popen[bytes]":
    """Start a command: one of `COMMANDS` as a fork, any other by exec."""
    if command[0] in COMMANDS:
        return template().start(command, environment, output, namespace=namespace)
    return subprocess.Popen(
        ["ip", "netns", "exec", namespace, *command] if namespace else command,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=subprocess.STDOUT,
    )


def start_inside(
    inside: Namespaces,
    command: Sequence[str],
    environment: Mapping[str, str],
    output: IO[bytes],
    error: IO[bytes],
) -> Process:
    """Start a command on a host of the lab: one of `COMMANDS` as a fork, any other by exec."""
    if list(command[:3]) == _AS_MODULE:
        command = ["myxo", *command[3:]]
    if command[0] in COMMANDS:
        return template().start(command, environment, output, error, holder=inside.pid)
    return execute(inside, command, environment, output, error)


class Forked:
    """A process, with what tests use of subprocess.Popen."""

    def __init__(self, template: Template, pid: int, number: int, command: Sequence[str]) -> None:
        self._template = template
        self._number = number
        self.pid = pid
        self.args = list(command)
        self.returncode: int | None = None

    def poll(self) -> int | None:
        """Return its exit code, None while it runs."""
        if self.returncode is None:
            self.returncode = self._template.code(self._number, 0.0)
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """Wait for its end.

        Raises:
            subprocess.TimeoutExpired: it runs on after so many seconds.
        """
        if self.returncode is None:
            self.returncode = self._template.code(self._number, timeout)
        if self.returncode is None:
            raise subprocess.TimeoutExpired(self.args, timeout or 0)
        return self.returncode

    def send_signal(self, number: int) -> None:
        """Send a signal, unless it has ended."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def terminate(self) -> None:
        """Ask it to end."""
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """End it."""
        self.send_signal(signal.SIGKILL)


def serve(sock: socket.socket) -> Callable[[], Any]:
    """Fork what is asked for; in a child, return what it shall run."""
    running: dict[int, tuple[int, int]] = {}
    while True:
        readable, _, _ = select.select([sock.fileno(), *running], [], [])
        for descriptor in set(readable) - {sock.fileno()}:
            pid, number = running.pop(descriptor)
            _, status = os.waitpid(pid, 0)
            os.close(descriptor)
            code = os.waitstatus_to_exitcode(status)
            sock.send(json.dumps({"ended": number, "code": code}).encode())
        if sock.fileno() in readable:
            text, streams, _, _ = socket.recv_fds(sock, _MESSAGE_BYTES, 2)
            if not text:
                raise SystemExit
            order = json.loads(text)
            inside = None if order["holder"] is None else Namespaces(ProcessId.of(order["holder"]))
            try:
                pid = os.fork() if inside is None else inside.fork()
            except LabFailed:
                said = {"failed": order["holder"]}
            else:
                if pid == 0:
                    return _become(order, streams, inside)
                running[os.pidfd_open(pid)] = pid, order["number"]
                said = {"started": pid}
            for stream in streams:
                os.close(stream)
            sock.send(json.dumps(said).encode())


def _become(
    order: dict[str, Any], streams: Sequence[int], inside: Namespaces | None
) -> Callable[[], Any]:
    os.dup2(streams[0], 1)
    os.dup2(streams[1], 2)
    os.closerange(3, 1024)
    directory = Path.cwd()
    if order["netns"]:
        setns(os.open(f"/run/netns/{order['netns']}", os.O_RDONLY | os.O_CLOEXEC))
    if inside is not None:
        inside.enter()
        os.chdir(directory)
    os.environ.clear()
    os.environ.update(order["environment"])
    signal.signal(signal.SIGINT, signal.default_int_handler)
    name, *arguments = order["command"]
    program = str(PROGRAMS / name)
    sys.argv[:] = [program, *arguments]
    sys.orig_argv[:] = [sys.executable, *sys.argv]
    setproctitle(shlex.join(sys.orig_argv))
    module, _, function = COMMANDS[name].partition(":")
    main: Callable[[], Any] = getattr(importlib.import_module(module), function)
    return main


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    load(("bootstrap", "registry-service", "allocator", "proxy"))
    for part in PARTS:
        loaded(part)
    for module in _LATE:
        importlib.import_module(module)
    gc.freeze()  # a collection that writes to what is shared would copy it
    sys.exit(serve(socket.socket(fileno=int(sys.argv[1])))())
