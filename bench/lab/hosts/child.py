"""A client's process, as the load host that started it has it.

A client runs what its user wrote, which may hang, leak or end its process: so each has a process of
its own, and the two talk in lines over a socket. Whatever happens there, here it is a client that
ended, and why.
"""

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from itertools import count
from typing import Any

import structlog
import trio
from pydantic import ValidationError

from bench.lab.errors import LoadFailed
from bench.lab.hosts.assignments import Assignment
from bench.lab.hosts.messages import Answered, ClientRow
from bench.lab.request_trace import RequestTrace
from overlay.cli import SUPERVISED
from overlay.control import ControlConnection
from overlay.errors import MyxoError, PeerUnreachable

START_TIMEOUT_S = 30.0
"""To import Python's libraries and the user's client on a busy machine."""

CLOSE_TIMEOUT_S = 70.0
"""For what is under way when a client is closed; it gives up a request after 60 s."""

LAST_WORDS = 2000
"""Bytes of what a client's process printed that are told when it ends badly."""

FLUSH_TIMEOUT_S = 5.0
"""A client that does not hand its traces out in this time is at something of its user's."""

_EXIT_S = 2.0

_DAEMONS_OWN = (SUPERVISED, "NOTIFY_SOCKET", "MYXO_PSK", "P2P_PSK")
"""Variables that a client does not inherit."""

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Job:
    """What a client's process is told at first.

    Attributes:
        client: its id.
        proxy: where services are asked; None for this machine's.
        app: the folder of a custom client; None sends what `parameters` say.
        traced: whether traces of its requests are wanted.
        once: whether it is to send one request, tell what was answered, and end.
    """

    client: str
    host: str
    service: str
    proxy: str | None
    app: str | None
    parameters: Mapping[str, Any]
    exp_id: str
    seed: int | None
    arrival: str
    traced: bool
    once: bool = False


