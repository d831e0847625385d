"""One host of a lab: commands run on it, and it can be switched off and on."""

import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import IO, Any, TypeVar

from bench.netlab import wiring
from bench.netlab.engine import Engine
from bench.netlab.errors import CommandFailed, LabFailed
from bench.netlab.messages import RouterClient
from bench.netlab.namespaces import Namespaces, hold
from bench.netlab.plan import HostPlan, Nat, Plan
from bench.netlab.processes import Process, run_to_end
from overlay.notify import listening

T = TypeVar("T")

COMMAND_TIMEOUT_S = 60.0
READY_TIMEOUT_S = 90.0

COMMANDS = Path(sys.executable).parent
"""Where the commands of this installation are; first on the path of every host."""

Launch = Callable[[Namespaces, Sequence[str], Mapping[str, str], IO[bytes], IO[bytes]], Process]
"""Starts a command inside, with all of its environment, standard output and standard error."""

_HIDDEN = ("MYXO_", "P2P_", "NOTIFY_", "DOCKER_")


@dataclass(frozen=True, slots=True)
class Daemon:
    """A command that has said that it is ready.

    Attributes:
        log: the file that has what it printed, stdout and stderr as they came.
    """

    process: Process
    log: Path

    def printed(self) -> str:
        """Return what it has printed so far."""
        return self.log.read_text()


def execute(
    inside: Namespaces,
    command: Sequence[str],
    environment: Mapping[str, str],
    output: IO[bytes],
    error: IO[bytes],
) -> Process:
    """Start a command inside, as a `Launch`; it is a child of this process."""
    return inside.popen(command, environment=environment, stdout=output, stderr=error)


