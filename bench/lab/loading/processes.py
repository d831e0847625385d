"""A load in several processes: starts them, has them begin together, and adds up what they did."""

import math
import os
import secrets
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import IO, Any

import trio

from bench.lab.errors import LoadFailed
from bench.lab.loading.csv_sink import open_csv
from bench.lab.loading.custom import find_client
from bench.lab.loading.lines import Lines, line
from bench.lab.loading.plan import Plan
from bench.lab.loading.tally import Tally
from bench.lab.loading.target import target_of
from bench.lab.loading.worker import Job

READY_TIMEOUT_S = 60.0
"""For a process to start; several on a busy machine take seconds."""

HEAD_START_S = 0.05
"""From the order to begin to the beginning, so that no process is late."""

LAST_WORDS = 2000
"""Bytes of what a process wrote before it failed that are shown."""

SoFar = Callable[[Mapping[str, int]], None]
"""Is told what was done so far, some times a second: asked, sent, failed, unsent."""


@dataclass(frozen=True, slots=True)
class Options:
    """How a load is run, whatever it is.

    Attributes:
        processes: that share it, one core each.
        proxy: at which services are asked.
        traces: the file that they go to.
        connections: that are open at once, in all.
        timeout_s: for an answer.
        verify: whether certificates must be good.
    """

    processes: int = 1
    proxy: str | None = None
    traces: Path | None = None
    connections: int = 1000
    timeout_s: float = 60.0
    verify: bool = True


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a load was.

    Attributes:
        tally: what became of its requests.
        length_s: from its beginning to when the last request was over.
        lost_traces: that the file did not take in time.
        cpu_s: processor time of each of its processes.
    """

    tally: Tally
    length_s: float
    lost_traces: int
    cpu_s: Sequence[float]

    @property
    def busy(self) -> float:
        """Return how much of the time the busiest process had a processor, 0 to 1."""
        return max(self.cpu_s) / self.length_s


async def run_load(plan: Plan, options: Options, so_far: SoFar = lambda _: None) -> Outcome:
    """Run a load and return what became of it; SIGINT and SIGTERM end it early.

    Raises:
        LoadFailed: a process could not do its part; the message says why.
        BadInput: there is no such load, or traces cannot be written.
    """
    _check(plan, options)
    if options.traces is not None:
        with open_csv(options.traces):
            pass  # made anew once, so that all processes may append
    async with AsyncExitStack() as stack:
        parts = [await stack.enter_async_context(_part(job)) for job in _jobs(plan, options)]
        for part in parts:
            await part.ready()
        began = time.monotonic() + HEAD_START_S
        tallies = await _all(parts, began, so_far)
        length_s = time.monotonic() - began
    lost_traces = sum(part.lost_traces for part in parts)
    return Outcome(_sum(tallies), length_s, lost_traces, [part.cpu_s for part in parts])


def _check(plan: Plan, options: Options) -> None:
    """Find out here what every process would find out, but for a custom client's code."""
    target = target_of(plan.target, options.proxy)
    if plan.at_once is None:
        plan.times(Random(0))  # noqa: S311  (nothing of it is used)
    if plan.client is None:
        plan.messages(target, explained=False)
    else:
        find_client(plan.client)


async def _all(parts: Sequence["_Part"], began: float, so_far: SoFar) -> list[Tally]:
    """Return what each part did; they are told to end when this process is.

    Raises:
        LoadFailed: one of them failed; the others are given up.
    """
    tallies: list[Tally] = []
    failures: list[LoadFailed] = []

    def told() -> None:
        so_far(sum((part.so_far for part in parts), Counter[str]()))

    async def finish(part: _Part) -> None:
        try:
            tallies.append(await part.tally(began, told))
        except LoadFailed as exc:
            failures.append(exc)
            nursery.cancel_scope.cancel()

    with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
        async with trio.open_nursery() as watching:
            watching.start_soon(_end_early, signals, parts)
            async with trio.open_nursery() as nursery:
                for part in parts:
                    nursery.start_soon(finish, part)
            watching.cancel_scope.cancel()
    if failures:
        raise failures[0]
    return tallies