class Child:
    """One client's process.

    Args:
        job: what it is to do.
        take: is given traces of its requests.

    Attributes:
        row: how it is, as it said last.
        answered: what it was answered, where it sent just one request.
        broken: why it ended although it was not to; empty if it did not.
    """

    def __init__(self, job: Job, take: Callable[[Sequence[RequestTrace]], None]) -> None:
        self.job = job
        self.row = ClientRow(client=job.client, service=job.service, exp_id=job.exp_id)
        self.answered: Answered | None = None
        self.broken = ""
        self.ended = trio.Event()
        self._take = take
        self._assignments: dict[int, Assignment] = {}
        self._flushes: dict[int, trio.Event] = {}
        self._numbers = count()
        self._closing = job.once
        self._words = bytearray()
        self._connection: ControlConnection

    @property
    def number(self) -> int:
        """Return what its id ends with."""
        return int(self.job.client.rpartition(":")[2])

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Run the process to its end; started once it would send requests.

        Raises:
            LoadFailed: it does not come so far.
        """
        process = await self._start()
        ready = False
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._overhear, process)
                with trio.move_on_after(START_TIMEOUT_S) as patience:
                    await self._say(asdict(self.job))
                    ready = await self._hear_one()
                if patience.cancelled_caught:
                    self.broken = f"it was not ready within {START_TIMEOUT_S:g} s"
                if ready:
                    task_status.started()
                    while await self._hear_one():
                        pass
                with trio.move_on_after(_EXIT_S):
                    await process.wait()
                _kill(process)
                await process.wait()
                nursery.cancel_scope.cancel()
        finally:
            _kill(process)
            with trio.CancelScope(shield=True):
                await process.wait()
                await self._connection.aclose()
            self._note_end(process.returncode)
        if not ready:
            raise LoadFailed(f"{self.job.client} did not start: {self.broken}")

    async def set_rate(self, rate: float, phase: float) -> None:
        """Have it send `rate` requests a second, the first after `phase` of a gap between two."""
        self.row = self.row.model_copy(update={"rps": rate})
        await self._say({"do": "rate", "rate": rate, "phase": phase})

    async def send(self, number: int, assignment: Assignment) -> None:
        """Have it do its part of an assignment."""
        self._assignments[number] = assignment
        await self._say(
            {
                "do": "send",
                "task": number,
                "count": assignment.count,
                "inter_arrival": assignment.inter_arrival,
            }
        )

    async def flush(self) -> None:
        """Return once the traces of its requests that have ended are here, or it hangs."""
        number = next(self._numbers)
        flushed = self._flushes[number] = trio.Event()
        await self._say({"do": "flush", "number": number})
        with trio.move_on_after(FLUSH_TIMEOUT_S):
            await flushed.wait()
        self._flushes.pop(number, None)

    async def close(self) -> None:
        """End it after what it has under way."""
        self._closing = True
        await self._say({"do": "close"})
        with trio.move_on_after(CLOSE_TIMEOUT_S):
            await self.ended.wait()
            return
        log.warning("client.killed", client=self.job.client, after_s=CLOSE_TIMEOUT_S)
        await self._connection.aclose()
        await self.ended.wait()

    async def _start(self) -> trio.Process:
        ours, theirs = socket.socketpair()
        with theirs:
            ours.setblocking(False)
            stream = trio.SocketStream(trio.socket.from_stdlib_socket(ours))
            self._connection = ControlConnection(stream)
            module = "bench.lab.hosts.client_process"
            try:
                return await trio.lowlevel.open_process(
                    [sys.executable, "-P", "-m", module, str(theirs.fileno())],
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.STDOUT,
                    pass_fds=[theirs.fileno()],
                    start_new_session=True,  # what it starts itself is ended with it
                    env={k: v for k, v in os.environ.items() if k not in _DAEMONS_OWN},
                )
            except OSError as exc:
                await self._connection.aclose()
                raise LoadFailed(f"{self.job.client} cannot be started: {exc.strerror}") from exc

    async def _say(self, line: Mapping[str, Any]) -> None:
        try:
            await self._connection.send(line)
        except PeerUnreachable:
            await self._connection.aclose()  # who listens to it finds out, and says so

    async def _hear_one(self) -> bool:
        """Take in what it says next; False once it says nothing more."""
        try:
            line = await self._connection.receive()
            if line is None:
                return False
            self._take_in(json.loads(line))
        except (MyxoError, ValueError, KeyError, TypeError, trio.ClosedResourceError) as exc:
            self.broken = self.broken or f"what it says is not understood ({exc})"
            return False
        return not self.broken

    def _take_in(self, said: Mapping[str, Any]) -> None:
        """Take in one line.

        Raises:
            ValueError, KeyError, TypeError: it is none of a client's.
        """
        match said["said"]:
            case "ready":
                pass
            case "broken":
                self.broken = str(said["why"])[:LAST_WORDS]
            case "status":
                counts = {name: int(said[name]) for name in ("sent", "failed", "queue")}
                self.row = self.row.model_copy(update=counts)
            case "traces":
                self._take([RequestTrace(*one) for one in said["traces"]])
            case "flushed":
                self._flushes[said["number"]].set()
            case "ended":
                assignment = self._assignments.pop(said["task"])
                assignment.leave(self.job.client, str(said["trouble"])[:LAST_WORDS])
            case "answered":
                try:
                    self.answered = Answered.model_validate(said["answer"])
                except ValidationError as exc:
                    raise ValueError(str(exc)) from exc

    def _note_end(self, code: int | None) -> None:
        if not self._closing and not self.broken:
            words = self._words.decode(errors="replace").strip()
            self.broken = f"its process ended with {code}" + (f": {words}" if words else "")
        for assignment in self._assignments.values():
            assignment.leave(self.job.client, self.broken or "it was closed")
        for flushed in self._flushes.values():
            flushed.set()
        self.ended.set()

    async def _overhear(self, process: trio.Process) -> None:
        """Keep the last of what the process prints."""
        if process.stdout is None:
            return
        async with process.stdout as output:
            async for data in output:
                self._words += data
                del self._words[:-LAST_WORDS]


def _kill(process: trio.Process) -> None:
    if process.returncode is None:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