class Host:
    """A machine of the lab; made by the lab, which also ends it.

    Args:
        plan: what it is to be.
        lab: the plan that it is part of.
        folder: what it keeps over a reboot, its home.
        router: what it is plugged into.
        held: its namespaces, then those of its home router; none while it is off.
        changed: called when it was switched on or off.

    Attributes:
        execute: what starts the commands of `launch`, `run` and `start`.
    """

    def __init__(
        self,
        plan: HostPlan,
        lab: Plan,
        folder: Path,
        router: RouterClient,
        held: Sequence[Namespaces] = (),
        changed: Callable[[], None] = lambda: None,
    ) -> None:
        self.plan = plan
        self.folder = folder
        self.held = tuple(held)
        self._lab = lab
        self._router = router
        self._changed = changed
        self._engine = Engine(folder / "engine") if plan.engine else None
        self.execute: Launch = execute
        self._started: list[Process] = []
        self._holders: list[subprocess.Popen[bytes]] = []
        self._logs = 0

    def __repr__(self) -> str:
        return f"<Host {self.name} {self.address} {'on' if self.is_on else 'off'}>"

    @property
    def name(self) -> str:
        """Its name in the plan, which is also its hostname."""
        return self.plan.name

    @property
    def address(self) -> str:
        """The address under which others see it; its home router's if it is behind NAT."""
        return self.plan.address

    @property
    def ip(self) -> str:
        """The address of its own interface."""
        return self.plan.address if self.plan.nat is Nat.NONE else wiring.home_address()

    @property
    def is_on(self) -> bool:
        """Whether it runs."""
        return bool(self.held) and self.held[0].holder.alive

    @property
    def environment(self) -> dict[str, str]:
        """What its commands see: state, settings and engine of this host's own."""
        kept = {k: v for k, v in os.environ.items() if not k.startswith(_HIDDEN)}
        own = {
            "PATH": f"{COMMANDS}:{kept.get('PATH', os.defpath)}",
            "MYXO_STATE_DIR": str(self.folder / "state"),
            "MYXO_CONFIG_DIR": str(self.folder / "config"),
        }
        return kept | own | ({"DOCKER_HOST": self._engine.url} if self._engine else {})

    def popen(
        self,
        command: Sequence[str],
        *,
        environment: Mapping[str, str] | None = None,
        stdin: int | IO[Any] | None = subprocess.DEVNULL,
        stdout: int | IO[Any] | None = None,
        stderr: int | IO[Any] | None = None,
    ) -> "subprocess.Popen[bytes]":
        """Start a command; it is a child of this process and ends with the host.

        Args:
            command: program and arguments.
            environment: on top of the host's own.
            stdin: as for subprocess.Popen, like the following; nothing unless given.
            stdout: where it prints to.
            stderr: where it says what is wrong.

        Raises:
            LabFailed: the host is off.
            OSError: there is no such command.
        """
        process = self._inside().popen(
            command,
            environment=self.environment | dict(environment or {}),
            stdin=stdin,
            stdout=stdout,
            stderr=stderr,
        )
        self._note(process)
        return process

    def launch(
        self,
        command: Sequence[str],
        output: IO[bytes],
        error: IO[bytes] | None = None,
        *,
        environment: Mapping[str, str] | None = None,
    ) -> Process:
        """Start a command that writes to files and reads nothing; it ends with the host.

        Args:
            command: program and arguments.
            output: of its standard output.
            error: of its standard error; if None, that of its output.
            environment: on top of the host's own.

        Raises:
            LabFailed: the host is off.
            OSError: there is no such command.
        """
        seen = self.environment | dict(environment or {})
        process = self.execute(self._inside(), command, seen, output, error or output)
        self._note(process)
        return process

    def inside(self, act: Callable[[], T]) -> T:
        """Return what `act` returns when a thread calls it on this host.

        A socket that is made so is this host's, whoever uses it.

        Raises:
            LabFailed: the host is off.
        """
        return self._inside().inside(act)

    def prefix(self) -> list[str]:
        """Return what to write before a command to have it run here, for execvp(3).

        Raises:
            LabFailed: the host is off.
        """
        return self._inside().prefix()

    def run(
        self,
        command: Sequence[str],
        *,
        check: bool = True,
        timeout_s: float = COMMAND_TIMEOUT_S,
        environment: Mapping[str, str] | None = None,
    ) -> "subprocess.CompletedProcess[str]":
        """Run a command to its end; return its exit code and what it printed.

        Raises:
            CommandFailed: it took longer than `timeout_s`, or its code is not 0 and `check` is set.
        """
        try:
            code, printed, said = run_to_end(
                partial(self.launch, command, environment=environment), timeout_s
            )
        except subprocess.TimeoutExpired:
            raise CommandFailed(self._said(command, f"has no end in {timeout_s:g} s")) from None
        if check and code:
            raise CommandFailed(self._said(command, f"ended with {code}:\n{printed}{said}"))
        return subprocess.CompletedProcess(command, code, printed, said)

    def start(
        self,
        command: Sequence[str],
        *,
        timeout_s: float = READY_TIMEOUT_S,
        environment: Mapping[str, str] | None = None,
    ) -> Daemon:
        """Start a daemon and return when it has said READY=1, as sd_notify(3) has it.

        Raises:
            CommandFailed: it ended before, or said nothing for `timeout_s`; with its output.
        """
        self._logs += 1
        log = self.folder / f"{self._logs}-{Path(command[0]).name}.log"
        with listening(self.folder / f"{self._logs}.ready") as ready, log.open("wb") as output:
            seen = dict(environment or {}) | ready.environment
            process = self.launch(command, output, environment=seen)
            if ready.wait(process, timeout_s):
                return Daemon(process, log)
        process.kill()
        raise CommandFailed(self._said(command, f"did not get ready:\n{log.read_text()}"))

    def power_on(self) -> None:
        """Start the host: namespaces, interface, and its engine if it has one.

        Raises:
            LabFailed: it cannot be started.
        """
        if self.is_on:
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        lifelines: list[int] = []
        tun = -1
        try:
            inside, lifeline = self._hold(self.name)
            lifelines.append(lifeline)
            if self.plan.nat is Nat.NONE:
                self.held = (inside,)
                tun = wiring.wire_host(inside, self.plan, self._lab.prefix, self._lab.mtu)
            else:
                home, lifeline = self._hold(f"{self.name}-home")
                lifelines.append(lifeline)
                self.held = (inside, home)
                tun = wiring.wire_home(inside, home, self.plan, self._lab.prefix, self._lab.mtu)
            wiring.name_hosts(inside, self._lab, self.folder)
            self._router.ask("plug", tun, *lifelines, name=self.name, addresses=[self.address])
        finally:
            for fd in (*lifelines, tun):
                if fd >= 0:
                    os.close(fd)
        self._changed()
        if self._engine:
            self._started.append(self._engine.start(self.held[0], self.environment))

    def power_off(self) -> None:
        """Pull the plug: no process says goodbye, no packet leaves; what it keeps is its folder.

        Raises:
            LabFailed: its processes do not end.
        """
        self._router.ask("unplug", name=self.name)
        self.end()
        self._changed()

    def end(self) -> None:
        """End what runs, also where the router is gone.

        Raises:
            LabFailed: its processes do not end.
        """
        for namespaces in self.held:
            namespaces.end(self._started, killed=self._thaw)
        for process in (*self._started, *self._holders):
            process.wait()
        self.held = ()
        self._started.clear()
        self._holders.clear()
        if self._engine:
            self._engine.forget()

    def _thaw(self) -> None:
        if self._engine:
            self._engine.thaw()

    def reboot(self, *, away_s: float = 0.0) -> None:
        """Pull the plug and put it back after `away_s` seconds; its home router's, too, if any."""
        self.power_off()
        time.sleep(away_s)
        self.power_on()

    def _note(self, process: Process) -> None:
        self._started = [p for p in self._started if p.poll() is None] + [process]

    def _inside(self) -> Namespaces:
        if not self.is_on:
            raise LabFailed(f"{self.name} is off; `power_on` or `reboot` starts it")
        return self.held[0]

    def _hold(self, name: str) -> tuple[Namespaces, int]:
        held, lifeline, holder = hold(name)
        self._holders.append(holder)
        return held, lifeline

    def _said(self, command: Sequence[str], what: str) -> str:
        return f"{' '.join(command)} on {self.name} {what}"