async def _end_early(signals: AsyncIterator[int], parts: Sequence["_Part"]) -> None:
    async for _ in signals:
        for part in parts:
            await part.end()


def _jobs(plan: Plan, options: Options) -> Iterator[Job]:
    count = min(options.processes, plan.at_once or options.processes)
    host = socket.gethostname()
    seed = secrets.randbits(32) if plan.seed is None else plan.seed
    for number in range(count):
        yield Job(
            plan=plan,
            number=number,
            of=count,
            seed=seed,
            client_id=f"{host}:{plan.target}:{number}",
            host=host,
            proxy=options.proxy,
            traces=options.traces,
            connections=math.ceil(options.connections / count),
            timeout_s=options.timeout_s,
            verify=options.verify,
        )


@asynccontextmanager
async def _part(job: Job) -> AsyncIterator["_Part"]:
    """Start a process for the length of a block."""
    with tempfile.TemporaryFile() as errors:
        process = await trio.lowlevel.open_process(
            [sys.executable, "-P", "-m", "bench.lab.loading.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            start_new_session=True,  # so that Ctrl-C reaches it through this process alone
        )
        try:
            yield _Part(process, job, errors)
        finally:
            process.kill()
            with trio.CancelScope(shield=True):
                await process.wait()
                for stream in (process.stdin, process.stdout):
                    if stream is not None:
                        await stream.aclose()


class _Part:
    """One process of a load.

    Attributes:
        so_far: what it did by what it told last.
        lost_traces, cpu_s: what it told in the end.
    """

    def __init__(self, process: trio.Process, job: Job, errors: IO[bytes]) -> None:
        self._process, self._job, self._errors = process, job, errors
        assert process.stdout is not None  # noqa: S101  (for the type checker: it is a pipe)
        self._lines = Lines(process.stdout)
        self.so_far: Counter[str] = Counter()
        self.lost_traces, self.cpu_s = 0, 0.0

    async def ready(self) -> None:
        """Give it its job and return when it could begin.

        Raises:
            LoadFailed: it cannot do it.
        """
        try:
            with trio.fail_after(READY_TIMEOUT_S):
                await self._say(self._job.model_dump(mode="json"))
                await self._hear()
        except trio.TooSlowError:
            raise LoadFailed(f"a process did not start in {READY_TIMEOUT_S:g} s") from None

    async def tally(self, began: float, told: Callable[[], None]) -> Tally:
        """Have it begin at a moment and return what became of its requests.

        Raises:
            LoadFailed: it failed.
        """
        await self._say({"begin": began})
        while True:
            said = await self._hear()
            if "tally" in said:
                self.lost_traces, self.cpu_s = said["lost_traces"], said["cpu_s"]
                return Tally.of_json(said["tally"])
            self.so_far = Counter(said["so_far"])
            told()

    async def end(self) -> None:
        """Tell it to end early: its standard input ends."""
        if self._process.stdin is not None:
            await self._process.stdin.aclose()

    async def _say(self, what: dict[str, Any]) -> None:
        with suppress(trio.BrokenResourceError):  # what it says last tells why it is gone
            if self._process.stdin is not None:
                await self._process.stdin.send_all(line(what))

    async def _hear(self) -> dict[str, Any]:
        said = await self._lines.next()
        if said is None:
            raise LoadFailed(f"a process of the load ended: {self._last_words()}")
        if "error" in said:
            raise LoadFailed(said["error"])
        return said

    def _last_words(self) -> str:
        self._errors.seek(0, os.SEEK_END)
        self._errors.seek(max(self._errors.tell() - LAST_WORDS, 0))
        return self._errors.read().decode(errors="replace").strip() or "it said nothing"


def _sum(tallies: Sequence[Tally]) -> Tally:
    whole = Tally()
    for tally in tallies:
        whole.merge(tally)
    return whole
